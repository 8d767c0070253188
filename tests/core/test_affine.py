"""Scales and shifts folded into layers, activations that exporters write out, and reshapes of channels-last memory."""

from __future__ import annotations

import numpy as np
import pytest

from core.graphs import CONV, Builder
from core.test_passes import check_same, ops
from nnaccel_core.ir import Graph, TensorType, Value, channels_last, sym
from nnaccel_core.passes.activations import recognize_activations
from nnaccel_core.passes.affine import fold_affine
from nnaccel_core.passes.layout import assign_layouts
from nnaccel_core.passes.prepare import split_prepare
from nnaccel_core.passes.reshapes import activate_before_views, matching_axes, reshape_layouts

POINT = {**CONV, "padding": ((0, 0), (0, 0))}
TRANSPOSED = {"stride": (2, 2), "padding": ((0, 0), (0, 0)), "output_padding": (0, 0), "dilation": (1, 1), "groups": 1}


def left(graph: Graph) -> list[str]:
    """Operators that remain for every call."""
    after = fold_affine(graph)
    check_same(graph, after)
    return [op for op in ops(split_prepare(after).main) if op != "constant"]


@pytest.mark.parametrize("shape", [(), (1,), (4, 1, 1), (1, 4, 1, 1)])
@pytest.mark.parametrize("bias", [False, True])
def test_scale_and_shift_behind_a_convolution(shape, bias):
    b = Builder()
    conv = b("conv", b.input(2, 4, 5, 5), b.param(4, 1, 3, 3), *([b.param(4)] if bias else []), **{**CONV, "groups": 4})
    assert left(b.done(b("add", b.param(*shape), b("mul", conv, b.param(*shape))))) == ["conv"]


def test_scale_and_shift_behind_other_layers():
    b = Builder()
    row = b("matmul", b.input(2, 3, 5), b.param(5, 4), b.param(4))
    assert left(b.done(b("mul", row, b.param(4)))) == ["matmul"]
    b = Builder()
    wide = b("conv_transpose", b.input(1, 3, 4, 4), b.param(3, 2, 2, 2), **TRANSPOSED)
    assert left(b.done(b("add", b("mul", wide, b.param(2, 1, 1)), b.param(1)))) == ["conv_transpose"]


def test_in_front_of_a_convolution():
    b = Builder()
    x = b("relu", b.input(2, 3, 5, 5))
    plain = b("conv", b("add", b("mul", x, b.param(3, 1, 1)), b.param(1)), b.param(4, 3, 2, 2), b.param(4), **POINT)
    assert left(b.done(plain)) == ["relu", "conv"]
    b = Builder()
    x = b("relu", b.input(2, 3, 5, 5))
    padded = b("conv", b("mul", x, b.param(3, 1, 1)), b.param(4, 3, 3, 3), **CONV)
    assert left(b.done(padded)) == ["relu", "conv"]


def test_what_stays():
    def of(make, *more):
        b = Builder()
        x = b.input(2, 4, 5, 5)
        found = make(b, x)
        return left(b.done(*(found if isinstance(found, tuple) else (found,)), *more))

    def conv(b, x, **attrs):
        return b("conv", x, b.param(4, 4, 3, 3), **{**CONV, **attrs})

    # zeros of the padding are not shifted; along the width; an activation; read twice; a result
    assert of(lambda b, x: conv(b, b("add", x, b.param(1)))) == ["add", "conv"]
    assert of(lambda b, x: b("mul", conv(b, x), b.param(5))) == ["conv", "mul"]
    assert of(lambda b, x: b("mul", conv(b, x), x)) == ["conv", "mul"]
    assert of(lambda b, x: b("mul", y := conv(b, x), b("add", y, b.param(1)))) == ["conv", "add", "mul"]
    assert of(lambda b, x: (y := conv(b, x), b("mul", y, b.param(1)))) == ["conv", "mul"]
    b = Builder()  # it grows in the multiplication
    one = b("conv", b.input(2, 3, 5, 5), b.param(1, 3, 1, 1), **POINT)
    assert left(b.done(b("mul", one, b.param(4, 1, 1)))) == ["conv", "mul"]


def named(make, **attrs) -> list[str]:
    b = Builder()
    x = b("exp", b.input(sym("n"), 6))
    graph = b.done(make(b, x))
    after = recognize_activations(graph)
    check_same(graph, after, {"n": 3})
    return [op for op in ops(after) if op not in ("constant", "exp")]


def ramp(b: Builder, x: Value, by: float = 3.0) -> Value:
    return b("clip", b("add", b.const(by), x), min=0.0, max=6.0)


