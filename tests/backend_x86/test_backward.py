"""Gradients of convolutions, by oneDNN and by our own kernels, against float64."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from backend_x86.harness import Net, backend, check, lower, run_plan
from nnaccel_backend_x86.onednn import PrimitiveCall
from nnaccel_backend_x86.weights_gradient import Blocks, GradientDims
from nnaccel_backend_x86.winograd_gradient import Cut, exact_blocks, scratch
from nnaccel_core.ir import Value
from nnaccel_core.ir.types import channels_last
from nnaccel_core.ops.registry import Sample, lookup
from nnaccel_core.options import Options
from nnaccel_core.select.candidate import Candidate

B = backend()
IMAGE = (0, 2, 3, 1)
OPS = ("conv_backward_data", "conv_backward_weights")

# channels, output channels, height, width, kernel, stride, (paddings before and after), dilation, groups
SHAPES = [
    (3, 32, 30, 29, 7, 2, ((3, 3), (3, 3)), 1, 1),
    (64, 64, 14, 14, 3, 1, ((1, 1), (1, 1)), 1, 1),
    (48, 80, 14, 13, 1, 1, ((0, 0), (0, 0)), 1, 1),
    (64, 40, 15, 16, 1, 2, ((0, 0), (0, 0)), 1, 1),
    (33, 65, 13, 12, 3, 2, ((1, 1), (1, 1)), 1, 1),
    (24, 40, 15, 9, 3, 1, ((2, 2), (2, 2)), 2, 1),
    (16, 24, 12, 11, 3, 1, ((0, 1), (2, 0)), 1, 1),
    (16, 24, 12, 11, 3, 2, ((0, 1), (1, 2)), 1, 1),
    (20, 7, 5, 6, 4, 3, ((3, 2), (1, 1)), 2, 1),
    (1, 1, 4, 3, 3, 1, ((1, 1), (1, 1)), 1, 1),
    (2, 3, 2, 2, 3, 1, ((2, 2), (2, 2)), 1, 1),
    (32, 32, 12, 12, 3, 1, ((1, 1), (1, 1)), 1, 4),
    (40, 40, 14, 13, 3, 1, ((1, 1), (1, 1)), 1, 40),
    (40, 40, 15, 13, 5, 2, ((2, 2), (2, 2)), 1, 40),
    (24, 48, 9, 9, 3, 2, ((1, 1), (1, 1)), 1, 24),
]


def extent(size: int, kernel: int, stride: int, pad: tuple[int, int], dilation: int) -> int:
    return (size + sum(pad) - dilation * (kernel - 1) - 1) // stride + 1


def gradient(net: Net, op: str, batch: int, shape: tuple[Any, ...], parameters: bool = True) -> Value:
    c, o, h, w, k, s, pads, d, groups = shape
    attrs = {"stride": (s, s), "padding": pads, "dilation": (d, d), "groups": groups}
    g = net.input(batch, o, extent(h, k, s, pads[0], d), extent(w, k, s, pads[1], d), layout=IMAGE)
    if op == "conv_backward_data":
        weights = net.param(o, c // groups, k, k) if parameters else net.input(o, c // groups, k, k)
        return net.op(op, g, weights, layout=IMAGE, **attrs, spatial=(h, w))
    return net.op(op, g, net.input(batch, c, h, w, layout=IMAGE), **attrs, window=(k, k))


def candidates(net: Net, *outputs: Value, numerics: str = "fast") -> Sequence[Candidate]:
    return B.candidates(net.graph(*outputs), {}, Options(numerics=numerics))


def is_onednn(c: Candidate) -> bool:
    return isinstance(c.impl, PrimitiveCall)


def own(net: Net, y: Value, kernel: str = "weights_gradient") -> Candidate:
    """The candidate by this kernel of the native library, or by its form for few channels."""
    (found,) = (c for c in candidates(net, y) if not is_onednn(c) and c.impl.name in (kernel, f"joined_{kernel}"))
    return found


def cut(c: Candidate, b: Blocks) -> Candidate:
    """The candidate with its work cut another way."""
    d = GradientDims(*c.impl.dims[:15])
    dims = (*c.impl.dims[:17], b.outer, b.inner, b.rows, *c.impl.dims[20:])
    return replace(c, impl=replace(c.impl, dims=dims, tasks=b.tasks(d), scratch=b.scratch(d)))


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: "x".join(map(str, s[:6])))
def test_shapes(op: str, shape: tuple[Any, ...]) -> None:
    for batch, threads in ((1, 1), (3, 2), (16, 1)):
        net = Net()
        found = candidates(net, gradient(net, op, batch, shape))
        assert any(is_onednn(c) for c in found)
        if op == "conv_backward_weights" and shape[-1] == 1:
            assert any(not is_onednn(c) for c in found)
        for c in found:
            assert "ref" not in c.reason
            check(B, net, c, threads)


def samples() -> list[tuple[str, Sample]]:
    return [(op, s) for op in OPS for s in lookup(op).samples()]


@pytest.mark.parametrize("op,sample", samples(), ids=lambda v: v if isinstance(v, str) else "x".join(map(str, v.inputs[1].shape)))
def test_samples(op: str, sample: Sample) -> None:
    net = Net()
    rank = sample.inputs[0].ndim
    images = (0, 1) if op == "conv_backward_weights" else (0,)
    values = [net.input(*a.shape, layout=channels_last(rank) if i in images else None) for i, a in enumerate(sample.inputs)]
    net.data.update(zip(values, sample.inputs, strict=True))
    y = net.op(op, *values, layout=channels_last(rank) if op == "conv_backward_data" else None, **sample.attrs)
    found = candidates(net, y)
    assert found
    for c in found:
        for threads in (1, 2):
            check(B, net, c, threads)


@pytest.mark.parametrize("shape", [SHAPES[i] for i in (0, 1, 2, 3, 4, 7, 8)], ids=lambda s: "x".join(map(str, s[:6])))
def test_cuts(shape: tuple[Any, ...]) -> None:
    net = Net()
    y = gradient(net, "conv_backward_weights", 5, shape)
    c = own(net, y)
    d = GradientDims(*c.impl.dims[:15])
    panels = -(-d.channels // 16) * 16
    h = d.out_height
    assert (c.impl.name == "joined_weights_gradient") == (shape[0] < 16)
    for blocks in ((1, 16, 1), (7, panels, min(2, h)), (d.out_channels, 32, h), (16, 16, 2 * h)):
        for threads in (1, 2):
            check(B, net, cut(c, Blocks(*blocks)), threads)


def test_the_cut_that_the_machine_gets_fits_its_cache() -> None:
    same, none = ((1, 1), (1, 1)), ((0, 0), (0, 0))
    for i, o, h, k, s, pads in ((64, 64, 56, 3, 1, same), (512, 512, 7, 3, 1, same), (1024, 2048, 14, 1, 2, none)):
        net, shape = Net(), (i, o, h, h, k, s, pads, 1, 1)
        c = own(net, gradient(net, "conv_backward_weights", 16, shape))
        assert c.impl.scratch <= 4 * B.machine.l2 and c.impl.tasks >= B.machine.cores


def test_weights_that_are_no_parameters() -> None:
    net = Net()
    y = gradient(net, "conv_backward_data", 2, SHAPES[1], parameters=False)
    found = candidates(net, y)
    assert found and not any(c.packs for c in found)
    for c in found:
        check(B, net, c)


@pytest.mark.parametrize("shape", SHAPES[12:], ids=lambda s: "x".join(map(str, s[:6])))
def test_depthwise_weights_with_channels_innermost(shape: tuple[Any, ...]) -> None:
    """As `assign_layouts` has them, for the generated kernels."""
    _, o, h, w, k, s, pads, d, groups = shape
    net = Net()
    g = net.input(2, o, extent(h, k, s, pads[0], d), extent(w, k, s, pads[1], d), layout=IMAGE)
    weights = net.input(o, 1, k, k, layout=(2, 3, 1, 0))
    attrs = {"stride": (s, s), "padding": pads, "dilation": (d, d), "groups": groups, "spatial": (h, w)}
    (found,) = candidates(net, net.op("conv_backward_data", g, weights, layout=IMAGE, **attrs))
    check(B, net, found)


def test_gradients_are_added_up_in_the_epilogue() -> None:
    for shape, kernels in ((SHAPES[1], {"product", "winograd"}), (SHAPES[2], {"product"})):
        net = Net()
        y = gradient(net, "conv_backward_data", 3, shape)
        z = net.op("add", net.input(*y.shape, layout=IMAGE), y, layout=IMAGE)
        both = [c for c in candidates(net, z) if len(c.nodes) == 2]
        assert {c.impl.name for c in both} == kernels
        for c in both:
            assert c.inplace
            check(B, net, c)


def test_only_wanted_sets_are_weighed() -> None:
    net = Net()
    y = gradient(net, "conv_backward_data", 3, SHAPES[1])
    z = net.op("relu", y, layout=IMAGE)
    graph = net.graph(z)
    every = B.candidates(graph, {}, Options())
    for nodes in {frozenset(c.nodes) for c in every}:
        found = B.candidates(graph, {}, Options(), {nodes})
        assert sorted(c.reason for c in found) == sorted(c.reason for c in every if frozenset(c.nodes) == nodes)


def reach(net: Net, y: Value, place: tuple[int, ...]) -> np.ndarray[Any, Any]:
    """Which elements of ``y`` depend on the element ``place`` of the first input: a window's part in the padding does not."""
    given = dict(net.data)
    net.data.update({v: np.ones_like(a) for v, a in given.items()})
    net.data[net.inputs[0]] = np.zeros_like(given[net.inputs[0]])
    net.data[net.inputs[0]][place] = 1.0
    found = net.reference(y) != 0.0
    net.data.update(given)
    return found


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("numerics", ["fast", "strict"])
def test_nan_and_infinity_reach_what_they_should(stride: int, numerics: str) -> None:
    shape = (20, 24, 9, 10, 3, stride, ((1, 1), (1, 1)), 1, 1)
    for op in OPS:
        for place, value in (((0, 3, 0, 0), np.nan), ((1, 5, 2, 2), np.inf), ((0, 7, -1, -1), -np.inf)):
            net = Net()
            y = gradient(net, op, 2, shape)
            reached = reach(net, y, place)
            net.data[net.inputs[0]][place] = value
            for c in candidates(net, y, numerics=numerics):
                plan, inputs, memories = lower(B, net, c)
                (got,) = run_plan(B, plan, inputs, [m.address for m in memories])
                np.testing.assert_array_equal(~np.isfinite(got), reached, err_msg=f"{op}: {c.reason}")


