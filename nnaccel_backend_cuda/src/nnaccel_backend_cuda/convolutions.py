"""Convolutions with their epilogues as cuDNN graphs (through the cuDNN frontend), tuned over cuDNN's plans.

Fused graphs are mostly faster than separate calls, but not always, and cuDNN's first plan is not always its fastest (seen on an
H200: one float32 1x1 case), so plans are timed. What was found is kept on disk, a serialized plan by cuDNN's version and the GPU.
"""

from __future__ import annotations

import base64
import json
import math
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from nnaccel_backend_cuda.memory import is_out_of_memory
from nnaccel_backend_cuda.probe import cupy
from nnaccel_core import debug
from nnaccel_core.api import Machine
from nnaccel_core.cache import DiskCache, make_key
from nnaccel_core.errors import ToolchainError

#: Bump when a specification comes to mean another graph.
FORMAT = "1"
#: Plans timed for each graph, in cuDNN's order; seconds after which no further one is built (fused kernels are compiled).
PLANS, PATIENCE = 8, 1.5
#: Operations a second over the machine's float32 peak, for plans that could not be timed: tensor cores, half used.
UNTIMED = 2.0
#: Threads that build plans.
THREADS = 8
#: Runs in a row that are timed, as a CUDA graph, and how often.
RUNS, REPEATS = 8, 3
#: A plan may not need more workspace than this.
MOST_WORKSPACE = 1 << 30
INSTALL = "pip install nvidia-cudnn-frontend nvidia-cudnn-cu13 (or nvidia-cudnn-cu12)"
#: Uids of a graph's tensors; residuals count up from the last.
X, W, BIAS, Y, RESIDUAL = 1, 2, 3, 4, 5

_lock = threading.Lock()
_module: Any = None


def frontend() -> Any:
    """The module ``cudnn``.

    Raises:
        ToolchainError: it, or cuDNN itself, is missing.
    """
    global _module
    with _lock:
        if _module is None:
            try:
                import cudnn

                cudnn.backend_version()
            except Exception as e:
                raise ToolchainError(f"cuDNN's Python frontend is not usable ({e}); install it with: {INSTALL}") from e
            _module = cudnn
        return _module


def version() -> str:
    """cuDNN's version and the frontend's."""
    found = frontend()
    return f"{found.backend_version()} {getattr(found, '__version__', '')}"


@dataclass(frozen=True)
class Operand:
    """A tensor of a graph: sizes and element strides, both N, C, spatial."""

    dims: tuple[int, ...]
    strides: tuple[int, ...]


