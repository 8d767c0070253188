"""Worker processes of benchmarks: one for each implementation, asked over pipes, so that none slows another's calls.

The parent sends a line of JSON per request on standard input and reads one per answer on the worker's answer pipe; whatever the
libraries print goes to the log.
"""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from nnaccel_core.errors import NnaccelError

#: Seconds between two implementations' turns: long enough for the pools of the one before to stop spinning.
PAUSE_S = 0.25


class Worker:
    """A worker process; `ask` sends one request and waits for its answer."""

    def __init__(self, module: str, threads: int, log: Path) -> None:
        """``module``: what ``python -m`` runs; it calls `serve`."""
        read, write = os.pipe()
        env = dict(os.environ, OMP_NUM_THREADS=str(threads))
        self._log = open(log, "ab")  # noqa: SIM115 - closed with the worker
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, str(write)],
            stdin=subprocess.PIPE,
            stdout=self._log,
            stderr=self._log,
            pass_fds=(write,),
            env=env,
        )
        os.close(write)
        self._answers = os.fdopen(read)
        self._path = log

    def ask(self, verb: str, **more: Any) -> dict[str, Any]:
        """The worker's answer.

        Raises:
            NnaccelError: the worker failed or died; names its log.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write((json.dumps({"verb": verb, **more}) + "\n").encode())
            self._process.stdin.flush()
            line = self._answers.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise NnaccelError(f"a benchmark worker died (exit code {self._process.poll()}); see {self._path}")
        answer: dict[str, Any] = json.loads(line)
        if not answer["ok"]:
            raise NnaccelError(answer["error"])
        return answer

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._answers.close()
        self._log.close()


def serve(run: Callable[[Any, Callable[[dict[str, Any]], None]], None]) -> None:
    """A worker's side: ``run(requests, answer)``, with the answer pipe's number in the first argument of the command line."""
    with os.fdopen(int(sys.argv[1]), "w") as out, contextlib.redirect_stdout(sys.stderr):

        def answer(message: dict[str, Any]) -> None:
            out.write(json.dumps(message) + "\n")
            out.flush()

        run(sys.stdin, answer)


def timed_block(call: Callable[[], Any], calls: int, untimed: int) -> list[float]:
    """Milliseconds of each of ``calls`` calls, after ``untimed`` ones that wake caches and thread pools."""
    for _ in range(untimed):
        call()
    times = []
    for _ in range(calls):
        started = time.perf_counter()
        call()
        times.append((time.perf_counter() - started) * 1e3)
    return times


def summary(ms: Sequence[float]) -> dict[str, Any]:
    """A record's ``ms`` (the median), ``ms_low`` and ``ms_high`` (quartiles) and ``calls`` of at least one time."""
    low, _, high = statistics.quantiles(ms, n=4) if len(ms) > 1 else (ms[0],) * 3
    return {"ms": statistics.median(ms), "ms_low": low, "ms_high": high, "calls": len(ms)}


__all__ = ["PAUSE_S", "Worker", "serve", "summary", "timed_block"]
