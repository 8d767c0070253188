"""A backward graph in parts that run one after the other: what only the first ones read can be freed before the last ones run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from nnaccel_core.autodiff.checkpoints import cut, nominal_bytes
from nnaccel_core.ir import Expr, Graph, Value, free_symbols
from nnaccel_core.ir.types import Layout
from nnaccel_core.ops.registry import lookup


@dataclass(frozen=True)
class Part:
    """Some nodes of a graph as a graph of their own.

    Attributes:
        graph: its inputs are values of the whole graph: inputs of that, or outputs of earlier parts.
        frees: what no later part reads, and is no output of the whole graph.
    """

    graph: Graph
    frees: tuple[Value, ...]


def split(graph: Graph, count: int) -> list[Part]:
    """``graph`` in about ``count`` parts that free about the same number of bytes each; fewer where it does not divide so."""
    last = {v: k for k, n in enumerate(graph.nodes) for v in n.inputs}
    outputs = set(graph.outputs)
    freed = [0.0] * len(graph.nodes)
    for v in graph.inputs:
        if v in last and v not in outputs:
            freed[last[v]] += nominal_bytes(v)
    across: list[float] = []
    alive: set[Value] = set()
    for k, n in enumerate(graph.nodes):
        # Behind a product its result is in memory anyway; elsewhere a cut may part layers that would run as one kernel.
        in_memory = k > 0 and lookup(graph.nodes[k - 1].op).limit_of(graph.nodes[k - 1]) == "compute"
        across.append(sum(map(nominal_bytes, alive)) * (1.0 if in_memory else 2.0))
        alive = {v for v in (*alive, *n.outputs) if last.get(v, -1) > k and v not in outputs}
    starts = cut(freed, across, sum(freed) / count) if count > 1 and graph.nodes else [0]
    parts = _parts(graph, starts, last)
    return parts if all(_tells_sizes(p.graph) for p in parts) else _parts(graph, [0], last)


def _parts(graph: Graph, starts: Sequence[int], last: dict[Value, int]) -> list[Part]:
    producer = {v: k for k, n in enumerate(graph.nodes) for v in n.outputs}
    params, outputs = set(graph.params), set(graph.outputs)
    parts = []
    for k, (a, b) in enumerate(zip(starts, [*starts[1:], len(graph.nodes)], strict=True)):
        nodes = graph.nodes[a:b]
        read = dict.fromkeys(v for n in nodes for v in n.inputs if not a <= producer.get(v, -1) < b)
        made = dict.fromkeys(v for v in graph.outputs if a <= producer.get(v, -1) < b)
        made.update(dict.fromkeys(v for n in nodes for v in n.outputs if last.get(v, -1) >= b))
        own = Graph(
            tuple(v for v in read if v not in params), tuple(v for v in read if v in params), tuple(nodes), tuple(made), (),
            graph.guards, f"{graph.name}.{k}" if len(starts) > 1 else graph.name,
        )  # fmt: skip
        parts.append(Part(own, tuple(v for v in own.inputs if last[v] < b and v not in outputs)))
    return parts


def _tells_sizes(graph: Graph) -> bool:
    """Whether the shapes of its inputs tell every symbol that it uses."""
    told = {str(d.args[0]) for v in graph.inputs for d in v.shape if isinstance(d, Expr) and d.op == "sym"}
    in_attrs = {s for n in graph.nodes for a in n.attrs.values() if isinstance(a, Expr) for s in free_symbols(a)}
    in_guards = {s for pair in graph.guards for d in pair for s in free_symbols(d)}
    return (graph.symbols() | in_attrs | in_guards) <= told


def relaid(graph: Graph, layouts: Sequence[Layout | None]) -> Graph:
    """``graph`` for inputs that lie in memory as ``layouts`` says of each (None: as they are typed)."""
    fresh = {
        v: Value(v.type.with_layout(layout), v.name)
        for v, layout in zip(graph.inputs, layouts, strict=True)
        if layout is not None and v.type.layout != layout
    }

    def put(values: Sequence[Value]) -> tuple[Value, ...]:
        return tuple(fresh.get(v, v) for v in values)

    nodes = tuple(replace(n, inputs=put(n.inputs)) for n in graph.nodes)
    return replace(graph, inputs=put(graph.inputs), nodes=nodes, outputs=put(graph.outputs))


__all__ = ["Part", "relaid", "split"]
