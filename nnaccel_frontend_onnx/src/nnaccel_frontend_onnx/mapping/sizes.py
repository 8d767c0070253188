"""Arithmetic on sizes that are expressions: what exporters write around Reshape, Expand and Slice."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from nnaccel_core.ir import Dim, dim_max, dim_min, product
from nnaccel_frontend_onnx.items import Array, Host, Item, Known

if TYPE_CHECKING:
    from nnaccel_frontend_onnx.mapping import Call

_BINARY: dict[str, Callable[[Any, Any], Any]] = {
    "Add": operator.add, "Sub": operator.sub, "Mul": operator.mul, "Min": dim_min, "Max": dim_max,
}  # fmt: skip


def host(dims: Any) -> Item:
    """Dims as an item: a constant where all are numbers."""
    array = np.empty(np.shape(dims), object)
    array[...] = dims
    if all(isinstance(d, (int, np.integer)) for d in array.reshape(-1)):
        return Known(array.astype(np.int64))
    return Host(array)


def dims_of(item: Item | None) -> Array | None:
    """An operand as an array of dims; None where it is no host integers."""
    if isinstance(item, Host):
        return item.dims
    if isinstance(item, Known) and item.array.ndim <= 1 and item.array.dtype.kind in "iub" and item.array.size <= 64:
        out = np.empty(item.array.shape, object)
        out[...] = [int(v) for v in item.array] if item.array.ndim else int(item.array)
        return out
    return None


def fold_sizes(n: Call) -> list[Item] | None:
    """The result of a node on sizes, as sizes; None where that is not known how."""
    op = n.node.op_type
    xs = [dims_of(i) for i in n.operands]
    first = xs[0] if xs else None
    if first is None or any(x is None for x in xs):
        return None
    given: list[Array] = [x for x in xs if x is not None]
    if op in _BINARY and len(given) == 2:
        f = _BINARY[op]
        return [host(np.frompyfunc(f, 2, 1)(given[0], given[1]))]
    divisible = len(given) == 2 and all(isinstance(d, int) and d > 0 for d in given[1].reshape(-1))
    if op == "Div" and divisible:
        return [host(np.frompyfunc(lambda a, b: a // b, 2, 1)(given[0], given[1]))]  # sizes are not negative
    if op == "Mod" and divisible and not n.attr("fmod", 0):
        return [host(np.frompyfunc(lambda a, b: a % b, 2, 1)(given[0], given[1]))]
    if op == "Concat":
        return [host(np.concatenate(given))]
    if op == "Identity" or (op == "Cast" and n.attr("to") in (onnx.TensorProto.INT64, onnx.TensorProto.INT32)):
        return [host(first)]
    if op == "Squeeze" and first.size == 1:
        return [host(first.reshape(()))]
    if op == "Unsqueeze" and first.ndim == 0:
        return [host(first.reshape(1))]
    if op == "Reshape" and len(given) == 2 and all(isinstance(d, int) for d in given[1]) and len(given[1]) <= 1:
        return [host(first.reshape([int(d) for d in given[1]]))]
    if op == "ReduceProd" and first.ndim == 1:
        whole: Dim = product(first)
        return [host([whole] if n.attr("keepdims", 1) else whole)]
    if op == "Gather" and first.ndim == 1 and all(isinstance(d, int) for d in given[1].reshape(-1)):
        return [host(first[given[1].astype(np.int64)])]
    if op == "Slice" and first.ndim == 1:
        return _slice(n, first, given)
    if op == "Split" and first.ndim == 1 and len(given) == 2 and all(isinstance(d, int) for d in given[1]):
        return [host(p) for p in np.split(first, np.cumsum(given[1].astype(np.int64))[:-1])]
    return None


def _slice(n: Call, x: Array, given: list[Array]) -> list[Item] | None:
    if any(not isinstance(d, int) for g in given[1:] for d in g.reshape(-1)):
        return None
    if n.version < 10:
        starts, ends, step = n.attr("starts"), n.attr("ends"), 1
        return [host(x[starts[0] : ends[0] : step])]
    step = int(given[4][0]) if len(given) > 4 else 1
    start, end = int(given[1][0]), int(given[2][0])
    return [host(x[start : (None if step < 0 and end < -len(x) else end) : step])]


__all__ = ["dims_of", "fold_sizes", "host"]
