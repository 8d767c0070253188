"""Choose candidates so that every node is run exactly once, at the least estimated time."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from nnaccel_core.errors import UnsupportedError
from nnaccel_core.ir import Graph, Node, Value
from nnaccel_core.ir.reach import step_between
from nnaccel_core.ops.registry import lookup
from nnaccel_core.select.candidate import Candidate, Chain

#: Estimated time of an op run by its reference on the host: a last resort, never preferred.
HOST_SECONDS = 1.0


@dataclass(frozen=True, eq=False)
class Unit:
    """A chosen candidate, or a node without one (a view, or a host op)."""

    nodes: tuple[Node, ...]
    candidate: Candidate | None

    @property
    def is_view(self) -> bool:
        return self.candidate is None and lookup(self.nodes[0].op).limit == "view"

    @property
    def outputs(self) -> tuple[Value, ...]:
        return self.candidate.outputs if self.candidate else self.nodes[0].outputs

    @property
    def inputs(self) -> tuple[Value, ...]:
        return self.candidate.inputs if self.candidate else self.nodes[0].inputs

    @property
    def launches(self) -> int:
        """Steps of a plan that it becomes."""
        if self.is_view:
            return 0
        c = self.candidate
        return len(c.impl.calls) if c is not None and c.proposer == "core" and not isinstance(c.impl, Chain) else 1

    @property
    def origin(self) -> str:
        return next((n.origin for n in self.nodes if n.origin), self.nodes[0].op)


@dataclass(frozen=True)
class Selection:
    """Units in execution order, and for every candidate that lost, why."""

    units: tuple[Unit, ...]
    rejected: tuple[tuple[Candidate, str], ...]

    def seconds(self) -> float:
        return sum(u.candidate.seconds for u in self.units if u.candidate)


def needed_outside(nodes: Sequence[Node], uses: dict[Value, list[Node]], results: set[Value]) -> list[Value]:
    """Values of ``nodes`` that something outside reads."""
    inside = set(map(id, nodes))
    return [v for n in nodes for v in n.outputs if v in results or any(id(u) not in inside for u in uses.get(v, ()))]


def why_invalid(c: Candidate, uses: dict[Value, list[Node]], results: set[Value]) -> str:
    """Reason that ``c`` cannot be used in this graph, or ""."""
    written = set(c.outputs)
    for v in needed_outside(c.nodes, uses, results):
        if v not in written:
            return f"%{v.name} is used outside, but the candidate does not store it"
    return ""


def _copy_charges(candidates: Sequence[Candidate]) -> dict[Value, float]:
    """Seconds to copy each value that is an operand of a concat into that one's output, unless it is written there."""
    charges: dict[Value, float] = {}
    for c in candidates:
        for v, seconds in zip(c.inputs, c.gathers, strict=False):
            charges.setdefault(v, seconds)  # a later concat of the same operands finds them in place
    return charges


def _copies(c: Candidate, charges: Mapping[Value, float]) -> float:
    """What copies of the results of ``c`` cost that it cannot write into a slice."""
    strided = c.strided_out or (False,) * len(c.outputs)
    return sum(charges.get(v, 0.0) for v, can in zip(c.outputs, strided, strict=True) if not can)


def _order(graph: Graph, groups: dict[int, int]) -> list[int]:
    """Topological order of groups, earliest node first. ``groups``: id(node) -> group number."""
    producer = {v: groups[id(n)] for n in graph.nodes for v in n.outputs}
    first: dict[int, int] = {}
    pending: dict[int, set[int]] = {}
    after: dict[int, set[int]] = {}
    for position, node in enumerate(graph.nodes):
        g = groups[id(node)]
        first.setdefault(g, position)
        pending.setdefault(g, set())
        for v in node.inputs:
            p = producer.get(v)
            if p is not None and p != g:
                pending[g].add(p)
                after.setdefault(p, set()).add(g)
    ready = [(first[g], g) for g, deps in pending.items() if not deps]
    heapq.heapify(ready)
    order: list[int] = []
    while ready:
        _, g = heapq.heappop(ready)
        order.append(g)
        for h in after.get(g, ()):
            pending[h].discard(g)
            if not pending[h]:
                heapq.heappush(ready, (first[h], h))
    assert len(order) == len(pending), "groups wait for each other"
    return order


