"""Generated kernels on the GPU: every operator's samples against the references."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from nnaccel_core.driver.optimize import backend_for
from nnaccel_core.ops.registry import OpDef, Sample, all_ops
from nnaccel_core.options import Options

pytestmark = pytest.mark.gpu

_CASES = [
    pytest.param(op, s, last, id=f"{op.name}-{i}-{'last' if last else 'first'}")
    for op in all_ops()
    if op.loop
    for i, s in enumerate(op.samples())
    for last in (False, True)
    if not last or any(a.ndim >= 3 for a in s.inputs)  # else channels-last is row-major
]


@pytest.fixture(scope="module", autouse=True)
def compiled() -> None:
    """All kernels at once: the compiler runs on all cores."""
    from backend_cuda.harness import op_graph
    from nnaccel_core.dfp import propose

    backend: Any = backend_for("cuda")
    calls = []
    for case in _CASES:
        graph = op_graph(*case.values)
        for c in propose(graph, {}, backend.machine, Options(dfp=False), "cuda"):
            calls += [(call.source, False) for call in c.impl.calls if call.tasks]
    backend.kernels.load(calls)


@pytest.mark.parametrize(("op", "sample", "last"), _CASES)
def test_sample(op: OpDef, sample: Sample, last: bool) -> None:
    from backend_cuda.harness import op_graph, run

    got = run(op_graph(op, sample, last), sample.inputs, Options(libraries=False, dfp=False))
    for a, b in zip(got, op.ref(sample.inputs, sample.attrs), strict=True):
        np.testing.assert_allclose(a, b, rtol=max(sample.rtol, 2e-5), atol=2e-5)
