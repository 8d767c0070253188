"""Generated kernels of all operators on the interpreter: iterations side by side against one scalar at a time."""

from __future__ import annotations

import numpy as np
import pytest

from dfp.helpers import MACHINE, blank
from dfp.test_simt import GPU
from nnaccel_core.api import Machine
from nnaccel_core.dfp import propose
from nnaccel_core.dfp.group import Generated
from nnaccel_core.ir import Graph, Node, TensorType, Value, channels_last, identity
from nnaccel_core.loopir import interp
from nnaccel_core.ops.registry import OpDef, all_ops, infer
from nnaccel_core.options import Options


@pytest.mark.parametrize("machine", [MACHINE, GPU], ids=["x86", "cuda"])
@pytest.mark.parametrize("op", [pytest.param(o, id=o.name) for o in all_ops() if o.loop])
def test_operator(op: OpDef, machine: Machine) -> None:
    sample = next(iter(op.samples()))

    def type_of(shape: tuple[int, ...], dtype: str) -> TensorType:
        return TensorType(shape, dtype, channels_last(len(shape)) if len(shape) == 4 else identity(len(shape)))

    inputs = tuple(Value(type_of(a.shape, str(a.dtype)), f"in{k}") for k, a in enumerate(sample.inputs))
    found = infer(op.name, [v.type for v in inputs], sample.attrs)
    outputs = tuple(Value(type_of(t.shape, t.dtype), f"out{k}") for k, t in enumerate(found))
    graph = Graph(inputs, (), (Node(op.name, inputs, outputs, sample.attrs),), outputs)
    (candidate,) = propose(graph, {}, machine, Options(dfp=False), "test")
    assert isinstance(candidate.impl, Generated)
    memory = dict(zip(inputs, sample.inputs, strict=True))
    for call in candidate.impl.calls:
        serial, together = ([memory[v] if v in memory else blank(v, {}) for v in call.args] for _ in range(2))
        interp.run(call.kernel, serial, call.dims, serial=True)
        interp.run(call.kernel, together, call.dims)
        for v, a, b in zip(call.args, together, serial, strict=True):
            np.testing.assert_array_equal(a, b, err_msg=f"{v} of {call.kernel.name}")
        memory.update(zip(call.args, serial, strict=True))
