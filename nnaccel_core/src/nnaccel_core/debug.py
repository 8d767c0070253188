"""Debug output: levels by ``NNACCEL_DEBUG``, files by ``NNACCEL_DUMP``.

Levels: 1 plug-ins and placement, 2 times and memory, 3 the graph per pass, 4 generated code, 5 loop nests and
refusal reasons. ``NNACCEL_DUMP=dir`` writes every dump, whatever its level, to numbered files in ``dir`` and the
logged lines to ``dir/log.txt``; what is in a file is not repeated on stderr. Both variables are read at each call,
so that they can be set in a running process.
"""

from __future__ import annotations

import difflib
import os
import re
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Union

from nnaccel_core.errors import NnaccelError

Text = Union[str, Callable[[], str]]

PLUGINS, TIMES, GRAPHS, CODE, NESTS = 1, 2, 3, 4, 5

#: Level at which a stage's dumps are shown; a stage that is not listed is shown with the graphs.
LEVEL_OF_STAGE = {"plugins": PLUGINS, "place": PLUGINS, "plan": PLUGINS, "times": TIMES, "memory": TIMES,
                  "graph": GRAPHS, "pass": GRAPHS, "select": GRAPHS, "code": CODE,
                  "nest": NESTS, "lower": NESTS, "merge": NESTS, "loop": NESTS, "refusal": NESTS}  # fmt: skip

_parsed: dict[str, int] = {"": 0}
_lock = threading.Lock()
_warned: set[str] = set()


def level() -> int:
    """The debug level, 0 (off) to 5.

    Raises:
        NnaccelError: ``NNACCEL_DEBUG`` is not a number from 0 to 5.
    """
    raw = os.environ.get("NNACCEL_DEBUG", "")
    found = _parsed.get(raw)
    if found is None:
        if not raw.isdecimal() or int(raw) > NESTS:
            raise NnaccelError(f"NNACCEL_DEBUG={raw!r} is not a debug level; set a number from 0 (off) to {NESTS}")
        found = _parsed[raw] = int(raw)
    return found


def enabled(at: int) -> bool:
    """Whether output of level ``at`` goes anywhere; guards work done only for debugging."""
    return bool(os.environ.get("NNACCEL_DUMP")) or level() >= at


def log(at: int, text: Text) -> None:
    """Show ``text`` on stderr when the level is at least ``at``; keep it in the dump folder's ``log.txt``."""
    folder = _folder()
    if folder is None and level() < at:
        return
    line = text if isinstance(text, str) else text()
    if level() >= at:
        print(f"nnaccel[{at}] {line}", file=sys.stderr)
    if folder is not None:
        try:
            with open(folder / "log.txt", "a", encoding="utf-8") as f:
                f.write(f"[{at}] {line}\n")
        except OSError as e:
            _complain(folder, e)


def dump(stage: str, name: str, text: Text) -> Path | None:
    """Write ``text`` to the next numbered file of the dump folder, or show it on stderr at the stage's level.

    Args:
        stage: a key of `LEVEL_OF_STAGE`, or any word.
        name: what is dumped; a suffix such as ``.ispc`` becomes the file's, else it is ``.txt``.
        text: the text, or a function that makes it, called only when it is shown.

    Returns:
        The file, or None when none was written.
    """
    folder = _folder()
    shown = level() >= LEVEL_OF_STAGE.get(stage, GRAPHS)
    if folder is None and not shown:
        return None
    body = text if isinstance(text, str) else text()
    path = _write(folder, stage, name, body) if folder is not None else None
    if shown:
        where = f"wrote {path}" if path else "\n" + body
        print(f"nnaccel[{LEVEL_OF_STAGE.get(stage, GRAPHS)}] {stage} {name}: {where}", file=sys.stderr)
    return path


def dump_pass(name: str, before: Any, after: Any) -> None:
    """Dump what a pass did: ``after`` in full and the lines that changed, or "(unchanged)".

    Args:
        before, after: anything whose ``str`` is its text; printed only when it is shown.
    """
    if not enabled(GRAPHS):
        return

    def text() -> str:
        if before is after:
            return "(unchanged)"
        old, new = str(before), str(after)
        if old == new:
            return "(unchanged)"
        changes = difflib.unified_diff(old.splitlines(), new.splitlines(), "before", "after", lineterm="", n=0)
        return new + "\n\n" + "\n".join(changes)

    dump("pass", name, text)


def _folder() -> Path | None:
    raw = os.environ.get("NNACCEL_DUMP")
    if not raw:
        return None
    folder = Path(raw)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        _complain(folder, e)
        return None
    return folder


def _write(folder: Path, stage: str, name: str, body: str) -> Path | None:
    stem, suffix = os.path.splitext(name)
    if not re.fullmatch(r"\.[a-z]{1,5}", suffix):
        stem, suffix = name, ".txt"
    label = re.sub(r"[^A-Za-z0-9_.-]+", "_", f"{stage}-{stem}")[:100]
    with _lock:
        number = 1 + max((int(p.name[:4]) for p in folder.glob("[0-9][0-9][0-9][0-9]-*")), default=0)
        while True:
            path = folder / f"{number:04d}-{label}{suffix}"
            try:
                # Exclusive: another process may be dumping into this folder.
                with open(path, "x", encoding="utf-8") as f:
                    f.write(body if body.endswith("\n") else body + "\n")
                return path
            except FileExistsError:
                number += 1
            except OSError as e:
                _complain(folder, e)
                return None


def _complain(folder: Path, error: OSError) -> None:
    if str(folder) not in _warned:
        _warned.add(str(folder))
        print(f"nnaccel: cannot write dumps to NNACCEL_DUMP={folder}: {error}; dumps are lost", file=sys.stderr)
