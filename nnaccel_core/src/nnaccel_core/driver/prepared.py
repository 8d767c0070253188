"""Prepared memory: what a segment's plans read of its parameters, computed and packed once until these change."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from nnaccel_core.api import Backend, Bridge, Executable, Memory
from nnaccel_core.driver.released import Origins, Released
from nnaccel_core.errors import ReleasedError
from nnaccel_core.ir import Graph, Node, TensorType, Value, evaluate, identity, numpy_dtype
from nnaccel_core.ops.registry import lookup
from nnaccel_core.options import Options
from nnaccel_core.passes.layout import view_root
from nnaccel_core.place import Placed, PreparedKey, prepared_key
from nnaccel_core.plan import BufferRef, LibraryStep, Plan
from nnaccel_core.select.candidate import Pack

#: Results of ``prepare`` nodes up to this many bytes are kept while the others are computed.
KEEP_BYTES = 1 << 16

#: Operators that only move elements.
MOVES = frozenset({"flip", "reorder", "reshape", "transpose"})


@dataclass(frozen=True)
class Prepared:
    """Addresses of a plan's prepared memory, and what keeps it alive. ``exact``: see `Executable.exact`."""

    generation: int
    exact: bool
    addresses: tuple[int, ...]
    owners: tuple[Any, ...]


