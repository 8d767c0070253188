"""Backends to test the importer on: the loop IR's interpreter, and the operators' own references."""

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
from nnaccel_frontend_onnx.bridge import NumpyCpuBridge
from nnaccel_frontend_onnx.loading import load
from nnaccel_frontend_onnx.network import Network
from nnaccel_frontend_onnx.training import TrainableNetwork


class ReferenceBackend(InterpreterBackend):
    """Every operator by its numpy reference: what the importer and the graph passes say, without a single kernel."""

    name = "reference"

    def candidates(
        self, graph: Graph, env: Env, options: Options, only: Collection[frozenset[Node]] | None = None
    ) -> Sequence[Candidate]:
        found = []
        for node in graph.nodes:
            op = lookup(node.op)
            if op.limit_of(node) != "view" and not op.host and node.op != "pack":
                found.append(Candidate((node,), node.inputs, node.outputs, 1e-12, "reference", _reference(node, env), self.name))
        return found


def _reference(node: Node, env: Env) -> Any:
    bound = bind_attrs(node, env)
    return lambda arrays: lookup(node.op).ref(arrays, bound.attrs)


def network(model: Any, device: str = "reference", train: bool = False) -> Any:
    """``model``, to be trained with ``train``, on ``"reference"``, ``"interp"``, or a device of an installed plug-in."""
    if device in ("reference", "interp"):
        cls = ReferenceBackend if device == "reference" else InterpreterBackend
        machine = cls.probe()
        assert machine is not None
        backend: Backend = cls(machine, device)
        kind = TrainableNetwork if train else Network
        return kind(load(model), Session(backend, NumpyCpuBridge(), Options(train=train)))
    import nnaccel

    return nnaccel.optimize(model, device=device, train=train)


def has_x86() -> bool:
    """Whether the x86 backend can run here."""
    from nnaccel_core.errors import NnaccelError
    from nnaccel_core.hooks import manager

    try:
        manager.backend_for("cpu")
    except NnaccelError:
        return False
    return True
