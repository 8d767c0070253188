"""Graphs as text: one line a node, the layer path behind it."""

from __future__ import annotations

from typing import Any

import numpy as np

from nnaccel_core.ir.graph import Graph, Node


def format_attr(value: Any) -> str:
    """One attribute as text; arrays are abbreviated."""
    if isinstance(value, np.ndarray):
        if value.size <= 8:
            return f"{value.tolist()}"
        return f"<{value.dtype}{list(value.shape)}>"
    return repr(value)


def format_node(node: Node) -> str:
    outs = ", ".join(f"%{v.name}" for v in node.outputs)
    types = ", ".join(str(v.type) for v in node.outputs)
    args = [f"%{v.name}" for v in node.inputs]
    args += [f"{k}={format_attr(v)}" for k, v in node.attrs.items()]
    text = f"{outs} = {node.op}({', '.join(args)}) : {types}"
    return f"{text:<100s}  # {node.origin}" if node.origin else text


def format_graph(graph: Graph) -> str:
    """The whole graph as text."""
    lines = [f"graph {graph.name}("]
    lines += [f"    %{v.name}: {v.type}," for v in graph.inputs]
    lines += [f"    param %{v.name}: {v.type}," for v in graph.params]
    lines.append(") {")
    lines += ["    " + format_node(n) for n in graph.nodes]
    lines += [f"    guard {a} == {b}" for a, b in graph.guards]
    lines += [f"    update %{u.target.name} <- %{u.value.name}" for u in graph.updates]
    lines.append("    return " + ", ".join(f"%{v.name}" for v in graph.outputs))
    lines.append("}")
    return "\n".join(lines)
