"""Calls on images: resizing, padding modes, shuffles, transposed convolution."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from nnaccel_core.ir import Dim, Value
from nnaccel_frontend_torch.alias import Ref
from nnaccel_frontend_torch.importer import Importer
from nnaccel_frontend_torch.mapping.args import Handler, expanded, ints, same_dtype, static, tensor, value_of
from nnaccel_frontend_torch.mapping.layers import batched, unbatched
from nnaccel_frontend_torch.mapping.pointwise import power
from nnaccel_frontend_torch.mapping.pools import adaptive_avg_pool, avg_pool, max_pool
from nnaccel_frontend_torch.refusal import Unmapped

# --- resizing ---------------------------------------------------------------------------------------------------

_MODES = {
    ("nearest", 1): "nearest", ("nearest", 2): "nearest", ("nearest", 3): "nearest",
    ("nearest-exact", 1): "nearest_exact", ("nearest-exact", 2): "nearest_exact", ("nearest-exact", 3): "nearest_exact",
    ("linear", 1): "linear", ("bilinear", 2): "linear", ("trilinear", 3): "linear", ("bicubic", 2): "cubic",
}  # fmt: skip


def interpolate(
    b: Importer,
    input: Any,
    size: Any = None,
    scale_factor: Any = None,
    mode: str = "nearest",
    align_corners: Any = None,
    recompute_scale_factor: Any = None,
    antialias: bool = False,
) -> Ref:
    """``F.interpolate``."""
    x = value_of(b, input)
    spatial = x.type.rank - 2
    if antialias or not x.type.is_float or not 1 <= spatial <= 3 or (size is None) == (scale_factor is None):
        raise Unmapped(f"interpolate of {x.type} with antialias={antialias}")
    extents = [static(d, "interpolate") for d in x.shape[2:]]
    scales: tuple[float | None, ...] = (None,) * spatial
    if size is not None:
        if recompute_scale_factor:
            raise Unmapped("interpolate to a size with recompute_scale_factor")
        out = ints(size, spatial, "size")
    else:
        factors = tuple(float(f) for f in (scale_factor if isinstance(scale_factor, (tuple, list)) else [scale_factor] * spatial))
        if len(factors) != spatial:
            raise Unmapped(f"interpolate by {factors}")
        out = tuple(math.floor(n * f) for n, f in zip(extents, factors, strict=True))
        scales = scales if recompute_scale_factor else factors
    if any(n < 1 for n in (*extents, *out)):
        raise Unmapped("interpolate of or to nothing")
    if mode == "area":
        return adaptive_avg_pool(spatial)(b, input, out)  # type: ignore[no-any-return]
    kind = _MODES.get((mode, spatial))
    if kind is None:
        raise Unmapped(f"interpolate mode {mode!r} of rank {x.type.rank}")
    if kind.startswith("nearest"):
        whole = _whole_steps(b, x, extents, out, scales, kind == "nearest_exact")
        if whole is not None:
            return b.temp(whole)
    attrs: dict[str, Any] = {"size": out, "mode": kind, "align_corners": bool(align_corners)}
    if any(s is not None for s in scales):
        attrs["scales"] = scales
    return b.temp(b.emit("resize", [x], **attrs))


def _whole_steps(
    b: Importer, x: Value, extents: Sequence[int], out: Sequence[int], scales: Sequence[float | None], exact: bool
) -> Value | None:
    """Nearest neighbors as repeated or skipped pixels where every axis grows or shrinks by a whole factor."""
    for n, m, s in zip(extents, out, scales, strict=True):
        if (m % n and n % m) or (s is not None and s != m / n) or (exact and m < n and (n // m) % 2 == 0):
            return None
    if any(m < n for n, m in zip(extents, out, strict=True)):
        steps = [max(n // m, 1) for n, m in zip(extents, out, strict=True)]
        starts = tuple(s // 2 if exact else 0 for s in steps)
        x = b.emit("slice", [x], starts=(0, 0, *starts), ends=tuple(x.shape), steps=(1, 1, *steps))
    apart: list[Dim] = list(x.shape[:2])
    grown: list[Dim] = list(x.shape[:2])
    for d, m in zip(x.shape[2:], out, strict=True):
        n = static(d, "interpolate")
        apart += [n, 1]
        grown += [n, m // n]
    if apart == grown:
        return x
    x = expanded(b, b.emit("reshape", [x], shape=tuple(apart)), grown)
    return b.emit("reshape", [x], shape=(*x.shape[:2], *out))


def upsample(b: Importer, input: Any, size: Any = None, scale_factor: Any = None, mode: str = "nearest", align_corners: Any = None) -> Ref:  # fmt: skip  # noqa: E501
    """``F.upsample``, the older name."""
    return interpolate(b, input, size, scale_factor, mode, align_corners)


# --- sampling by a grid -------------------------------------------------------------------------------------------

_SAMPLING = {"bilinear": "linear", "nearest": "nearest", "bicubic": "cubic"}


def grid_sample(
    b: Importer, input: Any, grid: Any, mode: str = "bilinear", padding_mode: str = "zeros", align_corners: Any = None
) -> Ref:
    """``F.grid_sample``."""
    x, at = value_of(b, input), value_of(b, grid)
    same_dtype("grid_sample", x, at)
    if mode not in _SAMPLING:
        raise Unmapped(f"grid_sample in mode {mode!r}")
    for d in x.shape[2:]:
        static(d, "grid_sample")
    attrs = {"mode": _SAMPLING[mode], "padding": padding_mode, "align_corners": bool(align_corners)}
    return b.temp(b.emit("grid_sample", [x, at], **attrs))


def affine_grid(b: Importer, theta: Any, size: Any, align_corners: Any = None) -> Ref:
    """``F.affine_grid``: positions for `grid_sample`, one affine map for each image."""
    maps = value_of(b, theta)
    extents = [static(d, "affine_grid") for d in tuple(size)[2:]]
    spatial = len(extents)
    if spatial not in (2, 3) or not maps.type.is_float or maps.type.rank != 3 or maps.shape[1:] != (spatial, spatial + 1):
        raise Unmapped(f"affine_grid of {maps.type} to {size}")
    axes = []
    for n in extents:
        line = np.linspace(-1, 1, n) if n > 1 else np.zeros(n)
        axes.append(line if align_corners or n < 1 else line * (n - 1) / n)
    points = np.stack([*reversed(np.meshgrid(*axes, indexing="ij")), np.ones(extents)], -1).reshape(-1, spatial + 1)
    out = b.emit("matmul", [b.constant(points, maps.dtype), maps], transpose_a=False, transpose_b=True)
    return b.temp(b.emit("reshape", [out], shape=(maps.shape[0], *extents, spatial)))


# --- padding ----------------------------------------------------------------------------------------------------


def pad(b: Importer, input: Any, pad: Sequence[int], mode: str = "constant", value: float | None = None) -> Ref:
    """``F.pad`` in all modes; negative constant amounts cut off."""
    ref = tensor(b, input)
    rank = ref.type.rank
    if len(pad) % 2 or len(pad) > 2 * rank:
        raise Unmapped(f"{len(pad)} amounts of padding for rank {rank}")
    pairs = [(0, 0)] * rank
    for k in range(len(pad) // 2):
        pairs[rank - 1 - k] = (static(pad[2 * k], "padding"), static(pad[2 * k + 1], "padding"))
    x: Value = ref.read(b)
    negative = any(lo < 0 or hi < 0 for lo, hi in pairs)
    if mode != "constant":
        if negative or value is not None or len(pad) // 2 not in (rank - 1, rank - 2):
            raise Unmapped(f"{mode} padding that crops, with a value, or of {len(pad) // 2} axes of {rank}")
        if not any(lo or hi for lo, hi in pairs):
            return b.temp(x)
        return b.temp(b.emit("pad", [x], pads=tuple(pairs), mode=mode))
    if negative:
        shape = [d if pairs[a] == (0, 0) else static(d, "padding") for a, d in enumerate(x.shape)]
        ends = tuple(d + min(hi, 0) if hi < 0 else d for d, (_, hi) in zip(shape, pairs, strict=True))
        x = b.emit("slice", [x], starts=tuple(max(-lo, 0) for lo, _ in pairs), ends=ends, steps=(1,) * rank)
        pairs = [(max(lo, 0), max(hi, 0)) for lo, hi in pairs]
    if any(lo or hi for lo, hi in pairs):
        x = b.emit("pad", [x], pads=tuple(pairs), mode="constant", value=value or 0.0)
    return b.temp(x)


# --- shuffles ---------------------------------------------------------------------------------------------------


def shuffle(op: str) -> Handler:
    """pixel_shuffle / pixel_unshuffle, with any number of leading axes."""

    def run(b: Importer, input: Any, factor: Any = None, **kwargs: Any) -> Ref:
        x = value_of(b, input)
        factor = static(kwargs.get("upscale_factor", kwargs.get("downscale_factor", factor)), op)
        lead = x.shape[:-3]
        if x.type.rank < 3 or factor < 1:
            raise Unmapped(f"{op} of rank {x.type.rank} by {factor}")
        if len(lead) != 1:
            count: Dim = 1
            for d in lead:
                count = count * d
            x = b.emit("reshape", [x], shape=(count, *x.shape[-3:]))
        out = b.emit(op, [x], factor=factor)
        return b.temp(out if len(lead) == 1 else b.emit("reshape", [out], shape=(*lead, *out.shape[1:])))

    return run


def channel_shuffle(b: Importer, input: Any, groups: int) -> Ref:
    """``channel_shuffle`` (Zhang et al., 2018)."""
    x = value_of(b, input)
    channels = static(x.shape[1], "channel_shuffle")
    if x.type.rank < 3 or channels % groups:
        raise Unmapped(f"channel_shuffle of {channels} channels in {groups} groups")
    apart = b.emit("reshape", [x], shape=(x.shape[0], groups, channels // groups, *x.shape[2:]))
    moved = b.emit("transpose", [apart], perm=(0, 2, 1, *range(3, apart.type.rank)))
    return b.temp(b.emit("reshape", [moved], shape=x.shape))


# --- transposed convolution, and pools that are made of others ------------------------------------------------------


def conv_transpose(spatial: int) -> Handler:
    """conv_transpose1d / 2d / 3d."""

    def run(
        b: Importer,
        input: Any,
        weight: Any,
        bias: Any = None,
        stride: Any = 1,
        padding: Any = 0,
        output_padding: Any = 0,
        groups: int = 1,
        dilation: Any = 1,
    ) -> Ref:
        x, added = batched(b, value_of(b, input), spatial + 2)
        operands = [x, value_of(b, weight), *([] if bias is None else [value_of(b, bias)])]
        same_dtype("transposed convolution", *operands)
        out = b.emit(
            "conv_transpose",
            operands,
            stride=ints(stride, spatial, "stride"),
            padding=tuple((p, p) for p in ints(padding, spatial, "padding")),
            output_padding=ints(output_padding, spatial, "output_padding"),
            dilation=ints(dilation, spatial, "dilation"),
            groups=groups,
        )
        return unbatched(b, out, added)

    return run


def lp_pool(spatial: int) -> Handler:
    """lp_pool1d / 2d / 3d: the root of the windows' sums of powers."""

    def run(b: Importer, input: Any, norm_type: float, kernel_size: Any, stride: Any = None, ceil_mode: bool = False) -> Ref:
        kernel = ints(kernel_size, spatial, "kernel_size")
        if math.isinf(norm_type):
            sizes = b.emit("abs", [value_of(b, input)])
            if norm_type > 0:
                return max_pool(spatial)(b, b.temp(sizes), kernel, stride, ceil_mode=ceil_mode)  # type: ignore[no-any-return]
            low = max_pool(spatial)(b, b.temp(b.emit("neg", [sizes])), kernel, stride, ceil_mode=ceil_mode)
            return b.temp(b.emit("neg", [low.read(b)]))
        mean = avg_pool(spatial)(b, power(b, input, norm_type), kernel, stride, ceil_mode=ceil_mode).read(b)
        total = b.emit("mul", [mean, b.constant(float(math.prod(kernel)), mean.dtype)])
        return power(b, b.temp(total), 1.0 / norm_type)  # type: ignore[no-any-return]

    return run


def local_response_norm(b: Importer, input: Any, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0) -> Ref:
    """``F.local_response_norm``."""
    x = value_of(b, input)
    if x.type.rank < 3 or not x.type.is_float:
        raise Unmapped(f"local response normalization of {x.type}")
    return b.temp(b.emit("local_response_norm", [x], size=int(size), alpha=float(alpha), beta=float(beta), k=float(k)))


TABLE: dict[str, Handler] = {
    "interpolate": interpolate,
    "upsample": upsample,
    "grid_sample": grid_sample,
    "affine_grid": affine_grid,
    "pad": pad,
    "constant_pad_nd": lambda b, input, pad_, value=0: pad(b, input, pad_, "constant", value),
    "pixel_shuffle": shuffle("pixel_shuffle"),
    "pixel_unshuffle": shuffle("pixel_unshuffle"),
    "channel_shuffle": channel_shuffle,
    "conv_transpose1d": conv_transpose(1),
    "conv_transpose2d": conv_transpose(2),
    "conv_transpose3d": conv_transpose(3),
    "lp_pool1d": lp_pool(1),
    "lp_pool2d": lp_pool(2),
    "lp_pool3d": lp_pool(3),
    "local_response_norm": local_response_norm,
}
