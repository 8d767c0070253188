"""Activation functions."""

from __future__ import annotations

from nnaccel_core.ir import Value
from nnaccel_frontend_tf.mapping import Call, maps, needs_float


@maps("Relu")
def relu(n: Call) -> Value:
    return n.emit("relu", n.x())


@maps("Relu6")
def relu6(n: Call) -> Value:
    """No gradient at 0 and at 6."""
    return n.emit("clip", needs_float(n.x()), min=0.0, max=6.0, open=True)


@maps("LeakyRelu")
def leaky_relu(n: Call) -> Value:
    return n.emit("leaky_relu", needs_float(n.x()), alpha=float(n.attr("alpha", 0.2)))


@maps("Elu")
def elu(n: Call) -> Value:
    return n.emit("elu", needs_float(n.x()), alpha=1.0)


@maps("Selu")
def selu(n: Call) -> Value:
    x = needs_float(n.x())
    return n.emit("mul", n.emit("elu", x, alpha=1.6732632423543772), n.number(1.0507009873554805, x))


@maps("Softplus")
def softplus(n: Call) -> Value:
    return n.emit("softplus", needs_float(n.x()))


@maps("Softsign")
def softsign(n: Call) -> Value:
    x = needs_float(n.x())
    return n.emit("div", x, n.emit("add", n.emit("abs", x), n.number(1, x)))
