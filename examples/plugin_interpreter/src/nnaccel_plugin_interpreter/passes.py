"""A graph pass: ``x - clip(x, -t, t)`` becomes the operator ``soft_threshold``."""

from __future__ import annotations

from nnaccel_core.api import Pass
from nnaccel_core.ir import Graph
from nnaccel_core.ops.registry import rewriter


def fuse_soft_threshold(graph: Graph) -> Graph:
    """A pure function: nodes that match are replaced, all others are copied, and what is then unused goes."""
    new = rewriter(graph)
    clips = {n.output: n for n in graph.nodes if n.op == "clip"}
    for node in graph.nodes:
        clip = clips.get(node.inputs[1]) if node.op == "sub" else None
        if clip is not None and clip.inputs[0] is node.inputs[0]:
            low, high = clip.attrs["min"], clip.attrs["max"]
            if low is not None and high is not None and high >= 0 and low == -high:
                x = new.get(node.inputs[0])
                new.alias(node.output, new.add("soft_threshold", (x,), {"bound": high}, origin=node.origin))
                continue
        new.emit(node)
    return new.finish()


FUSE_SOFT_THRESHOLD = Pass("fuse_soft_threshold", fuse_soft_threshold, after=("eliminate_common_subexpressions",))
