"""Which of cuDNN's plans runs a graph fastest, found within a time budget and kept on disk.

cuDNN orders its plans by what its heuristics expect. The first one is built and timed for every graph; then others, as long as
the budget lasts, where they promise most for the time they take: graphs that run long and are quick to build come first. Building
is serial: the frontend holds Python's lock meanwhile, so threads would gain nothing. Most plans take milliseconds to build, those
with a fused addition 0.5 to 0.7 s (they are compiled).

What was found is kept on disk, a serialized plan by cuDNN's version and the GPU.
"""

from __future__ import annotations

import base64
import json
import math
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from nnaccel_backend_cuda.cudnn_graphs import Plan, Spec, build_graph, frontend, short, version
from nnaccel_backend_cuda.memory import ALIGNMENT, is_out_of_memory
from nnaccel_backend_cuda.probe import cupy
from nnaccel_core import debug
from nnaccel_core.api import Machine
from nnaccel_core.cache import DiskCache, make_key
from nnaccel_core.progress import Progress

#: Bump when a specification comes to mean another graph.
FORMAT = "1"
#: Plans timed for each graph at most.
PLANS = 8
#: Seconds that plans beyond the first of each graph may take, for one network at one size; ``NNACCEL_CUDA_TUNING`` overrides it.
SECONDS = 1.5
#: A plan whose first runs take this many times the best one's, and `HOST` seconds for launching them, is not timed further.
CLEARLY, HOST = 1.5, 5e-5
#: Runs in a row that are timed as a CUDA graph, at most and for about so many seconds; and how often.
RUNS, TIMED, REPEATS = 8, 1e-3, 2
#: Operations a second over the machine's float32 peak, for plans that could not be timed: tensor cores, half used.
UNTIMED = 2.0
#: A plan may not need more workspace than this.
MOST_WORKSPACE = 1 << 30


def budget() -> float:
    """Seconds for plans beyond each graph's first: ``NNACCEL_CUDA_TUNING`` (0: none), else `SECONDS`."""
    given = os.environ.get("NNACCEL_CUDA_TUNING", "").strip()
    try:
        return max(0.0, float(given)) if given else SECONDS
    except ValueError:
        raise ValueError(f"NNACCEL_CUDA_TUNING is the seconds that tuning may take, not {given!r}") from None


