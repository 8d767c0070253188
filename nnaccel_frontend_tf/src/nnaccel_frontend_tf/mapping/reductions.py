"""Reductions, softmax, positions of extremes."""

from __future__ import annotations

from nnaccel_core.ir import Value
from nnaccel_frontend_tf.errors import Unmapped
from nnaccel_frontend_tf.mapping import Call, Handler, maps, needs_float, positive


def _over(n: Call, x: Value) -> tuple[int, ...]:
    return tuple(sorted({positive(a, x.type.rank) for a in n.ints(1, "the axes")}))


def reduction(op: str) -> Handler:
    def handler(n: Call) -> Value:
        x = n.x()
        if op == "reduce_mean":
            needs_float(x)
        axes = _over(n, x) if x.type.rank else ()
        if any(x.shape[a] == 0 for a in axes):
            raise Unmapped("a reduction over nothing")
        return n.emit(op, x, axes=axes, keepdims=bool(n.attr("keep_dims"))) if axes else x

    return handler


for _name in ("Sum", "Max", "Min", "Prod", "Mean"):
    maps(_name)(reduction(f"reduce_{_name.lower()}"))


@maps("All", "Any")
def truth(n: Call) -> Value:
    x = n.x()
    axes = _over(n, x)
    if not axes:
        return x
    count = n.c.cast(x, "uint8")
    op = "reduce_min" if n.op.type == "All" else "reduce_max"
    found = n.emit(op, count, axes=axes, keepdims=bool(n.attr("keep_dims")))
    return n.emit("ne", found, n.number(0, found))


@maps("Softmax", "LogSoftmax")
def softmax(n: Call) -> Value:
    x = needs_float(n.x())
    return n.emit("softmax" if n.op.type == "Softmax" else "log_softmax", x, axis=x.type.rank - 1)


def extreme(op: str) -> Handler:
    def handler(n: Call) -> Value:
        x = n.x()
        (axis,) = n.ints(1, "the axis")
        return n.c.cast(n.emit(op, x, axis=positive(axis, x.type.rank), keepdims=False), n.dtype())

    return handler


maps("ArgMax")(extreme("argmax"))
maps("ArgMin")(extreme("argmin"))


@maps("L2Loss")
def l2_loss(n: Call) -> Value:
    x = needs_float(n.x())
    total = n.emit("reduce_sum", n.emit("mul", x, x), axes=tuple(range(x.type.rank)), keepdims=False)
    return n.emit("mul", total, n.number(0.5, x))
