"""Running compilers: several at once, with progress, leaving nothing behind when one fails or is interrupted."""

from __future__ import annotations

import concurrent.futures
import os
import subprocess
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nnaccel_backend_x86.toolchain.find import compiler_environment
from nnaccel_core import debug
from nnaccel_core.errors import ToolchainError
from nnaccel_core.progress import INTERVAL, Progress


@dataclass(frozen=True)
class Compiler:
    """A compiler of generated source.

    Attributes:
        command: words before ``-o OBJECT SOURCE``.
        extension: of source files, with the dot.
        label: for people; identity: everything about the compiler that affects its output, for cache keys.
        link: words before ``-o LIBRARY OBJECTS`` of the command that links a shared library.
    """

    command: tuple[str, ...]
    extension: str
    label: str
    identity: str
    link: tuple[str, ...]


@dataclass(frozen=True)
class Batch:
    """Source compiled by one compiler process, and the names of the kernels in it."""

    source: str
    kernels: tuple[str, ...]


def compile_library(compiler: Compiler, batches: Sequence[Batch], folder: Path) -> Path:
    """Compile ``batches`` at once and link them into one shared library in ``folder`` (a temporary one of the caller's).

    Raises:
        ToolchainError: a compiler or the linker failed; says what it printed and where the source is kept.
    """
    count = sum(len(b.kernels) for b in batches)
    what = f"{count} kernel{'s' if count > 1 else ''} with {compiler.label}"
    start = time.perf_counter()
    objects = _compile_all(compiler, batches, folder, what)
    library = folder / "kernels.so"
    link = [*compiler.link, "-o", str(library), *map(str, objects)]
    try:
        done = subprocess.run(link, capture_output=True, text=True, env=compiler_environment())
    except OSError as e:
        raise ToolchainError(f"the linker {link[0]} does not start: {e}; run: nnaccel doctor") from e
    if done.returncode != 0:
        raise ToolchainError(f"linking {what} failed ({link[0]}, exit status {done.returncode}): {_tail(done.stderr)}")
    debug.log(debug.TIMES, f"compiled {what} in {time.perf_counter() - start:.2f} s ({len(batches)} processes)")
    return library


def _compile_all(compiler: Compiler, batches: Sequence[Batch], folder: Path, what: str) -> list[Path]:
    objects = [folder / f"batch{i}.o" for i in range(len(batches))]
    running: list[subprocess.Popen[bytes]] = []
    starting = threading.Lock()
    stopped = False

    def work(index: int) -> None:
        source = objects[index].with_suffix(compiler.extension)
        source.write_text(batches[index].source, encoding="utf-8")
        said = objects[index].with_suffix(".log")
        with open(said, "wb") as output:
            with starting:
                if stopped:
                    return
                try:
                    process = subprocess.Popen(
                        [*compiler.command, "-o", str(objects[index]), str(source)],
                        stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, env=compiler_environment(),
                    )  # fmt: skip
                except OSError as e:
                    raise ToolchainError(f"{compiler.label} does not start: {e}; run: nnaccel doctor") from e
                running.append(process)
            status = process.wait()
        text = said.read_text(errors="replace")
        if status != 0 and not stopped:
            ended = f"was killed by signal {-status}" if status < 0 else f"exit status {status}"
            raise ToolchainError(
                f"{compiler.label} failed ({ended}) on generated source kept in {_keep(batches[index], compiler)}:\n{_tail(text)}"
            )
        if text.strip():
            debug.log(debug.CODE, f"{compiler.label}: {text.strip()}")

    count = sum(len(b.kernels) for b in batches)
    workers = min(len(batches), len(os.sched_getaffinity(0)))
    progress = Progress(f"compiling {what}", f"compiled {what} (kept for next time)", count)
    with progress, concurrent.futures.ThreadPoolExecutor(workers) as pool:
        try:  # from the first process on: an interrupt must find and kill them all
            tasks = {pool.submit(work, i): len(b.kernels) for i, b in enumerate(batches)}
            waiting = set(tasks)
            while waiting:
                finished, waiting = concurrent.futures.wait(waiting, INTERVAL, concurrent.futures.FIRST_EXCEPTION)
                for task in finished:
                    task.result()
                progress.tick(count - sum(tasks[t] for t in waiting))
        except BaseException:
            # An interrupt, or one batch failed: the others' results would never be used.
            with starting:
                stopped = True
                for process in running:
                    process.kill()
            raise
    return objects


def _keep(batch: Batch, compiler: Compiler) -> Path:
    """Where the failed source stays for the report: the dump folder if there is one, else a temporary file."""
    dumped = debug.dump("code", f"failed{compiler.extension}", batch.source)
    if dumped is not None:
        return dumped
    handle, name = tempfile.mkstemp(prefix="nnaccel-failed-", suffix=compiler.extension)
    with os.fdopen(handle, "w", encoding="utf-8") as f:
        f.write(batch.source)
    return Path(name)


def _tail(text: str, lines: int = 20) -> str:
    """The first error lines of a compiler's output: what follows is usually its consequence."""
    found = text.strip().splitlines()
    rest = len(found) - lines
    return "\n".join(found[:lines] + ([f"... {rest} more lines"] if rest > 0 else []))
