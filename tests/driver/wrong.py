"""A backend whose implementation of one operator is wrong, for tests of `verify`."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from nnaccel_core.interp import bind_attrs
from nnaccel_core.ir import Env, Graph, Node
from nnaccel_core.ops.registry import lookup
from nnaccel_core.options import Options
from nnaccel_core.select.candidate import Candidate
from nnaccel_core.testing.interpreter import InterpreterBackend


class WrongBackend(InterpreterBackend):
    """Runs ``op`` by a "library" that is off by ``error`` (relative) in the one node whose origin holds ``layer``."""

    op = "tanh"
    layer = ""
    error = 0.01

    def candidates(
        self, graph: Graph, env: Env, options: Options, only: Collection[frozenset[Node]] | None = None
    ) -> Sequence[Candidate]:
        found = []
        for node in graph.nodes:
            if node.op == self.op and self.layer in node.origin:

                def run(arrays: Sequence[Any], node: Any = node) -> Sequence[Any]:
                    (y,) = lookup(node.op).ref(arrays, bind_attrs(node, env).attrs)
                    return [(y * (1 + self.error)).astype(y.dtype)]

                found.append(Candidate((node,), node.inputs, node.outputs, 1e-12, "wrong library call", run, self.name))
        return found


def wrong_backend(**attributes: Any) -> WrongBackend:
    machine = WrongBackend.probe()
    assert machine is not None
    backend = WrongBackend(machine, "interp")
    for name, value in attributes.items():
        setattr(backend, name, value)
    return backend
