"""Iterations side by side against one scalar at a time: the same bits, whatever a loop reads, writes and sums."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loopir.kernels import inside
from loopir.strategies import Case, cases
from nnaccel_core.errors import VerifyError
from nnaccel_core.ir import Dim, sym
from nnaccel_core.loopir import grammar as g
from nnaccel_core.loopir import interp, points
from nnaccel_core.loopir.format import format_kernel
from nnaccel_core.loopir.independence import Independence

Array = np.ndarray[Any, Any]
N, i, j, k = (sym(s) for s in "Nijk")
X, Y = g.Buffer("x", (N,), "float32"), g.Buffer("y", (N,), "float32")
Z, LANES = g.Buffer("z", (N, N), "float32"), g.Buffer("lanes", (), "float32", "lanes")


def kernel(*body: g.Stmt, buffers: tuple[g.Buffer, ...] = (X, Y), outputs: int = 1) -> g.Kernel:
    return g.Kernel("k", buffers, ("N",), (), body, outputs)


def check(k: g.Kernel, arrays: list[Array], dims: dict[str, int]) -> list[Array]:
    """The arrays after a run, which are the same either way."""
    want, got = [a.copy() for a in arrays], [a.copy() for a in arrays]
    interp.run(k, want, dims, serial=True)
    interp.run(k, got, dims)
    for a, b in zip(got, want, strict=True):
        np.testing.assert_array_equal(a, b, err_msg=format_kernel(k))
    return got


def data(*shape: int, dtype: str = "float32") -> Array:
    """Numbers of many magnitudes, so that sums show their order."""
    rng = np.random.default_rng(0)
    return (rng.normal(size=shape) * 10.0 ** rng.integers(-4, 5, shape)).astype(dtype)


def loop(*body: g.Stmt, axis: str = "i", bind: str = "serial", begin: Dim = 0, end: Dim = N) -> g.Loop:
    return g.Loop(axis, begin, end, bind, body)


def add(a: g.Scalar, b: g.Scalar) -> g.Scalar:
    return g.Binary("add", a, b)


#: a loop, and whether its iterations run side by side
LOOPS = {
    "own element": (loop(g.Store(Y, (i,), g.Load(X, (i,)))), True),
    "own element, backwards": (loop(g.Store(Y, (N - 1 - i,), g.Load(X, (i,)))), True),
    "own elements, read again": (loop(g.Store(Y, (i,), g.Load(X, (i,))), g.Accumulate(Y, (i,), "sum", g.Load(Y, (i,)))), True),
    "prefix sums": (loop(g.Store(Y, (i,), add(g.Load(Y, (i - 1,)), g.Load(X, (i,)))), begin=1), False),
    "reads what is written later": (loop(g.Store(Y, (i,), add(g.Load(Y, (i + 1,)), g.Load(X, (i,)))), end=N - 1), False),
    "one element": (loop(g.Store(Y, (0,), g.Load(X, (i,)))), False),
    "one sum": (loop(g.Accumulate(Y, (0,), "sum", g.Load(X, (i,)))), True),
    "some sums": (loop(g.Accumulate(Y, (i % 3,), "sum", g.Load(X, (i,)))), True),
    "two terms of one sum": (
        loop(g.Accumulate(Y, (0,), "sum", g.Load(X, (i,))), g.Accumulate(Y, (0,), "sum", g.Load(X, (N - 1 - i,)))), False,
    ),
    "a sum of sums": (loop(g.Accumulate(Y, (0,), "sum", g.Load(Y, (1,)))), False),
    "several sums in lanes": (
        loop(g.Accumulate(LANES, (), "sum", g.Load(X, (i,))), g.Accumulate(LANES, (), "sum", g.Load(X, (0,))), bind="simd"),
        False,
    ),
    "pairs": (loop(g.Store(Y, (2 * i,), g.Const(1.0)), g.Store(Y, (2 * i + 1,), g.Load(X, (i,))), end=N // 2), True),
    "overlapping pairs": (loop(g.Store(Y, (i,), g.Const(1.0)), g.Store(Y, (i + 1,), g.Load(X, (i,))), end=N - 1), False),
    "lets": (loop(g.Let("m", 2 * i + 1), g.Store(Y, (sym("m") // 2,), g.Load(X, (i,))), end=N), True),
    "bands": (loop(loop(g.Store(Y, (2 * i + j,), g.Load(X, (i,))), axis="j", end=2), end=N // 2), False),
    "bands of lanes": (loop(g.Store(Y, (i // 2 * 2 + i % 2,), g.Load(X, (i,))), bind="block"), True),
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(LOOPS))
def test_which_loops_run_side_by_side(name: str) -> None:
    statement, expected = LOOPS[name]
    lanes = (g.Alloc(LANES), g.Store(LANES, (), g.Const(0.0)))
    after = g.Store(Y, (0,), g.Unary("reduce_sum", g.Load(LANES, ())))
    k = kernel(*lanes, statement, after) if "lanes" in name and expected is False else kernel(statement)
    assert Independence(k, {}).of(statement) is expected
    check(k, [data(10), data(10)], {"N": 10})


def test_sums_in_a_loop_with_an_order_of_its_own() -> None:
    """The inner loop runs serially, so the sum would get its terms in another order were the outer one side by side."""
    t = g.Buffer("t", (1,), "float32", "register")
    chain = loop(g.Store(t, (0,), add(g.Load(t, (0,)), g.Load(X, (j,)))), g.Accumulate(Y, (0,), "sum", g.Load(t, (0,))), axis="j")
    outer = loop(g.Alloc(t), g.Store(t, (0,), g.Load(X, (i,))), chain)
    k = kernel(outer)
    assert not Independence(k, {}).of(outer)
    check(k, [data(9), data(9)], {"N": 9})


@pytest.mark.parametrize("count", [1, 3, points.COUNT])
def test_windows_triangles_and_private_memory(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(points, "COUNT", count)
    acc, row = g.Buffer("acc", (), "float32", "register"), g.Buffer("row", (N,), "float32", "tile")
    guarded = g.If(inside(i + k - 1, N), (g.Accumulate(acc, (), "sum", g.Load(Z, (i + k - 1, j))),))
    window = (g.Alloc(acc), g.Store(acc, (), g.Const(0.0)), loop(guarded, axis="k", end=3))
    body = (g.Alloc(row), loop(*window, g.Store(row, (j,), g.Load(acc, ())), axis="j", begin=0, end=i + 1))
    triangle = loop(g.Accumulate(Y, (i,), "sum", g.Load(row, (j,))), axis="j", end=i + 1)
    k_ = kernel(loop(*body, triangle), buffers=(Z, Y))
    check(k_, [data(8, 8), np.zeros(8, np.float32)], {"N": 8})


@pytest.mark.parametrize("bind", ["serial", "simd"])
def test_choices_evaluate_what_they_choose(bind: str) -> None:
    edge = g.Select(inside(i - 1, N), g.Load(X, (i - 1,)), g.Load(X, (N - 1,)))
    check(kernel(loop(g.Store(Y, (i,), edge), bind=bind)), [data(7), data(7)], {"N": 7})
    far = i * 1_000_003 - 2_000_006
    only = g.Select(inside(far, N), g.Load(X, (far,)), g.Const(7.0))
    check(kernel(loop(g.Store(Y, (i,), only), bind=bind)), [data(7), data(7)], {"N": 7})
    both = g.Binary("and", inside(i - 1, N), g.Binary("gt", g.Load(X, (i - 1,)), g.Const(0.0)))
    either = g.Binary("or", g.Binary("lt", g.Index(i), g.Index(1)), g.Binary("gt", g.Load(X, (i - 1,)), g.Const(0.0)))
    for cond in (both, either):
        branch = g.If(cond, (g.Store(Y, (i,), g.Const(1.0)),), (g.Accumulate(Y, (i,), "prod", g.Const(2.0)),))
        check(kernel(loop(branch, bind=bind)), [data(7), data(7)], {"N": 7})


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int32", "int64"])
@pytest.mark.parametrize("op", ["sum", "prod"])
def test_integers_wrap(op: str, dtype: str) -> None:
    x, y = g.Buffer("x", (N,), dtype), g.Buffer("y", (N,), dtype)
    square = g.Binary("mul", g.Load(x, (i,)), g.Load(x, (i,)))
    big = np.iinfo(dtype).max - np.arange(12).astype(dtype)
    check(kernel(loop(g.Accumulate(y, (i % 5,), op, square)), buffers=(x, y)), [big, big], {"N": 12})


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_sums_of_sixteen_bits_are_rounded_term_by_term(dtype: str) -> None:
    y = g.Buffer("y", (N,), dtype)
    statement = loop(g.Accumulate(y, (i % 2,), "sum", g.Load(X, (i,))))
    k = kernel(statement, buffers=(X, y))
    assert Independence(k, {}).of(statement)
    check(k, [data(40) % 3, np.zeros(40, np.float16 if dtype == "float16" else np.float32)], {"N": 40})


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_functions_give_vectors_what_they_give_scalars(dtype: str) -> None:
    x, y = (g.Buffer(n, (N, N), dtype) for n in "xy")
    unary = sorted(o for o in g.UNARY if o not in ("not", "isnan") and not o.startswith("reduce"))
    stores = [g.Store(y, (k, i), g.Unary(op, g.Load(x, (k, i)))) for k, op in enumerate(unary)]
    values = np.random.default_rng(1).uniform(-3, 90, (64, 64)).astype(dtype)
    values[:, :4] = np.nan, np.inf, -np.inf, -0.0
    want, got = np.zeros((64, 64), dtype), np.zeros((64, 64), dtype)
    interp.run(kernel(loop(*stores), buffers=(x, y)), [values, want], {"N": 64}, serial=True)
    interp.run(kernel(loop(*stores), buffers=(x, y)), [values, got], {"N": 64})
    np.testing.assert_allclose(got, want, rtol=4 * np.finfo(dtype).eps)


def test_memory_under_two_names() -> None:
    """Results that take over an operand's memory; what would then depend on the order of iterations is run in it."""
    own = loop(g.Store(Y, (i,), add(g.Load(X, (i,)), g.Const(1.0))), bind="simd")
    neighbor = loop(g.Store(Y, (i,), add(g.Load(X, (i - 1,)), g.Const(1.0))), bind="simd", begin=1)
    k = kernel(own, neighbor)
    assert not Independence(k, {Y: X, X: X}).of(neighbor)
    assert Independence(k, {Y: X, X: X}).of(own)
    for shift in (0, 1):
        want = data(12)
        got = want.copy()
        interp.run(k, [want[: 12 - shift], want[shift:]], {"N": 12 - shift}, serial=True)
        interp.run(k, [got[: 12 - shift], got[shift:]], {"N": 12 - shift})
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_one_sum_in_memory_of_any_strides(dtype: str) -> None:
    z = g.Buffer("z", (N, N), dtype)
    nest = loop(g.Accumulate(z, (1, 2), "sum", g.Load(X, (i,))), g.Accumulate(z, (2, i % 2), "sum", g.Load(X, (0,))))
    x = np.array([3, 1, 4096, 0.3, 7], np.float32)
    want, got = (np.zeros((5, 10), dtype)[:, ::2] for _ in range(2))
    interp.run(kernel(nest, buffers=(X, z)), [x, want], {"N": 5}, serial=True)
    split = [loop(s) for s in nest.body]
    assert all(map(Independence(kernel(*split, buffers=(X, z)), {}).of, split))
    interp.run(kernel(*split, buffers=(X, z)), [x, got], {"N": 5})
    np.testing.assert_array_equal(got, want)