class PreparedMemory:
    """All that the plans of one segment read of its parameters.

    Attributes:
        generation: counts how often parameters changed; a `Prepared` of another generation is out of date.
    """

    def __init__(
        self, graph: Graph, backend: Backend, bridge: Bridge, options: Options, parameters: Mapping[str, Callable[[], Any]],
        released: Released | None = None, tracked: Mapping[str, Callable[[], Any]] | None = None,
    ) -> None:  # fmt: skip
        """``graph`` computes the derived values from ``parameters``, by name; ``tracked`` are those that may be ``released``."""
        self.backend, self.bridge, self.options, self.parameters = backend, bridge, options, parameters
        self.released = released or Released()
        self.generation = 0
        self._values = graph.outputs
        self._producers = graph.producers()
        self._origins = Origins(graph, tracked or {})
        self._memory: dict[PreparedKey, tuple[int, Any]] = {}

    def of(self, placed: Placed, executable: Executable) -> Prepared:
        """What ``executable``, which runs ``placed.plan``, is given."""
        generation = self.generation
        memo: dict[Value, np.ndarray[Any, Any]] = {}
        pairs = []
        for v, pack in placed.prepared:
            key = prepared_key(v, pack)
            if key not in self._memory:
                self._memory[key] = self._kept(v, pack) or self._derive(v, pack, memo)
                self.released.derived += 1
            pairs.append(self._memory[key])
        addresses = tuple(a for a, _ in pairs)
        exact = executable.exact("prepared", addresses, self.bridge.threads())
        return Prepared(generation, exact, addresses, tuple(o for _, o in pairs))

    def forget(self) -> None:
        """Parameters changed: everything is derived again when it is asked for.

        Raises:
            ReleasedError: it cannot be, since some were released.
        """
        if any(map(self._gone, self._values)):
            raise ReleasedError("parameters changed after others were released, so that nothing can be derived from them again")
        self.generation += 1
        self._memory = {}

    def keep(self, plans: Iterable[Placed]) -> None:
        """Let go of what none of ``plans`` reads."""
        read = {prepared_key(v, pack) for placed in plans for v, pack in placed.prepared}
        self._memory = {key: found for key, found in self._memory.items() if key in read}

    def use(self) -> tuple[set[int], set[int]]:
        """Identities of tensors that plans read in derived forms only; and of those that they read where these lie, or do not
        read yet."""
        ready, needed = set[int](), set[int]()
        owners: dict[Value, list[Any]] = {}
        for (v, _), (_, owner) in self._memory.items():
            owners.setdefault(v, []).append(owner)
        for v in self._values:
            derived = v in owners and all(isinstance(owner, Memory) for owner in owners[v])
            (ready if derived else needed).update(self._origins.tensors(v))
        return ready - needed, needed

    def release(self, tensors: Collection[int]) -> None:
        """Keep for all programs what was derived from ``tensors``, which are about to lose their memory."""
        for (v, pack), found in self._memory.items():
            if not self._origins.tensors(v).isdisjoint(tensors):
                self.released.forms[self._origins.key(v), pack] = found

    def available(self, v: Value, pack: Pack | None) -> bool:
        """Whether ``v`` can be had in this form, in spite of what was released."""
        return not self._gone(v) or prepared_key(v, pack) in self._memory or self._kept(v, pack) is not None

    def _gone(self, v: Value) -> bool:
        return bool(self.released.tensors) and not self.released.tensors.isdisjoint(self._origins.tensors(v))

    def _kept(self, v: Value, pack: Pack | None) -> tuple[int, Any] | None:
        """What any program derived from released tensors in this way."""
        return self.released.forms.get((self._origins.key(v), pack.key if pack else None)) if self._gone(v) else None

    def nbytes(self) -> int:
        """Bytes held beside the framework's own."""
        return sum(owner.nbytes for _, owner in self._memory.values() if isinstance(owner, Memory))

    def value(self, v: Value, memo: dict[Value, np.ndarray[Any, Any]]) -> np.ndarray[Any, Any]:
        """``v`` in its own dtype, as it is stored. ``memo`` is shared between calls."""
        return self._evaluate(v, memo).astype(numpy_dtype(v.dtype), copy=False)

    def _derive(self, v: Value, pack: Pack | None, memo: dict[Value, np.ndarray[Any, Any]]) -> tuple[int, Any]:
        """Address and owner of ``v``, packed if asked: the framework's own memory where that is all it takes."""
        root = view_root(v, self._producers)
        if root not in self._producers and pack is None:
            tensor = self.parameters[root.name]()
            if self.bridge.lies_as(tensor, root.type):
                address = self.bridge.address(tensor)
                if address % self.backend.alignment == 0:
                    return address, tensor
        array = self._moved(v)
        if array is None:
            array = self._evaluate(v, memo)
        static = TensorType(array.shape, v.dtype, v.type.layout)
        if pack is None:
            memory = self.backend.memory(max(1, evaluate(static.nbytes, {})))
            memory.write(static, array)
            return memory.address, memory
        found_packed = self.backend.packed(pack, array)
        if found_packed is not None:
            return found_packed.address, found_packed
        source: Memory | None = None
        if array.flags.c_contiguous and array.dtype == numpy_dtype(v.dtype) and static.same_memory(identity(static.rank)):
            address = array.ctypes.data  # as the packing wants it: weights are large, and copies of them cost page faults
        else:
            source = self.backend.memory(max(1, evaluate(static.nbytes, {})))
            source.write(static, array)
            address = source.address
        packed = self.backend.memory(max(1, pack.nbytes))
        node = Node(
            "pack",
            (v,),
            (Value(TensorType((pack.nbytes,), "uint8"), "packed"),),
            {"key": pack.key, "nbytes": pack.nbytes},
            "prepare",
        )
        candidate = self.backend.pack_candidate(node)
        step = LibraryStep(
            candidate, (BufferRef("input", 0, 0, static),), (BufferRef("output", 0, 0, node.output.type),), None, v.name
        )
        plan = Plan("pack", (step,), (static,), (), (node.output.type,))
        self.backend.build(plan, self.options).run((address,), (), (packed.address,), self.bridge.threads(), self.bridge.stream())
        return packed.address, packed

    def _moved(self, v: Value) -> np.ndarray[Any, Any] | None:
        """The value of nodes that only move a parameter's elements, mostly a view of it; None where others are on the way."""
        nodes = []
        while (node := self._producers.get(v)) is not None:
            if node.op not in MOVES:
                return None
            nodes.append(node)
            v = node.inputs[0]
        array = self.bridge.numpy(self.parameters[v.name]())
        for node in reversed(nodes):
            (array,) = lookup(node.op).ref([array], node.attrs)
        return array

    def _evaluate(self, v: Value, memo: dict[Value, np.ndarray[Any, Any]]) -> np.ndarray[Any, Any]:
        """The value of a node of ``prepare``, by the operators' references; small ones in float64."""
        if v in memo:
            return memo[v]
        node = self._producers.get(v)
        if node is None:
            array = self.bridge.numpy(self.parameters[v.name]())
            if array.dtype == np.float32 and array.nbytes <= KEEP_BYTES:
                # Statistics, scales and biases are folded in float64 and rounded once, at the end; for large weights, whose
                # product with a float64 scale is rounded once as well, the copy would cost more than it gives.
                array = memo[v] = array.astype(np.float64)
            return array
        results = lookup(node.op).ref([self._evaluate(x, memo) for x in node.inputs], node.attrs)
        for out, array in zip(node.outputs, results, strict=True):
            if array.nbytes <= KEEP_BYTES:
                memo[out] = array
        return results[node.outputs.index(v)]