def test_activations_are_recognized():
    assert named(lambda b, x: b("mul", ramp(b, x), b.const([1 / 6]))) == ["hardsigmoid"]
    assert named(lambda b, x: b("clip", b("add", b("mul", x, b.const(1 / 6)), b.const(0.5)), min=0.0, max=1.0)) == ["hardsigmoid"]
    assert named(lambda b, x: b("div", b("mul", ramp(b, x), x), b.const(6.0))) == ["hardswish"]
    assert named(lambda b, x: b("mul", x, b("div", ramp(b, x), b.const(6.0)))) == ["hardswish"]
    assert named(lambda b, x: b("mul", b("hardsigmoid", x), x)) == ["hardswish"]
    assert named(lambda b, x: b("mul", x, b("sigmoid", b("mul", x, b.const(1.0))))) == ["silu"]

    def cubic(b: Builder, x: Value) -> Value:
        cube = b("mul", x, b("mul", x, b("mul", b.const(0.044715), x)))
        inside = b("mul", b.const(np.sqrt(2 / np.pi)), b("add", x, cube))
        return b("mul", x, b("mul", b.const(0.5), b("add", b.const(1.0), b("tanh", inside))))

    assert named(cubic) == ["gelu"]


def test_what_is_no_activation():
    assert named(lambda b, x: b("div", b("mul", ramp(b, x, 2.5), x), b.const(6.0))) == ["add", "clip", "mul", "div"]
    assert named(lambda b, x: b("div", b("mul", ramp(b, x), x), b.const(5.0))) == ["add", "clip", "mul", "div"]
    assert named(lambda b, x: b("div", b("mul", ramp(b, b("neg", x)), x), b.const(6.0))) == ["neg", "add", "clip", "mul", "div"]
    assert named(lambda b, x: b("mul", x, b("sigmoid", b("neg", x)))) == ["neg", "sigmoid", "mul"]
    assert named(lambda b, x: b("mul", x, b.const([1.0, 1.0, 1.0, 1.0, 1.0, 1.0]))) == ["mul"]
    assert named(lambda b, x: b("mul", x, b.const(np.ones((1, 1, 1))))) == ["mul"]


def test_axes_of_a_reshape():
    n, h, w = sym("n"), sym("h"), sym("w")
    assert matching_axes((n, 4, h, w), (n, 4, h * w)) == [([0], [0]), ([1], [1]), ([2, 3], [2])]
    assert matching_axes((n, 4, 6), (n, 2, 2, 1, 6)) == [([0], [0]), ([1], [1, 2, 3]), ([2], [4])]
    assert matching_axes((1, 6, 4), (6, 1, 2, 2)) == [([0, 1], [0, 1]), ([2], [2, 3])]
    assert matching_axes((n, h), (n * h,)) == [([0, 1], [0])]


@pytest.mark.parametrize(
    ("shape", "layout", "to", "want"),
    [
        ((2, 4, 3, 5), (0, 2, 3, 1), (2, 4, 15), ((0, 2, 3, 1), (0, 2, 1))),  # pixels in a row
        ((2, 4, 1, 5), (0, 2, 3, 1), (2, 4, 5), ((0, 2, 3, 1), (0, 2, 1))),
        ((2, 4, 5), (0, 2, 1), (2, 4, 1, 5), ((0, 2, 1), (0, 2, 3, 1))),
        ((2, 4, 3, 5), (0, 2, 3, 1), (2, 60), ((0, 1, 2, 3), (0, 1))),  # channels come first: a copy
        ((2, 8, 3, 5), (0, 2, 3, 1), (2, 2, 4, 3, 5), ((0, 2, 3, 1), (0, 3, 4, 1, 2))),
        ((1, 5, 2, 3, 4), (3, 1, 2, 0, 4), (5, 2, 12), ((0, 1, 2, 3, 4), (0, 1, 2))),  # what is innermost stays so
    ],
)
def test_memory_of_a_reshape(shape, layout, to, want):
    wanted, found = reshape_layouts(TensorType(shape, "float32", layout), to)
    assert TensorType(shape, "float32", wanted).same_memory(want[0]) and TensorType(to, "float32", found).same_memory(want[1])
    # What lies as ``wanted`` is, in memory, the reshaped array that lies as ``found``.
    x = np.arange(np.prod(shape)).reshape(shape)
    np.testing.assert_array_equal(x.transpose(wanted).ravel(), x.reshape(to).transpose(found).ravel())


def test_convolutions_of_rows_need_no_copies_between():
    b = Builder()
    n = sym("n")
    x = b.input(n, 3, 9)
    row = {**POINT, "padding": ((0, 0), (1, 1))}
    for channels in (4, 6):
        image = b("reshape", x, shape=(n, x.shape[1], 1, 9))
        out = b("conv", image, b.param(channels, x.shape[1], 1, 3), **row)
        x = b("relu", b("reshape", out, shape=(n, channels, 9)))
    graph = b.done(x)
    moved = activate_before_views(graph)
    check_same(graph, moved, {"n": 2})
    laid = assign_layouts(moved)
    check_same(graph, laid, {"n": 2})
    assert ops(laid).count("reorder") == 2  # at the edges
    convs = [v for v in laid.nodes if v.op == "conv"]
    assert all(v.output.type.layout == channels_last(4) for v in convs)
