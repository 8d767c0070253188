"""Every op with a loop nest as a kernel of its own: the ops' samples, on the loop IR's interpreter."""

from __future__ import annotations

import numpy as np
import pytest

from dfp.helpers import MACHINE, run_candidate
from nnaccel_core.dfp import propose
from nnaccel_core.ir import Graph, Node, TensorType, Value, channels_last, identity
from nnaccel_core.ops.registry import OpDef, Sample, all_ops, infer
from nnaccel_core.options import Options

_CASES = [
    pytest.param(op, s, last, id=f"{op.name}-{i}-{'last' if last else 'first'}")
    for op in all_ops()
    if op.loop
    for i, s in enumerate(op.samples())
    for last in (False, True)
    if not last or any(a.ndim >= 3 for a in s.inputs)  # else channels-last is row-major
]


@pytest.mark.parametrize(("op", "sample", "last"), _CASES)
def test_sample(op: OpDef, sample: Sample, last: bool) -> None:
    def layout(rank: int) -> tuple[int, ...]:
        return channels_last(rank) if last else identity(rank)

    inputs = tuple(Value(TensorType(a.shape, str(a.dtype), layout(a.ndim)), f"in{i}") for i, a in enumerate(sample.inputs))
    found = infer(op.name, [v.type for v in inputs], sample.attrs)
    outputs = tuple(Value(t.with_layout(layout(t.rank)), f"out{i}") for i, t in enumerate(found))
    graph = Graph(inputs, (), (Node(op.name, inputs, outputs, sample.attrs),), outputs)
    (candidate,) = propose(graph, {}, MACHINE, Options(dfp=False), "test")
    got = run_candidate(candidate, dict(zip(inputs, sample.inputs, strict=True)), {})
    want = op.ref(sample.inputs, sample.attrs)
    for v, array in zip(outputs, want, strict=True):
        np.testing.assert_allclose(got[v], array, rtol=max(sample.rtol, 1e-5), atol=1e-5)
