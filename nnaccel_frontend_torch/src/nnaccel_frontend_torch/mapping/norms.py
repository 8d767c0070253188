"""Normalizations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from nnaccel_core.ir import Dim, TensorType, Value, product
from nnaccel_frontend_torch.alias import Ref
from nnaccel_frontend_torch.dtypes import TO_TORCH
from nnaccel_frontend_torch.importer import Importer
from nnaccel_frontend_torch.mapping.args import (
    Handler,
    same_dtype,
    static,
    value_of,
)
from nnaccel_frontend_torch.refusal import Refusal, Unmapped


def _or_filled(b: Importer, x: Any, shape: Sequence[Dim], value: float, dtype: str) -> Value:
    if x is not None:
        return value_of(b, x)
    return b.constant(np.full([static(d, "normalization") for d in shape], value), dtype)


def _with_wide_parameters(b: Importer, input: Any, *parameters: Any) -> Value:
    """``input`` in float32 where that is what its parameters are in: torch's kernels take such a mix, and compute so."""
    x = value_of(b, input)
    wide = {value_of(b, p).dtype for p in parameters if p is not None} == {"float32"}
    return b.cast(x, "float32") if wide and x.dtype in ("float16", "bfloat16") else x


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
    x, result = _with_wide_parameters(b, input, running_mean, running_var, weight, bias), value_of(b, input).dtype
    if x.type.rank < 2:
        raise Unmapped("batch normalization of one axis")
    channels = (x.shape[1],)
    if training or running_mean is None:
        scale, shift = _or_filled(b, weight, channels, 1.0, x.dtype), _or_filled(b, bias, channels, 0.0, x.dtype)
        same_dtype("batch normalization", x, scale, shift)
        statistic = TensorType(channels, x.dtype)
        mean, var = b.emit_many("batch_norm_stats", [x], [statistic, statistic], {})
        if running_mean is not None:
            _track(b, x, mean, var, running_mean, running_var, momentum)
        return b.temp(b.rounded(b.emit("batch_norm", [x, scale, shift, mean, var], eps=float(eps)), result))
    mean, var = value_of(b, running_mean), value_of(b, running_var)
    scale, shift = _or_filled(b, weight, channels, 1.0, mean.dtype), _or_filled(b, bias, channels, 0.0, mean.dtype)
    same_dtype("batch normalization", x, scale, shift, mean, var)
    return b.temp(b.rounded(b.emit("batch_norm", [x, scale, shift, mean, var], eps=float(eps)), result))


def _track(b: Importer, x: Value, mean: Value, var: Value, running_mean: Any, running_var: Any, momentum: float) -> None:
    """Running statistics after this batch: the variance without bias, as torch keeps it."""
    count = product((x.shape[0], *x.shape[2:]))
    n = b.emit("extent", [], dim=count, dtype=x.dtype)
    rest = b.emit("extent", [], dim=count - 1, dtype=x.dtype)
    unbiased = b.emit("mul", [var, b.emit("div", [n, rest])])
    for target, new in ((running_mean, mean), (running_var, unbiased)):
        if not isinstance(target, (Ref, torch.Tensor)):
            raise Unmapped("batch normalization with running statistics that are no tensors")
        ref = b.param(target) if isinstance(target, torch.Tensor) else target
        old = ref.read(b)
        same_dtype("batch normalization", x, old)
        kept = b.emit("mul", [old, b.constant(1 - momentum, old.dtype)])
        ref.write(b, b.emit("add", [b.emit("mul", [new, b.constant(momentum, new.dtype)]), kept]))


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
    x, result = _with_wide_parameters(b, input, weight, bias), value_of(b, input).dtype
    shape = (normalized_shape,) if isinstance(normalized_shape, int) else tuple(normalized_shape)
    operands = [x]
    if weight is not None or bias is not None:
        operands.append(_or_filled(b, weight, shape, 1.0, x.dtype))
    if bias is not None:
        operands.append(value_of(b, bias))
    same_dtype("layer normalization", *operands)
    return b.temp(b.rounded(b.emit("layer_norm", operands, axis=x.type.rank - len(shape), eps=float(eps)), result))


def rms_norm(b: Importer, input: Any, normalized_shape: Any, weight: Any = None, eps: float | None = None) -> Ref:
    """``F.rms_norm`` (Zhang and Sennrich, 2019)."""
    x = value_of(b, input)
    shape = (normalized_shape,) if isinstance(normalized_shape, int) else tuple(normalized_shape)
    tiny = float(torch.finfo(TO_TORCH[x.dtype]).eps if eps is None else eps)
    operands = [x] if weight is None else [x, value_of(b, weight)]
    same_dtype("root-mean-square normalization", *operands)
    return b.temp(b.emit("rms_norm", operands, axis=x.type.rank - len(shape), eps=tiny))


def group_norm(
    b: Importer, input: Any, num_groups: int, weight: Any = None, bias: Any = None, eps: float = 1e-5, cudnn_enabled: bool = True
) -> Ref:
    """``F.group_norm`` (Wu and He, 2018)."""
    x, result = _with_wide_parameters(b, input, weight, bias), value_of(b, input).dtype
    if x.type.rank < 2 or not x.type.is_float:
        raise Unmapped(f"group normalization of {x.type}")
    operands = [x]
    if weight is not None or bias is not None:
        operands.append(_or_filled(b, weight, (x.shape[1],), 1.0, x.dtype))
    if bias is not None:
        operands.append(value_of(b, bias))
    same_dtype("group normalization", *operands)
    out = b.emit("group_norm", operands, groups=static(num_groups, "group normalization"), eps=float(eps))
    return b.temp(b.rounded(out, result))


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
    return group_norm(b, input, static(x.shape[1], "instance normalization"), weight, bias, eps)


def torch_instance_norm(
    b: Importer,
    input: Any,
    weight: Any,
    bias: Any,
    running_mean: Any,
    running_var: Any,
    use_input_stats: bool,
    momentum: float,
    eps: float,
    cudnn_enabled: bool = True,
) -> Ref:
    """``torch.instance_norm``, whose arguments come in another order."""
    return instance_norm(b, input, running_mean, running_var, weight, bias, use_input_stats, momentum, eps)


TABLE: dict[str, Handler] = {
    "batch_norm": batch_norm,
    "layer_norm": layer_norm,
    "rms_norm": rms_norm,
    "group_norm": group_norm,
    "instance_norm": instance_norm,
}
