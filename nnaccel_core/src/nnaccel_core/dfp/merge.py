"""Stage 2, `merge`: which nodes form a depth-first group.

Greedy pairwise merging from the graph's outputs backwards (Mullapudi et al., Automatically scheduling Halide image
processing pipelines, 2016). Whether two groups may merge is three questions, each with its own answer: legal,
acyclic, profitable.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from nnaccel_core.dfp.build import Sized, plan_group
from nnaccel_core.dfp.group import Reason, pattern
from nnaccel_core.dfp.store import Structures
from nnaccel_core.ir import Env, Graph, Node, Value
from nnaccel_core.ir.reach import step_between
from nnaccel_core.ops import registry

if TYPE_CHECKING:
    from nnaccel_core.api import Machine

#: Nodes and arguments one kernel may have: larger ones compile slowly and run out of registers for addresses.
MAX_NODES, MAX_ARGUMENTS, BESIDE_WIDEST = 24, 16, 4

Group = frozenset[Node]
#: Groups, and as bit sets their members and what lies below them.
Masks = dict[Group, tuple[int, int]]


@dataclass
class Context:
    """What merging knows of a graph; nothing in it changes but the notes and the remembered plans."""

    graph: Graph
    env: Env
    machine: Machine
    structures: Structures | None = None
    #: whether parameters change at every call, so that nothing is computed from them once
    live: bool = False
    order: dict[Node, int] = field(init=False)
    uses: dict[Value, list[Node]] = field(init=False)
    results: set[Value] = field(init=False)
    producers: dict[Value, Node] = field(init=False)
    constants: dict[Value, Any] = field(init=False)
    parametric: set[Value] = field(init=False)
    refusals: list[Reason] = field(default_factory=list)
    _plans: dict[int, Sized | Reason] = field(default_factory=dict)
    _masks: dict[Group, tuple[int, int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        g = self.graph
        self.order = g.reach.order
        self.uses, self.producers, self.results = g.uses(), g.producers(), set(g.results())
        self.constants = {}
        #: values that depend on parameters only, where these are computed once, by `prepare`
        self.parametric = set() if self.live else set(g.params)
        for n in g.nodes:
            if n.op == "constant" and n.attrs["value"].size == 1:
                if n.attrs["value"].ndim == 0:
                    self.constants[n.output] = n.attrs["value"].item()
            if not self.live and all(v in self.parametric for v in n.inputs):
                self.parametric.update(n.outputs)

    def between(self, nodes: Iterable[Node]) -> int:
        """Bit set of the nodes outside ``nodes`` that lie on a path from one of them to another."""
        return self.graph.reach.between(nodes)

    def masks(self, group: Group) -> tuple[int, int]:
        """Bit sets of a group's members and of what lies below them."""
        found = self._masks.get(group)
        if found is None:
            found = self._masks[group] = self.graph.reach.members(group), self.graph.reach.below(group)
        return found

    def outputs(self, nodes: Iterable[Node]) -> tuple[Value, ...]:
        """Values of ``nodes`` (in graph order) that are needed outside of them."""
        inside = set(nodes)
        ordered = sorted(inside, key=self.order.__getitem__)
        return tuple(
            v
            for n in ordered
            for v in n.outputs
            if v in self.results or any(u not in inside for u in self.uses.get(v, ())) or not self.uses.get(v)
        )

    def ordered(self, nodes: Iterable[Node]) -> tuple[Node, ...]:
        """``nodes`` in graph order."""
        return tuple(sorted(nodes, key=self.order.__getitem__))

    def planned(self, nodes: Iterable[Node]) -> Sized | Reason:
        """How a set of nodes runs as one kernel, remembered."""
        key = self.masks(frozenset(nodes))[0]
        found = self._plans.get(key)
        if found is None:
            ordered = self.ordered(nodes)
            p = pattern(ordered, self.outputs(ordered), self.constants)
            found = self._plans[key] = plan_group(p, self.constants, self.env, self.machine, self.structures)
        return found

    def eligible(self, node: Node) -> bool:
        """Whether a depth-first group may contain ``node``."""
        op = registry.lookup(node.op, node.where())
        if op.loop is None or op.limit_of(node) not in ("io", "any"):
            return False
        return self.live or not all(v in self.parametric for v in node.inputs)


