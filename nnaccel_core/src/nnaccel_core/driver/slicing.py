"""Batch slicing: a segment run for some images at a time, so that its activations stay in the cache.

Samples of a batch do not meet in a network in prediction, so a batch can run in slices of any size. Smaller slices keep
activations in the cache and intermediates small; but each slice reads all weights again. The largest slice is fixed for
a network, so that a handful of plans serves every batch size: once these exist, a new one needs no planning at all.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from nnaccel_core.api import Backend, Executable, Layer, Machine
from nnaccel_core.ir import Env, Graph, Node, TensorType, Value, evaluate, free_symbols, sym
from nnaccel_core.ir.dims import Dim
from nnaccel_core.loopir.grammar import Load, Nest, Scalar, children
from nnaccel_core.ops.registry import lookup
from nnaccel_core.passes.fold import decompose

#: A slice's weights may cost this part of its arithmetic; more slices than that pay too much for reading weights.
WEIGHT_SHARE = 0.02
#: What a slice costs beside its steps (some 12 us were measured), and the part of a slice's time that it may take.
CALL_SECONDS = 1.2e-5
CALL_SHARE = 0.02
#: Fraction of peak that convolutions reach, for the estimate of a slice's time.
EFFICIENCY = 0.7


def batch_symbol(graph: Graph) -> str | None:
    """The symbol that is the batch: the first dim of every input and output, mixed by no operator.

    None when there is no such symbol, so that the graph must run whole.
    """
    names = {_leading_symbol(v) for v in graph.inputs}
    if len(names) != 1 or None in names:
        return None
    (name,) = names
    if name is None or graph.updates or not graph.outputs or graph.symbols() != {name}:
        return None
    if any(_leading_symbol(v) != name or v.type.layout[0] != 0 for v in (*graph.inputs, *graph.outputs)):
        return None
    return name if all(_keeps_samples_apart(n, name) for n in decompose(graph, lambda n: True).nodes) else None


def _leading_symbol(v: Value) -> str | None:
    """The symbol that is the first dim and occurs in no other."""
    if not v.shape or isinstance(v.shape[0], int) or v.shape[0].op != "sym":
        return None
    name = str(v.shape[0].args[0])
    return None if any(name in free_symbols(d) for d in v.shape[1:]) else name


def _carries(v: Value, name: str) -> bool:
    return any(name in free_symbols(d) for d in v.shape)


def _keeps_samples_apart(node: Node, name: str) -> bool:
    """Whether sample i of the results needs sample i of the operands alone."""
    given = [v for v in node.inputs if _carries(v, name)]
    if node.op == "extent" and name in free_symbols(node.attrs["dim"]):
        return False  # a slice of the batch would be told its own size
    if not given and not any(_carries(v, name) for v in node.outputs):
        return True
    if any(_leading_symbol(v) != name for v in (*given, *node.outputs)):
        return False
    if node.op == "reshape":
        return True  # both lead with the batch and row-major order is kept
    if node.op == "transpose":
        return bool(node.attrs["perm"][0] == 0)
    op = lookup(node.op)
    if op.loop is None:
        return False
    batch = sym(name)
    return all(_nest_keeps_apart(nest, set(given), batch) for nest in op.loop(node))


def _nest_keeps_apart(nest: Nest, carried: set[Value], batch: Dim) -> bool:
    """Whether every read of a batched value uses the output's first axis as its first index, and nowhere else."""
    first = sym(nest.axes[0]) if nest.axes else None
    if first is None or nest.out.shape[0] != batch or any(_mentions(extent, batch) for _, extent in nest.reduce):
        return False
    for load in _loads(nest.body, nest.final):
        if load.buffer in carried or load.buffer.shape[:1] == (batch,):
            if load.index[0] != first or any(_mentions(i, first) for i in load.index[1:]):
                return False
        elif any(_mentions(i, first) for i in load.index):
            return False
    return not any(_mentions(b.index, first) for b in nest.where)


def _mentions(dim: Dim, symbol: Dim) -> bool:
    return not isinstance(symbol, int) and str(symbol.args[0]) in free_symbols(dim)


def _loads(*scalars: Scalar | None) -> list[Load]:
    found: list[Load] = []
    todo = [s for s in scalars if s is not None]
    while todo:
        s = todo.pop()
        if isinstance(s, Load):
            found.append(s)
        todo += children(s)
    return found


