"""Reductions, vector norms, softmax."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from nnaccel_core.ir import Expr, Value, product
from nnaccel_frontend_torch.alias import Ref
from nnaccel_frontend_torch.dtypes import TO_IR
from nnaccel_frontend_torch.importer import Importer
from nnaccel_frontend_torch.mapping.args import (
    Handler,
    as_value,
    axes_of,
    axis_of,
    floating,
    promoted,
    value_of,
)
from nnaccel_frontend_torch.mapping.logic import truth
from nnaccel_frontend_torch.refusal import NeedStatic, Refusal, Unmapped


def reduction(op: str) -> Handler:
    """sum / mean / amax / amin / prod over some axes or all."""

    def run(b: Importer, input: Any, dim: Any = None, keepdim: bool = False, *, dtype: Any = None, axis: Any = None) -> Ref:
        value = value_of(b, input)
        if dtype is not None:
            value = b.cast(value, TO_IR[dtype])
        elif op in ("reduce_sum", "reduce_prod") and not value.type.is_float:
            value = b.cast(value, "int64")
        if op == "reduce_mean" and not value.type.is_float:
            raise Refusal("mean of integers: torch refuses it too")
        if value.dtype == "bool":
            raise Unmapped(f"{op} of booleans")
        return b.temp(_reduced(b, op, value, axes_of(dim if axis is None else axis, value.type.rank), keepdim))

    return run


def _reduced(b: Importer, op: str, x: Value, axes: Sequence[int], keepdims: bool = True) -> Value:
    return b.emit(op, [x], axes=tuple(axes), keepdims=bool(keepdims)) if axes else x


def quantifier(op: str) -> Handler:
    """all / any."""

    def run(b: Importer, input: Any, dim: Any = None, keepdim: bool = False) -> Ref:
        x = value_of(b, input)
        if x.dtype == "uint8":
            raise Unmapped("all or any of bytes, which gives bytes")
        counted = b.cast(truth(b, input), "int32")
        out = _reduced(b, op, counted, axes_of(dim, x.type.rank), keepdim)
        return b.temp(b.emit("ne", [out, b.constant(0, "int32")]))

    return run


def _moments(b: Importer, input: Any, dim: Any, unbiased: Any, keepdim: bool, correction: Any) -> tuple[Value, Value]:
    """``(variance, mean)``."""
    x = floating(b, input)
    axes = axes_of(dim, x.type.rank)
    minus = correction if correction is not None else (1 if unbiased in (None, True) else 0)
    count = product(x.shape[a] for a in axes)
    if isinstance(count, Expr):
        raise NeedStatic("a variance over a symbolic size")
    if count - minus <= 0:
        raise Unmapped("a variance of too few elements")
    mean = _reduced(b, "reduce_mean", x, axes)
    centered = b.emit("sub", [x, mean])
    total = _reduced(b, "reduce_sum", b.emit("mul", [centered, centered]), axes, keepdim)
    shown = mean if keepdim else b.emit("reshape", [mean], shape=total.shape)
    return b.emit("div", [total, b.constant(float(count - minus), x.dtype)]), shown


def variance(root: bool, with_mean: bool = False) -> Handler:
    """var / std / var_mean / std_mean with any correction."""

    def run(
        b: Importer, input: Any, dim: Any = None, unbiased: Any = None, keepdim: bool = False, *, correction: float | None = None
    ) -> Any:
        if isinstance(dim, bool):
            dim, unbiased = None, dim
        var, mean = _moments(b, input, dim, unbiased, keepdim, correction)
        out = b.temp(b.emit("sqrt", [var]) if root else var)
        return (out, b.temp(mean)) if with_mean else out

    return run


def extent_range(b: Importer, input: Any, *, dim: Any = None, keepdim: bool = False) -> Any:
    """``aminmax``."""
    axis = None if dim is None else axis_of(dim, value_of(b, input).type.rank)
    low, high = (reduction(op)(b, input, axis, keepdim) for op in ("reduce_min", "reduce_max"))
    return torch.return_types.aminmax((low, high))  # type: ignore[attr-defined]


# --- norms of vectors -------------------------------------------------------------------------------------------


def vector_norm(b: Importer, x: Value, order: float, axes: Sequence[int], keepdims: bool) -> Value:
    """The norm of ``order`` over ``axes``."""
    if order == 2:
        return b.emit("sqrt", [_reduced(b, "reduce_sum", b.emit("mul", [x, x]), axes, keepdims)])
    if order == 0:
        return _reduced(b, "reduce_sum", b.cast(b.emit("ne", [x, b.constant(0.0, x.dtype)]), x.dtype), axes, keepdims)
    size = b.emit("abs", [x])
    if order == 1:
        return _reduced(b, "reduce_sum", size, axes, keepdims)
    if math.isinf(order):
        return _reduced(b, "reduce_max" if order > 0 else "reduce_min", size, axes, keepdims)
    total = _reduced(b, "reduce_sum", b.emit("pow", [size, b.constant(float(order), x.dtype)]), axes, keepdims)
    return b.emit("pow", [total, b.constant(1.0 / order, x.dtype)])


def norm(b: Importer, input: Any, p: Any = "fro", dim: Any = None, keepdim: bool = False, dtype: Any = None) -> Ref:
    """``torch.norm``: the vector norm, which for ``"fro"`` is that of order 2."""
    x = value_of(b, input) if dtype is None else as_value(b, input, dtype)
    if not x.type.is_float or p == "nuc":
        raise Unmapped(f"norm {p!r} of {x.dtype}")
    order = 2.0 if p in ("fro", None) else float(p)
    return b.temp(vector_norm(b, x, order, axes_of(dim, x.type.rank), keepdim))


def linalg_vector_norm(b: Importer, x: Any, ord: float = 2, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Ref:
    """``torch.linalg.vector_norm``."""
    return norm(b, x, ord, dim, keepdim, dtype)


def linalg_norm(b: Importer, A: Any, ord: Any = None, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Ref:
    """``torch.linalg.norm`` where it is a vector norm."""
    rank = value_of(b, A).type.rank
    if ord is not None and (isinstance(ord, str) or not (isinstance(dim, int) or (dim is None and rank == 1))):
        raise Unmapped(f"the matrix norm {ord!r}")
    return norm(b, A, 2 if ord is None else ord, dim, keepdim, dtype)


def normalize(b: Importer, input: Any, p: float = 2.0, dim: Any = 1, eps: float = 1e-12) -> Ref:
    """``F.normalize``."""
    x = floating(b, input)
    size = vector_norm(b, x, float(p), axes_of(dim, x.type.rank), True)
    return b.temp(b.emit("div", [x, b.emit("maximum", [size, b.constant(float(eps), x.dtype)])]))


def cosine_similarity(b: Importer, x1: Any, x2: Any, dim: int = 1, eps: float = 1e-8) -> Ref:
    """``F.cosine_similarity``: the product of both normalized operands."""
    dtype = promoted(b, x1, x2)
    if not dtype.is_floating_point:
        raise Unmapped("cosine similarity of integers")
    halves = [normalize(b, b.temp(as_value(b, x, dtype)), 2.0, dim, eps).read(b) for x in (x1, x2)]
    both = b.emit("mul", halves)
    return b.temp(b.emit("reduce_sum", [both], axes=axes_of(dim, both.type.rank), keepdims=False))


def pairwise_distance(b: Importer, x1: Any, x2: Any, p: float = 2.0, eps: float = 1e-6, keepdim: bool = False) -> Ref:
    """``F.pairwise_distance``: the norm of ``x1 - x2 + eps`` over the last axis."""
    dtype = promoted(b, x1, x2)
    if not dtype.is_floating_point:
        raise Unmapped("distances of integers")
    apart = b.emit("sub", [as_value(b, x1, dtype), as_value(b, x2, dtype)])
    apart = b.emit("add", [apart, b.constant(float(eps), apart.dtype)])
    return b.temp(vector_norm(b, apart, float(p), (apart.type.rank - 1,), keepdim))


# --- softmax ----------------------------------------------------------------------------------------------------


def softmax(op: str, negative: bool = False) -> Handler:
    """softmax / log_softmax / softmin."""

    def run(b: Importer, input: Any, dim: Any = None, _stacklevel: Any = 3, dtype: Any = None) -> Ref:
        if isinstance(_stacklevel, torch.dtype):
            dtype = _stacklevel
        value = value_of(b, input) if dtype is None else as_value(b, input, dtype)
        if not value.type.is_float:
            raise Unmapped(f"{op} of {value.dtype}")
        rank = value.type.rank
        # F.softmax without dim: torch's legacy choice.
        axis = (0 if rank in (0, 1, 3) else 1) if dim is None else axis_of(dim, rank)
        if rank == 0:
            raise Unmapped(f"{op} of a scalar")
        return b.temp(b.emit(op, [b.emit("neg", [value]) if negative else value], axis=axis))

    return run


def softmax2d(b: Importer, input: Any) -> Ref:
    """``F.softmax2d``: over the channels."""
    return softmax("softmax")(b, input, -3)  # type: ignore[no-any-return]


def logsumexp(b: Importer, input: Any, dim: Any, keepdim: bool = False) -> Ref:
    """``torch.logsumexp``: shifted by the largest element, where that is finite."""
    x = floating(b, input)
    axes = axes_of(dim, x.type.rank)
    top = _reduced(b, "reduce_max", x, axes)
    finite = b.emit("lt", [b.emit("abs", [top]), b.constant(math.inf, x.dtype)])
    shift = b.emit("where", [finite, top, b.constant(0.0, x.dtype)])
    total = _reduced(b, "reduce_sum", b.emit("exp", [b.emit("sub", [x, shift])]), axes)
    out = b.emit("add", [b.emit("log", [total]), shift])
    if not keepdim:
        out = b.emit("reshape", [out], shape=tuple(d for a, d in enumerate(out.shape) if a not in axes))
    return b.temp(out)


TABLE: dict[str, Handler] = {
    "sum": reduction("reduce_sum"),
    "mean": reduction("reduce_mean"),
    "prod": reduction("reduce_prod"),
    "amax": reduction("reduce_max"),
    "amin": reduction("reduce_min"),
    "aminmax": extent_range,
    "all": quantifier("reduce_min"),
    "any": quantifier("reduce_max"),
    "count_nonzero": lambda b, input, dim=None: reduction("reduce_sum")(b, b.temp(truth(b, input)), dim),
    "var": variance(False),
    "std": variance(True),
    "var_mean": variance(False, True),
    "std_mean": variance(True, True),
    "norm": norm,
    "linalg_vector_norm": linalg_vector_norm,
    "linalg_norm": linalg_norm,
    "normalize": normalize,
    "cosine_similarity": cosine_similarity,
    "pairwise_distance": pairwise_distance,
    "softmax": softmax("softmax"),
    "softmax2d": softmax2d,
    "softmin": softmax("softmax", True),
    "log_softmax": softmax("log_softmax"),
    "special_softmax": softmax("softmax"),
    "special_log_softmax": softmax("log_softmax"),
    "logsumexp": logsumexp,
    "special_logsumexp": logsumexp,
}
