"""Place every value in memory: liveness, arena offsets, and the lowering of chosen units to a `Plan`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nnaccel_core.errors import VerifyError
from nnaccel_core.interp import bind_attrs
from nnaccel_core.ir import Env, Graph, TensorType, Value, evaluate
from nnaccel_core.plan import BufferRef, ChainStep, HostStep, KernelStep, LibraryStep, Plan, Step
from nnaccel_core.select.candidate import Candidate, Chain, Pack
from nnaccel_core.select.cover import Selection, Unit
from nnaccel_core.select.slices import Slice, Slices, find_slices, slice_strides

ALIGNMENT = 64


def align(n: int) -> int:
    return -(-n // ALIGNMENT) * ALIGNMENT


@dataclass(frozen=True)
class Lifetime:
    """Bytes needed from step ``first`` to step ``last``, both included."""

    size: int
    first: int
    last: int


def assign_offsets(lifetimes: Sequence[Lifetime]) -> tuple[list[int], int]:
    """Offsets of all buffers in one arena, and its size.

    Greedy by size (Pisarchyk and Lee 2020, "Efficient Memory Management for Deep Neural Net Inference"): largest
    first, each at the lowest gap between the buffers that live at the same time.
    """
    order = sorted(range(len(lifetimes)), key=lambda i: (-lifetimes[i].size, lifetimes[i].first))
    offsets = [0] * len(lifetimes)
    placed: list[tuple[int, int]] = []  # (offset, index), sorted by offset
    total = 0
    for i in order:
        life = lifetimes[i]
        at = 0
        for offset, j in placed:
            other = lifetimes[j]
            if other.last < life.first or life.last < other.first:
                continue
            if at + life.size <= offset:
                break
            at = max(at, offset + align(other.size))
        offsets[i] = at
        total = max(total, at + align(life.size))
        placed.append((at, i))
        placed.sort()
    return offsets, total


#: A prepared value: the parameter-derived value itself, or one packed form of it.
PreparedKey = tuple[Value, "str | None"]


def prepared_key(v: Value, pack: Pack | None) -> PreparedKey:
    """Equal for what is prepared once."""
    return v, pack.key if pack else None


@dataclass(frozen=True)
class Placed:
    """A plan and what it takes as prepared memory, in order."""

    plan: Plan
    prepared: tuple[tuple[Value, Pack | None], ...]


class _Placer:
    def __init__(self, graph: Graph, selection: Selection, env: Env) -> None:
        self.graph = graph
        self.units = selection.units
        self.env = env
        self.statics: dict[Value, TensorType] = {}
        self.prepared: dict[PreparedKey, int] = {}
        self.prepared_list: list[tuple[Value, Pack | None]] = []
        self.constants: list[np.ndarray[Any, Any]] = []
        self.where: dict[Value, tuple[str, int, int]] = {}  # root value -> (space, index, offset)
        self.roots: dict[Value, Value] = {}
        self.shared: dict[Value, Value] = {}  # written over another value: the first value in that memory
        self.slices = Slices({}, {})
        for i, v in enumerate(graph.inputs):
            self.where[v] = ("input", i, 0)
        self.params = set(graph.params)

    def root(self, v: Value) -> Value:
        return self.roots.get(v, v)

    def static(self, v: Value) -> TensorType:
        found = self.statics.get(v)
        if found is None:
            found = self.statics[v] = v.type.concrete(self.env)
        return found

    def prepared_ref(self, v: Value, pack: Pack | None) -> BufferRef:
        key = prepared_key(v, pack)
        index = self.prepared.get(key)
        if index is None:
            index = self.prepared[key] = len(self.prepared_list)
            self.prepared_list.append((v, pack))
        kind = TensorType((pack.nbytes,), "uint8") if pack else self.static(v)
        return BufferRef("prepared", index, 0, kind)

    def ref(self, v: Value) -> BufferRef:
        root = self.root(v)
        if root in self.params:
            found = self.prepared_ref(root, None)
            return BufferRef(found.space, found.index, found.offset, self.static(v))
        part = self.slices.of.get(root)
        if part is not None:
            found = self.slice_ref(part, self.static(root))
            # A view of a slice: slices of which there are views are dense.
            return found if root is v else BufferRef(found.space, found.index, found.offset, self.static(v))
        try:
            space, index, offset = self.where[root]
        except KeyError:
            raise VerifyError(f"graph {self.graph.name}: %{v.name} was never placed") from None
        return BufferRef(space, index, offset, self.static(v))

    def slice_ref(self, part: Slice, kind: TensorType) -> BufferRef:
        """The tensor of static type ``kind`` at ``part``."""
        whole = self.static(part.owner)
        space, index, offset = self.where[part.owner]
        step = evaluate(whole.strides()[part.axis], {}) * whole.itemsize
        return BufferRef(space, index, offset + part.start * step, kind, slice_strides(kind, whole))

    def run(self) -> Placed:
        live_units = self._resolve_views()
        self._place_results()
        self.slices = find_slices(self.units, self.static, set(self.where) | self.params)
        lifetimes, owners, temporaries = self._liveness(live_units)
        offsets, arena = assign_offsets(lifetimes)
        for (owner, kind), offset in zip(owners, offsets, strict=True):
            if kind == "value":
                self.where[owner] = ("arena", 0, offset)
        for v, owner in self.shared.items():
            self.where[v] = self.where[owner]
        extra = {
            owner: BufferRef("arena", 0, off, t)
            for (owner, kind), off, t in zip(owners, offsets, temporaries, strict=True)
            if kind == "work"
        }
        steps: list[Step] = []
        for unit in live_units:
            steps += self._steps(unit, extra)
        plan = Plan(
            self.graph.name,
            tuple(steps),
            tuple(self.static(v) for v in self.graph.inputs),
            tuple(TensorType((p.nbytes,), "uint8") if p else self.static(v) for v, p in self.prepared_list),
            tuple(self.static(v) for v in self.graph.results()),
            tuple(self.constants),
            arena,
        )
        return Placed(plan, tuple(self.prepared_list))

    def _resolve_views(self) -> list[Unit]:
        """Map views to the memory they share and constants to theirs; return the units that do work."""
        work: list[Unit] = []
        for unit in self.units:
            if not unit.is_view:
                work.append(unit)
                continue
            (node,) = unit.nodes
            if node.op == "constant":
                self.where[node.output] = ("constant", len(self.constants), 0)
                self.constants.append(np.ascontiguousarray(node.attrs["value"]).reshape(np.shape(node.attrs["value"])))
            else:
                self.roots[node.output] = self.root(node.inputs[0])
        return work

    def _place_results(self) -> None:
        for i, v in enumerate(self.graph.results()):
            root = self.root(v)
            if root in self.where or root in self.params:
                raise VerifyError(
                    f"graph {self.graph.name}: result %{v.name} has no memory of its own; run materialize_outputs first"
                )
            self.where[root] = ("output", i, 0)

    def _liveness(self, units: Sequence[Unit]) -> tuple[list[Lifetime], list[tuple[Any, str]], list[TensorType]]:
        first: dict[Value, int] = {}
        last: dict[Value, int] = {}
        for step, unit in enumerate(units):
            for v in unit.inputs:
                root = self.root(v)
                if root in first:
                    last[root] = step
            for v in unit.outputs:
                if v not in self.where:
                    first[v] = last[v] = step
        for v, part in self.slices.of.items():
            begin, end = first.pop(v), last.pop(v)
            if part.owner in first:
                first[part.owner] = min(begin, first[part.owner])
                last[part.owner] = max(end, last[part.owner])
        for step, unit in enumerate(units):
            for out, base in self._in_place(unit, step, last):
                self.shared[out] = base
                last[base] = last[out]
        lifetimes: list[Lifetime] = []
        owners: list[tuple[Any, str]] = []
        types: list[TensorType] = []
        for v in first:
            if v in self.shared:
                continue
            t = self.static(v)
            lifetimes.append(Lifetime(evaluate(t.nbytes, {}), first[v], last[v]))
            owners.append((v, "value"))
            types.append(t)
        for step, unit in enumerate(units):
            c = unit.candidate
            if c is None:
                continue
            if c.workspace:
                lifetimes.append(Lifetime(c.workspace, step, step))
                owners.append((id(unit), "work"))
                types.append(TensorType((c.workspace,), "uint8"))
            for v in getattr(c.impl, "temporaries", ()):
                t = self.static(v)
                lifetimes.append(Lifetime(evaluate(t.nbytes, {}), step, step))
                owners.append((v, "value"))
                types.append(t)
        return lifetimes, owners, types

    def _base(self, v: Value) -> Value:
        """The value whose memory ``v`` lies in."""
        root = self.root(v)
        part = self.slices.of.get(root)
        return self.shared.get(root, root) if part is None else part.owner

    def _in_place(self, unit: Unit, step: int, last: Mapping[Value, int]) -> Iterator[tuple[Value, Value]]:
        """``(output, owner of the memory it takes over)`` for what ``unit`` writes over inputs that nothing reads any more."""
        if unit.candidate is None:
            return
        taken: set[Value] = set()
        for o, i in unit.candidate.inplace:
            out, given = unit.candidate.outputs[o], unit.candidate.inputs[i]
            root = self.root(given)
            base = self.shared.get(root, root)
            if out not in last or base not in last or last[base] != step or base in taken:
                continue  # results and inputs of the graph have memory of their own; or something still reads it
            if sum(self._base(v) is base for v in unit.inputs) > 1:
                continue  # read a second way by the same unit, in an order that it does not know of
            a, b = self.static(out), self.static(given)
            if a.shape == b.shape and a.dtype == b.dtype and a.layout == b.layout and self.static(base).nbytes == a.nbytes:
                taken.add(base)
                yield out, base

    def _steps(self, unit: Unit, extra: Mapping[Any, BufferRef]) -> list[Step]:
        c = unit.candidate
        if c is None:
            (node,) = unit.nodes
            bound = bind_attrs(node, self.env)
            return [HostStep(bound, tuple(map(self.ref, node.inputs)), tuple(map(self.ref, node.outputs)), unit.origin)]
        if isinstance(c.impl, Chain):
            return [self._chain(c.impl, unit)]
        if c.proposer == "core":
            return [
                KernelStep(
                    call.source,
                    tuple(map(self.ref, call.args)),
                    call.dims,
                    call.tasks,
                    call.scratch,
                    unit.origin,
                    c.seconds,
                    call.threads,
                )
                for call in c.impl.calls
            ]
        inputs = self._operands(c)
        if c.gathers:
            filled = [self.slices.filled.get((id(unit), i)) for i in range(len(inputs))]
            inputs = tuple(ref if at is None else self.slice_ref(at, ref.type) for ref, at in zip(inputs, filled, strict=True))
        return [LibraryStep(c, inputs, tuple(map(self.ref, c.outputs)), extra.get(id(unit)), unit.origin)]

    def _operands(self, c: Candidate) -> tuple[BufferRef, ...]:
        packs = {p.value: p for p in c.packs}
        return tuple(self.prepared_ref(v, packs[v]) if v in packs else self.ref(v) for v in c.inputs)

    def _chain(self, chain: Chain, unit: Unit) -> ChainStep:
        for m, v in chain.locals.items():
            self.where[v] = ("local", m, 0)
        members: list[KernelStep | LibraryStep] = []
        for c in chain.members:
            origin = next((n.origin for n in c.nodes if n.origin), c.nodes[0].op)
            if c.proposer == "core":
                (call,) = c.impl.calls
                args = tuple(map(self.ref, call.args))
                step = KernelStep(call.source, args, call.dims, call.tasks, call.scratch, origin, c.seconds, rows=call.rows)
                members.append(step)
            else:
                members.append(LibraryStep(c, self._operands(c), tuple(map(self.ref, c.outputs)), None, origin))
        return ChainStep(
            tuple(members), {m: self.static(v) for m, v in chain.locals.items()}, chain.images, chain.schedule, unit.origin
        )


def place(graph: Graph, selection: Selection, env: Env) -> Placed:
    """Lower the chosen units of ``graph`` to a plan at the sizes in ``env``."""
    return _Placer(graph, selection, env).run()
