"""The parent of a benchmark: one worker process per implementation, timed in turns."""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nnaccel_core.errors import NnaccelError
from nnaccel_core.workers import PAUSE_S, Worker, summary
from nnaccel_frontend_torch.bench.peers import NEED_ONNX

WORKER = "nnaccel_frontend_torch.bench.worker"


@dataclass(frozen=True)
class Record:
    """One measured implementation. ``ms`` is the median; ``ms_low`` and ``ms_high`` are the quartiles of all calls; ``run_ms``
    the median of each run, where there were several: ``ms`` is then their median."""

    net: str
    batch: int
    device: str
    dtype: str
    mode: str
    impl: str
    threads: int
    ms: float | None = None
    ms_low: float | None = None
    ms_high: float | None = None
    calls: int = 0
    first_call_s: float | None = None
    max_rel_err: float | None = None
    peak_bytes: int | None = None
    parameter_bytes: int | None = None
    prepared_bytes: int | None = None
    error: str = ""
    run_ms: Sequence[float] = ()


@dataclass(frozen=True)
class Settings:
    """What to run. ``calls`` per implementation are spread over ``rounds`` turns, and that ``runs`` times; none are timed when it
    is 0."""

    threads: int
    calls: int = 24
    rounds: int = 6
    runs: int = 1
    memory: bool = False
    train: bool = False
    log: Path | None = None

    @property
    def mode(self) -> str:
        """What a record says of it."""
        return "train" if self.train else "predict"


def run_case(net: str, batch: int, impls: Sequence[str], settings: Settings, say: Callable[[str], None]) -> list[Record]:
    """All implementations of one network at one batch size; a failing one becomes a record with ``error``."""
    base: dict[str, Any] = {"net": net, "batch": batch, "device": "cpu", "dtype": "float32", "mode": settings.mode}
    base["threads"] = settings.threads
    with tempfile.TemporaryDirectory(prefix="nnaccel-bench-") as folder:
        work = Path(folder)
        log = settings.log or work / "workers.log"
        judge, onnx = work / "judge.npy", work / "net.onnx"
        prepare = {"net": net, "batch": batch, "threads": settings.threads, "train": settings.train}
        export_error = ""
        with Worker(WORKER, settings.threads, log) as helper:
            helper.ask("prepare", **prepare)
            helper.ask("reference", judge=str(judge))
            if NEED_ONNX & set(impls):
                try:
                    helper.ask("export", path=str(onnx))
                except NnaccelError as e:
                    export_error = str(e)
        found: dict[str, dict[str, Any]] = {impl: {} for impl in impls}
        workers: dict[str, Worker] = {}
        try:
            for impl in impls:
                say(f"{net} batch {batch}: {impl} first call")
                try:
                    if impl in NEED_ONNX and export_error:
                        raise NnaccelError(f"ONNX export failed: {export_error}")
                    worker = Worker(WORKER, settings.threads, log)
                    workers[impl] = worker
                    worker.ask("prepare", **prepare, onnx=str(onnx) if onnx.exists() else None)
                    answer = worker.ask("first_call", impl=impl, judge=str(judge))
                    found[impl].update(first_call_s=answer["first_call_s"], max_rel_err=answer["max_rel_err"])
                except NnaccelError as e:
                    found[impl]["error"] = str(e)
            times: dict[str, list[float]] = {impl: [] for impl in impls if "error" not in found[impl]}
            if settings.calls:
                rounds, untimed = turns(settings, [workers[impl].ask("time", calls=1, untimed=1)["ms"][0] for impl in times])
                for turn in range(rounds * settings.runs):
                    say(f"{net} batch {batch}: round {turn + 1} of {rounds * settings.runs}")
                    for impl in times:
                        time.sleep(PAUSE_S)
                        calls = -(-settings.calls // rounds)
                        times[impl] += workers[impl].ask("time", calls=calls, untimed=untimed)["ms"]
            for impl, ms in times.items():
                if ms:
                    found[impl].update(summary(ms))
                if ms and settings.runs > 1:
                    each = len(ms) // settings.runs
                    runs = [statistics.median(ms[i : i + each]) for i in range(0, len(ms), each)]
                    found[impl].update(ms=statistics.median(runs), run_ms=runs)
                if settings.memory and (impl == "eager" or impl.startswith("nnaccel")):
                    answer = workers[impl].ask("memory")
                    found[impl].update({k: v for k, v in answer.items() if k.endswith("_bytes")})
        finally:
            for worker in workers.values():
                worker.__exit__(None, None, None)
    return [Record(**base, impl=impl, **values) for impl, values in found.items()]


def turns(settings: Settings, ms: Sequence[float]) -> tuple[int, int]:
    """Turns, and untimed calls at the start of each, for implementations that take ``ms``.

    Turns spread drift of the machine over everybody, and untimed calls wake caches and pools. Where a call takes seconds,
    both happen within one call, and many of them would only cost time.
    """
    slowest = max(ms, default=0.0)
    if slowest < 300.0:
        return settings.rounds, 2
    return max(1, min(settings.rounds, 4 if slowest < 2000.0 else 3)), 1


def write_records(records: Sequence[Record], path: Path) -> None:
    """One JSON object per line."""
    path.write_text("".join(json.dumps(asdict(r)) + "\n" for r in records))


def read_records(path: Path) -> list[Record]:
    return [Record(**json.loads(line)) for line in path.read_text().splitlines() if line.strip()]
