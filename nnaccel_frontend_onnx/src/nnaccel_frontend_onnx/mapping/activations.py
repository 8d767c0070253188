"""Activation functions."""

from __future__ import annotations

from nnaccel_core.ir import Value
from nnaccel_frontend_onnx.mapping import Call, maps, needs_float
from nnaccel_frontend_onnx.mapping.pointwise import bounded


@maps("LeakyRelu")
def leaky_relu(n: Call) -> Value:
    return n.emit("leaky_relu", needs_float(n.x()), alpha=float(n.attr("alpha", 0.01)))


@maps("Elu")
def elu(n: Call) -> Value:
    return n.emit("elu", needs_float(n.x()), alpha=float(n.attr("alpha", 1.0)))


@maps("Selu")
def selu(n: Call) -> Value:
    x = needs_float(n.x())
    y = n.emit("elu", x, alpha=float(n.attr("alpha", 1.67326319217681884765625)))
    return n.emit("mul", y, n.number(float(n.attr("gamma", 1.05070102214813232421875)), x))


@maps("Celu")
def celu(n: Call) -> Value:
    x, alpha = needs_float(n.x()), float(n.attr("alpha", 1.0))
    below = n.emit("mul", n.emit("expm1", n.emit("div", x, n.number(alpha, x))), n.number(alpha, x))
    return n.emit("where", n.emit("gt", x, n.number(0, x)), x, below)


@maps("PRelu")
def prelu(n: Call) -> Value:
    x, slope = n.x(0), n.x(1)
    if n.version < 7 and slope.type.rank == 1 and x.type.rank > 1 and slope.shape[0] != 1:
        slope = n.reshape(slope, (slope.shape[0], *([1] * (x.type.rank - 2))))
    return n.emit("where", n.emit("lt", x, n.number(0, x)), n.emit("mul", x, slope), x)


@maps("HardSigmoid")
def hard_sigmoid(n: Call) -> Value:
    x = needs_float(n.x())
    alpha, beta = float(n.attr("alpha", 0.2)), float(n.attr("beta", 0.5))
    if abs(alpha - 1 / 6) < 1e-7 and beta == 0.5:
        return n.emit("hardsigmoid", x)
    return bounded(n, n.emit("add", n.emit("mul", x, n.number(alpha, x)), n.number(beta, x)), 0.0, 1.0)


@maps("HardSwish")
def hard_swish(n: Call) -> Value:
    return n.emit("hardswish", needs_float(n.x()))


@maps("Softplus")
def softplus(n: Call) -> Value:
    return n.emit("softplus", needs_float(n.x()))


@maps("Softsign")
def softsign(n: Call) -> Value:
    x = needs_float(n.x())
    return n.emit("div", x, n.emit("add", n.emit("abs", x), n.number(1, x)))


@maps("ThresholdedRelu")
def thresholded_relu(n: Call) -> Value:
    x = needs_float(n.x())
    return n.emit("where", n.emit("gt", x, n.number(float(n.attr("alpha", 1.0)), x)), x, n.number(0, x))


@maps("Gelu")
def gelu(n: Call) -> Value:
    return n.emit("gelu", needs_float(n.x()), approximate=n.attr("approximate", "none"))


@maps("Mish")
def mish(n: Call) -> Value:
    x = needs_float(n.x())
    return n.emit("mul", x, n.emit("tanh", n.emit("softplus", x)))


@maps("Swish")
def swish(n: Call) -> Value:
    x, alpha = needs_float(n.x()), float(n.attr("alpha", 1.0))
    if alpha == 1:
        return n.emit("silu", x)
    return n.emit("mul", x, n.emit("sigmoid", n.emit("mul", x, n.number(alpha, x))))


@maps("Shrink")
def shrink(n: Call) -> Value:
    x = needs_float(n.x())
    bias, lambd = float(n.attr("bias", 0.0)), float(n.attr("lambd", 0.5))
    low = n.emit("where", n.emit("lt", x, n.number(-lambd, x)), n.emit("add", x, n.number(bias, x)), n.number(0, x))
    return n.emit("where", n.emit("gt", x, n.number(lambd, x)), n.emit("sub", x, n.number(bias, x)), low)
