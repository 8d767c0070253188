"""``verify=True``: compare an optimized network with its framework's own result, and find the group that differs.

A wrong result is traced from the inside out: each group of the plan against the operators' references on the very
inputs the group got (so that rounding does not add up), then the plan as a whole, then the graph passes one by one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from nnaccel_core.driver.segment import Built, CompiledSegment
from nnaccel_core.driver.session import Compiled
from nnaccel_core.driver.slicing import sliced
from nnaccel_core.driver.training import Record
from nnaccel_core.errors import MismatchError
from nnaccel_core.interp import bind_attrs, run_graph
from nnaccel_core.ir import Env, Graph, Node, Segment, Value
from nnaccel_core.ir.types import common_env
from nnaccel_core.ops.registry import lookup
from nnaccel_core.place import place
from nnaccel_core.select.cover import Selection, Unit

Array = np.ndarray[Any, Any]

#: Of the units in the last place that sums of a network may lose against those of its framework.
_UNITS = 2.0**13
_LOOSEST = 0.05


def tolerance(dtype: np.dtype[Any]) -> float:
    """Largest error that passes, relative to the largest value: about 1e-3 in float32, 0.05 in float16, 0 for integers."""
    return min(_LOOSEST, float(np.finfo(dtype).eps) * _UNITS) if np.issubdtype(dtype, np.floating) else 0.0


@dataclass(frozen=True)
class Difference:
    """How two results differ. ``error`` is absolute (infinite where shapes, dtypes, NaN or infinities differ)."""

    error: float
    text: str


def difference(got: Array, want: Array) -> Difference | None:
    """How ``got`` differs from ``want`` beyond `tolerance`; None when it does not. NaN equals NaN."""
    if got.shape != want.shape or got.dtype != want.dtype:
        return Difference(np.inf, f"{got.dtype}{list(got.shape)} instead of {want.dtype}{list(want.shape)}")
    if not want.size:
        return None
    if not np.issubdtype(want.dtype, np.floating):
        wrong = int(np.count_nonzero(got != want))
        if not wrong:
            return None
        gap = float(np.abs(got.astype(np.float64) - want.astype(np.float64)).max())
        return Difference(gap, f"{wrong} of {want.size} elements differ, by up to {gap:g}")
    finite = np.isfinite(want)
    same = np.where(finite, np.isfinite(got), (got == want) | (np.isnan(got) & np.isnan(want)))
    if not same.all():
        at = tuple(map(int, np.argwhere(~same)[0]))
        return Difference(np.inf, f"{got[at]} instead of {want[at]} at {list(at)} ({int((~same).sum())} such elements)")
    largest = float(np.abs(want, where=finite, out=np.zeros(want.shape, want.dtype)).max()) or 1.0
    gaps = np.where(finite, np.abs(np.where(finite, got, 0).astype(np.float64) - np.where(finite, want, 0)), 0)
    error = float(gaps.max())
    allowed = tolerance(want.dtype)
    if error <= allowed * largest:
        return None
    at = tuple(map(int, np.unravel_index(int(gaps.argmax()), gaps.shape)))
    return Difference(
        error,
        f"the largest error is {error:.3g} at {list(at)} ({got[at]:.6g} instead of {want[at]:.6g}), {error / largest:.2g} of the "
        f"largest value; {allowed:.2g} is allowed",
    )


def check(compiled: Compiled, inputs: Sequence[Any], got: Sequence[Any], want: Sequence[Any]) -> None:
    """Compare a call's tensors with the framework's own; counts one call of ``compiled.to_verify`` when they agree.

    Args:
        inputs: the program's inputs as they were before the call; got, want: tensors of the framework, in the same order.

    Raises:
        MismatchError: they differ; names the first group of layers whose result is wrong.
    """
    name = compiled.captured.program.segments()[0].graph.name if compiled.segments else "the network"
    if len(got) != len(want):
        raise MismatchError(f"verify: {name} returned {len(got)} tensors, the framework {len(want)}")
    for i, (a, b) in enumerate(zip(got, want, strict=True)):
        found = difference(compiled.bridge.numpy(a), compiled.bridge.numpy(b))
        if found is not None:
            try:
                where = locate(compiled, inputs)
            except Exception as e:  # the report of the mismatch matters more than where it is
                where = f"the part that differs was not found: {type(e).__name__}: {e}"
            raise MismatchError(
                f"verify: result {i} of {name} on {compiled.backend.device} is not the framework's: {found.text}.\n{where}\n"
                f"Please report this; until it is mended, run the network without nnaccel."
            )
    compiled.to_verify = max(0, compiled.to_verify - 1)


def locate(compiled: Compiled, inputs: Sequence[Any]) -> str:
    """A sentence that names the first part of the program whose result is wrong on these inputs."""
    recorder = _Recorder(compiled)
    recorder(inputs)
    for part, tensors, outputs in recorder.records:
        segment = compiled.segments[id(part)]
        env: dict[str, int] = {}
        for v, t in zip(part.graph.inputs, tensors, strict=True):
            common_env(v.shape, tuple(t.shape), env)
        text = _in_segment(segment, segment.built(env), tensors, outputs)
        if text:
            return text
    layers = ", ".join(dict.fromkeys(n.origin for p, _, _ in recorder.records for n in p.graph.nodes if n.origin))
    return (
        "Every compiled part gives what its operators' references give, so the network was captured wrongly, or does not give "
        f"the same result twice. Layers captured: {layers or 'none'}"
    )


class _Recorder(Compiled):
    """A program that keeps what goes into and comes out of its segments, and leaves parameters as they were."""

    def __init__(self, of: Compiled) -> None:
        self.__dict__.update(of.__dict__)
        self.records: list[tuple[Segment, list[Any], list[Array]]] = []

    def _clone(self, tensor: Any) -> Any:
        found = self.bridge.type_of(tensor)
        assert found is not None  # programs are called with dense tensors
        copy = self.bridge.allocate(found)
        self.bridge.copy(copy, tensor)
        return copy

    def _run_segment(self, part: Segment, tensors: Sequence[Any], record: Record | None = None) -> list[Any]:
        updates = [u.target for u in part.graph.updates]
        before = [self._clone(t) for t in tensors] if updates else list(tensors)
        params = [self.captured.parameters[v.name]() for v in updates if v not in part.graph.inputs]
        kept = [self._clone(p) for p in params]
        results = super()._run_segment(part, tensors, record)
        for p, k in zip(params, kept, strict=True):
            self.bridge.copy(p, k)
        self.records.append((part, before, [np.array(self.bridge.numpy(r)) for r in results]))
        return results


def _in_segment(segment: CompiledSegment, built: Built, tensors: Sequence[Any], outputs: Sequence[Array]) -> str:
    """What is wrong inside a segment, or ""."""
    bridge = segment.bridge
    assert built.prepared is not None
    given = [bridge.address(t) for t in tensors]
    strict = not (built.prepared.exact and built.executable.exact("input", given, bridge.threads()))
    if strict:
        built = segment.strict(built)  # as the call itself did
    if built.stages:  # group by group in one piece: what runs in slices is looked at in the same layers
        built = segment._build_whole(built.env, replace(segment.options, numerics="strict") if strict else segment.options)
    order = sliced(built.executable)
    if order:
        assert segment.batch is not None
        at = 0
        for size in order:  # the batch is outermost in memory, so that slices are dense too
            env = {**built.env, segment.batch: size}
            part = segment._build_whole(env, replace(segment.options, numerics="strict") if strict else segment.options)
            text = _in_whole(segment, part, [t[at : at + size] for t in tensors], [o[at : at + size] for o in outputs])
            if text:
                return text
            at += size
        return ""
    return _in_whole(segment, built, tensors, outputs)


def _in_whole(segment: CompiledSegment, built: Built, tensors: Sequence[Any], outputs: Sequence[Array]) -> str:
    """`_in_segment` of a batch that runs in one piece."""
    bridge = segment.bridge
    env, units = built.env, built.selection.units
    arrays = [np.array(bridge.numpy(t)) for t in tensors]
    device = _unit_results(segment, built, tensors)
    values: dict[Value, Array] = dict(zip(segment.main.inputs, arrays, strict=True))
    memo: dict[Value, Array] = {}
    values.update((p, segment.prepared.value(p, memo)) for p in segment.main.params)
    for unit in units:
        expected = _references(unit.nodes, values, env)
        for v in unit.outputs:
            if not unit.is_view:
                found = difference(device[v], expected[v])
                if found is not None:
                    return f"The first group that differs is {describe(unit)}: {found.text}."
            values[v] = expected[v] if unit.is_view else device[v]
    results = [values[v] for v in segment.main.outputs]
    for i, (got, want) in enumerate(zip(outputs, results, strict=True)):
        found = difference(got, want)
        if found is not None:
            return (
                f"Each of the {len(units)} groups of {segment.source.name} is right by itself, but result {i} of all together is "
                f"not: {found.text}. Memory of two groups overlaps, or threads race."
            )
    return _in_passes(segment, arrays, results)


def _unit_results(segment: CompiledSegment, built: Built, tensors: Sequence[Any]) -> dict[Value, Array]:
    """Every group's results on the device: the same groups, in a plan whose outputs are all of them."""
    wanted = tuple(v for u in built.selection.units if not u.is_view for v in u.outputs)
    graph = replace(segment.main, outputs=wanted, updates=())
    placed = place(graph, Selection(built.selection.units, ()), built.env)
    executable = segment.backend.build(placed.plan, segment.options)
    bridge = segment.bridge
    prepared = segment.prepared.of(placed, executable)
    results = [bridge.allocate(t) for t in placed.plan.outputs]
    executable.run(
        [bridge.address(t) for t in tensors], prepared.addresses, [bridge.address(t) for t in results],
        bridge.threads(), bridge.stream(),
    )  # fmt: skip
    return {v: np.array(bridge.numpy(t)) for v, t in zip(wanted, results, strict=True)}


