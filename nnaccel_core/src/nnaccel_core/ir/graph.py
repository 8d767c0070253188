"""The graph IR: a flat list of nodes in topological order, in single static assignment form."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

from nnaccel_core.ir.dims import Dim, free_symbols
from nnaccel_core.ir.reach import Reach
from nnaccel_core.ir.types import TensorType


@dataclass(frozen=True, eq=False)
class Value:
    """One tensor. Two values are equal only when they are the same object; the name is for people."""

    type: TensorType
    name: str = ""

    def __repr__(self) -> str:
        return f"%{self.name}: {self.type}"

    @property
    def shape(self) -> tuple[Dim, ...]:
        return self.type.shape

    @property
    def dtype(self) -> str:
        return self.type.dtype


@dataclass(frozen=True, eq=False)
class Node:
    """One operation.

    Attributes:
        op: name of the `OpDef`.
        attrs: compile-time arguments; ints, floats, strings, bools, None, tuples of these, or a numpy array
            (``constant`` only).
        origin: the user's layer path ("layer1.0.conv2"), for messages and explain().
    """

    op: str
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    attrs: Mapping[str, Any] = field(default_factory=dict)
    origin: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "inputs", tuple(self.inputs))
        object.__setattr__(self, "outputs", tuple(self.outputs))
        if not isinstance(self.attrs, MappingProxyType):
            object.__setattr__(self, "attrs", MappingProxyType(dict(self.attrs)))

    @property
    def output(self) -> Value:
        """The only output."""
        (out,) = self.outputs
        return out

    def where(self) -> str:
        """Text for messages: the layer path and the op."""
        return f"{self.origin} ({self.op})" if self.origin else self.op

    def __repr__(self) -> str:
        outs = ", ".join(map(repr, self.outputs))
        ins = ", ".join("%" + v.name for v in self.inputs)
        return f"{outs} = {self.op}({ins})"


@dataclass(frozen=True)
class Update:
    """After the run, ``value`` is written over ``target`` (an input or parameter)."""

    target: Value
    value: Value


@dataclass(frozen=True)
class Graph:
    """Inputs and parameters, nodes in topological order, outputs.

    Attributes:
        inputs: values given at every call.
        params: values that live across calls (weights, buffers); their names are the state_dict keys.
        updates: writes to inputs or params that the call performs.
        guards: pairs of dims that must be equal at the call; recorded where equality could not be decided.
    """

    inputs: tuple[Value, ...]
    params: tuple[Value, ...]
    nodes: tuple[Node, ...]
    outputs: tuple[Value, ...]
    updates: tuple[Update, ...] = ()
    guards: tuple[tuple[Dim, Dim], ...] = ()
    name: str = "main"

    def producers(self) -> dict[Value, Node]:
        """Each computed value's node."""
        return {v: n for n in self.nodes for v in n.outputs}

    def uses(self) -> dict[Value, list[Node]]:
        """Each value's consumers in order (a node that reads it twice is listed twice); outputs not counted."""
        out: dict[Value, list[Node]] = {}
        for node in self.nodes:
            for v in node.inputs:
                out.setdefault(v, []).append(node)
        return out

    @functools.cached_property
    def reach(self) -> Reach:
        """Which nodes lie above and below which."""
        return Reach(self)

    def results(self) -> tuple[Value, ...]:
        """Everything that must be computed: outputs and updates' values."""
        return self.outputs + tuple(u.value for u in self.updates)

    def values(self) -> Iterator[Value]:
        yield from self.inputs
        yield from self.params
        for node in self.nodes:
            yield from node.outputs

    def symbols(self) -> set[str]:
        """Names of all dimension symbols."""
        out: set[str] = set()
        for v in self.values():
            for d in v.shape:
                out |= free_symbols(d)
        return out

    def __str__(self) -> str:
        from nnaccel_core.ir.printer import format_graph

        return format_graph(self)