def test_any_strides() -> None:
    x, y = g.Buffer("x", (N, N, 3), "float32"), g.Buffer("y", (N, N, 3), "float32")
    at = (i, j, k)
    nest = loop(loop(loop(g.Accumulate(y, at, "max", g.Load(x, at)), axis="k", end=3), axis="j"))
    base = data(5, 7, 12)
    for view in (base[:, :5, :3], base.transpose(1, 2, 0)[:5, :5, :3], base[::-1, ::-1, ::4][:5, :5], base[:5, :1, :3]):
        x_ = np.broadcast_to(view, (5, 5, 3))
        want, got = np.zeros((5, 3, 5), np.float32), np.zeros((5, 3, 10), np.float32)
        interp.run(kernel(nest, buffers=(x, y)), [x_, want.transpose(0, 2, 1)], {"N": 5}, serial=True)
        interp.run(kernel(nest, buffers=(x, y)), [x_, got[..., ::2].transpose(0, 2, 1)], {"N": 5})
        np.testing.assert_array_equal(got[..., ::2], want)


def test_errors_name_the_first_point() -> None:
    t = g.Buffer("t", (N,), "float32", "tile")
    with pytest.raises(VerifyError, match=r"index \[5\] is outside 'x' of shape \[5\]"):
        interp.run(kernel(loop(g.Store(Y, (i,), g.Load(X, (i + 2,))))), [data(5), data(5)], {"N": 5})
    some = loop(g.If(g.Binary("ne", g.Index(i), g.Index(3)), (g.Store(t, (i,), g.Const(1.0)),)))
    with pytest.raises(VerifyError, match=r"'t'\[3\] is read before it is written"):
        interp.run(kernel(g.Alloc(t), some, loop(g.Store(Y, (i,), g.Load(t, (i,))))), [data(5), data(5)], {"N": 5})
    with pytest.raises(VerifyError, match="'j'.*not in scope"):
        interp.run(kernel(loop(g.Store(Y, (i,), g.Load(X, (j,))))), [data(5), data(5)], {"N": 5})