def legal(ctx: Context, a: Group, b: Group) -> Reason | None:
    """Why ``a`` and ``b`` cannot be one kernel."""
    both = a | b
    if len(both) > MAX_NODES:
        return Reason(f"more than {MAX_NODES} nodes in one kernel", tuple(both)[:2])
    inside = {v for n in both for v in n.outputs}
    widest = max(len(n.inputs) for n in both)  # a concat of many operands may take along what follows it
    most = max(MAX_ARGUMENTS, widest + BESIDE_WIDEST)
    if len({v for n in both for v in n.inputs} - inside) + len(ctx.outputs(both)) > most:
        return Reason(f"more than {most} arguments of one kernel", tuple(both)[:2])
    found = ctx.planned(both)
    return found if isinstance(found, Reason) else None


def acyclic(ctx: Context, a: Group, b: Group, groups: Masks) -> Reason | None:
    """Why running ``a`` and ``b`` as one step, beside ``groups`` of several nodes, would need its own result first."""
    both = a | b
    between = ctx.between(both)
    if between:
        k = (between & -between).bit_length() - 1
        return Reason("a node outside lies between them", (ctx.graph.nodes[k],))
    # Also through other groups, which run as one step each.
    mine, below = ctx.masks(both)
    others = [(g, masks) for g, masks in groups.items() if not masks[0] & mine]
    found = step_between(mine, below, [masks for _, masks in others])
    return None if found is None else Reason("another group lies between them", tuple(others[found][0]))


def profitable(ctx: Context, a: Group, b: Group) -> Reason | None:
    """Why one kernel would be no faster than two: what storing saves against the work it repeats."""
    one, apart = _seconds(ctx, a | b), _seconds(ctx, a) + _seconds(ctx, b)
    if one >= apart:
        return Reason(f"{one * 1e6:.1f} us as one, {apart * 1e6:.1f} us apart", tuple(sorted(a | b, key=ctx.order.__getitem__)))
    return None


def _seconds(ctx: Context, group: Group) -> float:
    found = ctx.planned(group)
    return found.plan.seconds if isinstance(found, Sized) else float("inf")


def merge(ctx: Context) -> list[tuple[Node, ...]]:
    """The groups of two or more nodes, in graph order; refusals are noted in ``ctx.refusals``."""
    owner: dict[Node, Group] = {n: frozenset((n,)) for n in ctx.graph.nodes if ctx.eligible(n)}
    groups: Masks = {}  # those of several nodes
    refused: set[tuple[Group, Group]] = set()  # for good: other groups that grow can only stand in the way
    for node in reversed(ctx.graph.nodes):
        if node not in owner:
            continue
        while True:
            group = owner[node]
            found = _best(ctx, group, owner, groups, refused)
            if found is None:
                break
            _join(ctx, group, found, owner, groups)
    if ctx.machine.kind == "cuda":
        _siblings(ctx, owner, groups)
    ordered = [tuple(sorted(g, key=ctx.order.__getitem__)) for g in groups]
    return sorted(ordered, key=lambda g: ctx.order[g[0]])


def _join(ctx: Context, a: Group, b: Group, owner: dict[Node, Group], groups: Masks) -> Group:
    joined = a | b
    for n in joined:
        owner[n] = joined
    for old in (a, b):
        groups.pop(old, None)
    groups[joined] = ctx.masks(joined)
    return joined


def _siblings(ctx: Context, owner: dict[Node, Group], groups: Masks) -> None:
    """Merge groups that read one value, though neither reads the other: one launch, and one pass over what both read.

    On GPUs, where a launch costs what moving ten megabytes does; running statistics alone are three small kernels a layer.
    """
    for value, readers in ctx.uses.items():
        left = list(dict.fromkeys(owner[n] for n in readers if n in owner))
        if value in ctx.constants:  # a constant is no traffic: only what is nothing but a launch (counters of batches) gains
            left = [g for g in left if all(v.type.rank == 0 for v in ctx.outputs(g))]
        while len(left) > 1:
            first = left.pop(0)
            for k, other in enumerate(left):
                reason = acyclic(ctx, first, other, groups) or legal(ctx, first, other) or profitable(ctx, first, other)
                if reason is None:
                    left[k] = _join(ctx, first, other, owner, groups)
                    break
                ctx.refusals.append(reason)


