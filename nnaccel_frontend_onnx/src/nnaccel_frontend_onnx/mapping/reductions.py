"""Reductions, softmax, positions of extremes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from nnaccel_core.ir import Value, product
from nnaccel_frontend_onnx.errors import Unmapped
from nnaccel_frontend_onnx.mapping import Call, Handler, maps, needs_float, positive


def _over(n: Call, x: Value) -> tuple[int, ...] | None:
    """The axes; None for a node that does nothing."""
    axes = n.ints(1, "axes")
    if not axes:
        if n.attr("noop_with_empty_axes", 0):
            return None
        return tuple(range(x.type.rank))
    return tuple(sorted({positive(a, x.type.rank) for a in axes}))


def _reduce(n: Call, op: str, x: Value, axes: tuple[int, ...], keep: bool) -> Value:
    if any(x.shape[a] == 0 for a in axes):
        raise Unmapped("a reduction over nothing")
    return n.emit(op, x, axes=axes, keepdims=keep)


def reduction(op: str, before: Callable[[Call, Value], Value] | None = None, after: str = "", floats: bool = False) -> Handler:
    """A reduction with an element-wise step before and after it."""

    def handler(n: Call) -> Value:
        x = n.x()
        if floats:
            needs_float(x)
        axes = _over(n, x)
        x = before(n, x) if before is not None else x
        if axes is not None:
            flag = x.dtype == "bool"
            x = _reduce(n, op, n.c.cast(x, "uint8") if flag else x, axes, bool(n.attr("keepdims", 1)))
            x = n.emit("ne", x, n.number(0, x)) if flag else x
        return n.emit(after, x) if after else x

    return handler


def _square(n: Call, x: Value) -> Value:
    return n.emit("mul", x, x)


def _abs(n: Call, x: Value) -> Value:
    return n.emit("abs", x)


for _name, _op in (("Sum", "sum"), ("Max", "max"), ("Min", "min"), ("Prod", "prod")):
    maps(f"Reduce{_name}")(reduction(f"reduce_{_op}"))
maps("ReduceMean")(reduction("reduce_mean", floats=True))
maps("ReduceL1")(reduction("reduce_sum", _abs))
maps("ReduceL2")(reduction("reduce_sum", _square, "sqrt", floats=True))
maps("ReduceSumSquare")(reduction("reduce_sum", _square))
maps("ReduceLogSum")(reduction("reduce_sum", None, "log", floats=True))


@maps("ReduceLogSumExp")
def log_sum_exp(n: Call) -> Value:
    x = needs_float(n.x())
    axes, keep = _over(n, x), bool(n.attr("keepdims", 1))
    if axes is None:
        return x
    top = _reduce(n, "reduce_max", x, axes, True)
    # Infinite maxima would give inf - inf.
    finite = n.emit("lt", n.emit("abs", top), n.number(np.inf, top))
    top = n.emit("where", finite, top, n.number(0, top))
    total = n.emit("log", n.emit("reduce_sum", n.emit("exp", n.emit("sub", x, top)), axes=axes, keepdims=True))
    out = n.emit("add", total, top)
    return out if keep else n.reshape(out, [d for k, d in enumerate(x.shape) if k not in axes])


def _rowwise(n: Call, f: Callable[[Value, int], Value]) -> Value:
    """Along one axis; before operator set 13 along all axes from ``axis`` on, as one."""
    x = n.x()
    if x.type.rank == 0:
        raise Unmapped("a scalar")
    if n.version >= 13:
        return f(x, n.axis(x.type.rank, -1))
    axis = int(n.attr("axis", 1))
    axis = axis + x.type.rank if axis < 0 else axis
    if axis == x.type.rank - 1:
        return f(x, axis)
    return n.reshape(f(n.reshape(x, (product(x.shape[:axis]), product(x.shape[axis:]))), 1), x.shape)


@maps("Softmax")
def softmax(n: Call) -> Value:
    return _rowwise(n, lambda x, axis: n.emit("softmax", x, axis=axis))


@maps("LogSoftmax")
def log_softmax(n: Call) -> Value:
    return _rowwise(n, lambda x, axis: n.emit("log_softmax", x, axis=axis))


@maps("Hardmax")
def hardmax(n: Call) -> Value:
    def one(x: Value, axis: int) -> Value:
        at = n.emit("argmax", x, axis=axis, keepdims=True)
        shape = [n.c.static(d) if k == axis else 1 for k, d in enumerate(x.shape)]
        places = n.c.constant(np.arange(shape[axis], dtype=np.int64).reshape(shape), "int64")
        return n.c.cast(n.emit("eq", at, places), x.dtype)

    return _rowwise(n, one)


def extreme(op: str) -> Handler:
    def handler(n: Call) -> Value:
        x = n.x()
        axis, keep = n.axis(x.type.rank, 0), bool(n.attr("keepdims", 1))
        if not n.attr("select_last_index", 0):
            return n.emit(op, x, axis=axis, keepdims=keep)
        last = n.c.constant(n.c.static(x.shape[axis]) - 1, "int64")
        return n.emit("sub", last, n.emit(op, n.emit("flip", x, axes=(axis,)), axis=axis, keepdims=keep))

    return handler


maps("ArgMax")(extreme("argmax"))
maps("ArgMin")(extreme("argmin"))
