"""The functions for numpy."""

import array
import ast
import inspect
import os
import pathlib
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import ml_dtypes
import numpy as np
import pytest

import lanenorm
import reference

BF16 = ml_dtypes.bfloat16
DTYPES = [np.float32, np.float64, np.float16, BF16]
# Half a unit in the last place of a result of about 4, and what float32 loses before.
BOUNDS = {np.float32: 4e-6, np.float64: 1e-14, np.float16: 3e-3, BF16: 2e-2}


def made(shape, dtype=np.float32, seed=0, offset=0.0):
    return (np.random.default_rng(seed).standard_normal(shape) + offset).astype(dtype)


def same(a, b):
    """The same bits, type and shape."""
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def close(got, expected, dtype):
    return np.abs(reference.wide(got) - expected).max() <= BOUNDS[dtype] * (1 + np.abs(expected).max() / 4)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(8, 768), (3, 5, 33), (1,), (7,), (2, 3, 4, 5), (300, 1000)])
def test_forward(shape, dtype):
    x, gamma, beta = made(shape, dtype), made(shape[-1:], dtype, 1), made(shape[-1:], dtype, 2)
    y = lanenorm.layer_norm(x, gamma, beta)
    assert y.dtype == dtype and y.shape == shape
    assert close(y, reference.layer_norm(x, gamma, beta), dtype)
    assert close(lanenorm.rms_norm(x, gamma), reference.rms_norm(x, gamma), dtype)
    assert close(lanenorm.layer_norm(x), reference.layer_norm(x), dtype)


def test_an_offset_costs_nothing():
    x = made((64, 768), np.float64) + 1e6
    y = lanenorm.layer_norm(x.astype(np.float32))
    assert np.abs(y - reference.layer_norm(x.astype(np.float32))).max() < 4e-6


@pytest.mark.parametrize("axis", [0, 1, 2, 3, -2, (1, 2), (2, 3), (0, 3), (3, 1), (0, 1, 2, 3), [-1]])
def test_axes(axis):
    x = made((2, 5, 6, 7))
    axes = sorted({a % 4 for a in ([axis] if isinstance(axis, int) else axis)})
    gamma, beta = (made([x.shape[a] for a in axes], seed=seed) for seed in (1, 2))
    plain = axis if isinstance(axis, int) else tuple(axis)
    expected = reference.layer_norm(x, gamma, beta, axis=plain)
    y, statistics = lanenorm.layer_norm(x, gamma, beta, axis=axis, statistics=True)
    assert y.shape == x.shape and close(y, expected, np.float32)
    assert statistics.mean.shape == tuple(n for a, n in enumerate(x.shape) if a not in axes)
    assert np.allclose(statistics.mean, reference.wide(x).mean(tuple(axes)), atol=1e-6)
    assert close(lanenorm.rms_norm(x, gamma, axis=axis), reference.rms_norm(x, gamma, axis=plain), np.float32)
    out = np.full((4, 7, 6, 5), np.nan, np.float32)[::2].transpose(0, 3, 2, 1)
    assert lanenorm.layer_norm(x, gamma, beta, axis=axis, out=out) is out and same(out.copy(), y.copy())


