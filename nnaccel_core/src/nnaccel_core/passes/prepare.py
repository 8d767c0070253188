"""Split a graph into what depends on parameters only and the rest."""

from __future__ import annotations

from dataclasses import dataclass, replace

from nnaccel_core.ir import Graph, prune
from nnaccel_core.ops.registry import lookup
from nnaccel_core.passes.fold import parameter_values


@dataclass(frozen=True)
class Split:
    """``prepare``'s outputs are ``main``'s parameters, in the same order; both share the `Value` objects."""

    prepare: Graph
    main: Graph


def split_prepare(graph: Graph) -> Split:
    """Move everything that depends on parameters alone into ``prepare``, and constants that are weights, so that libraries pack
    them. Other constants stay where they are used: what follows from them and from sizes needs no kernel."""
    fixed = parameter_values(graph)
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


def unsplit(graph: Graph) -> Split:
    """Everything in ``main``: for parameters that change with each run, on a device that `Backend.derives_live`."""
    main = prune(graph)
    return Split(Graph((), main.params, (), main.params, name=f"{graph.name}.prepare"), main)
