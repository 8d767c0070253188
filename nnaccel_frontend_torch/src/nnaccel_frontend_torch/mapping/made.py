"""Conversions, copies, and tensors made from sizes."""

from __future__ import annotations

from typing import Any

import torch

from nnaccel_core.ir import Expr
from nnaccel_frontend_torch.alias import Ref
from nnaccel_frontend_torch.dtypes import TO_IR, TO_TORCH
from nnaccel_frontend_torch.importer import Importer
from nnaccel_frontend_torch.mapping.args import Handler, expanded, is_tensor, sizes, tensor
from nnaccel_frontend_torch.place import is_here
from nnaccel_frontend_torch.refusal import NeedStatic, Refusal, Unmapped


def contiguous(b: Importer, input: Any, memory_format: Any = torch.contiguous_format) -> Ref:
    """``contiguous()``: the tensor itself when it is, else a copy; which of them may be unknown."""
    ref = tensor(b, input)
    if not b.contiguous(ref):
        ref.storage.unclear = True
    return ref


def clone(b: Importer, input: Any, *, memory_format: Any = None) -> Ref:
    """A copy."""
    return b.temp(tensor(b, input).read(b))


def same(b: Importer, input: Any, *args: Any, **kwargs: Any) -> Ref:
    """Calls that return their argument."""
    return tensor(b, input)


def convert(b: Importer, input: Any, dtype: torch.dtype) -> Ref:
    """A dtype conversion: the tensor itself when it has that dtype."""
    ref = tensor(b, input)
    if dtype not in TO_IR:
        raise Unmapped(f"conversion to {dtype}")
    return ref if TO_TORCH[ref.type.dtype] == dtype else b.temp(b.cast(ref.read(b), TO_IR[dtype]))


def to(b: Importer, input: Any, *args: Any, **kwargs: Any) -> Ref:
    """``Tensor.to`` in all its forms, on this device."""
    dtype, copy = kwargs.pop("dtype", None), kwargs.pop("copy", False)
    kwargs.pop("non_blocking", None)
    memory_format = kwargs.pop("memory_format", None)
    given = [*args, *kwargs.values()]
    for a in given:
        if isinstance(a, torch.dtype):
            dtype = a
        elif is_tensor(a):
            dtype = TO_TORCH[tensor(b, a).type.dtype]
        elif isinstance(a, (str, torch.device)):
            if not is_here(a):
                raise Refusal(f"a move to {a}")
        elif not isinstance(a, bool) and a is not None:
            raise Unmapped(f"to({a!r})")
    if [a for a in given if isinstance(a, bool)][1:2] == [True]:
        copy = True
    out = tensor(b, input) if dtype is None else convert(b, input, dtype)
    if memory_format not in (None, torch.preserve_format):
        out = contiguous(b, out)
    return clone(b, out) if copy else out


def to_cpu(b: Importer, input: Any) -> Ref:
    """``cpu()``: the tensor itself, on the CPU."""
    if not is_here(None):
        raise Refusal("a move to the CPU")
    return tensor(b, input)


def type_as(b: Importer, input: Any, other: Any) -> Ref:
    """``type_as``."""
    return convert(b, input, TO_TORCH[tensor(b, other).type.dtype])


def filled(value: Any) -> Handler:
    """zeros / ones."""

    def run(b: Importer, *size: Any, dtype: Any = None, device: Any = None, **kwargs: Any) -> Ref:
        return full(
            b,
            sizes((kwargs["size"],) if "size" in kwargs else size),
            value,
            dtype=dtype or torch.get_default_dtype(),
            device=device,
        )

    return run


def full(b: Importer, size: Any, fill_value: Any, *, dtype: Any = None, device: Any = None, **kwargs: Any) -> Ref:
    """``torch.full``."""
    if not is_here(device):
        raise Refusal(f"a tensor made on {device or 'the CPU'}")
    if is_tensor(fill_value) or isinstance(fill_value, Expr) or kwargs.get("names") is not None:
        raise Unmapped("full with a computed value")
    if dtype is None:
        dtype = {bool: torch.bool, int: torch.int64, float: torch.get_default_dtype()}[type(fill_value)]
    if dtype not in TO_IR:
        raise Unmapped(f"a tensor of {dtype}")
    return b.temp(expanded(b, b.constant(fill_value, TO_IR[dtype]), sizes((size,))))


