"""Showing that a long job is going on: a line that keeps changing on a terminal, one line elsewhere.

Nothing is shown before `SHOW_AFTER` seconds, nor at all with ``NNACCEL_PROGRESS=0``.
"""

from __future__ import annotations

import os
import sys
import time
from types import TracebackType

#: A job that takes longer than this many seconds is shown.
SHOW_AFTER = 2.0
#: Seconds between two states of a terminal's line.
INTERVAL = 0.2


class Progress:
    """A job of ``total`` pieces, for ``with``; call `tick` at least every `INTERVAL` seconds, from one thread.

    Args:
        doing: what is shown meanwhile ("compiling 37 kernels with ISPC 1.26.0").
        did: what a terminal shows in the end ("compiled 37 kernels with ISPC 1.26.0"); nothing when the job fails.
    """

    def __init__(self, doing: str, did: str, total: int, after: float | None = None) -> None:
        self.doing, self.did, self.total = doing, did, total
        self.done = 0
        self._after = SHOW_AFTER if after is None else after
        self._start = time.perf_counter()
        self._shown = 0.0
        self._silent = os.environ.get("NNACCEL_PROGRESS", "").strip().lower() in ("0", "off", "no", "false")
        self._terminal = sys.stderr.isatty()

    def __enter__(self) -> Progress:
        return self

    def tick(self, done: int | None = None) -> None:
        """Show the state if it is time to; ``done`` pieces are finished."""
        self.done = self.done if done is None else done
        now = time.perf_counter()
        if self._silent or now - self._start < self._after:
            return
        if not self._terminal:
            if not self._shown:
                print(f"nnaccel: {self.doing} ...", file=sys.stderr, flush=True)
                self._shown = now
        elif now - self._shown >= INTERVAL:
            self._shown = now
            self._line(f"{self.doing}: {self.done} of {self.total}, {now - self._start:.0f} s")

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None) -> None:
        if not self._shown or not self._terminal:
            return
        if kind is None:
            self._line(f"{self.did} in {time.perf_counter() - self._start:.1f} s\n")
        else:
            self._line("")

    def _line(self, text: str) -> None:
        shown = f"nnaccel: {text}" if text else ""
        print(f"\r\x1b[K{shown}", end="", file=sys.stderr, flush=True)
