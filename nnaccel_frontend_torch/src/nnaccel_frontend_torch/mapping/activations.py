"""Activation functions: one line each in `TABLE`."""

from __future__ import annotations

import math
from typing import Any

from nnaccel_core.ir import Expr, Value
from nnaccel_frontend_torch.alias import Ref
from nnaccel_frontend_torch.importer import Importer
from nnaccel_frontend_torch.mapping.args import Handler, as_value, dtype_of, is_tensor, promoted, tensor
from nnaccel_frontend_torch.mapping.parts import chunk
from nnaccel_frontend_torch.mapping.pointwise import arithmetic, unary
from nnaccel_frontend_torch.refusal import NeedStatic, Unmapped


def float_only(b: Importer, x: Any, what: str) -> Value:
    """A floating-point tensor's value.

    Raises:
        Unmapped: it is of another dtype.
    """
    value = tensor(b, x).read(b)
    if not value.type.is_float:
        raise Unmapped(f"{what} of {value.dtype}")
    return value


def with_attr(op: str, attr: str, default: Any) -> Handler:
    """A float unary op with one more argument."""

    def run(b: Importer, input: Any, value: Any = default, **kwargs: Any) -> Ref:
        for name in ("negative_slope", "alpha", "approximate"):
            value = kwargs.pop(name, value)
        if kwargs:
            raise Unmapped(f"{op} with {sorted(kwargs)}")
        return b.temp(b.emit(op, [float_only(b, input, op)], **{attr: value}))

    return run


def clamp(b: Importer, input: Any, min: Any = None, max: Any = None) -> Ref:
    """``torch.clamp`` with numbers or tensors; where the bounds cross, the upper one wins."""
    if min is None and max is None:
        raise Unmapped("clamp without bounds")
    for bound in (min, max):
        if isinstance(bound, Expr):
            raise NeedStatic("clamp to a symbolic size")
    dtype = promoted(b, *(x for x in (input, min, max) if x is not None))
    numbers = not is_tensor(min) and not is_tensor(max)
    if numbers and dtype.is_floating_point:
        lo, hi = (-math.inf if min is None else float(min)), (math.inf if max is None else float(max))
        if lo <= hi:
            return b.temp(b.emit("clip", [as_value(b, input, dtype)], min=lo, max=hi))
        if math.isnan(lo) or math.isnan(hi):
            raise Unmapped("clamp to NaN")
    out = input
    if min is not None:
        out = arithmetic("maximum", builtin_max)(b, out, min)
    return tensor(b, out if max is None else arithmetic("minimum", builtin_min)(b, out, max))


builtin_max, builtin_min = max, min


def hardtanh(b: Importer, input: Any, min_val: float = -1.0, max_val: float = 1.0) -> Ref:
    """``F.hardtanh``: a clamp that keeps the dtype, and whose gradient is 0 at the bounds."""
    if not dtype_of(b, input).is_floating_point:
        raise Unmapped("hardtanh of integers")
    if isinstance(min_val, Expr) or isinstance(max_val, Expr) or not min_val <= max_val:
        return clamp(b, input, min_val, max_val)
    return b.temp(b.emit("clip", [as_value(b, input, dtype_of(b, input))], min=float(min_val), max=float(max_val), open=True))


def softplus(b: Importer, input: Any, beta: float = 1, threshold: float = 20) -> Ref:
    """``F.softplus``."""
    return b.temp(b.emit("softplus", [float_only(b, input, "softplus")], beta=float(beta), threshold=float(threshold)))


def mish(b: Importer, input: Any) -> Ref:
    """``x * tanh(softplus(x))``."""
    x = float_only(b, input, "mish")
    return b.temp(b.emit("mul", [x, b.emit("tanh", [b.emit("softplus", [x], beta=1.0, threshold=20.0)])]))


def selu(b: Importer, input: Any) -> Ref:
    """``F.selu``: a scaled ELU with the constants of Klambauer et al., 2017."""
    x = float_only(b, input, "selu")
    inner = b.emit("elu", [x], alpha=1.6732632423543772)
    return b.temp(b.emit("mul", [inner, b.constant(1.0507009873554805, x.dtype)]))


def celu(b: Importer, input: Any, alpha: float = 1.0) -> Ref:
    """``F.celu``: x where positive, else ``alpha * (exp(x / alpha) - 1)`` (Barron, 2017)."""
    x = float_only(b, input, "celu")
    zero = b.constant(0.0, x.dtype)
    below = b.emit("mul", [b.emit("minimum", [x, zero]), b.constant(1.0 / alpha, x.dtype)])
    curve = b.emit("mul", [b.emit("expm1", [below]), b.constant(float(alpha), x.dtype)])
    return b.temp(b.emit("where", [b.emit("gt", [x, zero]), x, curve]))


def softsign(b: Importer, input: Any) -> Ref:
    """``x / (1 + |x|)``."""
    x = float_only(b, input, "softsign")
    return b.temp(b.emit("div", [x, b.emit("add", [b.emit("abs", [x]), b.constant(1.0, x.dtype)])]))


