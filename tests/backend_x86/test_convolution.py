"""oneDNN convolutions with every epilogue against float64, in the formats the backend packs."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from backend_x86.harness import Net, backend, check, conv_attrs, longest, lower, propose, run_plan
from nnaccel_backend_x86.onednn import PrimitiveCall
from nnaccel_core.ir import Value
from nnaccel_core.ir.types import channels_last
from nnaccel_core.options import Options

B = backend()
IMAGE = (0, 2, 3, 1)

# channels, output channels, size, kernel, stride, padding, dilation, groups
SHAPES = [
    (3, 32, 30, 3, 2, 1, 1, 1),
    (3, 24, 29, 7, 2, 3, 1, 1),
    (64, 64, 14, 3, 1, 1, 1, 1),
    (256, 256, 14, 3, 1, 1, 1, 1),  # refuses the format pinned at one image: runs in slices
    (16, 96, 28, 1, 1, 0, 1, 1),
    (64, 128, 14, 1, 2, 0, 1, 1),
    (33, 65, 13, 3, 1, 1, 1, 1),
    (7, 5, 9, 1, 1, 0, 1, 1),
    (1, 1, 8, 3, 1, 1, 1, 1),
    (24, 40, 15, 3, 1, 2, 2, 1),
    (32, 32, 12, 3, 1, 1, 1, 4),
    (96, 96, 14, 3, 1, 1, 1, 96),
    (96, 96, 15, 3, 2, 1, 1, 96),
    (40, 40, 14, 5, 1, 2, 1, 40),
    (33, 33, 9, 3, 1, 1, 1, 33),
    (320, 1280, 7, 1, 1, 0, 1, 1),
]


def convolution(
    net: Net, batch: int, c: int, o: int, size: int, k: int, s: int, p: int, d: int, g: int, bias: bool = True
) -> Value:
    x = net.input(batch, c, size, size, layout=IMAGE)
    w = net.param(o, c // g, k, k)
    operands = (x, w, net.param(o)) if bias else (x, w)
    return net.op("conv", *operands, layout=IMAGE, **conv_attrs(2, s, p, d, g))


@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: "x".join(map(str, s)))
@pytest.mark.parametrize("batch", [1, 3, 16])
def test_convolution(shape: tuple[int, ...], batch: int) -> None:
    net = Net()
    y = convolution(net, batch, *shape)
    (c,) = propose(B, net, y)
    assert "ref" not in c.reason
    check(B, net, c)


@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: "x".join(map(str, s)))
def test_weight_format_does_not_depend_on_the_batch(shape: tuple[int, ...]) -> None:
    keys = set()
    for batch in (1, 2, 3, 16, 17):
        net = Net()
        (c,) = propose(B, net, convolution(net, batch, *shape))
        keys.add((c.packs[0].key, c.packs[0].nbytes))
    assert len(keys) == 1


ACTIVATIONS: list[tuple[str, dict[str, Any]]] = [
    ("relu", {}),
    ("clip", {"min": 0.0, "max": 6.0}),
    ("clip", {"min": float("-inf"), "max": 0.5}),
    ("leaky_relu", {"alpha": 0.1}),
    ("sigmoid", {}),
    ("tanh", {}),
    ("silu", {}),
    ("hardswish", {}),
    ("gelu", {"approximate": "none"}),
    ("gelu", {"approximate": "tanh"}),
]


@pytest.mark.parametrize("name,attrs", ACTIVATIONS, ids=lambda v: v if isinstance(v, str) else "-".join(map(str, v.values())))
@pytest.mark.parametrize("order", ["act", "add-act", "act-add", "channel-act", "channel-add-act"])
@pytest.mark.parametrize("shape", [SHAPES[2], SHAPES[4], SHAPES[11], SHAPES[0]], ids=["3x3", "1x1", "depthwise", "stem"])
def test_epilogues(name: str, attrs: dict[str, Any], order: str, shape: tuple[int, ...]) -> None:
    net = Net()
    y = convolution(net, 2, *shape)
    for step in order.split("-"):
        if step == "act":
            y = net.op(name, y, layout=IMAGE, **attrs)
        elif step == "add":
            y = net.op("add", net.input(*y.shape, layout=IMAGE), y, layout=IMAGE)
        else:
            y = net.op("add", y, net.param(1, y.shape[1], 1, 1), layout=IMAGE)
    candidates = propose(B, net, y)
    assert sorted(len(c.nodes) for c in candidates) == list(range(1, len(net.nodes) + 1))  # every length of the chain
    # gelu's polynomial is good to 3e-5 of the largest value
    check(B, net, longest(candidates), rtol=1e-4 if name == "gelu" else 2e-5)


def test_residual_and_channel_forms_of_the_operand() -> None:
    for shape in [(1, 64, 1, 1), (64, 1, 1), (1, 1, 1, 1), (1,)]:
        net = Net()
        y = convolution(net, 2, *SHAPES[2])
        y = net.op("add", y, net.param(*shape), layout=IMAGE)
        check(B, net, longest(propose(B, net, y)))


def test_a_value_used_twice_ends_the_chain() -> None:
    net = Net()
    y = convolution(net, 1, *SHAPES[2])
    z = net.op("relu", y, layout=IMAGE)
    out = net.op("add", z, y, layout=IMAGE)  # reads y again: neither relu nor add may swallow it
    assert [len(c.nodes) for c in propose(B, net, out)] == [1]


def test_a_result_of_the_graph_ends_the_chain() -> None:
    net = Net()
    y = convolution(net, 1, *SHAPES[2])
    z = net.op("relu", y, layout=IMAGE)
    assert [len(c.nodes) for c in propose(B, net, y, z)] == [1]


def test_doubling_a_value_is_no_residual() -> None:
    net = Net()
    y = convolution(net, 1, *SHAPES[2])
    assert [len(c.nodes) for c in propose(B, net, net.op("add", y, y, layout=IMAGE))] == [1]


@pytest.mark.parametrize("name,attrs", ACTIVATIONS, ids=lambda v: v if isinstance(v, str) else "-".join(map(str, v.values())))
def test_strict_numerics_keeps_nan(name: str, attrs: dict[str, Any]) -> None:
    for shape in (SHAPES[2], SHAPES[4]):
        net = Net()
        y = convolution(net, 1, *shape)
        y = net.op(name, y, layout=IMAGE, **attrs)
        net.data[net.inputs[0]][0, 0, 0, 0] = np.nan
        candidates = B.candidates(net.graph(y), {}, Options(numerics="strict"))
        c = longest(candidates, lambda c: isinstance(c.impl, PrimitiveCall))
        assert (len(c.nodes) == 1) == (name in ("relu", "clip"))
        plan, inputs, memories = lower(B, net, c)
        (got,) = run_plan(B, plan, inputs, [m.address for m in memories])
        assert np.isnan(got[0, :, 0, 0]).all() and np.isfinite(got[0, :, 5, 5]).all()


def test_no_bias_and_asymmetric_padding() -> None:
    for pads, stride in itertools.product([((0, 1), (0, 1)), ((1, 0), (2, 3))], [1, 2]):
        net = Net()
        x, w = net.input(2, 24, 12, 11, layout=IMAGE), net.param(32, 24, 3, 3)
        y = net.op("conv", x, w, layout=IMAGE, stride=(stride, stride), padding=pads, dilation=(1, 1), groups=1)
        (c,) = propose(B, net, y)
        check(B, net, c)


@pytest.mark.parametrize("layout", [IMAGE, (0, 1, 2, 3)], ids=["channels-last", "row-major"])
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("groups", [1, 2, 48])
@pytest.mark.parametrize(
    "size,window,stride,pads", [(40, 5, 1, (0, 0)), (33, 3, 2, (2, 1)), (7, 1, 1, (0, 0)), (1, 1, 3, (0, 0))]
)
def test_columns_of_pixels(
    layout: tuple[int, ...], batch: int, groups: int, size: int, window: int, stride: int, pads: tuple[int, int]
) -> None:
    net = Net()
    x, w = net.input(batch, 48, size, 1, layout=layout), net.param(96, 48 // groups, window, 1)
    attrs = {"stride": (stride, 2), "padding": (pads, (0, 0)), "dilation": (1, 3), "groups": groups}
    y = net.op("conv", x, w, net.param(96), layout=layout, **attrs)
    y = net.op("add", net.input(*y.shape, layout=layout), y, layout=layout)
    y = net.op("relu", net.op("add", y, net.param(96, 1, 1), layout=layout), layout=layout)
    candidates = propose(B, net, y)
    assert candidates or layout != IMAGE
    for c in candidates:
        check(B, net, c)


@pytest.mark.parametrize("spatial", [(40,), (6, 7, 8)], ids=["1d", "3d"])
def test_other_ranks(spatial: tuple[int, ...]) -> None:
    nd = len(spatial)
    layout = channels_last(nd + 2)
    net = Net()
    x, w = net.input(2, 16, *spatial, layout=layout), net.param(32, 16, *(3,) * nd)
    y = net.op("conv", x, w, net.param(32), layout=layout, **conv_attrs(nd, 1, 1))
    for c in propose(B, net, y):
        check(B, net, c)


def test_weights_computed_at_run_time_are_read_where_they_lie() -> None:
    net = Net()
    x, w = net.input(1, 16, 8, 8, layout=IMAGE), net.input(16, 16, 3, 3)
    y = net.op("conv", x, w, layout=IMAGE, **conv_attrs(2, 1, 1))
    for c in propose(B, net, y):
        assert not c.packs
        check(B, net, c)


def test_reference_code_is_never_proposed() -> None:
    # oneDNN has only reference code for a row-major image written channels-last (stem of a torch network).
    net = Net()
    x = net.input(1, 3, 32, 32)
    r = net.op("reorder", x, layout=IMAGE)
    y = net.op("conv", r, net.param(16, 3, 3, 3), layout=IMAGE, **conv_attrs(2, 1, 1))
    for c in propose(B, net, y):
        assert "ref" not in c.reason
        check(B, net, c)


def test_fewer_and_more_threads_than_planned() -> None:
    for threads in (1, 2, 3):
        for shape in (SHAPES[2], SHAPES[3], SHAPES[4], SHAPES[11]):
            net = Net()
            y = convolution(net, 2, *shape)
            (c,) = propose(B, net, y)
            check(B, net, c, threads=threads)
