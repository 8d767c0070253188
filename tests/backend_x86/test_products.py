"""oneDNN products against float64."""

from __future__ import annotations

import pytest

from backend_x86.harness import Net, backend, check, longest, propose

B = backend()


@pytest.mark.parametrize("rows", [1, 2, 3, 16, 130])
@pytest.mark.parametrize("transpose_b", [False, True])
@pytest.mark.parametrize("k,n", [(64, 10), (1280, 1000), (7, 5), (512, 33)])
def test_fully_connected(rows: int, transpose_b: bool, k: int, n: int) -> None:
    net = Net()
    w = net.param(n, k) if transpose_b else net.param(k, n)
    y = net.op("matmul", net.input(rows, k), w, net.param(n), transpose_b=transpose_b)
    y = net.op("relu", y)
    candidates = propose(B, net, y)
    assert len(candidates) >= 2
    for c in candidates:
        check(B, net, c)


def test_packed_weights_have_one_format_for_all_batches() -> None:
    keys = set()
    for rows in (3, 16, 33, 100):
        net = Net()
        y = net.op("matmul", net.input(rows, 320), net.param(1000, 320), transpose_b=True)
        keys |= {c.packs[0].key for c in propose(B, net, y) if c.packs}
    assert len(keys) == 1


def test_long_sums_are_not_added_up_in_one_chain() -> None:
    net = Net()
    y = net.op("matmul", net.input(16, 1280), net.param(1000, 1280), transpose_b=True)
    assert not any(c.packs for c in propose(B, net, y))


def test_residual_and_bias_forms() -> None:
    for rows in (1, 5):
        for bias in ((24,), (1, 24)):
            net = Net()
            y = net.op("matmul", net.input(rows, 40), net.param(24, 40), net.param(*bias), transpose_b=True)
            y = net.op("add", y, net.input(rows, 24))
            y = net.op("gelu", y, approximate="tanh")
            c = longest(propose(B, net, y))
            assert len(c.nodes) == 3
            check(B, net, c)


@pytest.mark.parametrize("rows,columns", [(1, 24), (5, 24), (5, 1)])
@pytest.mark.parametrize("bias", [(), (1,), (1, 1)])
def test_one_number_for_a_bias(rows: int, columns: int, bias: tuple[int, ...]) -> None:
    for transpose_b, weights in ((True, (columns, 40)), (False, (40, columns))):
        net = Net()
        y = net.op("matmul", net.input(rows, 40), net.param(*weights), net.param(*bias), transpose_b=transpose_b)
        for c in propose(B, net, y):
            check(B, net, c)


def test_leading_axes_are_rows() -> None:
    net = Net()
    y = net.op("matmul", net.input(2, 9, 40), net.param(24, 40), net.param(24), transpose_b=True)
    y = net.op("add", y, net.input(2, 9, 24))
    for c in propose(B, net, y):
        check(B, net, c)


@pytest.mark.parametrize("ta", [False, True])
@pytest.mark.parametrize("tb", [False, True])
def test_batched(ta: bool, tb: bool) -> None:
    for lead_a, lead_b in [((2, 3), (2, 3)), ((2, 1), (3,)), ((4,), (4,))]:
        net = Net()
        a = net.input(*lead_a, *((16, 20) if ta else (20, 16)))
        b = net.input(*lead_b, *((12, 16) if tb else (16, 12)))
        y = net.op("matmul", a, b, transpose_a=ta, transpose_b=tb)
        for c in propose(B, net, y):
            check(B, net, c)


def test_transposed_rows_and_parameters() -> None:
    net = Net()
    y = net.op("matmul", net.input(40, 6), net.param(40, 8), transpose_a=True)
    candidates = propose(B, net, y)
    assert candidates
    for c in candidates:
        check(B, net, c)


def test_layout_copies() -> None:
    for source, target in [((0, 1, 2, 3), (0, 2, 3, 1)), ((0, 2, 3, 1), (0, 1, 2, 3)), ((0, 1, 2, 3), (3, 2, 1, 0))]:
        net = Net()
        x = net.input(2, 5, 6, 7, layout=source)
        y = net.op("reorder", x, layout=target)
        for c in propose(B, net, y):
            check(B, net, c)
