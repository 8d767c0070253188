"""How many samples run at a time on a GPU: as few as still keep it busy.

Activations of a large batch take most of a call's memory, in proportion to the samples that run together. Fewer of them cost
time: kernels are started more often, their last thread blocks leave multiprocessors idle, and weights are read again. Early
layers of image networks have the large activations, and fill a GPU with few samples; late ones need many. So a network may run in
stages (`Backend.stages`): the first in slices; each other, on what those before left of the whole batch, mostly in larger slices.

The estimate is one roofline for all networks; the least memory is taken that costs at most `TOLERANCE` of the time.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

from nnaccel_backend_cuda.kernels import START
from nnaccel_core.api import Layer, Machine

#: Part of the time that less memory may cost.
TOLERANCE = 0.04
#: The batch that is decided for; larger ones run in slices of that size at most.
BATCH = 128
#: No stage runs fewer samples at a time, nor fewer than need so many bytes: less memory is not worth a launch.
LEAST, LEAST_BYTES = 8, 32 << 20
#: Most stages, and the part of the memory that a further one must save: no kernel reaches across their borders.
MOST_STAGES, GAIN = 3, 0.1
#: Tensor cores against the peak of plain float32, and the parts of that and of the bandwidth that kernels reach.
TENSOR_CORES, PRODUCTS, TRAFFIC = 6.0, 0.7, 0.7
#: Elements that a thread block writes: of a product, and of a kernel that moves data.
TILE, CHUNK = 128 * 128, 2048
#: Waves of thread blocks that are lost at a kernel's end: half of the last one, on average.
LOST = 0.5


def seconds(a: Layer, machine: Machine, samples: int) -> float:
    """Estimated time of a layer for ``samples`` in one piece."""
    arithmetic = a.flops * samples / (machine.flops * TENSOR_CORES * PRODUCTS)
    traffic = (a.nbytes * samples + a.weights) / (machine.bandwidth * TRAFFIC)
    blocks = a.outputs * samples / (TILE if a.weights and a.flops > 2 * a.outputs else CHUNK)
    return START + max(arithmetic, traffic) * (1 + LOST * machine.cores / max(blocks, 1.0))


class _Costs:
    """Time and memory of running `BATCH` samples in given stages: (first layer, samples at a time) of each."""

    def __init__(self, layers: Sequence[Layer], machine: Machine) -> None:
        self.layers = layers
        self.sizes = [BATCH >> k for k in range(BATCH.bit_length()) if BATCH >> k >= LEAST]
        # Per size: seconds of the whole batch in the first i layers.
        self._times = {n: [0.0, *itertools.accumulate(seconds(a, machine, n) * (BATCH / n) for a in layers)] for n in self.sizes}

    def time(self, begin: int, end: int, size: int) -> float:
        return self._times[size][end] - self._times[size][begin]

    def splits(self, begin: int, end: int) -> Iterator[tuple[int, int, int, int]]:
        """Where a stage can be cut in two: (first layer of the second, bytes of a sample held in the first, in the second, and
        between them)."""
        held = [a.held for a in self.layers[begin:end]]
        first = list(itertools.accumulate(held, max))
        second = list(itertools.accumulate(reversed(held), max))[::-1]
        for i in range(begin + 1, end):
            enters = self.layers[i].enters
            if enters is not None:
                yield i, first[i - begin - 1], second[i - begin], enters

    def worth(self, held: int, size: int) -> bool:
        return size == BATCH or size * held >= LEAST_BYTES


def stages(layers: Sequence[Layer], machine: Machine) -> list[tuple[int, int]]:
    """(first layer, most samples at a time) of each stage: those of the least memory within `TOLERANCE`, found greedily."""
    if not layers:
        return [(0, BATCH)]
    costs, count = _Costs(layers, machine), len(layers)
    most = max(a.held for a in layers)
    allowed = costs.time(0, count, BATCH) * (1 + TOLERANCE)
    fitting = [n for n in costs.sizes if costs.worth(most, n) and costs.time(0, count, n) <= allowed]
    chosen = [(0, min(fitting))]
    memory, between = [most * chosen[0][1]], 0  # of each stage; and of what is held between them
    while len(chosen) < MOST_STAGES:
        k = max(range(len(chosen)), key=memory.__getitem__)  # the stage to cut in two
        bounds = [*(at for at, _ in chosen), count]
        begin, end = bounds[k], bounds[k + 1]
        others = sum(costs.time(bounds[j], bounds[j + 1], n) for j, (_, n) in enumerate(chosen) if j != k)
        rest = max((m for j, m in enumerate(memory) if j != k), default=0)
        best: tuple[float, float, list[tuple[int, int]], list[int], int] | None = None
        for i, first, second, enters in costs.splits(begin, end):
            for n, m in itertools.product(costs.sizes, costs.sizes):
                time = others + costs.time(begin, i, n) + costs.time(i, end, m)
                if time <= allowed and costs.worth(first, n) and costs.worth(second, m):
                    needed = [first * n, second * m]
                    total = max(rest, *needed) + between + enters * BATCH
                    if best is None or (total, time) < best[:2]:
                        best = (total, time, [(begin, n), (i, m)], needed, between + enters * BATCH)
        if best is None or best[0] > (1 - GAIN) * (max(memory) + between):
            break
        chosen[k : k + 1], memory[k : k + 1], between = best[2], best[3], best[4]
    return chosen


__all__ = ["BATCH", "TOLERANCE", "seconds", "stages"]
