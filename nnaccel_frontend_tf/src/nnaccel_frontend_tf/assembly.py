"""From what the importer recorded to a `Program`: few segments, between the operations that stay in TensorFlow.

Operations are ordered by level, not as they were traced: a segment takes all that can be computed before the next operation
that stays in TensorFlow has to run. So the updates of running statistics, which TensorFlow does itself, cut nothing in two.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from nnaccel_core.ir import Expr, Foreign, Graph, Node, Program, Segment, Value, free_symbols, live_nodes, sym
from nnaccel_frontend_tf import foreign
from nnaccel_frontend_tf.errors import NeedSizes
from nnaccel_frontend_tf.importer import ForeignStep, Importer
from nnaccel_frontend_tf.items import Host, Item, Opaque
from nnaccel_frontend_tf.passes import PASSES


@dataclass(frozen=True)
class Result:
    """A result of the network: a value of the program by name, a constant, sizes, or a tensor from outside."""

    name: str = ""
    item: Item | None = None
    dtype: Any = None


@dataclass
class Imported:
    """A captured network.

    Attributes:
        given: names of parameters that operations in TensorFlow read, inputs of the program after the call's tensors.
        symbols: where a size can be seen: a value's name and the axis.
        untrainable: why gradients can't be taken; "" where nothing is known against it.
    """

    program: Program
    results: list[Result]
    variables: dict[str, Any]
    constants: dict[str, Any]
    given: list[str]
    symbols: dict[str, tuple[str, int]]
    reasons: list[str]
    untrainable: str


class _Levels:
    """When each step may run at the earliest: segment ``k`` comes before the foreign operations of level ``k``."""

    def __init__(self, made: Importer) -> None:
        self.of_value: dict[Value, int | None] = dict.fromkeys(made.params.values())  # None: of parameters only
        self.of_name: dict[str, int] = {}
        self.segments: dict[int, list[Node]] = {}
        self.foreign: dict[int, list[ForeignStep]] = {}
        self.free: list[Node] = []
        self._made: set[Value] = set()  # by those
        self._producer = {n: s for s in made.steps if isinstance(s, ForeignStep) for n in s.outputs}
        self._outer = {v: n for n, v in made.outer.items()}
        self._symbols = made.symbols
        last = -1
        for step in made.steps:
            if isinstance(step, Node):
                self._node(step)
            else:
                level = max([-1, *(self._item(x) for x in step.inputs)])
                if step.stateful:  # these keep their order
                    level = last = max(level, last)
                for name in step.outputs:
                    self.of_name[name] = level
                self.foreign.setdefault(level, []).append(step)

    def _value(self, v: Value) -> int | None:
        if v in self.of_value:
            return self.of_value[v]
        name = self._outer[v]
        return self.of_name[name] + 1 if name in self._producer else 0

    def _symbol(self, name: str) -> int:
        """When a size is known: the level of the operation that tells it, -1 for the call's own tensors."""
        return self.of_name.get(self._symbols[name][0], -1) if name in self._symbols else -1

    def _node(self, node: Node) -> None:
        found = [self._value(v) for v in node.inputs]
        sizes = {s for v in node.outputs for d in v.shape for s in free_symbols(d)}
        if node.op == "extent":
            sizes |= free_symbols(node.attrs["dim"])
        levels = [k for k in found if k is not None] + [self._symbol(s) + 1 for s in sizes]
        level = max(levels, default=None)
        for v in node.outputs:
            self.of_value[v] = level
        if level is None:
            self.free.append(node)
            self._made.update(node.outputs)
        else:
            self.segments.setdefault(level, []).append(node)

    def _item(self, item: Item) -> int:
        if isinstance(item, Value):
            if item in self._outer:
                return self.of_name.get(self._outer[item], -1)
            level = self._value(item)
            return -1 if level is None and item not in self._made else level or 0
        if isinstance(item, Host):
            return max(self._symbol(s) for d in item.dims.reshape(-1) for s in free_symbols(d))
        return self.of_name.get(item.name, -1) if isinstance(item, Opaque) else -1


