"""Running graphs on the GPU from numpy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from nnaccel_core.driver.optimize import backend_for
from nnaccel_core.driver.segment import CompiledSegment
from nnaccel_core.ir import Graph, Node, TensorType, Value, channels_last, identity
from nnaccel_core.ops.registry import OpDef, Sample, infer
from nnaccel_core.options import Options
from nnaccel_frontend_torch.bridge import TorchCudaBridge

Array = np.ndarray[Any, Any]


def op_graph(op: OpDef, sample: Sample, last: bool) -> Graph:
    """One node on a sample's shapes."""

    def layout(rank: int) -> tuple[int, ...]:
        return channels_last(rank) if last else identity(rank)

    inputs = tuple(Value(TensorType(a.shape, str(a.dtype), layout(a.ndim)), f"in{i}") for i, a in enumerate(sample.inputs))
    found = infer(op.name, [v.type for v in inputs], sample.attrs)
    outputs = tuple(Value(t.with_layout(layout(t.rank)), f"out{i}") for i, t in enumerate(found))
    return Graph(inputs, (), (Node(op.name, inputs, outputs, sample.attrs),), outputs)


def given(array: Array, type: TensorType) -> torch.Tensor:
    """``array`` on the GPU, laid out as ``type``."""
    back = [type.layout.index(a) for a in range(array.ndim)]
    laid = np.array(np.transpose(array, type.layout), order="C")
    return torch.from_numpy(laid).cuda().permute(back)


def run(graph: Graph, arrays: Sequence[Array], options: Options, calls: int = 1) -> list[Array]:
    """The results of the last of several calls (the third one replays a CUDA graph)."""
    bridge = TorchCudaBridge()
    backend = backend_for("cuda")
    backend.use(bridge)
    segment = CompiledSegment(graph, backend, bridge, options, {})
    built = segment.built({})
    tensors = [given(a, v.type) for a, v in zip(arrays, graph.inputs, strict=True)]
    assert built.prepared is not None
    for _ in range(calls):
        outputs = [bridge.allocate(t) for t in built.output_types]
        for o in outputs:  # what nobody writes must show
            o.fill_(float("nan") if o.is_floating_point() else 77 if o.dtype is not torch.bool else 1)
        built.executable.run(
            [t.data_ptr() for t in tensors], built.prepared.addresses, [t.data_ptr() for t in outputs], 1, bridge.stream()
        )
    torch.cuda.synchronize()
    return [o.cpu().numpy() for o in outputs]
