"""The operators, functions and modules for PyTorch, and `accelerate`."""

import copy
import io
import pickle
import warnings
from concurrent.futures import ThreadPoolExecutor

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402
from torch.utils import checkpoint  # noqa: E402

import lanenorm  # noqa: E402
import lanenorm.torch as lt  # noqa: E402

ops = torch.ops.lanenorm
DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
BOUNDS = {torch.float32: 4e-6, torch.float64: 1e-13, torch.float16: 4e-3, torch.bfloat16: 3e-2}


def made(*shape, dtype=torch.float32, seed=0, grad=False):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_(grad)


def close(got, expected):
    assert got.shape == expected.shape
    bound = BOUNDS[got.dtype]
    return torch.allclose(got.double(), expected.double(), rtol=bound, atol=bound)


def same(a, b):
    return a.dtype == b.dtype and a.shape == b.shape and torch.equal(a, b)


def rms(x, weight, eps=1e-6):
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps) * weight


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(8, 768), (2, 3, 5, 33), (7,), (300, 1000), (0, 4), (4, 1)])
def test_forward(shape, dtype):
    x, weight, bias = (
        made(*shape, dtype=dtype),
        made(shape[-1], dtype=dtype, seed=1),
        made(shape[-1], dtype=dtype, seed=2),
    )
    wide = [v.double() for v in (x, weight, bias)]
    y = ops.layer_norm(x, weight, bias)
    assert y.dtype == dtype and close(y, F.layer_norm(wide[0], shape[-1:], *wide[1:]))
    assert close(ops.layer_norm(x), F.layer_norm(wide[0], shape[-1:]))
    assert close(ops.rms_norm(x, weight), rms(*wide[:2]))
    if dtype != torch.bfloat16:
        numpy = lanenorm.layer_norm(x.numpy(), weight.numpy(), bias.numpy())
        assert same(y, torch.from_numpy(numpy))
    y, s = ops.add_layer_norm(x, x.flip(-1), weight, bias)
    assert same(s, x + x.flip(-1)) and same(y, ops.layer_norm(s, weight, bias))
    y, s = ops.add_rms_norm(x, x.flip(-1), weight)
    assert same(s, x + x.flip(-1)) and same(y, ops.rms_norm(s, weight))


def test_several_axes():
    x, weight = made(2, 3, 4, 5), made(4, 5, seed=1)
    assert close(ops.layer_norm_general(x, weight, None, 1e-5, 2), F.layer_norm(x, (4, 5), weight))
    assert close(lt.layer_norm(x, (4, 5), weight), F.layer_norm(x, (4, 5), weight))


@pytest.mark.parametrize("dtype", DTYPES)
def test_layouts(dtype):
    x, weight = made(6, 4, 24, dtype=dtype), made(24, dtype=dtype, seed=1)
    expected = ops.rms_norm(x, weight)
    packed = torch.cat([x, x, x], 1)[:, :4]
    exchanged = x.transpose(0, 1).contiguous().transpose(0, 1)
    columns = x.transpose(1, 2).contiguous().transpose(1, 2)
    for laid in (packed, exchanged, columns, x.repeat_interleave(2, -1)[..., ::2]):
        assert not laid.is_contiguous() and same(ops.rms_norm(laid, weight), expected)
        assert same(ops.add_rms_norm(laid, packed, weight)[0], ops.add_rms_norm(x, x, weight)[0])
    assert same(ops.rms_norm(x[:1].expand(5, 4, 24), weight), expected[:1].expand(5, 4, 24).contiguous())
    assert same(ops.rms_norm(x, weight.repeat_interleave(2)[::2]), expected)


def test_mixed_types():
    for dtype in (torch.float16, torch.bfloat16):
        x, weight = made(8, 96, dtype=dtype), made(96, seed=1)
        y = ops.layer_norm(x, weight)
        assert y.dtype == dtype and close(y, F.layer_norm(x.double(), (96,), weight.double()))
        y, s = ops.add_rms_norm(x, made(8, 96, seed=2), weight)
        assert y.dtype == dtype and s.dtype == torch.float32


def test_an_offset_costs_nothing():
    x = (made(64, 768, dtype=torch.float64) + 1e6).float()
    assert (ops.layer_norm(x) - F.layer_norm(x.double(), (768,))).abs().max() < 4e-6


