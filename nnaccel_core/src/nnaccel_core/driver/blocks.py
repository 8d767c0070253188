"""Memory of training passes at addresses that come again, for backends that replay runs with the same addresses, and for hosts,
whose fresh memory costs a page fault every few kilobytes.

A framework's allocator gives each pass other addresses for hundreds of tensors. What a forward pass keeps for its backward pass
is nobody else's, so it lies in one block, which the next forward pass gets again.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

from nnaccel_core.api import Bridge
from nnaccel_core.ir import TensorType

#: Blocks that wait for a next pass: two for steps with two forward passes in flight.
WAITING = 2


class Block:
    """Tensors in one piece of memory, which can be used again once nobody holds this."""

    def __init__(self, pool: Blocks, key: tuple[Any, ...], tensors: Sequence[Any]) -> None:
        self.tensors = tensors
        self._pool, self._key = pool, key

    def __del__(self) -> None:
        self._pool.give(self._key, self.tensors)


class Blocks:
    """The blocks of one forward pass. Thread-safe."""

    def __init__(self, bridge: Bridge) -> None:
        self._bridge = bridge
        self._waiting: list[tuple[tuple[Any, ...], Sequence[Any]]] = []
        self._lock = threading.Lock()

    def take(self, types: Sequence[TensorType]) -> Block:
        """Tensors of static ``types``, uninitialized, in the order of the framework's current stream."""
        # Memory of another stream may still be in use there; sizes differ from one batch size to the next.
        key = (self._bridge.stream(), tuple(types))
        with self._lock:
            for k, (found, tensors) in enumerate(self._waiting):
                if found == key:
                    del self._waiting[k]
                    return Block(self, key, tensors)
            self._waiting = []  # freed first: those of another batch size may be what is missing
        return Block(self, key, self._bridge.allocate_block(types))

    def give(self, key: tuple[Any, ...], tensors: Sequence[Any]) -> None:
        """``tensors`` are free."""
        with self._lock:
            self._waiting = [*self._waiting, (key, tensors)][-WAITING:]

    def clear(self) -> None:
        """Leave what waits to the framework."""
        with self._lock:
            self._waiting = []
