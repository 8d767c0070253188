"""Bundles: nests that share one pass over a row, and nests that must not."""

from __future__ import annotations

from typing import Any

from dfp.helpers import Net
from dfp.test_simt import GPU, SHAPES, Shape, check_shapes
from nnaccel_core.dfp.build import Built
from nnaccel_core.dfp.merge import Context, merge
from nnaccel_core.dfp.simt_bundle import bundles
from nnaccel_core.ir import Graph
from nnaccel_core.loopir import grammar as g
from nnaccel_core.loopir.rewrite import walk


def found(b: Built) -> list[tuple[int, ...]]:
    return bundles(b.staged, b.tiling.regions)


WIDE = Shape(4, 1)


def passes(b: Built, shape: Shape = WIDE) -> int:
    """Loops over threads in the kernel."""
    assert b.gpu is not None
    return sum(isinstance(s, g.Loop) and s.bind == "block" for s in walk(b.gpu.source(shape).kernel.body))


def relu_backward_with_sums(net: Net) -> Graph:
    """The gradient of a ReLU, its sum and that of its product with another image, over rows and then columns."""
    y, dy, x = net.input("n", 8, 5, 9), net.input("n", 8, 5, 9), net.input("n", 8, 5, 9)
    zero = net.op("sub", y, y)
    dx = net.op("where", net.op("le", y, zero), zero, dy)
    sums = []
    for v in (dx, net.op("mul", dx, x)):
        for axis in (3, 2):
            v = net.op("reduce_sum", v, axes=(axis,), keepdims=True)
        sums.append(v)
    return net.graph(dx, *sums)


def test_a_gradient_and_its_sums_take_one_pass_over_rows_and_one_over_columns() -> None:
    b = check_shapes(relu_backward_with_sums(Net()), {"n": 2}, SHAPES, 1e-4)
    assert sorted(map(len, found(b))) == [2, 3]
    assert passes(b) == 2


def test_a_row_major_image_is_summed_along_its_contiguous_axis_by_all_threads() -> None:
    b = check_shapes(relu_backward_with_sums(Net(last=False)), {"n": 2}, (Shape(1, 1),), 1e-4)
    assert passes(b, Shape(1, 1)) > 2  # there is no output axis along which all accesses are contiguous


def test_the_statistics_of_a_batch_read_each_row_once() -> None:
    net = Net()
    x = net.input("n", 8, 6, 10)
    first = net.op("slice", x, starts=(0, 0, 0, 0), ends=(x.shape[0], 8, 6, 1), steps=(1, 1, 1, 1))
    off = net.op("sub", x, first)
    mean = net.op("reduce_mean", x, axes=(3,), keepdims=True)
    square = net.op("reduce_mean", net.op("mul", off, off), axes=(3,), keepdims=True)
    b = check_shapes(net.graph(mean, net.op("sub", square, net.op("mul", mean, mean))), {"n": 2}, SHAPES, 1e-4)
    assert found(b) == [(0, 1), (2,)]
    assert passes(b) == 2


def test_a_sum_of_what_needs_another_sum_first_has_a_pass_of_its_own() -> None:
    net = Net()
    x = net.input("n", 8, 6, 10)
    mean = net.op("reduce_mean", x, axes=(3,), keepdims=True)
    off = net.op("sub", x, mean)
    square = net.op("reduce_mean", net.op("mul", off, off), axes=(3,), keepdims=True)
    b = check_shapes(net.graph(mean, square), {"n": 2}, SHAPES, 1e-4)
    assert found(b) == [(0,), (1,)]


def test_siblings_that_read_one_value_share_a_launch() -> None:
    net = Net()
    mean: Any = net.input(64)
    old, new = net.input(64), net.input(64)
    a = net.op("add", net.op("mul", mean, new), old)
    b = net.op("mul", mean, mean)
    graph = net.graph(a, b)
    (group,) = merge(Context(graph, {}, GPU))
    assert len(group) == 3


def test_sums_over_a_batch_are_shared_among_threads_and_walk_it_together() -> None:
    net = Net()
    x, y = net.input("n", 8, 1, 1), net.input("n", 8, 1, 1)
    sums = [net.op("reduce_sum", net.op("mul", x, v), axes=(0,), keepdims=True) for v in (x, y)]
    graph = net.graph(*sums)
    for n in (1, 3, 16, 37):
        b = check_shapes(graph, {"n": n}, SHAPES, 1e-4)
    assert found(b) == [(0, 2), (1, 3)]  # partial sums of both, then their sums
    assert passes(b) == 2
