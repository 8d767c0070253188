"""A plan on the GPU: step by step on the framework's stream, or replayed as a CUDA graph.

A graph is captured at the second call of a plan with the same prepared memory. It works on scratch memory of its own: small
inputs are copied in, small results out to the call's own memory, so that no call ever writes what an earlier one returned. Steps
that touch large ones are launched in front of the graph and behind it, on the caller's memory (`cut`).

Where too much would be copied (`cut.dear`: a pass of training gives back an activation of nearly every layer), graphs work on
the caller's memory, and are good for calls with the same addresses again; only what is small and lies elsewhere each time is
copied (`mobile`). The driver gives passes of training such memory, step after step, so theirs always work so (`cut.heavy`) unless
addresses do not settle; other calls run step by step. So do plans with steps on the host, and all plans under
NNACCEL_CUDA_GRAPHS=0.
"""

from __future__ import annotations

import itertools
import os
import threading
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from nnaccel_backend_cuda.candidates import ProductCall
from nnaccel_backend_cuda.cudnn_graphs import GraphCall, frontend
from nnaccel_backend_cuda.cudnn_graphs import Plan as GraphPlan
from nnaccel_backend_cuda.cut import copying_bytes, cut, dear, heavy
from nnaccel_backend_cuda.gathers import GatherSpec
from nnaccel_backend_cuda.memory import ALIGNMENT, CudaMemory, Scratch, logical, physical
from nnaccel_backend_cuda.mobile import Mobile
from nnaccel_backend_cuda.pools import PoolSpec
from nnaccel_backend_cuda.probe import cupy
from nnaccel_backend_cuda.products import Product
from nnaccel_backend_cuda.stems import StemSpec
from nnaccel_core import debug
from nnaccel_core.api import Executable
from nnaccel_core.errors import NnaccelError
from nnaccel_core.ir import evaluate
from nnaccel_core.ops.registry import lookup
from nnaccel_core.plan import BufferRef, HostStep, KernelStep, LibraryStep, Plan

if TYPE_CHECKING:
    from nnaccel_backend_cuda.backend import CudaBackend

#: Base addresses of a call by space.
Spaces = Mapping[str, Sequence[int]]
#: Enqueues one step: (spaces, address of the libraries' workspace, stream).
Launch = Callable[[Spaces, int, int], None]
_DEVICE_TO_DEVICE = 3
#: Addresses of a call that its graph depends on: prepared memory, inputs and outputs.
Addresses = tuple[tuple[int, ...], tuple[int, ...]]
#: Graphs on the caller's memory that one plan keeps, calls whose addresses it remembers, and captures: so many, and one more for
#: each so many replays. Where addresses do not settle, capturing again and again would cost more than launching.
KEPT, MET, CAPTURES, OFTEN = 4, 8, 16, 32
#: Calls one after another that find no graph of their addresses before a pass of training gets one that works on copies.
PATIENCE = 12
#: Addresses at which vector accesses may start.
ACCESS = 16
#: Dynamic shared memory beyond this must be asked for; a block has 48 KiB, of which reductions use some (static) bytes.
_SHARED = 44 << 10