def test_threads_change_no_bits():
    x, weight, before = made(700, 1000), made(1000, seed=1), torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 3, before):
            torch.set_num_threads(threads)
            results.append(ops.layer_norm(x, weight))
    finally:
        torch.set_num_threads(before)
    assert all(same(y, results[0]) for y in results)
    with ThreadPoolExecutor(8) as pool:
        assert all(same(y, results[0]) for y in pool.map(lambda _: ops.layer_norm(x, weight), range(50)))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", ["layer", "rms", "add layer", "add rms"])
def test_gradients(kind, dtype):
    """Those of the operators and of the modules, beside autograd in float64."""
    tensors = {name: made(3, 5, 48, dtype=dtype, seed=i) for i, name in enumerate(("x", "residual", "dy", "ds"))}
    params = {"weight": made(48, dtype=dtype, seed=5), "bias": made(48, dtype=dtype, seed=6)}
    adds, centered = kind.startswith("add"), kind.endswith("layer")
    names = ["x", *(["residual"] if adds else []), "weight", *(["bias"] if centered else [])]

    def leaves(to):
        return [({**tensors, **params}[name]).to(to).requires_grad_() for name in names]

    def expected():
        given = leaves(torch.float64)
        x, *rest = given
        s = x + rest.pop(0) if adds else x
        y = F.layer_norm(s, (48,), *rest) if centered else rms(s, *rest)
        loss = (y * tensors["dy"].double()).sum() + (s * tensors["ds"].double()).sum() * adds
        return torch.autograd.grad(loss, given)

    def got(function):
        given = leaves(dtype)
        result = function(*given)
        y, s = result if adds else (result, None)
        assert y.requires_grad
        loss = (y.double() * tensors["dy"].double()).sum()
        if adds:
            loss = loss + (s.double() * tensors["ds"].double()).sum()
        return torch.autograd.grad(loss, given)

    operator = getattr(ops, kind.replace(" ", "_") + "_norm")
    cls = {"layer": lt.LayerNorm, "rms": lt.RMSNorm, "add layer": lt.AddLayerNorm, "add rms": lt.AddRMSNorm}[kind]
    module = cls(48, eps=1e-5 if centered else 1e-6)

    def by_module(*given):
        inputs, parameters = given[: 1 + adds], given[1 + adds :]
        return torch.func.functional_call(module, dict(zip(("weight", "bias"), parameters, strict=False)), inputs)

    wanted = expected()
    bound = {torch.float32: 2e-5, torch.float64: 1e-11, torch.float16: 2e-2, torch.bfloat16: 0.15}[dtype]
    for function in (operator, by_module):
        for gradient, of in zip(got(function), wanted, strict=True):
            assert gradient.dtype == dtype
            assert torch.allclose(gradient.double(), of, rtol=bound, atol=bound), (gradient.double() - of).abs().max()


def test_gradients_of_what_is_wanted_alone():
    for wanted in (("x",), ("weight",), ("bias",), ("weight", "bias")):
        x, weight, bias = (
            made(6, 48, grad="x" in wanted),
            *(made(48, seed=i, grad=n in wanted) for i, n in ((1, "weight"), (2, "bias"))),
        )
        ops.layer_norm(x, weight, bias).sum().backward()
        assert [v.grad is not None for v in (x, weight, bias)] == [n in wanted for n in ("x", "weight", "bias")]
    x, residual = made(6, 48, grad=True), made(6, 48, seed=1, grad=True)
    y, s = ops.add_rms_norm(x, residual)
    s.sum().backward()
    assert torch.equal(x.grad, torch.ones(6, 48)) and torch.equal(residual.grad, x.grad)
    y, s = ops.add_rms_norm(x, residual)
    y.sum().backward()


def test_mixed_gradients():
    x, residual, weight = (
        made(6, 48, dtype=torch.bfloat16, grad=True),
        made(6, 48, seed=1, grad=True),
        made(48, seed=2, grad=True),
    )
    y, s = ops.add_rms_norm(x, residual, weight)
    (y.float().sum() + s.sum()).backward()
    assert (x.grad.dtype, residual.grad.dtype, weight.grad.dtype) == (torch.bfloat16, torch.float32, torch.float32)
    assert same(x.grad, residual.grad.bfloat16())


