"""What the loop IR's operators compute, as numpy functions on scalars or arrays of one dtype.

16-bit floats are storage types: a load widens them to float32, arithmetic happens in float32, and a store or a
cast rounds. ``div`` and ``mod`` round towards minus infinity on integers; ``mod`` takes the divisor's sign.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from nnaccel_core.ir.dims import Dim

Number = Any  # a numpy scalar or array

_erf = np.frompyfunc(math.erf, 1, 1)


def _erf_as(a: Number) -> Number:
    return np.asarray(_erf(a)).astype(np.asarray(a).dtype)[()]


def _same(a: Number) -> Number:
    return a


def _div(a: Number, b: Number) -> Number:
    return np.divide(a, b) if np.asarray(a).dtype.kind == "f" else np.floor_divide(a, b)


def _is_nan(a: Number) -> Number:
    return np.isnan(a) if np.asarray(a).dtype.kind == "f" else np.zeros_like(a, dtype=bool)[()]


UNARY: Mapping[str, Callable[[Number], Number]] = {
    "neg": np.negative, "abs": np.abs, "exp": np.exp, "log": np.log, "sqrt": np.sqrt,
    "rsqrt": lambda a: (np.ones_like(a) / np.sqrt(a))[()], "recip": lambda a: (np.ones_like(a) / a)[()],
    "sin": np.sin, "cos": np.cos, "tanh": np.tanh, "erf": _erf_as, "floor": np.floor, "ceil": np.ceil,
    "round": np.rint, "not": np.logical_not, "isnan": _is_nan, "log1p": np.log1p, "expm1": np.expm1,
    # One lane holds the whole of a `lanes` register here.
    "reduce_sum": _same, "reduce_max": _same, "reduce_min": _same, "reduce_prod": _same,
}  # fmt: skip

BINARY: Mapping[str, Callable[[Number, Number], Number]] = {
    "add": np.add, "sub": np.subtract, "mul": np.multiply, "div": _div, "pow": np.power, "mod": np.mod,
    "max": np.maximum, "min": np.minimum, "lt": np.less, "le": np.less_equal, "gt": np.greater,
    "ge": np.greater_equal, "eq": np.equal, "ne": np.not_equal, "and": np.bitwise_and, "or": np.bitwise_or,
    "xor": np.bitwise_xor,
}  # fmt: skip

#: Combining operator of an `Accumulate` or a nest, as a binary operator.
COMBINE_OP: Mapping[str, str] = {"sum": "add", "prod": "mul", "max": "max", "min": "min"}


def compute_dtype(dtype: str) -> str:
    """The dtype arithmetic on ``dtype`` happens in."""
    return "float32" if dtype in ("float16", "bfloat16") else dtype


def identity(combine: str, dtype: str) -> float | int | bool:
    """The neutral element of ``combine`` (one of ``COMBINE``) in ``dtype``."""
    if combine in ("sum", "prod"):
        return 0 if combine == "sum" else 1
    if np.dtype(compute_dtype(dtype)).kind == "f":
        return float("-inf") if combine == "max" else float("inf")
    if dtype == "bool":
        return combine == "min"
    info = np.iinfo(dtype)
    return info.min if combine == "max" else info.max


def round_bfloat16(a: Number) -> Number:
    """``a`` (float32) rounded to the nearest bfloat16, ties to even, held in float32."""
    flat = np.atleast_1d(np.asarray(a, dtype=np.float32))
    bits = flat.view(np.uint32).astype(np.uint64)
    rounded = ((bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000).astype(np.uint32).view(np.float32)
    out = np.where(np.isnan(flat), flat, rounded)
    return out.reshape(np.shape(a))[()]


def convert(a: Number, dtype: str) -> Number:
    """``a`` cast to ``dtype`` and widened again to its compute dtype."""
    if dtype == "bfloat16":
        return round_bfloat16(a)
    if dtype == "float16":
        return np.asarray(a).astype(np.float16).astype(np.float32)[()]
    return np.asarray(a).astype(dtype)[()]


def dim_source(dim: Dim, env: str = "e") -> str:
    """Python source that evaluates ``dim`` from the mapping ``env`` of symbols; ``lo`` and ``hi`` are min and max."""
    if isinstance(dim, int):
        return repr(dim)
    op, args = dim.op, dim.args
    if op == "sym":
        return f"{env}[{args[0]!r}]"
    if op == "sum":
        terms = [f"{c} * {dim_source(t, env)}" if c != 1 else dim_source(t, env) for t, c in args[1]]  # type: ignore[attr-defined]
        return "(" + " + ".join([*terms, repr(args[0])] if args[0] else terms) + ")"
    parts = [dim_source(a, env) for a in args]  # type: ignore[arg-type]
    if op in ("min", "max"):
        return f"{'lo' if op == 'min' else 'hi'}({', '.join(parts)})"
    return "(" + {"mul": " * ", "floordiv": " // ", "mod": " % "}[op].join(parts) + ")"


def _low(*a: Number) -> Number:
    return min(a) if all(isinstance(x, int) for x in a) else functools.reduce(np.minimum, a)


def _high(*a: Number) -> Number:
    return max(a) if all(isinstance(x, int) for x in a) else functools.reduce(np.maximum, a)


@functools.lru_cache(maxsize=1 << 14)
def compile_dim(dim: Dim) -> Callable[[Mapping[str, Any]], Any]:
    """``dim`` as a function of its symbols' values: ints, or broadcastable int64 arrays."""
    return eval(f"lambda e: {dim_source(dim)}", {"lo": _low, "hi": _high})  # type: ignore[no-any-return]
