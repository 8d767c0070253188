"""Passes around concat and pooling: before and after, and the same results."""

from __future__ import annotations

from collections import Counter

from core.graphs import CONV, Builder
from core.test_passes import check_same, ops
from nnaccel_core.ir import Node, Value, sym
from nnaccel_core.ops.registry import infer
from nnaccel_core.passes import concat

POOL = {"kernel": (2, 2), "stride": (2, 2), "padding": ((0, 0), (0, 0)), "dilation": (1, 1), "ceil_mode": False}
POINT = {**CONV, "padding": ((0, 0), (0, 0))}


def measured(b: Builder, x: Value) -> tuple[Value, ...]:
    """Mean and variance of the channels of ``x``."""
    types = infer("batch_norm_stats", [x.type], {})
    stats = tuple(Value(t, f"{name}_{x.name}") for t, name in zip(types, ("mean", "var"), strict=True))
    b.nodes.append(Node("batch_norm_stats", (x,), stats, {}, f"norm_{x.name}"))
    return stats


def test_concats_merge():
    b = Builder()
    x, y, z = b.input(2, 3, 4, 4), b.input(2, 2, 4, 4), b.input(2, 1, 4, 4)
    before = b.done(b("concat", b("concat", x, y, axis=1), z, axis=1))
    after = concat.merge_concats(before)
    assert ops(after) == ["concat"]
    assert len(after.nodes[0].inputs) == 3
    check_same(before, after)


def test_concats_along_different_axes_or_with_other_readers_stay():
    b = Builder()
    x, y = b.input(2, 3), b.input(2, 3)
    inner = b("concat", x, y, axis=1)
    before = b.done(b("concat", inner, inner, axis=0), b("concat", inner, x, axis=1))
    after = concat.merge_concats(before)
    assert ops(after) == ["concat"] * 3
    check_same(before, after)


def test_statistics_of_a_part_are_taken_once():
    b = Builder()
    x, y, z = (b.input(sym("n"), c, 5, 4) for c in (3, 2, 4))
    outputs = []
    for parts in ((x,), (x, y), (x, y, z)):
        whole = b("concat", *parts, axis=1)
        outputs += measured(b, whole)
    before = b.done(*outputs)
    after = concat.measure_before_concat(before)
    assert Counter(ops(after)) == {"batch_norm_stats": 3, "concat": 6}
    check_same(before, after, {"n": 2})


def test_statistics_of_images_joined_side_by_side_stay():
    b = Builder()
    x, y = b.input(2, 3, 5, 4), b.input(2, 3, 5, 2)
    whole = b("concat", x, y, axis=3)
    assert ops(concat.measure_before_concat(b.done(*measured(b, whole)))) == ["concat", "batch_norm_stats"]


def test_pooling_moves_before_concat():
    b = Builder()
    x, y = b.input(sym("n"), 3, 8, 8), b.input(sym("n"), 2, 8, 8)
    before = b.done(b("max_pool", b("concat", x, y, axis=1), **POOL))
    after = concat.move_before_concat(before)
    assert ops(after) == ["max_pool", "max_pool", "concat"]
    check_same(before, after, {"n": 2})


def test_pooling_that_shrinks_nothing_or_crosses_the_concat_stays():
    b = Builder()
    x, y = b.input(1, 3, 8, 8), b.input(1, 3, 8, 8)
    same = {**POOL, "kernel": (3, 3), "stride": (1, 1), "padding": ((1, 1), (1, 1))}
    assert ops(concat.move_before_concat(b.done(b("max_pool", b("concat", x, y, axis=1), **same)))) == ["concat", "max_pool"]
    b = Builder()
    x, y = b.input(1, 3, 8, 8), b.input(1, 3, 8, 8)
    assert ops(concat.move_before_concat(b.done(b("max_pool", b("concat", x, y, axis=2), **POOL)))) == ["concat", "max_pool"]


def test_elementwise_moves_only_where_no_work_is_repeated():
    b = Builder()
    x, w = b.input(1, 3, 5, 5), b.param(4, 3, 3, 3)
    c1, c2 = b("conv", x, w, **CONV), b("conv", x, b.param(2, 3, 3, 3), **CONV)
    before = b.done(b("relu", b("concat", c1, c2, axis=1)))
    after = concat.move_before_concat(before)
    assert ops(after) == ["conv", "conv", "relu", "relu", "concat"]
    check_same(before, after)
    b = Builder()
    x = b.input(1, 3, 5, 5)
    y = b("exp", x)
    before = b.done(b("relu", b("concat", x, y, axis=1)), b("neg", y))
    assert Counter(ops(concat.move_before_concat(before)))["relu"] == 1


def test_activation_moves_behind_max_pool_unless_a_product_takes_it():
    b = Builder()
    x = b.input(1, 3, 8, 8)
    before = b.done(b("max_pool", b("relu", x), **POOL))
    after = concat.activate_after_max_pool(before)
    assert ops(after) == ["max_pool", "relu"]
    check_same(before, after)
    b = Builder()
    x = b.input(1, 3, 8, 8)
    y = b("relu", b("conv", x, b.param(4, 3, 3, 3), **CONV))
    assert ops(concat.activate_after_max_pool(b.done(b("max_pool", y, **POOL)))) == ["conv", "relu", "max_pool"]
    b = Builder()
    y = b("leaky_relu", b.input(1, 3, 8, 8), alpha=-0.5)  # not monotonic
    assert ops(concat.activate_after_max_pool(b.done(b("max_pool", y, **POOL)))) == ["leaky_relu", "max_pool"]


def test_sibling_convolutions_merge():
    b = Builder()
    x = b.input(sym("n"), 6, 5, 5)
    one = b("relu", b("conv", x, b.param(4, 6, 1, 1), b.param(4), **POINT))
    two = b("conv", x, b.param(3, 6, 1, 1), b.param(3), **POINT)
    before = b.done(b("concat", one, two, axis=1))
    after = concat.merge_sibling_convolutions(before)
    assert Counter(ops(after)) == {"concat": 3, "conv": 1, "slice": 2, "relu": 1}
    check_same(before, after, {"n": 2})


def test_siblings_that_a_3x3_reads_stay_apart():
    b = Builder()
    x = b.input(1, 6, 5, 5)
    one, two = (b("conv", x, b.param(4, 6, 1, 1), **POINT) for _ in range(2))
    before = b.done(b("conv", one, b.param(2, 4, 3, 3), **CONV), two)
    assert ops(concat.merge_sibling_convolutions(before)) == ["conv"] * 3


def test_wide_siblings_stay_apart_since_slices_would_cost_more():
    def siblings(*channels: int) -> list[str]:
        b = Builder()
        x = b.input(sym("n"), 6, 5, 5)
        parts = [b("conv", x, b.param(c, 6, 1, 1), **POINT) for c in channels]
        return ops(concat.merge_sibling_convolutions(b.done(b("concat", *parts, axis=1))))

    assert siblings(64, 48, 64).count("conv") == 3
    assert siblings(16, 16).count("conv") == 2
    assert siblings(8, 8, 8, 8).count("conv") == 1