def test_gradcheck_and_double_backward():
    x, weight, bias = (
        made(*shape, dtype=torch.float64, seed=i, grad=True) for i, shape in enumerate([(4, 9), (9,), (9,)])
    )
    assert torch.autograd.gradcheck(lambda *v: ops.layer_norm(*v), (x, weight, bias))
    assert torch.autograd.gradcheck(lambda *v: ops.rms_norm(*v), (x, weight))
    residual = made(4, 9, dtype=torch.float64, seed=5, grad=True)
    assert torch.autograd.gradcheck(lambda *v: ops.add_layer_norm(*v), (x, residual, weight, bias))
    assert torch.autograd.gradgradcheck(lambda *v: ops.layer_norm(*v), (x, weight, bias))
    assert torch.autograd.gradgradcheck(lambda *v: ops.rms_norm(*v), (x, weight))
    assert torch.autograd.gradgradcheck(lambda *v: ops.add_layer_norm(*v), (x, residual, weight, bias))
    assert torch.autograd.gradgradcheck(lambda *v: ops.add_rms_norm(*v)[0], (x, residual, weight))
    # A penalty of gradients, whose first gradients are the kernel's elsewhere.
    (dx,) = torch.autograd.grad(ops.layer_norm(x, weight, bias).square().sum(), x, create_graph=True)
    (kernel,) = torch.autograd.grad(ops.layer_norm(x, weight, bias).square().sum(), x)
    assert torch.allclose(dx, kernel) and torch.autograd.grad(dx.square().sum(), weight)[0].any()


def test_opcheck():
    x, weight, bias = made(4, 9, grad=True), made(9, seed=1, grad=True), made(9, seed=2, grad=True)
    plain = x.detach(), weight.detach(), bias.detach()
    for given in ((x, weight, bias), plain, (x, None, None), (plain[0].bfloat16(), plain[1], plain[2])):
        torch.library.opcheck(ops.layer_norm.default, given)
        torch.library.opcheck(ops.rms_norm.default, given[:2])
        torch.library.opcheck(ops.add_layer_norm.default, (given[0], given[0], *given[1:]))
        torch.library.opcheck(ops.add_rms_norm.default, (given[0], given[0], given[1]))


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(32, 32), nn.Linear(32, 32)
        self.norm, self.last = lt.LayerNorm(32), lt.AddRMSNorm(32)

    def forward(self, x):
        y, s = self.last(self.second(self.norm(self.first(x))), x)
        return y * s


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compile(backend):
    torch._dynamo.reset()
    model, x = Block(), made(6, 32)
    compiled = torch.compile(model, fullgraph=True, backend=backend)
    with torch.no_grad():
        assert close(compiled(x), model(x))
    gradients = []
    for run in (model, compiled):
        model.zero_grad()
        run(x).square().sum().backward()
        gradients.append([p.grad.clone() for p in model.parameters()])
    assert all(torch.allclose(a, b, rtol=1e-4, atol=1e-4) for a, b in zip(*gradients, strict=True))


def test_export():
    model, x = Block().eval(), made(6, 32)
    program = torch.export.export(model, (x,), dynamic_shapes=({0: torch.export.Dim("rows", min=2, max=64)},))
    assert close(program.module()(made(9, 32)), model(made(9, 32)))
    assert any("lanenorm" in str(node.target) for node in program.graph.nodes)


