"""Rounded division and its remainder, what integer division must look at first, and bits of integers and truth values."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from nnaccel_core.errors import InputError
from nnaccel_core.loopir.grammar import Binary, Const, Scalar, Select, Unary, scalar_dtype
from nnaccel_core.ops.binary import binary, pair_vjp
from nnaccel_core.ops.elementwise import like, unary
from nnaccel_core.ops.registry import Array, Attrs, OpDef, Sample, flat_vjp, register


def _is_float(x: Scalar) -> bool:
    return scalar_dtype(x).startswith(("float", "bfloat"))


def _certain(divisor: Scalar) -> Scalar:
    """An integer divisor with 1 for 0: SIMD lanes that are switched off load zeros and divide all the same, which traps."""
    return divisor if _is_float(divisor) else Select(Binary("eq", divisor, like(divisor, 0)), like(divisor, 1), divisor)


def _floor_div_body(a: Scalar, b: Scalar) -> Scalar:
    quotient = Binary("div", a, _certain(b))
    return Unary("floor", quotient) if _is_float(a) else quotient


binary(
    "mod",
    np.mod,
    "mod",
    body=lambda a, b: Binary("mod", a, _certain(b)),
    vjp=pair_vjp(lambda e, a, b, y, g: (g, e("neg", e("mul", g, e("floor_div", a, b))))),
    domain=(0.5, 3.0),
    cost=8,
)
binary("floor_div", np.floor_divide, "div", body=_floor_div_body, vjp=flat_vjp, domain=(0.5, 3.0), cost=6)


def _bitwise_not(x: Scalar, attrs: Attrs) -> Scalar:
    """Of integers all bits, which in two's complement is ``-1 - x``; of bytes ``255 - x``."""
    dtype = scalar_dtype(x)
    return Unary("not", x) if dtype == "bool" else Binary("sub", Const(255 if dtype == "uint8" else -1, dtype), x)


for _name in ("and", "or", "xor"):  # on bool and on integers, bit by bit
    binary(f"bitwise_{_name}", getattr(np, f"bitwise_{_name}"), _name, dtype="int64")
unary("bitwise_not", lambda x, a: np.invert(x), _bitwise_not, any_dtype=True, sample_dtype="bool")


def _nonzero_ref(xs: Sequence[Array], attrs: Attrs) -> Sequence[Array]:
    if not np.all(xs[0]):
        raise InputError("division of integers by zero")
    return (xs[0],)


#: The operand itself, if no element is 0. Integer division by 0 would end the process.
register(
    OpDef(
        "nonzero_divisor",
        lambda ts, a: (ts[0],),
        _nonzero_ref,
        host=True,
        samples=lambda: [Sample((np.array([[1, -2], [3, 4]]),))],
    )
)
