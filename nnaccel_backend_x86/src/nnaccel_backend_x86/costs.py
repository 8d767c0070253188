"""Estimated seconds of oneDNN primitives on a `Machine`.

Calibrated on two cores of an AVX2 server (AMD EPYC, Zen 3) with oneDNN 3.2, channels-last, one image: fractions of
the measured peak of 202 GFLOP/s. 3x3 convolution 0.67 to 0.86, 1x1 0.63 to 0.78, stem 7x7 of 3 channels 0.8,
depthwise 3x3 0.26, depthwise with stride 0.18, grouped convolution that oneDNN maps to GEMM 0.02 to 0.03. Fully connected
layers at one row read weights at 33 to 47 GB/s (a copy runs at 33 to 37); packed weights win from 3 to about 64 rows.
"""

from __future__ import annotations

import math

from nnaccel_core.api import Machine

Shape = tuple[int, ...]

#: Time to start a primitive: parallel region, argument setup.
START = 5e-6
#: The last-level cache is this much faster than memory.
CACHE_SPEEDUP = 4.0


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
    compute = flops / (machine.flops * efficiency)
    memory = traffic_seconds(machine, nbytes)
    # Neither hides the other completely: loads of the next tile overlap, the first and the stores do not.
    return START + max(compute, memory) + 0.25 * min(compute, memory)


def product_seconds(machine: Machine, packed: bool, batch: int, m: int, n: int, k: int, nbytes: float) -> float:
    """``batch`` products of (m, k) by (k, n); ``nbytes`` of all operands."""
    flops = 2.0 * batch * m * n * k
    if m <= 2:
        efficiency = 0.2
    elif m <= 64:
        efficiency = 0.5 if packed else 0.33
    else:
        efficiency = 0.68
    slow = 1.1 if packed and m <= 2 else 1.0
    return START + max(flops / (machine.flops * efficiency), slow * traffic_seconds(machine, nbytes))


def reorder_seconds(machine: Machine, nbytes: float) -> float:
    """A copy into another layout; ``nbytes`` read and as many written, at about 0.7 of a plain copy's speed."""
    return START + traffic_seconds(machine, 2 * nbytes) / 0.7


def _fill(n: int, width: int) -> float:
    return n / (-(-n // width) * width)