def _references(nodes: Sequence[Node], values: Mapping[Value, Array], env: Env) -> dict[Value, Array]:
    """What ``nodes`` compute from ``values``, by their operators' references."""
    found: dict[Value, Array] = {}
    for node in nodes:
        inputs = [found[v] if v in found else values[v] for v in node.inputs]
        found.update(zip(node.outputs, lookup(node.op, node.where()).ref(inputs, bind_attrs(node, env).attrs), strict=True))
    return found


def _in_passes(segment: CompiledSegment, arrays: Sequence[Array], results: Sequence[Array]) -> str:
    """The first graph pass that changed what the graph computes, or ""."""
    params = {p.name: segment.bridge.numpy(segment.parameters[p.name]()) for p in segment.source.params}
    truth = run_graph(segment.source, arrays, params)
    if not _differs(results, truth):
        return ""
    graph: Graph = segment.source
    for p in segment.passes():
        graph = p.run(graph)
        if text := _differs(run_graph(graph, arrays, params), truth):
            return f"The graph pass {p.name!r} changed what {segment.source.name} computes: {text}."
    return f"The layouts chosen for {segment.source.name} changed what it computes: {_differs(results, truth)}."


def _differs(got: Sequence[Array], want: Sequence[Array]) -> str:
    found = [difference(a, b) for a, b in zip(got, want, strict=True)]
    return next((f"result {i}: {d.text}" for i, d in enumerate(found) if d is not None), "")


def describe(unit: Unit) -> str:
    """A group for messages: its layers, its operators, and what runs it."""
    layers = ", ".join(dict.fromkeys(n.origin or n.op for n in unit.nodes))
    how = f"{unit.candidate.proposer}: {unit.candidate.reason}" if unit.candidate else "on the host"
    return f"{layers} [{' + '.join(n.op for n in unit.nodes)}] ({how})"

