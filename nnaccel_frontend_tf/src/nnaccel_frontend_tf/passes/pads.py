"""Padding with zeros in front of convolutions becomes theirs: Keras's networks pad in layers of their own (`ZeroPadding2D`)."""

from __future__ import annotations

from nnaccel_core.ir import Graph, Node
from nnaccel_core.ops.registry import rewriter


def fold_pads(graph: Graph) -> Graph:
    """``pad -> conv`` and ``pad -> transpose -> conv`` become the convolution of what was not padded, with its own padding.

    Where anything else reads the padded value it is made all the same, and the graph stays as it is.
    """
    producers, uses, results = graph.producers(), graph.uses(), set(graph.results())

    def pad_of(node: Node) -> tuple[Node, Node | None] | None:
        """The pad that the convolution ``node`` can do itself, and the transpose between the two."""
        x = node.inputs[0]
        between = producers.get(x)
        turn = between if between is not None and between.op == "transpose" else None
        for v in (x,) if turn is None else (x, turn.inputs[0]):
            if len(uses[v]) != 1 or v in results:
                return None
        pad = producers.get(x if turn is None else turn.inputs[0])
        if pad is None or pad.op != "pad":
            return None
        if (pad.attrs.get("mode", "constant"), pad.attrs.get("value", 0.0)) != ("constant", 0.0):
            return None
        pads = _pads(pad, turn)
        return (pad, turn) if not any(map(any, pads[:2])) and all(p >= 0 for pair in pads for p in pair) else None

    folded = {n: found for n in graph.nodes if n.op == "conv" and (found := pad_of(n)) is not None}
    gone = {n for found in folded.values() for n in found if n is not None}
    if not gone:
        return graph
    r = rewriter(graph)
    for node in graph.nodes:
        if node in gone:
            continue
        if node not in folded:
            r.emit(node)
            continue
        pad, turn = folded[node]
        x = r.get(pad.inputs[0])
        if turn is not None:
            x = r.add("transpose", [x], turn.attrs, origin=turn.origin)
        around = zip(_pads(pad, turn)[2:], node.attrs["padding"], strict=True)
        attrs = {**node.attrs, "padding": tuple((a + c, b + d) for (a, b), (c, d) in around)}
        inputs = [x, *(r.get(v) for v in node.inputs[1:])]
        r.alias(node.output, r.add("conv", inputs, attrs, origin=node.origin, name=node.output.name))
    return r.finish()


def _pads(pad: Node, turn: Node | None) -> list[tuple[int, int]]:
    """What is added in front of and behind each axis, in the order that ``turn`` brings them to."""
    found = list(pad.attrs["pads"])
    return found if turn is None else [found[a] for a in turn.attrs["perm"]]
