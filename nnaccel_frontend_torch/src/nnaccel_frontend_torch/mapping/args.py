"""Helpers that mapping functions share: axes, windows, sizes, promotion."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from nnaccel_core.ir import Dim, Expr, Value, product
from nnaccel_frontend_torch.alias import Ref
from nnaccel_frontend_torch.dtypes import TO_IR, TO_TORCH, promote
from nnaccel_frontend_torch.importer import Importer
from nnaccel_frontend_torch.refusal import NeedStatic, Refusal, Unmapped

Handler = Callable[..., Any]


def tensor(b: Importer, x: Any) -> Ref:
    """``x`` as a `Ref`; real tensors are the network's own.

    Raises:
        Unmapped: ``x`` is no tensor.
    """
    if isinstance(x, torch.Tensor):
        return b.param(x)
    if isinstance(x, Ref):
        return x
    raise Unmapped(f"expected a tensor, got {type(x).__name__}")


def is_tensor(x: Any) -> bool:
    """Whether ``x`` is a tensor of the user's program."""
    return isinstance(x, (Ref, torch.Tensor))


def static(dim: Dim, what: str) -> int:
    """``dim`` as an int.

    Raises:
        NeedStatic: it is symbolic.
    """
    if isinstance(dim, Expr):
        raise NeedStatic(f"{what} depends on the size {dim}")
    return int(dim)


def axis_of(dim: Any, rank: int) -> int:
    """A torch ``dim`` argument as an axis in ``0..rank-1``."""
    if not isinstance(dim, int) or isinstance(dim, bool):
        raise Unmapped(f"an axis given as {dim!r}")
    limit = max(rank, 1)
    if not -limit <= dim < limit:
        raise Unmapped(f"axis {dim} of a tensor of rank {rank}")
    return dim % limit


def axes_of(dims: Any, rank: int) -> tuple[int, ...]:
    """One axis or several (None or empty: all) as a sorted tuple."""
    if dims is None or (isinstance(dims, (tuple, list)) and not dims):
        return tuple(range(rank))
    if isinstance(dims, int):
        dims = (dims,)
    return tuple(sorted({axis_of(d, rank) for d in dims}))


def ints(x: Any, n: int, what: str) -> tuple[int, ...]:
    """An int or a sequence of one or ``n`` ints, repeated to ``n``."""
    if isinstance(x, int):
        return (x,) * n
    if isinstance(x, (tuple, list)) and all(isinstance(v, int) for v in x):
        if len(x) == n:
            return tuple(x)
        if len(x) == 1:
            return tuple(x) * n
    if isinstance(x, Expr) or (isinstance(x, (tuple, list)) and any(isinstance(v, Expr) for v in x)):
        raise NeedStatic(f"{what} depends on a symbolic size")
    raise Unmapped(f"{what} given as {x!r}")


def sizes(args: Sequence[Any]) -> list[Dim]:
    """``f(2, 3)``, ``f((2, 3))`` and ``f(torch.Size([2, 3]))`` alike."""
    if len(args) == 1 and isinstance(args[0], (tuple, list)):
        args = args[0]
    out: list[Dim] = []
    for a in args:
        if isinstance(a, (int, Expr)) and not isinstance(a, bool):
            out.append(a)
        else:
            raise Unmapped(f"a size given as {a!r}")
    return out


def complete_shape(shape: Sequence[Dim], target: Sequence[Dim]) -> tuple[Dim, ...]:
    """``target`` with its -1 replaced by what is left of the elements of ``shape``."""
    target = list(target)
    if -1 not in target:
        return tuple(target)
    if target.count(-1) > 1:
        raise Unmapped("a view with more than one -1")
    at = target.index(-1)
    known = target[:at] + target[at + 1 :]
    rest = list(shape)
    divisor: list[Dim] = []
    for d in known:
        # Symbolic factors cancel one by one, so that (N * C) / N is C.
        if d in rest:
            rest.remove(d)
        else:
            divisor.append(d)
    total, by = product(rest), product(divisor)
    if by == 0:
        raise Unmapped("a view with -1 of a tensor without elements")
    target[at] = total if by == 1 else total // by
    return tuple(target)


def dtype_of(b: Importer, x: Any) -> torch.dtype:
    """The torch dtype of a tensor argument."""
    return TO_TORCH[tensor(b, x).type.dtype]


def promoted(b: Importer, *xs: Any) -> torch.dtype:
    """torch's result type of tensors and Python scalars."""
    kinds: list[tuple[object, bool]] = []
    for x in xs:
        if is_tensor(x):
            type_ = tensor(b, x).type
            kinds.append((TO_TORCH[type_.dtype], type_.rank == 0))
        elif type(x) in (bool, int, float):
            kinds.append((type(x), True))
        elif isinstance(x, Expr):
            raise NeedStatic("a symbolic size is used as a number in tensor arithmetic")
        elif isinstance(x, (float, int)):
            kinds.append((float if isinstance(x, float) else int, True))
        else:
            raise Unmapped(f"arithmetic with a {type(x).__name__}")
    return promote(kinds)


def as_value(b: Importer, x: Any, dtype: torch.dtype) -> Value:
    """A tensor or Python scalar as a value of ``dtype``."""
    if is_tensor(x):
        return b.cast(tensor(b, x).read(b), TO_IR[dtype])
    return b.constant(x, TO_IR[dtype])


def floating(b: Importer, x: Any) -> Value:
    """A tensor's value, in torch's default dtype when it is integer or boolean."""
    value = tensor(b, x).read(b)
    return value if value.type.is_float else b.cast(value, TO_IR[torch.get_default_dtype()])


def expanded(b: Importer, value: Value, shape: Sequence[Dim]) -> Value:
    """``value`` broadcast to ``shape``."""
    return value if tuple(value.shape) == tuple(shape) else b.emit("expand", [value], shape=tuple(shape))


def value_of(b: Importer, x: Any) -> Value:
    """A tensor argument's current value."""
    return tensor(b, x).read(b)


def same_dtype(what: str, *values: Value) -> None:
    """Demand one dtype, as torch does.

    Raises:
        Refusal: they differ.
    """
    if len({v.dtype for v in values}) > 1:
        raise Refusal(f"{what} of {', '.join(v.dtype for v in values)}: torch refuses mixed dtypes too")
