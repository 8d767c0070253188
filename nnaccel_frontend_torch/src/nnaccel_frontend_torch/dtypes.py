"""torch's element types and tensor layouts in terms of the IR's."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch

from nnaccel_core.ir import TensorType

TO_IR: dict[torch.dtype, str] = {
    torch.bool: "bool", torch.uint8: "uint8", torch.int8: "int8", torch.int16: "int16", torch.int32: "int32",
    torch.int64: "int64", torch.float16: "float16", torch.bfloat16: "bfloat16", torch.float32: "float32",
    torch.float64: "float64",
}  # fmt: skip
TO_TORCH: dict[str, torch.dtype] = {name: dtype for dtype, name in TO_IR.items()}


def dense_layout(shape: Sequence[int], strides: Sequence[int]) -> tuple[int, ...] | None:
    """The axes from outermost to innermost when ``strides`` describe dense memory, else None.

    Row-major wins where axes of extent 1 leave a choice; among the rest, so does the given axis order.
    """
    step = 1
    for size, stride in zip(reversed(shape), reversed(strides), strict=True):
        if size != 1:
            if stride != step:
                break
            step *= size
    else:
        return tuple(range(len(shape)))
    if 0 in shape:
        return tuple(range(len(shape)))
    real = sorted((a for a in range(len(shape)) if shape[a] != 1), key=lambda a: -strides[a])
    step = 1
    for a in reversed(real):
        if strides[a] != step:
            return None
        step *= shape[a]
    order = _with_units(tuple(shape), tuple(real))
    return order


@lru_cache(maxsize=1024)
def _with_units(shape: tuple[int, ...], real: tuple[int, ...]) -> tuple[int, ...]:
    """The layout of all axes, given the order of those longer than 1: channels-last where it fits, for a stable choice."""
    rank = len(shape)
    if rank >= 4:
        last = (0, *range(2, rank), 1)
        if tuple(a for a in last if shape[a] != 1) == real:
            return last
    units = [a for a in range(rank) if shape[a] == 1]
    return (*units, *real)


@lru_cache(maxsize=1024)
def format_of(layout: tuple[int, ...]) -> torch.memory_format | None:
    """torch's memory format of that name; None for layouts that torch has none for."""
    if layout == tuple(range(len(layout))):
        return torch.contiguous_format
    if is_channels_last(layout) and len(layout) in (4, 5):
        return torch.channels_last if len(layout) == 4 else torch.channels_last_3d
    return None


@lru_cache(maxsize=4096)
def make_type(shape: tuple[int, ...], dtype: str, layout: tuple[int, ...]) -> TensorType:
    """A cached `TensorType`."""
    return TensorType(shape, dtype, layout)


def is_channels_last(layout: Sequence[int]) -> bool:
    """Whether this is the channels-last layout of an image or volume."""
    return len(layout) >= 4 and tuple(layout) == (0, *range(2, len(layout)), 1)


def torch_strides(type: TensorType) -> tuple[int, ...]:
    """Element strides of a static ``type``."""
    return tuple(int(s) for s in type.strides())  # type: ignore[arg-type]


@lru_cache(maxsize=1024)
def _probe(dtype: torch.dtype, scalar: bool) -> torch.Tensor:
    return torch.empty(() if scalar else (1,), dtype=dtype)


@lru_cache(maxsize=4096)
def _promoted(operands: tuple[tuple[object, bool], ...], default: torch.dtype) -> torch.dtype:
    scalars = {bool: True, int: 1, float: 1.0}
    out: torch.Tensor | None = None
    for kind, weak in sorted(operands, key=lambda o: not isinstance(o[0], torch.dtype)):
        probe = _probe(kind, weak) if isinstance(kind, torch.dtype) else scalars[kind]  # type: ignore[index]
        if out is None:
            assert isinstance(probe, torch.Tensor), "promotion needs a tensor operand"
            out = probe
        else:
            out = _probe(torch.result_type(out, probe), weak and out.dim() == 0)
    assert out is not None
    return out.dtype


def promote(operands: Sequence[tuple[object, bool]]) -> torch.dtype:
    """torch's result type of operands given as ``(torch.dtype, is 0-d)`` or ``(bool | int | float, True)``.

    At least one operand is a tensor.
    """
    return _promoted(tuple(operands), torch.get_default_dtype())
