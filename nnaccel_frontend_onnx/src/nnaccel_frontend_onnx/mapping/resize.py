"""Resizing: a product with a small matrix for each axis, exact for every mode and every way of counting coordinates."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from nnaccel_core.ir import Value
from nnaccel_core.ops.resize import repeats
from nnaccel_frontend_onnx.errors import Unmapped
from nnaccel_frontend_onnx.items import Array
from nnaccel_frontend_onnx.mapping import Call, maps, needs_float, positive


@dataclass(frozen=True)
class Axis:
    """How one axis is resized: output over input size, and the part of the input that is read (``tf_crop_and_resize``)."""

    size: int
    out: int
    scale: float
    roi: tuple[float, float] = (0.0, 1.0)


@dataclass(frozen=True)
class Rule:
    """The attributes of Resize that do not depend on the axis."""

    mode: str
    coordinates: str
    nearest: str
    cubic: float
    exclude_outside: bool
    antialias: bool
    extrapolation: float


def source(i: int, a: Axis, rule: Rule) -> float:
    """The position in the input of output ``i`` (the operator's definition of each coordinate mode)."""
    mode = rule.coordinates
    if mode == "align_corners":
        return i * (a.size - 1) / (a.size * a.scale - 1) if a.out > 1 else 0.0
    if mode == "asymmetric":
        return i / a.scale
    if mode == "tf_half_pixel_for_nn":
        return (i + 0.5) / a.scale
    if mode == "pytorch_half_pixel" and a.out <= 1:
        return -0.5
    if mode == "half_pixel_symmetric":
        center = a.size / 2 * (1 - a.out / (a.scale * a.size))
        return center + (i + 0.5) / a.scale - 0.5
    if mode == "tf_crop_and_resize":
        low, high = a.roi
        if a.out > 1:
            return low * (a.size - 1) + i * (high - low) * (a.size - 1) / (a.size * a.scale - 1)
        return 0.5 * (low + high) * (a.size - 1)
    if mode in ("half_pixel", "pytorch_half_pixel"):
        return (i + 0.5) / a.scale - 0.5
    raise Unmapped(f"coordinate_transformation_mode {mode!r}")


def _nearest(at: float, rule: Rule) -> int:
    if rule.nearest == "floor":
        return math.floor(at)
    if rule.nearest == "ceil":
        return math.ceil(at)
    if rule.nearest == "round_prefer_ceil":
        return math.floor(at + 0.5)
    return math.ceil(at - 0.5)  # round_prefer_floor


def _kernel(t: float, rule: Rule) -> float:
    """Weight at distance ``t``: a triangle, or Keys' cubic."""
    t = abs(t)
    if rule.mode == "linear":
        return max(0.0, 1 - t)
    a = rule.cubic
    if t <= 1:
        return ((a + 2) * t - (a + 3)) * t * t + 1
    return ((a * t - 5 * a) * t + 8 * a) * t - 4 * a if t < 2 else 0.0


def matrix(a: Axis, rule: Rule) -> Array:
    """The (out, size) matrix that resizes one axis."""
    m = np.zeros((a.out, a.size))
    stretch = max(1.0, 1 / a.scale) if rule.antialias else 1.0
    reach = math.ceil((1 if rule.mode == "linear" else 2) * stretch)
    for i in range(a.out):
        at = source(i, a, rule)
        if rule.mode == "nearest":
            m[i, min(max(_nearest(at, rule), 0), a.size - 1)] = 1
            continue
        low = math.floor(at)
        taps = [(k, _kernel((at - k) / stretch, rule)) for k in range(low - reach, low + reach + 2)]
        if rule.exclude_outside:
            taps = [(k, w) for k, w in taps if 0 <= k < a.size]
        total = sum(w for _, w in taps)
        for k, w in taps:
            m[i, min(max(k, 0), a.size - 1)] += w / total if rule.exclude_outside or rule.antialias else w
    return m


def _repeated(n: Call, x: Value, factors: dict[int, int]) -> Value:
    """``x`` with each element repeated along the axes of ``factors``, that often."""
    if not factors:
        return x
    axes = range(x.type.rank)
    apart = [d for k in axes for d in ((x.shape[k], 1) if k in factors else (x.shape[k],))]
    wide = [d for k in axes for d in ((x.shape[k], factors[k]) if k in factors else (x.shape[k],))]
    out = n.emit("expand", n.reshape(x, apart), shape=tuple(wide))
    return n.reshape(out, [x.shape[k] * factors.get(k, 1) for k in axes])


def apply(n: Call, x: Value, axes: dict[int, Axis], rule: Rule) -> Value:
    """``x`` resized along ``axes``."""
    last = x.type.rank - 1
    outside: Value | None = None
    factors: dict[int, int] = {}
    for axis, a in sorted(axes.items()):
        m = matrix(a, rule)
        if rule.coordinates == "tf_crop_and_resize":
            beyond = np.array([not 0 <= source(i, a, rule) <= a.size - 1 for i in range(a.out)])
            if beyond.any():
                flag = n.c.constant(beyond.reshape([a.out if k == axis else 1 for k in range(last + 1)]), "bool")
                outside = flag if outside is None else n.emit("bitwise_or", outside, flag)
        if repeats(m):
            factors[axis] = repeats(m)
            continue
        perm = [k for k in range(last + 1) if k != axis] + [axis]
        moved = n.transpose(x, perm)
        moved = n.emit("matmul", moved, n.c.constant(m.astype(x.dtype), x.dtype), transpose_b=True)
        x = n.transpose(moved, [perm.index(k) for k in range(last + 1)])
    x = _repeated(n, x, {k: f for k, f in factors.items() if f > 1})
    return x if outside is None else n.emit("where", outside, n.number(rule.extrapolation, x), x)


@maps("Resize")
def resize(n: Call) -> Value:
    x = needs_float(n.x())
    rank = x.type.rank
    if n.version < 11:
        return _upsample(n, x, n.known(1, "the scales"))
    roi, scales, sizes = (n.known(k, what) for k, what in ((1, "the region"), (2, "the scales"), (3, "the sizes")))
    chosen = [positive(int(k), rank) for k in n.attr("axes") or range(rank)]
    rule = Rule(
        n.attr("mode", "nearest"), n.attr("coordinate_transformation_mode", "half_pixel"),
        n.attr("nearest_mode", "round_prefer_floor"), float(n.attr("cubic_coeff_a", -0.75)), bool(n.attr("exclude_outside", 0)),
        bool(n.attr("antialias", 0)) and n.attr("mode", "nearest") != "nearest", float(n.attr("extrapolation_value", 0.0)),
    )  # fmt: skip
    extents = [n.c.static(x.shape[k]) for k in chosen]
    factors = [float(s) for s in scales] if scales is not None and scales.size else None
    if factors is None:
        if sizes is None:
            raise Unmapped("neither scales nor sizes are given")
        factors, outs = _sized(n, [int(s) for s in sizes], extents)
    else:
        outs = [math.floor(e * f) for e, f in zip(extents, factors, strict=True)]
    if rule.coordinates == "tf_crop_and_resize":
        if roi is None or roi.size != 2 * len(chosen):
            raise Unmapped("the region is absent")
        rois = [(float(roi[k]), float(roi[len(chosen) + k])) for k in range(len(chosen))]
    else:
        rois = [(0.0, 1.0)] * len(chosen)
    axes = {k: Axis(e, o, f, r) for k, e, o, f, r in zip(chosen, extents, outs, factors, rois, strict=True)}
    return apply(n, x, axes, rule)


def _sized(n: Call, sizes: list[int], extents: list[int]) -> tuple[list[float], list[int]]:
    """Factors and output sizes for wanted sizes."""
    policy = n.attr("keep_aspect_ratio_policy", "stretch")
    if policy == "stretch":
        return [s / e for s, e in zip(sizes, extents, strict=True)], sizes
    ratios = [s / e for s, e in zip(sizes, extents, strict=True)]
    factor = min(ratios) if policy == "not_larger" else max(ratios)
    return [factor] * len(sizes), [math.floor(factor * e + 0.5) for e in extents]


@maps("Upsample")
def upsample(n: Call) -> Value:
    x = needs_float(n.x())
    scales = n.known(1, "the scales")
    if scales is None:
        given = n.attr("scales")
        if given is None:  # operator set 1
            given = (1.0, 1.0, n.attr("height_scale", 1.0), n.attr("width_scale", 1.0))
        scales = np.asarray(given, np.float64)
    return _upsample(n, x, scales)


def _upsample(n: Call, x: Value, scales: Array | None) -> Value:
    if scales is None or scales.size != x.type.rank:
        raise Unmapped("the scales are absent")
    mode = n.attr("mode", "nearest")
    rule = Rule("linear" if mode in ("linear", "bilinear") else mode, "asymmetric", "floor", -0.75, False, False, 0.0)
    axes = {}
    for k, f in enumerate(scales):
        if f != 1:
            extent = n.c.static(x.shape[k])
            axes[k] = Axis(extent, math.floor(extent * float(f)), float(f))
    return apply(n, x, axes, rule)