class Rewriter:
    """Builds a graph from another one, value by value.

    `emit` copies a node with its inputs mapped; `add` makes a new node; `alias` maps an old value to a new one.
    Used by every pass, so that passes stay pure functions.
    """

    def __init__(self, graph: Graph, infer: Callable[..., tuple[TensorType, ...]]) -> None:
        self.graph = graph
        self.nodes: list[Node] = []
        self.map: dict[Value, Value] = {}
        self.params: list[Value] = list(graph.params)
        self._infer = infer
        self._names = {v.name for v in graph.values()}

    def get(self, value: Value) -> Value:
        """The new graph's value for ``value``."""
        return self.map.get(value, value)

    def fresh(self, hint: str) -> str:
        name, i = hint, 1
        while name in self._names:
            name, i = f"{hint}_{i}", i + 1
        self._names.add(name)
        return name

    def alias(self, old: Value, new: Value) -> None:
        self.map[old] = new

    def emit(self, node: Node, inputs: Sequence[Value] | None = None) -> Node:
        """Copy ``node``; outputs keep their identity unless an input's type changed their own."""
        new_inputs = tuple(self.get(v) for v in (node.inputs if inputs is None else inputs))
        if all(a is b for a, b in zip(new_inputs, node.inputs, strict=True)):
            self.nodes.append(node)
            return node
        if all(a.type == b.type for a, b in zip(new_inputs, node.inputs, strict=True)):
            new = replace(node, inputs=new_inputs)
            self.nodes.append(new)
            return new
        types = self._infer(node.op, [v.type for v in new_inputs], node.attrs, node.where())
        outputs = []
        for old, new_type in zip(node.outputs, types, strict=True):
            if old.type.shape == new_type.shape and old.dtype == new_type.dtype:
                outputs.append(old)
            else:
                fresh = Value(new_type, old.name)
                self.map[old] = fresh
                outputs.append(fresh)
        new = replace(node, inputs=new_inputs, outputs=tuple(outputs))
        self.nodes.append(new)
        return new

    def add(
        self,
        op: str,
        inputs: Sequence[Value],
        attrs: Mapping[str, Any] | None = None,
        *,
        origin: str = "",
        name: str = "",
        types: Sequence[TensorType] | None = None,
    ) -> Value:
        """Append a new single-output node and return its value (inputs are values of the new graph)."""
        return self.add_multi(op, inputs, attrs, origin=origin, name=name, types=types)[0]

    def add_multi(
        self,
        op: str,
        inputs: Sequence[Value],
        attrs: Mapping[str, Any] | None = None,
        *,
        origin: str = "",
        name: str = "",
        types: Sequence[TensorType] | None = None,
    ) -> tuple[Value, ...]:
        found = types if types is not None else self._infer(op, [v.type for v in inputs], attrs or {}, origin or op)
        outs = tuple(Value(t, self.fresh(name or op)) for t in found)
        self.nodes.append(Node(op, tuple(inputs), outs, attrs or {}, origin))
        return outs

    def finish(self) -> Graph:
        """The new graph, without nodes whose results nobody needs."""
        g = self.graph
        outputs = tuple(self.get(v) for v in g.outputs)
        updates = tuple(Update(u.target, self.get(u.value)) for u in g.updates)
        return prune(replace(g, nodes=tuple(self.nodes), outputs=outputs, updates=updates, params=tuple(self.params)))


def live_nodes(nodes: Sequence[Node], results: Iterable[Value]) -> list[Node]:
    """The nodes that ``results`` need, in their order."""
    needed = set(results)
    kept: list[Node] = []
    for node in reversed(nodes):
        if any(v in needed for v in node.outputs):
            kept.append(node)
            needed.update(node.inputs)
    kept.reverse()
    return kept


def prune(graph: Graph) -> Graph:
    """``graph`` without dead nodes and unused parameters."""
    nodes = live_nodes(graph.nodes, graph.results())
    needed = {*graph.results(), *(v for n in nodes for v in n.inputs), *(u.target for u in graph.updates)}
    return replace(graph, nodes=tuple(nodes), params=tuple(p for p in graph.params if p in needed))
