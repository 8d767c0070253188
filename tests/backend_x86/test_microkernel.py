"""The register-tile products, of every instruction set that this processor has, against float64."""

from __future__ import annotations

import array
import ctypes
from collections.abc import Iterator

import numpy as np
import pytest

from nnaccel_backend_x86 import builtin

PANEL = 16
ISAS = ("sse2", "avx2", "avx512")
KERNEL = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)


def call(dims: tuple[int, ...], *arrays: np.ndarray) -> None:
    buffers = array.array("Q", [a.ctypes.data for a in arrays])
    numbers = array.array("q", dims)
    KERNEL(builtin.address("tile_product"))(buffers.buffer_info()[0], numbers.buffer_info()[0], None, 0, 1)


def tile(isa: int) -> tuple[int, int]:
    """Rows and columns of a tile; (0, 0) where this processor lacks the instruction set."""
    found = np.full(2, -1.0, np.float32)
    call((isa, 0, *(0,) * 9), found, found, found)
    return int(found[0]), int(found[1])


def check(isa: int, rows: int, columns: int, count: int, k: int, lda: int, ldc: int, accumulate: bool) -> None:
    rng = np.random.default_rng(rows * 100 + columns)
    panels = -(-columns // PANEL)
    panel = k * PANEL + 48  # panels need not touch
    a = rng.standard_normal((count, rows, lda)).astype(np.float32)
    b = rng.standard_normal((count, panels, panel)).astype(np.float32)
    c = rng.standard_normal((rows, ldc)).astype(np.float32)
    packed = b[:, :, : k * PANEL].reshape(count, panels, k, PANEL).transpose(0, 2, 1, 3).reshape(count, k, panels * PANEL)
    want = c.astype(np.float64)
    total = np.einsum("trk,tkc->rc", a[:, :, :k].astype(np.float64), packed[:, :, :columns].astype(np.float64))
    want[:, :columns] = want[:, :columns] * accumulate + total
    call((isa, rows, columns, count, k, lda, rows * lda, panels * panel, panel, ldc, int(accumulate)), a, b, c)
    np.testing.assert_allclose(c, want, rtol=0, atol=1e-6 * (1 + count * k))
    np.testing.assert_array_equal(c[:, columns:], want[:, columns:].astype(np.float32))  # nothing beyond the columns


@pytest.fixture(params=range(3), ids=ISAS)
def isa(request: pytest.FixtureRequest) -> Iterator[int]:
    if tile(request.param) == (0, 0):
        pytest.skip(f"this processor has no {ISAS[request.param]}")
    yield request.param


def test_the_oldest_instruction_set_is_always_there() -> None:
    rows, columns = tile(0)
    assert rows >= 1 and columns == PANEL


def test_every_number_of_rows_and_columns(isa: int) -> None:
    most_rows, most_columns = tile(isa)
    assert most_rows >= 6 and most_columns % PANEL == 0
    for rows in range(1, most_rows + 1):
        for columns in range(1, most_columns + 1):
            check(isa, rows, columns, count=1, k=5, lda=5, ldc=columns + 3, accumulate=False)


@pytest.mark.parametrize("accumulate", [False, True])
@pytest.mark.parametrize("k", [0, 1, 2, 7, 64])
@pytest.mark.parametrize("count", [0, 1, 9])
def test_sums_over_terms_and_k(isa: int, count: int, k: int, accumulate: bool) -> None:
    rows, columns = tile(isa)
    for r, c in ((1, 1), (rows, columns), (rows - 1, columns - 1), (3, PANEL)):
        check(isa, r, c, count, k, lda=k + 4, ldc=c + 5, accumulate=accumulate)


def test_far_rows(isa: int) -> None:
    rows, columns = tile(isa)
    check(isa, rows, columns, count=2, k=3, lda=1 << 16, ldc=1 << 15, accumulate=True)


def test_nan_and_infinity_stay_in_their_row(isa: int) -> None:
    rows, columns = tile(isa)
    a = np.ones((rows, 4), np.float32)
    a[0, 1], a[1, 2] = np.nan, np.inf
    b = np.ones((columns // PANEL, 4 * PANEL), np.float32)
    c = np.zeros((rows, columns), np.float32)
    call((isa, rows, columns, 1, 4, 4, 0, 0, 4 * PANEL, columns, 0), a, b, c)
    assert np.isnan(c[0]).all() and np.isposinf(c[1]).all() and (c[2:] == 4.0).all()
