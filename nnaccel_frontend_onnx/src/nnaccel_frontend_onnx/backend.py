"""nnaccel behind ONNX's own interface of a backend, for tools written against it and for ONNX's conformance tests.

import nnaccel_frontend_onnx.backend as backend
outputs = backend.prepare(model, device="CPU").run(inputs)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx
import onnx.helper
from onnx.backend.base import Backend, BackendRep, namedtupledict

from nnaccel_frontend_onnx.network import Network


class PreparedNetwork(BackendRep):  # type: ignore[misc]
    """An optimized model; ``network`` is what `nnaccel.optimize` returned."""

    def __init__(self, network: Network) -> None:
        self.network = network

    def run(self, inputs: Any, **kwargs: Any) -> tuple[Any, ...]:
        """All outputs for ``inputs``: a list in the model's order, a mapping by name, or one array."""
        net = self.network
        names = [a.name for a in net.inputs]
        if isinstance(inputs, dict):
            feeds = inputs
        elif isinstance(inputs, (list, tuple)):
            feeds = dict(zip(names, inputs, strict=False))
        else:
            feeds = {names[0]: inputs}
        results = net.run(None, feeds)
        return namedtupledict("Outputs", [a.name for a in net.outputs])(*results)  # type: ignore[no-any-return]


class NnaccelBackend(Backend):  # type: ignore[misc]
    """ONNX's interface: devices are called ``CPU`` and ``CUDA:0`` there."""

    @classmethod
    def prepare(cls, model: onnx.ModelProto, device: str = "CPU", **kwargs: Any) -> PreparedNetwork:
        """``model`` for ``device``; further arguments are those of `nnaccel.optimize`.

        Raises:
            ModelError: the model is not valid; DeviceError: the device is absent.
        """
        from nnaccel_core import optimize

        known = {k: v for k, v in kwargs.items() if k in ("autotune", "dfp", "numerics", "libraries", "verify", "slicing")}
        return PreparedNetwork(optimize(model, device.lower(), **known))

    @classmethod
    def run_model(cls, model: onnx.ModelProto, inputs: Any, device: str = "CPU", **kwargs: Any) -> tuple[Any, ...]:
        """`prepare` and one run."""
        return cls.prepare(model, device, **kwargs).run(inputs)

    @classmethod
    def run_node(
        cls, node: onnx.NodeProto, inputs: Any, device: str = "CPU", outputs_info: Sequence[Any] | None = None, **kwargs: Any
    ) -> tuple[Any, ...]:
        """One node on arrays. ``outputs_info`` (dtype and shape of each output) is inferred where it is left out."""
        import numpy as np

        arrays = [np.asarray(x) for x in (inputs.values() if isinstance(inputs, dict) else inputs)]
        names = [n for n in node.input if n]
        infos = [
            onnx.helper.make_tensor_value_info(n, onnx.helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
            for n, a in zip(names, arrays, strict=True)
        ]
        empty = [onnx.helper.make_empty_tensor_value_info(n) for n in node.output if n]
        graph = onnx.helper.make_graph([node], "node", infos, empty)
        version = int(kwargs.pop("opset_version", onnx.defs.onnx_opset_version()))
        proto = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid(node.domain, version)])
        inferred = {v.name: v for v in onnx.shape_inference.infer_shapes(proto).graph.output}
        for out in proto.graph.output:
            out.CopyFrom(inferred[out.name])
        return cls.run_model(proto, arrays, device, **kwargs)

    @classmethod
    def supports_device(cls, device: str) -> bool:
        """Whether there is a plug-in for the device, and the device is there."""
        from nnaccel_core.errors import NnaccelError
        from nnaccel_core.hooks import manager

        try:
            name = manager.backend_for(device.lower())[1]
            manager.bridge_for("onnx", name)
        except NnaccelError:
            return False
        return True


prepare = NnaccelBackend.prepare
run_model = NnaccelBackend.run_model
run_node = NnaccelBackend.run_node
supports_device = NnaccelBackend.supports_device
