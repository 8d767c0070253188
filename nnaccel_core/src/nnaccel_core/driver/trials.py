"""Trials of a segment's plans, for `tuning`: on memory of their own, and remembered on disk."""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from nnaccel_core import debug
from nnaccel_core.api import Memory
from nnaccel_core.driver import tuning
from nnaccel_core.driver.slicing import slices
from nnaccel_core.driver.stages import Stage
from nnaccel_core.driver.tuning import Trial
from nnaccel_core.errors import OutOfMemoryError
from nnaccel_core.ir import Env, Graph, Node, TensorType, evaluate, numpy_dtype
from nnaccel_core.options import Options
from nnaccel_core.plan import ChainStep
from nnaccel_core.progress import Progress
from nnaccel_core.select.candidate import Candidate
from nnaccel_core.select.cover import Selection, select

if TYPE_CHECKING:
    from nnaccel_core.driver.segment import Built, CompiledSegment

#: Ways to run what was chosen by measurement: layer by layer, in chains, or as the estimates say instead.
ALONE, CHAINED, ESTIMATED = "layer by layer", "in chains", "as estimated"
#: Trials of slices begin within this part of the time for tuning, beside which it is.
SLICE_TIME = 0.25
#: Slices of another size than the rule's have to take at most this part of the time: they may take more memory.
SLICE_WINS = 0.97
#: Larger slices than the rule's are tried where their plans take at most this part of free memory.
MEMORY_PART = 0.25


def tuned(segment: CompiledSegment, env: Env, options: Options, stage: Stage) -> Built:
    """The fastest plan that trials found at the sizes in ``env``, now or in an earlier process.

    Raises:
        GuardError: the sizes contradict what capture assumed.
    """
    segment.check_guards(env)
    found = _remembered(segment, env, options, stage)
    if found is not None:
        return _way(segment, *found, stage.graph, env, options, stage)
    graph, candidates = segment.offered(stage.graph, env, options)
    others = [b.placed for b in segment.wholes()]
    built: list[Built] = []

    def attempt(selection: Selection) -> Trial:
        segment.prepared.keep(others + [b.placed for b in built[:1]])  # packed weights of earlier trials go
        built.append(segment.build_plan(*segment.placed(graph, selection, env, chained=False), env, options, stage))
        return trial(segment, selection, built[-1])

    name = f"{graph.name} at {', '.join(f'{k}={n}' for k, n in env.items())}" if env else graph.name
    beyond = segment.packing if options.live else lambda c: 0.0
    seconds = options.tuning_seconds or 0.0
    try:
        best = tuning.tune(name, candidates, lambda offered: segment.selected(graph, offered, env), attempt, beyond, seconds)
    except OutOfMemoryError as e:
        warnings.warn(f"nnaccel: no memory to tune {name} in, so it runs as estimated: {e}", stacklevel=2)
        segment.prepared.keep(others)
        return segment.build_plan(*segment.plan(env, options, stage), env, options, stage)
    way, fastest = ALONE, best.built
    if segment.backend.chains and options.dfp and seconds > 0:
        segment.prepared.keep([*others, best.built.placed])
        way, fastest = _fastest(segment, best, graph, env, options, stage)
    if graph is stage.graph and not segment.restricted:
        stage.covers.add_tuned(options, env, best.selection, way)
    segment.prepared.keep([*others, fastest.placed])
    return fastest


def _fastest(
    segment: CompiledSegment, best: Trial, graph: Graph, env: Env, options: Options, stage: Stage
) -> tuple[str, Built]:
    """The way in which ``best`` runs fastest, and its plan. Steps are measured one by one, chains as a whole: what the estimates
    choose, chains and all, has to be beaten."""
    ways = {w: _way(segment, w, best.selection, graph, env, options, stage) for w in (ESTIMATED, CHAINED)}
    ways[ALONE] = best.built
    winner = ESTIMATED
    run = trial(segment, best.selection, ways[winner]).run
    for way in (ALONE, CHAINED):
        if way == CHAINED and not any(isinstance(s, ChainStep) for s in ways[way].placed.plan.steps):
            continue  # nothing of it is worth a chain
        other = trial(segment, best.selection, ways[way]).run
        a, b = tuning.race(other, run, seconds=tuning.TRIAL_SECONDS)
        debug.log(debug.TIMES, lambda: f"tuning {graph.name}: {a * 1e3:.3f} ms {way}, {b * 1e3:.3f} ms {winner}")  # noqa: B023
        if a <= tuning.WINS * b:
            winner, run = way, other
    return winner, ways[winner]


def _way(
    segment: CompiledSegment, way: str, selection: Selection, graph: Graph, env: Env, options: Options, stage: Stage
) -> Built:
    """The plan of ``selection`` in one of the ways in which it may run."""
    if way == ESTIMATED:
        placed = segment.plan(env, replace(options, autotune=False), stage)
    else:  # of chosen candidates only: others are not known in a later process
        placed = segment.placed(graph, replace(selection, rejected=()), env, chained=way == CHAINED)
    return segment.build_plan(*placed, env, options, stage)


