"""Calls that look at, rearrange or slice tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from nnaccel_core.ir import Dim, Expr, Value, product
from nnaccel_frontend_torch.alias import Ref, detach_step, expand_step, reshape_step, slice_step, transpose_step
from nnaccel_frontend_torch.dtypes import TO_TORCH
from nnaccel_frontend_torch.importer import Importer
from nnaccel_frontend_torch.mapping.args import (
    Handler,
    as_value,
    axes_of,
    axis_of,
    complete_shape,
    expanded,
    is_tensor,
    sizes,
    static,
    tensor,
)
from nnaccel_frontend_torch.mapping.indexing import index_value, pick, tensor_of
from nnaccel_frontend_torch.mapping.scatter import index_put
from nnaccel_frontend_torch.place import here
from nnaccel_frontend_torch.refusal import NeedStatic, Refusal, Unmapped


def shape_of(b: Importer, x: Any) -> tuple[Dim, ...]:
    """The shape of a tensor argument."""
    return tensor(b, x).type.shape


def reshaped(b: Importer, x: Any, shape: Sequence[Dim], certain: bool) -> Ref:
    """A reshape; ``certain`` when it is an alias whatever the strides (``view``), else it may be a copy."""
    ref = tensor(b, x)
    target = tuple(shape)
    if not certain and not b.contiguous(ref):
        ref.storage.unclear = True
    return b.view(ref, reshape_step(target))


def view(b: Importer, input: Any, *shape: Any, dtype: Any = None) -> Ref:
    """``Tensor.view``."""
    if dtype is not None or (len(shape) == 1 and isinstance(shape[0], torch.dtype)):
        raise Unmapped("a view as another dtype")
    return reshaped(b, input, complete_shape(shape_of(b, input), sizes(shape)), True)


def reshape(b: Importer, input: Any, *shape: Any, **kwargs: Any) -> Ref:
    """``reshape``: a view where strides allow it."""
    given = kwargs.get("shape", shape if shape else ())
    if "shape" in kwargs:
        given = (kwargs["shape"],)
    return reshaped(b, input, complete_shape(shape_of(b, input), sizes(given)), False)


def flatten(b: Importer, input: Any, start_dim: int = 0, end_dim: int = -1) -> Ref:
    """``torch.flatten``."""
    shape = shape_of(b, input)
    if not shape:
        return reshaped(b, input, (1,), False)
    lo, hi = axis_of(start_dim, len(shape)), axis_of(end_dim, len(shape))
    if lo == hi:
        return tensor(b, input)
    return reshaped(b, input, (*shape[:lo], product(shape[lo : hi + 1]), *shape[hi + 1 :]), False)


def unflatten(b: Importer, input: Any, dim: int, sizes_: Any = None, **kwargs: Any) -> Ref:
    """``torch.unflatten``."""
    shape = shape_of(b, input)
    at = axis_of(dim, len(shape))
    parts = complete_shape((shape[at],), sizes((kwargs.get("sizes", sizes_),)))
    return reshaped(b, input, (*shape[:at], *parts, *shape[at + 1 :]), True)


def squeeze(b: Importer, input: Any, dim: Any = None) -> Ref:
    """``torch.squeeze``."""
    shape = shape_of(b, input)
    axes = axes_of(dim, len(shape))
    drop = {a for a in axes if shape and static(shape[a], "squeeze") == 1}
    return reshaped(b, input, [d for a, d in enumerate(shape) if a not in drop], True)


def unsqueeze(b: Importer, input: Any, dim: int) -> Ref:
    """``torch.unsqueeze``."""
    shape = list(shape_of(b, input))
    shape.insert(axis_of(dim, len(shape) + 1), 1)
    return reshaped(b, input, shape, True)


def permute(b: Importer, input: Any, *dims: Any, **kwargs: Any) -> Ref:
    """``permute``."""
    given = sizes((kwargs["dims"],) if "dims" in kwargs else dims)
    rank = len(shape_of(b, input))
    return b.view(tensor(b, input), transpose_step(tuple(axis_of(d, rank) for d in given)))


def transpose(b: Importer, input: Any, dim0: int, dim1: int) -> Ref:
    """``transpose``, ``swapaxes``, ``swapdims``."""
    rank = len(shape_of(b, input))
    perm = list(range(rank))
    i, j = axis_of(dim0, rank), axis_of(dim1, rank)
    perm[i], perm[j] = perm[j], perm[i]
    return b.view(tensor(b, input), transpose_step(tuple(perm)))


def movedim(b: Importer, input: Any, source: Any, destination: Any) -> Ref:
    """``movedim``, ``moveaxis``."""
    rank = len(shape_of(b, input))
    src = [axis_of(d, rank) for d in ([source] if isinstance(source, int) else source)]
    dst = [axis_of(d, rank) for d in ([destination] if isinstance(destination, int) else destination)]
    perm = [-1] * rank
    for s, d in zip(src, dst, strict=True):
        perm[d] = s
    rest = iter(a for a in range(rank) if a not in src)
    return b.view(tensor(b, input), transpose_step(tuple(next(rest) if p < 0 else p for p in perm)))


def matrix_transpose(b: Importer, input: Any) -> Ref:
    """``t()`` and ``.mT``, and ``.T`` of matrices."""
    rank = len(shape_of(b, input))
    return tensor(b, input) if rank < 2 else transpose(b, input, -2, -1)


def reverse_axes(b: Importer, input: Any) -> Ref:
    """``.T``: all axes reversed."""
    rank = len(shape_of(b, input))
    return tensor(b, input) if rank < 2 else b.view(tensor(b, input), transpose_step(tuple(reversed(range(rank)))))


def expand(b: Importer, input: Any, *size: Any, **kwargs: Any) -> Ref:
    """``expand``."""
    target = sizes((kwargs["size"],) if "size" in kwargs else size)
    shape = shape_of(b, input)
    offset = len(target) - len(shape)
    full = [shape[k - offset] if d == -1 and k >= offset else d for k, d in enumerate(target)]
    for k, d in enumerate(shape):
        if isinstance(d, Expr) and full[k + offset] != d:
            raise NeedStatic("expand of a symbolic size")
    return b.view(tensor(b, input), expand_step(tuple(full)))


def expand_as(b: Importer, input: Any, other: Any) -> Ref:
    """``expand_as``."""
    return expand(b, input, *shape_of(b, other))


def repeat(b: Importer, input: Any, *repeats: Any, **kwargs: Any) -> Ref:
    """``Tensor.repeat``: tiles, by an expand between two reshapes."""
    times = sizes((kwargs["repeats"],) if "repeats" in kwargs else repeats)
    given = shape_of(b, input)
    shape = (*([1] * (len(times) - len(given))), *given)
    value = tensor(b, input).read(b)
    apart: list[Dim] = []
    tiled: list[Dim] = []
    for d, t in zip(shape, times, strict=True):
        apart += [1, d]
        tiled += [t, d]
    value = b.emit("reshape", [value], shape=tuple(apart))
    value = expanded(b, value, tiled)
    return b.temp(b.emit("reshape", [value], shape=tuple(d * t for d, t in zip(shape, times, strict=True))))


def tile(b: Importer, input: Any, *dims: Any, **kwargs: Any) -> Ref:
    """``tile``: a repeat whose counts are completed with ones on the left."""
    times = sizes((kwargs["dims"],) if "dims" in kwargs else dims)
    return repeat(b, input, *([1] * (len(shape_of(b, input)) - len(times))), *times)


def repeat_interleave(b: Importer, input: Any, repeats: Any, dim: Any = None, *, output_size: Any = None) -> Ref:
    """``repeat_interleave`` by one number: each element several times in a row."""
    if not isinstance(repeats, int):
        raise Unmapped("repeat_interleave by a tensor")
    value = tensor(b, input).read(b)
    if dim is None or value.type.rank == 0:
        value, dim = b.emit("reshape", [value], shape=(product(value.shape),)), 0
    axis = axis_of(dim, value.type.rank)
    shape = value.shape
    apart = b.emit("reshape", [value], shape=(*shape[: axis + 1], 1, *shape[axis + 1 :]))
    spread = expanded(b, apart, (*shape[: axis + 1], repeats, *shape[axis + 1 :]))
    return b.temp(b.emit("reshape", [spread], shape=(*shape[:axis], shape[axis] * repeats, *shape[axis + 1 :])))


def meshgrid(b: Importer, *tensors: Any, indexing: str = "ij") -> tuple[Ref, ...]:
    """``meshgrid``: each vector along its own axis of a common grid."""
    if len(tensors) == 1 and isinstance(tensors[0], (list, tuple)):
        tensors = tuple(tensors[0])
    if indexing not in ("ij", None) or any(len(shape_of(b, t)) != 1 for t in tensors):
        raise Unmapped("meshgrid of what are no vectors, or transposed")
    extents = [shape_of(b, t)[0] for t in tensors]
    spread = (reshaped(b, t, [d if k == a else 1 for a, d in enumerate(extents)], True) for k, t in enumerate(tensors))
    return tuple(expand(b, x, *extents) for x in spread)


def alias(b: Importer, input: Any) -> Ref:
    """Another tensor on the same memory."""
    return reshaped(b, input, shape_of(b, input), True)


def detach(b: Importer, input: Any) -> Ref:
    """Another tensor on the same memory, through which no gradient flows."""
    x = tensor(b, input)
    return b.view(x, detach_step()) if x.type.is_float else alias(b, x)


def sliced(b: Importer, x: Ref, axis: int, start: int, end: Dim, step: int = 1) -> Ref:
    """Part of one axis."""
    shape = x.type.shape
    rank = len(shape)
    starts, steps = [0] * rank, [1] * rank
    ends = list(shape)
    starts[axis], ends[axis], steps[axis] = start, end, step
    return b.view(x, slice_step(tuple(starts), tuple(ends), tuple(steps)))


def narrow(b: Importer, input: Any, dim: int, start: int, length: int) -> Ref:
    """``narrow``."""
    ref = tensor(b, input)
    axis = axis_of(dim, ref.type.rank)
    extent = static(ref.type.shape[axis], "narrow")
    start = static(start, "narrow") % max(extent, 1)
    return sliced(b, ref, axis, start, start + static(length, "narrow"))


def select(b: Importer, input: Any, dim: int, index: int) -> Ref:
    """``select``: one position of an axis, which disappears."""
    ref = tensor(b, input)
    axis = axis_of(dim, ref.type.rank)
    part = _one(b, ref, axis, index)
    return reshaped(b, part, [d for a, d in enumerate(part.type.shape) if a != axis], True)


def _one(b: Importer, ref: Ref, axis: int, index: int) -> Ref:
    extent = ref.type.shape[axis]
    at = static(index, "an index")
    if at < 0 or isinstance(extent, Expr):
        extent = static(extent, "an index")
        at = at + extent if at < 0 else at
        if not 0 <= at < extent:
            raise Refusal(f"index {index} is out of range for axis {axis} of extent {extent}")
    return sliced(b, ref, axis, at, at + 1)


def getitem(b: Importer, input: Any, index: Any) -> Any:
    """Indexing with numbers, slices, None, ``...`` and tensors or lists of positions; on tuples and lists, theirs."""
    if not is_tensor(input):
        return input[index]
    ref = tensor(b, input)
    items = list(index) if isinstance(index, tuple) else [index]
    if any(isinstance(i, (bool, np.ndarray)) for i in items):
        raise Unmapped("indexing with a truth value or an array of numpy")
    items = [_positions(b, i) if is_tensor(i) or isinstance(i, list) else i for i in items]
    used = sum(1 for i in items if i is not None and i is not Ellipsis)
    if not any(i is Ellipsis for i in items):
        items.append(Ellipsis)
    at = next(k for k, i in enumerate(items) if i is Ellipsis)
    items[at : at + 1] = [slice(None)] * (ref.type.rank - used)
    shape: list[Dim] = []
    axis = 0
    picks: list[tuple[int, int, Value]] = []
    for item in items:
        if item is None:
            shape.append(1)
            continue
        if axis >= ref.type.rank:
            raise Refusal(f"too many indices for a tensor of rank {ref.type.rank}")
        if isinstance(item, slice):
            ref = _slice(b, ref, axis, item)
            shape.append(ref.type.shape[axis])
        elif isinstance(item, (int, Expr)):
            ref = _one(b, ref, axis, item)  # type: ignore[arg-type]
        elif isinstance(item, Value):
            picks.append((axis, len(shape), item))
            shape.append(ref.type.shape[axis])
        else:
            raise Unmapped(f"indexing with {type(item).__name__}")
        axis += 1
    plain = ref if tuple(shape) == ref.type.shape and ref is not input else reshaped(b, ref, shape, True)
    if not picks:
        return plain
    first = picks[0][1]
    if [p[1] for p in picks] != list(range(first, first + len(picks))) or picks[-1][0] - picks[0][0] >= len(picks):
        # Not side by side: their common axes come first.
        axes = [p[1] for p in picks]
        order = (*axes, *(a for a in range(plain.type.rank) if a not in axes))
        plain, first = b.view(plain, transpose_step(order)), 0
    return pick(b, plain, [p[2] for p in picks], first)


def _positions(b: Importer, item: Any) -> Value:
    return index_value(b, tensor_of(b, item) if isinstance(item, list) else item)


def _slice(b: Importer, ref: Ref, axis: int, item: slice) -> Ref:
    extent = ref.type.shape[axis]
    if item.step in (None, 1) and item.start in (None, 0) and (item.stop is None or item.stop == extent):
        return ref
    if any(isinstance(v, Expr) for v in (item.start, item.stop, item.step)):
        raise NeedStatic("a slice by a symbolic size")
    start, stop, step = item.indices(static(extent, "a slice"))
    if step < 1:
        raise Refusal("a slice with a negative step")
    return sliced(b, ref, axis, start, max(start, stop), step)


def setitem(b: Importer, input: Any, index: Any, value: Any) -> None:
    """``x[index] = value``: by numbers and slices, by a mask with a single number, or by positions for some axes."""
    target = tensor(b, input)
    items = index if isinstance(index, tuple) else (index,)
    if not any(is_tensor(i) or isinstance(i, list) for i in items):
        store(b, getitem(b, target, index), value)
        return
    whole = [None if isinstance(i, slice) and i == slice(None) else i for i in items]
    if any(i is Ellipsis for i in whole):
        at = next(k for k, i in enumerate(whole) if i is Ellipsis)
        whole[at : at + 1] = [None] * (target.type.rank - len(whole) + 1)
    if any(i is None for i in items) or not all(i is None or is_tensor(i) or isinstance(i, list) for i in whole):
        raise Refusal("writing to positions that a tensor gives, beside numbers or parts of axes")
    try:
        store(b, target, index_put(b, target, whole, value))
    except Unmapped as e:
        raise Refusal(f"writing to positions that a tensor gives: {e}") from e


def store(b: Importer, target: Ref, value: Any) -> Ref:
    """Overwrite ``target`` with a tensor or number, cast and broadcast to it."""
    dtype = TO_TORCH[target.type.dtype]
    if is_tensor(value):
        new = as_value(b, value, dtype)
        extra = new.type.rank - target.type.rank
        if extra > 0 and all(d == 1 for d in new.shape[:extra]):
            new = b.emit("reshape", [new], shape=new.shape[extra:])
    else:
        new = b.constant(value, target.type.dtype)
    target.write(b, expanded(b, new, target.type.shape))
    return target


def diagonal(b: Importer, input: Any, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Ref:
    """``diagonal``: a view of each matrix as a line of which every (columns + 1)-th element is taken."""
    ref = tensor(b, input)
    rank = ref.type.rank
    one, two = axis_of(dim1, rank), axis_of(dim2, rank)
    if rank < 2 or one == two:
        raise Unmapped("the diagonal of a vector")
    rows, columns = (static(ref.type.shape[a], "diagonal") for a in (one, two))
    lead = [a for a in range(rank) if a not in (one, two)]
    start = offset if offset >= 0 else -offset * columns
    length = max(min(columns - offset, rows) if offset >= 0 else min(rows + offset, columns), 0)
    if (one, two) != (rank - 2, rank - 1):
        ref = b.view(ref, transpose_step((*lead, one, two)))
    line = b.view(ref, reshape_step((*ref.type.shape[:-2], rows * columns)))
    end = start + (length - 1) * (columns + 1) + 1 if length else start
    return sliced(b, line, rank - 2, min(start, rows * columns), min(end, rows * columns), columns + 1)


def size(b: Importer, input: Any, dim: Any = None) -> Any:
    """``size()``."""
    shape = shape_of(b, input)
    return shape if dim is None else shape[axis_of(dim, len(shape))]


def attribute(b: Importer, x: Any, name: str) -> Any:
    """``getattr`` on a tensor, or on a named tuple of them."""
    if not is_tensor(x):
        return getattr(x, name)
    if name in ("T", "mT", "H", "mH"):
        return reverse_axes(b, x) if name in ("T", "H") else matrix_transpose(b, x)
    ref = tensor(b, x)
    known = {"shape": ref.type.shape, "dtype": TO_TORCH[ref.type.dtype], "ndim": ref.type.rank, "device": here()}
    if name not in known:
        raise Unmapped(f"the attribute {name!r} of a tensor")
    return known[name]


TABLE: dict[str, Handler] = {
    "view": view,
    "view_as": lambda b, input, other: view(b, input, *shape_of(b, other)),
    "reshape": reshape,
    "reshape_as": lambda b, input, other: reshape(b, input, *shape_of(b, other)),
    "flatten": flatten,
    "ravel": flatten,
    "unflatten": unflatten,
    "squeeze": squeeze,
    "unsqueeze": unsqueeze,
    "permute": permute,
    "transpose": transpose,
    "swapaxes": transpose,
    "swapdims": transpose,
    "movedim": movedim,
    "moveaxis": movedim,
    "t": matrix_transpose,
    "expand": expand,
    "broadcast_to": expand,
    "expand_as": expand_as,
    "repeat": repeat,
    "tile": tile,
    "repeat_interleave": repeat_interleave,
    "meshgrid": meshgrid,
    "detach": detach,
    "alias": alias,
    "narrow": narrow,
    "select": select,
    "getitem": getitem,
    "diagonal": diagonal,
    "size": size,
    "dim": lambda b, input: len(shape_of(b, input)),
    "ndimension": lambda b, input: len(shape_of(b, input)),
    "numel": lambda b, input: product(shape_of(b, input)),
    "getattr": attribute,
    "is_floating_point": lambda b, input: tensor(b, input).type.is_float,
    "is_complex": lambda b, input: False,
}
