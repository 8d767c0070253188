"""The CUDA backend: generated kernels, cuDNN and cuBLASLt, run on the framework's stream."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from nnaccel_backend_cuda import probe
from nnaccel_core import debug
from nnaccel_core.api import Backend, Bridge, Diagnosis, Layer, Machine, Memory
from nnaccel_core.errors import DeviceError, ToolchainError
from nnaccel_core.ir import Env, Graph, Node
from nnaccel_core.options import Options
from nnaccel_core.plan import Plan
from nnaccel_core.select.candidate import Candidate, Pack

if TYPE_CHECKING:
    from nnaccel_backend_cuda.cudnn_graphs import Plan as GraphPlan
    from nnaccel_backend_cuda.cudnn_graphs import Spec
    from nnaccel_backend_cuda.executable import CudaExecutable
    from nnaccel_backend_cuda.kernels import KernelLoader
    from nnaccel_backend_cuda.tuning import Tuner
    from nnaccel_core.loopir.printer import Printer


class CudaBackend(Backend):
    """NVIDIA GPUs under Linux."""

    api: ClassVar[int] = 0
    name: ClassVar[str] = "cuda"
    devices: ClassVar[tuple[str, ...]] = ("cuda",)
    #: wide accesses start at such addresses
    alignment: ClassVar[int] = 16
    derives_live: ClassVar[bool] = True
    replays: ClassVar[bool] = True
    autotune: ClassVar[str] = "backend"

    def __init__(self, machine: Machine, device: str) -> None:
        """``device``: ``"cuda"`` is the current device of the process, ``"cuda:1"`` the second one.

        Raises:
            DeviceError: the GPU is older than generated kernels need.
        """
        _, _, number = device.partition(":")
        self.index = int(number) if number else int(probe.cupy().cuda.runtime.getDevice())
        super().__init__(probe.machine(self.index), device)
        if probe.too_old(self.index):
            oldest = ".".join(map(str, probe.OLDEST))
            raise DeviceError(f"{self.machine.name} has {self.machine.isa}; nnaccel needs compute capability {oldest} or newer")
        from nnaccel_backend_cuda.memory import Scratch

        self.scratch = Scratch(self.index)
        self._kernels: KernelLoader | None = None
        self._tuner: Tuner | None = None
        self._tuner_problem = ""
        self._stream: Any = None
        self._fence: Any = None
        self._lock = threading.RLock()

    @classmethod
    def probe(cls) -> Machine | None:
        """The first GPU, or None where there is none that CUDA can use."""
        return probe.machine(0) if probe.count() else None

    @classmethod
    def absent(cls) -> str:
        return probe.problem()

    @classmethod
    def count(cls) -> int:
        """GPUs that CUDA lists."""
        return probe.count()

    @classmethod
    def diagnose(cls) -> Sequence[Diagnosis]:
        from nnaccel_backend_cuda.doctor import diagnose

        return diagnose()

    @property
    def kernels(self) -> KernelLoader:
        """Compiles and loads generated kernels."""
        with self._lock:
            if self._kernels is None:
                from nnaccel_backend_cuda.kernels import KernelLoader

                self._kernels = KernelLoader(self.machine, self.index)
            return self._kernels

    def capture_stream(self) -> Any:
        """The stream on which this device's graphs are captured: one for good, as libraries tell streams apart by address."""
        with self._lock:
            if self._stream is None:
                self._stream = probe.cupy().cuda.Stream(non_blocking=True)
            return self._stream

    def use(self, bridge: Bridge) -> None:
        self.scratch.use(bridge)

    def printer(self) -> Printer:
        from nnaccel_core.loopir.printer_cuda import CudaPrinter

        return CudaPrinter()

    # --- cuDNN ---------------------------------------------------------------------------------------------------

    def tuner(self) -> Tuner | None:
        """cuDNN's plans on this device; None where cuDNN is missing (logged once)."""
        with self._lock:
            if self._tuner is None and not self._tuner_problem:
                from nnaccel_backend_cuda.tuning import Tuner

                try:
                    self._tuner = Tuner(self.machine, self.index)
                except ToolchainError as e:
                    self._tuner_problem = str(e)
                    debug.log(debug.PLUGINS, f"convolutions run on generated kernels, slowly: {e}")
            return self._tuner

    def has_cudnn(self) -> bool:
        """Whether cuDNN was opened."""
        return self._tuner is not None

    def cudnn_handle(self) -> Any:
        """cuDNN's handle of this device."""
        assert self._tuner is not None
        return self._tuner.handle

    def prepare_plans(self, specs: Sequence[Spec]) -> None:
        """Find the plans of ``specs`` together."""
        if specs:
            tuner = self.tuner()
            assert tuner is not None  # candidates came from it
            tuner.plans(specs)

    def graph_plan(self, spec: Spec) -> GraphPlan | str:
        """The plan of ``spec``, or why there is none."""
        tuner = self.tuner()
        return tuner.plans([spec])[0] if tuner is not None else self._tuner_problem

    def fence(self) -> Any:
        """A kernel that does nothing, for between two kernels of cuDNN of which the second adds a residual.

        Results of such a kernel were wrong, and other ones in each run, where the kernel in front had written the operand that is
        added (H100, cuDNN 9.19: ResNet-18, 128 images, the downsampling convolution + addition + ReLU of the last stage); alone,
        the same plan is right. Kernels for Hopper may start before the one in front has finished, and wait for it in their own
        code, apparently too late for that operand. A kernel without that attribute in between restores the order.
        """
        with self._lock:
            if self._fence is None:
                from nnaccel_core.loopir.grammar import Kernel

                (found,) = self.kernels.load([(Kernel("fence", (), (), (), (), 0), False)])
                self._fence = found.bound(1, 32, 0, 0, ())
            return self._fence

    # --- the contract --------------------------------------------------------------------------------------------

    def candidates(
        self, graph: Graph, env: Env, options: Options, only: Collection[frozenset[Node]] | None = None
    ) -> Sequence[Candidate]:
        """Convolutions and products with their epilogues, at measured or estimated times."""
        if not options.libraries:
            return ()
        from nnaccel_backend_cuda.candidates import Proposer

        wanted = any(n.op.startswith(("conv", "sdpa")) for n in graph.nodes)
        return Proposer(graph, env, self.machine, options, self.tuner() if wanted else None, only).propose()

    def whole(self, node: Node) -> bool:
        from nnaccel_backend_cuda.attention import SIDES, usable

        return node.op in SIDES and usable(node, self.machine.isa) and self.tuner() is not None

    def choices_key(self) -> str:
        """Candidates depend on the libraries' versions, or on there being none, and on how long they were tuned."""
        from nnaccel_backend_cuda.tuning import budget

        tuner = self.tuner()
        return f"cuDNN {tuner.version}, {budget():g} s" if tuner is not None else self._tuner_problem

    def largest_slice(self, layers: Callable[[], Sequence[Layer]]) -> int:
        from nnaccel_backend_cuda import slices

        found = slices.stages(layers(), self.machine)
        return found[0][1] if len(found) == 1 else slices.BATCH

    def stages(self, layers: Callable[[], Sequence[Layer]]) -> Sequence[tuple[int, int]]:
        from nnaccel_backend_cuda import slices

        found = slices.stages(layers(), self.machine)
        return found if len(found) > 1 else ()

    def packed(self, pack: Pack, array: np.ndarray[Any, Any]) -> Memory | None:
        from nnaccel_backend_cuda.candidates import CHANNELS_LAST, packed_bytes
        from nnaccel_backend_cuda.memory import CudaMemory

        if pack.key != CHANNELS_LAST:
            return None
        memory = CudaMemory(max(1, pack.nbytes), self.index)
        memory.fill(packed_bytes(array, pack.value.dtype))
        return memory

    def build(self, plan: Plan, options: Options) -> CudaExecutable:
        from nnaccel_backend_cuda.executable import CudaExecutable

        return CudaExecutable(plan, self, options.live)

    def memory(self, nbytes: int) -> Memory:
        from nnaccel_backend_cuda.memory import CudaMemory

        return CudaMemory(nbytes, self.index)
