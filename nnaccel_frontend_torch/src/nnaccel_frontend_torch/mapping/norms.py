"""Normalizations, reductions, softmax."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from nnaccel_core.ir import Dim, Expr, Value, product
from nnaccel_frontend_torch.alias import Ref
from nnaccel_frontend_torch.dtypes import TO_IR, TO_TORCH
from nnaccel_frontend_torch.importer import Importer
from nnaccel_frontend_torch.mapping.args import (
    Handler,
    as_value,
    axes_of,
    axis_of,
    floating,
    is_tensor,
    promoted,
    same_dtype,
    static,
    value_of,
)
from nnaccel_frontend_torch.refusal import NeedStatic, Refusal, Unmapped

# --- normalization ----------------------------------------------------------------------------------------------


def _or_filled(b: Importer, x: Any, shape: Sequence[Dim], value: float, dtype: str) -> Value:
    if x is not None:
        return value_of(b, x)
    return b.constant(np.full([static(d, "normalization") for d in shape], value), dtype)


def batch_norm(
    b: Importer,
    input: Any,
    running_mean: Any,
    running_var: Any,
    weight: Any = None,
    bias: Any = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Ref:
    """``F.batch_norm``; with the batch's own statistics it is an instance norm over the batch too."""
    x = value_of(b, input)
    if training and running_mean is not None:
        raise Refusal(
            f"batch normalization in training mode{' in ' + b.origin if b.origin else ''} updates its running statistics"
        )
    if x.type.rank < 2:
        raise Unmapped("batch normalization of one axis")
    channels = (x.shape[1],)
    if running_mean is None:
        axes = (0, *range(2, x.type.rank))
        return _channel_affine(b, _standardized(b, x, axes, eps), weight, bias)
    mean, var = value_of(b, running_mean), value_of(b, running_var)
    scale, shift = _or_filled(b, weight, channels, 1.0, mean.dtype), _or_filled(b, bias, channels, 0.0, mean.dtype)
    same_dtype("batch normalization", x, scale, shift, mean, var)
    return b.temp(b.emit("batch_norm", [x, scale, shift, mean, var], eps=float(eps)))


def torch_batch_norm(
    b: Importer,
    input: Any,
    weight: Any,
    bias: Any,
    running_mean: Any,
    running_var: Any,
    training: bool,
    momentum: float,
    eps: float,
    cudnn_enabled: bool = True,
) -> Ref:
    """``torch.batch_norm``, whose arguments come in another order."""
    return batch_norm(b, input, running_mean, running_var, weight, bias, training, momentum, eps)


def _standardized(b: Importer, x: Value, axes: tuple[int, ...], eps: float) -> Value:
    """``(x - mean) / sqrt(var + eps)`` over ``axes``, with the biased variance."""
    centered = b.emit("sub", [x, b.emit("reduce_mean", [x], axes=axes, keepdims=True)])
    var = b.emit("reduce_mean", [b.emit("mul", [centered, centered])], axes=axes, keepdims=True)
    return b.emit("mul", [centered, b.emit("rsqrt", [b.emit("add", [var, b.constant(float(eps), x.dtype)])])])


def _channel_affine(b: Importer, x: Value, weight: Any, bias: Any) -> Ref:
    for op, p in (("mul", weight), ("add", bias)):
        if p is not None:
            v = value_of(b, p)
            x = b.emit(op, [x, b.emit("reshape", [v], shape=(v.shape[0], *([1] * (x.type.rank - 2))))])
    return b.temp(x)


def layer_norm(
    b: Importer,
    input: Any,
    normalized_shape: Any,
    weight: Any = None,
    bias: Any = None,
    eps: float = 1e-5,
    cudnn_enable: bool = True,
) -> Ref:
    """``F.layer_norm``."""
    x = value_of(b, input)
    shape = (normalized_shape,) if isinstance(normalized_shape, int) else tuple(normalized_shape)
    operands = [x]
    if weight is not None or bias is not None:
        operands.append(_or_filled(b, weight, shape, 1.0, x.dtype))
    if bias is not None:
        operands.append(value_of(b, bias))
    same_dtype("layer normalization", *operands)
    return b.temp(b.emit("layer_norm", operands, axis=x.type.rank - len(shape), eps=float(eps)))


def rms_norm(b: Importer, input: Any, normalized_shape: Any, weight: Any = None, eps: float | None = None) -> Ref:
    """``F.rms_norm`` (Zhang and Sennrich, 2019)."""
    x = value_of(b, input)
    shape = (normalized_shape,) if isinstance(normalized_shape, int) else tuple(normalized_shape)
    axes = tuple(range(x.type.rank - len(shape), x.type.rank))
    tiny = float(torch.finfo(TO_TORCH[x.dtype]).eps if eps is None else eps)
    mean = b.emit("reduce_mean", [b.emit("mul", [x, x])], axes=axes, keepdims=True)
    out = b.emit("mul", [x, b.emit("rsqrt", [b.emit("add", [mean, b.constant(tiny, x.dtype)])])])
    return b.temp(out if weight is None else b.emit("mul", [out, value_of(b, weight)]))


