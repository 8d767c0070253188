"""Element by element: arithmetic, comparison, logic, casts, choice."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from nnaccel_core.ir import Node, Value
from nnaccel_frontend_tf.items import Item, Known
from nnaccel_frontend_tf.mapping import Call, Handler, Result, maps, needs_float


def simple(op: str, floats: bool = True) -> Handler:
    """One operand, one operator of the IR."""

    def handler(n: Call) -> Value:
        x = n.x()
        return n.emit(op, needs_float(x) if floats else x)

    return handler


for _tf, _op in (
    ("Exp", "exp"), ("Expm1", "expm1"), ("Log", "log"), ("Log1p", "log1p"), ("Sqrt", "sqrt"), ("Rsqrt", "rsqrt"), ("Sin", "sin"),
    ("Reciprocal", "reciprocal"), ("Inv", "reciprocal"), ("Cos", "cos"), ("Tanh", "tanh"), ("Erf", "erf"), ("Floor", "floor"),
    ("Ceil", "ceil"), ("Round", "round"), ("Rint", "round"), ("Sigmoid", "sigmoid"),
):  # fmt: skip
    maps(_tf)(simple(_op))
for _tf, _op in (("Abs", "abs"), ("Neg", "neg"), ("LogicalNot", "bitwise_not"), ("Invert", "bitwise_not")):
    maps(_tf)(simple(_op, floats=False))


@maps("Identity", "Snapshot", "EnsureShape", "PlaceholderWithDefault")
def identity(n: Call) -> Item:
    return n.item(0)


@maps("StopGradient", "PreventGradient")
def stop_gradient(n: Call) -> Item:
    item = n.item(0)
    return n.emit("stop_gradient", item) if isinstance(item, Value) and item.type.is_float else item


@maps("IdentityN")
def identity_n(n: Call) -> Result:
    """Also what ``tf.custom_gradient`` makes. That gradient is Python code about the trace's own tensors, so that such a network
    is trained in TensorFlow, but for ``tf.nn.silu``, which is one too."""
    results = list(n.operands)
    if n.attr("_gradient_op_type"):
        if not _is_swish(n):
            n.c.untrainable = n.c.untrainable or f"{n.c.origin} has a gradient of its own (tf.custom_gradient)"
        elif n.known(2, "beta").reshape(-1)[0] == 1:
            results[0] = n.emit("silu", n.x(1))
    return results


def _is_swish(n: Call) -> bool:
    """Whether the operands are ``x * sigmoid(beta * x)``, x and beta."""
    if len(n.operands) != 3 or not isinstance(n.item(2), Known):
        return False
    # Made just before: looking further back would take time on large networks, and find nothing.
    made = {v: step for step in n.c.steps[-8:] if isinstance(step, Node) for v in step.outputs}
    y, x = made.get(n.x(0)), n.item(1)
    if y is None or y.op != "mul" or x not in y.inputs:
        return False
    gate = made.get(y.inputs[0] if y.inputs[1] is x else y.inputs[1])
    if gate is None or gate.op != "sigmoid":
        return False
    inner = made.get(gate.inputs[0])
    return gate.inputs[0] is x or (inner is not None and inner.op == "mul" and x in inner.inputs)


def binary(op: str) -> Handler:
    return lambda n: n.emit(op, n.x(0), n.x(1))


for _tf, _op in (
    ("Add", "add"), ("AddV2", "add"), ("Sub", "sub"), ("Mul", "mul"), ("Less", "lt"), ("LessEqual", "le"), ("Greater", "gt"),
    ("GreaterEqual", "ge"), ("LogicalAnd", "bitwise_and"), ("LogicalOr", "bitwise_or"), ("BitwiseAnd", "bitwise_and"),
    ("BitwiseOr", "bitwise_or"), ("BitwiseXor", "bitwise_xor"), ("Maximum", "maximum"), ("Minimum", "minimum"), ("Equal", "eq"),
    ("NotEqual", "ne"),
):  # fmt: skip
    maps(_tf)(binary(_op))


@maps("RealDiv", "Div")
def real_div(n: Call) -> Value:
    return n.emit("div", needs_float(n.x(0)), n.x(1))


@maps("DivNoNan")
def div_no_nan(n: Call) -> Value:
    """0 where the divisor is 0."""
    a, b = needs_float(n.x(0)), n.x(1)
    none = n.emit("eq", b, n.number(0, b))
    return n.emit("where", none, n.number(0, a), n.emit("div", a, n.emit("where", none, n.number(1, b), b)))


@maps("FloorDiv", "FloorMod")
def floor_div(n: Call) -> Value:
    a, b = n.x(0), n.x(1)
    item = n.item(1)
    if not (b.type.is_float or (isinstance(item, Known) and np.all(item.array))):
        b = n.emit("nonzero_divisor", b)
    return n.emit("floor_div" if n.op.type == "FloorDiv" else "mod", a, b)


@maps("AddN")
def add_n(n: Call) -> Value:
    first, *rest = n.xs()
    for x in rest:
        first = n.emit("add", first, x)
    return first


@maps("Square")
def square(n: Call) -> Value:
    x = n.x()
    return n.emit("mul", x, x)


@maps("SquaredDifference")
def squared_difference(n: Call) -> Value:
    d = n.emit("sub", n.x(0), n.x(1))
    return n.emit("mul", d, d)


@maps("Pow")
def power(n: Call) -> Value:
    a, item = n.x(0), n.item(1)
    if isinstance(item, Known) and item.array.size == 1 and item.array.ndim <= a.type.rank:
        exponent = float(item.array.reshape(-1)[0])
        if exponent == 1:
            return a
        if exponent == 2:
            return n.emit("mul", a, a)
        if exponent == 3:
            return n.emit("mul", a, n.emit("mul", a, a))
        if exponent == 0.5 and a.type.is_float:
            return n.emit("sqrt", a)
    return n.emit("pow", needs_float(a), n.x(1))


@maps("Erfc")
def erfc(n: Call) -> Value:
    x = needs_float(n.x())
    return n.emit("sub", n.number(1, x), n.emit("erf", x))


@maps("Sign")
def sign(n: Call) -> Value:
    x = n.x()
    rest = n.emit("stop_gradient", x) if x.type.is_float else x
    below = n.emit("where", n.emit("lt", x, n.number(0, x)), n.number(-1, x), rest)
    return n.emit("where", n.emit("gt", x, n.number(0, x)), n.number(1, x), below)


@maps("IsNan")
def is_nan(n: Call) -> Value:
    x = n.x()
    return n.emit("ne", x, x)


@maps("IsInf")
def is_inf(n: Call) -> Value:
    x = n.x()
    return n.emit("eq", n.emit("abs", x), n.number(math.inf, x))


@maps("IsFinite")
def is_finite(n: Call) -> Value:
    x = n.x()
    return n.emit("lt", n.emit("abs", x), n.number(math.inf, x))


def of_floats(f: Callable[[Call, Value], Value]) -> Handler:
    return lambda n: f(n, needs_float(n.x()))


def _tan(n: Call, x: Value) -> Value:
    return n.emit("div", n.emit("sin", x), n.emit("cos", x))


def _sinh(n: Call, x: Value) -> Value:
    e = n.emit("expm1", x)  # (e^x - e^-x) / 2 without loss around 0
    return n.emit("mul", n.emit("add", e, n.emit("div", e, n.emit("add", e, n.number(1, x)))), n.number(0.5, x))


def _cosh(n: Call, x: Value) -> Value:
    return n.emit("mul", n.emit("add", n.emit("exp", x), n.emit("exp", n.emit("neg", x))), n.number(0.5, x))


for _tf, _f in (("Tan", _tan), ("Sinh", _sinh), ("Cosh", _cosh)):
    maps(_tf)(of_floats(_f))


@maps("SelectV2", "Select")
def select(n: Call) -> Value:
    c, a, b = n.x(0), n.x(1), n.x(2)
    if n.op.type == "Select" and c.type.rank == 1 and a.type.rank > 1:
        c = n.reshape(c, (c.shape[0], *([1] * (a.type.rank - 1))))  # a choice of rows
    return n.emit("where", c, a, b)


@maps("ClipByValue")
def clip(n: Call) -> Value:
    x, low, high = n.x(0), n.item(1), n.item(2)
    if all(isinstance(b, Known) and b.array.size == 1 for b in (low, high)):
        a, b = (float(v.array.reshape(-1)[0]) for v in (low, high))  # type: ignore[union-attr]
        if a <= b:
            return n.emit("clip", x, min=a, max=b)
    return n.emit("minimum", n.emit("maximum", x, n.x(1)), n.x(2))


@maps("Cast")
def cast(n: Call) -> Item:
    item, to = n.item(0), n.dtype()
    if isinstance(item, Known) and to != "bfloat16" and item.array.dtype.kind in "biuf":
        return Known(item.array.astype(to), item.parameter)
    x = n.x()
    if to == "bool" and x.dtype != "bool":
        return n.emit("ne", x, n.number(0, x))
    if x.type.is_float and to == "uint8":  # negative numbers wrap around, through a signed type
        return n.c.cast(n.c.cast(x, "int32"), to)
    return n.c.cast(x, to)


@maps("ZerosLike", "OnesLike")
def filled_like(n: Call) -> Item:
    item, number = n.item(0), 0 if n.op.type == "ZerosLike" else 1
    if isinstance(item, Known):
        return Known(np.full(item.array.shape, number, item.array.dtype))
    x = n.x()
    value = n.number(number, x)
    return value if not x.type.rank else n.emit("expand", value, shape=x.shape)