def test_lanes_that_store_different_values_in_one_element() -> None:
    race = kernel(loop(g.Store(Y, (i // 2,), g.Load(X, (i,))), bind="simd"))
    with pytest.raises(VerifyError, match="independent store different values in one element of 'y'"):
        interp.run(race, [np.arange(5, dtype=np.float32), data(5)], {"N": 5})
    same = np.repeat(np.array([1, np.nan, 3], np.float32), 2)
    got = check(race, [same, np.zeros(6, np.float32)], {"N": 6})[1]
    np.testing.assert_array_equal(got, [1, np.nan, 3, 0, 0, 0])


@settings(max_examples=40, deadline=None)
@given(case=cases(), count=st.sampled_from([1, 7, points.COUNT]))
def test_random_kernels(case: Case, count: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(points, "COUNT", count)
        want, got = case.arrays(), case.arrays()
        interp.run(case.kernel, want, case.dims, serial=True)
        interp.run(case.kernel, got, case.dims)
    np.testing.assert_array_equal(got[-1], want[-1])


@st.composite
def serial_nests(draw: Any) -> g.Kernel:
    """Loops that read and write wherever they like."""
    bounded = {"i": 0, "j": 1, "k": 2}

    def index(axes: list[str]) -> Dim:
        dim: Dim = draw(st.integers(-1, 3))
        for a in axes:
            dim = dim + draw(st.sampled_from([0, 0, 1, 1, 2, -1])) * sym(a)
        form = draw(st.sampled_from(["mod", "mod", "half"]))
        return dim % N if form == "mod" else (dim // 2) % N

    def place(axes: list[str]) -> tuple[g.Buffer, tuple[Dim, ...]]:
        if draw(st.booleans()):
            return Y, (sym(draw(st.sampled_from(axes))),) if draw(st.booleans()) else (index(axes),)
        return Z, tuple(sym(draw(st.sampled_from(axes))) if draw(st.booleans()) else index(axes) for _ in range(2))

    def value(axes: list[str]) -> g.Scalar:
        kind = draw(st.sampled_from(["x", "place", "sum", "select"]))
        if kind == "x":
            return g.Load(X, (index(axes),))
        if kind == "place":
            return g.Load(*place(axes))
        if kind == "sum":
            return add(g.Load(X, (index(axes),)), g.Load(*place(axes)))
        return g.Select(g.Binary("gt", g.Load(X, (index(axes),)), g.Const(0.0)), g.Load(*place(axes)), g.Const(0.5))

    def statements(axes: list[str]) -> list[g.Stmt]:
        found: list[g.Stmt] = []
        for _ in range(draw(st.integers(1, 2))):
            kind = draw(st.sampled_from(["store", "sum", "sum", "if", "loop", "loop"]))
            if kind == "loop" and len(axes) < 3:
                axis = next(a for a in bounded if a not in axes)
                end = draw(st.sampled_from([N, N, sym(axes[-1]) + 1]))
                bind = draw(st.sampled_from(["serial", "unroll"]))
                found.append(g.Loop(axis, 0, end, bind, tuple(statements([*axes, axis]))))
            elif kind == "if":
                cond = g.Binary("lt", g.Index(index(axes)), g.Index(draw(st.integers(0, 4))))
                found.append(g.If(cond, tuple(statements(axes)), tuple(statements(axes)) if draw(st.booleans()) else ()))
            elif kind == "store":
                found.append(g.Store(*place(axes), value(axes)))
            else:
                buffer, at = place(axes)
                found.append(g.Accumulate(buffer, at, draw(st.sampled_from(["sum", "sum", "max"])), value(axes)))
        return found

    body = [g.Loop("i", 0, N, "serial", tuple(statements(["i"]))) for _ in range(draw(st.integers(1, 2)))]
    return g.Kernel("nest", (X, Y, Z), ("N",), (), tuple(body), 2)


@settings(max_examples=150, deadline=None)
@given(nest=serial_nests(), count=st.sampled_from([1, 5, points.COUNT]), n=st.integers(1, 5))
def test_random_serial_nests(nest: g.Kernel, count: int, n: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(points, "COUNT", count)
        check(nest, [data(n), data(n)[::-1], data(n, n)], {"N": n})
