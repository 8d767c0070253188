"""``nnaccel.explain``: what became of a network, group by group, and what each costs."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from nnaccel_core.api import Executable
from nnaccel_core.driver.report import Explanation, GroupReport, ProgramReport, SegmentReport, seconds_text
from nnaccel_core.driver.segment import Built, CompiledSegment
from nnaccel_core.driver.session import Compiled, Session
from nnaccel_core.driver.slicing import sliced
from nnaccel_core.errors import InputError
from nnaccel_core.hooks import manager
from nnaccel_core.ir import Env, Foreign, If, Loop, Program, evaluate
from nnaccel_core.ops.registry import LIMITS, lookup
from nnaccel_core.select.cover import Selection, Unit

#: Runs whose median is shown.
RUNS = 5
#: Candidates that lost, shown for each group.
SHOWN = 2
#: What limits a group is what limits the most demanding of its layers.
_DEMANDING = ("compute", "params", "io", "any", "view")
assert set(_DEMANDING) == set(LIMITS)


def explain(optimized: Any, *inputs: Any, **keywords: Any) -> Explanation:
    """How ``optimized``, what `optimize` returned, runs: groups of layers, what runs each and why, times and memory.

    With inputs, the network is called on them (for prediction) some times, and the programs that ran are shown with
    measured times. Without, all that is compiled so far is shown with estimates.

    Raises:
        InputError: ``optimized`` is not what `optimize` returned; or whatever the call raises.
    """
    frontend = type(manager.frontend_for(optimized))
    found = frontend.inspect(optimized)
    if found is None:
        given = f"{type(optimized).__module__}.{type(optimized).__qualname__}"
        raise InputError(f"explain() takes what optimize() returned, not a {given}")
    session, seconds = found.session, None
    times: dict[int, list[float]] = {}
    if inputs or keywords:
        found.call(*inputs, **keywords)
        found.call(*inputs, **keywords)
        walls = []
        for _ in range(RUNS):
            started = time.perf_counter()
            found.call(*inputs, **keywords)
            walls.append(time.perf_counter() - started)
        seconds = statistics.median(walls)
        for compiled in session.programs().values():
            compiled._hot = {}  # then filled with what these calls use
        times = _profiled(session, lambda: found.call(*inputs, **keywords))
        again = frontend.inspect(optimized)
        found = again or found
    programs = [_program(c, times) for c in session.programs().values()]
    if times:
        programs = [p for p in programs if p.segments]
    machine = session.backend.machine
    return Explanation(found.name, session.device, machine, found.notes, tuple(programs), seconds)


def _executables(session: Session) -> Iterator[Executable]:
    for compiled in session.programs().values():
        for segment in compiled.segments.values():
            for built in _variants(segment):
                yield built.executable


def _variants(segment: CompiledSegment) -> Iterator[Built]:
    """What ran, stage by stage."""
    for built in list(segment._built.values()):
        yield from built.stages or (built,)
        if built.strict is not None:
            yield from built.strict.stages or (built.strict,)


def _profiled(session: Session, call: Any) -> dict[int, list[float]]:
    """id(executable) -> median seconds of each step, of those executables that ran and have timers."""
    runs: dict[int, list[list[float]]] = {}
    executables = list(_executables(session))
    for e in executables:
        e.profiling = True
    try:
        for _ in range(RUNS):
            before = [e.profile() for e in executables]
            call()
            for e, old in zip(executables, before, strict=True):
                now = e.profile()
                if now is not old and now:
                    runs.setdefault(id(e), []).append([seconds for _, seconds in now])
    finally:
        for e in executables:
            e.profiling = False
    return {key: [statistics.median(step) for step in zip(*found, strict=True)] for key, found in runs.items()}


def _program(compiled: Compiled, times: Mapping[int, list[float]]) -> ProgramReport:
    segments = []
    ran = [b for hot in compiled._hot.values() for b in (hot, hot.strict) if b is not None]
    used = {id(stage) for b in ran for stage in b.stages or (b,)}
    for segment in compiled.segments.values():
        for built in _variants(segment):
            measured = times.get(id(built.executable))
            if not times or (measured is not None and id(built) in used):
                segments.append(_segment(segment, built, measured))
    foreign = tuple((f.origin, f.reason) for f in _foreign(compiled.captured.program))
    return ProgramReport(compiled.captured.reason, tuple(segments), foreign, compiled.prepared_bytes())


def _foreign(program: Program) -> Iterator[Foreign]:
    for part in program.parts:
        if isinstance(part, Foreign):
            yield part
        elif isinstance(part, If):
            yield from _foreign(part.then)
            yield from _foreign(part.other)
        elif isinstance(part, Loop):
            yield from _foreign(part.body)


def _segment(segment: CompiledSegment, built: Built, measured: Sequence[float] | None) -> SegmentReport:
    groups, step = [], 0
    order = sliced(built.executable)
    env = built.env if segment.batch is None or not order else {**built.env, segment.batch: order[0]}
    weighed = segment.weigh(env, built.stage)
    for unit in built.selection.units:
        if unit.is_view:
            continue
        seconds = None if measured is None else sum(measured[step : step + unit.launches])
        groups.append(_group(unit, weighed, env, seconds))
        step += unit.launches
    plan = built.placed.plan
    assert step == len(plan.steps), f"{segment.source.name}: {step} steps of groups, {len(plan.steps)} in the plan"
    results = sum(evaluate(t.nbytes, {}) for t in built.output_types)
    prepared = sum(evaluate(t.nbytes, {}) for t in plan.prepared)
    stricter = [b.strict for b in segment._built.values() if b.strict is not None]
    strict = any(built is one for b in stricter for one in (b, *b.stages))
    name = segment.source.name if built.stage is None or built.stage not in segment.stages else built.stage.graph.name
    return SegmentReport(name, dict(built.env), strict, tuple(groups), plan.arena, results, prepared, order)


def _group(unit: Unit, weighed: Selection, env: Env, seconds: float | None) -> GroupReport:
    c = unit.candidate
    limits = {lookup(n.op, n.where()).limit_of(n) for n in unit.nodes}
    moved = {v: evaluate(v.type.concrete(env).nbytes, {}) for v in (*unit.inputs, *unit.outputs)}
    others = []
    for lost, why in sorted(weighed.rejected, key=lambda pair: pair[0].seconds):
        if any(n is unit.nodes[0] for n in lost.nodes) and (c is None or lost.reason != c.reason):
            layers = f"of {len(lost.nodes)} layers " if len(lost.nodes) != len(unit.nodes) else ""
            others.append(f"{lost.proposer}: {lost.reason} {layers}({seconds_text(lost.seconds)}): {why}")
    return GroupReport(
        tuple(dict.fromkeys(n.origin or n.op for n in unit.nodes)),
        tuple(n.op for n in unit.nodes),
        next(limit for limit in _DEMANDING if limit in limits),
        f"{c.proposer}: {c.reason}" if c else "the host: the operator's numpy reference, between compiled steps",
        tuple(others[:SHOWN]),
        c.seconds if c else None,
        seconds,
        sum(moved.values()),
        unit.launches,
    )
