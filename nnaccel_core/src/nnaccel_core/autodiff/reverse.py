"""Reverse mode on the graph IR: the gradient nodes of a graph, from its operators' own rules."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from nnaccel_core.errors import UnsupportedError
from nnaccel_core.ir import Graph, Node, Rewriter, Value, prune
from nnaccel_core.ops.registry import lookup, rewriter


@dataclass(frozen=True)
class Joint:
    """A graph followed by the nodes of its gradients.

    Attributes:
        forward: the differentiated graph; what has no gradient rule but decompositions is decomposed in it.
        nodes: the nodes that gradients take, in order; they read values of ``forward``.
        seeds: for each differentiable output of ``forward``, its position and the value of its gradient.
        grads: for each value of ``wrt`` its gradient, or None where it is zero everywhere.
    """

    forward: Graph
    nodes: tuple[Node, ...]
    seeds: tuple[tuple[int, Value], ...]
    grads: tuple[Value | None, ...]


def gradients(graph: Graph, wrt: Sequence[Value], detached: Collection[int] = ()) -> Joint:
    """The vector-Jacobian product of ``graph`` with respect to ``wrt``.

    Reverse accumulation (Griewank and Walther 2008, chapter 3): nodes are visited from the last to the first; the gradients of a
    value that is read several times are added.

    Args:
        graph: any graph; its updates have no gradients.
        wrt: inputs or parameters of floating-point dtype.
        detached: positions of outputs that nobody takes gradients of.

    Raises:
        UnsupportedError: an operator on the way has no gradient; names its layer.
    """
    graph = _differentiable(graph, wrt)
    active = _active(graph, wrt)
    r = rewriter(graph)
    for node in graph.nodes:
        r.emit(node)
    before = len(r.nodes)
    found: dict[Value, list[Value]] = {}
    read_at: dict[Value, str] = {}
    seeds = []
    for k, v in enumerate(graph.outputs):
        if k not in detached and v in active and v.type.is_float:
            seed = Value(v.type, r.fresh(f"grad_{v.name}"))
            seeds.append((k, seed))
            found.setdefault(v, []).append(seed)
    for node in reversed(graph.nodes):
        if not any(v in found for v in node.outputs):
            continue
        if not any(v in active for v in node.inputs):
            continue
        grads = [_sum(r, found.get(v, []), node.origin) for v in node.outputs]
        rule = lookup(node.op, node.where()).vjp
        assert rule is not None, "checked by _differentiable"
        for v, g in zip(node.inputs, rule(r, node, node.inputs, node.outputs, grads), strict=True):
            if g is not None and v in active:
                found.setdefault(v, []).append(g)
                read_at[v] = node.origin
    grads = [_sum(r, found.get(v, []), read_at.get(v, "")) for v in wrt]
    return Joint(graph, tuple(r.nodes[before:]), tuple(seeds), tuple(grads))


def gradient_graph(joint: Joint) -> Graph:
    """The gradients as a graph of their own, from the inputs, then the seeds: what is differentiated for second derivatives."""
    graph = joint.forward
    inputs = (*graph.inputs, *(seed for _, seed in joint.seeds))
    outputs = tuple(g for g in joint.grads if g is not None)
    return prune(Graph(inputs, graph.params, (*graph.nodes, *joint.nodes), outputs, (), graph.guards, f"{graph.name}.gradients"))


def _active(graph: Graph, wrt: Collection[Value]) -> set[Value]:
    """The values that depend on ``wrt`` through floating-point numbers."""
    active = set(wrt)
    for node in graph.nodes:
        if any(v in active for v in node.inputs):
            active.update(v for v in node.outputs if v.type.is_float)
    return active


def _differentiable(graph: Graph, wrt: Sequence[Value]) -> Graph:
    """``graph`` with every active op that has no rule of its own decomposed.

    Raises:
        UnsupportedError: one has neither.
    """
    for _ in range(8):
        active = _active(graph, wrt)
        without = {
            id(n)
            for n in graph.nodes
            if lookup(n.op, n.where()).vjp is None and any(v in active for v in n.inputs) and any(v in active for v in n.outputs)
        }
        if not without:
            return graph
        r = rewriter(graph)
        for node in graph.nodes:
            if id(node) not in without:
                r.emit(node)
                continue
            ways = lookup(node.op).decompositions
            if not ways:
                raise UnsupportedError(
                    f"{node.where()}: operator {node.op!r} has no gradient rule, so it cannot be trained through"
                )
            outputs = next(iter(ways.values()))(r, node, [r.get(v) for v in node.inputs])
            for old, new in zip(node.outputs, outputs, strict=True):
                # The decomposition's result takes the place of the old value, which keeps its identity for callers.
                r.alias(old, new)
        graph = replace(r.finish(), inputs=graph.inputs)
    raise UnsupportedError(f"{graph.name}: decompositions do not end")


def _sum(r: Rewriter, parts: list[Value], origin: str) -> Value | None:
    """The gradient of a value whose readers gave ``parts``, which becomes its only part."""
    if not parts:
        return None
    total = parts[0]
    for part in parts[1:]:
        total = r.add("add", [total, part], origin=origin)
    parts[:] = [total]
    return total
