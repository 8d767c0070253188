"""The gradient of max pooling by the native library, against the operators' definition."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from backend_x86.harness import Net, backend, check, lower, propose_own, run_plan
from nnaccel_core.ir import Value, channels_last
from nnaccel_core.ops.pool import pool_attrs

B = backend()

# channels, spatial extents, kernel, stride, paddings, dilation, ceil mode
SHAPES = [
    (64, (31, 30), (3, 3), (2, 2), ((1, 1), (1, 1)), (1, 1), False),
    (24, (16, 15), (3, 3), (2, 2), ((0, 0), (0, 0)), (1, 1), True),
    (7, (9, 12), (2, 2), (2, 2), ((0, 0), (0, 0)), (1, 1), False),
    (19, (40, 5), (3, 2), (1, 3), ((1, 0), (0, 1)), (2, 1), False),
    (33, (8, 8), (5, 5), (1, 1), ((2, 2), (2, 2)), (1, 1), False),
    (16, (10,), (3,), (2,), ((1, 1),), (1,), False),
]


def gradient(net: Net, batch: int, shape: tuple[Any, ...], integers: bool = True) -> Value:
    c, spatial, kernel, stride, pads, dilation, ceil = shape
    images = channels_last(len(spatial) + 2)
    attrs = pool_attrs(kernel, stride, pads, dilation=dilation, ceil_mode=ceil)
    x = net.input(batch, c, *spatial, layout=images)
    if integers:  # many equal maxima
        net.data[x] = np.round(net.data[x])
    top = net.op("max_pool", x, layout=images, **attrs)
    places = net.op("max_pool_positions", x, top, layout=images, **attrs, positions="int32")
    g = net.input(*(int(d) for d in top.shape), layout=images)
    return net.op("max_pool_backward", g, places, layout=images, **attrs, spatial=spatial)


@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: f"{s[0]}x{'x'.join(map(str, s[1]))}")
def test_shapes(shape: tuple[Any, ...]) -> None:
    for batch, threads in ((1, 1), (3, 2), (16, 2)):
        for integers in (True, False):
            net = Net()
            (c,) = propose_own(B, net, gradient(net, batch, shape, integers), kernel="max_pool_gradient")
            assert [n.op for n in c.nodes] == ["max_pool_positions", "max_pool_backward"]
            check(B, net, c, threads, rtol=1e-6)


def test_the_last_nan_of_a_window_gets_the_gradient() -> None:
    net = Net()
    dx = gradient(net, 2, SHAPES[0])
    x = net.data[net.inputs[0]]
    x[0, 3, 4:7, 5:9] = x[1, :, 0, 0] = x[1, 63, 30, 29] = np.nan
    (c,) = propose_own(B, net, dx, kernel="max_pool_gradient")
    check(B, net, c)
    plan, inputs, _ = lower(B, net, c)
    (got,) = run_plan(B, plan, inputs, [])
    assert np.isclose(got.sum(dtype=np.float64), net.data[net.inputs[1]].sum(dtype=np.float64))


def test_positions_that_others_read_stay() -> None:
    net = Net()
    dx = gradient(net, 2, SHAPES[0])
    assert not propose_own(B, net, dx, net.nodes[1].output, kernel="max_pool_gradient")
