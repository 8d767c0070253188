"""Element by element: arithmetic, comparison, logic, casts."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import onnx.helper

from nnaccel_core.ir import Value
from nnaccel_frontend_onnx.bridge import ir_dtype
from nnaccel_frontend_onnx.errors import Unmapped
from nnaccel_frontend_onnx.items import Item, Known
from nnaccel_frontend_onnx.mapping import Call, Handler, maps, needs_float


def simple(op: str, floats: bool = True) -> Handler:
    """One operand, one operator of the IR."""

    def handler(n: Call) -> Value:
        x = n.x()
        return n.emit(op, needs_float(x) if floats else x)

    return handler


for _onnx, _op in (
    ("Exp", "exp"), ("Log", "log"), ("Sqrt", "sqrt"), ("Reciprocal", "reciprocal"), ("Sin", "sin"), ("Cos", "cos"),
    ("Tanh", "tanh"), ("Erf", "erf"), ("Floor", "floor"), ("Ceil", "ceil"), ("Round", "round"), ("Sigmoid", "sigmoid"),
):  # fmt: skip
    maps(_onnx)(simple(_op))
for _onnx, _op in (("Abs", "abs"), ("Neg", "neg"), ("Relu", "relu"), ("BitwiseNot", "bitwise_not"), ("Not", "bitwise_not")):
    maps(_onnx)(simple(_op, floats=False))


@maps("Identity")
def identity(n: Call) -> Item:
    item = n.item(0)
    if item is None:
        raise Unmapped("an operand is absent")
    return item


def aligned(n: Call, a: Value, b: Value) -> Value:
    """``b`` shaped to broadcast to ``a``: before operator set 7, ``axis`` says where its first axis belongs."""
    if n.version >= 7 or not n.attr("broadcast", 0) or "axis" not in n.attrs:
        return b
    axis = n.axis(a.type.rank, 0)
    return n.reshape(b, (*b.shape, *([1] * (a.type.rank - axis - b.type.rank))))


def pair(n: Call) -> tuple[Value, Value]:
    a, b = n.x(0), n.x(1)
    return a, aligned(n, a, b)


def binary(op: str) -> Handler:
    return lambda n: n.emit(op, *pair(n))


for _onnx, _op in (
    ("Add", "add"), ("Sub", "sub"), ("Mul", "mul"), ("Equal", "eq"), ("Less", "lt"), ("LessOrEqual", "le"), ("Greater", "gt"),
    ("GreaterOrEqual", "ge"), ("And", "bitwise_and"), ("Or", "bitwise_or"), ("Xor", "bitwise_xor"), ("BitwiseAnd", "bitwise_and"),
    ("BitwiseOr", "bitwise_or"), ("BitwiseXor", "bitwise_xor"),
):  # fmt: skip
    maps(_onnx)(binary(_op))


def divisor(n: Call, b: Value) -> Value:
    """An integer divisor, looked at first: division by 0 would end the process."""
    item = n.item(1)
    if b.type.is_float or (isinstance(item, Known) and np.all(item.array)):
        return b
    return n.emit("nonzero_divisor", b)


@maps("Div")
def div(n: Call) -> Value:
    a, b = pair(n)
    b = divisor(n, b)
    if a.type.is_float:
        return n.emit("div", a, b)
    if a.dtype == "uint8":
        return n.emit("floor_div", a, b)
    # Towards zero: one more than rounded down, where that is below.
    rest, zero = n.emit("mod", a, b), n.number(0, a)
    below = n.emit("bitwise_xor", n.emit("lt", a, zero), n.emit("lt", b, zero))
    more = n.emit("bitwise_and", below, n.emit("ne", rest, zero))
    return n.emit("add", n.emit("floor_div", a, b), n.c.cast(more, a.dtype))


@maps("Mod")
def mod(n: Call) -> Value:
    a, b = pair(n)
    if not n.attr("fmod", 0):
        return n.emit("mod", a, divisor(n, b))
    rest = n.emit("mod", n.emit("abs", a), n.emit("abs", divisor(n, b)))
    return n.emit("where", n.emit("lt", a, n.number(0, a)), n.emit("neg", rest), rest)


@maps("Pow")
def power(n: Call) -> Value:
    a, b = pair(n)
    item = n.item(1)
    if isinstance(item, Known) and item.array.size == 1 and item.array.ndim <= a.type.rank:
        exponent = float(n.c.fixed(item).reshape(-1)[0])
        if exponent == 1:
            return a
        if exponent == 2:
            return n.emit("mul", a, a)
        if exponent == 0.5 and a.type.is_float:
            return n.emit("sqrt", a)
    if a.type.is_float:
        return n.emit("pow", a, n.c.cast(b, a.dtype))
    raise Unmapped(f"a power of {a.dtype}")


def variadic(op: str) -> Handler:
    def handler(n: Call) -> Value:
        first, *rest = n.xs()
        for x in rest:
            first = n.emit(op, first, x)
        return first

    return handler


for _onnx, _op in (("Sum", "add"), ("Max", "maximum"), ("Min", "minimum")):
    maps(_onnx)(variadic(_op))


@maps("Mean")
def mean(n: Call) -> Value:
    xs = n.xs()
    total = xs[0]
    for x in xs[1:]:
        total = n.emit("add", total, x)
    return n.emit("div", needs_float(total), n.number(len(xs), total))


@maps("Where")
def where(n: Call) -> Value:
    return n.emit("where", n.x(0), n.x(1), n.x(2))


def convert(n: Call, x: Value, dtype: str) -> Value:
    """``x`` as ``dtype``; booleans tell whether it is not 0."""
    if dtype == "bool" and x.dtype != "bool":
        return n.emit("ne", x, n.number(0, x))
    if x.type.is_float and dtype == "uint8":  # negative numbers wrap around, through a signed type
        return n.c.cast(n.c.cast(x, "int32"), dtype)
    return n.c.cast(x, dtype)


@maps("Cast")
def cast(n: Call) -> Value:
    wanted = n.attr("to")
    if isinstance(wanted, str):  # operator sets before 6 name the type
        wanted = onnx.TensorProto.DataType.Value(wanted.upper())
    return convert(n, n.x(), element_type(wanted))


@maps("CastLike")
def cast_like(n: Call) -> Value:
    return convert(n, n.x(0), n.x(1).dtype)


def element_type(number: int) -> str:
    """The IR's name of an ONNX element type."""
    found = ir_dtype(np.dtype(onnx.helper.tensor_dtype_to_np_dtype(number)))
    if found is None or number == onnx.TensorProto.STRING:
        raise Unmapped(f"element type {onnx.TensorProto.DataType.Name(number)}")
    return found


