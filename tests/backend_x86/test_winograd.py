"""Winograd convolutions: shapes, edges, epilogues, strides, accuracy, and when they are not offered."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from backend_x86.harness import Net, backend, check, conv_attrs, longest, lower, propose, run_plan
from nnaccel_backend_x86.scope import Scope
from nnaccel_backend_x86.winograd import Blocks, Shape, Winograd, WinogradDims, best
from nnaccel_core.ir import Value
from nnaccel_core.options import Options
from nnaccel_core.plan import BufferRef, LibraryStep, Plan
from nnaccel_core.select.candidate import Candidate

B = backend()
IMAGE = (0, 2, 3, 1)


def conv(net: Net, x: Value, out_channels: int, pad: object = 1, bias: bool = True) -> Value:
    attrs = dict(conv_attrs(2))
    attrs["padding"] = ((pad, pad),) * 2 if isinstance(pad, int) else pad
    inputs = [x, net.param(out_channels, int(x.type.shape[1]), 3, 3), *([net.param(out_channels)] if bias else [])]
    return net.op("conv", *inputs, layout=IMAGE, **attrs)


def candidates(net: Net, *outputs: Value) -> list[Candidate]:
    return Winograd(Scope(net.graph(*outputs), {}, B.machine)).propose()


def cut(c: Candidate, shape: Shape, b: Blocks) -> Candidate:
    """The candidate with its work cut another way."""
    dims = (b.m, *c.impl.dims[1:10], b.tiles, b.inner, b.outer, *c.impl.dims[13:])
    return replace(c, impl=replace(c.impl, dims=dims, tasks=b.tasks(shape), scratch=b.scratch()))


def shape_of(c: Candidate) -> Shape:
    return Shape(*c.impl.dims[1:10])


@pytest.mark.parametrize("m", [2, 4])
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(
    ("images", "height", "width", "channels", "out_channels", "pad"),
    [
        (1, 8, 8, 16, 16, 1),
        (1, 3, 3, 1, 1, 0),
        (1, 1, 1, 5, 3, 1),
        (2, 13, 9, 19, 37, 1),
        (3, 6, 7, 33, 50, 2),
        (1, 14, 14, 8, 100, ((0, 1), (2, 0))),
        (2, 5, 23, 40, 17, ((1, 2), (0, 0))),
    ],
)
def test_shapes_and_cuts(
    m: int, threads: int, images: int, height: int, width: int, channels: int, out_channels: int, pad: object
) -> None:
    net = Net()
    y = conv(net, net.input(images, channels, height, width, layout=IMAGE), out_channels, pad)
    (c,) = candidates(net, y)
    shape = shape_of(c)
    for tiles, inner, outer in ((1, channels, 16), (3, min(8, channels), 32), (shape.tiles(m), max(1, channels - 1), 112)):
        check(B, net, cut(c, shape, Blocks(m, tiles, inner, outer)), threads)


def test_the_cut_that_the_machine_gets_fits_its_cache() -> None:
    for s in (
        Shape(1, 56, 56, 64, 56, 56, 64, 1, 1),
        Shape(4, 14, 14, 256, 14, 14, 256, 1, 1),
        Shape(1, 224, 224, 64, 224, 224, 64, 1, 1),
    ):
        seconds, b = best(s, B.machine, True)
        assert 0 < seconds < 1 and b.scratch() <= 4 * B.machine.l2
        assert b.tasks(s) >= B.machine.cores


@pytest.mark.parametrize("activation", ["relu", "leaky_relu", "clip", "hardswish", "sigmoid", "silu"])
@pytest.mark.parametrize("residual", [False, True])
def test_epilogues(activation: str, residual: bool) -> None:
    attrs = {"leaky_relu": {"alpha": 0.1}, "clip": {"min": -0.3, "max": 0.8}}.get(activation, {})
    net = Net()
    x = net.input(2, 20, 9, 10, layout=IMAGE)
    y = conv(net, x, 27)
    if residual:
        y = net.op("add", net.input(2, 27, 9, 10, layout=IMAGE), y, layout=IMAGE)
    y = net.op(activation, y, layout=IMAGE, **attrs)
    c = longest(candidates(net, y))
    assert len(c.nodes) == 2 + residual and c.inplace == (((0, 3),) if residual else ())
    check(B, net, c)


def test_without_bias() -> None:
    net = Net()
    y = conv(net, net.input(1, 6, 12, 12, layout=IMAGE), 9, bias=False)
    (c,) = candidates(net, y)
    check(B, net, c)


def test_output_over_the_residual() -> None:
    net = Net()
    x, r = net.input(1, 16, 11, 11, layout=IMAGE), net.input(1, 24, 11, 11, layout=IMAGE)
    y = net.op("relu", net.op("add", conv(net, x, 24), r, layout=IMAGE), layout=IMAGE)
    c = longest(candidates(net, y))
    plan, inputs, memories = lower(B, net, c)
    (step,) = plan.steps
    assert isinstance(step, LibraryStep)
    at = c.inplace[0][1]
    residual = step.inputs[at]
    # The residual's memory is the output's, filled before: the kernel sees one buffer twice.
    over = replace(step, inputs=(*step.inputs[:at], step.outputs[0], *step.inputs[at + 1 :]))
    executable = B.build(Plan("over", (over,), plan.inputs, plan.prepared, plan.outputs), Options())
    result = inputs[residual.index].copy()
    executable.run([a.ctypes.data for a in inputs], tuple(m.address for m in memories), [result.ctypes.data], 2, 0)
    want = net.reference(y)
    np.testing.assert_allclose(result.transpose(0, 3, 1, 2), want, atol=2e-5 * np.abs(want).max())


def test_slices_of_wider_tensors() -> None:
    """Input, residual and output lie in channel slices of wider tensors."""
    net = Net()
    x, r = net.input(2, 20, 9, 7, layout=IMAGE), net.input(2, 18, 9, 7, layout=IMAGE)
    y = net.op("add", conv(net, x, 18), r, layout=IMAGE)
    c = longest(candidates(net, y))
    assert c.strided_in == (True, False, False, True) and c.strided_out == (True,)
    plan, inputs, memories = lower(B, net, c)
    (step,) = plan.steps
    assert isinstance(step, LibraryStep)

    def widened(ref: BufferRef, before: int, wide: int) -> BufferRef:
        _, _, h, w = (int(d) for d in ref.type.shape)
        return replace(ref, offset=4 * before, strides=(h * w * wide, 1, w * wide, wide))

    wide = 64
    refs = tuple(widened(ref, 5, wide) if strided else ref for ref, strided in zip(step.inputs, c.strided_in, strict=True))
    out = widened(step.outputs[0], 3, wide)
    given = []
    for v, a in zip((v for v in c.inputs if v not in {p.value for p in c.packs}), inputs, strict=True):
        given.append(np.pad(a, ((0, 0),) * 3 + ((5, wide - 5 - a.shape[3]),), constant_values=np.nan) if a.ndim == 4 else a)
        assert net.data[v].size == a.size
    result = np.full((2, 9, 7, wide), 7.0, np.float32)
    strided = Plan("wide", (replace(step, inputs=refs, outputs=(out,)),), plan.inputs, plan.prepared, plan.outputs)
    B.build(strided, Options()).run(
        [a.ctypes.data for a in given], tuple(m.address for m in memories), [result.ctypes.data], 2, 0
    )
    want = net.reference(y)
    np.testing.assert_allclose(result[..., 3:21].transpose(0, 3, 1, 2), want, atol=2e-5 * np.abs(want).max())
    assert (result[..., :3] == 7.0).all() and (result[..., 21:] == 7.0).all()


@pytest.mark.parametrize("m", [2, 4])
def test_error_is_close_to_a_direct_sum(m: int) -> None:
    """Mean error of 256 channels, against float64 and relative to a direct convolution in float32 by oneDNN."""
    net = Net()
    y = conv(net, net.input(1, 256, 16, 16, layout=IMAGE), 64, bias=False)
    net.data[net.inputs[0]] = np.maximum(net.data[net.inputs[0]], 0)  # as after a ReLU
    want = net.reference(y)

    def error(c: Candidate) -> float:
        plan, inputs, memories = lower(B, net, c)
        (got,) = run_plan(B, plan, inputs, [m.address for m in memories])
        return float(np.abs(got - want).mean())

    (own,) = candidates(net, y)
    direct = next(c for c in propose(B, net, y) if "oneDNN" in c.reason)
    assert error(cut(own, shape_of(own), Blocks(m, 16, 64, 64))) < {2: 1.6, 4: 3.0}[m] * error(direct)


@pytest.mark.parametrize("m", [2, 4])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nan_and_infinity_reach_exactly_what_they_should(m: int, value: float) -> None:
    for row, column in ((0, 0), (8, 8), (5, 12), (12, 15)):
        net = Net()
        x = net.input(2, 20, 13, 16, layout=IMAGE)
        y = net.op("add", conv(net, x, 27, ((1, 0), (1, 2))), net.input(2, 27, 12, 17, layout=IMAGE), layout=IMAGE)
        c = longest(candidates(net, y))
        net.data[x][1, 3, row, column] = value
        (got,) = run_plan(B, *lowered(net, cut(c, shape_of(c), Blocks(m, 7, 16, 16))))
        want = np.zeros(got.shape, bool)
        # Output (i, j) sees inputs i - 1 to i + 1, j - 1 to j + 1.
        want[1, :, max(0, row - 1) : row + 2, max(0, column - 1) : column + 2] = True
        np.testing.assert_array_equal(~np.isfinite(got), want)
        net.data[x][1, 3, row, column] = 0.0
        clean = net.reference(y)
        np.testing.assert_allclose(got[~want], clean[~want], atol=2e-5 * np.abs(clean).max())


def test_a_number_too_large_for_the_transforms_is_none_for_the_result() -> None:
    net = Net()
    x = net.input(1, 4, 8, 8, layout=IMAGE)
    y = conv(net, x, 16, bias=False)
    net.data[x] *= np.float32(2e38 / np.abs(net.data[x]).max())
    net.data[net.params[0]] *= np.float32(1e-2)
    (c,) = candidates(net, y)
    (got,) = run_plan(B, *lowered(net, c))
    want = net.reference(y)
    assert np.isfinite(got).all()
    np.testing.assert_allclose(got, want, atol=1e-4 * np.abs(want).max())


def test_nan_asks_for_no_other_plan() -> None:
    net = Net()
    y = conv(net, net.input(1, 8, 16, 16, layout=IMAGE), 8)
    (c,) = candidates(net, y)
    plan, inputs, _ = lower(B, net, c)
    inputs[0][0] = np.nan
    assert B.build(plan, Options()).exact("input", [a.ctypes.data for a in inputs], 2)


def lowered(net: Net, c: Candidate) -> tuple[Plan, list[np.ndarray], list[int]]:
    """What `run_plan` takes; keeps the packed weights alive with the network."""
    plan, inputs, memories = lower(B, net, c)
    net.kept = memories  # type: ignore[attr-defined]
    return plan, inputs, [m.address for m in memories]


def test_strict_forbids_it() -> None:
    net = Net()
    y = conv(net, net.input(1, 64, 28, 28, layout=IMAGE), 64)
    graph = net.graph(y)
    assert any("Winograd" in c.reason for c in B.candidates(graph, {}, Options()))
    assert not any("Winograd" in c.reason for c in B.candidates(graph, {}, Options(numerics="strict")))


@pytest.mark.parametrize("change", ["stride", "dilation", "groups", "window", "layout", "weights"])
def test_other_convolutions_are_left_alone(change: str) -> None:
    net = Net()
    layout = None if change == "layout" else IMAGE
    x = net.input(1, 16, 12, 12, layout=layout)
    attrs = conv_attrs(2, 2 if change == "stride" else 1, 1, 2 if change == "dilation" else 1, 2 if change == "groups" else 1)
    window = 5 if change == "window" else 3
    shape = (16, 8 if change == "groups" else 16, window, window)
    w = net.input(*shape) if change == "weights" else net.param(*shape)
    assert candidates(net, net.op("conv", x, w, layout=layout, **attrs)) == []


def test_only_wanted_groups_are_proposed() -> None:
    net = Net()
    y = net.op("relu", conv(net, net.input(1, 16, 12, 12, layout=IMAGE), 16), layout=IMAGE)
    graph = net.graph(y)
    both = frozenset(graph.nodes)
    assert [frozenset(c.nodes) for c in Winograd(Scope(graph, {}, B.machine)).propose({both})] == [both]
    assert len(Winograd(Scope(graph, {}, B.machine)).propose()) == 2


def test_declined_where_it_loses() -> None:
    """Three channels leave the products too short; one pixel leaves most of a tile unused."""
    for channels, size in ((3, 64), (256, 1)):
        net = Net()
        y = conv(net, net.input(1, channels, size, size, layout=IMAGE), 64)
        cheapest = min(propose(B, net, y), key=lambda c: c.seconds)
        assert "Winograd" not in cheapest.reason


def test_dims_are_those_of_the_kernel() -> None:
    net = Net()
    (c,) = candidates(net, conv(net, net.input(1, 16, 12, 12, layout=IMAGE), 16))
    d = WinogradDims(*c.impl.dims)
    assert (d.in_stride, d.out_stride, d.has_bias, d.has_residual) == (16, 16, 1, 0)
