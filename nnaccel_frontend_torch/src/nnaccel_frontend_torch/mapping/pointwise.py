"""Element-wise calls: one line each in `TABLE`."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any

import torch

from nnaccel_core.ir import Expr, Value
from nnaccel_frontend_torch.alias import Ref
from nnaccel_frontend_torch.dtypes import TO_IR
from nnaccel_frontend_torch.importer import Importer
from nnaccel_frontend_torch.mapping.args import Handler, as_value, floating, is_tensor, promoted, tensor, value_of
from nnaccel_frontend_torch.refusal import NeedStatic, Refusal, Unmapped


def unary(op: str, any_dtype: bool = False) -> Handler:
    """A call with one operand; integers become floats unless ``any_dtype``."""

    def run(b: Importer, input: Any) -> Any:
        if not is_tensor(input) and op in ("neg", "abs"):
            return getattr(operator, op)(input)
        value = tensor(b, input).read(b) if any_dtype else floating(b, input)
        if value.dtype == "bool":
            raise Unmapped(f"{op} of booleans")
        return b.temp(b.emit(op, [value]))

    return run


def rounding(op: str) -> Handler:
    """floor, ceil, round: the identity on integers."""

    def run(b: Importer, input: Any) -> Ref:
        value = tensor(b, input).read(b)
        return b.temp(b.emit(op, [value]) if value.type.is_float else value)

    return run


#: What arithmetic means on booleans.
_ON_BOOLS = {"add": "bitwise_or", "mul": "bitwise_and", "maximum": "bitwise_or", "minimum": "bitwise_and"}


def arithmetic(op: str, scalar: Callable[[Any, Any], Any], to_float: bool = False) -> Handler:
    """A call with two operands and torch's promotion; on sizes it is plain arithmetic."""

    def run(b: Importer, input: Any, other: Any, *, alpha: float = 1) -> Any:
        if not is_tensor(input) and not is_tensor(other):
            return _sizes(scalar, input, other)
        dtype = promoted(b, input, other)
        if to_float and not dtype.is_floating_point:
            dtype = torch.get_default_dtype()
        if dtype == torch.bool:
            if op not in _ON_BOOLS or alpha != 1:
                raise Unmapped(f"{op} of booleans")
            return b.temp(b.emit(_ON_BOOLS[op], [as_value(b, input, dtype), as_value(b, other, dtype)]))
        right = as_value(b, other, dtype)
        if alpha != 1:
            right = b.emit("mul", [right, b.constant(alpha, TO_IR[dtype])])
        return b.temp(b.emit(op, [as_value(b, input, dtype), right]))

    return run


def _sizes(f: Callable[[Any, Any], Any], x: Any, y: Any) -> Any:
    if isinstance(x, Expr) or isinstance(y, Expr):
        if f not in (operator.add, operator.sub, operator.mul, operator.floordiv, operator.mod):
            raise NeedStatic(f"{f.__name__} of a symbolic size")
        if not isinstance(x, (int, Expr)) or not isinstance(y, (int, Expr)):
            raise NeedStatic("a symbolic size meets a number that is not an integer")
    return f(x, y)


def swapped(f: Handler) -> Handler:
    """The reflected form: ``rsub(a, b) = b - a``."""

    def run(b: Importer, input: Any, other: Any, *, alpha: float = 1) -> Any:
        return f(b, other, input, alpha=alpha) if alpha != 1 else f(b, other, input)

    return run


def divide(b: Importer, input: Any, other: Any, *, rounding_mode: str | None = None) -> Any:
    """``torch.div``: true division, or rounded when asked."""
    if rounding_mode is None:
        return arithmetic("div", operator.truediv, to_float=True)(b, input, other)
    if rounding_mode == "floor":
        return floor_divide(b, input, other)
    dtype = promoted(b, input, other)
    if rounding_mode != "trunc":
        raise Unmapped(f"division with rounding_mode={rounding_mode!r}")
    if dtype.is_floating_point:
        return b.temp(_truncated(b, b.emit("div", [as_value(b, input, dtype), as_value(b, other, dtype)])))
    x, y = as_value(b, input, dtype), _divisor(b, other, dtype, "division")
    if dtype == torch.uint8:
        return b.temp(b.emit("floor_div", [x, y]))
    zero = b.constant(0, x.dtype)
    size = b.emit("floor_div", [b.emit("abs", [x]), b.emit("abs", [y])])
    opposite = b.emit("bitwise_xor", [b.emit("lt", [x, zero]), b.emit("lt", [y, zero])])
    return b.temp(b.emit("where", [opposite, b.emit("neg", [size]), size]))


