"""What lies above and below each node of a graph, as bit sets: whether nodes may run as one step."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nnaccel_core.ir.graph import Graph, Node


class Reach:
    """Reachability between the nodes of one graph. Bit ``k`` of a set stands for the ``k``-th node.

    Attributes:
        order: each node's number.
    """

    def __init__(self, graph: Graph) -> None:
        self.order: dict[Node, int] = {n: i for i, n in enumerate(graph.nodes)}
        producer = {v: i for i, n in enumerate(graph.nodes) for v in n.outputs}
        sources = [{producer[v] for v in n.inputs if v in producer} for n in graph.nodes]
        self._above = above = [0] * len(graph.nodes)
        self._below = below = [0] * len(graph.nodes)
        for i, found in enumerate(sources):
            for k in found:
                above[i] |= above[k] | 1 << k
        for i in range(len(sources) - 1, -1, -1):
            mine = below[i] | 1 << i
            for k in sources[i]:
                below[k] |= mine

    def members(self, nodes: Iterable[Node]) -> int:
        """``nodes`` as a set."""
        out = 0
        for n in nodes:
            out |= 1 << self.order[n]
        return out

    def below(self, nodes: Iterable[Node]) -> int:
        """Everything that needs one of ``nodes``; may contain some of them."""
        out = 0
        for n in nodes:
            out |= self._below[self.order[n]]
        return out

    def between(self, nodes: Iterable[Node]) -> int:
        """The nodes outside ``nodes`` that lie on a path from one of them to another."""
        above = below = mine = 0
        for n in nodes:
            k = self.order[n]
            above |= self._above[k]
            below |= self._below[k]
            mine |= 1 << k
        return above & below & ~mine


def step_between(mine: int, below: int, steps: Iterable[tuple[int, int]]) -> int | None:
    """The position in ``steps`` of one that would have to run both after and before the nodes ``mine``; None when there is
    none. With `Reach.between` empty, these are the only obstacles to running ``mine`` as one step.

    Args:
        below: what lies below ``mine``.
        steps: nodes that run as one step each, apart from ``mine``: their members and what lies below these.
    """
    left = list(enumerate(steps))
    reached = below
    while True:
        waiting = []
        for i, (members, after) in left:
            if not members & reached:
                waiting.append((i, (members, after)))
                continue
            if after & mine:
                return i
            reached |= members | after
        if len(waiting) == len(left):
            return None
        left = waiting
