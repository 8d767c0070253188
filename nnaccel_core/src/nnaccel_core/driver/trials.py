"""Trials of a segment's plans, for `tuning`: on memory of their own, and remembered on disk."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from nnaccel_core.api import Memory
from nnaccel_core.driver import tuning
from nnaccel_core.driver.stages import Stage
from nnaccel_core.driver.tuning import Trial
from nnaccel_core.errors import OutOfMemoryError
from nnaccel_core.ir import Env, Node, TensorType, evaluate, numpy_dtype
from nnaccel_core.options import Options
from nnaccel_core.select.candidate import Candidate
from nnaccel_core.select.cover import Selection, select

if TYPE_CHECKING:
    from nnaccel_core.driver.segment import Built, CompiledSegment


def tuned(segment: CompiledSegment, env: Env, options: Options, stage: Stage) -> Built:
    """The fastest plan that trials found at the sizes in ``env``, now or in an earlier process.

    Raises:
        GuardError: the sizes contradict what capture assumed.
    """
    segment.check_guards(env)
    selection = _remembered(segment, env, options, stage)
    if selection is not None:
        return segment.build_plan(*segment.placed(stage.graph, selection, env), env, options, stage)
    graph, candidates = segment.offered(stage.graph, env, options)
    others = [b.placed for b in segment.wholes()]
    built: list[Built] = []

    def attempt(selection: Selection) -> Trial:
        segment.prepared.keep(others + [b.placed for b in built[:1]])  # packed weights of earlier trials go
        built.append(segment.build_plan(*segment.placed(graph, selection, env), env, options, stage))
        return trial(segment, selection, built[-1])

    name = f"{graph.name} at {', '.join(f'{k}={n}' for k, n in env.items())}" if env else graph.name
    beyond = segment.packing if options.live else lambda c: 0.0
    seconds = options.tuning_seconds or 0.0
    try:
        best = tuning.tune(name, candidates, lambda offered: select(graph, offered), attempt, beyond, seconds)
    except OutOfMemoryError as e:
        warnings.warn(f"nnaccel: no memory to tune {name} in, so it runs as estimated: {e}", stacklevel=2)
        segment.prepared.keep(others)
        return segment.build_plan(*segment.plan(env, options, stage), env, options, stage)
    if graph is stage.graph:
        stage.covers.add_tuned(options, env, best.selection)
    segment.prepared.keep([*others, best.built.placed])
    return best.built


def _remembered(segment: CompiledSegment, env: Env, options: Options, stage: Stage) -> Selection | None:
    """What an earlier process chose, with the times it measured; None where that is unknown, or not on offer any more."""
    known = stage.covers.get_tuned(options, env)
    if known is None:
        return None
    seconds = {(nodes, reason): time for _, nodes, reason, time in known}
    cover = frozenset((core, nodes) for core, nodes, _, _ in known)
    found: dict[tuple[frozenset[Node], str], Candidate] = {}
    for c in segment.candidates(stage.graph, env, options, cover):
        key = frozenset(c.nodes), c.reason
        if key in seconds:
            found.setdefault(key, replace(c, seconds=seconds[key]))
    return select(stage.graph, list(found.values())) if len(found) == len(seconds) else None


def trial(segment: CompiledSegment, selection: Selection, built: Built) -> Trial:
    """``built`` on memory of its own: floating point inputs are random numbers, others zeros (indices within any bounds)."""
    plan, executable = built.placed.plan, built.executable
    rng = np.random.default_rng(0)

    def memory(t: TensorType) -> Memory:
        return segment.backend.memory(max(1, evaluate(t.nbytes, {})))

    inputs, outputs = [memory(t) for t in plan.inputs], [memory(t) for t in plan.outputs]
    for t, m in zip(plan.inputs, inputs, strict=True):
        shape: tuple[int, ...] = t.shape  # type: ignore[assignment]
        m.write(t, (rng.standard_normal(shape, np.float32) if t.is_float else np.zeros(shape)).astype(numpy_dtype(t.dtype)))
    prepared = segment.prepared.of(built.placed, executable)
    threads, stream = segment.bridge.threads(), segment.bridge.stream()

    def run() -> None:
        executable.run([m.address for m in inputs], prepared.addresses, [m.address for m in outputs], threads, stream)

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
