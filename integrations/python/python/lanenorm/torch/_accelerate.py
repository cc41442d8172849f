"""Replaces the norms of models."""

from __future__ import annotations

import copy
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lanenorm.torch._functions import ROUNDINGS
from lanenorm.torch._modules import LayerNorm, RMSNorm, is_differentiated, parameters_of, takes
from lanenorm.torch._operators import LayerNormFunction, RMSNormFunction, ops

# What classes call the number that is added to the variance.
_EPS = ("eps", "variance_epsilon", "epsilon", "norm_eps", "layer_norm_eps")


class Formula(NamedTuple):
    """What a norm computes."""

    centered: bool
    offset: float
    rounding: int
    eps: str
    """The attribute that holds it."""

    def __str__(self) -> str:
        rounding = next(name for name, number in ROUNDINGS.items() if number == self.rounding)
        offset = ", 1 + weight" if self.offset else ""
        return f"{'layer' if self.centered else 'RMS'} normalization{offset}, rounding {rounding!r}"

    def of(self, input: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
        """The normalization of the last axis."""
        offset, rounding = self.offset, self.rounding
        if is_differentiated(input, weight, bias):
            if self.centered:
                return LayerNormFunction.apply(input, weight, bias, eps, 1, offset, rounding)[0]
            return RMSNormFunction.apply(input, weight, eps, 1, offset, rounding)[0]
        if self.centered:
            return ops.layer_norm_general(input, weight, bias, eps, 1, offset, rounding)
        if offset or rounding:
            return ops.rms_norm_general(input, weight, eps, 1, offset, rounding)
        return ops.rms_norm(input, weight, eps)


class _Replaced:
    """What the classes of replaced modules have in common. `original` is the class before."""

    original: type[nn.Module]

    def __reduce_ex__(self, protocol: Any) -> Any:
        # Classes that are made while a program runs have no name by which they could be found.
        return _rebuilt, (self.original, getattr(type(self), "formula", None)), self.__dict__


class _Standard(_Replaced, LayerNorm):
    original = nn.LayerNorm


class _StandardRMS(_Replaced, RMSNorm):
    original = nn.RMSNorm


_STANDARD: dict[type[nn.Module], type[nn.Module]] = {nn.LayerNorm: _Standard, nn.RMSNorm: _StandardRMS}
_made: dict[tuple[type[nn.Module], Formula], type[nn.Module]] = {}


def _class_for(original: type[nn.Module], formula: Formula | None) -> type[nn.Module]:
    """The class that takes the place of another."""
    if formula is None:
        return _STANDARD[original]
    if (original, formula) not in _made:

        def forward(self: nn.Module, *arguments: Any, **named: Any) -> Any:
            # The formula has been seen with rows alone, for one type, and for CPUs.
            if len(arguments) == 1 and not named and isinstance(arguments[0], Tensor) and takes(arguments[0]):
                (input,) = arguments
                weight, bias = parameters_of(self)
                if all(v is None or v.dtype == input.dtype for v in (weight, bias)):
                    return formula.of(input, weight, bias, getattr(self, formula.eps))
            return original.forward(self, *arguments, **named)

        members = {"forward": forward, "original": original, "formula": formula, "__doc__": str(formula)}
        _made[original, formula] = type(original.__name__, (_Replaced, original), members)
    return _made[original, formula]


def _rebuilt(original: type[nn.Module], formula: Formula | None) -> nn.Module:
    """A replaced module without its state."""
    cls = _class_for(original, formula)
    return cls.__new__(cls)


def _rows(cols: int, dtype: torch.dtype) -> list[Tensor]:
    """Rows that tell formulas apart: with a mean, so small that eps counts, and in tensors of several axes."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(64, cols, generator=generator, dtype=torch.float64) + 0.5
    scale = torch.tensor([1.0, 1e-2, 1e-3, 30.0], dtype=torch.float64).repeat(16).unsqueeze(1)
    others = [(2, cols, cols), (2, 3, cols), (2, 3, 5, cols)]
    if cols > 512:
        others = others[1:]
    return [(rows * scale).to(dtype), *(torch.randn(shape, generator=generator).to(dtype) for shape in others)]


def _agrees(got: Tensor, expected: Tensor) -> bool:
    """Whether two results are the same, but for sums that are taken in another order."""
    if got.dtype != expected.dtype or got.shape != expected.shape:
        return False
    if got.dtype == torch.float32:
        return torch.allclose(got, expected, rtol=2e-5, atol=2e-6)
    near = torch.allclose(got.float(), expected.float(), rtol=2**-7, atol=1e-6)
    return near and (got != expected).sum().item() <= 2 + 2e-3 * got.numel()


def _formula_of(module: nn.Module) -> Formula | str:
    """What a module computes, found by running copies of it; or why that is not known."""
    parameters, buffers = dict(module.named_parameters()), dict(module.named_buffers())
    if set(parameters) - {"weight", "bias"} or buffers or list(module.children()):
        return "it has other parameters than weight and bias"
    weight = parameters.get("weight")
    if weight is None:
        return "it has no weight, which would tell its columns"
    if weight.dim() != 1 or any(v.shape != weight.shape for v in parameters.values()):
        return "its weight is no vector"
    eps = next((name for name in _EPS if isinstance(getattr(module, name, None), (int, float))), None)
    if eps is None:
        return f"it has no attribute for eps ({', '.join(_EPS)})"
    formulas = [Formula(centered, offset, 0, eps) for centered in (False, True) for offset in (0.0, 1.0)]
    for dtype in (torch.float32, torch.bfloat16):
        for training in (False, True):
            seen = _results(module, dtype, training=training)
            if isinstance(seen, str):
                return seen
            twin, results = seen
            weight, bias = parameters_of(twin)
            for input, expected in results:
                formulas = [f for f in formulas if _agrees(f.of(input, weight, bias, getattr(twin, eps)), expected)]
        if dtype == torch.float32:
            formulas = [f._replace(rounding=rounding) for f in formulas for rounding in ROUNDINGS.values()]
    return formulas[0] if formulas else "it computes something else than any formula of lanenorm"


def _results(module: nn.Module, dtype: torch.dtype, *, training: bool) -> tuple[nn.Module, Any] | str:
    """A copy of the module with random parameters, and pairs of rows and what it makes of them."""
    try:
        twin = copy.deepcopy(module).to("cpu", dtype).train(training).requires_grad_(False)
        twin._forward_hooks.clear()
        twin._forward_pre_hooks.clear()
        generator = torch.Generator().manual_seed(1)
        for parameter in twin.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
        results = [(input, twin(input)) for input in _rows(len(twin.weight), dtype)]
    except Exception as error:  # whatever a class of others raises
        return f"a call with rows alone fails: {type(error).__name__}: {error}".splitlines()[0]
    if not all(isinstance(result, Tensor) for _, result in results):
        return "it returns something else than a tensor"
    return twin, results


@dataclass
class Report:
    """What `accelerate` has done."""

    replaced: dict[str, str] = field(default_factory=dict)
    """What each module that was replaced computes, by its name."""
    kept: dict[str, str] = field(default_factory=dict)
    """Why other norms have stayed, by their names."""

    def __str__(self) -> str:
        lines = []
        for title, modules in (("replaced", self.replaced), ("kept", self.kept)):
            for what, count in Counter(modules.values()).items():
                example = next(name for name, other in modules.items() if other == what)
                and_more = f" and {count - 1} more" if count > 1 else ""
                lines.append(f"{title} {example or 'the model'}{and_more}: {what}")
        return "\n".join(lines) or "there are no norms"


def _looks_like_a_norm(module: nn.Module) -> bool:
    return "norm" in type(module).__name__.lower() and not list(module.children())


def accelerate(model: nn.Module, *, verbose: bool = True) -> Report:
    """Replaces the norms of a model by those of lanenorm, in place, and prints what it has replaced.

    `torch.nn.LayerNorm` and `torch.nn.RMSNorm` are replaced as they are. Other classes whose names contain "norm" are
    run with random rows and parameters, in float32 and in bfloat16. They are replaced if the results are those of a
    formula that lanenorm has: layer or RMS normalization of the last axis, with weight or 1 + weight, with one of the
    roundings of docs/numerics.md. Those that are not stay, and are reported. What a class does to extreme rows alone
    (clamping, say) is not seen.

    Modules stay the same objects with the same parameters, hooks and state; their classes change. On other devices than
    CPUs, and for calls with other arguments than one tensor, a replaced module calls its old class; where the types of
    an input and of the parameters differ, one of those other classes and of `torch.nn.RMSNorm` does too.

    Returns a `Report`. `restore` undoes it. `torch.save` of a whole model needs lanenorm when it is loaded: restore it
    first, or save its state.
    """
    report = Report()
    for name, module in model.named_modules():
        cls = type(module)
        if isinstance(module, _Replaced):
            continue
        if cls in _STANDARD:
            module.__class__ = _STANDARD[cls]
            report.replaced[name] = f"torch.nn.{cls.__name__}"
        elif _looks_like_a_norm(module) and not cls.__module__.startswith("lanenorm."):
            formula = _formula_of(module)
            if isinstance(formula, str):
                report.kept[name] = f"{cls.__name__}: {formula}"
            else:
                module.__class__ = _class_for(cls, formula)
                report.replaced[name] = f"{cls.__name__}: {formula}"
    if verbose:
        print(report)
    return report


def restore(model: nn.Module) -> int:
    """Gives all modules that `accelerate` has replaced their old classes back. Returns their number."""
    replaced = [module for module in model.modules() if isinstance(module, _Replaced)]
    for module in replaced:
        module.__class__ = module.original
    return len(replaced)