def group_norm(
    b: Importer, input: Any, num_groups: int, weight: Any = None, bias: Any = None, eps: float = 1e-5, cudnn_enabled: bool = True
) -> Ref:
    """``F.group_norm`` (Wu and He, 2018)."""
    x = value_of(b, input)
    channels = static(x.shape[1], "group normalization")
    apart = b.emit("reshape", [x], shape=(x.shape[0], num_groups, channels // num_groups, *x.shape[2:]))
    out = _standardized(b, apart, tuple(range(2, apart.type.rank)), eps)
    return _channel_affine(b, b.emit("reshape", [out], shape=x.shape), weight, bias)


def instance_norm(
    b: Importer,
    input: Any,
    running_mean: Any = None,
    running_var: Any = None,
    weight: Any = None,
    bias: Any = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Ref:
    """``F.instance_norm``."""
    if not use_input_stats:
        return batch_norm(b, input, running_mean, running_var, weight, bias, False, momentum, eps)
    if running_mean is not None:
        raise Refusal("instance normalization in training mode updates its running statistics")
    x = value_of(b, input)
    if x.type.rank < 3:
        raise Unmapped("instance normalization without a batch")
    return _channel_affine(b, _standardized(b, x, tuple(range(2, x.type.rank)), eps), weight, bias)


def normalize(b: Importer, input: Any, p: float = 2.0, dim: Any = 1, eps: float = 1e-12) -> Ref:
    """``F.normalize`` by the Euclidean norm."""
    if p != 2:
        raise Unmapped(f"normalize with p={p}")
    x = floating(b, input)
    squares = b.emit("reduce_sum", [b.emit("mul", [x, x])], axes=axes_of(dim, x.type.rank), keepdims=True)
    norm = b.emit("maximum", [b.emit("sqrt", [squares]), b.constant(float(eps), x.dtype)])
    return b.temp(b.emit("div", [x, norm]))


# --- reductions -------------------------------------------------------------------------------------------------


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
        axes = axes_of(dim if axis is None else axis, value.type.rank)
        if not axes:
            return b.temp(value)
        return b.temp(b.emit(op, [value], axes=axes, keepdims=bool(keepdim)))

    return run


def extreme(op: str, pair: str) -> Handler:
    """max / min: of all elements, or of two tensors; with indices it stays in torch."""

    def run(b: Importer, input: Any, other: Any = None, keepdim: bool = False, **kwargs: Any) -> Any:
        from nnaccel_frontend_torch.mapping.pointwise import TABLE as pointwise

        if is_tensor(other):
            return pointwise[pair](b, input, other)
        if other is not None or kwargs:
            raise Unmapped("a maximum or minimum with its position")
        return reduction(op)(b, input)

    return run


def variance(root: bool) -> Handler:
    """var / std with any correction."""

    def run(
        b: Importer, input: Any, dim: Any = None, unbiased: Any = None, keepdim: bool = False, *, correction: float | None = None
    ) -> Ref:
        if isinstance(dim, bool):
            dim, unbiased = None, dim
        x = floating(b, input)
        axes = axes_of(dim, x.type.rank)
        minus = correction if correction is not None else (1 if unbiased in (None, True) else 0)
        count = product(x.shape[a] for a in axes)
        if isinstance(count, Expr):
            raise NeedStatic("a variance over a symbolic size")
        if count - minus <= 0:
            raise Unmapped("a variance of too few elements")
        centered = b.emit("sub", [x, b.emit("reduce_mean", [x], axes=axes, keepdims=True)])
        total = b.emit("reduce_sum", [b.emit("mul", [centered, centered])], axes=axes, keepdims=bool(keepdim))
        out = b.emit("div", [total, b.constant(float(count - minus), x.dtype)])
        return b.temp(b.emit("sqrt", [out]) if root else out)

    return run


def softmax(op: str) -> Handler:
    """softmax / log_softmax / softmin's building block."""

    def run(b: Importer, input: Any, dim: Any = None, _stacklevel: int = 3, dtype: Any = None) -> Ref:
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
        return b.temp(b.emit(op, [value], axis=axis))

    return run


def cosine_similarity(b: Importer, x1: Any, x2: Any, dim: int = 1, eps: float = 1e-8) -> Ref:
    """``F.cosine_similarity``: the product of both normalized operands."""
    dtype = promoted(b, x1, x2)
    left, right = as_value(b, x1, dtype), as_value(b, x2, dtype)
    halves = []
    for v in (left, right):
        squares = b.emit("reduce_sum", [b.emit("mul", [v, v])], axes=axes_of(dim, v.type.rank), keepdims=True)
        halves.append(b.emit("div", [v, b.emit("maximum", [b.emit("sqrt", [squares]), b.constant(float(eps), v.dtype)])]))
    both = b.emit("mul", halves)
    return b.temp(b.emit("reduce_sum", [both], axes=axes_of(dim, both.type.rank), keepdims=False))


TABLE: dict[str, Handler] = {
    "batch_norm": batch_norm,
    "layer_norm": layer_norm,
    "rms_norm": rms_norm,
    "group_norm": group_norm,
    "instance_norm": instance_norm,
    "normalize": normalize,
    "cosine_similarity": cosine_similarity,
    "sum": reduction("reduce_sum"),
    "mean": reduction("reduce_mean"),
    "amax": reduction("reduce_max"),
    "amin": reduction("reduce_min"),
    "max": extreme("reduce_max", "maximum"),
    "min": extreme("reduce_min", "minimum"),
    "var": variance(False),
    "std": variance(True),
    "softmax": softmax("softmax"),
    "log_softmax": softmax("log_softmax"),
}

#: Functions whose name means something else elsewhere.
EXACT: dict[Any, Handler] = {torch.batch_norm: torch_batch_norm}
