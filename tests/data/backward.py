"""Writes backward.safetensors: gradients of LayerNorm and RMSNorm by PyTorch's autograd in float64.

    pip install torch==2.15.0 safetensors numpy
    python tests/data/backward.py

x, dy and gamma are float32 numbers, so that plans of f32 are given exactly what PyTorch was given.
"""

import pathlib

import safetensors
import safetensors.torch
import torch

# Rows, columns, offset of x, its standard deviation, eps.
SHAPES = [
    (1, 1, 0.0, 1.0, 1e-5),
    (2, 3, 0.0, 1.0, 1e-5),
    (5, 16, 1.0, 2.0, 1e-12),
    (3, 65, 1e2, 1.0, 1e-5),
    (2, 100, 1e4, 1.0, 1e-6),
    (2, 64, 1e6, 1.0, 1e-5),
    (35, 7, -3.0, 0.1, 1e-3),
    (1, 193, 0.0, 1e-3, 1e-5),
    (1, 1030, 5.0, 1.0, 1e-5),
]


def numbers(generator, *shape):
    return torch.randn(*shape, generator=generator, dtype=torch.float64).float()


def gradients(normalize, x, gamma, beta, dy):
    wanted = [leaf.double().requires_grad_() for leaf in (x, gamma, beta)]
    y = normalize(*wanted)
    return torch.autograd.grad(y, wanted, dy.double(), allow_unused=True)


def main():
    generator = torch.Generator().manual_seed(4)
    tensors = {}
    for number, (rows, cols, offset, deviation, eps) in enumerate(SHAPES):
        x = (offset + deviation * numbers(generator, rows, cols).double()).float()
        dy, gamma = numbers(generator, rows, cols), numbers(generator, cols)

        def layer_norm(x, gamma, beta):
            return torch.nn.functional.layer_norm(x, (cols,), gamma, beta, eps)

        def rms_norm(x, gamma, beta):
            return torch.nn.functional.rms_norm(x, (cols,), gamma, eps)

        case = {"x": x, "dy": dy, "gamma": gamma, "eps": torch.tensor([eps], dtype=torch.float64)}
        for name, normalize in ("layer_norm", layer_norm), ("rms_norm", rms_norm):
            of = gradients(normalize, x, gamma, torch.zeros(cols), dy)
            case |= {f"{name}.{of_what}": g for of_what, g in zip(("dx", "dgamma", "dbeta"), of) if g is not None}
        tensors |= {f"{number}.{name}": tensor.contiguous() for name, tensor in case.items()}
    # One entry: several are written in any order.
    metadata = {"versions": f"torch {torch.__version__}, safetensors {safetensors.__version__}"}
    path = pathlib.Path(__file__).with_suffix(".safetensors")
    safetensors.torch.save_file(tensors, path, metadata)
    print(path, path.stat().st_size, "bytes", metadata)


main()
