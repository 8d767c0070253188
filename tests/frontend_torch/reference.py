"""A session without a backend: programs run on the core's numpy references, with parameters cached until `refresh`."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from nnaccel_core.api import Captured, Signature
from nnaccel_core.autodiff import derive
from nnaccel_core.interp import run_graph
from nnaccel_core.ir import Foreign, Graph, Segment
from nnaccel_core.ir.types import common_env
from nnaccel_core.options import Options
from nnaccel_frontend_torch.bridge import TorchCpuBridge
from nnaccel_frontend_torch.module import wrap


def _numpy(t: torch.Tensor) -> np.ndarray[Any, Any]:
    """Its numbers; numpy has no bfloat16."""
    t = t.detach()
    return (t.float() if t.dtype == torch.bfloat16 else t).numpy()


class InterpretedProgram:
    """Runs a captured program; parameters are read once and kept, as packed weights would be."""

    def __init__(self, captured: Captured, bridge: TorchCpuBridge) -> None:
        self.captured = captured
        self.bridge = bridge
        self.kept: dict[str, np.ndarray[Any, Any]] = {}
        self.to_verify = 0

    def __call__(self, tensors: Sequence[torch.Tensor], tape: Any = None) -> list[torch.Tensor]:
        program = self.captured.program
        values = dict(zip(program.inputs, tensors, strict=True))
        for part in program.parts:
            if isinstance(part, Foreign):
                values.update(zip(part.outputs, part.call(*(values[n] for n in part.inputs)), strict=True))
            else:
                assert isinstance(part, Segment)
                values.update(zip(part.outputs, self._segment(part, [values[n] for n in part.inputs], tape), strict=True))
        return [values[n] for n in program.outputs]

    def _segment(self, part: Segment, tensors: Sequence[torch.Tensor], tape: Any) -> list[torch.Tensor]:
        graph = part.graph
        if tape is not None:
            trained = InterpretedTraining(part, tensors, self.captured)
            if trained.wrt:
                return tape(trained, tensors, [self.captured.tracked[name]() for name in trained.parameters])
        env: dict[str, int] = {}
        for value, t in zip(graph.inputs, tensors, strict=True):
            assert common_env(value.shape, t.shape, env), (value, t.shape)
            found = self.bridge.type_of(t)
            assert found is not None and found.same_memory(value.type.layout), (value, t.stride())
        for p in graph.params:
            if p.name not in self.kept:
                self.kept[p.name] = np.array(self.captured.parameters[p.name]().numpy())
        outs = run_graph(graph, [_numpy(t) for t in tensors], self.kept)
        results = []
        for value, array in zip(graph.outputs, outs, strict=True):
            type_ = value.type.concrete(env)
            assert tuple(array.shape) == type_.shape, (value, array.shape)
            t = self.bridge.allocate(type_)
            t.copy_(torch.from_numpy(np.ascontiguousarray(array)).reshape(t.shape))
            results.append(t)
        return results

    def refresh(self) -> None:
        self.kept = {}


class InterpretedTraining:
    """Stands where `nnaccel_core.driver.training.TrainedSegment` stands: both passes on the numpy references."""

    def __init__(self, part: Segment, tensors: Sequence[torch.Tensor], captured: Captured) -> None:
        graph = part.graph
        self.parameters = tuple(v.name for v in graph.params if v.name in captured.tracked)
        tracked = {v: captured.tracked[v.name]() for v in graph.params if v.name in captured.tracked}
        given = {**dict(zip(graph.inputs, tensors, strict=True)), **tracked}
        self.wrt = [v for v, t in given.items() if t.requires_grad and v.type.is_float]
        if not self.wrt:
            return
        detached = [k for k, name in enumerate(part.outputs) if name in captured.detached]
        self._derivative = d = derive(graph, self.wrt, detached)
        place = {self.wrt[k]: i for i, k in enumerate(d.wanted)}
        self.outputs, self.sources, self.seeded, self.depends = len(graph.outputs), d.sources, d.seeded, d.depends
        self.gradient_of = tuple(place.get(v) for v in given)
        others = {v.name: captured.parameters[v.name]() for v in graph.params if v not in tracked}
        self._others = {name: t.numpy() for name, t in others.items()}

    def _run(self, graph: Graph, tensors: Sequence[torch.Tensor], tracked: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        params = {**self._others, **{name: t.numpy() for name, t in zip(self.parameters, tracked, strict=True)}}
        return [torch.from_numpy(np.array(a)) for a in run_graph(graph, [_numpy(t) for t in tensors], params)]

    def forward(self, inputs: Any, tracked: Any) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        results = self._run(self._derivative.forward, inputs, tracked)
        return results[: self.outputs], results[self.outputs :]

    def forward_in_block(self, inputs: Any, tracked: Any) -> tuple[list[torch.Tensor], list[torch.Tensor], None]:
        return (*self.forward(inputs, tracked), None)

    def backward(self, given: Any, tracked: Any) -> list[torch.Tensor]:
        return self._run(self._derivative.backward, given, tracked)

    def layouts(self) -> list[None]:
        return [None] * len(self.sources)


class InterpretedSession:
    """Stands where `nnaccel_core.driver.session.Session` stands."""

    def __init__(self, backend: Any = None, bridge: TorchCpuBridge | None = None, options: Options | None = None) -> None:
        self.backend = backend or SimpleNamespace(name="references", widened=frozenset({"float16", "bfloat16"}))
        self.bridge = bridge or TorchCpuBridge()
        self.options = options or Options()
        self.device = "cpu"
        self.made: dict[Hashable, InterpretedProgram] = {}

    def compiled(self, key: Hashable, signature: Signature, capture: Callable[[], Captured]) -> InterpretedProgram:
        if key not in self.made:
            self.made[key] = InterpretedProgram(capture(), self.bridge)
        return self.made[key]

    def forget(self) -> None:
        self.made = {}

    def release(self) -> None:
        """Nothing waits for a next step here."""

    def refresh(self) -> None:
        for program in self.made.values():
            program.refresh()


def interpreted(net: torch.nn.Module) -> Any:
    """``net`` optimized onto the numpy references."""
    return wrap(net, InterpretedSession())


def close(a: Any, b: Any, rtol: float = 1e-4) -> None:
    """Nested results are equal: containers, Python values, dtypes, shapes, and numbers up to ``rtol`` of the largest."""
    assert type(a) is type(b), (type(a), type(b))
    if isinstance(a, torch.Tensor):
        assert a.dtype == b.dtype and a.shape == b.shape, (a.dtype, a.shape, b.dtype, b.shape)
        if a.dtype.is_floating_point:
            scale = float(b[b.isfinite()].abs().max()) if b.isfinite().any() else 0.0
            torch.testing.assert_close(a, b, rtol=rtol, atol=rtol * max(scale, 1e-6), equal_nan=True)
        else:
            assert torch.equal(a, b)
    elif isinstance(a, dict):
        assert list(a) == list(b)
        for k in a:
            close(a[k], b[k], rtol)
    elif isinstance(a, (tuple, list)):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            close(x, y, rtol)
    else:
        assert a == b
