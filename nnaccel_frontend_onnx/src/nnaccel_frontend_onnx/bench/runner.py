"""The parent of a benchmark: one worker process per implementation; results are compared first, then calls timed in turns."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nnaccel_core.errors import NnaccelError
from nnaccel_core.workers import PAUSE_S, Worker, summary

Array = np.ndarray[Any, Any]
WORKER = "nnaccel_frontend_onnx.bench.worker"
#: Results further than this from the judge's, relative to the largest, are wrong: nothing is timed then.
WRONG = 1e-2


@dataclass(frozen=True)
class Record:
    """One measured implementation. ``ms`` is the median; ``ms_low`` and ``ms_high`` are the quartiles of all calls.

    ``batch`` is the first axis of the first input; ``max_rel_err`` is against ``judge``'s results.
    """

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
    judge: str = ""
    error: str = ""


@dataclass(frozen=True)
class Settings:
    """What to run. ``calls`` per implementation are spread over ``rounds`` turns; none are timed when it is 0."""

    threads: int
    calls: int = 24
    rounds: int = 6
    log: Path | None = None


def run_case(
    model: Path, feeds: Mapping[str, Array], impls: Sequence[str], judge: str, settings: Settings, say: Callable[[str], None]
) -> list[Record]:
    """All implementations of one network on one input; one that fails or gives wrong results becomes a record with an error.

    Raises:
        NnaccelError: the judge failed.
    """
    first = next(iter(feeds.values()), np.zeros(0))
    batch = int(first.shape[0]) if first.ndim else 1
    base: dict[str, Any] = {"net": model.stem, "batch": batch, "device": "cpu", "dtype": str(first.dtype), "mode": "predict"}
    base.update(threads=settings.threads, judge=judge)
    found: dict[str, dict[str, Any]] = {impl: {} for impl in impls}
    with tempfile.TemporaryDirectory(prefix="nnaccel-bench-") as folder:
        work = Path(folder)
        log = settings.log or work / "workers.log"
        np.savez(work / "feeds.npz", **feeds)
        request = {"model": str(model), "feeds": str(work / "feeds.npz"), "threads": settings.threads}
        workers: dict[str, Worker] = {}
        try:
            for impl in dict.fromkeys((judge, *impls)):
                say(f"{model.stem}: {impl} first call")
                results = work / f"{impl}.npz"
                try:
                    worker = workers[impl] = Worker(WORKER, settings.threads, log)
                    answer = worker.ask("first_call", impl=impl, results=str(results), **request)
                except NnaccelError as e:
                    if impl == judge:
                        raise NnaccelError(f"{judge}, which judges the results of {model}, failed: {e}") from e
                    found[impl]["error"] = str(e)
                    continue
                if impl in found:
                    error = largest_error(results, work / f"{judge}.npz")
                    found[impl].update(first_call_s=answer["first_call_s"], max_rel_err=error)
                    if error > WRONG:
                        found[impl]["error"] = f"its results differ from {judge}'s by {error:.2g} of the largest"
            times: dict[str, list[float]] = {impl: [] for impl in impls if "error" not in found[impl]}
            _time(workers, times, settings, lambda text: say(f"{model.stem}: {text}"))
        finally:
            for worker in workers.values():
                worker.__exit__(None, None, None)
    for impl, ms in times.items():
        if ms:
            found[impl].update(summary(ms))
    return [Record(**base, impl=impl, **values) for impl, values in found.items()]


def _time(
    workers: Mapping[str, Worker], times: dict[str, list[float]], settings: Settings, say: Callable[[str], None]
) -> None:
    """Fill ``times``. Turns spread drift of the machine over everybody, and untimed calls wake caches and pools; where a call
    takes seconds, both happen within one call, and many of them would only cost time."""
    if not settings.calls or not times:
        return
    slowest = max(workers[impl].ask("time", calls=1, untimed=1)["ms"][0] for impl in times)
    rounds, untimed = (settings.rounds, 2) if slowest < 300 else (min(settings.rounds, 4), 1)
    calls = -(-settings.calls // rounds)
    if slowest < 2:  # a turn lasts some milliseconds at least, or the pause before it is all that is measured
        untimed = 20
    for turn in range(rounds):
        say(f"round {turn + 1} of {rounds}")
        for impl in times:
            time.sleep(PAUSE_S)
            times[impl] += workers[impl].ask("time", calls=calls, untimed=untimed)["ms"]


def largest_error(results: Path, judge: Path) -> float:
    """Over all outputs, the largest absolute difference over the judge's largest absolute value; of integers, the part that
    differs. Infinite where shapes differ, or one is NaN where the other is not."""
    worst = 0.0
    with np.load(results) as ours, np.load(judge) as theirs:
        if ours.files != theirs.files:
            return float("inf")
        for name in theirs.files:
            a, b = ours[name], theirs[name]
            if a.shape != b.shape or a.dtype.kind != b.dtype.kind:
                return float("inf")
            if b.dtype.kind != "f":
                worst = max(worst, float((a != b).mean()) if b.size else 0.0)
                continue
            a, b = a.astype(np.float64), b.astype(np.float64)
            same = (a == b) | (np.isnan(a) & np.isnan(b))
            if not np.isfinite(a[~same]).all() or not np.isfinite(b[~same]).all():
                return float("inf")
            if not same.all():
                finite = np.abs(b[np.isfinite(b)])
                worst = max(worst, float(np.abs(a - b)[~same].max() / max(finite.max(), 1e-30)))
    return worst


def write_records(records: Sequence[Record], path: Path) -> None:
    """One JSON object per line."""
    path.write_text("".join(json.dumps(asdict(r)) + "\n" for r in records))


def read_records(path: Path) -> list[Record]:
    """What `write_records` wrote.

    Raises:
        NnaccelError: the file holds something else.
    """
    try:
        return [Record(**json.loads(line)) for line in path.read_text().splitlines() if line.strip()]
    except (ValueError, TypeError) as e:
        raise NnaccelError(f"{path} holds no records of nnaccel bench --onnx: {e}; give another file") from e
