"""Which operands graphs work on copies of."""

from __future__ import annotations

from nnaccel_backend_cuda.mobile import Mobile


def test_small_operands_that_move_are_copied_large_ones_are_not() -> None:
    m = Mobile([64, 1 << 20, 64, 300], 1000)
    assert m.fixed([1, 2, 3, 4]) == (1, 2, 3, 4)
    assert m.learn([1, 2, 3, 4], [1, 9, 9, 9])
    assert m.fixed([1, 2, 3, 4]) == (1, 2)
    assert not m.learn([1, 2, 3, 4], [1, 9, 0, 0])
    assert m.nbytes == 256 + 512
    assert m.moved([10], [20, 30, 40], 1000) == ([10], [20, 1000, 1256])


def test_what_is_copied_has_a_limit() -> None:
    m = Mobile([600, 500, 300], 1000)
    assert m.learn([1, 1, 1], [2, 2, 2])
    assert m.fixed([7, 8, 9]) == (7,)
    assert not m.learn([1, 1, 1], [2, 1, 1])


def test_neighbours_are_one_copy() -> None:
    m = Mobile([8, 100, 300, 256, 8], 10000)
    m.learn([0] * 5, [1] * 5)
    # Inputs: 0. Outputs lie 256, 512, 256 bytes apart as their copies do, then elsewhere.
    assert list(m.copies([5000], 0)) == [(0, 0, 8)]
    assert list(m.copies([4096, 4352, 4864, 9000], 1)) == [(256, 0, 100 + 156 + 300 + 212 + 256), (1280, 3, 8)]
    assert list(m.copies([4096, 4352, 9000, 9256], 1)) == [(256, 0, 556), (1024, 2, 264)]
