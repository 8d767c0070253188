"""A backend that runs generated kernels on the loop IR's interpreter: slow, exact, on any machine.

It proposes no candidates, so it shows what the core alone can run; tests use it where no device is needed, and
authors of backends can read it as the smallest complete one. A subclass may propose numpy functions.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from nnaccel_core.api import Backend, Executable, Machine, Memory
from nnaccel_core.loopir import interp
from nnaccel_core.loopir.printer import Printer
from nnaccel_core.loopir.printer_c import CPrinter
from nnaccel_core.ops.registry import lookup
from nnaccel_core.options import Options
from nnaccel_core.plan import HostStep, KernelStep, LibraryStep, Plan
from nnaccel_core.testing.memory import HostMemory, view_of


class InterpreterExecutable(Executable):
    """Runs a plan's steps one after the other on numpy views.

    The implementation of a library step's candidate is a function of numpy arrays that returns numpy arrays.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self._times: tuple[tuple[str, float], ...] = ()

    def run(self, inputs: Sequence[int], prepared: Sequence[int], outputs: Sequence[int], threads: int, stream: int) -> Any:
        arena = HostMemory(max(1, self.plan.arena))
        spaces = {
            "input": inputs,
            "prepared": prepared,
            "output": outputs,
            "arena": arena.address,
            "constant": [c.ctypes.data for c in self.plan.constants],
        }
        times: list[tuple[str, float]] | None = [] if self.profiling else None
        for step in self.plan.steps:
            started = time.perf_counter()
            if isinstance(step, KernelStep):
                arrays = [view_of(b, spaces) for b in step.buffers]
                interp.run(step.kernel, arrays, step.dims)
            elif isinstance(step, HostStep):
                results = lookup(step.node.op).ref([view_of(b, spaces) for b in step.inputs], step.node.attrs)
                for ref, array in zip(step.outputs, results, strict=True):
                    view_of(ref, spaces)[...] = array
            else:
                assert isinstance(step, LibraryStep), "this backend runs no chains"
                results = step.candidate.impl([view_of(b, spaces) for b in step.inputs])
                for ref, array in zip(step.outputs, results, strict=True):
                    view_of(ref, spaces)[...] = array
            if times is not None:
                times.append((step.origin, time.perf_counter() - started))
        self._times = tuple(times or ())
        return None

    def profile(self) -> Sequence[tuple[str, float]]:
        return self._times


class InterpreterBackend(Backend):
    """Device ``interp``."""

    name = "interpreter"
    devices = ("interp",)

    @classmethod
    def probe(cls) -> Machine | None:
        return Machine("x86", "loop IR interpreter", "none", 2, 32, 32 << 10, 512 << 10, 8 << 20, 1e9, 1e9)

    def printer(self) -> Printer:
        return CPrinter()

    def build(self, plan: Plan, options: Options) -> Executable:
        return InterpreterExecutable(plan)

    def memory(self, nbytes: int) -> Memory:
        return HostMemory(nbytes)
