"""The interpreter: what each construct means, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest

from loopir.kernels import inside
from nnaccel_core.errors import VerifyError
from nnaccel_core.ir import TensorType, Value, sym
from nnaccel_core.loopir import grammar as g
from nnaccel_core.loopir import interp, nests

N, i, j, r = (sym(s) for s in "Nijr")
X, Y = g.Buffer("x", (N,), "float32"), g.Buffer("y", (N,), "float32")


def kernel(*body: g.Stmt, buffers: tuple[g.Buffer, ...] = (X, Y)) -> g.Kernel:
    return g.Kernel("k", buffers, ("N",), (("i", N),), body)


def test_tasks_run_in_parts() -> None:
    k = kernel(g.Store(Y, (i,), g.Binary("mul", g.Load(X, (i,)), g.Const(2.0))))
    x, y = np.arange(5, dtype=np.float32), np.zeros(5, np.float32)
    interp.run(k, [x, y], [5], range(1, 3))
    assert y.tolist() == [0, 2, 4, 0, 0]
    interp.run(k, [x, y], {"N": 5})
    assert y.tolist() == [0, 2, 4, 6, 8]


def test_flat_tasks_are_row_major() -> None:
    out = g.Buffer("out", (2, 3), "int64")
    k = g.Kernel("t", (out,), (), (("a", 2), ("b", 3)), (g.Store(out, (sym("a"), sym("b")), g.Index(sym("a") * 10 + sym("b"))),))
    got = np.zeros((2, 3), np.int64)
    interp.run(k, [got], {}, range(4))
    assert got.tolist() == [[0, 1, 2], [10, 0, 0]]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ((g.Store(Y, (i,), g.Load(X, (i + 1,))),), r"index \[3\] is outside 'x' of shape \[3\]"),
        ((g.Store(Y, (i - 1,), g.Const(0.0)),), r"index \[-1\] is outside 'y'"),
        ((g.Store(Y, (i,), g.Const(0.0)), g.Let("m", sym("nowhere") + 1)), "nowhere"),
        ((g.Store(Y, (i,), g.Load(g.Buffer("t", (), "float32", "register"), ())),), "'t' is used where it is not allocated"),
    ],
)
def test_bad_accesses_name_kernel_buffer_and_index(body: tuple[g.Stmt, ...], message: str) -> None:
    with pytest.raises(VerifyError, match=f"kernel 'k'.*{message}"):
        interp.run(kernel(*body), [np.zeros(3, np.float32), np.zeros(3, np.float32)], {"N": 3})


@pytest.mark.parametrize("space", ["tile", "register"])
def test_unwritten_memory_is_not_read(space: str) -> None:
    t = g.Buffer("t", (2,), "float32", space)
    read = g.Store(Y, (i,), g.Load(t, (1,)))
    data = [np.zeros(3, np.float32), np.zeros(3, np.float32)]
    with pytest.raises(VerifyError, match=r"'t'\[1\] is read before it is written"):
        interp.run(kernel(g.Alloc(t), g.Store(t, (0,), g.Const(1.0)), read), data, {"N": 3})
    with pytest.raises(VerifyError, match="before it is written"):
        interp.run(kernel(g.Alloc(t), g.Accumulate(t, (1,), "sum", g.Const(1.0)), read), data, {"N": 3})
    # An allocation is fresh each time round.
    first = g.If(g.Binary("eq", g.Index(j), g.Index(0)), (g.Store(t, (1,), g.Const(1.0)),))
    again = g.Loop("j", 0, 2, "serial", (g.Alloc(t), first, read))
    with pytest.raises(VerifyError, match="before it is written"):
        interp.run(kernel(again), data, {"N": 3})


def test_arguments_must_fit() -> None:
    k = kernel(g.Store(Y, (i,), g.Load(X, (i,))))
    ok = np.zeros(3, np.float32)
    for arrays, dims, message in [
        ([ok], {"N": 3}, "takes 2 arrays"),
        ([ok, np.zeros(4, np.float32)], {"N": 3}, "'y' is float32"),
        ([ok, np.zeros(3)], {"N": 3}, "the array float64"),
        ([ok, ok], {}, "needs a value for dims"),
        ([ok, ok], [1, 2], "takes 1 dims"),
    ]:
        with pytest.raises(VerifyError, match=message):
            interp.run(k, arrays, dims)


def test_conditions_guard_what_they_govern() -> None:
    edge = g.Select(inside(i - 1, N), g.Load(X, (i - 1,)), g.Const(-1.0))
    y = np.zeros(3, np.float32)
    interp.run(kernel(g.Store(Y, (i,), edge)), [np.arange(3, dtype=np.float32), y], {"N": 3})
    assert y.tolist() == [-1, 0, 1]
    both = g.Binary("and", inside(i - 1, N), g.Binary("gt", g.Load(X, (i - 1,)), g.Const(0.5)))
    interp.run(kernel(g.Store(Y, (i,), g.Cast(both, "float32"))), [np.arange(3, dtype=np.float32), y], {"N": 3})
    assert y.tolist() == [0, 0, 1]


def test_sixteen_bit_floats_are_rounded_in_memory_only() -> None:
    x, y = g.Buffer("x", (N,), "float16"), g.Buffer("y", (N,), "float16")
    value = g.Binary("sub", g.Binary("add", g.Load(x, (i,)), g.Const(1e-4, "float16")), g.Load(x, (i,)))
    k = g.Kernel("h", (x, y), ("N",), (("i", N),), (g.Store(y, (i,), value),))
    out = np.zeros(1, np.float16)
    interp.run(k, [np.ones(1, np.float16), out], {"N": 1})
    assert abs(float(out[0]) - 1e-4) < 1e-6


def test_scratch_is_aligned_per_buffer() -> None:
    a, b = g.Buffer("a", (N, 3), "float32", "tile"), g.Buffer("b", (5,), "uint8", "tile")
    k = kernel(g.Alloc(a), g.Loop("j", 0, 1, "serial", (g.Alloc(b),)))
    assert interp.scratch_bytes(k, {"N": 6}) == 128 + 64
    assert interp.scratch_bytes(k, [5]) == 64 + 64


def value(shape: tuple[int, ...], dtype: str = "float32") -> Value:
    return Value(TensorType(shape, dtype), "v")


@pytest.mark.parametrize("grid", [1 << 22, 8])
@pytest.mark.parametrize(("combine", "function"), [("sum", np.sum), ("max", np.max), ("min", np.min), ("prod", np.prod)])
def test_nests_reduce_windows(combine: str, function: object, grid: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nests, "GRID", grid)
    v, out = value((4, 5)), value((4, 3))
    at = g.Load(v, (i + r - 1, j + sym("s")))
    nest = g.Nest(out, ("i", "j"), at, (("r", 3), ("s", 3)), combine, where=(g.Bound(i + r - 1, 4),))
    x = np.random.default_rng(0).standard_normal((4, 5)).astype(np.float32)
    got = interp.run_nests([nest], {v: x}, {})[out]
    rows = [slice(max(0, a - 1), a + 2) for a in range(4)]
    want = [[function(x[rows[a], b : b + 3]) for b in range(3)] for a in range(4)]  # type: ignore[operator]
    np.testing.assert_allclose(got, want, rtol=1e-6)


def test_nests_feed_one_another_and_finish() -> None:
    v, total, out = value((3, 4)), value((3,)), value((3, 4))
    mean = g.Nest(total, ("i",), g.Load(v, (i, j)), (("j", 4),), "sum", g.Binary("div", g.Acc(), g.Const(4.0)))
    center = g.Nest(out, ("i", "j"), g.Binary("sub", g.Load(v, (i, j)), g.Load(total, (i,))))
    x = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)
    got = interp.run_nests([mean, center], {v: x}, {})
    np.testing.assert_allclose(got[out], x - x.mean(1, keepdims=True), atol=1e-6)
    assert set(got) == {total, out}


def test_nests_check_indices_where_they_count() -> None:
    v, out = value((3,)), value((3,))
    bare = g.Nest(out, ("i",), g.Load(v, (i + 1,)))
    with pytest.raises(VerifyError, match=r"in \[1, 3\] leaves 'v' of shape \[3\]"):
        interp.run_nests([bare], {v: np.zeros(3, np.float32)}, {})
    edge = g.Nest(out, ("i",), g.Select(inside(i + 1, 3), g.Load(v, (i + 1,)), g.Const(9.0)))
    got = interp.run_nests([edge], {v: np.arange(3, dtype=np.float32)}, {})[out]
    assert got.tolist() == [1, 2, 9]
    empty = g.Nest(out, ("i",), g.Load(v, (i + r,)), (("r", 0),), "max")
    assert np.isneginf(interp.run_nests([empty], {v: np.zeros(3, np.float32)}, {})[out]).all()