def test_transforms():
    x, weight = made(5, 6, 32), made(32, seed=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert close(torch.func.vmap(lambda v: ops.rms_norm(v, weight))(x), ops.rms_norm(x, weight))
        assert close(
            torch.func.vmap(lambda v: ops.rms_norm(v, weight), in_dims=1, out_dims=1)(x), ops.rms_norm(x, weight)
        )
        each = torch.func.vmap(lambda v, w: ops.layer_norm(v, w))(x, made(5, 32, seed=2))
        assert close(each, ops.layer_norm(x) * made(5, 1, 32, seed=2))


def test_autocast():
    model, x = nn.Sequential(nn.Linear(32, 32), lt.LayerNorm(32)), made(6, 32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = model(x)
        y.float().sum().backward()
    assert y.dtype == nn.Sequential(nn.LayerNorm(32))(x.bfloat16()).dtype
    assert model[1].weight.grad.dtype == torch.float32


def test_modes_see_operators():
    from torch.utils._python_dispatch import TorchDispatchMode

    seen = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            seen.append(str(func))
            return func(*args, **(kwargs or {}))

    with Watch():
        ops.layer_norm(made(4, 8))
    assert any("layer_norm" in name for name in seen)
    with torch.device("meta"):
        assert ops.layer_norm(torch.empty(4, 8), torch.empty(8)).shape == (4, 8)


ERRORS = [
    ("weight has shape (5,), expected (8,)", lambda x: ops.layer_norm(x, x[0, :5])),
    ("bias has shape (4,), expected (8,)", lambda x: ops.layer_norm(x, x[0], x[:, 0])),
    ("weight has dtype float64", lambda x: ops.rms_norm(x, x[0].double())),
    ("bias has dtype bfloat16, expected that of weight: float32", lambda x: ops.layer_norm(x, x[0], x[0].bfloat16())),
    ("input is no strided tensor of float32", lambda x: ops.rms_norm(x.long())),
    ("eps is -1", lambda x: ops.layer_norm(x, None, None, -1.0)),
    ("dims is 3", lambda x: ops.layer_norm_general(x, None, None, 1e-5, 3)),
    ("dims is 0", lambda x: ops.layer_norm_general(x, None, None, 1e-5, 0)),
    ("rounding is 9", lambda x: ops.layer_norm_general(x, None, None, 1e-5, 1, 0.0, 9)),
    ("residual has shape (3, 8), expected (4, 8)", lambda x: ops.add_rms_norm(x, x[:3])),
    ("normalized_shape is (7,), but input has shape (4, 8)", lambda x: lt.layer_norm(x, (7,))),
    ("normalized_shape is (4,), but input has shape (4, 8)", lambda x: lt.LayerNorm(4)(x)),
]


@pytest.mark.parametrize("message, call", ERRORS, ids=[message for message, _ in ERRORS])
@pytest.mark.parametrize("grad", [False, True])
def test_errors(message, call, grad):
    with pytest.raises(RuntimeError) as error:
        call(made(4, 8, grad=grad and "strided" not in message))
    assert message in str(error.value)


class LlamaStyle(nn.Module):
    """Rounds the normalized rows, and again the product."""

    def __init__(self, cols, eps=1e-6):
        super().__init__()
        self.weight, self.variance_epsilon = nn.Parameter(torch.ones(cols)), eps

    def forward(self, hidden_states):
        x = hidden_states.to(torch.float32)
        x = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)
        return self.weight * x.to(hidden_states.dtype)


class GemmaRMSNorm(nn.Module):
    """1 + weight, and rounds once."""

    def __init__(self, cols, eps=1e-6):
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.zeros(cols)), eps

    def forward(self, x):
        wide = x.float()
        return (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.eps) * (1 + self.weight.float())).type_as(
            x
        )


class LlamaRMSNorm(LlamaStyle):
    pass


class OddNorm(nn.Module):
    """Subtracts no mean, but divides by the standard deviation."""

    def __init__(self, cols):
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(cols)), 1e-6

    def forward(self, x):
        return x * torch.rsqrt(x.var(-1, keepdim=True) + self.eps) * self.weight


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer, self.rms, self.no_bias = nn.LayerNorm(32), nn.RMSNorm(32, eps=1e-6), nn.LayerNorm(32, bias=False)
        self.llama, self.gemma, self.odd = LlamaRMSNorm(32), GemmaRMSNorm(32), OddNorm(32)
        self.batch = nn.BatchNorm1d(32)
        for parameter in self.parameters():
            nn.init.normal_(parameter)

    def forward(self, x):
        return self.batch(self.odd(self.gemma(self.llama(self.no_bias(self.rms(self.layer(x)))))))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_accelerate(dtype, capsys):
    torch.manual_seed(0)
    model, x = Model().to(dtype).eval(), made(64, 32, dtype=dtype)
    before, state, classes = model(x), copy.deepcopy(model.state_dict()), [type(m) for m in model.modules()]
    parameters = {name: id(p) for name, p in model.named_parameters()}
    report = lt.accelerate(model)
    assert set(report.replaced) == {"layer", "rms", "no_bias", "llama", "gemma"}
    assert set(report.kept) == {"odd", "batch"} and "something else" in report.kept["odd"]
    assert "RMS normalization, 1 + weight, rounding 'once'" in report.replaced["gemma"]
    assert ("rounding 'steps'" in report.replaced["llama"]) and str(report) in capsys.readouterr().out
    assert {name: id(p) for name, p in model.named_parameters()} == parameters
    assert isinstance(model.layer, nn.LayerNorm) and isinstance(model.llama, LlamaRMSNorm)
    assert close(model(x), before)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), state.values(), strict=True))
    # Copies and pickles are accelerated too.
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert same(twin(x), model(x)) and lt.restore(twin) == 5
    assert not lt.accelerate(model, verbose=False).replaced
    accelerated = model(x)
    assert lt.restore(model) == 5 and [type(m) for m in model.modules()] == classes
    assert same(model(x), before)
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    lt.accelerate(model, verbose=False)
    file.seek(0)
    model.load_state_dict(torch.load(file))
    assert same(model(x), accelerated)