def test_long_sums_are_as_exact_as_they_can_be() -> None:
    """Sums over 200,000 pixels: ours adds up parts of them."""
    net = Net()
    y = gradient(net, "conv_backward_weights", 16, (8, 16, 112, 112, 3, 1, ((1, 1), (1, 1)), 1, 1))
    check(B, net, own(net, y), rtol=2e-6)
    check(B, net, own(net, y, "winograd_gradient"), rtol=6e-6)


@pytest.mark.parametrize("shape", [SHAPES[i] for i in (1, 6, 9, 10)], ids=lambda s: "x".join(map(str, s[:6])))
def test_winograd_cuts(shape: tuple[Any, ...]) -> None:
    net = Net()
    y = gradient(net, "conv_backward_weights", 3, shape)
    c = own(net, y, "winograd_gradient")
    d = GradientDims(*c.impl.dims[:15])
    for k in (Cut(1, 16, 1), Cut(7, 16, 5), Cut(d.out_channels, 48, 1000), Cut(16, 32, 12)):
        dims = (*c.impl.dims[:17], k.outer, k.inner, 1, k.tiles)
        impl = replace(c.impl, dims=dims, tasks=exact_blocks(d, k).tasks(d), scratch=scratch(d, k))
        for threads in (1, 2):
            check(B, net, replace(c, impl=impl), threads)


def test_strict_numerics_have_no_winograd() -> None:
    for op in OPS:
        net = Net()
        y = gradient(net, op, 2, SHAPES[1])
        assert any("Winograd" in c.reason for c in candidates(net, y))
        assert not any("Winograd" in c.reason for c in candidates(net, y, numerics="strict"))


def test_products_of_training() -> None:
    """The gradients of a fully connected layer: of its input, and of its weights."""
    for rows in (1, 3, 16, 40):
        net = Net()
        g, x, w = net.input(rows, 50), net.input(rows, 70), net.param(50, 70)
        dx, dw = net.op("matmul", g, w), net.op("matmul", g, x, transpose_a=True)
        found = candidates(net, dx, dw)
        assert {c.outputs[0] for c in found} == {dx, dw}
        for c in found:
            check(B, net, c)
