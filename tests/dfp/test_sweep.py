"""Sums of rows that are swept, and concats cut into their operands."""

from __future__ import annotations

import pytest

from dfp.helpers import Net, built, check_tiles, whole
from nnaccel_core.dfp.pieces import MOST_PIECES
from nnaccel_core.dfp.sweep import LONGEST_SWEEP
from nnaccel_core.ir import Graph
from nnaccel_core.loopir.format import format_kernel


def sums(width: int) -> Graph:
    net = Net()
    x, mean = net.input("n", 5, 3, width), net.param(5, 1, 1)
    off = net.op("sub", x, mean)
    return net.graph(net.mean(net.op("mul", off, x), 3))


@pytest.mark.parametrize("width", [2, 6, 7, 50, LONGEST_SWEEP, LONGEST_SWEEP + 1])
def test_sums_of_rows(width: int) -> None:
    kernel = check_tiles(sums(width), {"n": 2}, [(1, 3, 5), (2, 2, 3), (1, 1, 1)])
    assert f"if (d3 <= {LONGEST_SWEEP})" in format_kernel(kernel.kernel)


def test_products_of_matrices_keep_their_sums_in_registers() -> None:
    net = Net()
    y = net.op("matmul", net.input("n", 40), net.param(40, 24))
    assert f"<= {LONGEST_SWEEP}" not in format_kernel(built(whole(net.graph(y))).kernel)


def joined(parts: int) -> Graph:
    net = Net()
    x = net.op("concat", *(net.input("n", 1 + k % 3, 2, 4) for k in range(parts)), axis=1)
    return net.graph(net.op("relu", net.op("mul", x, net.param(int(x.shape[1]), 1, 1))))  # type: ignore[arg-type]


@pytest.mark.parametrize("parts", [2, 3, 9])
def test_each_operand_of_a_concat_has_a_loop(parts: int) -> None:
    channels = sum(1 + k % 3 for k in range(parts))
    kernel = check_tiles(joined(parts), {"n": 2}, [(2, 2, channels), (1, 1, 1), (1, 2, 2)])
    text = format_kernel(kernel.kernel)
    assert text.count("simd ") == parts and text.count("select(") == parts  # the latter are ReLUs


def test_too_many_operands_are_chosen_from() -> None:
    text = format_kernel(built(whole(joined(MOST_PIECES + 1))).kernel)
    assert text.count("simd ") == 1
