"""From what the importer recorded to a `Program`: segments between the nodes that stay with onnx."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nnaccel_core.api import Captured
from nnaccel_core.ir import Expr, Foreign, Graph, Node, Program, Segment, Update, Value, free_symbols, live_nodes, sym
from nnaccel_frontend_onnx.bridge import Tracked
from nnaccel_frontend_onnx.errors import NeedSizes
from nnaccel_frontend_onnx.items import Array, Host, Known, trainable

if TYPE_CHECKING:
    from nnaccel_frontend_onnx.importer import Importer


@dataclass
class Imported:
    """A captured network.

    Attributes:
        outputs: for each output of the network its place in ``captured.program.outputs``, or its constant value.
        fixed: parameters whose values the import depends on, with these.
        written: running statistics among the program's inputs, with their initializers.
        parameter_of: the initializer of each graph parameter.
        stops: names of values that come from what has no gradient, and why; reads_parameters: those made of parameters.
    """

    captured: Captured
    outputs: list[int | Array]
    fixed: Mapping[str, Array]
    written: Mapping[str, str]
    parameter_of: Mapping[str, str]
    stops: Mapping[str, str]
    reads_parameters: Collection[str]


class ForeignPart:
    """A node of the reference evaluator while it is recorded."""

    def __init__(self, call: Callable[..., Any], inputs: list[str], outputs: list[str], reason: str, origin: str) -> None:
        self.call, self.inputs, self.outputs, self.reason, self.origin = call, inputs, outputs, reason, origin


def assemble(made: Importer) -> Imported:
    """The finished program.

    Raises:
        NeedSizes: an output is made of sizes.
    """
    names: list[str] = []
    outputs: list[int | Array] = []
    wanted: set[Value] = set()
    for out in made.model.outputs:
        item = made.items[out.name]
        if isinstance(item, Host):
            raise NeedSizes("an output is made of sizes")
        if isinstance(item, Known):
            outputs.append(item.array)
            continue
        outputs.append(len(names))
        names.append(item.name)
        if isinstance(item, Value):
            wanted.add(item)
    parts = [p for p in made.parts if isinstance(p, ForeignPart) or p]
    later: list[set[Value]] = []
    needed = set(wanted)
    kept: list[list[Node] | ForeignPart] = []
    for part in reversed(parts):
        if isinstance(part, ForeignPart):
            needed |= set(_values_named(made, part.inputs))
        later.append(set(needed))
        kept.append(part)
        if not isinstance(part, ForeignPart):
            needed |= {v for n in part for v in n.inputs}
    done: list[Segment | Foreign] = []
    for k, (part, after) in enumerate(zip(reversed(kept), reversed(later), strict=True)):
        if isinstance(part, ForeignPart):
            done.append(Foreign(part.call, tuple(part.inputs), tuple(part.outputs), part.reason, part.origin))
            continue
        segment = _segment(made, part, after, k)
        if segment is not None:
            done.append(segment)
    reason = "imported from ONNX" + "".join(f"\nin onnx: {r}" for r in made.foreign_reasons)
    program = Program(tuple(made.inputs), tuple(done), tuple(names))
    getters = {name: functools.partial(given, item.array) for name, (_, item) in made.params.items()}
    tracked: dict[str, Callable[[], Any]] = {}
    for name, (_, item) in made.params.items() if made.mode.train else ():
        if trainable(item.array) and name not in made.statistics:
            tracked[name] = functools.partial(given, item.array.view(Tracked))
    parameter_of = {name: item.parameter for name, (_, item) in made.params.items()}
    captured = Captured(program, getters, reason, tracked)
    return Imported(captured, outputs, made.fixed_values, made.written, parameter_of, made.stops, made.reads_parameters)


def _values_named(made: Importer, names: Sequence[str]) -> list[Value]:
    wanted = set(names)
    found = [v for p in made.parts if isinstance(p, list) for n in p for v in n.outputs]
    return [v for v in found if v.name in wanted]


def _segment(made: Importer, nodes: list[Node], later: set[Value], number: int) -> Segment | None:
    outputs = [v for n in nodes for v in n.outputs if v in later]
    if not outputs:
        return None
    made_here = {v for n in nodes for v in n.outputs}
    updates = tuple(Update(target, value) for target, value in made.updates if value in made_here)
    kept = live_nodes(nodes, [*outputs, *(u.value for u in updates)])
    inner = {v for n in kept for v in n.outputs}
    params = {v for v, _ in made.params.values()}
    inputs: dict[Value, None] = {}
    own: dict[Value, None] = {}
    for n in kept:
        for v in n.inputs:
            if v not in inner:
                (own if v in params else inputs)[v] = None
    used = {s for n in kept for v in n.outputs for d in v.shape for s in free_symbols(d)}
    used |= {s for v in inputs for d in v.shape for s in free_symbols(d)}
    mine = tuple(g for g in made.guards if (free_symbols(g[0]) | free_symbols(g[1])) <= used)
    told = {str(d) for v in inputs for d in v.shape if isinstance(d, Expr) and d.op == "sym"}
    for name in sorted(used - told):
        source = next((v for v in made.outer.values() if sym(name) in v.shape), None)
        if source is None:
            raise NeedSizes(f"the size {name} is told by no tensor")
        inputs[source] = None
    name = f"{made.model.name}_{number}"
    graph = Graph(tuple(inputs), tuple(own), tuple(kept), tuple(outputs), updates, mine, name)
    return Segment(graph, tuple(v.name for v in inputs), tuple(v.name for v in outputs))


def given(array: Array, *_: Any) -> Array:
    """A constant as a function of whatever."""
    return array
