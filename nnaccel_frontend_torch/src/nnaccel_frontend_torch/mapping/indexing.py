"""Calls that pick, order or move elements."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from nnaccel_core.errors import ShapeError, UnsupportedError
from nnaccel_core.ir import Dim, Expr, Value, product
from nnaccel_core.ops.registry import infer
from nnaccel_frontend_torch.alias import Ref
from nnaccel_frontend_torch.dtypes import TO_IR
from nnaccel_frontend_torch.importer import Importer
from nnaccel_frontend_torch.mapping.args import Handler, as_value, axis_of, expanded, is_tensor, sizes, static, value_of
from nnaccel_frontend_torch.mapping.pointwise import TABLE as POINTWISE
from nnaccel_frontend_torch.mapping.reductions import reduction
from nnaccel_frontend_torch.place import is_here
from nnaccel_frontend_torch.refusal import NeedStatic, Unmapped


def index_value(b: Importer, index: Any) -> Value:
    """A tensor of positions.

    Raises:
        Unmapped: it holds no int32 or int64.
    """
    value = value_of(b, index)
    if value.dtype not in ("int32", "int64"):
        raise Unmapped(f"indices of {value.dtype}")
    return value


# --- gather -----------------------------------------------------------------------------------------------------


def embedding(
    b: Importer,
    input: Any,
    weight: Any,
    padding_idx: Any = None,
    max_norm: Any = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Ref:
    """``F.embedding``: rows of a table."""
    if max_norm is not None:
        raise Unmapped("embedding with max_norm, which writes the table")
    return b.temp(b.emit("gather", [value_of(b, weight), index_value(b, input)], axis=0, negative=False))


def torch_embedding(b: Importer, weight: Any, indices: Any, *args: Any, **kwargs: Any) -> Ref:
    """``torch.embedding``, whose table comes first."""
    return embedding(b, indices, weight)


def index_select(b: Importer, input: Any, dim: int, index: Any) -> Ref:
    """``index_select``."""
    x, at = value_of(b, input), index_value(b, index)
    if at.type.rank == 0:
        at = b.emit("reshape", [at], shape=(1,))
    return b.temp(b.emit("gather", [x, at], axis=axis_of(dim, x.type.rank), negative=False))


def gather(b: Importer, input: Any, dim: int, index: Any, *, sparse_grad: bool = False) -> Ref:
    """``torch.gather``."""
    x, at = value_of(b, input), index_value(b, index)
    if x.type.rank == 0 or at.type.rank != x.type.rank:
        raise Unmapped("gather of scalars")
    return b.temp(b.emit("gather_elements", [x, at], axis=axis_of(dim, x.type.rank), negative=False))


def take_along_dim(b: Importer, input: Any, indices: Any, dim: Any = None) -> Ref:
    """``take_along_dim``: a gather whose operands broadcast on the other axes."""
    x, at = value_of(b, input), index_value(b, indices)
    if dim is None:
        x, at, dim = (*(b.emit("reshape", [v], shape=(product(v.shape),)) for v in (x, at)), 0)
    if x.type.rank != at.type.rank:
        raise Unmapped("take_along_dim of operands of different rank")
    axis = axis_of(dim, x.type.rank)
    free = [tuple(1 if a == axis else d for a, d in enumerate(v.shape)) for v in (x, at)]
    common = _broadcast(b, free[0], free[1])
    x, at = (expanded(b, v, [v.shape[axis] if a == axis else d for a, d in enumerate(common)]) for v in (x, at))
    return b.temp(b.emit("gather_elements", [x, at], axis=axis, negative=False))


def _broadcast(b: Importer, *shapes: Sequence[Dim]) -> tuple[Dim, ...]:
    from nnaccel_core.ops.registry import broadcast_shapes

    try:
        return broadcast_shapes(*shapes)
    except ShapeError as e:
        raise Unmapped(str(e)) from e


def line_position(b: Importer, indices: Sequence[Value], extents: Sequence[Dim]) -> Value:
    """One position in several axes laid out as a line; negative positions count from the end."""
    sizes_ = [static(d, "indexing") for d in extents]
    at = from_start(b, indices[0], sizes_[0])
    for other, extent in zip(indices[1:], sizes_[1:], strict=True):
        at = b.emit("mul", [at, b.constant(extent, "int64")])
        at = b.emit("add", [at, from_start(b, other, extent)])
    return at


def pick(b: Importer, ref: Ref, indices: Sequence[Value], axis: int) -> Ref:
    """``ref`` at positions along one axis, or along several neighboring axes at once; negative positions count from the end."""
    x = ref.read(b)
    at = indices[0]
    if len(indices) > 1:
        # Neighboring axes become one, and their positions one position in it.
        extents = x.shape[axis : axis + len(indices)]
        at = line_position(b, indices, extents)
        x = b.emit("reshape", [x], shape=(*x.shape[:axis], product(extents), *x.shape[axis + len(indices) :]))
    return b.temp(b.emit("gather", [x, at], axis=axis))


def from_start(b: Importer, index: Value, extent: int) -> Value:
    index = b.cast(index, "int64")
    negative = b.emit("lt", [index, b.constant(0, "int64")])
    return b.emit("where", [negative, b.emit("add", [index, b.constant(extent, "int64")]), index])


# --- from a table ---------------------------------------------------------------------------------------------


def one_hot(b: Importer, tensor: Any, num_classes: int = -1) -> Ref:
    """``F.one_hot`` with a known number of classes."""
    at = index_value(b, tensor)
    if static(num_classes, "one_hot") < 1:
        raise Unmapped("one_hot of as many classes as occur")
    table = b.constant(np.eye(num_classes, dtype=np.int64), "int64")
    return b.temp(b.emit("gather", [table, at], axis=0, negative=False))


# --- flip and roll ----------------------------------------------------------------------------------------------


def flip(b: Importer, input: Any, *dims: Any, **kwargs: Any) -> Ref:
    """``flip``."""
    x = value_of(b, input)
    axes = tuple(sorted({axis_of(d, x.type.rank) for d in sizes((kwargs["dims"],) if "dims" in kwargs else dims)}))
    return b.temp(b.emit("flip", [x], axes=axes) if axes else x)


def rot90(b: Importer, input: Any, k: int = 1, dims: Sequence[int] = (0, 1)) -> Ref:
    """``rot90``: quarter turns from the first axis of ``dims`` towards the second."""
    x = value_of(b, input)
    one, two = (axis_of(d, x.type.rank) for d in dims)
    if k % 4 == 0:
        return b.temp(x)
    if k % 4 == 2:
        return b.temp(b.emit("flip", [x], axes=tuple(sorted((one, two)))))
    perm = list(range(x.type.rank))
    perm[one], perm[two] = perm[two], perm[one]
    turned = b.emit("transpose", [b.emit("flip", [x], axes=(two if k % 4 == 1 else one,))], perm=tuple(perm))
    return b.temp(turned)


def roll(b: Importer, input: Any, shifts: Any, dims: Any = None) -> Ref:
    """``roll``; without axes the tensor is rolled as a line."""
    x = value_of(b, input)
    by = tuple(static(s, "roll") for s in ((shifts,) if isinstance(shifts, (int, Expr)) else shifts))
    if dims is None or dims == ():
        line = b.emit("reshape", [x], shape=(product(x.shape),))
        line = b.emit("roll", [line], shifts=by, axes=(0,))
        return b.temp(b.emit("reshape", [line], shape=x.shape))
    axes = tuple(axis_of(d, x.type.rank) for d in ((dims,) if isinstance(dims, int) else dims))
    if len(axes) != len(by):
        raise Unmapped("roll with another number of shifts than axes")
    return b.temp(b.emit("roll", [x], shifts=by, axes=axes))


def triangle(upper: bool) -> Handler:
    """tril / triu: elements on one side of a diagonal, zeros elsewhere."""

    def run(b: Importer, input: Any, diagonal: int = 0) -> Ref:
        x = value_of(b, input)
        if x.type.rank < 2:
            raise Unmapped("a triangle of a vector")
        rows, cols = (static(d, "a triangle") for d in x.shape[-2:])
        ones = np.ones((rows, cols), np.bool_)
        keep = np.triu(ones, diagonal) if upper else np.tril(ones, diagonal)
        return b.temp(b.emit("where", [b.constant(keep, "bool"), x, b.constant(0, x.dtype)]))

    return run


# --- order ------------------------------------------------------------------------------------------------------


def arg_extreme(op: str) -> Handler:
    """argmax / argmin; without an axis, of the tensor as a line."""

    def run(b: Importer, input: Any, dim: Any = None, keepdim: bool = False) -> Ref:
        x = value_of(b, input)
        if x.dtype == "bool":
            raise Unmapped(f"{op} of booleans")
        if dim is None or x.type.rank == 0:
            line = b.emit("reshape", [x], shape=(product(x.shape),))
            out = b.emit(op, [line], axis=0, keepdims=False)
            return b.temp(b.emit("reshape", [out], shape=(1,) * x.type.rank) if keepdim else out)
        return b.temp(b.emit(op, [x], axis=axis_of(dim, x.type.rank), keepdims=bool(keepdim)))

    return run


def extreme(kind: str, pair: str) -> Handler:
    """max / min: of all elements, of two tensors, or along an axis together with the positions."""
    whole = reduction(f"reduce_{kind}")

    def run(b: Importer, input: Any, other: Any = None, keepdim: bool = False, *, dim: Any = None) -> Any:
        if is_tensor(other):
            return POINTWISE[pair](b, input, other)
        axis = other if dim is None else dim
        if axis is None:
            return whole(b, input)
        at = arg_extreme(f"arg{kind}")(b, input, axis, keepdim)
        values = whole(b, input, axis, keepdim)
        return getattr(torch.return_types, kind)((values, at))

    return run


def emit_pair(b: Importer, op: str, x: Value, **attrs: Any) -> tuple[Ref, Ref]:
    """An op with two results: elements and their positions."""
    try:
        types = infer(op, [x.type], attrs, b.origin or op)
    except (ShapeError, UnsupportedError) as e:
        raise Unmapped(str(e)) from e
    first, second = b.emit_many(op, [x], types, attrs)
    return b.temp(first), b.temp(second)


def topk(b: Importer, input: Any, k: int, dim: int = -1, largest: bool = True, sorted: bool = True) -> Any:
    """``topk``, always in order."""
    x = value_of(b, input)
    if x.type.rank == 0 or x.dtype == "bool":
        raise Unmapped("topk of a scalar or of booleans")
    axis = axis_of(dim, x.type.rank)
    got = emit_pair(b, "topk", x, axis=axis, k=static(k, "topk"), largest=bool(largest))
    return torch.return_types.topk(got)  # type: ignore[attr-defined]


def sort(b: Importer, input: Any, dim: Any = -1, descending: bool = False, stable: Any = False) -> Any:
    """``sort``, always stable."""
    x = value_of(b, input)
    if x.type.rank == 0:
        raise Unmapped("sort of a scalar")
    if isinstance(dim, bool):
        raise Unmapped("sort with a truth value for an axis")
    got = emit_pair(b, "sort", x, axis=axis_of(dim, x.type.rank), descending=bool(descending))
    return torch.return_types.sort(got)  # type: ignore[attr-defined]


def argsort(b: Importer, input: Any, dim: int = -1, descending: bool = False, stable: bool = False) -> Ref:
    """``argsort``."""
    return sort(b, input, dim, descending)[1]  # type: ignore[no-any-return]


def cumsum(b: Importer, input: Any, dim: int, *, dtype: Any = None) -> Ref:
    """``cumsum``; integers add up in int64."""
    x = value_of(b, input)
    if x.type.rank == 0:
        raise Unmapped("cumsum of a scalar")
    if dtype is None and not x.type.is_float:
        dtype = torch.int64
    x = x if dtype is None else as_value(b, input, dtype)
    return b.temp(b.emit("cumsum", [x], axis=axis_of(dim, x.type.rank)))


def tensor_of(b: Importer, data: Any, *, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Ref:
    """``torch.tensor`` of numbers."""
    if not is_here(device):
        raise Unmapped(f"a tensor made on {device or 'the CPU'}")
    leaves: list[Any] = [data]
    while leaves:
        x = leaves.pop()
        if isinstance(x, (list, tuple)):
            leaves.extend(x)
        elif isinstance(x, Expr):
            raise NeedStatic("a tensor made of a symbolic size")
        elif type(x) not in (bool, int, float):
            raise Unmapped(f"a tensor made of a {type(x).__name__}")
    made = torch.tensor(data, dtype=dtype)
    if made.dtype not in TO_IR or made.dtype in (torch.float16, torch.bfloat16):
        raise Unmapped(f"a tensor of {made.dtype}")
    return b.temp(b.constant(made.numpy(), TO_IR[made.dtype]))


TABLE: dict[str, Handler] = {
    "embedding": embedding,
    "index_select": index_select,
    "gather": gather,
    "take_along_dim": take_along_dim,
    "one_hot": one_hot,
    "flip": flip,
    "fliplr": lambda b, input: flip(b, input, 1),
    "flipud": lambda b, input: flip(b, input, 0),
    "roll": roll,
    "rot90": rot90,
    "tril": triangle(False),
    "triu": triangle(True),
    "argmax": arg_extreme("argmax"),
    "argmin": arg_extreme("argmin"),
    "max": extreme("max", "maximum"),
    "min": extreme("min", "minimum"),
    "topk": topk,
    "sort": sort,
    "msort": lambda b, input: sort(b, input, 0)[0],
    "argsort": argsort,
    "cumsum": cumsum,
    "tensor": tensor_of,
}