def test_accelerated_models_train():
    torch.manual_seed(0)
    model, x = Model().train(), made(64, 32)
    twin = copy.deepcopy(model)
    lt.accelerate(twin, verbose=False)
    for m in (model, twin):
        m(x).square().mean().backward()
    for (name, p), q in zip(model.named_parameters(), twin.parameters(), strict=True):
        assert torch.allclose(p.grad, q.grad, rtol=1e-3, atol=1e-5), name


def test_replaced_modules_leave_other_types_to_their_classes():
    model = nn.Sequential(LlamaRMSNorm(32))
    lt.accelerate(model, verbose=False)
    x = made(4, 32, dtype=torch.bfloat16)
    assert model(x).dtype == torch.float32 and same(model(x), LlamaRMSNorm(32)(x))


@pytest.mark.parametrize("dtype", DTYPES)
def test_modules_drop_in(dtype):
    for ours, theirs in ((lt.LayerNorm, nn.LayerNorm), (lt.RMSNorm, nn.RMSNorm)):
        for options in ({}, {"elementwise_affine": False}, {"eps": 1e-3}):
            a, b = ours((4, 8), dtype=dtype, **options), theirs((4, 8), dtype=dtype, **options)
            for parameter in b.parameters():
                nn.init.normal_(parameter)
            a.load_state_dict(b.state_dict())
            x = made(6, 4, 8, dtype=dtype)
            assert close(a(x), b(x)) and repr(a) == repr(b)


def test_transforms_of_gradients():
    x, weight, bias = made(5, 32), made(32, seed=1), made(32, seed=2)
    pairs = [
        (lambda v: ops.layer_norm(v, weight, bias), lambda v: F.layer_norm(v, (32,), weight, bias)),
        (lambda v: ops.rms_norm(v, weight), lambda v: rms(v, weight)),
        (lambda v: ops.add_rms_norm(v, v, weight)[0], lambda v: rms(v + v, weight)),
        (lt.LayerNorm(32), nn.LayerNorm(32)),
    ]
    for ours, theirs in pairs:
        for transform in (
            torch.func.jacrev,
            torch.func.jacfwd,
            lambda f: torch.func.grad(lambda v: f(v).square().sum()),
        ):
            assert torch.allclose(transform(ours)(x), transform(theirs)(x), rtol=1e-3, atol=1e-4)
        each = [torch.func.vmap(torch.func.grad(lambda v, f=f: f(v).square().sum()))(x) for f in (ours, theirs)]
        assert torch.allclose(*each, rtol=1e-3, atol=1e-4)
        assert close(
            torch.func.jvp(ours, (x,), (bias.expand(5, 32),))[1], torch.func.jvp(theirs, (x,), (bias.expand(5, 32),))[1]
        )


def test_forward_mode():
    wide = [
        made(*shape, dtype=torch.float64, seed=i, grad=True) for i, shape in enumerate([(4, 9), (9,), (9,), (4, 9)])
    ]
    x, weight, bias, residual = wide
    check = torch.autograd.gradcheck
    assert check(lambda *v: ops.layer_norm(*v), (x, weight, bias), check_forward_ad=True)
    assert check(lambda *v: ops.rms_norm(*v), (x, weight), check_forward_ad=True)
    assert check(lambda *v: ops.add_layer_norm(*v), (x, residual, weight, bias), check_forward_ad=True)
    assert check(lambda *v: ops.add_rms_norm(*v), (x, residual, weight), check_forward_ad=True)


def test_tensors_that_are_not_what_their_memory_says():
    x, weight = made(4, 8), made(8, seed=1)
    assert same(ops.layer_norm(torch._neg_view(x), torch._neg_view(weight)), ops.layer_norm(-x, -weight))
    empty = weight.clone()
    empty.untyped_storage().resize_(0)
    for parameter in (empty, torch.ones(8, device="meta")):
        with pytest.raises(RuntimeError, match=r"weight has no memory|weight is on meta, and input on cpu"):
            ops.layer_norm(x, parameter)
    with pytest.raises(RuntimeError, match=r"no strided tensor"):
        ops.layer_norm(x.to_mkldnn())

    seen = []

    class Watched(torch.Tensor):
        @classmethod
        def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
            seen.append(str(func))
            return func(*(x if isinstance(a, Watched) else a for a in args), **(kwargs or {}))

    assert same(ops.layer_norm(torch.Tensor._make_subclass(Watched, x)), ops.layer_norm(x))
    assert any("layer_norm" in name for name in seen)


