"""Tile sizes, threads and cost of a group on a GPU, where a thread block computes a tile.

The time is the larger of traffic over bandwidth and arithmetic over what the multiprocessors do, divided by the part of them
that this many threads keep busy, plus the launch. Bandwidth needs about a thousand threads on each multiprocessor at work.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from nnaccel_core.dfp.cost import PRODUCT_EFFICIENCY, Model, Plan, _tasks

if TYPE_CHECKING:
    from nnaccel_core.api import Machine

#: Seconds between the starts of two kernels of a CUDA graph, with the first loads' latency.
LAUNCH = 2.5e-6
#: Seconds to start a block, its loads' latency included, of which `RESIDENT` on a multiprocessor overlap.
TASK, RESIDENT = 1.5e-6, 8
#: Threads per multiprocessor that reach full bandwidth with one or two 16-byte accesses each.
BUSY = 1024
#: Threads of a block: at least a warp; blocks larger than the second number wait for each other too long.
WARP, MOST = 32, 256
#: Bytes that one thread moves in one iteration: a load and a store of 16 bytes.
ITERATION = 32
#: Times faster than memory: the level-2 cache, which holds what other blocks read.
L2_SPEED = 2.0
#: Part of the peak that generated loops reach: of stencils and the like, and of products, whose operands nobody blocks for the
#: registers (seen on an H100: a 1x1 convolution 16 -> 64 at 55x55, 128 images, 14 ms, 0.0009 of the peak).
EFFICIENCY, PRODUCTS = 0.3, 0.001
#: Outputs a thread computes at a time where neighbors share what they load, if there are threads enough.
BLOCK = 4
#: Shared memory beyond this keeps other blocks from a multiprocessor.
SHARED = 48 << 10


def tile_candidates(extents: Sequence[int], steps: Sequence[int]) -> list[tuple[int, ...]]:
    """Tile sizes from the whole output down to single rows: every axis halved, outermost first, then the contiguous one."""
    now = [max(1, e) for e in extents]
    found = [tuple(now)]
    for k, step in enumerate(steps):
        while now[k] > step:
            half = -(-now[k] // 2)
            now[k] = max(step, -(-half // step) * step)
            found.append(tuple(now))
            if half == now[k] == 1:
                break
    return found


def plan(m: Model, dims: Sequence[int], machine: Machine) -> Plan:
    """The best tile sizes at the sizes ``dims``, and their cost; infinite when no tile fits into shared memory."""
    known = m.extents(*dims)
    extents, sizes = known[: m.axes], known[m.axes :]
    moved = sum(sizes)
    if 0 in extents:
        return Plan(tuple(1 for _ in extents), 0, 0, 0, 0, 0.0)
    cached = min(moved, machine.l2 // 2)
    slow = (moved - cached) / machine.bandwidth + cached / (machine.bandwidth * L2_SPEED)
    efficiency = PRODUCTS if m.efficiency == PRODUCT_EFFICIENCY else EFFICIENCY
    best: Plan | None = None
    for tiles in tile_candidates(extents, m.steps):
        scratch, work, streamed, _, parallel = m.tile(*dims, *tiles)
        if scratch > machine.l1:
            continue
        tasks = _tasks(extents, tiles)
        items = max(1, streamed // ITERATION)
        threads = min(MOST, max(WARP, WARP * round(items / WARP)))
        resident = RESIDENT if scratch <= SHARED else max(1, machine.l1 // scratch)
        again = max(0, streamed * tasks - moved)
        traffic = slow + again / (machine.bandwidth * L2_SPEED)
        compute = work * tasks / (machine.flops * efficiency)
        busy = min(1.0, tasks * threads / (machine.cores * BUSY), resident * threads / BUSY)
        waves = math.ceil(tasks / (machine.cores * resident))
        seconds = max(traffic, compute) / busy + waves * TASK + LAUNCH
        # A thread that does everything in turn waits for each of its loads.
        seconds += max(0, items // threads - 4) * 1e-7
        if best is None or seconds < best.seconds:
            block = BLOCK if tasks * items // BLOCK >= machine.cores * BUSY else 1
            wanted = min(MOST, max(WARP, WARP * round(items / block / WARP)))
            # Idle threads keep other blocks from a multiprocessor.
            wanted = min(wanted, WARP * math.ceil(max(1, parallel) / WARP))
            best = Plan(tiles, tasks, scratch, moved + again, work * tasks, seconds, wanted, block)
    if best is None:
        return Plan(tuple(1 for _ in extents), 1, 0, moved, 0, math.inf)
    return best