def tanhshrink(b: Importer, input: Any) -> Ref:
    """``x - tanh(x)``."""
    x = float_only(b, input, "tanhshrink")
    return b.temp(b.emit("sub", [x, b.emit("tanh", [x])]))


def logsigmoid(b: Importer, input: Any) -> Ref:
    """``min(x, 0) - log(1 + exp(-|x|))``: torch's form, which neither overflows nor cancels."""
    x = float_only(b, input, "logsigmoid")
    small = b.emit("log1p", [b.emit("exp", [b.emit("neg", [b.emit("abs", [x])])])])
    return b.temp(b.emit("sub", [b.emit("minimum", [x, b.constant(0.0, x.dtype)]), small]))


def hardshrink(b: Importer, input: Any, lambd: float = 0.5) -> Ref:
    """x outside of ``-lambd .. lambd``, else 0."""
    x = float_only(b, input, "hardshrink")
    inside = b.emit("le", [b.emit("abs", [x]), b.constant(float(lambd), x.dtype)])
    return b.temp(b.emit("where", [inside, b.constant(0.0, x.dtype), x]))


def softshrink(b: Importer, input: Any, lambd: float = 0.5) -> Ref:
    """x moved towards 0 by ``lambd``, where it stops; NaN stays NaN."""
    x = float_only(b, input, "softshrink")
    reach = b.constant(float(lambd), x.dtype)
    inside = b.emit("clip", [x], min=-float(lambd), max=float(lambd))
    return b.temp(b.emit("where", [b.emit("gt", [b.emit("abs", [x]), reach]), b.emit("sub", [x, inside]), _zero_or_nan(b, x)]))


def _zero_or_nan(b: Importer, x: Value) -> Value:
    return b.emit("where", [b.emit("eq", [x, x]), b.constant(0.0, x.dtype), x])


def threshold(b: Importer, input: Any, threshold: float, value: float) -> Ref:
    """x where it is above ``threshold`` (or NaN), else ``value``."""
    x = tensor(b, input).read(b)
    below = b.emit("le", [x, b.constant(threshold, x.dtype)])
    return b.temp(b.emit("where", [below, b.constant(value, x.dtype), x]))


def prelu(b: Importer, input: Any, weight: Any) -> Ref:
    """``F.prelu``: a slope for all or one per channel."""
    x, w = float_only(b, input, "prelu"), tensor(b, weight).read(b)
    if w.shape != (1,) and x.type.rank > 1:
        w = b.emit("reshape", [w], shape=(w.shape[0], *([1] * (x.type.rank - 2))))
    positive = b.emit("gt", [x, b.constant(0.0, x.dtype)])
    return b.temp(b.emit("where", [positive, x, b.emit("mul", [x, w])]))


def rrelu(b: Importer, input: Any, lower: float = 1.0 / 8, upper: float = 1.0 / 3, training: bool = False) -> Ref:
    """``F.rrelu`` in evaluation: a leaky ReLU with the mean slope."""
    if training:
        raise Unmapped("rrelu in training mode draws random numbers")
    return b.temp(b.emit("leaky_relu", [float_only(b, input, "rrelu")], alpha=(lower + upper) / 2))


def glu(b: Importer, input: Any, dim: int = -1) -> Ref:
    """First half times the sigmoid of the second."""
    left, right = chunk(b, input, 2, dim)
    return b.temp(b.emit("mul", [left.read(b), b.emit("sigmoid", [right.read(b)])]))


TABLE: dict[str, Handler] = {
    "relu": unary("relu", any_dtype=True),
    "relu6": lambda b, input: hardtanh(b, input, 0.0, 6.0),
    "sigmoid": unary("sigmoid"),
    "special_expit": unary("sigmoid"),
    "expit": unary("sigmoid"),
    "silu": unary("silu"),
    "hardsigmoid": unary("hardsigmoid"),
    "hardswish": unary("hardswish"),
    "gelu": with_attr("gelu", "approximate", "none"),
    "leaky_relu": with_attr("leaky_relu", "alpha", 0.01),
    "elu": with_attr("elu", "alpha", 1.0),
    "softplus": softplus,
    "mish": mish,
    "selu": selu,
    "celu": celu,
    "softsign": softsign,
    "tanhshrink": tanhshrink,
    "logsigmoid": logsigmoid,
    "log_sigmoid": logsigmoid,
    "hardshrink": hardshrink,
    "softshrink": softshrink,
    "threshold": threshold,
    "_threshold": threshold,
    "prelu": prelu,
    "rrelu": rrelu,
    "hardtanh": hardtanh,
    "clamp": clamp,
    "clip": clamp,
    "clamp_min": lambda b, input, min: clamp(b, input, min, None),
    "clamp_max": lambda b, input, max: clamp(b, input, None, max),
    "glu": glu,
}
