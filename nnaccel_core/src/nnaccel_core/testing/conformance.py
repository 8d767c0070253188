"""The conformance kit: what a backend must get right, run by its author's own tests.

from nnaccel_core.testing import conformance

@pytest.mark.parametrize("case", conformance.op_cases(), ids=str)
def test_ops(case):
    conformance.check_op(my_backend(), case)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nnaccel_core.api import Backend, Bridge, Captured
from nnaccel_core.driver.session import Compiled
from nnaccel_core.ir import Graph, Node, Program, Segment, TensorType, Value, sym
from nnaccel_core.loopir.grammar import Kernel
from nnaccel_core.loopir.source import KernelSource
from nnaccel_core.ops.registry import OpDef, Sample, all_ops, collect_guards, infer
from nnaccel_core.options import Options
from nnaccel_core.testing.memory import NumpyBridge

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class OpCase:
    """One sample of one operator."""

    op: OpDef
    number: int
    sample: Sample

    def __str__(self) -> str:
        return f"{self.op.name}-{self.number}"


def op_cases(names: Sequence[str] | None = None) -> list[OpCase]:
    """Every sample of every registered operator (or of those called ``names``)."""
    return [OpCase(op, i, s) for op in all_ops() if names is None or op.name in names for i, s in enumerate(op.samples())]


def op_graph(case: OpCase, symbolic: bool = False) -> Graph:
    """A graph of the one node. ``symbolic`` leaves the first dim of rank-3+ inputs open where the op allows it."""
    types = []
    for a in case.sample.inputs:
        open_batch = symbolic and a.ndim >= 3 and a.shape[0] == case.sample.inputs[0].shape[0]
        types.append(TensorType((sym("n"), *a.shape[1:]) if open_batch else a.shape, str(a.dtype)))
    inputs = tuple(Value(t, f"x{i}") for i, t in enumerate(types))
    with collect_guards() as guards:
        outputs = tuple(Value(t, f"y{i}") for i, t in enumerate(infer(case.op.name, types, case.sample.attrs, str(case))))
    node = Node(case.op.name, inputs, outputs, case.sample.attrs, str(case))
    return Graph(inputs, (), (node,), outputs, guards=tuple(guards), name=str(case))


def compile_graph(
    graph: Graph,
    backend: Backend,
    parameters: Mapping[str, Array] | None = None,
    options: Options | None = None,
    bridge: Bridge | None = None,
) -> Compiled:
    """``graph`` compiled for ``backend``, called with and returning numpy arrays (the backend's memory is the host's)."""
    params = dict(parameters or {})
    inputs = tuple(f"in{i}" for i in range(len(graph.inputs)))
    outputs = tuple(f"out{i}" for i in range(len(graph.outputs)))
    program = Program(inputs, (Segment(graph, inputs, outputs),), outputs)
    getters = {name: (lambda name=name: params[name]) for name in params}
    return Compiled(Captured(program, getters), backend, bridge or NumpyBridge(), options or Options())


def kernels_of(cases: Sequence[OpCase], backend: Backend, options: Options | None = None) -> list[Kernel | KernelSource]:
    """The generated kernels that these cases need on ``backend``: to compile them in one go before the checks."""
    found: dict[int, Kernel | KernelSource] = {}
    for case in cases:
        (segment,) = compile_graph(op_graph(case), backend, options=options).segments.values()
        _, placed = segment.plan({})
        found.update((id(k), k) for k in placed.plan.kernels())
    return list(found.values())


def check_op(backend: Backend, case: OpCase, options: Options | None = None, rtol: float | None = None) -> None:
    """The backend's result for one sample equals the operator's reference.

    Raises:
        AssertionError: it differs.
    """
    compiled = compile_graph(op_graph(case), backend, options=options)
    got = compiled([np.array(a, order="C") for a in case.sample.inputs])
    want = case.op.ref(case.sample.inputs, case.sample.attrs)
    tolerance = max(rtol or 0.0, case.sample.rtol)
    for a, b in zip(got, want, strict=True):
        assert a.dtype == np.asarray(b).dtype, f"{case}: {a.dtype} instead of {np.asarray(b).dtype}"
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance, err_msg=str(case))