LAYOUTS = {
    "every other row": lambda x: np.repeat(x, 2, axis=1)[:, ::2],
    "some columns": lambda x: np.concatenate([x, x], axis=-1)[..., : x.shape[-1]],
    "heads of a packed tensor": lambda x: np.concatenate([x, x, x], axis=1)[:, : x.shape[1]],
    "exchanged axes": lambda x: np.ascontiguousarray(x.transpose(1, 0, 2)).transpose(1, 0, 2),
    "columns apart": lambda x: np.repeat(x, 2, axis=-1)[..., ::2],
    "the order of Fortran": np.asfortranarray,
    "from the end": lambda x: np.ascontiguousarray(x[::-1])[::-1],
    "not aligned": lambda x: np.frombuffer(b"\0" + x.tobytes(), np.uint8)[1:].view(x.dtype).reshape(x.shape),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(layout, dtype):
    x, gamma = made((6, 4, 24), dtype), made(24, dtype, 1)
    expected = lanenorm.rms_norm(x, gamma)
    laid = LAYOUTS[layout](x)
    assert same(lanenorm.rms_norm(laid, gamma), expected)
    out = LAYOUTS[layout](np.zeros_like(x)).copy(order="K") if layout == "not aligned" else LAYOUTS[layout](x.copy())
    if out.flags.writeable:
        assert lanenorm.rms_norm(x, gamma, out=out) is out and same(out.copy("C"), expected)
        residual = made(x.shape, dtype, 3)
        y, s = lanenorm.add_rms_norm(x, residual, gamma)
        assert lanenorm.add_rms_norm(laid, residual, gamma, sum_out=out)[1] is out and same(out.copy("C"), s)
        assert same(lanenorm.rms_norm(s, gamma), y)


def test_broadcast_rows_are_copied():
    x = made(24)
    y = lanenorm.layer_norm(np.broadcast_to(x, (5, 24)))
    assert same(y, np.tile(lanenorm.layer_norm(x), (5, 1)))


@pytest.mark.parametrize("dtype", DTYPES)
def test_in_place(dtype):
    x, gamma = made((8, 96), dtype), made(96, dtype, 1)
    expected = lanenorm.layer_norm(x, gamma)
    assert lanenorm.layer_norm(x, gamma, out=x) is x and same(x, expected)
    assert same(
        lanenorm.layer_norm(x[::-1], gamma, out=x[::-1]), lanenorm.layer_norm(expected, gamma)[::-1].copy()[...]
    )


@pytest.mark.parametrize("dtype", [np.float16, BF16])
def test_mixed_types(dtype):
    x, gamma = made((8, 96), dtype), made(96, np.float32, 1)
    y = lanenorm.rms_norm(x, gamma)
    assert y.dtype == dtype and close(y, reference.rms_norm(x, gamma), dtype)
    out = np.empty(x.shape, np.float32)
    assert close(lanenorm.rms_norm(x, gamma, out=out), reference.rms_norm(x, gamma), np.float32)
    residual = made(x.shape, np.float32, 2)
    y, s = lanenorm.add_rms_norm(x, residual, gamma)
    assert s.dtype == np.float32 and y.dtype == dtype and same(s, x.astype(np.float32) + residual)


@pytest.mark.parametrize(
    "shape, of_gamma",
    [
        ((3, 5, 8), (3, 1, 8)),
        ((3, 5, 8), (5, 8)),
        ((3, 5, 8), (1, 5, 8)),
        ((2, 3, 5, 8), (2, 3, 1, 8)),
        ((3, 5, 8), (3, 5, 8)),
    ],
)
def test_gamma_of_groups(shape, of_gamma):
    x, gamma, beta, dy = made(shape), made(of_gamma, seed=1), made(of_gamma, seed=2), made(shape, seed=3)
    expected = reference.layer_norm(x) * gamma + beta
    assert close(lanenorm.layer_norm(x, gamma, beta), expected, np.float32)
    got = lanenorm.layer_norm_backward(dy, x, gamma)
    of_rows = reference.wide(dy) * reference.layer_norm(x)
    lead = tuple(
        a
        for a in range(len(shape) - 1)
        if a + len(of_gamma) < len(shape) or of_gamma[a + len(of_gamma) - len(shape)] == 1
    )
    expected = of_rows.sum(lead, keepdims=True).reshape(of_gamma)
    assert got.dgamma.shape == of_gamma and np.allclose(got.dgamma, expected, atol=1e-4)


def test_offset_and_rounding():
    x, gamma = made((64, 256), BF16), made(256, BF16, 1)
    one = lanenorm.rms_norm(x, gamma, offset=1.0)
    assert close(one, reference.rms_norm(x, reference.wide(gamma) + 1), BF16)
    steps = lanenorm.rms_norm(x, gamma, rounding="steps")
    xhat = lanenorm.rms_norm(x)
    assert same(steps, (xhat.astype(np.float32) * gamma.astype(np.float32)).astype(BF16))
    assert not same(steps, lanenorm.rms_norm(x, gamma))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("centered", [True, False])
def test_gradients(dtype, centered):
    x, dy, gamma = made((2, 9, 96), dtype), made((2, 9, 96), dtype, 1), made(96, dtype, 2)
    forward = lanenorm.layer_norm if centered else lanenorm.rms_norm
    backward = lanenorm.layer_norm_backward if centered else lanenorm.rms_norm_backward
    dx, dgamma, dbeta = reference.gradients(dy, x, gamma, centered=centered)
    _, statistics = forward(x, gamma, eps=1e-5, statistics=True)
    for kept in (None, statistics):
        got = backward(dy, x, gamma, eps=1e-5, statistics=kept)
        assert got.dx.dtype == dtype and close(got.dx, dx, dtype)
        bound = 1e-12 if dtype == np.float64 else 1e-3
        assert np.allclose(got.dgamma, dgamma, atol=bound)
        assert got.dbeta is None if not centered else np.allclose(got.dbeta, dbeta, atol=bound)
    ds = made(x.shape, dtype, 3)
    with_ds = backward(dy, x, gamma, eps=1e-5, statistics=statistics, ds=ds)
    assert close(with_ds.dx, dx + reference.wide(ds), dtype)
    out = dy.copy()
    assert same(backward(out, x, gamma, eps=1e-5, out=out).dx, backward(dy, x, gamma, eps=1e-5).dx)
    assert same(
        backward(dy[:, ::-1], x[:, ::-1], gamma, eps=1e-5).dx[:, ::-1].copy(), backward(dy, x, gamma, eps=1e-5).dx
    )


@pytest.mark.parametrize("axis", [1, 0, (1, 2), (2, 3)])
def test_gradients_of_other_axes(axis):
    x, dy = made((2, 5, 6, 7)), made((2, 5, 6, 7), seed=1)
    axes = (axis,) if isinstance(axis, int) else axis
    gamma = made([x.shape[a] for a in axes], seed=2)
    order = [a for a in range(4) if a not in axes] + list(axes)
    rows = lambda v: np.ascontiguousarray(v.transpose(order)).reshape(-1, gamma.size)
    expected = lanenorm.layer_norm_backward(rows(dy), rows(x), gamma.reshape(-1))
    got = lanenorm.layer_norm_backward(dy, x, gamma, axis=axis)
    assert same(rows(got.dx), expected.dx)
    assert np.allclose(got.dgamma.reshape(-1), expected.dgamma, atol=1e-5)
    assert np.allclose(got.dbeta.reshape(-1), expected.dbeta, atol=1e-5)
    _, statistics = lanenorm.layer_norm(x, gamma, axis=axis, statistics=True)
    assert np.allclose(
        lanenorm.layer_norm_backward(dy, x, gamma, axis=axis, statistics=statistics).dx, got.dx, atol=1e-5
    )


@pytest.mark.parametrize("dtype", [np.float32, BF16, np.float16])
def test_gates(dtype):
    x, z, gamma = made((6, 64), dtype), made((6, 64), dtype, 1), made(64, dtype, 2)
    after = reference.rms_norm(x, gamma) * reference.silu(reference.wide(z))
    assert close(lanenorm.gated_rms_norm(x, z, gamma), after, dtype)
    before = reference.rms_norm(reference.wide(x) * reference.silu(reference.wide(z)), gamma)
    assert close(lanenorm.gated_rms_norm(x, z, gamma, gate="silu_before"), before, dtype)
    beta = made(64, dtype, 3)
    sigmoid = reference.layer_norm(x, gamma, beta) / (1 + np.exp(-reference.wide(z)))
    assert close(lanenorm.gated_layer_norm(x, z, gamma, beta, gate="sigmoid"), sigmoid, dtype)


def test_gradients_of_gates():
    x, z, dy, gamma = (made((6, 64), seed=seed) for seed in range(4))
    gamma, beta = gamma[0], gamma[1]
    f, df = reference.silu(reference.wide(z)), None
    sigmoid = 1 / (1 + np.exp(-reference.wide(z)))
    df = sigmoid * (1 + reference.wide(z) * (1 - sigmoid))
    got = lanenorm.gated_layer_norm_backward(dy, x, z, gamma, beta)
    dx, dgamma, dbeta = reference.gradients(dy * f, x, gamma)
    assert close(got.dx, dx, np.float32) and np.allclose(got.dgamma, dgamma, atol=1e-4)
    assert np.allclose(got.dbeta, dbeta, atol=1e-4)
    assert close(got.dz, dy * reference.layer_norm(x, gamma, beta) * df, np.float32)
    assert lanenorm.gated_rms_norm_backward(dy, x, z, gamma).dbeta is None


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("last", [False, True])
def test_group_norm(dtype, last):
    x = made((2, 12, 5, 7), dtype)
    gamma, beta, dy = made(12, dtype, 1), made(12, dtype, 2), made(x.shape, dtype, 3)
    rows = lambda v: reference.wide(v).reshape(2, 4, -1)
    of_channels = lambda v: reference.wide(v)[:, None, None]
    n = reference.layer_norm(rows(x)).reshape(x.shape)
    expected = n * of_channels(gamma) + of_channels(beta)
    place = (lambda v: v.transpose(0, 2, 3, 1)) if last else (lambda v: v)
    given = np.ascontiguousarray(place(x))
    y, statistics = lanenorm.group_norm(given, 4, gamma, beta, channels_last=last, statistics=True)
    assert y.shape == given.shape and close(y, place(expected), dtype) and statistics.rstd.shape == (2, 4)
    silu = lanenorm.group_norm(given, 4, gamma, beta, channels_last=last, activation="silu")
    assert close(silu, place(reference.silu(expected)), dtype)
    got = lanenorm.group_norm_backward(np.ascontiguousarray(place(dy)), given, 4, gamma, beta, channels_last=last)
    dx, _, _ = reference.gradients(rows(reference.wide(dy) * of_channels(gamma)), rows(x))
    assert close(got.dx, place(dx.reshape(x.shape)), dtype)
    assert np.allclose(got.dgamma, (reference.wide(dy) * n).sum((0, 2, 3)), atol=2e-4)
    assert np.allclose(got.dbeta, reference.wide(dy).sum((0, 2, 3)), atol=2e-4)
    out = given.copy()
    assert lanenorm.group_norm(out, 4, gamma, beta, channels_last=last, out=out) is out and same(out, y)
    # A view that is not in the order of C.
    assert same(lanenorm.group_norm(place(x), 4, gamma, beta, channels_last=last), y)


def test_l2_norm():
    x = made((6, 64))
    expected = x / np.sqrt((reference.wide(x) ** 2).sum(-1, keepdims=True))
    assert close(lanenorm.l2_norm(x), expected, np.float32)
    assert close(lanenorm.l2_norm(x, inside=True), expected, np.float32)
    assert close(lanenorm.l2_norm(x, eps=100.0), x / 100, np.float32)


def test_quantized():
    x, gamma, beta = made((3, 5, 256)), made(256, seed=1), made(256, seed=2)
    y = lanenorm.layer_norm(x, gamma, beta)
    q, scale, zero_point = lanenorm.layer_norm_quantized(x, gamma, beta)
    assert q.dtype == np.int8 and q.shape == x.shape and scale.shape == (3, 5) and zero_point is None
    assert same(scale, np.abs(y).max(-1) / np.float32(127))
    assert same(q, np.rint(y / scale[..., None]).astype(np.int8))
    q, scale, _ = lanenorm.layer_norm_quantized(x, gamma, beta, block=64)
    blocks = y.reshape(3, 5, 4, 64)
    assert same(scale, np.abs(blocks).max(-1) / np.float32(127))
    q, scale, zero_point = lanenorm.layer_norm_quantized(x, gamma, beta, scheme="u8")
    assert q.dtype == np.uint8 and zero_point.shape == (3, 5)
    assert np.abs((q.astype(np.float64) - zero_point[..., None]) * scale[..., None] - y).max() <= scale.max()
    q, scale, zero_point = lanenorm.layer_norm_quantized(x, gamma, beta, scheme="onnx_u8")
    assert scale.shape == () and zero_point.shape == ()
    q, scale, _ = lanenorm.layer_norm_quantized(x, gamma, beta, scheme="e4m3")
    assert q.dtype == ml_dtypes.float8_e4m3fn and scale.shape == (3, 5)
    assert same(q, (y / scale[..., None]).astype(ml_dtypes.float8_e4m3fn))
    q, scale, _ = lanenorm.layer_norm_quantized(x, gamma, beta, scheme="q8_0")
    assert q.dtype == np.uint8 and q.shape == (3, 5, 272) and scale is None
    of_blocks = q.reshape(3, 5, 8, 34)
    d = of_blocks[..., :2].copy().view(np.float16)
    assert np.abs(of_blocks[..., 2:].view(np.int8) * d.astype(np.float32) - y.reshape(3, 5, 8, 32)).max() <= d.max()
    q, scale, _ = lanenorm.rms_norm_quantized(x, gamma, scale=0.05, zero_point=3)
    expected = np.clip(np.rint(lanenorm.rms_norm(x, gamma) / np.float32(0.05)) + 3, -128, 127)
    assert scale is None and same(q, expected.astype(np.int8))


@pytest.mark.parametrize("shape", [(0, 8), (8, 0), (0,), (3, 0, 4), (0, 0)])
def test_nothing(shape):
    x = np.empty(shape, np.float32)
    assert lanenorm.layer_norm(x).shape == shape
    y, s = lanenorm.add_rms_norm(x, x)
    assert y.shape == s.shape == shape
    gradients = lanenorm.layer_norm_backward(x, x)
    assert gradients.dx.shape == shape and not gradients.dgamma.any()
    assert lanenorm.layer_norm_quantized(x).q.shape == shape


def test_outputs_that_are_copied_may_not_overlap():
    a, o, b = made((4, 16)), np.zeros((4, 32), np.float32)[:, ::2], np.zeros(400, np.float32)
    as_strided = np.lib.stride_tricks.as_strided
    overlapping = [as_strided(v, (4, 16), (128, 8)) for v in (b, b[2:])]
    for out, sum_out in ((o, o), overlapping):
        with pytest.raises(ValueError, match="overlap"):
            lanenorm.add_rms_norm(a, a, out=out, sum_out=sum_out)
        assert not out.any()
    for strides in ((0, 4), (4, 4), (4, 8)):
        with pytest.raises(ValueError, match="overlap"):
            lanenorm.rms_norm(a, out=as_strided(b, a.shape, strides))
    woven = np.zeros((4, 32), np.float32)
    y, s = lanenorm.add_rms_norm(a, a, out=woven[:, ::2], sum_out=woven[:, 1::2])
    assert same(s.copy(), a + a) and same(y.copy(), lanenorm.rms_norm(a + a))


def test_rows_of_nothing():
    for shape in ((4, 0), (0, 4)):
        statistics = lanenorm.layer_norm(np.zeros(shape, np.float32), statistics=True)[1]
        assert all(v.shape == shape[:1] and np.isnan(v).all() for v in statistics)
    assert np.isnan(lanenorm.group_norm(np.zeros((2, 4, 0), np.float32), 2, statistics=True)[1].rstd).all()
    q, scale, zero_point = lanenorm.layer_norm_quantized(np.ones((0, 256), np.float32))
    assert (q.dtype, q.shape, scale.shape, zero_point) == (np.int8, (0, 256), (0,), None)
    q, scale, zero_point = lanenorm.layer_norm_quantized(np.ones((0, 256), np.float32), scheme="u8")
    assert (q.dtype, scale.shape, zero_point.shape) == (np.uint8, (0,), (0,))


class Turned(np.ndarray):
    """A class with a method of its own."""

    def transpose(self, *_):
        return np.zeros((1, 1, 1))


def test_subclasses_count_as_arrays():
    x = made((3, 4))
    expected = lanenorm.layer_norm(x, axis=0)
    assert same(lanenorm.layer_norm(x.view(Turned), axis=0), expected)
    out = x.copy().view(Turned)
    assert lanenorm.layer_norm(x, axis=0, out=out) is out and same(np.asarray(out), expected.copy())


def test_threads_change_no_bits():
    x, gamma = made((700, 1000)), made(1000, seed=1)
    expected = lanenorm.layer_norm(x, gamma, threads=1)
    for threads in (None, 2, 3, 7):
        assert same(lanenorm.layer_norm(x, gamma, threads=threads), expected)


def test_buffers_of_others():
    numbers = array.array("f", range(12))
    assert same(lanenorm.layer_norm(numbers), lanenorm.layer_norm(np.arange(12, dtype=np.float32)))
    assert same(lanenorm.layer_norm(memoryview(made((2, 6)))), lanenorm.layer_norm(made((2, 6))))
    assert same(lanenorm.layer_norm([[1.0, 2.0], [3.0, 5.0]]), lanenorm.layer_norm(np.array([[1.0, 2.0], [3.0, 5.0]])))


class OfDlpack:
    """What speaks DLPack alone."""

    def __init__(self, array, device=(1, 0)):
        self.array, self.device = array, device

    def __dlpack__(self, **options):
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.device


def test_dlpack():
    for x in (made((4, 6)), made((4, 6)).T, made((4, 6), np.float64), made((4, 12), np.float16)[:, ::2]):
        assert same(lanenorm.layer_norm(OfDlpack(x)), lanenorm.layer_norm(x))
    with pytest.raises(TypeError, match=r"x is a .*OfDlpack on a device of type 2, expected 1: a CPU"):
        lanenorm.layer_norm(OfDlpack(made(4), (2, 0)))
    with pytest.raises(TypeError, match="expected float32"):
        lanenorm.layer_norm(OfDlpack(np.arange(4)))


X = made((8, 96))
ERRORS = [
    (ValueError, "gamma has shape (5,), expected (96,)", lambda: lanenorm.layer_norm(X, X[0, :5])),
    (ValueError, "beta has shape (1, 95), expected (96,)", lambda: lanenorm.layer_norm(X, X[0], X[:1, :95])),
    (ValueError, "beta has shape (8, 96), expected that of gamma: (96,)", lambda: lanenorm.layer_norm(X, X[0], X)),
    (TypeError, "gamma has dtype float64, expected", lambda: lanenorm.layer_norm(X, X[0].astype(float))),
    (
        TypeError,
        "beta has dtype float16, expected that of gamma",
        lambda: lanenorm.layer_norm(X, X[0], X[0].astype("f2")),
    ),
    (TypeError, "x has dtype int64, expected float32", lambda: lanenorm.layer_norm(X.astype(int))),
    (TypeError, "x has dtype >f4, expected the byte order", lambda: lanenorm.layer_norm(X.astype(">f4"))),
    (TypeError, "x is a object, expected an array", lambda: lanenorm.layer_norm(object())),
    (TypeError, "x is a masked array", lambda: lanenorm.layer_norm(np.ma.array(X))),
    (ValueError, "eps is -1", lambda: lanenorm.layer_norm(X, eps=-1)),
    (ValueError, "eps is NaN", lambda: lanenorm.rms_norm(X, eps=float("nan"))),
    (ValueError, "axis 2 is out of range: x has 2 dimensions", lambda: lanenorm.layer_norm(X, axis=2)),
    (ValueError, "axis -1 is given twice", lambda: lanenorm.layer_norm(X, axis=(1, -1))),
    (ValueError, "axis is ()", lambda: lanenorm.layer_norm(X, axis=())),
    (ValueError, "axis -1 is out of range: x has 0", lambda: lanenorm.layer_norm(np.float32(1))),
    (ValueError, "threads is 0", lambda: lanenorm.layer_norm(X, threads=0)),
    (ValueError, 'rounding is "all", expected one of', lambda: lanenorm.layer_norm(X, rounding="all")),
    (ValueError, 'gate is "relu"', lambda: lanenorm.gated_rms_norm(X, X, gate="relu")),
    (ValueError, "residual has shape (7, 96), expected (8, 96)", lambda: lanenorm.add_rms_norm(X, X[:7])),
    (TypeError, "residual has dtype float64", lambda: lanenorm.add_rms_norm(X, X.astype(float))),
    (ValueError, "z has shape (96, 8), expected (8, 96)", lambda: lanenorm.gated_rms_norm(X, X.T)),
    (ValueError, "dy has shape (4, 96), expected (8, 96)", lambda: lanenorm.rms_norm_backward(X[:4], X)),
    (TypeError, "dy has dtype float16, expected float32", lambda: lanenorm.rms_norm_backward(X.astype("f2"), X)),
    (TypeError, "statistics is a tuple", lambda: lanenorm.rms_norm_backward(X, X, statistics=(1, 2))),
    (ValueError, "12 channels, which 5 groups do not", lambda: lanenorm.group_norm(made((2, 12, 4)), 5)),
    (ValueError, "x has shape (96,), expected samples", lambda: lanenorm.group_norm(X[0], 2)),
    (ValueError, 'scheme is "i4"', lambda: lanenorm.rms_norm_quantized(X, scheme="i4")),
    (ValueError, 'scheme is "u8" with a block', lambda: lanenorm.rms_norm_quantized(X, scheme="u8", block=32)),
    (ValueError, "block", lambda: lanenorm.rms_norm_quantized(X, block=64)),
    (TypeError, "f64", lambda: lanenorm.rms_norm_quantized(X.astype(float))),
]


@pytest.mark.parametrize("kind, message, call", ERRORS, ids=[message for _, message, _ in ERRORS])
def test_errors(kind, message, call):
    with pytest.raises(kind) as error:
        call()
    assert message in str(error.value)


def test_errors_write_nothing():
    x, gamma = made((8, 96)), made(96, seed=1)
    read_only = np.zeros_like(x)
    read_only.flags.writeable = False
    wrong = [
        (ValueError, "read-only", x, read_only),
        (ValueError, "out has shape (7, 96), expected (8, 96)", x, np.zeros((7, 96), np.float32)),
        (TypeError, "out has dtype float64", x, np.zeros(x.shape)),
        (TypeError, "out is a list, expected a numpy.ndarray", x, [0.0]),
    ]
    for kind, message, given, out in wrong:
        with pytest.raises(kind) as error:
            lanenorm.layer_norm(given, gamma, out=out)
        assert message in str(error.value)
        assert not np.any(out)
    both = made((9, 96))
    before = both.copy()
    with pytest.raises(ValueError, match="overlap"):
        lanenorm.layer_norm(both[:8], gamma, out=both[1:])
    assert same(both, before)


def test_many_threads_of_python():
    x, gamma = made((400, 768)), made(768, seed=1)
    expected = lanenorm.layer_norm(x, gamma)
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda _: lanenorm.layer_norm(x, gamma), range(200)))
    assert all(same(y, expected) for y in results)


