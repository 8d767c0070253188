"""Average pooling changes places with the 1x1 convolution that reads it: when, when not and why, and the same results."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.graphs import CONV, Builder
from core.test_concat_passes import measured
from core.test_passes import check_same, ops
from nnaccel_core.errors import ShapeError
from nnaccel_core.interp import run_graph
from nnaccel_core.ir import Graph, Value, sym
from nnaccel_core.ops.conv import conv_attrs
from nnaccel_core.ops.pool import pool_attrs
from nnaccel_core.passes import pooling
from nnaccel_core.passes.pipeline import graph_passes

POINT = {**CONV, "padding": ((0, 0), (0, 0))}
SAME = pool_attrs((3, 3), (1, 1), ((1, 1), (1, 1)), ceil_mode=False, count_include_pad=True)
N = sym("n")


def refusals(graph: Graph) -> list[str]:
    """What the pass says to each convolution."""
    about = graph.producers(), graph.uses(), set(graph.results())
    return [pooling.refusal(n, *about) for n in graph.nodes if n.op == "conv"]


def pooled(
    b: Builder, x: Value, channels: int = 2, pool: Any = SAME, bias: bool = True, dtype: str = "float32", **more: Any
) -> Value:
    """A convolution to ``channels``, with the attributes ``more``, of the pooled ``x``."""
    w = b.param(channels, x.shape[1], *([1] * (x.type.rank - 2)), dtype=dtype)
    operands = [b.param(channels, dtype=dtype)] if bias else []
    return b("conv", b("avg_pool", x, **pool), w, *operands, **{**POINT, **more})


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("shape", [(2, 6, 7, 5), (N, 6, 7, 5), (N, 6, sym("h"), sym("w"))])
def test_it_moves_and_the_bias_follows(shape, bias):
    b = Builder()
    before = b.done(b("relu", pooled(b, b("relu", b.input(*shape)), bias=bias)))
    after = pooling.pool_after_convolution(before)
    assert [op for op in ops(after) if op != "reshape"] == ["relu", "conv", "avg_pool", *["add"] * bias, "relu"]
    conv = next(n for n in after.nodes if n.op == "conv")
    assert conv.output.shape[1] == 2 and len(conv.inputs) == 2
    check_same(before, after, {"n": 2, "h": 6, "w": 5})


def test_other_ranks():
    for spatial, shape in ((1, (2, 6, 9)), (3, (1, 6, 4, 5, 3))):
        b = Builder()
        pool = pool_attrs((3,) * spatial, (1,) * spatial, ((1, 1),) * spatial, ceil_mode=False, count_include_pad=False)
        more = conv_attrs((1,) * spatial, ((0, 0),) * spatial, (1,) * spatial)
        before = b.done(pooled(b, b.input(*shape), pool=pool, **more))
        after = pooling.pool_after_convolution(before)
        assert [op for op in ops(after) if op != "reshape"] == ["conv", "avg_pool", "add"]
        check_same(before, after)


def test_strided_pooling_moves_where_neither_memory_nor_arithmetic_grows():
    stride = pool_attrs((3, 3), (2, 2), ((1, 1), (1, 1)), ceil_mode=False, count_include_pad=True)
    pixels, size = "it would convolve more pixels than pooling leaves", "there would not be less to pool"
    for channels, reason in ((1, ""), (3, pixels), (8, size)):
        b = Builder()
        before = b.done(pooled(b, b.input(2, 32, 8, 8), channels, stride))
        assert refusals(before) == [reason]
        check_same(before, pooling.pool_after_convolution(before), tol=1e-3)


def test_pooling_without_padding_moves_only_where_its_own_arithmetic_makes_up_for_the_border():
    border = pool_attrs((3, 3), (1, 1), ceil_mode=False, count_include_pad=True)
    for size, reason in ((35, ""), (9, "it would convolve more pixels than pooling leaves")):
        b = Builder()
        assert refusals(b.done(pooled(b, b.input(1, 64, size, size), 16, border))) == [reason]


def test_what_stays_and_why():
    def of(make: Any, *inputs: int) -> str:
        b = Builder()
        found = make(b, b.input(*(inputs or (2, 6, 7, 7))))
        before = b.done(*(found if isinstance(found, tuple) else (found,)))
        after = pooling.pool_after_convolution(before)
        assert str(after) == str(before)
        return refusals(before)[-1]

    def conv(b: Builder, x: Value, *window: int, **attrs: Any) -> Value:
        return b("conv", x, b.param(2, 6 // attrs.get("groups", 1), *(window or (1, 1))), **{**POINT, **attrs})

    def pool(b: Builder, x: Value) -> Value:
        return b("avg_pool", x, **SAME)

    maximum = pool_attrs((3, 3), (1, 1), ((1, 1), (1, 1)), dilation=(1, 1), ceil_mode=False)
    pixels = "its window, stride or padding is not that of single pixels"
    assert of(lambda b, x: conv(b, x)) == "it reads no average pooling"
    assert of(lambda b, x: conv(b, b("max_pool", x, **maximum))) == "it reads no average pooling"
    assert of(lambda b, x: conv(b, b("relu", pool(b, x)))) == "it reads no average pooling"
    assert of(lambda b, x: conv(b, pool(b, x), 1, 3)) == pixels
    assert of(lambda b, x: conv(b, pool(b, x), stride=(1, 2))) == pixels
    assert of(lambda b, x: conv(b, pool(b, x), padding=((0, 0), (0, 1)))) == pixels
    assert of(lambda b, x: conv(b, pool(b, x), groups=2)) == "it has groups"
    assert of(lambda b, x: (conv(b, y := pool(b, x)), b("relu", y))) == "the pooling has other readers"
    assert of(lambda b, x: (conv(b, y := pool(b, x)), y)) == "the pooling has other readers"
    assert of(lambda b, x: pooled(b, x, 6)) == "there would not be less to pool"


def test_extents_that_are_not_known_stay_where_pooling_changes_them():
    b = Builder()
    stride = pool_attrs((2, 2), (2, 2), ceil_mode=False, count_include_pad=True)
    before = b.done(pooled(b, b.input(N, 6, sym("h"), sym("w")), 1, stride))
    assert refusals(before) == ["its extents are not known"]


def test_statistics_behind_it_are_those_of_the_same_values():
    b = Builder()
    y = pooled(b, b.input(3, 6, 5, 5))
    mean, var = measured(b, y)
    before = b.done(b("batch_norm", y, b.param(2), b.param(2), mean, var, eps=1e-5), mean, var)
    after = pooling.pool_after_convolution(before)
    assert "".join(refusals(before)) == ""
    check_same(before, after, tol=1e-3)


def test_nan_and_infinity_reach_the_same_pixels():
    b = Builder()
    before = b.done(pooled(b, b.input(1, 6, 9, 9)))
    after = pooling.pool_after_convolution(before)
    rng = np.random.default_rng(3)
    params = {p.name: rng.normal(size=p.shape).astype(np.float32) for p in before.params}
    params["p0"][0, 2] = 0.0  # infinity times zero
    x = rng.normal(size=(1, 6, 9, 9)).astype(np.float32)
    x[0, 0, 0, 0], x[0, 1, 4, 4], x[0, 2, 4, 5], x[0, 3, 8, 8] = np.nan, np.inf, -np.inf, np.inf
    with np.errstate(invalid="ignore"):
        (want,), (got,) = run_graph(before, [x], params), run_graph(after, [x], params)
    assert np.isnan(want).any() and np.isinf(want).any() and np.isfinite(want).any()
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


def test_strict_numerics_leave_it_out():
    for live in (False, True):
        fast, strict = ([name for name, _ in graph_passes(lambda n: False, live, s)] for s in (False, True))
        assert [name for name in fast if name not in strict] == ["pool_after_convolution"]


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_random_poolings_in_float64(data):
    def draw(low: int, high: int) -> int:
        return data.draw(st.integers(low, high))

    kernel = (draw(1, 4), draw(1, 4))
    stride = (1, 1) if data.draw(st.booleans()) else (draw(1, 3), draw(1, 3))
    padding = tuple((draw(0, k - 1), draw(0, k - 1)) for k in kernel)
    pool = pool_attrs(kernel, stride, padding, ceil_mode=data.draw(st.booleans()), count_include_pad=data.draw(st.booleans()))
    b = Builder()
    x = b.input(draw(1, 2), draw(2, 9), draw(kernel[0], 9), draw(kernel[1], 9), dtype="float64")
    try:
        before = b.done(pooled(b, x, draw(1, 3), pool, data.draw(st.booleans()), "float64"))
    except ShapeError:
        return
    after = pooling.pool_after_convolution(before)
    assert (ops(after)[0] == "conv") == (refusals(before) == [""])
    check_same(before, after, tol=1e-12)
