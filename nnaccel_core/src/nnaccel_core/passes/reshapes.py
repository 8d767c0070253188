"""Reshapes in memory that is not row-major, and element-wise layers behind them."""

from __future__ import annotations

from collections.abc import Sequence

from nnaccel_core.ir import Dim, Graph, Node, TensorType, Value, channels_last, identity, product
from nnaccel_core.ir.types import Layout
from nnaccel_core.ops.registry import lookup, rewriter


def matching_axes(before: Sequence[Dim], after: Sequence[Dim]) -> list[tuple[list[int], list[int]]]:
    """Which axes of a reshape's operand become which of its result: the finest parts, in order, that sizes tell.

    Axes of extent 1 join the part in front of them (the first part where there is none).
    """
    ends = [{product(shape[: k + 1]): k + 1 for k in range(len(shape))} for shape in (before, after)]
    parts: list[tuple[list[int], list[int]]] = []
    i = j = 0
    for size, end in ends[0].items():
        if size != 1 and ends[1].get(size, 0) > j:
            parts.append((list(range(i, end)), list(range(j, ends[1][size]))))
            i, j = parts[-1][0][-1] + 1, parts[-1][1][-1] + 1
    if i < len(before) or j < len(after):
        parts.append((list(range(i, len(before))), list(range(j, len(after)))))
    return parts


def reshape_layouts(kind: TensorType, shape: Sequence[Dim]) -> tuple[Layout, Layout]:
    """How the operand of a reshape has to lie, and its result then does: parts of the operand's axes stay in their order in
    memory (channels innermost, say), so that the fewest elements move."""
    rank = len(shape)
    parts = matching_axes(kind.shape, shape)
    if kind.same_memory(identity(kind.rank)) or 0 in shape or not all(old and new for old, new in parts):
        return identity(kind.rank), identity(rank)
    # A part's place is that of its first axis in memory that is longer than 1; of its last one where others lie between these,
    # so that what is innermost stays so.
    place = {a: k for k, a in enumerate(a for a in kind.layout if kind.shape[a] != 1)}

    def where(part: tuple[list[int], list[int]]) -> float:
        places = sorted(place[a] for a in part[0] if a in place)
        if not places:
            return kind.layout.index(part[0][0]) / kind.rank - 1
        return places[0] if places[-1] - places[0] == len(places) - 1 else places[-1]

    parts.sort(key=where)
    wanted, layout = (tuple(a for part in parts for a in part[side]) for side in (0, 1))
    made = TensorType(tuple(shape), kind.dtype, layout)
    # Axes of extent 1 are free: kernels run along the innermost axis.
    usual = next((u for u in (channels_last(rank), identity(rank)) if made.same_memory(u)), None)
    return wanted, usual or (*(a for a in layout if shape[a] == 1), *(a for a in layout if shape[a] != 1))


def _moves(node: Node) -> bool:
    """Whether an element-wise layer gives the same under any shape."""
    return len(node.inputs) == 1 and lookup(node.op).limit == "any" and node.op not in ("expand", "slice", "pad", "flip", "roll")


def activate_before_views(graph: Graph) -> Graph:
    """relu(reshape(x)) becomes reshape(relu(x)), likewise transpose: a convolution in front takes the activation along, and views
    that undo each other meet."""
    r = rewriter(graph)
    uses, results = graph.uses(), set(graph.results())
    views: dict[Value, Node] = {}
    for node in graph.nodes:
        chain: list[Node] = []
        if _moves(node):
            at = r.get(node.inputs[0])
            while at in views:
                chain.append(views[at])
                at = views[at].inputs[0]
        if chain:
            x = r.add(node.op, [at], node.attrs, origin=node.origin, name=node.output.name)
            for view in reversed(chain):
                x = r.add(view.op, [x], view.attrs, origin=view.origin, name=view.output.name)
                views[x] = r.nodes[-1]
            r.alias(node.output, x)
            continue
        made = r.emit(node)
        if node.op in ("reshape", "transpose") and len(uses.get(node.output, ())) == 1 and node.output not in results:
            views[made.output] = made
    return r.finish()
