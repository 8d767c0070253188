"""Kernels depend on structure, never on extents or names; and planning known structures is quick."""

from __future__ import annotations

import time

import numpy as np
import pytest

from dfp.helpers import MACHINE, Net, built, whole
from dfp.networks import efficientnet_lite0
from nnaccel_core.dfp import build as build_module
from nnaccel_core.dfp import propose
from nnaccel_core.dfp.group import generalize, pattern
from nnaccel_core.dfp.merge import Context
from nnaccel_core.ir import Graph, Value
from nnaccel_core.loopir.format import format_kernel
from nnaccel_core.options import Options


def _block(channels: int, h: int, w: int, k: int = 3, s: int = 1, batch: object = "n", prefix: int = 0) -> Graph:
    net = Net()
    for _ in range(prefix):  # other names for everything
        net.param(1)
        net.op("relu", net.input(2))
    x = net.input(batch, channels, h, w)
    y = net.relu6(net.depthwise(net.relu6(x), k, s))
    net.nodes = net.nodes[prefix:]
    net.inputs, net.params = net.inputs[prefix:], net.params[prefix:]
    return net.graph(y)


def _text(graph: Graph) -> str:
    return format_kernel(built(whole(graph)).kernel)


def test_sizes_share_a_kernel() -> None:
    first = built(whole(_block(32, 56, 56)))
    for graph in (_block(144, 28, 28), _block(8, 7, 9), _block(32, 56, 56, prefix=3), _block(240, 14, 14, batch=16)):
        assert built(whole(graph)).kernel is first.kernel


def test_text_is_built_anew_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    a = _text(_block(32, 56, 56))
    monkeypatch.setattr(build_module, "_built", {})
    assert _text(_block(96, 28, 30, prefix=2)) == a


def test_strides_and_windows_do_not() -> None:
    texts = {_text(_block(32, 56, 56, k, s)) for k, s in ((3, 1), (3, 2), (5, 1), (5, 2))}
    assert len(texts) == 4


def test_batch_one_as_a_symbol_is_no_broadcast() -> None:
    graph = _block(32, 56, 56)
    texts = set()
    for n in (1, 16):
        for c in propose(graph, {"n": n}, MACHINE, Options(), "test"):
            if len(c.nodes) == 1 and c.nodes[0].op == "conv":
                texts.add(format_kernel(c.impl.calls[0].kernel))
    assert len(texts) == 1


def test_extents_that_coincide_stay_apart() -> None:
    net = Net()
    x, y = net.input(8, 8), net.input(8)
    general = generalize(whole(net.graph(net.op("add", x, y))))
    a, b = general.group.inputs
    # The structure says that y's axis is x's last; that x is square is chance.
    assert a.shape[0] != a.shape[1]
    assert b.shape[0] == a.shape[1]


def test_equalities_found_late_reach_the_first_inputs() -> None:
    net = Net()
    x, y, z = net.input(4, 5), net.input(4, 5), net.input(4, 5)
    a, b = net.op("relu", x), net.op("relu", y)
    general = generalize(whole(net.graph(net.op("add", net.op("mul", a, z), b))))
    assert len({v.shape for v in general.group.inputs}) == 1


def test_user_symbols_in_attributes() -> None:
    net = Net()
    x = net.input("length", 6)
    g = net.graph(net.op("slice", x, starts=(0, 1), ends=(x.shape[0], 5), steps=(2, 1)))
    (c,) = propose(g, {"length": 9}, MACHINE, Options(), "test")
    call = c.impl.calls[0]
    assert "length" not in call.kernel.dims
    assert sorted(call.dims[:3]) == [6, 9, 9] or 9 in call.dims


def test_scalar_constants_are_part_of_the_structure() -> None:
    kernels = []
    for value in (1.0, 2.0):
        net = Net()
        x = net.input("n", 6)
        two = net.op("constant", value=np.asarray(value, np.float32))
        g = net.graph(net.op("mul", x, two))
        ctx = Context(g, {}, MACHINE)
        kernels.append(built(whole(g), ctx.constants).kernel)
    assert kernels[0] is not kernels[1]
    assert all(len(k.buffers) == 2 for k in kernels)


def test_pattern_orders_arguments_by_first_use() -> None:
    net = Net()
    x, y = net.input(4, 5), net.input(4, 5)
    out: Value = net.op("sub", y, x)
    assert pattern(net.nodes, (out,)).inputs == (y, x)


def test_planning_speed() -> None:
    """Generous factors over the aims (0.5 s cold, 30 ms for known structures): machines are shared."""
    graph = efficientnet_lite0()
    start = time.perf_counter()
    propose(graph, {"n": 1}, MACHINE, Options(), "test")
    cold = time.perf_counter() - start
    times = []
    for n, size in ((16, 224), (3, 192), (5, 160)):
        other = efficientnet_lite0("n", size)
        start = time.perf_counter()
        propose(other, {"n": n}, MACHINE, Options(), "test")
        times.append(time.perf_counter() - start)
    assert cold < 3.0
    assert min(times) < 0.15
