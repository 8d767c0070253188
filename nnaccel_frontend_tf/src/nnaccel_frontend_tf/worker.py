"""The thread that compiled code runs on.

TensorFlow runs a graph's operations on whichever thread of its pool is free. OpenMP keeps a team of threads for each thread that
ever entered a parallel region, and teams wait by spinning: several of them take the cores from each other, and from TensorFlow.
"""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable
from typing import Any


class _Job:
    __slots__ = ("arguments", "done", "error", "function", "result")

    def __init__(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
        self.function = function
        self.arguments = arguments
        self.result: Any = None
        self.error: BaseException | None = None
        self.done = threading.Lock()
        self.done.acquire()


class Worker:
    """Runs functions one after the other on a thread of its own."""

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[_Job] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._process = 0
        self._lock = threading.Lock()

    def __call__(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """What ``function`` returns or raises."""
        if threading.current_thread() is self._thread:
            return function(*arguments)
        if self._process != os.getpid():
            self._start()
        job = _Job(function, arguments)
        self._jobs.put(job)
        job.done.acquire()
        if job.error is not None:
            raise job.error
        return job.result

    def _start(self) -> None:
        """A thread does not survive a fork."""
        with self._lock:
            if self._process != os.getpid():
                self._jobs = queue.SimpleQueue()
                self._thread = threading.Thread(target=self._run, args=(self._jobs,), name="nnaccel", daemon=True)
                self._process = os.getpid()
                self._thread.start()

    @staticmethod
    def _run(jobs: queue.SimpleQueue[_Job]) -> None:
        while True:
            job = jobs.get()
            try:
                job.result = job.function(*job.arguments)
            except BaseException as e:
                job.error = e
            job.done.release()
            del job  # its arrays are TensorFlow's memory


run_on_worker = Worker()