class _Room:
    """Memory to time plans in, as large as the largest graph so far; not from a pool, which would keep it."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._memory: Any = None

    def place(self, sizes: Mapping[int, int], workspace: int) -> tuple[dict[int, int], int]:
        """Addresses by uid, and that of the workspace. Zeros at first: NaN would be as fast, but is not what networks compute."""
        runtime = cupy().cuda.runtime
        places, total = {}, 0
        for uid, n in (*sizes.items(), (0, workspace)):
            places[uid] = total
            total += -(-max(n, 1) // ALIGNMENT) * ALIGNMENT
        if self._memory is None or self._memory.size < total:
            self._memory = None
            self._memory = cupy().cuda.Memory(total)
            runtime.memsetAsync(self._memory.ptr, 0, total, self._stream.ptr)
        base = int(self._memory.ptr)
        return {uid: base + at for uid, at in places.items() if uid}, base + places[0]


class _Draft:
    """A graph while its plans are tried."""

    def __init__(self, spec: Spec, uses: int, graph: Any, count: int, reason: str) -> None:
        self.spec, self.uses, self.graph, self.count = spec, uses, graph, count
        #: why the last plan could not be used
        self.reason = reason
        self.next = self.tried = 0
        #: seconds that building and timing the last plan took
        self.cost = 0.0
        #: (seconds, index) of the fastest
        self.best: tuple[float, int] | None = None
        self.timed = True
        #: whether all plans that were to be tried have been
        self.complete = False


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
        self._plans: dict[Spec, Plan | str] = {}
        #: seconds after which the tuning of a graph was cut short
        self._limits: dict[Spec, float] = {}
        self._lock = threading.RLock()
        with cupy().cuda.Device(index):
            #: runs plans: its stream is that of the call under way
            self.handle = frontend().create_handle()
            # Another one for tuning, which must not move the stream of a call of another thread.
            self._own = frontend().create_handle()
            # One stream for good: a handle remembers its stream by address, which a new stream may have again.
            self._stream = cupy().cuda.Stream(non_blocking=True)

    def plans(self, specs: Sequence[Spec], seconds: float | None = None) -> list[Plan | str]:
        """A plan for each, or why cuDNN has none. A specification that occurs often is worth more time than others.

        ``seconds`` replaces `budget`; what was cut short under less than half of it is tuned again.
        """
        limit = budget() if seconds is None else seconds
        with self._lock:
            missing = Counter(s for s in specs if s not in self._plans or limit > 2 * self._limits.get(s, math.inf))
            if missing:
                started = time.perf_counter()
                self._find(missing, limit)
                seconds = time.perf_counter() - started
                debug.log(debug.TIMES, f"found cuDNN plans of {len(missing)} graphs in {seconds:.2f} s")
            return [self._plans[s] for s in specs]

    def _key(self, spec: Spec) -> str:
        return make_key(FORMAT, self.version, self.machine.name, repr(spec))

    def _find(self, wanted: Mapping[Spec, int], limit: float) -> None:
        left = [s for s in wanted if not self._read(s, limit)]
        if not left:
            return
        with cupy().cuda.Device(self.index):
            frontend().set_stream(handle=self._own, stream=self._stream.ptr)
            room = _Room(self._stream)
            name = f"cuDNN's plans of {len(left)} layers"
            with Progress(f"choosing {name}", f"chose {name}", len(left)) as progress:
                drafts = []
                for spec in left:
                    drafts.append(self._draft(spec, wanted[spec]))
                    self._try(drafts[-1], room)
                    progress.tick(len(drafts))
                self._improve(drafts, room, limit)
            for d in drafts:
                self._plans[d.spec] = self._finish(d, limit)

    def _draft(self, spec: Spec, uses: int) -> _Draft:
        try:
            graph = build_graph(spec, self._own)
            return _Draft(spec, uses, graph, int(graph.get_execution_plan_count()), "cuDNN has no plan")
        except Exception as e:
            return _Draft(spec, uses, None, 0, short(e))

    def _try(self, d: _Draft, room: _Room) -> bool:
        """Build and time the next plan that can be built; False when there is none, or enough were tried."""
        while d.next < d.count and d.tried < PLANS:
            i, started = d.next, time.perf_counter()
            d.next += 1
            try:
                d.graph.build_plan_at_index(i)
                workspace = int(d.graph.get_workspace_size_plan_at_index(i))
            except Exception as e:
                d.reason = short(e)
                continue
            if workspace > MOST_WORKSPACE:
                d.reason = f"its plans need more than {MOST_WORKSPACE >> 20} MiB of workspace"
                continue
            try:
                pointers, scratch = room.place(d.spec.nbytes(), workspace)
            except Exception as e:
                if not is_out_of_memory(e):
                    raise
                if d.best is None:  # cuDNN's own first choice, where memory is too short to time anything
                    d.best, d.timed = (d.spec.flops / (self.machine.flops * UNTIMED), i), False
                d.next = d.count
                return False
            try:
                seconds = self._seconds(d, i, pointers, scratch)
            except Exception as e:
                d.reason = short(e)
                continue
            d.tried += 1
            d.cost = time.perf_counter() - started
            if d.best is None or seconds < d.best[0]:
                d.best = (seconds, i)
            return True
        d.complete = True
        return False

    def _improve(self, drafts: Sequence[_Draft], room: _Room, limit: float) -> None:
        """Try further plans until none is left, or ``limit`` seconds are used up."""
        deadline = time.perf_counter() + limit
        queue = [d for d in drafts if d.best is not None and d.timed]
        queue.sort(key=lambda d: d.best[0] * d.uses / max(d.cost, 1e-4), reverse=True)  # type: ignore[index]
        while queue:
            queue = [d for d in queue if time.perf_counter() + d.cost < deadline and self._try(d, room)]

    def _finish(self, d: _Draft, limit: float) -> Plan | str:
        found: Plan | str
        self._limits.pop(d.spec, None)
        if d.best is None:
            found = d.reason
        else:
            seconds, index = d.best
            d.graph.build_plan_at_index(index)  # selects it, for `execute` and `serialize`
            workspace = int(d.graph.get_workspace_size_plan_at_index(index))
            found = Plan(d.spec, d.graph, workspace, seconds, _name(d.graph, index), d.timed)
            if not d.complete:
                self._limits[d.spec] = limit
        if d.timed:
            self._write(d.spec, found, d.complete, limit)
        return found

    def _seconds(self, d: _Draft, index: int, pointers: Mapping[int, int], workspace: int) -> float:
        """Seconds of one run among others, without the host's part; of a plan that is clearly slower, with it."""
        cp, stream = cupy(), self._stream
        pack = dict(pointers)

        def run(times: int = 1) -> None:
            for _ in range(times):
                d.graph.execute_plan_at_index(pack, workspace, index, handle=self._own)

        def timed(work: Callable[[], object], runs: int) -> float:
            begin, end = cp.cuda.Event(), cp.cuda.Event()
            begin.record(stream)
            work()
            end.record(stream)
            end.synchronize()
            return float(cp.cuda.get_elapsed_time(begin, end)) * 1e-3 / runs

        run()
        stream.synchronize()
        rough = timed(lambda: run(2), 2)
        if d.best is not None and rough > CLEARLY * d.best[0] + HOST:
            return rough
        runs = max(1, min(RUNS, int(TIMED / max(rough, 1e-9))))
        stream.begin_capture()
        try:
            run(runs)
        finally:
            captured = stream.end_capture()
        captured.launch(stream)
        return min(timed(lambda: captured.launch(stream), runs) for _ in range(REPEATS))

    # --- on disk -------------------------------------------------------------------------------------------------

    def _write(self, spec: Spec, plan: Plan | str, complete: bool, limit: float) -> None:
        record: dict[str, Any]
        if isinstance(plan, str):
            record = {"refused": plan}
        else:
            try:
                data = plan.graph.serialize()
            except Exception as e:
                debug.log(debug.TIMES, f"a cuDNN plan cannot be serialized: {short(e)}")
                return
            record = {
                "seconds": plan.seconds, "workspace": plan.workspace, "name": plan.name, "complete": complete, "budget": limit,
                "plan": base64.b64encode(bytes(data)).decode(),
            }  # fmt: skip
        self.cache.put("cudnn", self._key(spec), json.dumps(record).encode())

    def _read(self, spec: Spec, limit: float) -> bool:
        """Take what is kept; not what was cut short under less than half of ``limit``."""
        entry = self.cache.get("cudnn", self._key(spec))
        if entry is None:
            return False
        try:
            record = json.loads(entry.read_bytes())
            if "refused" in record:
                self._plans[spec] = str(record["refused"])
                return True
            cut = math.inf if record.get("complete", True) else float(record["budget"])
            if limit > 2 * cut:
                return False
            cudnn = frontend()
            with cupy().cuda.Device(self.index):
                graph = cudnn.pygraph(handle=self._own)
                graph.deserialize(self._own, list(base64.b64decode(record["plan"])))
            self._limits[spec] = cut
            self._plans[spec] = Plan(spec, graph, int(record["workspace"]), float(record["seconds"]), str(record["name"]))
            return True
        except Exception as e:  # written by another build of the libraries, or evicted meanwhile
            debug.log(debug.TIMES, f"a kept cuDNN plan is not usable, so it is tuned again: {short(e)}")
            return False


def _name(graph: Any, index: int) -> str:
    try:
        return str(graph.get_plan_name_at_index(index))
    except Exception:
        return f"plan {index}"


__all__ = ["SECONDS", "Tuner", "budget"]
