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
        efficiency *= reduced / (reduced + 6.0)  # short sums spend their time on loads and stores of accumulators
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
    return START + max(flops / (machine.flops * BOOST * efficiency), traffic_seconds(machine, nbytes))


def reorder_seconds(machine: Machine, nbytes: float) -> float:
    """A copy into another layout; ``nbytes`` read and as many written, at about 0.7 of a plain copy's speed."""
    return START + traffic_seconds(machine, 2 * nbytes) / 0.7


def _fill(n: int, width: int) -> float:
    return n / (-(-n // width) * width)