def _best(
    ctx: Context, group: Group, owner: Mapping[Node, Group], groups: Masks, refused: set[tuple[Group, Group]]
) -> Group | None:
    """The producer group that is most worth merging into ``group``."""
    producers: dict[Group, None] = {}
    for n in sorted(group, key=ctx.order.__getitem__, reverse=True):
        for v in n.inputs:
            p = ctx.producers.get(v)
            if p is not None and p in owner and owner[p] is not group and owner[p] != group:
                producers.setdefault(owner[p])
    best: tuple[float, Group] | None = None
    for other in producers:
        if (group, other) in refused:
            continue
        reason = acyclic(ctx, group, other, groups) or legal(ctx, group, other) or profitable(ctx, group, other)
        if reason is not None:
            refused.add((group, other))
            ctx.refusals.append(reason)
            continue
        saved = _seconds(ctx, group) + _seconds(ctx, other) - _seconds(ctx, group | other)
        if best is None or saved > best[0]:
            best = (saved, other)
    return best[1] if best else None


def variants(ctx: Context, group: tuple[Node, ...]) -> list[tuple[Node, ...]]:
    """Smaller groups to offer beside ``group``: without what a library, or a kernel written by hand, may take: leading
    element-wise nodes that follow a product, and gradients of max pooling."""
    rest = list(group)
    changed = True
    while changed:
        changed = False
        for n in rest:
            op = registry.lookup(n.op)
            inside = {v for m in rest for v in m.outputs}
            if op.limit_of(n) != "any" or any(v in inside for v in n.inputs):
                continue
            if any(_from_product(ctx, v, group) for v in n.inputs):
                rest.remove(n)
                changed = True
                break
    parts = _components(ctx, rest) if 0 < len(rest) < len(group) else []
    pooling = _pooling(ctx, group)
    if 0 < len(pooling) < len(group):
        parts.append(tuple(n for n in group if n not in pooling))  # what reads the gradient reads it once
    return [part for part in parts if len(part) > 1]


def _pooling(ctx: Context, group: tuple[Node, ...]) -> set[Node]:
    """Gradients of max pooling in ``group``, with the search for the maxima and the mask of a ReLU in front of the pooling."""
    found: set[Node] = set()
    for n in group:
        if n.op != "max_pool_backward":
            continue
        found.update(m for m in (n, ctx.producers.get(n.inputs[1])) if m in group)
        readers = ctx.uses.get(n.output, [])
        mask = ctx.producers.get(readers[0].inputs[0]) if len(readers) == 1 and readers[0].op == "where" else None
        if mask is not None and mask.op == "le" and len(ctx.uses[mask.output]) == 1:
            found |= {readers[0], mask}
    return found


def _from_product(ctx: Context, value: Value, group: tuple[Node, ...]) -> bool:
    """Whether ``value`` comes from a product, possibly through element-wise nodes of the group."""
    node = ctx.producers.get(value)
    while node is not None and node in group and registry.lookup(node.op).limit_of(node) == "any":
        node = ctx.producers.get(node.inputs[0]) if node.inputs else None
    return node is not None and registry.lookup(node.op, node.where()).limit_of(node) in ("compute", "params")


def _components(ctx: Context, nodes: list[Node]) -> list[tuple[Node, ...]]:
    """``nodes`` split where no value connects them."""
    left = dict.fromkeys(nodes)
    out: list[tuple[Node, ...]] = []
    while left:
        todo = [next(iter(left))]
        part: set[Node] = set()
        while todo:
            n = todo.pop()
            if n not in left or n in part:
                continue
            part.add(n)
            todo += [ctx.producers[v] for v in n.inputs if v in ctx.producers]
            todo += [u for v in n.outputs for u in ctx.uses.get(v, ())]
        for n in part:
            del left[n]
        out.append(tuple(sorted(part, key=ctx.order.__getitem__)))
    return out
