"""From compiled results back to what the network returns: its containers, its aliases, its in-place writes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.utils._pytree import tree_flatten, tree_unflatten

from nnaccel_core.ir import Env, Expr, Value, evaluate
from nnaccel_frontend_torch.alias import Ref
from nnaccel_frontend_torch.importer import Importer
from nnaccel_frontend_torch.refusal import Refusal

#: ``(results, inputs, env) -> object``
Fetch = Callable[[Sequence[Any], Sequence[Any], Env], Any]
_PLAIN = (type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.device, torch.Size)


class Shape(tuple):  # type: ignore[type-arg]
    """A `torch.Size` with symbolic entries among what a network returns."""


class Outputs:
    """How to build the network's return value.

    Attributes:
        results: values the program must compute.
        single: the network returns exactly its only result, so that nothing need be built.
    """

    def __init__(self, b: Importer, returned: Any) -> None:
        self.results: list[Value] = []
        self._b = b
        leaves, self._spec = tree_flatten(returned)
        refs = {id(x): x for x in leaves if isinstance(x, Ref)}
        shared: dict[int, int] = {}
        for ref in refs.values():
            shared[id(ref.storage)] = shared.get(id(ref.storage), 0) + 1
        self._taken: dict[Value, Ref | None] = {}
        made: dict[int, Fetch] = {}
        self._fetch: list[tuple[int, Fetch]] = []
        for x in leaves:
            if id(x) not in made or not isinstance(x, Ref):
                made[id(x)] = self._leaf(x, shared)
            self._fetch.append((id(x) if isinstance(x, Ref) else -1, made[id(x)]))
        direct = [x for x in leaves if isinstance(x, Ref)]
        self._writes: list[tuple[int, Fetch]] = []
        returned_results = len(self.results)
        for index, storage in b.written_inputs.items():
            self._writes.append((index, self._value(storage.value, None)))
        #: results that are only written into inputs and buffers
        self.written = tuple(self.results[returned_results:])
        self.single = (
            isinstance(returned, Ref) and len(self.results) == 1 and not self._writes
            and len(direct) == 1 and direct[0].storage.owner == "temp" and self.results[0] is self._direct
        )  # fmt: skip
        self.writes = bool(self._writes)
        #: positions of the program's inputs that are written
        self.places = tuple(index for index, _ in self._writes)
        del self._b

    _direct: Value | None = None

    def _leaf(self, x: Any, shared: dict[int, int]) -> Fetch:
        if isinstance(x, Expr):
            return lambda results, inputs, env: evaluate(x, env)
        if isinstance(x, Shape):
            return lambda results, inputs, env: torch.Size(evaluate(d, env) for d in x)
        if not isinstance(x, Ref):
            if not isinstance(x, _PLAIN):
                raise Refusal(f"the network returns a {type(x).__name__}")
            return lambda results, inputs, env: x
        storage, steps = x.storage, x.steps
        if storage.owner == "input":
            index = storage.index
            if x is self._b.inputs[index]:
                return lambda results, inputs, env: inputs[index]
            return _replayed(lambda results, inputs, env: inputs[index], steps)
        if storage.owner == "param":
            get = self._b.param_values[storage.value.name][1]
            self._b.outside.add(storage.value.name)
            if not steps:
                return lambda results, inputs, env: get()
            return _replayed(lambda results, inputs, env: get(), steps)
        if steps and shared[id(storage)] > 1:
            return _replayed(self._root(storage.value, storage), steps)
        if shared[id(storage)] > 1:
            return self._root(storage.value, storage)
        return self._value(x.read(self._b), storage)

    def _root(self, value: Value, storage: Any) -> Fetch:
        """The memory that several outputs share."""
        return self._value(value, storage)

    def _value(self, value: Value, storage: Any) -> Fetch:
        """A computed value; a copy when another tensor has that memory."""
        if value in self._b.input_values:
            k = self._b.input_values.index(value)
            return lambda results, inputs, env: inputs[k].clone()
        if value.name in self._b.param_values and self._b.param_values[value.name][0] is value:
            get = self._b.param_values[value.name][1]
            self._b.outside.add(value.name)
            return lambda results, inputs, env: get().clone()
        if value in self._taken:
            at = self.results.index(value)
            if self._taken[value] is storage and storage is not None:
                return lambda results, inputs, env: results[at]
            return lambda results, inputs, env: results[at].clone()
        self._taken[value] = storage
        self.results.append(value)
        if storage is not None and self._direct is None:
            self._direct = value
        at = len(self.results) - 1
        return lambda results, inputs, env: results[at]

    def build(self, results: Sequence[Any], inputs: Sequence[Any], env: Env) -> Any:
        """The return value, after in-place writes to inputs and buffers."""
        leaves: list[Any] = []
        done: dict[int, Any] = {}
        for key, fetch in self._fetch:
            if key in done:
                leaves.append(done[key])
                continue
            x = fetch(results, inputs, env)
            leaves.append(x)
            if key >= 0:
                done[key] = x
        writes = [(index, fetch(results, inputs, env)) for index, fetch in self._writes]
        with torch.no_grad():
            for index, x in writes:
                inputs[index].copy_(x)
        return tree_unflatten(leaves, self._spec)


def _replayed(base: Fetch, steps: Sequence[Any]) -> Fetch:
    def fetch(results: Sequence[Any], inputs: Sequence[Any], env: Env) -> Any:
        t = base(results, inputs, env)
        for s in steps:
            t = s.replay(t, env)
        return t

    return fetch