@maps("Sign")
def sign(n: Call) -> Value:
    x = n.x()
    zero = n.number(0, x)
    below = x if x.dtype == "uint8" else n.emit("where", n.emit("lt", x, zero), n.number(-1, x), x)
    return n.emit("where", n.emit("gt", x, zero), n.number(1, x), below)


@maps("IsNaN")
def is_nan(n: Call) -> Value:
    x = needs_float(n.x())
    return n.emit("ne", x, x)


@maps("IsInf")
def is_inf(n: Call) -> Value:
    x = needs_float(n.x())
    both = n.attr("detect_negative", 1), n.attr("detect_positive", 1)
    if both == (1, 1):
        return n.emit("eq", n.emit("abs", x), n.number(math.inf, x))
    if both == (0, 0):
        return n.emit("expand", n.c.constant(False, "bool"), shape=x.shape)
    return n.emit("eq", x, n.number(-math.inf if both[0] else math.inf, x))


def of_floats(f: Callable[[Call, Value], Value]) -> Handler:
    return lambda n: f(n, needs_float(n.x()))


def _tan(n: Call, x: Value) -> Value:
    return n.emit("div", n.emit("sin", x), n.emit("cos", x))


def _sinh(n: Call, x: Value) -> Value:
    e = n.emit("expm1", x)  # (e^x - e^-x) / 2 without loss around 0
    return n.emit("mul", n.emit("add", e, n.emit("div", e, n.emit("add", e, n.number(1, x)))), n.number(0.5, x))


def _cosh(n: Call, x: Value) -> Value:
    return n.emit("mul", n.emit("add", n.emit("exp", x), n.emit("exp", n.emit("neg", x))), n.number(0.5, x))


def _asinh(n: Call, x: Value) -> Value:
    a, one = n.emit("abs", x), n.number(1, x)
    root = n.emit("sqrt", n.emit("add", n.emit("mul", a, a), one))
    # log(a + root) as log1p(a + a^2 / (1 + root)), which keeps small numbers
    value = n.emit("log1p", n.emit("add", a, n.emit("div", n.emit("mul", a, a), n.emit("add", root, one))))
    return n.emit("where", n.emit("lt", x, n.number(0, x)), n.emit("neg", value), value)


def _acosh(n: Call, x: Value) -> Value:
    one = n.number(1, x)
    t = n.emit("sub", x, one)
    return n.emit("log1p", n.emit("add", t, n.emit("sqrt", n.emit("mul", t, n.emit("add", x, one)))))


def _atanh(n: Call, x: Value) -> Value:
    both = n.emit("sub", n.emit("log1p", x), n.emit("log1p", n.emit("neg", x)))
    return n.emit("mul", both, n.number(0.5, x))


for _onnx, _f in (("Tan", _tan), ("Sinh", _sinh), ("Cosh", _cosh), ("Asinh", _asinh), ("Acosh", _acosh), ("Atanh", _atanh)):
    maps(_onnx)(of_floats(_f))


@maps("Clip")
def clip(n: Call) -> Value:
    x = n.x()
    if n.version < 11:
        return bounded(n, x, n.attr("min"), n.attr("max"))
    bounds: list[Item | None] = [n.item(1), n.item(2)]
    if all(b is None or isinstance(b, Known) for b in bounds):
        low, high = (n.c.fixed(b).reshape(-1)[0].item() if isinstance(b, Known) else None for b in bounds)
        return bounded(n, x, low, high)
    for op, b in zip(("maximum", "minimum"), bounds, strict=True):
        if b is not None:
            x = n.emit(op, x, n.c.read(b))
    return x


def bounded(n: Call, x: Value, low: float | None, high: float | None) -> Value:
    """``x`` between two numbers; NaN stays."""
    if x.type.is_float and (low is None or high is None or low <= high):
        low, high = -math.inf if low is None else low, math.inf if high is None else high
        return x if (low, high) == (-math.inf, math.inf) else n.emit("clip", x, min=float(low), max=float(high))
    for op, limit in (("maximum", low), ("minimum", high)):
        if limit is not None:
            x = n.emit(op, x, n.number(limit, x))
    return x


@maps("BitShift")
def bit_shift(n: Call) -> Value:
    item = n.item(1)
    x = n.x(0)
    if n.attr("direction") != "LEFT" or not isinstance(item, Known) or item.array.max(initial=0) > 7 or x.dtype != "uint8":
        raise Unmapped("only shifts to the left by known numbers are mapped")
    return n.emit("mul", x, n.c.constant((1 << item.array.astype(np.int64)).astype(np.uint8), "uint8"))


__all__ = ["aligned", "bounded", "convert", "element_type", "pair"]
