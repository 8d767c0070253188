"""The x86 backend: generated kernels and oneDNN, run by the native runtime."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from nnaccel_backend_x86 import native, probe
from nnaccel_backend_x86.backward import Backward
from nnaccel_backend_x86.builtin import BuiltinCall, is_pack_key, pack_call, packing_order
from nnaccel_backend_x86.candidates import Proposer
from nnaccel_backend_x86.executable import X86Executable
from nnaccel_backend_x86.memory import X86Memory
from nnaccel_backend_x86.onednn import DST, SRC, PrimitiveCall, pack_primitive
from nnaccel_backend_x86.pooling import pool_gradients
from nnaccel_backend_x86.products import Products, concats
from nnaccel_backend_x86.recurrent import recurrences
from nnaccel_backend_x86.reorders import reorders
from nnaccel_backend_x86.scope import Scope
from nnaccel_backend_x86.weights_gradient import WeightsGradient
from nnaccel_backend_x86.winograd import Winograd
from nnaccel_backend_x86.winograd_gradient import WinogradGradient
from nnaccel_core.api import Backend, Bridge, Diagnosis, Machine, Memory
from nnaccel_core.errors import ToolchainError
from nnaccel_core.ir import Env, Graph, Node, TensorType, Value, identity
from nnaccel_core.options import Options
from nnaccel_core.plan import BufferRef, LibraryStep, Plan
from nnaccel_core.select.candidate import Candidate, Pack

if TYPE_CHECKING:
    from nnaccel_backend_x86.toolchain import KernelCompiler
    from nnaccel_core.loopir.printer import Printer


class X86Backend(Backend):
    """x86-64 processors under Linux."""

    name: ClassVar[str] = "x86"
    devices: ClassVar[tuple[str, ...]] = ("cpu",)
    chains: ClassVar[bool] = True
    widened: ClassVar[frozenset[str]] = frozenset({"float16", "bfloat16"})
    autotune: ClassVar[str] = "driver"

    def __init__(self, machine: Machine, device: str) -> None:
        super().__init__(machine, device)
        self._compiler: KernelCompiler | None = None
        self._bridge: Bridge | None = None
        self._packings: dict[tuple[str, tuple[int, ...], tuple[int, ...]], X86Executable] = {}

    @classmethod
    def probe(cls) -> Machine | None:
        """See `nnaccel_backend_x86.probe.probe`."""
        return probe.probe()

    @classmethod
    def count(cls) -> int:
        """One: all cores of the process together."""
        return 1

    @classmethod
    def diagnose(cls) -> Sequence[Diagnosis]:
        return [*_processor(), *_libraries(), *_compilers()]

    @property
    def compiler(self) -> KernelCompiler:
        """The compiler of generated kernels, looked for on first use."""
        if self._compiler is None:
            from nnaccel_backend_x86.toolchain import KernelCompiler

            self._compiler = KernelCompiler(self.machine)
        return self._compiler

    def printer(self) -> Printer:
        return self.compiler.printer()

    def candidates(
        self, graph: Graph, env: Env, options: Options, only: Collection[frozenset[Node]] | None = None
    ) -> Sequence[Candidate]:
        """Convolutions, their gradients and products with their epilogues by oneDNN (never its reference code) and by kernels of
        our own; copies.

        With ``numerics="fast"`` a ReLU or clip inside an epilogue turns NaN into its bound, as oneDNN does; `X86Executable.exact`
        tells the driver when to run the plan of ``numerics="strict"`` instead.

        Raises:
            ToolchainError: the runtime or oneDNN is missing.
        """
        if not options.libraries:
            return ()
        scope, strict = Scope(graph, env, self.machine), options.numerics == "strict"
        found = Proposer(scope, strict).propose(only) + Products(scope).propose(only)
        found += Backward(scope).propose(only) + WeightsGradient(scope).propose(only)
        if not strict:
            found += Winograd(scope).propose(only) + WinogradGradient(scope).propose(only)
        found += concats(scope, only) + reorders(scope, only)
        return found + recurrences(scope, only) + pool_gradients(scope, only)

    def choices_key(self) -> str:
        stat = os.stat(native.library()._name)
        return f"oneDNN {native.onednn_version()}, runtime {stat.st_size} {stat.st_mtime_ns}"

    def pack_candidate(self, node: Node) -> Candidate:
        """The reorder or kernel that runs ``node``, an op ``pack`` with a `Pack.key` of this backend.

        Raises:
            ToolchainError: the key is unknown to this version.
        """
        call: PrimitiveCall | BuiltinCall
        if is_pack_key(str(node.attrs["key"])):
            call = pack_call(node)
        else:
            call = PrimitiveCall(pack_primitive(node, self.machine.cores), (SRC,), (DST,))
        return Candidate((node,), node.inputs, node.outputs, 0.0, f"pack {node.attrs['key']}", call, self.name)

    def packed(self, pack: Pack, array: np.ndarray[Any, Any]) -> Memory:
        """See `Backend.packed`. Natively, on the framework's number of threads; what runs is kept for the next time, since
        training packs its weights at each step."""
        array = np.asarray(array, np.float32)
        order = packing_order(pack.key, array)
        if order is None:
            array, order = np.ascontiguousarray(array), identity(array.ndim)
        key = (pack.key, array.shape, order)
        executable = self._packings.get(key)
        if executable is None:
            executable = self._packings[key] = self._packing(pack, TensorType(array.shape, "float32", order))
        memory = X86Memory(max(1, pack.nbytes), recycled=True)
        threads = self.machine.cores if self._bridge is None else self._bridge.threads()
        executable.run((array.ctypes.data,), (), (memory.address,), threads, 0)
        return memory

    def _packing(self, pack: Pack, source: TensorType) -> X86Executable:
        target = TensorType((pack.nbytes,), "uint8")
        attrs = {"key": pack.key, "nbytes": pack.nbytes, "layout": source.layout}
        node = Node("pack", (pack.value,), (Value(target, "packed"),), attrs, "prepare")
        refs = (BufferRef("input", 0, 0, source),), (BufferRef("output", 0, 0, target),)
        step = LibraryStep(self.pack_candidate(node), *refs, None, pack.value.name)
        return self.build(Plan("pack", (step,), (source,), (), (target,)), Options())

    def use(self, bridge: Bridge) -> None:
        self._bridge = bridge

    def build(self, plan: Plan, options: Options) -> X86Executable:
        return X86Executable(plan, lambda kernels: self.compiler.load(kernels), self.machine.cores)

    def memory(self, nbytes: int) -> Memory:
        return X86Memory(nbytes)


def _processor() -> Sequence[Diagnosis]:
    machine = probe.probe()
    if machine is None:
        return [Diagnosis("processor", False, "no x86-64 processor with SSE 4.2, or not Linux")]
    detail = (
        f"{machine.name}: {machine.isa}, {machine.cores} cores, L1 {machine.l1 >> 10} KiB, L2 {machine.l2 >> 10} KiB, "
        f"about {machine.flops / 1e9:.0f} GFLOP/s"
    )
    return [Diagnosis("processor", True, detail)]


def _libraries() -> Sequence[Diagnosis]:
    lines = []
    runtime, onednn = native.find_runtime(), native.find_onednn()
    try:
        native.load_openmp()
        lines.append(Diagnosis("OpenMP (libgomp)", True, _mapped("libgomp.so.1")))
    except ToolchainError as e:
        lines.append(Diagnosis("OpenMP (libgomp)", False, str(e), "apt-get install libgomp1"))
    try:
        native.library()
        lines.append(Diagnosis("oneDNN", True, f"{native.onednn_version()} ({onednn or _mapped(native.ONEDNN_SONAME)})"))
        lines.append(Diagnosis("x86 runtime", True, str(runtime)))
    except ToolchainError as e:
        fix = "pip install --force-reinstall nnaccel_backend_x86" if onednn else native.ONEDNN_INSTALL
        lines.append(Diagnosis("oneDNN" if onednn is None else "x86 runtime", False, str(e), fix))
    return lines


def _compilers() -> Sequence[Diagnosis]:
    from nnaccel_backend_x86.toolchain import diagnose

    return diagnose()


def _mapped(name: str) -> str:
    """Path of the mapped library of this name."""
    ctypes.CDLL(name)
    with open("/proc/self/maps", encoding="utf-8") as maps:
        return next((line.split(maxsplit=5)[5].strip() for line in maps if name in line), name)
