"""Split a differentiated graph into a forward and a backward graph: what to keep between them, what to compute again.

Layers' inputs are in memory anyway once the forward pass has run, so keeping them costs no time; values that a depth-first
kernel never writes would have to be written to be kept, and are computed again where that takes element-wise work only (Chen et
al. 2016, "Training deep nets with sublinear memory cost", for the principle). ``remat="memory"`` also computes again what was in
memory. A number asks for whole parts of the network to be computed again, until that part of the bytes suffices (`checkpoints`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace

from nnaccel_core.autodiff.checkpoints import choose, repeatable, small
from nnaccel_core.autodiff.parts import relaid
from nnaccel_core.autodiff.reverse import Joint, gradients
from nnaccel_core.ir import Graph, Node, Value, live_nodes
from nnaccel_core.ir.types import Layout
from nnaccel_core.ops.elementwise import is_widening
from nnaccel_core.ops.registry import lookup

#: How far back a value may be computed again from what is kept.
_DEPTH = 12


@dataclass(frozen=True)
class Kept:
    """Where the backward pass finds one of its inputs.

    ``place`` is ``"input"`` (of the segment), ``"output"`` (of the forward graph, extra ones included) or ``"grad"`` (of an
    output); ``index`` is the position there.
    """

    place: str
    index: int


@dataclass(frozen=True)
class Derivative:
    """A graph made ready for training.

    Attributes:
        forward: the graph; what is kept follows its own outputs.
        backward: inputs are ``sources`` in order, outputs the gradients of ``wanted``; reads parameters by itself.
        sources: where each input of ``backward`` comes from.
        wanted: positions in ``wrt`` of the values that have a gradient; the others' is zero.
        seeded: positions of the graph's outputs that carry gradients.
        depends: for each of ``wanted``, the positions of the outputs whose gradients it depends on.
    """

    forward: Graph
    backward: Graph
    sources: tuple[Kept, ...]
    wanted: tuple[int, ...]
    seeded: tuple[int, ...]
    depends: tuple[frozenset[int], ...]


def recomputable(node: Node) -> bool:
    """Whether computing ``node`` again is element-wise work: no sums, no windows, nothing on the host."""
    op = lookup(node.op, node.where())
    return not op.host and (op.limit_of(node) in ("any", "view") or op.pointwise)


class _Partition:
    def __init__(self, joint: Joint, remat: str | float) -> None:
        self.joint = joint
        graph = joint.forward
        self.given = set(graph.inputs) | set(graph.params)
        self.producers = graph.producers()
        self.uses = graph.uses()
        self.outputs = set(graph.outputs)
        self.remat = remat
        self.kept: dict[Value, None] = {}
        self.again: set[Node] = set()

    def run(self) -> None:
        """Decide for everything that the gradients read."""
        own = {v for n in self.joint.nodes for v in n.outputs} | {seed for _, seed in self.joint.seeds}
        needed = dict.fromkeys(v for n in self.joint.nodes for v in n.inputs if v not in own)
        needed.update((g, None) for g in self.joint.grads if g is not None and g not in own)
        later: list[Value] = []
        for v in needed:
            if v in self.given or v in self.kept:
                continue
            if v in self.outputs or not recomputable(self.producers[v]):
                self.kept[v] = None
            else:
                later.append(v)
        order = {v: k for k, n in enumerate(self.joint.forward.nodes) for v in n.outputs}
        for v in sorted(later, key=order.__getitem__):
            if v in self.kept:
                continue
            node = self.producers[v]
            if is_widening(node):  # what it was made of takes fewer bytes
                self.again.add(node)
                if node.inputs[0] not in self.given:
                    self.kept[node.inputs[0]] = None
                continue
            chain = self._chain(v, _DEPTH)
            if chain is not None and (self._inside(v) or self.remat == "memory" or _moves_nothing(chain[0])):
                self.again.update(chain[0])
                self.kept.update(dict.fromkeys(chain[1]))
            else:
                self.kept[v] = None
        if not isinstance(self.remat, str):
            self._within(self.remat, needed)

    def _within(self, budget: float, needed: Iterable[Value]) -> None:
        """Keep at most ``budget`` times the bytes that would be kept, and compute the rest again."""
        fixed = self.given | self.outputs
        found = choose(self.joint.forward.nodes, [v for v in self.kept if v not in fixed], fixed, budget)
        keep = (self.kept.keys() - found.dropped) | found.added | self.outputs
        self.kept, self.again = {}, set()
        stack = list(needed)
        while stack:
            v = stack.pop()
            if v in self.given or v in self.kept or self.producers[v] in self.again:
                continue
            node = self.producers[v]
            if v in keep or small(v) or not repeatable(node):
                self.kept[v] = None
            else:
                self.again.add(node)
                stack += node.inputs

    def _inside(self, v: Value) -> bool:
        """Whether ``v`` may never be written in the forward pass: only element-wise layers and views read it."""
        return all(recomputable(n) for n in self.uses.get(v, ()))

    def _chain(self, v: Value, depth: int) -> tuple[dict[Node, None], list[Value]] | None:
        """The nodes that give ``v`` again, and small values to keep for that; None when more than small ones were needed."""
        if v in self.given or v in self.kept:
            return {}, []
        node = self.producers[v]
        if not recomputable(node):
            return ({}, [v]) if small(v) else None
        if depth == 0:
            return None
        nodes: dict[Node, None] = {}
        few: list[Value] = []
        for x in node.inputs:
            part = self._chain(x, depth - 1)
            if part is None:
                return None
            nodes.update(part[0])
            few += part[1]
        nodes[node] = None
        return nodes, few


def _moves_nothing(nodes: Iterable[Node]) -> bool:
    """Whether ``nodes`` are views and constants, which cost neither memory nor time."""
    return all(lookup(n.op).limit_of(n) == "view" for n in nodes)


def derive(graph: Graph, wrt: Sequence[Value], detached: Collection[int] = (), remat: str | float = "auto") -> Derivative:
    """Forward and backward graphs of ``graph`` with respect to ``wrt``.

    Args:
        graph: the captured graph; ``wrt``: inputs or parameters of it.
        detached: positions of outputs that nobody takes gradients of.
        remat: ``"auto"`` computes again what costs no extra pass over memory; ``"memory"`` also what element-wise layers give
            from what is kept: less memory for more time. A number in 0..1: whole parts of the network are computed again, until
            what is kept, and computed again at a time, is at most that part of what ``"auto"`` keeps.

    Raises:
        UnsupportedError: an operator on the way has no gradient; names its layer.
    """
    joint = gradients(graph, wrt, detached)
    partition = _Partition(joint, remat)
    partition.run()
    forward = _forward(joint, list(partition.kept))
    return _backward(joint, forward, partition)


def _forward(joint: Joint, kept: Sequence[Value]) -> Graph:
    graph = joint.forward
    given = set(graph.outputs)
    extra = tuple(v for v in kept if v not in given)
    return replace(graph, outputs=graph.outputs + extra, name=f"{graph.name}.forward")


def _backward(joint: Joint, forward: Graph, partition: _Partition) -> Derivative:
    wanted = tuple(k for k, g in enumerate(joint.grads) if g is not None)
    outputs = tuple(g for g in joint.grads if g is not None)
    nodes = _placed([n for n in joint.forward.nodes if n in partition.again], joint.nodes)
    nodes = live_nodes(nodes, outputs)
    read = dict.fromkeys(v for n in nodes for v in n.inputs)
    read.update(dict.fromkeys(outputs))
    made = {v for n in nodes for v in n.outputs}
    seeds = {seed: k for k, seed in joint.seeds}
    at = {v: k for k, v in reversed(list(enumerate(forward.outputs)))}
    given = {v: k for k, v in enumerate(forward.inputs)}
    inputs: list[Value] = []
    sources: list[Kept] = []
    params: list[Value] = []
    for v in read:
        if v in made:
            continue
        if v in seeds:
            inputs.append(v)
            sources.append(Kept("grad", seeds[v]))
        elif v in given:
            inputs.append(v)
            sources.append(Kept("input", given[v]))
        elif v in at:
            inputs.append(v)
            sources.append(Kept("output", at[v]))
        else:
            params.append(v)
    backward = Graph(
        tuple(inputs),
        tuple(params),
        tuple(nodes),
        outputs,
        (),
        forward.guards,
        f"{joint.forward.name}.backward",
    )
    of = _seeds_of(joint)
    depends = tuple(of.get(v, frozenset()) for v in outputs)
    return Derivative(forward, backward, tuple(sources), wanted, tuple(k for k, _ in joint.seeds), depends)


def _seeds_of(joint: Joint) -> dict[Value, frozenset[int]]:
    """For each value, the outputs on whose gradients it depends."""
    found: dict[Value, frozenset[int]] = {seed: frozenset([k]) for k, seed in joint.seeds}
    for node in joint.nodes:
        parts = [found[v] for v in node.inputs if v in found]
        if parts:
            found.update(dict.fromkeys(node.outputs, frozenset().union(*parts)))
    return found


def _placed(again: Sequence[Node], nodes: Sequence[Node]) -> list[Node]:
    """``nodes`` with those of ``again`` each in front of the first that reads it, so that results live shortly."""
    producers = {v: n for n in again for v in n.outputs}
    done: set[Node] = set()
    out: list[Node] = []

    def place(node: Node) -> None:
        if node in done:
            return
        done.add(node)
        for v in node.inputs:
            if v in producers:
                place(producers[v])
        out.append(node)

    for node in nodes:
        for v in node.inputs:
            if v in producers:
                place(producers[v])
        out.append(node)
    for node in again:
        place(node)
    return out


def with_layouts(derivative: Derivative, layouts: Sequence[Layout | None]) -> Graph:
    """The backward graph for inputs that lie in memory as ``layouts`` says of each (None: as they are typed)."""
    return relaid(derivative.backward, layouts)


__all__ = ["Derivative", "Kept", "derive", "recomputable", "with_layouts"]
