"""Split a graph into what depends on parameters only and the rest."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

from nnaccel_core.ir import Graph, Node, Value, prune
from nnaccel_core.ops.registry import lookup
from nnaccel_core.passes.fold import parameter_values


@dataclass(frozen=True)
class Split:
    """``prepare``'s outputs are ``main``'s parameters, in the same order; both share the `Value` objects."""

    prepare: Graph
    main: Graph


def split_prepare(graph: Graph, live: bool = False) -> Split:
    """Move everything that depends on parameters alone into ``prepare``, and constants that are weights, so that libraries pack
    them. Other constants stay where they are used: what follows from them and from sizes needs no kernel.

    ``live``: parameters change with each run, so that what element-wise nodes join for nothing stays with them.
    """
    fixed = parameter_values(graph)
    if live:
        fixed -= _joined(graph, fixed)
    constants = {v for n in graph.nodes if n.op == "constant" for v in n.outputs}
    for n in graph.nodes:
        if lookup(n.op, n.where()).limit_of(n) in ("compute", "params"):
            constants -= {v for v in n.inputs if v.type.is_float and v.type.size != 1}
    main_nodes = [n for n in graph.nodes if not all(v in fixed and v not in constants for v in n.outputs)]
    wanted = {v: None for n in main_nodes for v in n.inputs if v in fixed and v not in constants}
    wanted.update((v, None) for v in graph.results() if v in fixed and v not in constants)
    prepared = tuple(wanted)
    main = replace(graph, nodes=tuple(main_nodes), params=prepared)
    prepare_nodes = tuple(n for n in graph.nodes if all(v in fixed for v in n.outputs))
    prepare = Graph((), graph.params, prepare_nodes, prepared, name=f"{graph.name}.prepare")
    kept = prune(main)
    main = replace(kept, params=prepared)
    return Split(prune(prepare), main)


def _joined(graph: Graph, fixed: Collection[Value]) -> set[Value]:
    """Element-wise results among ``fixed`` that element-wise nodes of their size alone read, which are not: running statistics
    times their momentum, for one."""
    readers: dict[Value, list[Node]] = {}
    for n in graph.nodes:
        for v in n.inputs:
            readers.setdefault(v, []).append(n)
    results, found = set(graph.results()), set[Value]()
    for n in reversed(graph.nodes):
        if not n.inputs or lookup(n.op, n.where()).limit_of(n) != "any" or any(v not in fixed or v in results for v in n.outputs):
            continue
        read = [r for v in n.outputs for r in readers.get(v, ())]
        same = all(r.output.type.size == n.output.type.size and lookup(r.op, r.where()).limit_of(r) == "any" for r in read)
        if same and all(v not in fixed or v in found for r in read for v in r.outputs):
            found.update(n.outputs)
    return found


def unsplit(graph: Graph) -> Split:
    """Everything in ``main``: for parameters that change with each run, on a device that `Backend.derives_live`."""
    main = prune(graph)
    return Split(Graph((), main.params, (), main.params, name=f"{graph.name}.prepare"), main)
