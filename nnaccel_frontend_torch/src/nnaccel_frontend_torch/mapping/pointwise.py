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
from nnaccel_frontend_torch.mapping.args import Handler, as_value, dtype_of, floating, is_tensor, promoted, tensor
from nnaccel_frontend_torch.refusal import NeedStatic, Unmapped


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


def arithmetic(op: str, scalar: Callable[[Any, Any], Any], to_float: bool = False) -> Handler:
    """A call with two operands and torch's promotion; on sizes it is plain arithmetic."""

    def run(b: Importer, input: Any, other: Any, *, alpha: float = 1) -> Any:
        if not is_tensor(input) and not is_tensor(other):
            return _sizes(scalar, input, other)
        dtype = promoted(b, input, other)
        if to_float and not dtype.is_floating_point:
            dtype = torch.get_default_dtype()
        if dtype == torch.bool:
            raise Unmapped(f"{op} of booleans")
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
    dtype = promoted(b, input, other)
    if rounding_mode != "floor" or not dtype.is_floating_point:
        raise Unmapped(f"division with rounding_mode={rounding_mode!r} of {dtype}")
    # torch computes floor division from fmod; floor(a / b) differs in the last place, so this stays in torch.
    raise Unmapped("floor division of floats")


def floor_divide(b: Importer, input: Any, other: Any) -> Any:
    """``//`` on sizes; on tensors it stays in torch."""
    if not is_tensor(input) and not is_tensor(other):
        return _sizes(operator.floordiv, input, other)
    return divide(b, input, other, rounding_mode="floor")


def remainder(b: Importer, input: Any, other: Any) -> Any:
    """``%`` on sizes; on tensors it stays in torch."""
    if not is_tensor(input) and not is_tensor(other):
        return _sizes(operator.mod, input, other)
    raise Unmapped("remainder of tensors")


def power(b: Importer, input: Any, exponent: Any) -> Any:
    """``torch.pow``; small integer powers become products, as torch computes them."""
    if not is_tensor(input) and not is_tensor(exponent):
        return _sizes(operator.pow, input, exponent)
    dtype = promoted(b, input, exponent)
    if not dtype.is_floating_point:
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


def logical(op: str) -> Handler:
    """and / or of booleans."""

    def run(b: Importer, input: Any, other: Any) -> Ref:
        left, right = tensor(b, input).read(b), tensor(b, other).read(b)
        if left.dtype != "bool" or right.dtype != "bool":
            raise Unmapped(f"{op} of {left.dtype} and {right.dtype}")
        fixed = b.constant(op == "or", "bool")
        return b.temp(b.emit("where", [left, fixed, right] if op == "or" else [left, right, fixed]))

    return run


def logical_not(b: Importer, input: Any) -> Any:
    """not of booleans."""
    value = tensor(b, input).read(b)
    if value.dtype != "bool":
        raise Unmapped(f"not of {value.dtype}")
    return b.temp(b.emit("eq", [value, b.constant(False, "bool")]))


def clamp(b: Importer, input: Any, min: Any = None, max: Any = None) -> Ref:
    """``torch.clamp`` with numbers or tensors."""
    if min is None and max is None:
        raise Unmapped("clamp without bounds")
    if is_tensor(min) or is_tensor(max):
        out = input
        if min is not None:
            out = arithmetic("maximum", builtin_max)(b, out, min)
        return tensor(b, out if max is None else arithmetic("minimum", builtin_min)(b, out, max))
    for bound in (min, max):
        if isinstance(bound, Expr):
            raise NeedStatic("clamp to a symbolic size")
    dtype = promoted(b, input, *(m for m in (min, max) if m is not None))
    x = as_value(b, input, dtype)
    if dtype.is_floating_point:
        lo, hi = (-math.inf if min is None else float(min)), (math.inf if max is None else float(max))
        if not lo <= hi:
            raise Unmapped(f"clamp to {lo}..{hi}")
        return b.temp(b.emit("clip", [x], min=lo, max=hi))
    if min is not None:
        x = b.emit("maximum", [x, b.constant(min, x.dtype)])
    return b.temp(x if max is None else b.emit("minimum", [x, b.constant(max, x.dtype)]))


builtin_max, builtin_min = max, min


def hardtanh(b: Importer, input: Any, min_val: float = -1.0, max_val: float = 1.0) -> Ref:
    """``F.hardtanh``: a clamp that keeps the dtype."""
    if not dtype_of(b, input).is_floating_point:
        raise Unmapped("hardtanh of integers")
    return clamp(b, input, min_val, max_val)


def with_attr(op: str, attr: str, default: Any) -> Handler:
    """A float unary op with one more argument."""

    def run(b: Importer, input: Any, value: Any = default, **kwargs: Any) -> Ref:
        for name in ("negative_slope", "alpha", "approximate"):
            value = kwargs.pop(name, value)
        if kwargs:
            raise Unmapped(f"{op} with {sorted(kwargs)}")
        return b.temp(b.emit(op, [_float_only(b, input, op)], **{attr: value}))

    return run


def _float_only(b: Importer, x: Any, what: str) -> Value:
    value = tensor(b, x).read(b)
    if not value.type.is_float:
        raise Unmapped(f"{what} of {value.dtype}")
    return value


