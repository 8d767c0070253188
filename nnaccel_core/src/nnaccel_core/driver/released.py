"""Parameters whose own memory was given back: what was derived from them, for every program of a network."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from nnaccel_core.ir import Graph, Value


class Released:
    """What the programs of a session share of released parameters.

    Attributes:
        tensors: identities of the framework's tensors; the network keeps these objects.
        forms: address and owner of what was derived from them, by `Origins.key` and `Pack.key`.
        derived: how much was derived from any parameters so far: while it stands still, nothing new can be released.
    """

    def __init__(self) -> None:
        self.tensors: set[int] = set()
        self.forms: dict[tuple[str, str | None], tuple[int, Any]] = {}
        self.derived = 0


class Origins:
    """Where the values of a ``prepare`` graph come from.

    Args:
        tracked: parameters that may be released, by name, to functions that return the framework's own tensor.
    """

    def __init__(self, graph: Graph, tracked: Mapping[str, Callable[[], Any]]) -> None:
        self._producers = graph.producers()
        self._tracked = tracked
        self._tensors: dict[Value, frozenset[int]] = {}
        self._keys: dict[Value, str] = {}

    def tensors(self, v: Value) -> frozenset[int]:
        """Identities of the tracked tensors that ``v`` is derived from."""
        found = self._tensors.get(v)
        if found is None:
            node = self._producers.get(v)
            if node is not None:
                found = frozenset().union(*map(self.tensors, node.inputs))
            else:
                get = self._tracked.get(v.name)
                found = frozenset() if get is None else frozenset({id(get())})
            self._tensors[v] = found
        return found

    def key(self, v: Value) -> str:
        """Equal for values that are derived from the same tensors in the same way, in any program."""
        found = self._keys.get(v)
        if found is None:
            node = self._producers.get(v)
            if node is None:
                text = f"{sorted(self.tensors(v))} {v.type}" if self.tensors(v) else f"untracked {id(self)} {v.name}"
            else:
                attrs = ", ".join(f"{k}={_plain(x)}" for k, x in sorted(node.attrs.items()))
                text = f"{node.op} {[self.key(x) for x in node.inputs]} {attrs} {node.outputs.index(v)} {v.type}"
            found = self._keys[v] = hashlib.sha256(text.encode()).hexdigest()
        return found


def _plain(x: Any) -> str:
    return f"{x.dtype}{x.shape}{hashlib.sha256(x.tobytes()).hexdigest()}" if isinstance(x, np.ndarray) else repr(x)