def test_modules_as_they_are_used():
    # The exception by which checkpoints stop.
    x = made(6, 32, grad=True)
    checkpoint.checkpoint(lt.LayerNorm(32), x, use_reentrant=False).sum().backward()
    # Autocast makes a residual of 16 bits.
    y, s = lt.AddRMSNorm(16)(made(4, 16), made(4, 16).bfloat16())
    assert y.dtype == s.dtype == torch.float32
    norm = lt.LayerNorm(16)
    torch.nn.utils.parametrizations.weight_norm(norm, dim=None)
    assert norm(made(4, 16)).shape == (4, 16)
    nested = torch.nested.nested_tensor([made(3, 16), made(5, 16)], layout=torch.jagged)
    assert lt.LayerNorm(16)(nested).is_nested
    assert same(lt.layer_norm(made(4, 16), 16), ops.layer_norm(made(4, 16)))
    # Without eps, in 16 bits.
    for dtype in DTYPES:
        small = made(20, 64, dtype=dtype) * 1e-3
        assert close(lt.RMSNorm(64, dtype=dtype)(small), nn.RMSNorm(64, dtype=dtype)(small))


class TransposedNorm(nn.Module):
    """Normalizes axis 1 of three: the same as the last one of two."""

    def __init__(self, cols):
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(cols)), 1e-5

    def forward(self, x):
        return F.layer_norm(x.transpose(1, -1), self.weight.shape, self.weight, None, self.eps).transpose(1, -1)


class TrainingNorm(GemmaRMSNorm):
    """Does something else in training."""

    def forward(self, x):
        return super().forward(x) + int(self.training)


class GatedNorm(LlamaStyle):
    """A gate that may be absent."""

    def forward(self, x, gate=None):
        y = super().forward(x)
        return y if gate is None else y * F.silu(gate)


def test_accelerate_keeps_what_only_looks_alike():
    model = nn.ModuleList([nn.GroupNorm(1, 8), TransposedNorm(8), TrainingNorm(8).eval(), nn.BatchNorm1d(8)])
    report = lt.accelerate(model, verbose=False)
    assert not report.replaced and len(report.kept) == 4
    gated, plain = GatedNorm(32), GatedNorm(32)
    lt.accelerate(gated, verbose=False)
    x, gate = made(4, 32), made(4, 32, seed=1)
    assert same(gated(x, gate), plain(x, gate)) and same(gated(x=x), plain(x=x)) and close(gated(x), plain(x))
    # eps is read at each call.
    gated.variance_epsilon = plain.variance_epsilon = 1.0
    assert close(gated(x), plain(x))


class Normalized(torch.utils.data.Dataset):
    """Rows that are normalized by whoever loads them, by several threads."""

    def __len__(self):
        return 4

    def __getitem__(self, index):
        x = made(600, 1000, seed=index)
        return ops.layer_norm(x), torch.from_numpy(lanenorm.layer_norm(x.numpy(), threads=2))


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_workers_that_fork_after_the_first_call():
    rows = Normalized()
    expected = [rows[i] for i in range(4)]
    for got, wanted in zip(torch.utils.data.DataLoader(rows, batch_size=None, num_workers=2), expected, strict=True):
        assert all(same(a, b) for a, b in zip(got, wanted, strict=True))


def test_checkpoints_and_inference_mode():
    model, x = Block(), made(6, 32, grad=True)
    gradients = []
    for run in (model, lambda v: checkpoint.checkpoint(model, v, use_reentrant=False)):
        model.zero_grad()
        run(x).square().sum().backward()
        gradients.append([p.grad.clone() for p in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))
    with torch.inference_mode():
        assert same(model(x), model(x.detach()))


def test_numpy_functions_take_tensors():
    x = made(6, 32)
    assert same(torch.from_numpy(lanenorm.layer_norm(x)), ops.layer_norm(x))
    wide = lanenorm.layer_norm(x.bfloat16(), out=x.new_empty(6, 32).numpy())
    assert close(torch.from_numpy(wide), F.layer_norm(x.bfloat16().double(), (32,)))