def _exchange(
    c: Candidate,
    taken: Mapping[int, Candidate],
    usable: Sequence[Candidate],
    cost: Mapping[int, float],
    alone: Callable[[Node], float],
) -> tuple[list[Candidate], list[Candidate]] | None:
    """Candidates to give up, and those to choose instead, so that the library's ``c`` takes one layer of a generated group
    along for no more time; None when that is not so.

    The greedy cover gives an activation to whichever side saves more as a whole, mostly the larger group. In the epilogue of
    a product it costs nothing; a group with windows computes it again for each window that reads it.
    """
    if c.proposer == "core":
        return None
    mine = {id(n) for n in c.nodes}
    holders = list({id(h): h for n in c.nodes if (h := taken.get(id(n))) is not None}.values())
    across = [h for h in holders if any(id(n) not in mine for n in h.nodes)]
    if len(across) != 1 or across[0].proposer != "core" or sum(id(n) in mine for n in across[0].nodes) != 1:
        return None
    left = {id(n) for n in across[0].nodes} - mine
    rest = min(
        (o for o in usable if len(o.nodes) == len(left) and all(id(n) in left for n in o.nodes)),
        key=lambda o: cost[id(o)],
        default=None,
    )
    if rest is None:
        return None
    before = sum(cost[id(h)] for h in holders) + sum(alone(n) for n in c.nodes if id(n) not in taken)
    return (holders, [c, rest]) if cost[id(c)] + cost[id(rest)] <= before else None


def _dissolve(
    group: Candidate,
    taken: Mapping[int, Candidate],
    several: Sequence[Candidate],
    cost: Mapping[int, float],
    alone: Callable[[Node], float],
) -> tuple[list[Candidate], list[Candidate]] | None:
    """Candidates to give up, and those to choose instead, so that libraries' candidates around the generated ``group`` take
    its layers along for less time in all; None when that is not so.

    The greedy cover compares ``group`` with one candidate at a time: of two convolutions that end in a concat, each with an
    activation in between, neither saves as much by its own activation as the group of both activations and the concat does.

    Args:
        several: usable candidates of more than one node that have nodes of ``group``, those that save most first.
    """
    inside = {id(n) for n in group.nodes}
    old, new = [group], []
    covered: set[int] = set()
    before, after = cost[id(group)], 0.0
    for c in several:
        mine = {id(n) for n in c.nodes}
        if c is group or mine & covered or not mine & inside:
            continue
        holders = {id(h): h for n in c.nodes if (h := taken.get(id(n))) is not None and h is not group}
        if any(id(n) not in mine for h in holders.values() for n in h.nodes):
            continue
        old += holders.values()
        new.append(c)
        covered |= mine
        before += sum(cost[i] for i in holders) + sum(alone(n) for n in c.nodes if id(n) not in taken)
        after += cost[id(c)]
    after += sum(alone(n) for n in group.nodes if id(n) not in covered)
    return (old, new) if new and after < before else None