def layers(graph: Graph, name: str) -> tuple[Layer, ...]:
    """The layers of ``graph`` that read or write the batch ``name``; views and element-wise ones, which join others, left out."""
    params = set(graph.params)
    env: Env = {name: 1}
    limits = [lookup(n.op, n.where()).limit_of(n) for n in graph.nodes]
    last, roots = _lifetimes(graph, limits)
    enters = _entering(graph, limits, name)
    sizes: dict[Value, int] = {}

    def nbytes(v: Value) -> int:
        found = sizes.get(v)
        if found is None:
            found = sizes[v] = evaluate(v.type.nbytes, env)
        return found

    live: dict[Value, int] = {}
    held, found = 0, []
    for i, (node, limit) in enumerate(zip(graph.nodes, limits, strict=True)):
        for v in node.outputs:
            if v not in roots:
                live[v] = last.get(v, i)
                held += nbytes(v)
        if limit not in ("any", "view") and any(_carries(v, name) for v in node.outputs):
            read, op = dict.fromkeys(node.inputs), lookup(node.op)
            found.append(
                Layer(
                    node=i,
                    flops=float(evaluate(op.flops(node), env)) if op.flops is not None else 0.0,
                    nbytes=sum(nbytes(v) for v in (*read, *node.outputs) if v not in params),
                    outputs=sum(evaluate(v.type.size, env) for v in node.outputs),
                    weights=sum(nbytes(v) for v in read if v in params),
                    held=held,
                    enters=None if (across := enters[i]) is None else sum(map(nbytes, across)),
                )
            )
        for v in [v for v in live if live[v] <= i]:
            held -= nbytes(v)
            del live[v]
    return tuple(found)


def _lifetimes(graph: Graph, limits: Sequence[str]) -> tuple[dict[Value, int], dict[Value, Value]]:
    """The last node that reads each value or what lies in its memory; and whose memory values lie in that have none of their own,
    which are views and results of element-wise nodes."""
    params = set(graph.params)
    last: dict[Value, int] = {}
    roots: dict[Value, Value] = {}
    for i, (node, limit) in enumerate(zip(graph.nodes, limits, strict=True)):
        for v in node.inputs:
            last[roots.get(v, v)] = i
        if limit in ("any", "view"):
            size = node.outputs[0].type.size
            same = next((v for v in node.inputs if v not in params and v.type.size == size), None)
            if same is not None:
                roots[node.outputs[0]] = roots.get(same, same)
    return last, roots


def _entering(graph: Graph, limits: Sequence[str], name: str) -> list[tuple[Value, ...] | None]:
    """`stages.crossing` in front of each node, for all of them in one pass."""
    last = {v: i for i, node in enumerate(graph.nodes) for v in node.inputs}
    results = set(graph.results())
    across: dict[Value, bool] = {}  # what crosses, and whether it can
    found: list[tuple[Value, ...] | None] = []
    ended = False
    for i, (node, limit) in enumerate(zip(graph.nodes, limits, strict=True)):
        found.append(tuple(across) if i and not ended and all(across.values()) else None)
        for v in node.inputs:
            if last[v] == i:
                across.pop(v, None)
        for v in node.outputs:
            ended = ended or v in results
            if last.get(v, -1) > i:
                across[v] = limit != "view" and _leading_symbol(v) == name and v.type.layout[0] == 0
    return found


def choose(graph: Graph, name: str, backend: Backend) -> tuple[int, tuple[tuple[int, int], ...]]:
    """The largest slice; and the first node and the largest slice of each stage, () where there are none."""
    found = functools.cache(lambda: layers(graph, name))  # not looked at by every backend, and worth some milliseconds
    size = backend.largest_slice(found)
    stages = tuple((found()[at].node if at else 0, n) for at, n in backend.stages(found))
    if size is None:
        weights, flops = _weights_and_flops(graph, name)
        machine = backend.machine
        size = max(cached_slice(weights, flops, machine), worthy_slice(flops, _moved(graph, name), machine))
    return size, stages


def _moved(graph: Graph, name: str) -> int:
    """Bytes of one sample's inputs and outputs, which are moved at least."""
    return sum(evaluate(v.type.nbytes, {name: 1}) for v in (*graph.inputs, *graph.outputs))


