"""Compute in float32 what is written in float16 or bfloat16, for machines without fast products of these."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from nnaccel_core.ir import Graph, Node, Rewriter, Value
from nnaccel_core.ops.registry import rewriter

_WIDE = "float32"


class _Widening:
    def __init__(self, graph: Graph, narrow: Collection[str], free: Collection[Value]) -> None:
        self.graph, self.narrow, self.free = graph, narrow, free
        self.results = set(graph.results())
        self.r: Rewriter = rewriter(graph)
        #: values of narrow types, as they are in float32
        self.wide: dict[Value, Value] = {}
        #: exact ones: what a constant becomes is no rounding that anybody asked for
        self.constants: set[Value] = set()

    def run(self) -> Graph:
        for node in self.graph.nodes:
            if node.op == "constant":
                self.constants.add(node.output)
            if node.op == "cast":
                self._cast(node)
            elif any(v.dtype in self.narrow for v in (*node.inputs, *node.outputs)):
                self._node(node)
            else:
                self.r.emit(node)
        producers = self.graph.producers()
        for v in dict.fromkeys(self.graph.results()):
            if v in self.wide and v in producers:
                self._result(self.wide[v], v, producers[v].origin)
        return self.r.finish()

    def _result(self, source: Value, v: Value, origin: str) -> None:
        """``source`` in the type and layout that the result ``v`` was to have."""
        self.r.nodes.append(Node("cast", (source,), (v,), {"dtype": v.dtype}, origin))

    def _widened(self, v: Value, origin: str) -> Value:
        """``v`` of a narrow type in float32, others as they are."""
        if v.dtype not in self.narrow:
            return self.r.get(v)
        if v not in self.wide:  # an input or a parameter
            self.wide[v] = self.r.add("cast", [v], {"dtype": _WIDE}, origin=origin)
        return self.wide[v]

    def _cast(self, node: Node) -> None:
        x, y = node.inputs[0], node.output
        source = self._widened(x, node.origin)
        if y.dtype in self.narrow:
            rounds = not (y in self.free or x in self.constants or x.dtype == y.dtype)
            if rounds:
                source = self.r.add("cast", [source], {"dtype": y.dtype}, origin=node.origin)
            same = source.dtype == _WIDE
            self.wide[y] = source if same else self.r.add("cast", [source], {"dtype": _WIDE}, origin=node.origin)
        elif x.dtype in self.narrow and y.dtype == _WIDE:
            if y in self.results:
                self._result(source, y, node.origin)
            else:
                self.r.alias(y, source)
        else:
            self.r.emit(node, [source])

    def _node(self, node: Node) -> None:
        attrs = dict(node.attrs)
        if attrs.get("dtype") in self.narrow:
            attrs["dtype"] = _WIDE
        inputs = [self._widened(v, node.origin) for v in node.inputs]
        outs = tuple(
            Value(replace(v.type, dtype=_WIDE), self.r.fresh(v.name)) if v.dtype in self.narrow else v for v in node.outputs
        )
        self.r.nodes.append(replace(node, inputs=tuple(inputs), outputs=outs, attrs=attrs))
        self.wide.update((old, new) for old, new in zip(node.outputs, outs, strict=True) if old is not new)


def widen(graph: Graph, narrow: Collection[str], free: Collection[Value] = ()) -> Graph:
    """``graph`` with its arithmetic on types in ``narrow`` done in float32; inputs, parameters and results keep their types.

    Intermediate results are not rounded to the narrow type, as compilers do that allow excess precision (XLA's
    ``xla_allow_excess_precision``): results are at least as close to the exact ones.

    Args:
        narrow: of ``"float16"`` and ``"bfloat16"``.
        free: results of casts to a narrow type that need not round either (autocast's); other casts do round.
    """
    return _Widening(graph, narrow, free).run()


__all__ = ["widen"]
