"""Chains: layers that were chosen one by one, run together on a few rows of images at a time.

What lies between the layers of a chain never leaves the second-level cache: an expansion, a depthwise convolution and the
projection behind it; a squeeze and its expansions; any layers that say how they compute rows (`Candidate.by_rows`). Layers that
read the same rows may be one chain too. Which ones run so is decided by estimated time: what stays in the cache and steps that
are not started, against rows computed twice where strips of an image meet and weights that are read again for each band.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from nnaccel_core.ir import Graph, Node, TensorType, Value, channels_last
from nnaccel_core.ir.reach import step_between
from nnaccel_core.select.candidate import ByRows, Candidate, Chain
from nnaccel_core.select.cover import Selection, Unit
from nnaccel_core.select.schedule import Layer, reach, row_bytes_of, schedule

if TYPE_CHECKING:
    from nnaccel_core.api import Machine

#: Rows of what a chain stores that a band may have.
BANDS = (1, 2, 4, 8, 16, 32)
#: Strips of all images for each core: more even out cores of unequal speed, fewer repeat fewer rows.
STRIPS_PER_CORE = (1, 2)
#: Part of the second-level cache for intermediates and weights.
CACHE = 0.5
#: Seconds to start a chain, and a member of it on a band.
LAUNCH, CALL = 3e-6, 4e-7
#: Bytes a second that one core reads from its second-level cache.
L2_BANDWIDTH = 4e10
#: A chain has to take at most this part of the time of its layers one by one.
WINS = 0.98
#: Part of the time lost where each core gets a single strip: cores are never equally fast.
IMBALANCE = 0.05


@dataclass(frozen=True, eq=False)
class _Plan:
    """Units that may run as one."""

    units: tuple[int, ...]
    seconds: float
    strips: int = 0
    band: int = 0


class _Finder:
    def __init__(
        self, graph: Graph, selection: Selection, static: Callable[[Value], TensorType], machine: Machine
    ) -> None:
        self.graph = graph
        self.machine = machine
        self.static = functools.cache(static)
        self.units = selection.units
        self.results = set(graph.results())
        self.params = set(graph.params)
        self.unit_of = {n: i for i, u in enumerate(self.units) for n in u.nodes}
        self.uses = graph.uses()
        self.forms = self._forms(selection)
        self.local = functools.cache(self._local)  # asked again by each try to merge

    def _forms(self, selection: Selection) -> dict[int, Candidate]:
        """For each unit the candidate of its layers that computes rows; the chosen one if it does."""
        offered: dict[tuple[frozenset[Node], tuple[Value, ...]], Candidate] = {}
        for c, _ in selection.rejected:
            if c.by_rows is not None and self._is_image(c.outputs[0]):
                key = frozenset(c.nodes), c.outputs
                if key not in offered or c.seconds < offered[key].seconds:
                    offered[key] = c
        found = {}
        for i, unit in enumerate(self.units):
            chosen = unit.candidate
            if chosen is None or chosen.gathers:
                continue
            own = chosen.by_rows is not None and self._is_image(chosen.outputs[0])
            form = chosen if own else offered.get((frozenset(chosen.nodes), chosen.outputs))
            if form is not None:
                found[i] = form
        return found

    def _is_image(self, v: Value) -> bool:
        t = self.static(v)
        return t.rank == 4 and t.same_memory(channels_last(4)) and 0 not in t.shape

    def _height(self, v: Value) -> int:
        return int(self.static(v).shape[2])  # type: ignore[arg-type]

    def _local(self, v: Value) -> tuple[int, ...]:
        """The units that read ``v`` by rows; () where it has to be stored."""
        if v in self.results or not self._is_image(v):
            return ()
        readers = {self.unit_of[n] for n in self.uses.get(v, ())}
        if any(i not in self.forms or not self._reads_rows(i, v) for i in readers):
            return ()
        return tuple(sorted(readers))

    def run(self) -> list[_Plan]:
        """The chains that are worth it."""
        plans: dict[int, _Plan] = {}
        for i, unit in enumerate(self.units):
            if i in self.forms:
                assert unit.candidate is not None
                plans[i] = _Plan((i,), unit.candidate.seconds)
        merged = True
        while merged:  # what cannot be one yet may be when layers between have joined
            merged = False
            for i, form in self.forms.items():
                readers = self.local(form.outputs[0])
                merged |= bool(readers) and self._merge(plans, (i, *readers))
        for v, nodes in self.uses.items():
            if v not in self.params and self._is_image(v):
                self._merge(plans, {i for n in nodes if (i := self.unit_of[n]) in self.forms and self._reads_rows(i, v)})
        return [p for p in {id(p): p for p in plans.values()}.values() if len(p.units) > 1]

    def _merge(self, plans: dict[int, _Plan], units: Iterable[int]) -> bool:
        """Run ``units``, with what they run with already, as one if that takes less time; whether it does."""
        found = {id(plans[k]): plans[k] for k in units if k in plans}
        if len(found) < 2:
            return False
        parts = list(found.values())
        together = self.planned(tuple(sorted(k for p in parts for k in p.units)))
        if together is None or together.seconds > WINS * sum(p.seconds for p in parts):
            return False
        if not self._may_run_as_one(together, {id(p): p for p in plans.values()}.values()):
            return False
        plans.update(dict.fromkeys(together.units, together))
        return True

    def _reads_rows(self, unit: int, v: Value) -> bool:
        form = self.forms[unit]
        assert form.by_rows is not None
        return all(w is not None for x, w in zip(form.inputs, form.by_rows.windows, strict=True) if x is v)

    def _may_run_as_one(self, wanted: _Plan, others: Iterable[_Plan]) -> bool:
        reach = self.graph.reach
        nodes = [n for k in wanted.units for n in self.units[k].nodes]
        if reach.between(nodes):
            return False
        mine = set(wanted.units)
        rest = [[n for k in p.units for n in self.units[k].nodes] for p in others if not mine & set(p.units)]
        rest += [list(u.nodes) for i, u in enumerate(self.units) if i not in self.forms]
        steps = [(reach.members(s), reach.below(s)) for s in rest if len(s) > 1]
        return step_between(reach.members(nodes), reach.below(nodes), steps) is None

    def layers(self, units: Sequence[int]) -> tuple[list[Layer], dict[int, Value]] | None:
        """The rows of these units, and what stays between them; None where they have no common rows."""
        number = {unit: m for m, unit in enumerate(units)}
        found, between = [], {}
        stored = []
        for m, unit in enumerate(units):
            v = self.forms[unit].outputs[0]
            readers = self.local(v)
            if readers and all(r in number for r in readers):
                between[m] = v
                read = []
                for r in readers:
                    form = self.forms[r]
                    assert form.by_rows is not None
                    read += [(number[r], w) for x, w in zip(form.inputs, form.by_rows.windows, strict=True) if x is v and w]
                found.append(Layer(self._height(v), tuple(read)))
            else:
                if any(r in number for r in readers) or any(self.unit_of[n] in number for n in self.uses.get(v, ())):
                    return None  # stored, and read by other members as well
                stored.append(v)
                found.append(Layer(self._height(v)))
        rows = {(self.static(v).shape[0], self._height(v)) for v in stored}
        images = {self.static(self.forms[u].outputs[0]).shape[0] for u in units}
        return (found, between) if len(rows) == len(images) == 1 else None

    def planned(self, units: tuple[int, ...]) -> _Plan | None:
        """The best way to run ``units`` as one; None where there is none."""
        described = self.layers(units)
        if described is None:
            return None
        layers, between = described
        windows = reach(layers)
        if windows is None:
            return None
        kept = set(between.values())
        forms: list[ByRows] = []
        seconds = []
        for u in units:
            rows = self.forms[u].by_rows
            assert rows is not None
            forms.append(rows)
            seconds.append(rows.seconds(kept))
            kept.update(v for v in self.forms[u].inputs if v not in self.params)  # others find its rows in the cache
        weights = sum(f.weights for f in forms)
        images = int(self.static(self.forms[units[0]].outputs[0]).shape[0])  # type: ignore[arg-type]
        height = layers[-1].height
        row_bytes = {m: row_bytes_of(self.static(v)) for m, v in between.items()}
        again = sum(row_bytes[m] * windows[m].overlap for m in between)
        cores, cache = self.machine.cores, CACHE * self.machine.l2
        best: _Plan | None = None
        for per_core in STRIPS_PER_CORE:
            strips = min(height, -(-cores * per_core // images))
            tasks = strips * images
            compute = sum(
                s * (layer.height + (strips - 1) * w.overlap) / layer.height
                for s, layer, w in zip(seconds, layers, windows, strict=True)
            )
            compute *= -(-tasks // cores) * cores / tasks * (1 + IMBALANCE * cores / max(tasks, cores))
            for band in BANDS:
                held = sum(row_bytes[m] * windows[m].size(band) for m in between)
                if held + weights > cache:
                    break
                bands = tasks * -(-height // (strips * band)) / cores
                overhead = bands * (len(units) * CALL + (weights + 2 * again) / L2_BANDWIDTH)
                total = LAUNCH + compute + overhead
                if best is None or total < best.seconds:
                    best = _Plan(units, total, strips, band)
                if band * strips >= height:
                    break
        return best

    def unit(self, plan: _Plan) -> Unit:
        """The chain as one candidate."""
        described = self.layers(plan.units)
        assert described is not None
        layers, between = described
        rows = schedule(layers, plan.strips, plan.band)
        members = []
        for m, u in enumerate(plan.units):
            c = self.forms[u]
            assert c.by_rows is not None
            most = max(end - begin for strip in rows.rows for band in strip for begin, end in (band[m],))
            members.append(replace(c, impl=c.by_rows.impl(most)))
        inside = set(between.values())
        inputs: dict[Value, bool] = {}
        for c in members:
            strided = c.strided_in or (False,) * len(c.inputs)
            for v, may in zip(c.inputs, strided, strict=True):
                if v not in inside:
                    inputs[v] = inputs.get(v, True) and may
        stored = [(c.outputs[0], bool(c.strided_out and c.strided_out[0])) for m, c in enumerate(members) if m not in between]
        images = int(self.static(members[0].outputs[0]).shape[0])  # type: ignore[arg-type]
        ways = "; ".join(c.reason.partition(",")[0] for c in members)
        chained = Candidate(
            nodes=tuple(n for c in members for n in c.nodes),
            inputs=tuple(inputs),
            outputs=tuple(v for v, _ in stored),
            seconds=plan.seconds,
            reason=f"depth first, {rows.strips * images} strips in bands of {plan.band} rows: {ways}",
            impl=Chain(tuple(members), between, images, rows),
            proposer="core",
            strided_in=tuple(inputs.values()),
            strided_out=tuple(may for _, may in stored),
            packs=tuple({(p.value, p.key): p for c in members for p in c.packs}.values()),
            group="chain",
        )
        return Unit(chained.nodes, chained)


def form_chains(graph: Graph, selection: Selection, static: Callable[[Value], TensorType], machine: Machine) -> Selection:
    """``selection`` with units that run faster together as one, where that is estimated to be so.

    Args:
        static: the static type of a value.
    """
    finder = _Finder(graph, selection, static, machine)
    plans = finder.run()
    if not plans:
        return selection
    at: dict[int, Unit] = {}
    gone: set[int] = set()
    for plan in plans:
        at[plan.units[-1]] = finder.unit(plan)
        gone |= set(plan.units)
    units = [at.get(i, u) for i, u in enumerate(selection.units) if i in at or i not in gone]
    return replace(selection, units=_ordered(units))


def _ordered(units: Sequence[Unit]) -> tuple[Unit, ...]:
    """``units`` with each after what it reads, otherwise in the order given."""
    writer = {v: i for i, u in enumerate(units) for v in u.outputs}
    found: list[Unit] = []
    done: set[int] = set()
    for start in range(len(units)):
        stack = [start]
        while stack:
            i = stack[-1]
            if i in done:
                stack.pop()
                continue
            waits = [writer[v] for v in units[i].inputs if v in writer and writer[v] not in done]
            if waits:
                stack += waits
                continue
            done.add(i)
            found.append(units[stack.pop()])
    return tuple(found)


__all__ = ["form_chains"]
