"""A device: plans run step by step on numpy views of host memory."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import Any

from nnaccel_core.api import Backend, Diagnosis, Executable, Machine, Memory
from nnaccel_core.errors import NnaccelError
from nnaccel_core.loopir import interp
from nnaccel_core.loopir.printer import Printer
from nnaccel_core.loopir.printer_c import CPrinter
from nnaccel_core.ops.registry import lookup
from nnaccel_core.options import Options
from nnaccel_core.plan import HostStep, KernelStep, Plan
from nnaccel_core.testing.memory import HostMemory, view_of


class InterpExecutable(Executable):
    """A plan. Nothing in it changes while it runs but its timings, so that any number of threads may run it."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._profile: tuple[tuple[str, float], ...] = ()

    def run(self, inputs: Sequence[int], prepared: Sequence[int], outputs: Sequence[int], threads: int, stream: int) -> Any:
        arena = HostMemory(max(1, self._plan.arena))  # scratch memory of this call
        constants = [c.ctypes.data for c in self._plan.constants]
        spaces = {"input": inputs, "prepared": prepared, "output": outputs, "arena": arena.address, "constant": constants}
        times = []
        for step in self._plan.steps:
            started = time.perf_counter()
            if isinstance(step, KernelStep):
                interp.run(step.kernel, [view_of(b, spaces) for b in step.buffers], step.dims)
            elif isinstance(step, HostStep):
                results = lookup(step.node.op).ref([view_of(b, spaces) for b in step.inputs], step.node.attrs)
                for ref, result in zip(step.outputs, results, strict=True):
                    view_of(ref, spaces)[...] = result
            else:
                raise NnaccelError(f"{step.origin}: this backend proposes no candidates, but was given {step.candidate.reason}")
            times.append((step.origin, time.perf_counter() - started))
        if self.profiling:
            self._profile = tuple(times)
        return None

    def profile(self) -> Sequence[tuple[str, float]]:
        return self._profile


class InterpBackend(Backend):
    """Device ``interp``: no compiler, no speed, the meaning of every kernel."""

    name = "example-interpreter"
    devices = ("interp",)
    api = 0

    @classmethod
    def probe(cls) -> Machine | None:
        # Sizes of caches and speeds steer tile sizes and the choice between candidates.
        return Machine("interp", "loop interpreter", "none", os.cpu_count() or 1, 16, 32 << 10, 1 << 20, 8 << 20, 1e8, 1e8)

    @classmethod
    def diagnose(cls) -> Sequence[Diagnosis]:
        return [Diagnosis("loop interpreter", True, "part of nnaccel-core")]

    def printer(self) -> Printer:
        return CPrinter()

    def build(self, plan: Plan, options: Options) -> Executable:
        return InterpExecutable(plan)

    def memory(self, nbytes: int) -> Memory:
        return HostMemory(nbytes)