@dataclass(frozen=True)
class ConvSpec:
    """A convolution and its epilogue.

    Attributes:
        bias: whether a float32 bias per output channel is added first.
        steps: ``("add",)`` (the next of ``residuals``), ``("relu",)``, ``("silu",)`` and the like.
        padding: (before, after) per spatial axis.
        exact: float32 products in full float32, not TF32; no Winograd under ``strict``.
    """

    x: Operand
    w: Operand
    y: Operand
    dtype: str
    padding: tuple[tuple[int, int], ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    bias: bool
    steps: tuple[tuple[Any, ...], ...]
    residuals: tuple[Operand, ...]
    exact: bool
    strict: bool

    @property
    def flops(self) -> float:
        """Operations, a multiply-add counted as two."""
        return 2.0 * math.prod(self.y.dims) * math.prod(self.w.dims[1:])


def _data_type(cudnn: Any, dtype: str) -> Any:
    kinds = cudnn.data_type
    return {"float32": kinds.FLOAT, "float16": kinds.HALF, "bfloat16": kinds.BFLOAT16}[dtype]


def build_graph(spec: ConvSpec, handle: Any) -> Any:
    """The unplanned cuDNN graph of ``spec``."""
    cudnn = frontend()
    kind, real = _data_type(cudnn, spec.dtype), cudnn.data_type.FLOAT
    graph = cudnn.pygraph(io_data_type=kind, intermediate_data_type=real, compute_data_type=real, handle=handle)

    def tensor(name: str, uid: int, operand: Operand, data_type: Any = kind) -> Any:
        found = graph.tensor(name=name, dim=list(operand.dims), stride=list(operand.strides), data_type=data_type)
        found.set_uid(uid)
        return found

    y = graph.conv_fprop(
        image=tensor("x", X, spec.x),
        weight=tensor("w", W, spec.w),
        pre_padding=[a for a, _ in spec.padding],
        post_padding=[b for _, b in spec.padding],
        stride=list(spec.stride),
        dilation=list(spec.dilation),
        compute_data_type=real,
    )
    if spec.bias:
        channels = spec.w.dims[0]
        ones = (1,) * len(spec.stride)
        bias = Operand((1, channels, *ones), (channels, 1, *(channels for _ in ones)))
        y = graph.bias(input=y, bias=tensor("bias", BIAS, bias))
    residual = 0
    for step in spec.steps:
        if step[0] == "add":
            y = graph.add(a=y, b=tensor(f"residual{residual}", RESIDUAL + residual, spec.residuals[residual]))
            residual += 1
        elif step[0] == "relu":
            y = graph.relu(input=y)
        else:
            y = {"sigmoid": graph.sigmoid, "tanh": graph.tanh, "silu": graph.swish}[step[0]](input=y)
    y.set_output(True).set_data_type(kind).set_dim(list(spec.y.dims)).set_stride(list(spec.y.strides))
    y.set_uid(Y)
    return graph


def _plan_modes(cudnn: Any) -> list[Any]:
    return [cudnn.heur_mode.A, cudnn.heur_mode.FALLBACK]


def _restrict(graph: Any, spec: ConvSpec) -> None:
    """Leave out plans whose numbers ``spec`` forbids."""
    notes = frontend().numerical_note
    names = []
    if spec.exact and spec.dtype == "float32":
        names += ["TENSOR_CORE", "DOWN_CONVERT_INPUTS"]
    if spec.strict:
        names += [n for n in dir(notes) if n.startswith("WINOGRAD")]
    names.append("REDUCED_PRECISION_REDUCTION")
    found = [getattr(notes, n) for n in names if hasattr(notes, n)]
    if found:
        graph.deselect_numeric_notes(found)


class Plan:
    """A built plan, ready to run.

    Attributes:
        seconds: measured, or estimated where not ``timed``; workspace: bytes.
    """

    def __init__(self, spec: ConvSpec, graph: Any, workspace: int, seconds: float, name: str, timed: bool = True) -> None:
        self.spec, self.graph, self.workspace, self.seconds, self.name = spec, graph, workspace, seconds, name
        self.timed = timed

    def run(self, pointers: Mapping[int, int], workspace: int, handle: Any) -> None:
        """Enqueue on the handle's stream; ``pointers`` by uid."""
        self.graph.execute(dict(pointers), workspace, handle=handle)


class Tuner:
    """Finds and remembers the plans of one device. Thread-safe."""

    def __init__(self, machine: Machine, index: int, cache: DiskCache | None = None) -> None:
        """
        Raises:
            ToolchainError: cuDNN or its frontend is missing.
        """
        self.machine = machine
        self.index = index
        self.cache = cache if cache is not None else DiskCache()
        self.version = version()
        self._plans: dict[ConvSpec, Plan | str] = {}
        self._lock = threading.RLock()
        #: Its threads stay, each with a handle of its own: cuDNN gives back little of what a handle takes.
        self._pool: ThreadPoolExecutor | None = None
        self._local = threading.local()
        with cupy().cuda.Device(index):
            self.handle = frontend().create_handle()
            # One stream for good: a handle remembers its stream by address, which a new stream may have again.
            self._stream = cupy().cuda.Stream(non_blocking=True)

    def plans(self, specs: Sequence[ConvSpec]) -> list[Plan | str]:
        """A plan for each, or why cuDNN has none. What is not known yet is built in threads, then timed one by one."""
        with self._lock:
            missing = [s for s in dict.fromkeys(specs) if s not in self._plans]
            if missing:
                started = time.perf_counter()
                self._find(missing)
                seconds = time.perf_counter() - started
                debug.log(debug.TIMES, f"found cuDNN plans of {len(missing)} graphs in {seconds:.2f} s")
            return [self._plans[s] for s in specs]

    def _key(self, spec: ConvSpec) -> str:
        return make_key(FORMAT, self.version, self.machine.name, repr(spec))

    def _find(self, specs: Sequence[ConvSpec]) -> None:
        left = [s for s in specs if not self._read(s)]
        if not left:
            return
        if self._pool is None:
            self._pool = ThreadPoolExecutor(THREADS, "nnaccel-cudnn")
        built = list(self._pool.map(self._build, left))
        for spec, (graph, indices, reason) in zip(left, built, strict=True):
            found = self._time(spec, graph, indices) if indices else reason
            self._plans[spec] = found
            if isinstance(found, str) or found.timed:
                self._write(spec, found)

    def _build(self, spec: ConvSpec) -> tuple[Any, list[int], str]:
        """The graph, the indices of its first `PLANS` plans that can be built, and why there are none."""
        reason = "cuDNN has no plan"
        try:
            with cupy().cuda.Device(self.index):
                if not hasattr(self._local, "handle"):
                    self._local.handle = frontend().create_handle()
                graph = build_graph(spec, self._local.handle)
                graph.validate()
                graph.build_operation_graph()
                graph.create_execution_plans(_plan_modes(frontend()))
                _restrict(graph, spec)
                graph.check_support()
                built: list[int] = []
                started = time.perf_counter()
                for i in range(graph.get_execution_plan_count()):
                    try:
                        graph.build_plan_at_index(i)
                        if graph.get_workspace_size_plan_at_index(i) <= MOST_WORKSPACE:
                            built.append(i)
                    except Exception as e:
                        reason = _short(e)
                    if len(built) >= PLANS or (built and time.perf_counter() - started > PATIENCE):
                        break
                return graph, built, reason
        except Exception as e:
            return None, [], _short(e)

    def _time(self, spec: ConvSpec, graph: Any, indices: Sequence[int]) -> Plan | str:
        cp = cupy()
        best: tuple[float, int] | None = None
        reason = ""
        with cp.cuda.Device(self.index):
            stream = self._stream
            frontend().set_stream(handle=self.handle, stream=stream.ptr)
            size = {"float32": 4, "float16": 2, "bfloat16": 2}[spec.dtype]
            room = max(graph.get_workspace_size_plan_at_index(i) for i in indices)
            try:
                # Not from a pool, which would keep it: this is as much as the layer itself takes.
                memory = {uid: cp.cuda.Memory(max(16, size * _span(o))) for uid, o in _operands(spec).items()}
                scratch = cp.cuda.Memory(max(16, room))
            except Exception as e:
                if not is_out_of_memory(e):
                    raise
                return self._untimed(spec, graph, indices[0])
            for m in (*memory.values(), scratch):
                cp.cuda.runtime.memsetAsync(m.ptr, 0, m.size, stream.ptr)
            pointers = {uid: int(m.ptr) for uid, m in memory.items()}
            for i in indices:
                try:
                    seconds = self._seconds(graph, i, pointers, int(scratch.ptr), stream)
                except Exception as e:
                    reason = _short(e)
                    continue
                if best is None or seconds < best[0]:
                    best = (seconds, i)
            if best is None:
                return reason
            graph.build_plan_at_index(best[1])  # selects it, for `execute` and `serialize`
            return Plan(spec, graph, int(graph.get_workspace_size_plan_at_index(best[1])), best[0], _name(graph, best[1]))

    def _untimed(self, spec: ConvSpec, graph: Any, index: int) -> Plan:
        """cuDNN's own first choice, where memory is too short to time anything."""
        graph.build_plan_at_index(index)
        seconds = spec.flops / (self.machine.flops * UNTIMED)
        return Plan(spec, graph, int(graph.get_workspace_size_plan_at_index(index)), seconds, _name(graph, index), False)

    def _seconds(self, graph: Any, index: int, pointers: Mapping[int, int], workspace: int, stream: Any) -> float:
        """Seconds of one run among others, without the host's part."""
        cp = cupy()
        pack = dict(pointers)
        graph.execute_plan_at_index(pack, workspace, index, handle=self.handle)
        stream.synchronize()
        stream.begin_capture()
        try:
            for _ in range(RUNS):
                graph.execute_plan_at_index(pack, workspace, index, handle=self.handle)
        finally:
            captured = stream.end_capture()
        times = []
        for _ in range(REPEATS + 1):
            begin, end = cp.cuda.Event(), cp.cuda.Event()
            begin.record(stream)
            captured.launch(stream)
            end.record(stream)
            end.synchronize()
            times.append(cp.cuda.get_elapsed_time(begin, end) * 1e-3 / RUNS)
        return float(min(times[1:]))

    # --- on disk -------------------------------------------------------------------------------------------------

    def _write(self, spec: ConvSpec, plan: Plan | str) -> None:
        record: dict[str, Any]
        if isinstance(plan, str):
            record = {"refused": plan}
        else:
            try:
                data = plan.graph.serialize()
            except Exception as e:
                debug.log(debug.TIMES, lambda e=e: f"a cuDNN plan cannot be serialized: {_short(e)}")
                return
            record = {
                "seconds": plan.seconds, "workspace": plan.workspace, "name": plan.name,
                "plan": base64.b64encode(bytes(data)).decode(),
            }  # fmt: skip
        self.cache.put("cudnn", self._key(spec), json.dumps(record).encode())

    def _read(self, spec: ConvSpec) -> bool:
        entry = self.cache.get("cudnn", self._key(spec))
        if entry is None:
            return False
        try:
            record = json.loads(entry.read_bytes())
            if "refused" in record:
                self._plans[spec] = str(record["refused"])
                return True
            cudnn = frontend()
            with cupy().cuda.Device(self.index):
                graph = cudnn.pygraph(handle=self.handle)
                graph.deserialize(self.handle, list(base64.b64decode(record["plan"])))
            self._plans[spec] = Plan(spec, graph, int(record["workspace"]), float(record["seconds"]), str(record["name"]))
            return True
        except Exception as e:  # written by another build of the libraries, or evicted meanwhile
            debug.log(debug.TIMES, lambda e=e: f"a kept cuDNN plan is not usable, so it is tuned again: {_short(e)}")
            return False


def _operands(spec: ConvSpec) -> dict[int, Operand]:
    found = {X: spec.x, W: spec.w, Y: spec.y}
    if spec.bias:
        found[BIAS] = Operand((spec.w.dims[0],), (1,))
    return found | {RESIDUAL + i: r for i, r in enumerate(spec.residuals)}


def _span(o: Operand) -> int:
    return 1 + sum((d - 1) * s for d, s in zip(o.dims, o.strides, strict=True))


def _name(graph: Any, index: int) -> str:
    try:
        return str(graph.get_plan_name_at_index(index))
    except Exception:
        return f"plan {index}"


def _short(e: BaseException) -> str:
    return " ".join(str(e).split())[:300] or type(e).__name__
