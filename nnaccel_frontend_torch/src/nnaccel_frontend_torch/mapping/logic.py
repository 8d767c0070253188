"""Comparisons, truth values, bits, and choices by them."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any

import torch

from nnaccel_core.ir import Expr, Value
from nnaccel_frontend_torch.alias import Ref
from nnaccel_frontend_torch.dtypes import TO_TORCH
from nnaccel_frontend_torch.importer import Importer
from nnaccel_frontend_torch.mapping.args import Handler, as_value, is_tensor, promoted, tensor
from nnaccel_frontend_torch.refusal import NeedStatic, Unmapped


def compare(op: str, scalar: Callable[[Any, Any], bool]) -> Handler:
    """A comparison; on sizes it must be decidable."""

    def run(b: Importer, input: Any, other: Any) -> Any:
        if not is_tensor(input) and not is_tensor(other):
            if isinstance(input, Expr) or isinstance(other, Expr):
                raise NeedStatic("a comparison of a symbolic size")
            return scalar(input, other)
        if other is None or input is None:
            return scalar(1, None)
        dtype = promoted(b, input, other)
        return b.temp(b.emit(op, [as_value(b, input, dtype), as_value(b, other, dtype)]))

    return run


def bitwise(op: str) -> Handler:
    """and / or / xor of booleans, or of integers bit by bit."""

    def run(b: Importer, input: Any, other: Any) -> Ref:
        dtype = promoted(b, input, other)
        if dtype.is_floating_point:
            raise Unmapped(f"{op} of {dtype}")
        return b.temp(b.emit(f"bitwise_{op}", [as_value(b, input, dtype), as_value(b, other, dtype)]))

    return run


def truth(b: Importer, x: Any) -> Value:
    """A tensor as booleans: whether it is not 0 (NaN is not)."""
    value = tensor(b, x).read(b)
    return value if value.dtype == "bool" else b.emit("ne", [value, b.constant(0, value.dtype)])


def logical(op: str) -> Handler:
    """and / or / xor of truth values."""
    return lambda b, input, other: b.temp(b.emit(f"bitwise_{op}", [truth(b, input), truth(b, other)]))


def bitwise_not(b: Importer, input: Any) -> Ref:
    """``~``."""
    value = tensor(b, input).read(b)
    if value.type.is_float:
        raise Unmapped(f"not of {value.dtype}")
    return b.temp(b.emit("bitwise_not", [value]))


def test(of_float: Callable[[Importer, Value], Value], on_integers: bool) -> Handler:
    """isnan and its relatives: a boolean for each element, the same for all integers."""

    def run(b: Importer, input: Any) -> Ref:
        x = tensor(b, input).read(b)
        if not x.type.is_float:
            return b.temp(b.emit("eq" if on_integers else "ne", [x, x]))
        return b.temp(of_float(b, x))

    return run


def _beside_infinity(op: str) -> Callable[[Importer, Value], Value]:
    return lambda b, x: b.emit(op, [b.emit("abs", [x]), b.constant(math.inf, x.dtype)])


def nan_to_num(
    b: Importer, input: Any, nan: float | None = None, posinf: float | None = None, neginf: float | None = None
) -> Ref:
    """``torch.nan_to_num``."""
    x = tensor(b, input).read(b)
    if not x.type.is_float:
        return b.temp(x)
    limits = torch.finfo(TO_TORCH[x.dtype])
    fill = [0.0 if nan is None else nan, limits.max if posinf is None else posinf, limits.min if neginf is None else neginf]
    out = b.emit("where", [b.emit("ne", [x, x]), b.constant(float(fill[0]), x.dtype), x])
    for bound, value in ((math.inf, fill[1]), (-math.inf, fill[2])):
        out = b.emit("where", [b.emit("eq", [x, b.constant(bound, x.dtype)]), b.constant(float(value), x.dtype), out])
    return b.temp(out)


def where(b: Importer, condition: Any, input: Any, other: Any) -> Ref:
    """``torch.where`` with three arguments."""
    c = tensor(b, condition).read(b)
    if c.dtype != "bool":
        raise Unmapped(f"where with a condition of {c.dtype}")
    if is_tensor(input) or is_tensor(other):
        dtype = promoted(b, input, other)
    else:
        kinds = [bool, int, float]
        if type(input) not in kinds or type(other) not in kinds:
            raise Unmapped("where with what are no numbers")
        at = max(kinds.index(type(input)), kinds.index(type(other)))
        dtype = (torch.bool, torch.int64, torch.get_default_dtype())[at]
    return b.temp(b.emit("where", [c, as_value(b, input, dtype), as_value(b, other, dtype)]))


def method_where(b: Importer, input: Any, condition: Any, other: Any) -> Ref:
    """``Tensor.where``, whose condition comes second."""
    return where(b, condition, input, other)


def masked_fill(b: Importer, input: Any, mask: Any, value: Any) -> Ref:
    """``torch.masked_fill``; the fill value takes the tensor's dtype."""
    x, m = tensor(b, input).read(b), tensor(b, mask).read(b)
    if m.dtype != "bool":
        raise Unmapped(f"masked_fill with a mask of {m.dtype}")
    fill = b.cast(tensor(b, value).read(b), x.dtype) if is_tensor(value) else b.constant(value, x.dtype)
    return b.temp(b.emit("where", [m, fill, x]))


TABLE: dict[str, Handler] = {
    "eq": compare("eq", operator.eq),
    "ne": compare("ne", operator.ne),
    "lt": compare("lt", operator.lt),
    "le": compare("le", operator.le),
    "gt": compare("gt", operator.gt),
    "ge": compare("ge", operator.ge),
    "greater": compare("gt", operator.gt),
    "greater_equal": compare("ge", operator.ge),
    "less": compare("lt", operator.lt),
    "less_equal": compare("le", operator.le),
    "not_equal": compare("ne", operator.ne),
    "and": bitwise("and"),
    "or": bitwise("or"),
    "xor": bitwise("xor"),
    "and_": bitwise("and"),
    "or_": bitwise("or"),
    "bitwise_and": bitwise("and"),
    "bitwise_or": bitwise("or"),
    "bitwise_xor": bitwise("xor"),
    "bitwise_not": bitwise_not,
    "invert": bitwise_not,
    "logical_and": logical("and"),
    "logical_or": logical("or"),
    "logical_xor": logical("xor"),
    "logical_not": lambda b, input: b.temp(b.emit("bitwise_not", [truth(b, input)])),
    "isnan": test(lambda b, x: b.emit("ne", [x, x]), False),
    "isinf": test(_beside_infinity("eq"), False),
    "isfinite": test(_beside_infinity("lt"), True),
    "nan_to_num": nan_to_num,
    "where": where,
    "masked_fill": masked_fill,
}