def select(graph: Graph, candidates: Sequence[Candidate]) -> Selection:
    """Cover ``graph`` with ``candidates``: greedily by saved time over running the same nodes one by one.

    Raises:
        UnsupportedError: a node that no candidate, host reference or view covers.
    """
    uses, results = graph.uses(), set(graph.results())
    rejected: list[tuple[Candidate, str]] = []
    single: dict[int, Candidate] = {}
    several: list[tuple[float, int, Candidate]] = []
    charges = _copy_charges(candidates)
    cost = {id(c): c.seconds + _copies(c, charges) for c in candidates}
    present = set(map(id, graph.nodes))
    usable: list[Candidate] = []
    for c in candidates:
        reason = why_invalid(c, uses, results)
        if not reason and any(id(n) not in present for n in c.nodes):
            reason = "covers a node that is not in the graph"
        if reason:
            rejected.append((c, reason))
            continue
        usable.append(c)
        if len(c.nodes) == 1:
            key = id(c.nodes[0])
            best = single.get(key)
            if best is None or cost[id(c)] < cost[id(best)]:
                if best is not None:
                    rejected.append((best, f"{c.reason} is faster"))
                single[key] = c
            else:
                rejected.append((c, f"{best.reason} is faster"))

    def alone(node: Node) -> float:
        c = single.get(id(node))
        if c is not None:
            return cost[id(c)]
        return 0.0 if lookup(node.op).limit == "view" else HOST_SECONDS

    for i, c in enumerate(usable):
        if len(c.nodes) > 1:
            saved = sum(alone(n) for n in c.nodes) - cost[id(c)]
            if saved > 0:
                several.append((-saved, i, c))
            else:
                rejected.append((c, "running its layers one by one is not slower"))
    several.sort(key=lambda t: t[:2])

    positions = {id(n): i for i, n in enumerate(graph.nodes)}
    groups = dict(positions)
    chosen: dict[int, Candidate] = {}
    taken: dict[int, Candidate] = {}
    steps: dict[int, tuple[int, int]] = {}
    reach = graph.reach
    for _, _, c in several:
        clash = next((taken[id(n)] for n in c.nodes if id(n) in taken), None)
        if clash is not None:
            rejected.append((c, f"{clash.reason} at {clash.nodes[0].where()} saves more"))
            continue
        step = reach.members(c.nodes), reach.below(c.nodes)
        if reach.between(c.nodes) or step_between(*step, steps.values()) is not None:
            rejected.append((c, "together with the groups chosen before it would wait for itself"))
            continue
        number = groups[id(c.nodes[0])]
        groups.update((id(n), number) for n in c.nodes)
        steps[number] = step
        chosen[number] = c
        taken.update((id(n), c) for n in c.nodes)

    def exchange(old: Sequence[Candidate], new: Sequence[Candidate], reason: str) -> None:
        """Choose ``new`` instead of ``old``, unless groups would then wait for each other."""
        trial = {n: step for n, step in steps.items() if chosen[n] not in old}
        for wanted in new:
            step = reach.members(wanted.nodes), reach.below(wanted.nodes)
            if reach.between(wanted.nodes) or step_between(*step, trial.values()) is not None:
                return
            if len(wanted.nodes) > 1:
                trial[positions[id(wanted.nodes[0])]] = step
        for given in old:
            rejected.append((given, reason))
            del chosen[positions[id(given.nodes[0])]]
            for n in given.nodes:
                del taken[id(n)]
                groups[id(n)] = positions[id(n)]
        for wanted in (w for w in new if len(w.nodes) > 1):
            number = positions[id(wanted.nodes[0])]
            groups.update((id(n), number) for n in wanted.nodes)
            chosen[number] = wanted
            taken.update((id(n), wanted) for n in wanted.nodes)
        steps.clear()
        steps.update(trial)

    for _, _, c in several:
        swap = _exchange(c, taken, usable, cost, alone)
        if swap is not None:
            exchange(*swap, f"{c.reason} takes one of its layers along for no more time")
    around: dict[int, list[Candidate]] = {}
    for _, _, c in several:
        for n in c.nodes:
            around.setdefault(id(n), []).append(c)
    rank = {id(c): i for i, (_, _, c) in enumerate(several)}
    for group in [c for c in chosen.values() if c.proposer == "core"]:
        near = {id(c): c for n in group.nodes for c in around[id(n)]}
        swap = _dissolve(group, taken, sorted(near.values(), key=lambda c: rank[id(c)]), cost, alone)
        if swap is not None:
            exchange(*swap, f"{swap[1][0].reason} and others take its layers along for less time")

    order = _order(graph, groups)
    by_group: dict[int, list[Node]] = {}
    for n in graph.nodes:
        by_group.setdefault(groups[id(n)], []).append(n)
    units: list[Unit] = []
    for g in order:
        nodes = tuple(by_group[g])
        if g in chosen:
            units.append(Unit(chosen[g].nodes, chosen[g]))
            continue
        (node,) = nodes
        opdef = lookup(node.op, node.where())
        c1 = single.get(id(node))
        if c1 is None and opdef.limit != "view" and not opdef.host:
            raise UnsupportedError(
                f"nothing can run {node.where()}: {node!r}; no backend candidate, no loop nest, no host reference"
            )
        units.append(Unit((node,), None if opdef.limit == "view" else c1))
    return Selection(tuple(units), tuple(rejected))
