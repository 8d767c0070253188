"""One test per rule of the loop IR that a kernel can break."""

from __future__ import annotations

import pytest

from loopir.kernels import depthwise
from nnaccel_core.errors import VerifyError
from nnaccel_core.ir import sym
from nnaccel_core.loopir import grammar as g
from nnaccel_core.loopir.verify import verify

N, i, c = sym("N"), sym("i"), sym("c")
X, Y = g.Buffer("x", (N,), "float32"), g.Buffer("y", (N,), "float32")
ONE = g.Const(1.0)


def buffer(space: str, *shape: object, dtype: str = "float32") -> g.Buffer:
    return g.Buffer("t", shape, dtype, space)  # type: ignore[arg-type]


def simd(*body: g.Stmt) -> g.Loop:
    return g.Loop("c", 0, N, "simd", body)


def put(value: g.Scalar) -> tuple[g.Stmt, ...]:
    return (g.Store(Y, (0,), value),)


REG, LANES, TILE, FOUR = buffer("register"), buffer("lanes"), buffer("tile", 4), buffer("register", 4)
BAD = {
    "not in scope": (g.Store(Y, (sym("q"),), ONE),),
    "axis 'N' shadows a dim": (g.Loop("N", 0, 2, "serial", ()),),
    "let 'i' shadows a task": (g.Let("i", N),),
    "axis 'k' shadows a axis": (g.Loop("k", 0, 2, "serial", (g.Loop("k", 0, 2, "serial", ()),)),),
    "unknown bind": (g.Loop("k", 0, 2, "warp", ()),),
    "'t' is not in scope": (g.Store(REG, (), ONE),),
    "already allocated": (g.Alloc(REG), g.Alloc(REG)),
    "2 indices into": (g.Store(Y, (0, 0), ONE),),
    "'x' is an input": (g.Store(X, (0,), ONE),),
    "float64 value is written": put(g.Const(1.0, "float64")),
    "add of float32 and int64": put(g.Binary("add", ONE, g.Index(i))),
    "Select between": put(g.Select(g.Const(True, "bool"), ONE, g.Const(1, "int32"))),
    "condition is a bool": (g.If(ONE, ()),),
    "exp of int64": (g.Store(Y, (0,), g.Cast(g.Unary("exp", g.Index(i)), "float32")),),
    "and of float32": put(g.Cast(g.Binary("and", ONE, ONE), "float32")),
    "unknown unary": put(g.Unary("gamma", ONE)),
    "unknown binary": put(g.Binary("atan2", ONE, ONE)),
    "unknown combine": (g.Accumulate(Y, (0,), "mean", ONE),),
    "an Index is an integer": put(g.Index(i, "float32")),
    "Acc is no scalar": put(g.Acc()),
    "constant extents": (g.Alloc(buffer("register", N)),),
    "not by a constant": (g.Alloc(FOUR), g.Store(FOUR, (i,), ONE)),
    "dims only": (g.Alloc(buffer("tile", i)),),
    "cannot be allocated": (g.Alloc(buffer("global", 4)),),
    "nested in the simd loop": (simd(g.Loop("d", 0, 2, "simd", ())),),
    "depends on the simd axis": (simd(g.Loop("k", 0, c, "serial", ())),),
    "allocated outside the simd loop": (simd(g.Alloc(TILE)),),
    "all lanes of the simd loop": (simd(g.Store(Y, (0,), ONE)),),
    "accumulated outside a simd loop": (g.Alloc(LANES), g.Accumulate(LANES, (), "sum", ONE)),
    "other than through a reduce": (g.Alloc(LANES), g.Store(LANES, (), ONE), *put(g.Load(LANES, ()))),
    "takes a load of a lanes register": put(g.Unary("reduce_sum", ONE)),
    "combined by both": (g.Alloc(LANES), simd(g.Accumulate(LANES, (), "sum", ONE), g.Accumulate(LANES, (), "max", ONE))),
    "which is combined by sum": (
        g.Alloc(LANES), simd(g.Accumulate(LANES, (), "sum", ONE)), *put(g.Unary("reduce_max", g.Load(LANES, ()))),
    ),
    "neutral element": (g.Alloc(LANES), g.Store(LANES, (), ONE), simd(g.Accumulate(LANES, (), "sum", ONE))),
}  # fmt: skip


@pytest.mark.parametrize("message", sorted(BAD))
def test_bad(message: str) -> None:
    kernel = g.Kernel("broken", (X, Y), ("N",), (("i", N),), BAD[message])
    with pytest.raises(VerifyError, match=rf"kernel 'broken'.*{message}"):
        verify(kernel)


def test_scopes_end_with_their_body() -> None:
    inner = g.Loop("k", 0, 2, "serial", (g.Let("m", N), g.Alloc(REG)))
    after = (g.Loop("k", 0, 2, "serial", (g.Let("m", N),)), g.Alloc(REG))
    verify(g.Kernel("fine", (X, Y), ("N",), (("i", N),), (inner, *after)))
    with pytest.raises(VerifyError, match="'m', which is not in scope"):
        verify(g.Kernel("leak", (X, Y), ("N",), (("i", N),), (inner, g.Store(Y, (sym("m"),), ONE))))


def test_heads_are_checked() -> None:
    for kernel, message in [
        (g.Kernel("h", (X, X), ("N",), (), ()), "distinct"),
        (g.Kernel("h", (X, Y), ("N", "N"), (), ()), "distinct"),
        (g.Kernel("h", (X, Y), (), (), ()), "not in scope"),
        (g.Kernel("h", (TILE, Y), ("N",), (), ()), "an argument is global"),
        (g.Kernel("h", (g.Buffer("x", (N,), "float32", strides=(1, 1)), Y), ("N",), (), ()), "2 strides for rank 1"),
    ]:
        with pytest.raises(VerifyError, match=message):
            verify(kernel)


def test_a_real_kernel_passes_once_unrolled() -> None:
    from nnaccel_core.loopir.transforms import unroll

    assert verify(unroll(depthwise())).name == "depthwise"
