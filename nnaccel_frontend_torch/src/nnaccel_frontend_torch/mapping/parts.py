"""Calls that take tensors apart and put them together."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from nnaccel_frontend_torch.alias import Ref
from nnaccel_frontend_torch.importer import Importer
from nnaccel_frontend_torch.mapping.args import Handler, as_value, axis_of, promoted, static, tensor
from nnaccel_frontend_torch.mapping.shapes import reshaped, select, shape_of, sliced, unsqueeze
from nnaccel_frontend_torch.refusal import Refusal, Unmapped


def stacked(at_least: int, dim: int) -> Handler:
    """hstack / vstack: cat of tensors with at least so many axes."""

    def run(b: Importer, tensors: Sequence[Any]) -> Ref:
        grown = []
        for t in tensors:
            shape = list(shape_of(b, t))
            grown.append(reshaped(b, t, [*([1] * (at_least - len(shape))), *shape], True))
        return cat(b, grown, 0 if grown and len(shape_of(b, grown[0])) == 1 else dim)

    return run


def chunk(b: Importer, input: Any, chunks: int, dim: int = 0) -> tuple[Ref, ...]:
    """``chunk``."""
    ref = tensor(b, input)
    extent = static(ref.type.shape[axis_of(dim, ref.type.rank)], "chunk")
    return split(b, ref, max(-(-extent // chunks), 1), dim)


def split(b: Importer, tensor_: Any, split_size_or_sections: Any = None, dim: int = 0, **kwargs: Any) -> tuple[Ref, ...]:
    """``split`` into equal parts or given sizes."""
    parts = kwargs.get("split_size", kwargs.get("split_sizes", split_size_or_sections))
    ref = tensor(b, tensor_)
    axis = axis_of(dim, ref.type.rank)
    extent = static(ref.type.shape[axis], "split")
    if isinstance(parts, int):
        parts = [min(parts, extent - k) for k in range(0, extent, parts)] or [0]
    out, start = [], 0
    for n in parts:
        out.append(sliced(b, ref, axis, start, start + static(n, "split")))
        start += n
    if start != extent:
        raise Refusal(f"split sizes {parts} do not add up to {extent}")
    return tuple(out)


def tensor_split(b: Importer, input: Any, indices_or_sections: Any = None, dim: int = 0, **kwargs: Any) -> tuple[Ref, ...]:
    """``tensor_split``: into parts as equal as can be, or at given positions."""
    where = kwargs.get("sections", kwargs.get("indices", indices_or_sections))
    ref = tensor(b, input)
    axis = axis_of(dim, ref.type.rank)
    extent = static(ref.type.shape[axis], "tensor_split")
    if isinstance(where, int) and where > 0:
        small, longer = divmod(extent, where)
        at = [k * small + min(k, longer) for k in range(where + 1)]
    elif isinstance(where, (tuple, list)) and all(isinstance(i, int) for i in where):
        at = [0, *(min(max(i + extent if i < 0 else i, 0), extent) for i in where), extent]
    else:
        raise Unmapped(f"tensor_split by {where!r}")
    return tuple(sliced(b, ref, axis, lo, max(lo, hi)) for lo, hi in itertools.pairwise(at))


def unbind(b: Importer, input: Any, dim: int = 0) -> tuple[Ref, ...]:
    """``unbind``: one view per position."""
    ref = tensor(b, input)
    return tuple(select(b, ref, dim, k) for k in range(static(ref.type.shape[axis_of(dim, ref.type.rank)], "unbind")))


def cat(b: Importer, tensors: Sequence[Any], dim: int = 0, *, axis: Any = None) -> Ref:
    """``cat``, ``concat``."""
    at = dim if axis is None else axis
    rank = len(shape_of(b, tensors[0]))
    if any(len(shape_of(b, t)) != rank for t in tensors):
        raise Unmapped("cat of tensors of different rank")
    dtype = promoted(b, *tensors)
    values = [as_value(b, t, dtype) for t in tensors]
    return b.temp(values[0] if len(values) == 1 else b.emit("concat", values, axis=axis_of(at, rank)))


def stack(b: Importer, tensors: Sequence[Any], dim: int = 0) -> Ref:
    """``stack``."""
    return cat(b, [unsqueeze(b, t, dim) for t in tensors], axis_of(dim, len(shape_of(b, tensors[0])) + 1))


TABLE: dict[str, Handler] = {
    "hstack": stacked(1, 1),
    "vstack": stacked(2, 0),
    "chunk": chunk,
    "split": split,
    "split_with_sizes": split,
    "unbind": unbind,
    "tensor_split": tensor_split,
    "cat": cat,
    "concat": cat,
    "concatenate": cat,
    "stack": stack,
}