def softplus(b: Importer, input: Any, beta: float = 1, threshold: float = 20) -> Ref:
    """``F.softplus``."""
    return b.temp(b.emit("softplus", [_float_only(b, input, "softplus")], beta=float(beta), threshold=float(threshold)))


def mish(b: Importer, input: Any) -> Ref:
    """``x * tanh(softplus(x))``."""
    x = _float_only(b, input, "mish")
    return b.temp(b.emit("mul", [x, b.emit("tanh", [b.emit("softplus", [x], beta=1.0, threshold=20.0)])]))


def selu(b: Importer, input: Any) -> Ref:
    """``F.selu``: a scaled ELU with the constants of Klambauer et al., 2017."""
    x = _float_only(b, input, "selu")
    inner = b.emit("elu", [x], alpha=1.6732632423543772)
    return b.temp(b.emit("mul", [inner, b.constant(1.0507009873554805, x.dtype)]))


def softsign(b: Importer, input: Any) -> Ref:
    """``x / (1 + |x|)``."""
    x = _float_only(b, input, "softsign")
    return b.temp(b.emit("div", [x, b.emit("add", [b.emit("abs", [x]), b.constant(1.0, x.dtype)])]))


def prelu(b: Importer, input: Any, weight: Any) -> Ref:
    """``F.prelu``: a slope for all or one per channel."""
    x, w = _float_only(b, input, "prelu"), tensor(b, weight).read(b)
    if w.shape != (1,) and x.type.rank > 1:
        w = b.emit("reshape", [w], shape=(w.shape[0], *([1] * (x.type.rank - 2))))
    positive = b.emit("gt", [x, b.constant(0.0, x.dtype)])
    return b.temp(b.emit("where", [positive, x, b.emit("mul", [x, w])]))


def where(b: Importer, condition: Any, input: Any, other: Any) -> Ref:
    """``torch.where`` with three arguments."""
    c = tensor(b, condition).read(b)
    if c.dtype != "bool":
        raise Unmapped(f"where with a condition of {c.dtype}")
    if not is_tensor(input) and not is_tensor(other):
        raise Unmapped("where with two numbers")
    dtype = promoted(b, input, other)
    return b.temp(b.emit("where", [c, as_value(b, input, dtype), as_value(b, other, dtype)]))


def masked_fill(b: Importer, input: Any, mask: Any, value: Any) -> Ref:
    """``torch.masked_fill``; the fill value takes the tensor's dtype."""
    x, m = tensor(b, input).read(b), tensor(b, mask).read(b)
    if m.dtype != "bool":
        raise Unmapped(f"masked_fill with a mask of {m.dtype}")
    fill = b.cast(tensor(b, value).read(b), x.dtype) if is_tensor(value) else b.constant(value, x.dtype)
    return b.temp(b.emit("where", [m, fill, x]))


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


def glu(b: Importer, input: Any, dim: int = -1) -> Ref:
    """First half times the sigmoid of the second."""
    from nnaccel_frontend_torch.mapping.shapes import chunk

    left, right = chunk(b, input, 2, dim)
    return b.temp(b.emit("mul", [left.read(b), b.emit("sigmoid", [right.read(b)])]))


def square(b: Importer, input: Any) -> Ref:
    """``x * x``."""
    return power(b, input, 2)


add = arithmetic("add", operator.add)
sub = arithmetic("sub", operator.sub)
mul = arithmetic("mul", operator.mul)

TABLE: dict[str, Handler] = {
    "relu": unary("relu", any_dtype=True),
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
    "sigmoid": unary("sigmoid"),
    "silu": unary("silu"),
    "hardsigmoid": unary("hardsigmoid"),
    "hardswish": unary("hardswish"),
    "floor": rounding("floor"),
    "ceil": rounding("ceil"),
    "gelu": with_attr("gelu", "approximate", "none"),
    "leaky_relu": with_attr("leaky_relu", "alpha", 0.01),
    "elu": with_attr("elu", "alpha", 1.0),
    "softplus": softplus,
    "mish": mish,
    "selu": selu,
    "softsign": softsign,
    "prelu": prelu,
    "relu6": lambda b, input: hardtanh(b, input, 0.0, 6.0),
    "hardtanh": hardtanh,
    "clamp": clamp,
    "clip": clamp,
    "clamp_min": lambda b, input, min: clamp(b, input, min, None),
    "clamp_max": lambda b, input, max: clamp(b, input, None, max),
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
    "remainder": remainder,
    "pow": power,
    "rpow": lambda b, input, other: power(b, other, input),
    "square": square,
    "maximum": arithmetic("maximum", max),
    "minimum": arithmetic("minimum", min),
    "eq": compare("eq", operator.eq),
    "ne": compare("ne", operator.ne),
    "lt": compare("lt", operator.lt),
    "le": compare("le", operator.le),
    "gt": compare("gt", operator.gt),
    "ge": compare("ge", operator.ge),
    "and": logical("and"),
    "or": logical("or"),
    "and_": logical("and"),
    "or_": logical("or"),
    "bitwise_and": logical("and"),
    "bitwise_or": logical("or"),
    "logical_and": logical("and"),
    "logical_or": logical("or"),
    "logical_not": logical_not,
    "bitwise_not": logical_not,
    "invert": logical_not,
    "where": where,
    "masked_fill": masked_fill,
    "lerp": lerp,
    "addcmul": addc("mul"),
    "addcdiv": addc("div"),
    "glu": glu,
}