def assemble(made: Importer, items: Sequence[Item]) -> Imported:
    """The finished program.

    Raises:
        NeedSizes: a segment needs a size that none of its inputs tells.
    """
    results = [
        Result(x.name) if isinstance(x, (Value, Opaque)) else Result(item=x, dtype=t.dtype)
        for x, t in zip(items, made.trace.outputs, strict=True)
    ]
    levels = _Levels(made)
    params = set(made.params.values())
    wanted: dict[str, None] = dict.fromkeys(r.name for r in results if r.name)
    for r in results:
        if isinstance(r.item, Host):
            wanted.update(dict.fromkeys(_tellers(made, r.item)))
    parts: list[Segment | Foreign] = []
    reasons: list[str] = []
    # Backwards, so that what nobody reads is left out.
    for level in sorted({*levels.segments, *levels.foreign, 0}, reverse=True):
        for step in reversed(levels.foreign.get(level, [])):
            if not step.stateful and not any(n in wanted for n in step.outputs):
                continue
            read = foreign.names_read(step)
            wanted.update(dict.fromkeys(read))
            for x in step.inputs:
                if isinstance(x, Host):
                    wanted.update(dict.fromkeys(_tellers(made, x)))
            call = foreign.operation(step)
            parts.append(Foreign(call, tuple(read), tuple(step.outputs), step.reason, step.origin))
            reasons.append(f"{step.origin}: {step.reason}")
        if level >= 0:
            nodes = [*levels.free, *levels.segments.get(level, [])]
            mine = levels.segments.get(level, []) if level else nodes
            outputs = [v for n in mine for v in n.outputs if v.name in wanted]
            segment = _segment(made, nodes, outputs, params, len(parts))
            if segment is not None:
                parts.append(segment)
                wanted.update(dict.fromkeys(segment.inputs))
    given = [n for n in wanted if n in made.params]
    outputs_of = tuple(r.name for r in results if r.name)
    program = Program((*made.inputs, *given), tuple(reversed(parts)), outputs_of)
    return Imported(
        program, results, made.variables, made.constants, given, made.symbols, list(reversed(reasons)), made.untrainable
    )  # fmt: skip


def _tellers(made: Importer, item: Host) -> list[str]:
    """Names of the values whose sizes tell ``item``."""
    return [made.symbols[s][0] for d in item.dims.reshape(-1) for s in sorted(free_symbols(d))]


def _segment(made: Importer, nodes: list[Node], outputs: list[Value], params: set[Value], number: int) -> Segment | None:
    if not outputs:
        return None
    kept = live_nodes(nodes, outputs)
    inner = {v for n in kept for v in n.outputs}
    inputs: dict[Value, None] = {}
    own: dict[Value, None] = {}
    for n in kept:
        for v in n.inputs:
            if v not in inner:
                (own if v in params else inputs)[v] = None
    used = {s for n in kept for v in n.outputs for d in v.shape for s in free_symbols(d)}
    used |= {s for v in inputs for d in v.shape for s in free_symbols(d)}
    guards = tuple(g for g in made.guards if (free_symbols(g[0]) | free_symbols(g[1])) <= used)
    told = {str(d) for v in inputs for d in v.shape if isinstance(d, Expr) and d.op == "sym"}
    for name in sorted(used - told):
        source = next((v for v in made.outer.values() if sym(name) in v.shape), None)
        if source is None:
            raise NeedSizes(f"the size {name} is told by no tensor")
        inputs[source] = None
    graph = Graph(tuple(inputs), tuple(own), tuple(kept), tuple(outputs), guards=guards, name=f"tf_{number}")
    for _, run in PASSES:
        graph = run(graph)
    return Segment(graph, tuple(v.name for v in inputs), tuple(v.name for v in outputs))


__all__ = ["Imported", "Result", "assemble"]
