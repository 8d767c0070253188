"""Choosing by measurement (``autotune``): whole plans run, and each of their steps is timed where it stands.

A kernel measured alone finds its operands in other caches than in the network, and keeps weights there that the network reads
anew. So nothing runs alone here: each trial is a plan of the whole network, whose steps' times are those of the candidates in it.
The next trial prefers candidates that were not measured yet, by a fraction of their estimated times (optimism in the face of
uncertainty; Lai and Robbins 1985), until none is worth a trial or the time is up. A few trials measure all candidates, since each
measures one for every layer. In the end the plan chosen by measured times races the one chosen by estimates: it has to win.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from nnaccel_core import debug
from nnaccel_core.progress import Progress
from nnaccel_core.select.candidate import Candidate
from nnaccel_core.select.cover import Selection

if TYPE_CHECKING:
    from nnaccel_core.driver.segment import Built

#: A candidate that was not measured is worth a trial where this fraction of its estimated time wins.
HOPE = 0.5
#: Timed runs of a trial: the median of so many, or of those that end within `TRIAL_SECONDS`, `FEWEST` at least.
RUNS = 9
FEWEST = 3
TRIAL_SECONDS = 1.0
#: The measured choice has to take at most this part of the other's time.
WINS = 0.99
#: Pairs of runs, one of each plan, that decide.
PAIRS = 11


@dataclass(frozen=True)
class Trial:
    """A plan that can run.

    Attributes:
        selection: what it runs.
        run: runs it once and waits for the end.
        steps: runs it once; the seconds of each of its candidates, in the order of ``selection``. Candidates that need no step
            (their results are constants at this size) are not in it.
        built: the same for the driver.
    """

    selection: Selection
    run: Callable[[], None]
    steps: Callable[[], Sequence[tuple[Candidate, float]]]
    built: Built


def tune(
    name: str,
    candidates: Sequence[Candidate],
    choose: Callable[[Sequence[Candidate]], Selection],
    attempt: Callable[[Selection], Trial],
    beyond: Callable[[Candidate], float],
    seconds: float,
) -> Trial:
    """The fastest plan that was found.

    Args:
        candidates: all that may run a part of the network, with estimated times.
        choose: a selection among candidates by their times (`select.cover.select`).
        attempt: builds the plan of a selection.
        beyond: seconds that a candidate costs beside its step (packing parameters that change at every run).
        seconds: trials begin for so long; the plan by estimates is always built and, where anything was tried, the race is run.

    Returns:
        The winner, its selection's candidates with measured times.
    """
    end = time.perf_counter() + seconds
    measured: dict[int, float] = {}
    scale = 1.0

    def offer(hope: float) -> list[Candidate]:
        return [replace(c, seconds=measured.get(i, c.seconds * scale * hope)) for i, c in enumerate(candidates)]

    def places(offered: Sequence[Candidate], selection: Selection) -> list[int]:
        number = {id(c): i for i, c in enumerate(offered)}
        return [number[id(u.candidate)] for u in selection.units if u.candidate is not None]

    def record(offered: Sequence[Candidate], trial: Trial, steps: Sequence[tuple[Candidate, float]]) -> None:
        number = {id(c): i for i, c in enumerate(offered)}
        for c, found in steps:
            # A concat's copies are charged to whoever cannot write into its memory, so its own time stays the estimate.
            i = number[id(c)]
            measured[i] = candidates[i].seconds * scale if c.gathers else found + beyond(c)
        for i in places(offered, trial.selection):
            measured.setdefault(i, 0.0)  # it became a constant

    first = attempt(choose(candidates))
    steps = _timed(first)
    estimated = sum(c.seconds for c, _ in steps)
    # Estimates are of a quiet machine of this kind; trials compare them with measured times of this one, as it is.
    scale = sum(found for _, found in steps) / estimated if estimated > 0 else 1.0
    record(candidates, first, steps)
    tried = 1
    with Progress(f"tuning {name}, candidates measured", f"tuned {name}", _worth(candidates), after=0.0) as shown:
        shown.tick(len(measured))
        while time.perf_counter() < end:
            offered = offer(HOPE)
            selection = choose(offered)
            if all(i in measured for i in places(offered, selection)):
                break
            trial = attempt(selection)
            record(offered, trial, _timed(trial))
            tried += 1
            shown.tick(min(len(measured), shown.total))
        offered = offer(1.0)
        selection = choose(offered)
        debug.log(debug.TIMES, lambda: f"tuning {name}: {tried} trials, {len(measured)} of {len(candidates)} candidates measured")
        if sorted(places(offered, selection)) == sorted(places(candidates, first.selection)):
            return first
        best = attempt(selection)
        a, b = race(best.run, first.run)
    debug.log(debug.TIMES, lambda: f"tuning {name}: {a * 1e3:.3f} ms by measurement, {b * 1e3:.3f} ms by estimates")
    return best if a <= WINS * b else first


def race(
    one: Callable[[], None], other: Callable[[], None], pairs: int = PAIRS, seconds: float = float("inf")
) -> tuple[float, float]:
    """Median seconds of both, run in turns: ``pairs`` times, or as often as begin within ``seconds``, `FEWEST` times at least."""
    times: tuple[list[float], list[float]] = ([], [])
    end = time.perf_counter() + seconds
    for i in range(pairs + 1):
        if i > FEWEST and time.perf_counter() > end:
            break
        order = ((0, one), (1, other)) if i % 2 else ((1, other), (0, one))
        for side, run in order:
            started = time.perf_counter()
            run()
            if i:  # the first of each touches its memory
                times[side].append(time.perf_counter() - started)
    return statistics.median(times[0]), statistics.median(times[1])


def _timed(trial: Trial) -> list[tuple[Candidate, float]]:
    """Each candidate of a trial with the median of its times."""
    trial.run()
    runs: list[Sequence[tuple[Candidate, float]]] = []
    end = time.perf_counter() + TRIAL_SECONDS
    while len(runs) < FEWEST or (len(runs) < RUNS and time.perf_counter() < end):
        runs.append(trial.steps())
    return [(c, statistics.median(run[k][1] for run in runs)) for k, (c, _) in enumerate(runs[0])]


def _worth(candidates: Sequence[Candidate]) -> int:
    """About how many candidates will be measured: those near the best for their layers."""
    best: dict[frozenset[int], float] = {}
    layers = [frozenset(map(id, c.nodes)) for c in candidates]
    for c, nodes in zip(candidates, layers, strict=True):
        best[nodes] = min(best.get(nodes, c.seconds), c.seconds)
    return sum(HOPE * c.seconds <= best[nodes] for c, nodes in zip(candidates, layers, strict=True))