def filled_like(value: Any) -> Handler:
    """zeros_like / ones_like / full_like."""

    def run(b: Importer, input: Any, *args: Any, dtype: Any = None, device: Any = None, **kwargs: Any) -> Ref:
        fill = value if value is not None else (args[0] if args else kwargs["fill_value"])
        ref = tensor(b, input)
        return full(b, ref.type.shape, fill, dtype=dtype or TO_TORCH[ref.type.dtype], device=device)

    return run


def new_filled(value: Any) -> Handler:
    """new_zeros / new_ones / new_full."""

    def run(b: Importer, input: Any, *size: Any, dtype: Any = None, device: Any = None, **kwargs: Any) -> Ref:
        fill = value if value is not None else kwargs.pop("fill_value", size[-1])
        given = size if value is not None or "size" in kwargs or len(size) == 1 else size[:-1]
        shape = kwargs["size"] if "size" in kwargs else sizes(given)
        return full(b, shape, fill, dtype=dtype or TO_TORCH[tensor(b, input).type.dtype], device=device)

    return run


def arange(
    b: Importer, start: Any = 0, end: Any = None, step: Any = 1, *, dtype: Any = None, device: Any = None, **kwargs: Any
) -> Ref:
    """``torch.arange`` of known bounds."""
    if end is None:
        start, end = 0, start
    if any(isinstance(x, Expr) for x in (start, end, step)):
        raise NeedStatic("arange of a symbolic size")
    if any(type(x) not in (int, float) for x in (start, end, step)) or kwargs.keys() - _MEMORY:
        raise Unmapped("arange of computed bounds")
    return _known(b, torch.arange(start, end, step, dtype=dtype), device)


def linspace(b: Importer, start: Any, end: Any, steps: Any, *, dtype: Any = None, device: Any = None, **kwargs: Any) -> Ref:
    """``torch.linspace`` of known bounds."""
    if isinstance(steps, Expr):
        raise NeedStatic("linspace of a symbolic size")
    if type(start) not in (int, float) or type(end) not in (int, float) or kwargs.keys() - _MEMORY:
        raise Unmapped("linspace of computed bounds")
    return _known(b, torch.linspace(start, end, steps, dtype=dtype), device)


def eye(b: Importer, n: Any, m: Any = None, *, dtype: Any = None, device: Any = None, **kwargs: Any) -> Ref:
    """``torch.eye``."""
    if isinstance(n, Expr) or isinstance(m, Expr):
        raise NeedStatic("eye of a symbolic size")
    return _known(b, torch.eye(n, n if m is None else m, dtype=dtype), device)


#: Arguments that say where a new tensor lives, not what it holds.
_MEMORY = {"requires_grad", "layout", "pin_memory"}


def _known(b: Importer, made: torch.Tensor, device: Any) -> Ref:
    if not is_here(device):
        raise Refusal(f"a tensor made on {device or 'the CPU'}")
    if made.dtype not in TO_IR or made.dtype in (torch.float16, torch.bfloat16):
        raise Unmapped(f"a tensor of {made.dtype}")
    return b.temp(b.constant(made.numpy(), TO_IR[made.dtype]))


def conversion(dtype: torch.dtype) -> Handler:
    """float() and its relatives."""
    return lambda b, input: convert(b, input, dtype)


_CONVERSIONS = {
    "float": torch.float32, "double": torch.float64, "half": torch.float16, "bfloat16": torch.bfloat16, "int": torch.int32,
    "long": torch.int64, "short": torch.int16, "bool": torch.bool, "char": torch.int8, "byte": torch.uint8,
}  # fmt: skip

TABLE: dict[str, Handler] = {
    "contiguous": contiguous,
    "clone": clone,
    "to": to,
    "type_as": type_as,
    **{name: conversion(dtype) for name, dtype in _CONVERSIONS.items()},
    "cpu": to_cpu,
    "zeros": filled(0),
    "ones": filled(1),
    "full": full,
    "zeros_like": filled_like(0),
    "ones_like": filled_like(1),
    "full_like": filled_like(None),
    "new_zeros": new_filled(0),
    "new_ones": new_filled(1),
    "new_full": new_filled(None),
    "arange": arange,
    "linspace": linspace,
    "eye": eye,
}
