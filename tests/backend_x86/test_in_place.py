"""Residuals whose memory the result takes over: right, and only where nothing reads them any more."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from backend_x86.harness import Net, backend, conv_attrs, pack, physical, run_plan
from nnaccel_core.ir import Value
from nnaccel_core.options import Options
from nnaccel_core.place import Placed, place
from nnaccel_core.plan import LibraryStep
from nnaccel_core.select.cover import select

B = backend()
IMAGE = (0, 2, 3, 1)


def conv(net: Net, x: Value, out: int, kernel: int = 1, groups: int = 1) -> Value:
    w = net.param(out, x.type.shape[1] // groups, kernel, kernel)  # type: ignore[operator]
    return net.op("conv", x, w, net.param(out), layout=IMAGE, **conv_attrs(2, 1, kernel // 2, 1, groups))


def placed(net: Net, *outputs: Value, numerics: str = "fast") -> Placed:
    graph = net.graph(*outputs)
    return place(graph, select(graph, B.candidates(graph, {}, Options(numerics=numerics))), {})


def over(p: Placed) -> list[LibraryStep]:
    """Steps that write over one of their inputs."""
    return [s for s in p.plan.steps if isinstance(s, LibraryStep) and s.outputs[0].space == "arena" and s.outputs[0] in s.inputs]


def check(net: Net, p: Placed, *outputs: Value) -> None:
    owners = []
    addresses = []
    for v, form in p.prepared:
        array = net.data[v]
        if form is not None:
            owners.append(pack(B, array, form.key, form.nbytes))
            addresses.append(owners[-1].address)
        else:
            addresses.append(array.ctypes.data)
    given = [physical(net.data[v], v.type) for v in net.inputs]
    for threads in (2, 1):
        for got, v in zip(run_plan(B, p.plan, given, addresses, threads), outputs, strict=True):
            want = net.reference(v)
            assert float(np.abs(got - want).max()) < 5e-5 * max(1.0, float(np.abs(want).max()))


@pytest.mark.parametrize("batch", [1, 3, 8])
@pytest.mark.parametrize("kernel,groups", [(1, 1), (3, 1), (3, 64), (3, 4)], ids=["1x1", "3x3", "depthwise", "grouped"])
@pytest.mark.parametrize("order", ["add", "add-act", "act-add", "channel-add-act"])
def test_residual(batch: int, kernel: int, groups: int, order: str) -> None:
    net = Net()
    x = net.input(batch, 64, 14, 14, layout=IMAGE)
    r = conv(net, x, 64)
    y = conv(net, conv(net, r, 64), 64, kernel, groups)
    for step in order.split("-"):
        if step == "act":
            y = net.op("relu", y, layout=IMAGE)
        elif step == "add":
            y = net.op("add", y, r, layout=IMAGE)
        else:
            y = net.op("add", y, net.param(1, 64, 1, 1), layout=IMAGE)
    z = conv(net, y, 64)
    p = placed(net, z)
    if order in ("add", "add-act"):
        assert len(over(p)) == 1
    check(net, p, z)


def test_large_1x1_that_runs_in_slices() -> None:
    net = Net()
    x = net.input(4, 64, 56, 56, layout=IMAGE)
    r = conv(net, x, 256)
    y = net.op("relu", net.op("add", conv(net, x, 256), r, layout=IMAGE), layout=IMAGE)
    z = conv(net, y, 16)
    p = placed(net, z)
    assert over(p)
    check(net, p, z)


def test_a_residual_that_is_used_later_keeps_its_memory() -> None:
    net = Net()
    x = net.input(1, 64, 14, 14, layout=IMAGE)
    r = conv(net, x, 64)
    y = net.op("add", conv(net, r, 64, 3), r, layout=IMAGE)
    z = net.op("add", conv(net, y, 64, 3), r, layout=IMAGE)
    out = conv(net, z, 64)
    p = placed(net, out)
    assert [s.origin for s in over(p)] == [n.origin for n in net.nodes if n.op == "conv"][2:3]
    check(net, p, out)


def test_a_residual_that_the_convolution_itself_reads_keeps_its_memory() -> None:
    net = Net()
    r = conv(net, net.input(1, 64, 14, 14, layout=IMAGE), 64)
    y = net.op("add", conv(net, r, 64, 3), r, layout=IMAGE)
    out = conv(net, y, 64)
    p = placed(net, out)
    assert not over(p)
    check(net, p, out)


def test_inputs_parameters_and_results_keep_their_memory() -> None:
    net = Net()
    x = net.input(1, 64, 14, 14, layout=IMAGE)
    r = conv(net, x, 64)
    y = net.op("add", conv(net, r, 64), x, layout=IMAGE)  # an input
    u = conv(net, y, 64)
    z = net.op("add", conv(net, u, 64), y, layout=IMAGE)  # a result
    out = conv(net, z, 64)
    p = placed(net, y, out)
    assert not over(p)
    check(net, p, y, out)


def test_a_chain_of_blocks_stays_in_one_memory() -> None:
    net = Net()
    y = conv(net, net.input(2, 64, 14, 14, layout=IMAGE), 64)
    for _ in range(4):
        inner = conv(net, conv(net, y, 32), 64, 3)
        y = net.op("relu", net.op("add", inner, y, layout=IMAGE), layout=IMAGE)
    out = conv(net, y, 64)
    p = placed(net, out)
    assert len(over(p)) == 4
    assert len({s.outputs[0].offset for s in over(p)}) == 1
    check(net, p, out)


def test_an_operand_that_only_broadcasts_is_not_written_over() -> None:
    for shape in itertools.product((1, 2), (64,), (1,), (1,)):
        net = Net()
        x = net.input(2, 64, 6, 6, layout=IMAGE)
        pooled: Any = net.op("reduce_mean", x, layout=IMAGE, axes=(0, 2, 3) if shape[0] == 1 else (2, 3), keepdims=True)
        y = net.op("add", conv(net, x, 64), pooled, layout=IMAGE)
        candidates = B.candidates(net.graph(y), {}, Options())
        assert candidates and not any(c.inplace for c in candidates)