def _truncated(b: Importer, x: Value) -> Value:
    negative = b.emit("lt", [x, b.constant(0.0, x.dtype)])
    return b.emit("where", [negative, b.emit("ceil", [x]), b.emit("floor", [x])])


def _divisor(b: Importer, other: Any, dtype: torch.dtype, what: str) -> Value:
    """The divisor; one of integers is looked at first: division by 0 raises in torch and would end the process in a kernel."""
    if dtype == torch.bool:
        raise Unmapped(f"{what} of booleans")
    if dtype.is_floating_point or (not is_tensor(other) and other != 0):
        return as_value(b, other, dtype)
    if not is_tensor(other):
        raise Refusal(f"{what} of integers by 0: torch refuses it too")
    return b.emit("nonzero_divisor", [as_value(b, other, dtype)])


def floor_divide(b: Importer, input: Any, other: Any) -> Any:
    """``//`` with torch's and Python's rule for floats: the quotient of what the remainder leaves, exactly rounded."""
    if not is_tensor(input) and not is_tensor(other):
        return _sizes(operator.floordiv, input, other)
    dtype = promoted(b, input, other)
    x, y = as_value(b, input, dtype), _divisor(b, other, dtype, "floor division")
    if not dtype.is_floating_point:
        return b.temp(b.emit("floor_div", [x, y]))
    exact = b.emit("round", [b.emit("div", [b.emit("sub", [x, b.emit("mod", [x, y])]), y])])
    if not is_tensor(other) and other != 0:
        return b.temp(exact)
    by_zero = b.emit("eq", [y, b.constant(0.0, y.dtype)])
    return b.temp(b.emit("where", [by_zero, b.emit("div", [x, y]), exact]))


def remainder(b: Importer, input: Any, other: Any) -> Any:
    """``%``: the remainder with the divisor's sign."""
    if not is_tensor(input) and not is_tensor(other):
        return _sizes(operator.mod, input, other)
    dtype = promoted(b, input, other)
    return b.temp(b.emit("mod", [as_value(b, input, dtype), _divisor(b, other, dtype, "remainder")]))


def shifted(left: bool) -> Handler:
    """``<<`` and ``>>`` of integers by a number: multiplication or floor division by a power of two."""

    def run(b: Importer, input: Any, other: Any) -> Any:
        if not is_tensor(input) and not is_tensor(other):
            return _sizes(operator.lshift if left else operator.rshift, input, other)
        if not is_tensor(input) or type(other) is not int or not 0 <= other < 31:
            raise Unmapped("a shift by a tensor, or by no number of bits")
        x = value_of(b, input)
        if x.type.is_float or x.dtype in ("bool", "int8", "int16", "uint8"):
            raise Unmapped(f"a shift of {x.dtype}")
        by = b.constant(1 << other, x.dtype)
        return b.temp(b.emit("mul" if left else "floor_div", [x, by]))

    return run


def power(b: Importer, input: Any, exponent: Any) -> Any:
    """``torch.pow``; small integer powers become products, as torch computes them."""
    if not is_tensor(input) and not is_tensor(exponent):
        return _sizes(operator.pow, input, exponent)
    dtype = promoted(b, input, exponent)
    if not dtype.is_floating_point and (dtype == torch.bool or is_tensor(exponent) or exponent not in (1, 2, 3)):
        raise Unmapped("powers of integers")
    if is_tensor(input) and not is_tensor(exponent):
        x = as_value(b, input, dtype)
        if exponent in (2, 3):
            square = b.emit("mul", [x, x])
            return b.temp(square if exponent == 2 else b.emit("mul", [square, x]))
        if exponent == 0.5:
            return b.temp(b.emit("sqrt", [x]))
        if exponent == 1:
            return b.temp(x)
        if exponent == -1:
            return b.temp(b.emit("reciprocal", [x]))
        if exponent == -0.5:
            return b.temp(b.emit("rsqrt", [x]))
    return b.temp(b.emit("pow", [as_value(b, input, dtype), as_value(b, exponent, dtype)]))


def sign(b: Importer, input: Any) -> Ref:
    """-1, 0 or 1; 0 for NaN, as in torch."""
    x = tensor(b, input).read(b)
    if x.dtype == "bool":
        return b.temp(x)
    zero = b.constant(0, x.dtype)
    above, below = (b.cast(b.emit(op, [x, zero]), x.dtype) for op in ("gt", "lt"))
    return b.temp(b.emit("sub", [above, below]))


def truncate(b: Importer, input: Any) -> Ref:
    """``trunc``, ``fix``."""
    x = tensor(b, input).read(b)
    return b.temp(_truncated(b, x) if x.type.is_float else x)


