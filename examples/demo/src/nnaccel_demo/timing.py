"""Timing two networks fairly against each other."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence


def interleaved(candidates: Sequence[Callable[[], object]], calls: int = 30, block: int = 5, warmup: int = 3) -> list[float]:
    """Median seconds a call of each candidate, measured in turns.

    Turns are blocks of calls with a pause and untimed calls before: a thread pool goes on spinning for a while after
    its last call and would slow whoever runs next; and a slow spell of the machine meets all candidates alike.
    """
    times: list[list[float]] = [[] for _ in candidates]
    for _ in range(-(-calls // block)):
        for candidate, mine in zip(candidates, times, strict=True):
            time.sleep(0.05)
            for _ in range(warmup):
                candidate()
            for _ in range(block):
                start = time.perf_counter()
                candidate()
                mine.append(time.perf_counter() - start)
    return [statistics.median(t) for t in times]