def _weights_and_flops(graph: Graph, name: str) -> tuple[int, float]:
    """Bytes of weights (its parameters are the prepared values), and operations for one sample."""
    env: Env = {name: 1}
    weights = sum(evaluate(p.type.nbytes, env) for p in graph.params)
    flops = 0.0
    for node in graph.nodes:
        op = lookup(node.op)
        if op.flops is not None:
            flops += evaluate(op.flops(node), env)
    return weights, flops


def cached_slice(weights: int, flops: float, machine: Machine, limit: int = 64) -> int:
    """The smallest power of two whose weights cost at most `WEIGHT_SHARE` of its arithmetic: the rule where activations of a few
    samples stay in the cache, so that reading weights is what smaller slices cost."""
    per_sample = flops / (machine.flops * EFFICIENCY)
    reading = weights / machine.bandwidth
    size = 1
    while size < limit and reading > WEIGHT_SHARE * size * per_sample:
        size *= 2
    return size


def worthy_slice(flops: float, moved: int, machine: Machine) -> int:
    """The smallest power of two whose samples, of so many operations and bytes each, take long enough for the call of a slice to
    be a small part of it: samples may be as small as the elements of a vector."""
    per_sample = max(flops / (machine.flops * EFFICIENCY), moved / machine.bandwidth)
    wanted = CALL_SECONDS / CALL_SHARE
    return 1 << max(0, math.ceil(math.log2(wanted / per_sample))) if per_sample else 1


def slices(total: int, largest: int) -> Sequence[int]:
    """``total`` in as few slices as ``largest`` allows, of sizes that differ by one at most: 11 by 4 is 4, 4, 3.

    Even slices: a small rest would use the machine badly. No more than ``largest`` different sizes ever occur.
    """
    count = max(1, -(-total // largest))
    small, more = divmod(total, count)
    return [small + 1] * more + [small] * (count - more)


@dataclass(frozen=True)
class Part:
    """An executable for ``size`` samples; its prepared memory is at ``[begin, end)`` of the whole's."""

    size: int
    executable: Executable
    begin: int
    end: int


class SlicedExecutable(Executable):
    """Runs a batch slice by slice on executables for fewer samples."""

    def __init__(self, parts: Sequence[Part], order: Sequence[int], inputs: Sequence[TensorType], outputs: Sequence[TensorType]):
        """``order``: the slices' sizes, each that of a part; ``inputs``, ``outputs``: types of the whole batch."""
        total = sum(order)
        by_size = {p.size: p for p in parts}
        self.parts = tuple(parts)
        in_bytes = [evaluate(t.nbytes, {}) // total for t in inputs]
        out_bytes = [evaluate(t.nbytes, {}) // total for t in outputs]
        runs = []
        at = 0
        for size in order:
            runs.append((by_size[size], tuple(at * b for b in in_bytes), tuple(at * b for b in out_bytes)))
            at += size
        self._runs = tuple(runs)

    def run(self, inputs: Sequence[int], prepared: Sequence[int], outputs: Sequence[int], threads: int, stream: int) -> Any:
        for part, in_offsets, out_offsets in self._runs:
            part.executable.run(
                [a + o for a, o in zip(inputs, in_offsets, strict=True)],
                prepared[part.begin : part.end],
                [a + o for a, o in zip(outputs, out_offsets, strict=True)],
                threads,
                stream,
            )
        return None

    def exact(self, space: str, addresses: Sequence[int], threads: int) -> bool:
        if space != "input":
            return all(p.executable.exact(space, addresses[p.begin : p.end], threads) for p in self.parts)
        return all(
            part.executable.exact(space, [a + o for a, o in zip(addresses, offsets, strict=True)], threads)
            for part, offsets, _ in self._runs
        )

    @property
    def profiling(self) -> bool:
        return self.parts[0].executable.profiling

    @profiling.setter
    def profiling(self, on: bool) -> None:
        self.parts[0].executable.profiling = on

    def profile(self) -> Sequence[tuple[str, float]]:
        """Steps of the last slice of the largest size."""
        return self.parts[0].executable.profile()


def sliced(executable: Executable) -> tuple[int, ...]:
    """Sizes of the slices that ``executable`` runs a batch in; empty when it runs it whole."""
    return tuple(part.size for part, _, _ in executable._runs) if isinstance(executable, SlicedExecutable) else ()