def fraction(b: Importer, input: Any) -> Ref:
    """``frac``: what ``trunc`` leaves."""
    x = floating(b, input)
    return b.temp(b.emit("sub", [x, _truncated(b, x)]))


def rounded(b: Importer, input: Any, *, decimals: int = 0) -> Ref:
    """``round`` half to even."""
    if decimals:
        raise Unmapped("rounding to decimals")
    return rounding("round")(b, input)  # type: ignore[no-any-return]


def scaled_log(factor: float) -> Handler:
    """log2, log10."""

    def run(b: Importer, input: Any) -> Ref:
        x = b.emit("log", [floating(b, input)])
        return b.temp(b.emit("mul", [x, b.constant(factor, x.dtype)]))

    return run


def tangent(b: Importer, input: Any) -> Ref:
    """``tan``."""
    x = floating(b, input)
    return b.temp(b.emit("div", [b.emit("sin", [x]), b.emit("cos", [x])]))


def lerp(b: Importer, input: Any, end: Any, weight: Any) -> Ref:
    """``input + weight * (end - input)``."""
    dtype = promoted(b, input, end)
    x = as_value(b, input, dtype)
    step = b.emit("mul", [as_value(b, weight, dtype), b.emit("sub", [as_value(b, end, dtype), x])])
    return b.temp(b.emit("add", [x, step]))


def addc(op: str) -> Handler:
    """addcmul / addcdiv."""

    def run(b: Importer, input: Any, tensor1: Any, tensor2: Any, *, value: float = 1) -> Ref:
        dtype = promoted(b, input, tensor1, tensor2)
        term = b.emit(op, [as_value(b, tensor1, dtype), as_value(b, tensor2, dtype)])
        if value != 1:
            term = b.emit("mul", [term, b.constant(value, TO_IR[dtype])])
        return b.temp(b.emit("add", [as_value(b, input, dtype), term]))

    return run


def square(b: Importer, input: Any) -> Ref:
    """``x * x``."""
    return power(b, input, 2)


def floating_ref(b: Importer, input: Any) -> Ref:
    """The tensor itself, or converted to the default dtype when it is of integers."""
    return tensor(b, input) if tensor(b, input).type.is_float else b.temp(floating(b, input))


add = arithmetic("add", operator.add)
sub = arithmetic("sub", operator.sub)
mul = arithmetic("mul", operator.mul)

TABLE: dict[str, Handler] = {
    "neg": unary("neg", any_dtype=True),
    "negative": unary("neg", any_dtype=True),
    "abs": unary("abs", any_dtype=True),
    "absolute": unary("abs", any_dtype=True),
    "exp": unary("exp"),
    "expm1": unary("expm1"),
    "log": unary("log"),
    "log1p": unary("log1p"),
    "sqrt": unary("sqrt"),
    "rsqrt": unary("rsqrt"),
    "reciprocal": unary("reciprocal"),
    "sin": unary("sin"),
    "cos": unary("cos"),
    "tanh": unary("tanh"),
    "erf": unary("erf"),
    "floor": rounding("floor"),
    "ceil": rounding("ceil"),
    "add": add,
    "radd": swapped(add),
    "sub": sub,
    "subtract": sub,
    "rsub": swapped(sub),
    "mul": mul,
    "multiply": mul,
    "rmul": swapped(mul),
    "div": divide,
    "divide": divide,
    "true_divide": divide,
    "truediv": divide,
    "rtruediv": lambda b, input, other: divide(b, other, input),
    "floordiv": floor_divide,
    "floor_divide": floor_divide,
    "rfloordiv": lambda b, input, other: floor_divide(b, other, input),
    "mod": remainder,
    "rmod": lambda b, input, other: remainder(b, other, input),
    "remainder": remainder,
    "lshift": shifted(True),
    "rshift": shifted(False),
    "bitwise_left_shift": shifted(True),
    "bitwise_right_shift": shifted(False),
    "pow": power,
    "rpow": lambda b, input, other: power(b, other, input),
    "square": square,
    "maximum": arithmetic("maximum", max),
    "minimum": arithmetic("minimum", min),
    "sign": sign,
    "sgn": sign,
    "trunc": truncate,
    "fix": truncate,
    "frac": fraction,
    "round": rounded,
    "log2": scaled_log(1 / math.log(2)),
    "log10": scaled_log(1 / math.log(10)),
    "exp2": lambda b, input: power(b, 2.0, floating_ref(b, input)),
    "tan": tangent,
    "positive": lambda b, input: tensor(b, input),
    "lerp": lerp,
    "addcmul": addc("mul"),
    "addcdiv": addc("div"),
}
