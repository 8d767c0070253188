"""Processes that get ready together and then take turns on the GPU.

What takes long is compiling for the peers, on the CPU; what must not be disturbed is tuning and timing. So every process calls
`wait` when its peers are ready, and goes on when all others are ready too and those before it have ended.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

READY = "ready for its turn"


def wait() -> None:
    """Say that this process is ready and wait for its turn; nothing where nobody gives turns (see `take_turns`)."""
    if os.environ.get("NNACCEL_BENCH_TURNS") != "1":
        return
    import torch

    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    print(READY, flush=True)
    sys.stdin.readline()


@contextlib.contextmanager
def by_itself() -> Iterator[None]:
    """What needs much of the GPU's memory for a moment: one process of this user at a time, which leaves nothing behind."""
    import torch

    with (Path(tempfile.gettempdir()) / f"nnaccel_bench_{os.getuid()}.lock").open("w") as f:
        fcntl.flock(f, fcntl.LOCK_EX)
        yield
        torch.cuda.synchronize()
        torch.cuda.empty_cache()


def take_turns(commands: Sequence[Sequence[str]]) -> list[int]:
    """Start all ``commands``, each of which calls `wait`; let them go on one after another. Returns their exit statuses."""
    env = {**os.environ, "NNACCEL_BENCH_TURNS": "1"}
    env.setdefault("TORCHINDUCTOR_COMPILE_THREADS", str(max(1, (os.cpu_count() or 1) // max(1, len(commands)))))
    pipe = subprocess.PIPE
    started = [subprocess.Popen(c, env=env, stdin=pipe, stdout=pipe, stderr=subprocess.STDOUT, text=True) for c in commands]
    said: list[list[str]] = [[] for _ in started]

    def until_ready(p: subprocess.Popen[str], lines: list[str]) -> None:
        assert p.stdout is not None
        for line in p.stdout:
            if line.strip() == READY:
                return
            lines.append(line)

    readers = [threading.Thread(target=until_ready, args=pair) for pair in zip(started, said, strict=True)]
    for r in readers:
        r.start()
    for r in readers:
        r.join()
    for p, lines in zip(started, said, strict=True):
        print("".join(lines), end="", flush=True)
        if p.poll() is None:
            out, _ = p.communicate("go\n")
            print(out, end="", flush=True)
    return [p.wait() for p in started]


def run_rows(rows: Sequence[tuple[str, int]], command: Callable[[str, int], Sequence[str]], together: int, until: float) -> None:
    """Run ``command(network, batch)`` for each of ``rows``, so many together, starting none after ``until`` (perf_counter)."""
    for k in range(0, len(rows), together):
        if time.perf_counter() > until:
            print("out of time before", *rows[k])
            break
        part = rows[k : k + together]
        for row, status in zip(part, take_turns([command(*row) for row in part]), strict=True):
            if status:
                print(*row, "failed with status", status, flush=True)
