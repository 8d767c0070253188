"""Where numbers of 16 bits become float32, for all readers of these: each reads the 16 bits and widens them itself.

One widened copy for several kernels would be written once and read by each, at twice the bytes; widening costs nothing.
"""

from __future__ import annotations

from dataclasses import replace

from nnaccel_core.ir import Graph, Node, Value
from nnaccel_core.ops.elementwise import is_widening


def widen_for_each_reader(graph: Graph) -> Graph:
    """A widening cast for each node that reads its result, where there are several. Parameters are widened once."""
    uses, results, params = graph.uses(), set(graph.results()), set(graph.params)
    copied = {
        n.output: n for n in graph.nodes if is_widening(n) and n.inputs[0] not in params and len(uses.get(n.output, ())) > 1
    }
    if not copied:
        return graph
    nodes: list[Node] = []
    for node in graph.nodes:
        if len(node.outputs) == 1 and node.output in copied:
            if node.output in results:
                nodes.append(node)
            continue
        own: dict[Value, Value] = {}
        for v in node.inputs:
            if v in copied and v not in own:
                own[v] = Value(v.type, v.name)
                nodes.append(replace(copied[v], outputs=(own[v],)))
        nodes.append(replace(node, inputs=tuple(own.get(v, v) for v in node.inputs)) if own else node)
    return replace(graph, nodes=tuple(nodes))


__all__ = ["widen_for_each_reader"]
