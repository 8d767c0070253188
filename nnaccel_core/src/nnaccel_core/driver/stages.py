"""Stages: parts of a segment one after the other, each with slices of its own size.

Early layers of image networks have large activations and keep a device busy with few samples; late ones have many weights and
small activations, and want the whole batch. Between two stages, activations of the whole batch are held in memory of the
framework's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from nnaccel_core.api import Executable
from nnaccel_core.driver.covers import Covers
from nnaccel_core.ir import Graph, TensorType, Value
from nnaccel_core.ops.registry import lookup


@dataclass(frozen=True, eq=False)
class Stage:
    """Consecutive nodes as a graph of their own, to run at most ``slice`` samples at a time."""

    graph: Graph
    slice: int
    covers: Covers


def crossing(graph: Graph, at: int) -> tuple[Value, ...] | None:
    """What the nodes from number ``at`` on need of those before, inputs of the graph aside; None where it cannot be cut there.

    It can be where all that crosses has memory of its own, the batch outermost, and no result comes from the nodes before.
    """
    before, after = graph.nodes[:at], graph.nodes[at:]
    if not before or not after:
        return None
    producers = {v: n for n in before for v in n.outputs}
    if any(v in producers for v in graph.results()):
        return None
    found = tuple(dict.fromkeys(v for n in after for v in n.inputs if v in producers))
    for v in found:
        is_view = lookup(producers[v].op).limit_of(producers[v]) == "view"
        if is_view or not v.shape or isinstance(v.shape[0], int) or v.type.layout[0] != 0:
            return None
    return found


def parts_of(graph: Graph, starts: Sequence[int]) -> list[Graph]:
    """``graph`` as graphs of its nodes from each of ``starts`` (the first is 0) to the next; the last has its results."""
    ends = [*starts[1:], len(graph.nodes)]
    found = []
    for k, (begin, end) in enumerate(zip(starts, ends, strict=True)):
        nodes = graph.nodes[begin:end]
        inside = {v for n in nodes for v in n.outputs}
        read = dict.fromkeys(v for n in nodes for v in n.inputs if v not in inside)
        if end == len(graph.nodes):
            outputs = graph.outputs
        else:
            needed = crossing(graph, end)
            assert needed is not None, "cut where it cannot be"
            outputs = tuple(v for v in needed if v in inside)
        params = set(graph.params)
        inputs = tuple(v for v in read if v not in params)
        name = f"{graph.name}.{k + 1}"
        found.append(Graph(inputs, tuple(p for p in graph.params if p in read), nodes, outputs, name=name))
    return found


@dataclass(frozen=True)
class StagePart:
    """A stage ready to run. ``inputs``, ``outputs``: ("input" | "held" | "output", index) of each of its own; its prepared memory
    is at ``[begin, end)`` of the whole's."""

    executable: Executable
    inputs: tuple[tuple[str, int], ...]
    outputs: tuple[tuple[str, int], ...]
    begin: int
    end: int


class StagedExecutable(Executable):
    """Runs stages one after the other."""

    def __init__(
        self, parts: Sequence[StagePart], held: Sequence[TensorType], allocate: Callable[[TensorType], tuple[int, Any]]
    ) -> None:
        """``held``: what crosses from stage to stage, of the whole batch; ``allocate``: its address and what keeps it alive."""
        self.parts = tuple(parts)
        self._held = tuple(held)
        self._allocate = allocate

    def run(self, inputs: Sequence[int], prepared: Sequence[int], outputs: Sequence[int], threads: int, stream: int) -> Any:
        held = [self._allocate(t) for t in self._held]
        spaces = {"input": inputs, "held": [address for address, _ in held], "output": outputs}
        for p in self.parts:
            given, results = ([spaces[space][i] for space, i in places] for places in (p.inputs, p.outputs))
            p.executable.run(given, prepared[p.begin : p.end], results, threads, stream)
        return None

    def exact(self, space: str, addresses: Sequence[int], threads: int) -> bool:
        """Of inputs, what the first stage reads is looked at: from finite values come finite ones, as far as this can see."""
        if space != "input":
            return all(p.executable.exact(space, addresses[p.begin : p.end], threads) for p in self.parts)
        first = self.parts[0]
        return first.executable.exact(space, [addresses[i] for _, i in first.inputs], threads)


def connect(
    graphs: Sequence[Graph], executables: Sequence[Executable], whole: Graph, counts: Sequence[int]
) -> tuple[list[StagePart], list[Value]]:
    """The parts that run ``graphs`` in the place of ``whole``, and the values held between them; ``counts``: how much prepared
    memory each has."""
    place: dict[Value, tuple[str, int]] = {v: ("input", i) for i, v in enumerate(whole.inputs)}
    held: list[Value] = []
    for g in graphs[:-1]:
        for v in g.outputs:
            if v not in place:
                place[v] = ("held", len(held))
                held.append(v)
    parts, begin = [], 0
    for k, (g, executable, count) in enumerate(zip(graphs, executables, counts, strict=True)):
        last = k == len(graphs) - 1
        outputs = tuple(("output", i) for i in range(len(g.outputs))) if last else tuple(place[v] for v in g.outputs)
        parts.append(StagePart(executable, tuple(place[v] for v in g.inputs), outputs, begin, begin + count))
        begin += count
    return parts, held


__all__ = ["Stage", "StagePart", "StagedExecutable", "connect", "crossing", "parts_of"]