def tuned_slice(segment: CompiledSegment, env: Env, total: int, options: Options, stage: Stage) -> int:
    """How many of ``total`` samples to run at a time at most: what was fastest, now or in an earlier process.

    The rule's size races twice as many, half as many and the whole batch, by plans of estimates; from what wins it goes on in
    that direction. A winner has to win once more in the end. Sizes whose plans might not fit into free memory are left out.
    """
    known = stage.covers.get_slice(options, env)
    if known is not None:
        return known
    end = time.perf_counter() + SLICE_TIME * (options.tuning_seconds or 0.0)
    plain = replace(options, autotune=False)
    rule = best = min(segment.slice, total)
    name = f"slices of {total} samples of {stage.graph.name}"
    runs: dict[tuple[int, ...], Callable[[], None] | None] = {}
    raced = {rule}

    def run_of(size: int) -> Callable[[], None] | None:
        """Runs the batch in slices of ``size``; None where that might take too much memory."""
        order = tuple(slices(total, size))
        if order not in runs:
            built = segment.build_stage(stage, env, total, size, plain)
            fits = size <= rule or built.placed.plan.arena <= MEMORY_PART * _free_memory()
            runs[order] = _runner(segment, built, given, results) if fits else None
        return runs[order]

    def faster(size: int, than: int) -> bool:
        raced.add(size)
        if size < 1 or slices(total, size) == slices(total, than):
            return False
        one, other = run_of(size), run_of(than)
        if one is None or other is None:
            return False
        shown.tick(len(runs))
        a, b = tuning.race(one, other, seconds=tuning.TRIAL_SECONDS)
        debug.log(debug.TIMES, lambda: f"tuning {name}: {a * 1e3:.3f} ms in slices of {size}, {b * 1e3:.3f} ms of {than}")
        return a <= SLICE_WINS * b

    try:
        given = _filled(segment, [v.type.concrete(env) for v in stage.graph.inputs])
        results = [_memory(segment, v.type.concrete(env)) for v in stage.graph.results()]
        with Progress(f"tuning {name}, sizes measured", f"tuned {name}", 4, after=0.0) as shown:
            for factor in (2, 0.5):
                while time.perf_counter() < end and faster(size := min(int(factor * best), total), best):
                    best = size
                if best != rule:
                    break
            if total not in raced and time.perf_counter() < end and faster(total, best):
                best = total
            if best != rule and not faster(best, rule):
                best = rule
    except OutOfMemoryError:
        best = rule
    segment.forget_plans(plain)
    if not segment.restricted:
        stage.covers.add_slice(options, env, best)
    return best


def _free_memory() -> int:
    """Bytes of memory that nothing uses now."""
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _remembered(segment: CompiledSegment, env: Env, options: Options, stage: Stage) -> tuple[str, Selection] | None:
    """What an earlier process chose, in which way, with the times it measured; None where unknown, or not on offer now."""
    known = stage.covers.get_tuned(options, env)
    if known is None:
        return None
    way, chosen = known
    seconds = {(nodes, reason): time for _, nodes, reason, time in chosen}
    cover = frozenset((core, nodes) for core, nodes, _, _ in chosen)
    found: dict[tuple[frozenset[Node], str], Candidate] = {}
    for c in segment.candidates(stage.graph, env, options, cover):
        key = frozenset(c.nodes), c.reason
        if key in seconds:
            found.setdefault(key, replace(c, seconds=seconds[key]))
    return (way, select(stage.graph, list(found.values()))) if len(found) == len(seconds) else None


def trial(segment: CompiledSegment, selection: Selection, built: Built) -> Trial:
    """``built`` on memory of its own."""
    plan, executable = built.placed.plan, built.executable
    run = _runner(segment, built, _filled(segment, plan.inputs), [_memory(segment, t) for t in plan.outputs])

    def steps() -> list[tuple[Candidate, float]]:
        executable.profiling = True
        try:
            run()
        finally:
            executable.profiling = False
        times = [seconds for _, seconds in executable.profile()]
        found, at = [], 0
        for unit in built.selection.units:
            if unit.candidate is not None:
                found.append((unit.candidate, sum(times[at : at + unit.launches])))
            at += unit.launches
        return found

    return Trial(selection, run, steps, built)


def _memory(segment: CompiledSegment, t: TensorType) -> Memory:
    return segment.backend.memory(max(1, evaluate(t.nbytes, {})))


def _filled(segment: CompiledSegment, types: Sequence[TensorType]) -> list[Memory]:
    """Memory for inputs of static types: floating point ones are random numbers, others zeros (indices within any bounds)."""
    rng = np.random.default_rng(0)
    found = [_memory(segment, t) for t in types]
    for t, m in zip(types, found, strict=True):
        shape: tuple[int, ...] = t.shape  # type: ignore[assignment]
        m.write(t, (rng.standard_normal(shape, np.float32) if t.is_float else np.zeros(shape)).astype(numpy_dtype(t.dtype)))
    return found


def _runner(segment: CompiledSegment, built: Built, inputs: Sequence[Memory], outputs: Sequence[Memory]) -> Callable[[], None]:
    """Runs ``built`` on this memory and waits for the end."""
    prepared = segment.prepared.of(built.placed, built.executable)
    threads, stream = segment.bridge.threads(), segment.bridge.stream()

    def run() -> None:
        built.executable.run([m.address for m in inputs], prepared.addresses, [m.address for m in outputs], threads, stream)

    return run
