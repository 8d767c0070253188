"""Estimated seconds of oneDNN primitives on a `Machine`.

Calibrated on two cores of an AVX2 server (AMD EPYC, Zen 3) with oneDNN 3.2, channels-last, one image: fractions of
the measured peak of 202 GFLOP/s. 3x3 convolution 0.67 to 0.86, 1x1 0.63 to 0.78, stem 7x7 of 3 channels 0.8,
depthwise 3x3 0.26, depthwise with stride 0.18, grouped convolution that oneDNN maps to GEMM 0.02 to 0.03. Fully connected
layers at one row read weights at 33 to 47 GB/s (a copy runs at 33 to 37), packed or not; from two rows on packed weights
win, until the rows outgrow the second-level cache (25088 -> 4096 at 8 rows: 24 GFLOP/s a core, plain 48).
Microseconds at 1, 2, 4, 8, 16, 32 rows, 1280 -> 1000: plain 63, 168, 194, 256, 341, 688; packed 58, 57, 75, 131, 259, 492.
"""

from __future__ import annotations

import math

from nnaccel_core.api import Machine
from nnaccel_core.select.reading import reading_seconds

Shape = tuple[int, ...]

#: The measured peak over `Machine.flops` (202 over 157 GFLOP/s): the nominal clock is not the one that cores run at. Without it
#: whole networks' convolutions were estimated 1.3 to 1.45 times as long as they took (mobilenet_v2, resnet50; 1 and 8 images).
BOOST = 1.29
#: Time to start a primitive: parallel region, argument setup.
START = 5e-6
#: The last-level cache is this much faster than memory.
CACHE_SPEEDUP = 4.0
#: ``(rows up to, fraction of peak)`` of products with weights where they lie, and packed.
PLAIN = ((1, 0.25), (2, 0.15), (4, 0.26), (8, 0.38), (16, 0.5), (64, 0.57), (math.inf, 0.68))
PACKED = ((1, 0.25), (2, 0.44), (4, 0.55), (8, 0.6), (math.inf, 0.7))
#: With AVX-512: seconds of one core to rearrange a weight that lies row-major, by rows of input. Milliseconds at 2, 4, 8, 16, 32
#: and 64 rows: 9216 to 4096 5.3, 10.2, 16.6, 20.6, 23.6, 30.5 (our products 5.4, 7.5, 6.7, 7.3, 12.7, 22.5), 4096 to 1000 0.7,
#: 0.7, 1.2, 2.6, 3.0, 3.7.
REARRANGED = ((2, 0.1e-9), (4, 0.5e-9), (8, 0.8e-9), (math.inf, 1e-9))

#: Terms' worth of work that a sum costs in oneDNN's convolutions of at most 4 channels.
FIRST_LAYER_START = 27.0
#: Our own products: fraction of peak; channels' worth of work that the start and end of a tile cost; what a window, and a last
#: panel of at most 8 columns, leave of it; channels' worth of a tap. On the scale of oneDNN's figures above, which are lower than
#: what both reach on one undisturbed core: 92 to 98 of 101 GFLOP/s from 256 channels on. Ours has 0.86 of oneDNN's speed at 32
#: channels, 0.92 to 0.96 at 64, 1.0 at 256, 1.05 at 2048, 1.2 with stride 2 (``benchmarks/products.py``).
OWN, OWN_START, OWN_WINDOW, OWN_NARROW, OWN_TAP = 0.69, 9.3, 1.01, 0.9, 1.2
#: Time to start one of our own kernels: on all cores, and on the calling one alone.
OWN_LAUNCH, SERIAL_LAUNCH = 3e-6, 2e-7
#: What takes one core less than this is not worth waking others for.
WORTH_WAKING = 3e-6
#: Seconds of one core to bring one element through a prologue.
PROLOGUE_ELEMENT = 0.12e-9
#: Dot products of a few rows: fraction of peak.
ROWS_EFFICIENCY = 0.4
#: A concat all of whose parts are in place.
IN_PLACE = 1e-7


def traffic_seconds(machine: Machine, nbytes: float) -> float:
    """Reading and writing ``nbytes``: at memory speed, faster for what the last-level cache still holds."""
    cached = min(nbytes, machine.l3 / 2)
    return (nbytes - cached) / machine.bandwidth + cached / (machine.bandwidth * CACHE_SPEEDUP)