def _align(n: int) -> int:
    return -(-n // ALIGNMENT) * ALIGNMENT


def graphs_wanted() -> bool:
    """Whether CUDA graphs are on: ``NNACCEL_CUDA_GRAPHS=0`` switches them off."""
    return os.environ.get("NNACCEL_CUDA_GRAPHS", "1") not in ("0", "off", "no")


class Captured:
    """A captured graph and what it is good for."""

    def __init__(self, graph: Any, prepared: tuple[int, ...], generation: int) -> None:
        self.graph, self.prepared, self.generation = graph, prepared, generation


class CudaExecutable(Executable):
    """See the module. Calls of several threads enqueue one after another."""

    def __init__(self, plan: Plan, backend: CudaBackend, again: bool = False) -> None:
        """``again``: whether operands lie where they lay in an earlier call, as in training (`Backend.replays`).

        Raises:
            ToolchainError: NVRTC or a library is missing, or refused a kernel; NnaccelError: a library step cannot be built.
        """
        self.profiling = False
        self.plan = plan
        self.index = backend.index
        self.scratch: Scratch = backend.scratch
        self._backend = backend
        self._workspace = 0
        with cupy().cuda.Device(self.index):  # modules and the libraries' handles belong to the current device
            self._constants = [self._upload(c) for c in plan.constants]
            self._launches = self._build_steps()
        self._host = any(isinstance(s, HostStep) for s in plan.steps)
        self._sizes_in = [int(evaluate(t.nbytes, {})) for t in plan.inputs]
        self._sizes_out = [int(evaluate(t.nbytes, {})) for t in plan.outputs]
        self.cut = cut(plan, backend.machine.bandwidth)
        self._workspace_at = _align(plan.arena)
        self._direct_bytes = at = self._workspace_at + _align(self._workspace)
        # Places for copies of inputs and results: those that the graph works on; behind them the others, which are copied when
        # their addresses do not suit.
        self._input_at, self._output_at = [0] * len(self._sizes_in), [0] * len(self._sizes_out)
        for outside in (False, True):
            for places, sizes, direct in (
                (self._input_at, self._sizes_in, self.cut.inputs),
                (self._output_at, self._sizes_out, self.cut.outputs),
            ):
                for i, n in enumerate(sizes):
                    if (i in direct) == outside:
                        places[i] = at
                        at += _align(n)
            if not outside:
                self._graph_bytes = at
        self._whole_bytes = at
        self._captured: Captured | None = None
        self._seen: tuple[int, ...] | None = None
        self._refused = "" if graphs_wanted() else "switched off by NNACCEL_CUDA_GRAPHS"
        if self.cut.empty and not self._host:
            self._refused = self._refused or "all steps touch large inputs or results, where the caller has them"
        self._dear = dear(plan, self.cut, backend.machine.bandwidth)
        #: why graphs work on the caller's memory; "" where copies do
        self._in_place_for = self._dear or (heavy(plan, self.cut, backend.machine.bandwidth) if again else "")
        self._missed = 0
        self._mobile = Mobile((*self._sizes_in, *self._sizes_out), copying_bytes(plan, backend.machine.bandwidth))
        self._fixed: dict[Addresses, Captured] = {}
        self._met: deque[Addresses] = deque(maxlen=MET)
        self._last: tuple[int, ...] | None = None
        self._captures = self._replays = 0
        self.scratch.expect(self._direct_bytes if self._refused or self._in_place_for else self._graph_bytes)
        self._profile: tuple[tuple[str, float], ...] = ()
        self._lock = threading.RLock()

    def _upload(self, array: np.ndarray[Any, Any]) -> CudaMemory:
        memory = CudaMemory(max(1, array.nbytes), self.index)
        memory.fill(np.ascontiguousarray(array))
        return memory

    # --- steps ---------------------------------------------------------------------------------------------------

    def _build_steps(self) -> list[Launch]:
        kernels = [(s.source, _is_wide(s)) for s in self.plan.steps if isinstance(s, KernelStep) and s.tasks]
        loaded = self._backend.kernels.load(kernels) if kernels else []
        functions = dict(zip(((id(k), wide) for k, wide in kernels), loaded, strict=True))
        self._backend.prepare_plans([s.candidate.impl.spec for s in self.plan.steps if _is_graph(s)])  # type: ignore[union-attr]
        found: list[Launch] = []
        for s in self.plan.steps:
            if isinstance(s, KernelStep):
                found.append(self._kernel(s, functions[id(s.source), _is_wide(s)]) if s.tasks else _nothing)
            elif isinstance(s, LibraryStep):
                found.append(self._library(s))
            else:
                found.append(self._on_host(s))
        return found

    def _kernel(self, s: KernelStep, function: Any) -> Launch:
        wide = _is_wide(s)
        dims = tuple((np.int64 if wide else np.int32)(d) for d in s.dims)
        places = tuple((b.space, b.index, b.offset) for b in s.buffers)
        if s.tasks >= 1 << 31:
            raise NnaccelError(f"{s.origin}: {s.tasks} tiles are more than a grid of CUDA holds")
        if s.scratch > _SHARED:
            function.allow_shared(s.scratch)
        run = function.bound(s.tasks, max(32, s.threads), s.scratch, len(places), dims)

        def launch(spaces: Spaces, workspace: int, stream: int) -> None:
            run([spaces[s][i] + o for s, i, o in places], stream)

        return launch

    def _library(self, s: LibraryStep) -> Launch:
        impl = s.candidate.impl
        refs = (*s.inputs, *s.outputs)
        for ref in refs:
            if ref.strides is not None and ref.strides != ref.type.strides():
                raise NnaccelError(f"{s.origin}: {s.candidate.reason} got a strided operand, which it does not take")
        places = tuple((b.space, b.index, b.offset) for b in refs)
        if isinstance(impl, GraphCall):
            plan = self._backend.graph_plan(impl.spec)
            if not isinstance(plan, GraphPlan):
                raise NnaccelError(f"{s.origin}: cuDNN refused {s.candidate.reason}: {plan}")
            self._workspace = max(self._workspace, plan.workspace)
            uids = impl.uids
            handle = self._backend.cudnn_handle()
            fence = self._backend.fence() if impl.spec.fenced else None

            def run_graph(spaces: Spaces, workspace: int, stream: int) -> None:
                if fence is not None:
                    fence((), stream)
                plan.run({u: spaces[p][i] + o for u, (p, i, o) in zip(uids, places, strict=True)}, workspace, handle)

            return run_graph
        if isinstance(impl, ProductCall):
            product = Product(impl.spec, self.index)
            self._workspace = max(self._workspace, product.workspace)
            bias = impl.spec.bias

            def multiply(spaces: Spaces, workspace: int, stream: int) -> None:
                at = [spaces[p][i] + o for p, i, o in places]
                product.run(at[0], at[1], at[2] if bias else 0, at[-1], workspace, stream)

            return multiply
        if isinstance(impl, (StemSpec, GatherSpec, PoolSpec)):
            ours = impl.ready(self._backend.machine, self._backend.kernels)
            self._workspace = max(self._workspace, ours.workspace)

            def run_ours(spaces: Spaces, workspace: int, stream: int) -> None:
                ours.run([spaces[p][i] + o for p, i, o in places], workspace, stream)

            return run_ours
        raise NnaccelError(f"{s.origin}: the candidate {s.candidate.reason!r} is not of the CUDA backend")

    def _on_host(self, s: HostStep) -> Launch:
        runtime = cupy().cuda.runtime

        def run(spaces: Spaces, workspace: int, stream: int) -> None:
            runtime.streamSynchronize(stream)
            given = [self._fetch(r, spaces) for r in s.inputs]
            results = lookup(s.node.op, s.node.where()).ref(given, s.node.attrs)
            for ref, result in zip(s.outputs, results, strict=True):
                if ref.strides is not None and ref.strides != ref.type.strides():
                    raise NnaccelError(f"{s.origin}: {s.node.op} runs on the host and cannot write a strided operand")
                raw = physical(ref.type, np.asarray(result))
                if raw.nbytes:
                    runtime.memcpy(spaces[ref.space][ref.index] + ref.offset, raw.ctypes.data, raw.nbytes, 1)

        return run

    def _fetch(self, ref: BufferRef, spaces: Spaces) -> np.ndarray[Any, Any]:
        type = ref.type
        if ref.strides is not None and ref.strides != type.strides():
            raise NnaccelError("an operator on the host cannot read a strided operand")
        raw = np.empty(int(evaluate(type.nbytes, {})), np.uint8)
        if raw.nbytes:
            cupy().cuda.runtime.memcpy(raw.ctypes.data, spaces[ref.space][ref.index] + ref.offset, raw.nbytes, 2)
        return logical(type, raw)

    # --- runs ----------------------------------------------------------------------------------------------------

    def run(self, inputs: Sequence[int], prepared: Sequence[int], outputs: Sequence[int], threads: int, stream: int) -> None:
        """Enqueue on ``stream`` (a ``cudaStream_t``); returns before the results are there.

        Raises:
            OutOfMemoryError: the arena could not be allocated.
        """
        cp = cupy()
        with cp.cuda.Device(self.index), self.scratch.lock:
            held = tuple(prepared)
            if cp.cuda.runtime.streamIsCapturing(stream):
                self._inside_capture(inputs, held, outputs, stream)
            elif self._in_place_for:
                self._in_place(inputs, held, outputs, stream)
            elif self._ready_for_graph(held, stream):
                self._replay(inputs, held, outputs, stream)
            else:
                self._direct(inputs, held, outputs, stream)

    def _inside_capture(self, inputs: Sequence[int], prepared: tuple[int, ...], outputs: Sequence[int], stream: int) -> None:
        """The user's own capture takes our kernels along. It is replayed at any time, so it gets an arena of its own, from the
        framework's memory for that capture."""
        copied_in, copied_out = _unsuited(inputs), _unsuited(outputs)
        owner, address = self.scratch.private(max(1, self._whole_bytes if copied_in or copied_out else self._direct_bytes))
        given = self._copy_in(inputs, copied_in, stream, address)
        results = _instead(outputs, copied_out, self._output_at, address)
        self._enqueue(self._spaces(given, prepared, results, address), stream)
        self._copy_out(outputs, copied_out, stream, address)
        del owner

    def _in_place(self, inputs: Sequence[int], prepared: tuple[int, ...], outputs: Sequence[int], stream: int) -> None:
        """Replay the graph of these addresses; capture it when they come again. What differs from call to call is copied."""
        if self._host or self._refused or self.profiling:
            self._direct(inputs, prepared, outputs, stream)
            return
        m = self._mobile
        addresses = (*inputs, *outputs)
        key = prepared, m.fixed(addresses)
        captured = self._fixed.get(key)
        if captured is None or captured.generation != self.scratch.generation:
            again = key in self._met
            if not again:
                if self._last is not None and m.learn(self._last, addresses):
                    self._fixed.clear()
                    self._met.clear()
                    key = prepared, m.fixed(addresses)
                self._met.append(key)
            self._last = addresses
            if not again or self._captures >= CAPTURES + self._replays // OFTEN:
                self._missed += 1
                if self._missed > PATIENCE and not self._dear:
                    self._in_place_for = ""  # addresses do not settle, and copies take less time than launches
                    self._fixed.clear()
                self._direct(inputs, prepared, outputs, stream)
                return
            self._reserve(self._direct_bytes + m.nbytes)
            given, results = m.moved(inputs, outputs, self.scratch.address + self._direct_bytes)
            spaces = self._spaces(given, prepared, results, self.scratch.address)
            unsuited = _unsuited(given) or _unsuited(results)
            captured = None if unsuited else self._record(spaces, prepared, 0, len(self._launches))
            if captured is None:
                self._direct(inputs, prepared, outputs, stream)
                return
            self._captures += 1
            self._fixed[key] = captured
            if len(self._fixed) > KEPT:
                del self._fixed[next(iter(self._fixed))]
        self._last = addresses
        self._replays, self._missed = self._replays + 1, 0
        self.scratch.enter(stream)
        base = self.scratch.address + self._direct_bytes
        for at, i, n in m.copies(inputs, 0):
            self._copy(base + at, inputs[i], n, stream)
        cupy().cuda.runtime.graphLaunch(captured.graph.graphExec, stream)
        for at, i, n in m.copies(outputs, len(inputs)):
            self._copy(outputs[i], base + at, n, stream)
        self.scratch.leave(stream)

    def _ready_for_graph(self, prepared: tuple[int, ...], stream: int) -> bool:
        if self._host or self._refused or self.profiling or not self._launches:
            return False
        if self._captured is not None and self._captured.prepared == prepared:
            return True
        ready = self._seen == prepared
        self._seen = prepared
        return ready

    def _spaces(
        self, inputs: Sequence[int], prepared: Sequence[int], outputs: Sequence[int], arena: int
    ) -> dict[str, Sequence[int]]:
        constants = [c.address for c in self._constants]
        return {"input": inputs, "prepared": prepared, "output": outputs, "constant": constants, "arena": (arena,)}

    def _enqueue(self, spaces: Spaces, stream: int, begin: int = 0, end: int | None = None) -> None:
        launches = self._launches[begin:end]
        if not launches:
            return
        cp = cupy()
        if self._backend.has_cudnn():
            frontend().set_stream(handle=self._backend.cudnn_handle(), stream=stream)
        workspace = spaces["arena"][0] + self._workspace_at
        with cp.cuda.ExternalStream(stream, self.index) if stream else cp.cuda.Stream.null:
            for launch in launches:
                launch(spaces, workspace, stream)

    def _direct(self, inputs: Sequence[int], prepared: tuple[int, ...], outputs: Sequence[int], stream: int) -> None:
        copied_in, copied_out = _unsuited(inputs), _unsuited(outputs)
        self._reserve(self._whole_bytes if copied_in or copied_out else self._direct_bytes)
        base = self.scratch.address
        self.scratch.enter(stream)
        given = self._copy_in(inputs, copied_in, stream, base)
        spaces = self._spaces(given, prepared, _instead(outputs, copied_out, self._output_at, base), base)
        if self.profiling:
            self._timed(spaces, stream)
        else:
            self._enqueue(spaces, stream)
        self._copy_out(outputs, copied_out, stream, base)
        self.scratch.leave(stream)

    def _reserve(self, nbytes: int) -> None:
        self.scratch.reserve(nbytes, f"{self.plan.name} ({len(self.plan.steps)} steps)")

    def _copy_in(self, inputs: Sequence[int], which: Collection[int], stream: int, arena: int) -> list[int]:
        """The addresses to read ``inputs`` at, once ``which`` of them are copied to ``arena``."""
        given = _instead(inputs, which, self._input_at, arena)
        for i in which:
            self._copy(given[i], inputs[i], self._sizes_in[i], stream)
        return given

    def _copy_out(self, outputs: Sequence[int], which: Collection[int], stream: int, arena: int) -> None:
        for i in which:
            self._copy(outputs[i], arena + self._output_at[i], self._sizes_out[i], stream)

    @staticmethod
    def _copy(target: int, source: int, nbytes: int, stream: int) -> None:
        if nbytes:
            cupy().cuda.runtime.memcpyAsync(target, source, nbytes, _DEVICE_TO_DEVICE, stream)

    def _replay(self, inputs: Sequence[int], prepared: tuple[int, ...], outputs: Sequence[int], stream: int) -> None:
        unsuited_in, unsuited_out = _unsuited(inputs), _unsuited(outputs)
        copied_in = [i for i in range(len(inputs)) if i not in self.cut.inputs or i in unsuited_in]
        copied_out = [i for i in range(len(outputs)) if i not in self.cut.outputs or i in unsuited_out]
        more = self.cut.inputs.intersection(unsuited_in) or self.cut.outputs.intersection(unsuited_out)
        self._reserve(self._whole_bytes if more else self._graph_bytes)
        captured = self._captured
        if captured is None or captured.generation != self.scratch.generation or captured.prepared != prepared:
            captured = self._captured = self._capture(prepared)
            if captured is None:
                self._direct(inputs, prepared, outputs, stream)
                return
        base = self.scratch.address
        self.scratch.enter(stream)
        given = self._copy_in(inputs, copied_in, stream, base)
        spaces = self._spaces(given, prepared, _instead(outputs, copied_out, self._output_at, base), base)
        self._enqueue(spaces, stream, 0, self.cut.begin)
        cupy().cuda.runtime.graphLaunch(captured.graph.graphExec, stream)
        if self.cut.end < len(self._launches):
            self._enqueue(spaces, stream, self.cut.end)
        self._copy_out(outputs, copied_out, stream, base)
        self.scratch.leave(stream)

    def _capture(self, prepared: tuple[int, ...]) -> Captured | None:
        base = self.scratch.address
        # What only steps outside the graph touch has address 0 here.
        given = [0 if i in self.cut.inputs else base + at for i, at in enumerate(self._input_at)]
        results = [0 if i in self.cut.outputs else base + at for i, at in enumerate(self._output_at)]
        return self._record(self._spaces(given, prepared, results, base), prepared, self.cut.begin, self.cut.end)

    def _record(self, spaces: Spaces, prepared: tuple[int, ...], begin: int, end: int) -> Captured | None:
        """Steps ``[begin, end)`` on ``spaces`` as a CUDA graph; None where they cannot be captured."""
        stream = self._backend.capture_stream()
        stream.begin_capture()
        try:
            try:
                self._enqueue(spaces, stream.ptr, begin, end)
            finally:
                graph = stream.end_capture()
        except Exception as e:
            self._refused = f"capturing failed: {' '.join(str(e).split())[:300]}"
            debug.log(debug.PLUGINS, lambda: f"{self.plan.name}: no CUDA graph, {self._refused}")
            return None
        graph.upload(stream)
        return Captured(graph, prepared, self.scratch.generation)

    def _timed(self, spaces: Spaces, stream: int) -> None:
        cp = cupy()
        if self._backend.has_cudnn():
            frontend().set_stream(handle=self._backend.cudnn_handle(), stream=stream)
        workspace = spaces["arena"][0] + self._workspace_at
        with cp.cuda.ExternalStream(stream, self.index) if stream else cp.cuda.Stream.null as current:
            events = [cp.cuda.Event() for _ in range(len(self._launches) + 1)]
            events[0].record(current)
            for launch, event in zip(self._launches, events[1:], strict=True):
                launch(spaces, workspace, stream)
                event.record(current)
            events[-1].synchronize()
        pairs = itertools.pairwise(events)
        seconds = [cp.cuda.get_elapsed_time(a, b) * 1e-3 for a, b in pairs]
        names = [s.origin or type(s).__name__ for s in self.plan.steps]
        self._profile = tuple(zip(names, seconds, strict=True))

    def profile(self) -> Sequence[tuple[str, float]]:
        return self._profile

    def graph_state(self) -> str:
        """ "replayed", "not yet captured", or why there is no CUDA graph."""
        if self._captured is not None or self._fixed:
            return "replayed"
        if self._in_place_for and not self._refused and not self._host:
            return f"not yet captured; only for calls with the same addresses of large operands: {self._in_place_for}"
        return self._refused or ("runs operators on the host" if self._host else "not yet captured")

    def call_bytes(self, threads: int) -> int:
        """Bytes of scratch memory one call takes."""
        return self._graph_bytes if self._captured is not None else self._direct_bytes


def _unsuited(addresses: Sequence[int]) -> list[int]:
    """Indices of addresses that wide accesses cannot start at: views of a user's tensors, slices of odd batches."""
    return [i for i, a in enumerate(addresses) if a % ACCESS]


def _instead(addresses: Sequence[int], which: Collection[int], places: Sequence[int], arena: int) -> list[int]:
    """``addresses``, ``which`` of them replaced by their places in the arena."""
    return [arena + places[i] if i in which else a for i, a in enumerate(addresses)]


def _nothing(spaces: Spaces, workspace: int, stream: int) -> None:
    pass


def _is_graph(s: object) -> bool:
    return isinstance(s, LibraryStep) and isinstance(s.candidate.impl, GraphCall)


def _is_wide(s: KernelStep) -> bool:
    """Whether 32 bits are too few for the offsets of ``s``."""
    for b in s.buffers:
        span = sum((int(d) - 1) * int(st) for d, st in zip(b.type.shape, b.element_strides(), strict=True) if int(d))  # type: ignore[arg-type]
        if span >= (1 << 31) - (1 << 16):
            return True
    return False


__all__ = ["CudaExecutable", "graphs_wanted"]
