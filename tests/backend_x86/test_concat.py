"""Concats whose parts are written where they belong: no copy in the plan, or only of what could not be."""

from __future__ import annotations

import pytest

from backend_x86.harness import Net, backend
from backend_x86.test_in_place import check, conv, placed
from nnaccel_backend_x86.builtin import BuiltinCall
from nnaccel_backend_x86.products import ConcatCall
from nnaccel_core.ir import Value
from nnaccel_core.place import Placed
from nnaccel_core.plan import LibraryStep

B = backend()
IMAGE = (0, 2, 3, 1)


def concat(net: Net, *parts: Value, axis: int = 1) -> Value:
    return net.op("concat", *parts, axis=axis, layout=parts[0].type.layout)


def copies(p: Placed) -> list[int]:
    """How many parts each concat of the plan copies."""
    found = []
    for step in p.plan.steps:
        assert isinstance(step, LibraryStep)
        if isinstance(step.candidate.impl, ConcatCall):
            call = step.candidate.impl.bound(step)
            found.append(0 if call is None else call.dims[3])
    return found


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("result", [False, True], ids=["inner", "result"])
def test_producers_write_into_the_buffer_of_the_concat(batch: int, result: bool) -> None:
    net = Net()
    x = net.input(batch, 24, 9, 7, layout=IMAGE)
    parts = [net.op("relu", conv(net, x, o, k), layout=IMAGE) for o, k in ((21, 1), (32, 3), (5, 1))]
    y = concat(net, *parts)
    y = y if result else conv(net, y, 40)
    p = placed(net, y)
    assert copies(p) == [0]
    writers = {s.candidate.outputs[0]: s.outputs[0] for s in p.plan.steps if isinstance(s, LibraryStep)}
    rows = [writers[v].element_strides()[3] for v in parts]
    assert rows == [58, 58, 58]
    offsets = [writers[v].offset for v in parts]
    assert [o - offsets[0] for o in offsets] == [0, 4 * 21, 4 * 53]
    assert all((writers[v].space == "output") == result for v in parts)
    check(net, p, y)


def dense_block(net: Net, x: Value, layers: int) -> Value:
    """Each layer reads all before it: BatchNorm, ReLU, 1x1, ReLU, 3x3."""
    features = [x]
    for _ in range(layers):
        y = concat(net, *features) if len(features) > 1 else x
        c = y.shape[1]
        y = net.op("mul", y, net.param(c, 1, 1), layout=IMAGE)  # type: ignore[arg-type]
        y = net.op("relu", net.op("add", y, net.param(c, 1, 1), layout=IMAGE), layout=IMAGE)  # type: ignore[arg-type]
        y = net.op("relu", conv(net, y, 48), layout=IMAGE)
        features.append(conv(net, y, 16, 3))
    return concat(net, *features)


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("given", [False, True], ids=["computed", "input"])
def test_a_dense_block_is_one_buffer(batch: int, given: bool) -> None:
    net = Net()
    x = net.input(batch, 40, 14, 14, layout=IMAGE)
    y = conv(net, dense_block(net, x if given else conv(net, x, 40), 4), 30)
    p = placed(net, y)
    # An input has memory of its own: it is copied once, for all concats.
    assert copies(p) == ([1, 0, 0, 0] if given else [0, 0, 0, 0])
    prologues = [s for s in p.plan.steps if len(s.candidate.nodes) > 3]  # type: ignore[union-attr]
    assert len(prologues) == 4  # mul + add + relu + conv + relu, reading slices of the one buffer
    assert [s.inputs[0].element_strides()[3] for s in prologues] == [40 if given else 104, 104, 104, 104]
    places = {(s.outputs[0].offset, s.outputs[0].type) for s in p.plan.steps if s.outputs[0].strides is not None}  # type: ignore[union-attr]
    assert len(places) >= 4
    check(net, p, y)


def test_what_keeps_memory_of_its_own() -> None:
    """A result of the graph; what a kernel reads that takes no slices; an operand that occurs twice."""
    net = Net()
    x = net.input(2, 16, 6, 5, layout=IMAGE)
    a, b, c = (conv(net, x, 16) for _ in range(3))
    grouped = conv(net, b, 16, 3, groups=4)
    y = concat(net, a, b, c, c)
    p = placed(net, y, a, grouped)
    assert copies(p) == [3]  # all but one of c
    check(net, p, y, a, grouped)


def test_other_axes_are_copied_or_dense() -> None:
    for axis, batch, left in [(2, 2, 2), (0, 1, 0), (3, 2, 2)]:
        net = Net()
        x = net.input(batch, 16, 6, 5, layout=IMAGE)
        y = conv(net, concat(net, conv(net, x, 8), conv(net, x, 8), axis=axis), 24)
        p = placed(net, y)
        assert copies(p) == [left]  # slices along the outermost axis are dense memory
        check(net, p, y)


def test_nested_and_overlapping_concats() -> None:
    net = Net()
    x = net.input(1, 16, 6, 6, layout=IMAGE)
    a, b, c, d = (conv(net, x, 8) for _ in range(4))
    inner = concat(net, b, c)  # follows a in the outer one
    outer = concat(net, a, b, c)
    other = concat(net, c, d)  # c has its place already
    ys = [conv(net, v, 20) for v in (inner, outer, other)]
    p = placed(net, *ys)
    assert sum(copies(p)) == 1
    check(net, p, *ys)
    net = Net()
    x = net.input(1, 16, 6, 6, layout=IMAGE)
    y = conv(net, concat(net, conv(net, x, 8), concat(net, conv(net, x, 8), conv(net, x, 4))), 20)
    p = placed(net, y)
    assert copies(p) == [0, 0]
    check(net, p, y)


def test_the_copying_kernel() -> None:
    """Every part from memory of its own, more rows than tasks and fewer."""
    for shape, axis in [((3, 5, 4, 7), 1), ((1, 3, 1, 1), 1), ((2, 6, 3, 3), 3)]:
        net = Net()
        parts = [net.input(*shape, layout=IMAGE) for _ in range(3)]
        y = concat(net, *parts, axis=axis)
        p = placed(net, y)
        assert copies(p) == [3]
        (step,) = p.plan.steps
        assert isinstance(step, LibraryStep) and isinstance(step.candidate.impl, BuiltinCall)
        check(net, p, y)


def test_a_residual_in_a_slice_is_not_written_over() -> None:
    net = Net()
    x = net.input(1, 16, 6, 6, layout=IMAGE)
    a, b = conv(net, x, 16), conv(net, x, 16)
    y = conv(net, concat(net, a, b), 16)
    z = net.op("add", conv(net, x, 16), a, layout=IMAGE)  # after the concat: a's last reader
    p = placed(net, y, z)
    check(net, p, y, z)
