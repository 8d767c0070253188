"""Convolutions with few input channels, such as a network's first layer, and gradients of their weights, by `stem.cu`.

Libraries' kernels want channels in multiples of 4 (TF32) or 8 (16 bits) and fall far behind the memory's speed where an image has
three: 7x7 on 128 images took cuDNN 0.79 ms (TF32) and 0.97 ms (bfloat16) on an H200, of which writing the result is 0.1 and 0.05.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from nnaccel_backend_cuda.kernels import written
from nnaccel_core.api import Machine
from nnaccel_core.ir.types import ITEMSIZE

if TYPE_CHECKING:
    from nnaccel_backend_cuda.kernels import Function, KernelLoader

#: Input channels at most; compute capability at least (TF32 and bfloat16 on tensor cores).
CHANNELS, OLDEST = 4, 80
THREADS = 256
KINDS = {"float32": 0, "float16": 1, "bfloat16": 2}
#: Shared memory that each of two blocks of a multiprocessor may take; accumulators of a thread.
SHARED, ACCUMULATORS = 110 << 10, 80
#: Taps that are worth unrolling.
MOST_TAPS = 128
#: Measured on an H200: part of the bandwidth; operations a second (counted with the padding) over those of plain float32.
BANDWIDTH = {"float32": 0.5, "float16": 0.36, "bfloat16": 0.36}
RATES = {"float32": 2.0, "float16": 2.9, "bfloat16": 2.9}
#: The same of a gradient in 16 bits.
RATE_NARROW = 4.0
#: What another gradient takes for each pixel, and each of its channels, in operations of plain float32.
GRADIENT_PIXEL, GRADIENT_LOAD = 3400.0, 200.0
#: Seconds that a block takes around its products, and for each number of the weights that it fetches first (one by one: AlexNet's
#: 11x11 alone 54 us for a single image, of which the weights 37); for adding up the blocks' sums of a gradient.
LATENCY, WEIGHT, SUM = 6e-6, 1.2e-9, 8e-6
#: Epilogues: an expression in v.
STEPS: Mapping[str, str] = {
    "relu": "v < 0.0f ? 0.0f : v", "sigmoid": "1.0f / (1.0f + __expf(-v))", "tanh": "tanhf(v)", "silu": "v / (1.0f + __expf(-v))",
}  # fmt: skip


@dataclass(frozen=True)
class StemSpec:
    """A convolution with at most `CHANNELS` input channels and its epilogue, or the gradient of its weights.

    Attributes:
        image: N, C, H, W; window: O, OH, OW, KH, KW.
        image_strides: elements, N, C, H, W; weights_strides: O, C, KH, KW. The result (or its gradient) is channels-last.
        math: float32 (TF32), float16 or bfloat16; image_dtype, weights_dtype (the bias' too), result_dtype: as they lie there.
        steps: names of `STEPS`, or ("clip", low, high).
        gradient: whether ``dw`` is computed from the result's gradient and the image.
    """

    image: tuple[int, int, int, int]
    window: tuple[int, int, int, int, int]
    image_strides: tuple[int, ...]
    weights_strides: tuple[int, ...]
    math: str
    image_dtype: str
    weights_dtype: str
    result_dtype: str
    padding: tuple[int, int]
    stride: tuple[int, int]
    dilation: tuple[int, int]
    bias: bool = False
    steps: tuple[tuple[Any, ...], ...] = ()
    gradient: bool = False

    def ready(self, machine: Machine, loader: KernelLoader) -> Stem:
        return Stem(self, machine, loader)

    @property
    def narrow(self) -> bool:
        """Whether a gradient is multiplied in 16 bits."""
        return self.gradient and self.math != "float32" and self.result_dtype == self.math and self.dilation[1] == 1


@dataclass(frozen=True)
class Tiling:
    """How a block works.

    Attributes:
        rows, columns: of a tile; units: output channels of a block in units of 8, of a gradient 16.
        pairs, across: of a gradient, pairs of taps of a warp (in 16 bits: of neighbors), and warps that share the taps.
        shared: bytes; blocks: of a multiprocessor at once.
    """

    rows: int
    columns: int
    units: int
    pairs: int
    across: int
    shared: int
    blocks: int


def tiling(spec: StemSpec) -> Tiling | None:
    """The tiling of ``spec`` that computes least beyond the image's edges; None where none fits."""
    o, oh, ow, kh, kw = spec.window
    taps = kh * kw
    if taps > MOST_TAPS or o % (16 if spec.gradient else 8):
        return None
    shapes = ((8, 16), (4, 32)) if spec.gradient else ((16, 16), (8, 32))
    found = []
    for rows, columns in shapes:
        waste = math.ceil(oh / rows) * rows * math.ceil(ow / columns) * columns / (oh * ow)
        high = (rows - 1) * spec.stride[0] + (kh - 1) * spec.dilation[0] + 1
        wide = (columns - 1) * spec.stride[1] + (kw - 1) * spec.dilation[1] + 1
        pixels = high * math.ceil(wide / spec.stride[1]) * spec.stride[1] * (16 if spec.gradient or spec.math == "float32" else 8)
        if not spec.gradient:
            slices = math.ceil(o / 64)
            units = math.ceil(o / 8 / slices)
            steps = math.ceil(taps / (2 if spec.math == "float32" else 4))
            shared = steps * math.ceil(units / 2) * 512 + pixels
            found.append((waste, Tiling(rows, columns, units, 0, 0, shared, 2 if shared <= SHARED else 1)))
            continue
        line, of_pixels = (2, _narrow_pixels(spec, high, wide)) if spec.narrow else (4, pixels)
        for units in (4, 2, 1):
            for across in (1, 2, 4, 8):
                pairs = math.ceil((kh * math.ceil(kw / 2) if spec.narrow else math.ceil(taps / 2)) / across)
                if units * 16 > o or pairs * units * 4 > ACCUMULATORS:
                    continue
                tile = rows * columns * (units * 16 + 8) * line + of_pixels
                shared = max(tile, units * 16 * across * pairs * 8 * 4)
                # A fragment of the gradient serves all pairs of a warp, one of the image all units.
                work = waste * across * pairs * (1 + 1.0 / units + 0.5 / pairs)
                found.append((work, Tiling(rows, columns, units, pairs, across, shared, 2 if shared <= SHARED else 1)))
    found = [f for f in found if f[1].shared <= 2 * SHARED]
    return min(found, key=lambda f: f[0])[1] if found else None


def _narrow_pixels(spec: StemSpec, high: int, wide: int) -> int:
    """Bytes of ``high`` x ``wide`` pixels in 16 bits, with the second copy that odd strides need."""
    line = (wide + 2) // 2 * 2
    return (high * line if spec.stride[1] % 2 == 0 else -(-high * line // 16) * 16 + 8 + high * line) * 8


def _work(spec: StemSpec, found: Tiling) -> tuple[int, int]:
    """Tiles in all, and slices of the output channels, each of which takes all tiles."""
    o, oh, ow, _, _ = spec.window
    tiles = spec.image[0] * math.ceil(oh / found.rows) * math.ceil(ow / found.columns)
    return tiles, math.ceil(o / (found.units * (16 if spec.gradient else 8)))


def usable(spec: StemSpec, machine: Machine) -> bool:
    """Whether there is a kernel for ``spec`` on ``machine``."""
    return int(machine.isa.removeprefix("sm_")) >= OLDEST and spec.image[1] <= CHANNELS and tiling(spec) is not None


def seconds(spec: StemSpec, machine: Machine) -> float:
    """Estimated time of one run."""
    found = tiling(spec)
    assert found is not None
    n, c, h, w = spec.image
    o, oh, ow, kh, kw = spec.window
    tiles, slices = _work(spec, found)
    nbytes = n * (c * h * w * ITEMSIZE[spec.image_dtype] + oh * ow * o * ITEMSIZE[spec.result_dtype])
    taps = found.across * found.pairs * 2 if spec.gradient else kh * kw
    flops = 2.0 * tiles * found.rows * found.columns * o * taps * 4
    full = min(1.0, tiles * slices / (machine.cores * found.blocks))  # few tiles leave multiprocessors idle
    rate = machine.flops * full
    if spec.narrow:
        return max(nbytes / (machine.bandwidth * BANDWIDTH[spec.result_dtype]), flops / (rate * RATE_NARROW)) + LATENCY + SUM
    if spec.gradient:  # how far loads get in the way of products does not depend on the type
        pixels = tiles * found.rows * found.columns
        return pixels * (GRADIENT_PIXEL + o * GRADIENT_LOAD) / rate + flops / (rate * RATES["float32"]) + LATENCY + SUM
    before = LATENCY + WEIGHT * kh * kw * 4 * found.units * 8
    return max(nbytes / (machine.bandwidth * BANDWIDTH[spec.result_dtype]), flops / (rate * RATES[spec.math])) + before


def source(spec: StemSpec, found: Tiling) -> str:
    """The kernel's text."""
    kh, kw = spec.window[3:]
    constants: dict[str, int] = {
        "C": spec.image[1], "KH": kh, "KW": kw, "SH": spec.stride[0], "SW": spec.stride[1], "DH": spec.dilation[0],
        "DW": spec.dilation[1], "PH": spec.padding[0], "PW": spec.padding[1], "TH": found.rows, "TW": found.columns,
        "X_KIND": KINDS[spec.image_dtype], "W_KIND": KINDS[spec.weights_dtype], "Y_KIND": KINDS[spec.result_dtype],
        "BLOCKS": found.blocks,
    }  # fmt: skip
    if spec.gradient:
        constants |= {"MT": found.units, "NW": found.pairs, "ACROSS_TAPS": found.across}
        constants["MATH"] = KINDS[spec.math] if spec.narrow else 0
    else:
        constants |= {"FORWARD": 1, "NT": found.units, "MATH": KINDS[spec.math], "BIAS": int(spec.bias)}
    body = "".join(f"  v = {_step(step)};\n" for step in spec.steps)
    return written("stem.cu", constants, ("__device__ inline float finish(float v) {", body + "  return v;", "}"))


def _step(step: Sequence[Any]) -> str:
    if step[0] == "clip":
        low, high = (f"{float(x).hex()}f" for x in step[1:])
        return f"v < {low} ? {low} : v > {high} ? {high} : v"  # NaN stays
    return STEPS[step[0]]


class Stem:
    """A convolution, or gradient, ready to run.

    Attributes:
        workspace: bytes that a run takes.
    """

    def __init__(self, spec: StemSpec, machine: Machine, loader: KernelLoader) -> None:
        """
        Raises:
            ToolchainError: NVRTC is missing.
        """
        found = tiling(spec)
        assert found is not None, "only usable specifications are offered"
        n, _, h, w = spec.image
        o, oh, ow, kh, kw = spec.window
        tiles, slices = _work(spec, found)
        at_once = min(tiles, max(1, machine.cores * found.blocks // slices))
        text = source(spec, found)

        def numbers(*given: int) -> list[np.int64]:
            return [np.int64(x) for x in given]

        # What no window covers is not looked at: NaN there must not reach sums of products with zeros beyond the result's edges.
        h, w = (
            min(n, (out - 1) * s + (k - 1) * d + 1 - p)
            for n, out, k, s, d, p in zip((h, w), (oh, ow), (kh, kw), spec.stride, spec.dilation, spec.padding, strict=True)
        )
        image = (n, h, w, oh, ow, *spec.image_strides, o, slices)
        main: Function = loader.text("nn_stem", text)
        if found.shared > 48 << 10:
            main.allow_shared(found.shared)
        self.workspace = 0
        if not spec.gradient:
            dims = numbers(*image, *spec.weights_strides)
            self._forward = main.bound(at_once * slices, THREADS, found.shared, 4, dims)
            return
        self._forward = None
        self.workspace = at_once * o * kh * kw * 4 * 4
        self._part = main.bound(at_once * slices, THREADS, found.shared, 3, numbers(*image))
        add: Function = loader.text("nn_stem_sum", text)
        count = math.ceil(o * kh * kw * 4 / 32)
        self._sum = add.bound(count, THREADS, 0, 2, numbers(o, at_once, *spec.weights_strides))

    def run(self, addresses: Sequence[int], workspace: int, stream: int) -> None:
        """Enqueue. ``addresses``: image, weights, bias where there is one, result; of a gradient: result's gradient, image,
        weights' gradient."""
        if self._forward is not None:
            image, weights, *bias, y = addresses
            self._forward((image, weights, bias[0] if bias else 0, y), stream)
            return
        dy, x, dw = addresses
        self._part((dy, x, workspace), stream)
        self._sum((workspace, dw), stream)


__all__ = ["CHANNELS", "Stem", "StemSpec", "seconds", "tiling", "usable"]
