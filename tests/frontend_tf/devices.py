"""Optimized networks on the operators' own references: what the importer and the passes say, without a single kernel."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from nnaccel_core.api import Backend
from nnaccel_core.driver.session import Session
from nnaccel_core.interp import bind_attrs
from nnaccel_core.ir import Env, Graph, Node
from nnaccel_core.ops.registry import lookup
from nnaccel_core.options import Options
from nnaccel_core.select.candidate import Candidate
from nnaccel_core.testing.interpreter import InterpreterBackend


class ReferenceBackend(InterpreterBackend):
    """Every operator by its numpy reference."""

    name = "reference"

    def candidates(
        self, graph: Graph, env: Env, options: Options, only: Collection[frozenset[Node]] | None = None
    ) -> Sequence[Candidate]:
        found = []
        for node in graph.nodes:
            op = lookup(node.op)
            if op.limit_of(node) != "view" and not op.host and node.op not in ("reorder", "pack"):
                found.append(Candidate((node,), node.inputs, node.outputs, 1e-12, "reference", _reference(node, env), self.name))
        return found


def _reference(node: Node, env: Env) -> Any:
    bound = bind_attrs(node, env)
    return lambda arrays: lookup(node.op).ref(arrays, bound.attrs)


def optimized(model: Any, **options: Any) -> Any:
    """``model`` on the operators' references."""
    from nnaccel_frontend_tf.bridge import TensorFlowCpuBridge
    from nnaccel_frontend_tf.frontend import TensorFlowFrontend

    machine = ReferenceBackend.probe()
    assert machine is not None
    backend: Backend = ReferenceBackend(machine, "reference")
    return TensorFlowFrontend().wrap(model, Session(backend, TensorFlowCpuBridge(), Options(**options)))


def has_x86() -> bool:
    """Whether the x86 backend can run here."""
    from nnaccel_core.errors import NnaccelError
    from nnaccel_core.hooks import manager

    try:
        manager.backend_for("cpu")
    except NnaccelError:
        return False
    return True