def conv_seconds(machine: Machine, impl: str, x: Shape, w: Shape, out: Shape, groups: int, extra: int) -> float:
    """A convolution with its epilogue, from logical shapes; ``extra`` bytes of residuals."""
    flops = 2.0 * math.prod(out) * math.prod(w[1:])
    depthwise = w[1] == 1 and groups > 1
    if depthwise:
        efficiency = 0.26 if out[2:] == x[2:] else 0.18
        # Vectors run along the channels, whole registers at a time.
        efficiency *= _fill(out[1], machine.simd_bytes // 4)
    elif "gemm" in impl:
        efficiency = 0.3 if groups == 1 else 0.025
    else:
        window = math.prod(w[2:])
        efficiency = (0.68 if window == 1 else 0.74) * _fill(w[0] // groups, 8)
        reduced = w[1] * window
        # Short sums spend their time on loads and stores of accumulators; first layers write each block of channels by itself.
        efficiency *= reduced / (reduced + (FIRST_LAYER_START if w[1] <= 4 else 6.0))
    nbytes = 4 * (math.prod(x) + math.prod(out) + math.prod(w)) + extra
    compute = flops / (machine.flops * BOOST * efficiency)
    memory = traffic_seconds(machine, nbytes)
    # Neither hides the other completely: loads of the next tile overlap, the first and the stores do not.
    return START + max(compute, memory) + 0.25 * min(compute, memory)


def product_seconds(machine: Machine, packed: bool, batch: int, m: int, n: int, k: int, nbytes: float) -> float:
    """``batch`` products of (m, k) by (k, n); ``nbytes`` of all operands."""
    flops = 2.0 * batch * m * n * k
    efficiency = next(e for rows, e in (PACKED if packed else PLAIN) if m <= rows)
    if packed:
        # oneDNN walks all of k for each block of columns: the rows must stay in the second-level cache meanwhile.
        rows_bytes = 4 * m * k
        if rows_bytes >= machine.l2 // 2:
            efficiency = min(efficiency, 0.47 if rows_bytes <= machine.l2 else 0.25)
    right = 4.0 * n * k if batch == 1 else 0.0
    memory = reading_seconds(machine, right, right) + traffic_seconds(machine, max(0.0, nbytes - right))
    if not packed and batch == 1 and m > 1 and machine.isa == "avx512":
        memory += n * k * next(s for rows, s in REARRANGED if m <= rows) / machine.cores
    return START + max(flops / (machine.flops * BOOST * efficiency), memory)


#: oneDNN's gradients of convolutions, fraction of peak (batch 16, channels-last; ``benchmarks/gradients.py``): of the input, and
#: where that has few channels; of the weights; of depthwise convolutions.
DATA_GRADIENT, DATA_GRADIENT_NARROW = 0.66, 0.18
WEIGHTS_GRADIENT, WEIGHTS_GRADIENT_1X1 = 0.32, 0.5
DEPTHWISE_DATA_GRADIENT, DEPTHWISE_WEIGHTS_GRADIENT = 0.12, 0.09
#: That of the weights where images have fewer than 16 channels, for large windows, and elements' worth of work that one costs.
WEIGHTS_GRADIENT_NARROW, NARROW_START = 0.4, 27.5


def gradient_seconds(machine: Machine, op: str, x: Shape, w: Shape, out: Shape, groups: int) -> float:
    """oneDNN's gradient of a convolution (``op``: ``conv_backward_data`` or ``_weights``); shapes are the convolution's."""
    flops = 2.0 * math.prod(out) * math.prod(w[1:])
    data = op == "conv_backward_data"
    if w[1] == 1 and groups > 1:
        efficiency = DEPTHWISE_DATA_GRADIENT if data else DEPTHWISE_WEIGHTS_GRADIENT
        efficiency *= _fill(out[1], machine.simd_bytes // 4)
    elif data:
        efficiency = DATA_GRADIENT * _fill(w[1], 8)
        if w[1] < 8:
            efficiency = DATA_GRADIENT_NARROW
    else:
        efficiency = WEIGHTS_GRADIENT_1X1 if math.prod(w[2:]) == 1 else WEIGHTS_GRADIENT
        if w[1] < 16 and groups == 1 and math.prod(w[2:]) > 1:
            efficiency = WEIGHTS_GRADIENT_NARROW * math.prod(w[1:]) / (math.prod(w[1:]) + NARROW_START)
        efficiency *= _fill(w[0] // groups, 8)
    compute = flops / (machine.flops * BOOST * efficiency)
    memory = traffic_seconds(machine, 4.0 * (math.prod(x) + math.prod(out) + math.prod(w)))
    return START + max(compute, memory) + 0.25 * min(compute, memory)


def reorder_seconds(machine: Machine, nbytes: float) -> float:
    """A copy into another layout; ``nbytes`` read and as many written, at about 0.7 of a plain copy's speed."""
    return START + traffic_seconds(machine, 2 * nbytes) / 0.7


def _fill(n: int, width: int) -> float:
    return n / (-(-n // width) * width)


def own_product_seconds(
    machine: Machine,
    *,
    pixels: int,
    columns: int,
    channels: int,
    taps: int,
    tasks: int,
    read: int,
    written: int,
    residual: int,
    prepared: int,
) -> float:
    """Our own product or convolution (``native/product.cpp``): ``pixels`` rows of ``taps * channels``, by ``columns``.

    ``read``, ``written``, ``residual``: bytes of images, without what lies in the second-level cache; ``prepared``: elements that
    pass through the prologue, repetitions counted.
    """
    width = machine.simd_bytes // 4
    padded = -(-columns // width) * width
    flops = 2.0 * pixels * padded * channels * taps
    reduced = channels * taps
    efficiency = OWN * reduced / (reduced + OWN_START)
    if taps > 1:
        efficiency *= OWN_WINDOW * channels / (channels + OWN_TAP)
    if 0 < columns % 16 <= 8 and width < 16:
        efficiency *= OWN_NARROW
    # Cores without a task in the last round wait.
    rounds = -(-tasks // machine.cores)
    efficiency *= tasks / (rounds * machine.cores) if tasks < 4 * machine.cores else 1.0
    compute = flops / (machine.flops * BOOST * efficiency)
    compute += prepared * PROLOGUE_ELEMENT / machine.cores
    memory = traffic_seconds(machine, read + written + residual + 4 * taps * channels * columns)
    memory *= alone(machine, tasks)
    return (OWN_LAUNCH if tasks > 1 else SERIAL_LAUNCH) + max(compute, memory) + 0.25 * min(compute, memory)


def alone(machine: Machine, tasks: int) -> float:
    """How much longer traffic takes for ``tasks`` of one step: one core alone gets about half of the bandwidth."""
    return min(machine.cores, 2) / min(tasks, machine.cores, 2)


def is_small_product(machine: Machine, flops: float, weights: float) -> bool:
    """Whether one core is done with a product before others would have begun; ``weights``: their bytes, which it reads alone."""
    reading = traffic_seconds(machine, weights) * alone(machine, 1)
    return max(flops / (machine.flops / machine.cores * OWN), reading) < WORTH_WAKING


def own_rows(machine: Machine, m: int, n: int, k: int) -> tuple[int, float]:
    """Dot products of ``m`` rows with ``n`` rows of weights that come from memory once: tasks, and seconds."""
    flops = 2.0 * m * n * k
    compute = flops / (machine.flops * BOOST * ROWS_EFFICIENCY)
    memory = reading_seconds(machine, 4.0 * n * k, 4.0 * n * k) + traffic_seconds(machine, 4.0 * m * (n + k))
    together = max(compute, memory)
    if together * machine.cores < WORTH_WAKING:
        return 1, SERIAL_LAUNCH + together * machine.cores
    return min(n, 8 * machine.cores), OWN_LAUNCH + together


def lstm_seconds(machine: Machine, steps: int, batch: int, hidden: int, blocks: int) -> float:
    """An LSTM's steps, one after another: each reads all recurrent weights, from the second-level cache where they fit."""
    nbytes, samples = 16.0 * hidden * hidden, -(-batch // blocks)
    bandwidth = machine.bandwidth / machine.cores * (CACHE_SPEEDUP if nbytes <= machine.l2 else 1.0)
    compute = 8.0 * samples * hidden * hidden * machine.cores / (machine.flops * ROWS_EFFICIENCY)
    return OWN_LAUNCH + steps * max(compute, nbytes / bandwidth)


def concat_seconds(machine: Machine, nbytes: float) -> float:
    """A copy of ``nbytes`` into a slice of a wider tensor."""
    return OWN_LAUNCH + traffic_seconds(machine, 2 * nbytes)


#: Cycles of one core that a vector of channels of one element of a window takes in the gradient of max pooling.
POOL_TAP = 4.0


def pool_gradient_seconds(machine: Machine, taps: float, nbytes: float, tasks: int) -> float:
    """The gradient of max pooling: ``taps`` elements of windows; ``nbytes`` of all operands and the result."""
    width = machine.simd_bytes // 4
    cycle = 4 * width / (machine.flops / machine.cores * BOOST)
    compute = taps / width * POOL_TAP * cycle / min(machine.cores, tasks)
    return OWN_LAUNCH + max(compute, traffic_seconds(machine, nbytes))


#: Winograd, by pixels of a tile each way: cycles of one core that a vector of channels of one tile takes through the transforms
#: of input and of output (with residual and ReLU), and a vector of weights through theirs. 1.28 times the figures of operands in
#: the caches of an undisturbed core (160 and 64, 190 and 56, 78 and 42): on the scale of oneDNN's figures above.
WINOGRAD_INPUT = {4: 205.0, 2: 82.0}
WINOGRAD_OUTPUT = {4: 243.0, 2: 72.0}
WINOGRAD_WEIGHTS = {4: 100.0, 2: 54.0}
#: Fraction of peak of its products for long sums (0.9 on an undisturbed core), and channels' worth of work that a tile's start
#: and end cost. Tiles of few rows wait for their sums.
WINOGRAD, WINOGRAD_START = 0.7, 6.0
SHORT_TILES = {1: 0.27, 2: 0.52, 3: 0.75}
#: With AVX-512: all of it takes so much longer than by the figures above, and tiles of few rows wait for weights as well (512 to
#: 512 channels at 7x7, four tiles: 908 us with warm weights, estimated 629 without these).
WINOGRAD_WIDE, SHORT_WIDE_TILES = 1.2, {1: 0.27, 2: 0.37, 3: 0.38, 4: 0.55}


def winograd_seconds(
    machine: Machine,
    *,
    m: int,
    tiles: int,
    inner: int,
    outer: int,
    tasks: int,
    channels: int,
    out_channels: int,
    read: int,
    written: int,
    scratch: int,
) -> float:
    """Our own Winograd convolution: ``tasks`` of ``tiles`` by ``outer`` channels, ``inner`` input channels at a time.

    ``read`` and ``written``: bytes of the images; ``scratch``: bytes that a task works on.
    """
    width = machine.simd_bytes // 4
    most = 12 if width == 16 else 6
    cycle = 4 * width * machine.cores / (machine.flops * BOOST)
    columns = -(-min(outer, out_channels) // 16) * 16
    vectors, out_vectors = -(-channels // width), columns // width
    rows = -(-tiles // -(-tiles // most))
    efficiency = WINOGRAD * inner / (inner + WINOGRAD_START)
    efficiency *= (SHORT_WIDE_TILES if width == 16 else SHORT_TILES).get(rows, 1.0)
    # What does not fit the second-level cache comes from the third.
    efficiency /= 1.0 + 0.03 * max(0.0, scratch / machine.l2 - 1.0)
    task = (m + 2) ** 2 * tiles * channels * columns / (2 * width * efficiency)
    task += tiles * (vectors * WINOGRAD_INPUT[m] + out_vectors * WINOGRAD_OUTPUT[m])
    task += channels * out_vectors * WINOGRAD_WEIGHTS[m]
    # Cores without a task in the last round wait.
    rounds = -(-tasks // machine.cores) if tasks < 4 * machine.cores else tasks / machine.cores
    compute = rounds * task * cycle * (WINOGRAD_WIDE if width == 16 else 1.0)
    memory = traffic_seconds(machine, read + written + 4 * 9 * channels * out_channels)
    return OWN_LAUNCH + max(compute, memory) + 0.25 * min(compute, memory)


#: Our own gradient of weights: fraction of peak of long runs of pixels; pixels' worth of work that the start of a run, and of a
#: tile, cost; cycles of one core to pack one element of g, to gather a panel of one pixel of x (both come from memory mostly),
#: and to store one element of the result.
OWN_GRADIENT, RUN_START, TILE_START = 0.8, 1.0, 8.0
GRADIENT_ELEMENT, GRADIENT_PANEL, GRADIENT_RESULT = 3.0, 40.0, 1.0


def own_gradient_seconds(
    machine: Machine,
    *,
    pixels: int,
    run: int,
    band: int,
    gathered: float,
    taps: int,
    channels: int,
    out_channels: int,
    outer: int,
    inner: int,
    tasks: int,
    scratch: int,
) -> float:
    """Our own gradient of weights: ``tasks`` of ``outer`` by ``inner`` channels over ``pixels``, ``band`` of them at a time.

    ``run``: neighboring pixels of a row; ``gathered``: input pixels for each of the output; ``scratch``: bytes that a task works
    on.
    """
    width = machine.simd_bytes // 4
    cycle = 4 * width * machine.cores / (machine.flops * BOOST)
    rows = 12 if width == 16 else 6
    outers, inners = min(outer, out_channels), min(inner, -(-channels // 16) * 16)
    efficiency = OWN_GRADIENT * run / (run + RUN_START) * band / (band + TILE_START)
    efficiency *= outers / (-(-outers // rows) * rows)
    # What does not fit the second-level cache comes from the third.
    efficiency /= 1.0 + 0.03 * max(0.0, scratch / machine.l2 - 1.0)
    task = pixels * taps * outers * inners / (2 * width * efficiency)
    task += pixels * (outers * GRADIENT_ELEMENT + gathered * inners / 16 * GRADIENT_PANEL)
    task += outers * inners * taps * GRADIENT_RESULT
    # Cores without a task in the last round wait.
    rounds = -(-tasks // machine.cores) if tasks < 4 * machine.cores else tasks / machine.cores
    compute = rounds * task * cycle
    memory = traffic_seconds(machine, 4.0 * (pixels * (out_channels + gathered * channels) + taps * channels * out_channels))
    return OWN_LAUNCH + max(compute, memory) + 0.25 * min(compute, memory)


#: The same by Winograd's transposed transforms: fraction of peak of its products, and tiles' worth of work that the start and end
#: of a tile of registers cost; cycles of one core that a vector of channels of one tile of g, of one tile of x, and of the result
#: take through their transforms.
WINOGRAD_SUMS, WINOGRAD_SUMS_START = 0.6, 4.0
WINOGRAD_G, WINOGRAD_X, WINOGRAD_RESULT = 260.0, 270.0, 300.0


def winograd_gradient_seconds(
    machine: Machine,
    *,
    tiles: int,
    block: int,
    pixels: int,
    channels: int,
    out_channels: int,
    outer: int,
    inner: int,
    tasks: int,
    scratch: int,
) -> float:
    """Our own gradient of 3x3 weights: ``tasks`` of ``outer`` by ``inner`` channels over ``tiles``, ``block`` of them at a time.

    ``pixels``: of g; ``scratch``: bytes that a task works on.
    """
    width = machine.simd_bytes // 4
    cycle = 4 * width * machine.cores / (machine.flops * BOOST)
    rows = 12 if width == 16 else 6
    outers, inners = min(outer, out_channels), min(inner, -(-channels // 16) * 16)
    efficiency = WINOGRAD_SUMS * block / (block + WINOGRAD_SUMS_START) * outers / (-(-outers // rows) * rows)
    # What does not fit the second-level cache comes from the third.
    efficiency /= 1.0 + 0.03 * max(0.0, scratch / machine.l2 - 1.0)
    task = 36 * tiles * outers * inners / (2 * width * efficiency)
    task += tiles * (-(-outers // width) * WINOGRAD_G + inners // width * WINOGRAD_X)
    task += outers * inners / width * WINOGRAD_RESULT
    # Cores without a task in the last round wait.
    rounds = -(-tasks // machine.cores) if tasks < 4 * machine.cores else tasks / machine.cores
    compute = rounds * task * cycle
    memory = traffic_seconds(machine, 4.0 * (pixels * (out_channels + channels) + 9 * channels * out_channels))
    return OWN_LAUNCH + max(compute, memory) + 0.25 * min(compute, memory)