def test_long_calls_release_the_interpreter():
    x = made((4000, 4000))
    counted, stop = [0], threading.Event()

    def count():
        while not stop.is_set():
            counted[0] += 1
            time.sleep(0)

    thread = threading.Thread(target=count)
    thread.start()
    interval = sys.getswitchinterval()
    try:
        # The other thread runs only where this one gives the interpreter away.
        sys.setswitchinterval(1000)
        before = counted[0]
        lanenorm.layer_norm(x, threads=1)
        during = counted[0] - before
    finally:
        sys.setswitchinterval(interval)
        stop.set()
        thread.join()
    assert during > 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_fork():
    x, gamma = made((2000, 768)), made(768, seed=1)
    expected = lanenorm.layer_norm(x, gamma)  # has started threads
    child = os.fork()
    if child == 0:
        os._exit(0 if same(lanenorm.layer_norm(x, gamma), expected) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_import_alone():
    """Nothing but numpy is imported."""
    code = "import sys, lanenorm; print([m for m in ('torch', 'ml_dtypes', 'jax') if m in sys.modules])"
    printed = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert printed.strip() == "[]"


def functions():
    found = {name: getattr(lanenorm, name) for name in lanenorm.__all__ if name[0].islower()}
    assert len(found) >= 16
    return found


def test_every_function_has_a_docstring():
    for name, function in functions().items():
        assert function.__doc__ and function.__doc__[0].isupper(), name


def test_stubs_have_the_signatures_of_functions():
    """Names, kinds and defaults of parameters, as `inspect` finds them."""
    path = pathlib.Path(lanenorm.__file__).with_name("_native.pyi")
    stubs = {}
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef):
            given = node.args
            positional = [a.arg for a in given.args]
            defaults = [ast.literal_eval(d) for d in given.defaults]
            keywords = {
                a.arg: d and ast.literal_eval(d) for a, d in zip(given.kwonlyargs, given.kw_defaults, strict=True)
            }
            stubs.setdefault(node.name, (positional, defaults, keywords))
    for name, function in functions().items():
        parameters = inspect.signature(function).parameters.values()
        positional = [p for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
        defaults = [p.default for p in positional if p.default is not p.empty]
        keywords = {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}
        assert stubs[name] == ([p.name for p in positional], defaults, keywords), name
