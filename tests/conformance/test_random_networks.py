"""Random networks from the op set against the numpy interpreter, on every option; hypothesis shrinks what fails."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from core.graphs import CONV, Builder, random_values
from nnaccel_core.api import Backend
from nnaccel_core.interp import run_graph
from nnaccel_core.ir import Graph, Value, sym
from nnaccel_core.options import Options
from nnaccel_core.testing.conformance import compile_graph
from nnaccel_core.testing.interpreter import InterpreterBackend

UNARY = ["relu", "sigmoid", "tanh", "exp", "neg", "abs"]
POOL = {"kernel": (2, 3), "stride": (2, 1), "padding": ((0, 1), (1, 1)), "ceil_mode": False}
KINDS = [
    "unary", "clip", "binary", "channel", "pointwise", "conv", "strided", "dilated", "depthwise", "transposed", "bn", "max",
    "avg", "mean", "softmax", "pad", "slice", "concat", "permute", "matmul", "linear",
]  # fmt: skip


def grow(draw: st.DrawFn, b: Builder, live: list[Value]) -> Value:
    """One more layer on one of the images in ``live``; every result is an image (n, c, h, w) of at least 1 x 1."""
    v = draw(st.sampled_from(live))
    c, h, w = (int(d) for d in v.shape[1:])
    kind = draw(st.sampled_from(KINDS))
    if kind == "unary":
        return b("tanh", b(draw(st.sampled_from(UNARY)), v))
    if kind == "clip":
        return b("clip", v, min=draw(st.sampled_from([-1.0, 0.0])), max=draw(st.sampled_from([0.5, 6.0])))
    if kind == "binary":
        other = draw(st.sampled_from([u for u in live if u.shape == v.shape]))
        return b("tanh", b(draw(st.sampled_from(["add", "sub", "mul", "maximum"])), v, other))
    if kind == "channel":
        return b(draw(st.sampled_from(["add", "mul"])), v, b.param(c, 1, 1))
    if kind == "pointwise":
        return b("conv", v, b.param(3, c, 1, 1), b.param(3), **{**CONV, "padding": ((0, 0), (0, 0))})
    if kind == "conv":
        return b("conv", v, b.param(4, c, 3, 3), **CONV)
    if kind == "strided" and min(h, w) >= 3:
        return b("conv", v, b.param(2, c, 3, 2), **{**CONV, "stride": (2, 1), "padding": ((1, 0), (0, 1))})
    if kind == "dilated" and min(h, w) >= 4:
        return b("conv", v, b.param(2, c, 2, 2), **{**CONV, "dilation": (2, 3), "padding": ((1, 1), (0, 1))})
    if kind == "depthwise":
        return b("conv", v, b.param(c, 1, 3, 3), **{**CONV, "groups": c})
    if kind == "transposed" and max(h, w) <= 8:
        attrs = {"stride": (2, 1), "padding": ((1, 1), (0, 0)), "output_padding": (1, 0), "dilation": (1, 1), "groups": 1}
        return b("conv_transpose", v, b.param(c, 2, 3, 2), **attrs)
    if kind == "bn":
        return b("batch_norm", v, *(b.param(c) for _ in range(4)), eps=1e-5)
    if kind == "max" and min(h, w) >= 2:
        return b("max_pool", v, dilation=(1, 1), **POOL)
    if kind == "avg" and min(h, w) >= 2:
        return b("avg_pool", v, count_include_pad=draw(st.booleans()), **POOL)
    if kind == "mean":
        return b("sub", v, b("reduce_mean", v, axes=(2, 3), keepdims=True))
    if kind == "softmax":
        return b("softmax", v, axis=draw(st.integers(1, 3)))
    if kind == "pad":
        return b("pad", v, pads=((0, 0), (0, 1), (1, 0), (2, 1)), value=0.5)
    if kind == "slice" and h >= 2:
        return b("slice", v, starts=(0, 0, 1, 0), ends=(v.shape[0], c, h, w), steps=(1, 1, draw(st.integers(1, 2)), 1))
    if kind == "concat":
        other = draw(st.sampled_from([u for u in live if u.shape[2:] == v.shape[2:]]))
        return b("concat", v, other, axis=1)
    if kind == "permute":
        return b("transpose", v, perm=(0, 1, 3, 2))
    if kind == "matmul" and h * w <= 64:
        flat = b("reshape", v, shape=(v.shape[0], c, h * w))
        scores = b("softmax", b("matmul", flat, flat, transpose_b=True), axis=2)
        return b("reshape", b("matmul", scores, flat), shape=v.shape)
    if kind == "linear" and c * h * w <= 256:
        row = b("matmul", b("reshape", v, shape=(v.shape[0], c * h * w)), b.param(6, c * h * w), b.param(6), transpose_b=True)
        return b("tanh", b("reshape", row, shape=(v.shape[0], 2, 3, 1)))
    return b("relu", v)


@st.composite
def networks(draw: st.DrawFn) -> Graph:
    """Chains and joins of layers on images of any batch; one or two results."""
    b = Builder()
    live = [b.input(sym("n"), draw(st.integers(1, 5)), draw(st.integers(4, 7)), draw(st.integers(4, 7)))]
    for _ in range(draw(st.integers(1, 6))):
        live.append(grow(draw, b, live))
    return b.done(*draw(st.lists(st.sampled_from(live[1:]), min_size=1, max_size=2)))


def check(backend: Backend, graph: Graph, options: Options, batches: tuple[int, ...]) -> None:
    _, params = random_values(graph, env={"n": 1})
    compiled = compile_graph(graph, backend, params, options)
    for n in batches:
        inputs, _ = random_values(graph, seed=n, env={"n": n})
        for got, want in zip(compiled(inputs), run_graph(graph, inputs, params), strict=True):
            scale = max(1.0, float(np.abs(want).max()))
            np.testing.assert_allclose(got / scale, want / scale, rtol=2e-4, atol=2e-5, err_msg=f"{options}\n{graph}")


SETTINGS = {"deadline": None, "suppress_health_check": list(HealthCheck), "print_blob": True}


@settings(max_examples=40, **SETTINGS)
@given(networks(), st.booleans())
def test_on_the_interpreter(graph, dfp):
    machine = InterpreterBackend.probe()
    assert machine is not None
    check(InterpreterBackend(machine, "interp"), graph, Options(dfp=dfp), (2,))


@pytest.fixture(scope="module")
def x86() -> Backend:
    module = pytest.importorskip("nnaccel_backend_x86.backend", reason="needs the x86 backend")
    machine = module.X86Backend.probe()
    if machine is None:
        pytest.skip("the x86 backend does not run on this machine")
    return module.X86Backend(machine, "cpu")


@pytest.mark.slow
@settings(max_examples=12, **SETTINGS)
@given(graph=networks(), dfp=st.booleans(), libraries=st.booleans())
def test_on_x86(x86, graph, dfp, libraries):
    check(x86, graph, Options(dfp=dfp, libraries=libraries), (1, 3))
