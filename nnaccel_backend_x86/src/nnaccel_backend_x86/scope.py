"""What all proposers of candidates ask about a graph, found once for all of them."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from nnaccel_core.api import Machine
from nnaccel_core.ir import Env, Graph, Node, TensorType, Value, channels_last, identity


class Scope:
    """One graph at one binding of its symbols, on one machine."""

    def __init__(self, graph: Graph, env: Env, machine: Machine) -> None:
        self.graph = graph
        self.env = env
        self.machine = machine
        self.uses = graph.uses()
        self.results = set(graph.results())
        self.producers = graph.producers()
        self.params = set(graph.params)
        self._statics: dict[Value, TensorType] = {}

    def static(self, v: Value) -> TensorType:
        """The type of ``v`` with every size a number. What lies as channels-last images do (axes of extent 1 are free) is called
        so: libraries know these by the strides of all axes."""
        found = self._statics.get(v)
        if found is None:
            found = v.type.concrete(self.env)
            images = channels_last(found.rank)
            if found.layout != identity(found.rank) and found.same_memory(images):
                found = found.with_layout(images)
            self._statics[v] = found
        return found

    def nodes(self, ops: Collection[str], only: Collection[frozenset[Node]] | None) -> Iterator[Node]:
        """The nodes of these operators on float32 tensors that are not empty; with ``only``, those in one of these sets."""
        wanted = None if only is None else frozenset().union(*only)
        for node in self.graph.nodes:
            if node.op in ops and (wanted is None or node in wanted):
                if all(self._fits(v) for v in (*node.inputs, *node.outputs)):
                    yield node

    def _fits(self, v: Value) -> bool:
        t = self.static(v)
        return t.dtype == "float32" and all(isinstance(d, int) and d > 0 for d in t.shape)
