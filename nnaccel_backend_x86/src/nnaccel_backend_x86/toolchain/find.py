"""Where ISPC and the system's C compiler are."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from nnaccel_core import debug
from nnaccel_core.cache import DiskCache, make_key
from nnaccel_core.errors import ToolchainError

MINIMUM = (1, 25)
INSTALL_COMMAND = "nnaccel doctor --fix"
_LOADER = "usr/lib64/ld-linux-x86-64.so.2"
_LIBRARIES = "usr/lib/x86_64-linux-gnu"


@dataclass(frozen=True)
class Ispc:
    """A usable ISPC: the words to start it with, its version, and where it was found.

    ``identity`` names the very binary, for cache keys.
    """

    command: tuple[str, ...]
    version: str
    source: str
    identity: str


def toolchain_dir() -> Path:
    """nnaccel's own toolchain folder: ``$NNACCEL_TOOLCHAIN_DIR``, else in the XDG data folder."""
    own = os.environ.get("NNACCEL_TOOLCHAIN_DIR")
    if own:
        return Path(own).expanduser()
    base = os.environ.get("XDG_DATA_HOME", "")
    return (Path(base) if os.path.isabs(base) else Path(os.path.expanduser("~/.local/share"))) / "nnaccel" / "toolchain"


def private_command(folder: Path) -> tuple[str, ...]:
    """How to start the ISPC unpacked in ``folder``: through its own loader, on its own libraries.

    Its C library is newer than that of the machine it runs on, so neither the machine's loader nor the machine's
    libraries will do.
    """
    return (str(folder / _LOADER), "--library-path", str(folder / _LIBRARIES), str(folder / "usr/bin/ispc"))


def compiler_environment() -> dict[str, str]:
    """The environment compilers run in. Preloaded libraries of the machine would not fit ISPC's own C library."""
    return {k: v for k, v in os.environ.items() if k not in ("LD_PRELOAD", "LD_LIBRARY_PATH")} | {"LC_ALL": "C"}


def find_ispc() -> Ispc | None:
    """The ISPC to use: ``$NNACCEL_ISPC``, else on PATH, else nnaccel's own; None when there is none new enough.

    Raises:
        ToolchainError: ``$NNACCEL_ISPC`` is set but is not a usable ISPC.
    """
    asked = os.environ.get("NNACCEL_ISPC")
    if asked:
        path = shutil.which(asked)
        if path is None:
            raise ToolchainError(f"NNACCEL_ISPC={asked} is no executable file; correct it, or unset it and run {INSTALL_COMMAND}")
        return examine((path,), "$NNACCEL_ISPC")
    on_path = shutil.which("ispc")
    if on_path is not None:
        try:
            return examine((on_path,), "PATH")
        except ToolchainError as e:
            debug.log(debug.PLUGINS, f"ispc on PATH is passed over: {e}")
    return find_private()


def find_private(folder: Path | None = None) -> Ispc | None:
    """The newest ISPC in nnaccel's own toolchain folder, or None."""
    root = folder or toolchain_dir()
    try:
        found = [p for p in root.glob("ispc-*") if (p / "usr/bin/ispc").is_file()]
    except OSError as e:
        debug.log(debug.PLUGINS, f"toolchain folder {root} cannot be read: {e}")
        return None
    for path in sorted(found, key=lambda p: _numbers(p.name), reverse=True):
        try:
            return examine(private_command(path), f"toolchain folder {root}")
        except ToolchainError as e:
            debug.log(debug.PLUGINS, f"{path} is passed over: {e}")
    return None


def examine(command: tuple[str, ...], source: str) -> Ispc:
    """The ISPC that ``command`` starts.

    Asking takes half a second on a cold disk, so the answer is remembered for this very file.

    Raises:
        ToolchainError: it does not run, is not ISPC, or is too old.
    """
    stat = os.stat(command[-1])
    identity = make_key(*command, str(stat.st_size), str(stat.st_mtime_ns), str(stat.st_ino))
    cache = DiskCache()
    known = cache.get("ispc-version", identity)
    text = known.read_text() if known is not None else ask_version(command)
    match = re.search(r"\(ISPC\), (\d+\.\d+\.\d+\S*)|\bISPC\b.*?(\d+\.\d+\.\d+)", text)
    if match is None:
        raise ToolchainError(f"{command[-1]} ({source}) is not ISPC: it calls itself {text.strip()[:100]!r}; correct it, "
                             f"or unset it and run: {INSTALL_COMMAND}")  # fmt: skip
    version = (match[1] or match[2]).rstrip(",")
    if known is None:
        cache.put("ispc-version", identity, text.encode())
    if _numbers(version) < MINIMUM:
        least = ".".join(map(str, MINIMUM))
        raise ToolchainError(f"{command[-1]} ({source}) is ISPC {version}; at least {least} is needed; run: {INSTALL_COMMAND}")
    return Ispc(command, version, source, make_key(text, str(stat.st_size), str(stat.st_mtime_ns)))


def ask_version(command: tuple[str, ...]) -> str:
    """What ``command --version`` prints.

    Raises:
        ToolchainError: it does not run.
    """
    try:
        done = subprocess.run([*command, "--version"], capture_output=True, text=True, timeout=60, env=compiler_environment())
    except (OSError, subprocess.TimeoutExpired) as e:
        raise ToolchainError(f"{command[-1]} does not run: {e}; run: {INSTALL_COMMAND}") from e
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip()[:300]
        raise ToolchainError(f"{command[-1]} does not run (exit status {done.returncode}): {said}; run: {INSTALL_COMMAND}")
    return done.stdout


def find_cc() -> str | None:
    """The system's C compiler: ``$CC``, ``cc``, ``gcc`` or ``clang``."""
    for name in (os.environ.get("CC", ""), "cc", "gcc", "clang"):
        path = shutil.which(name) if name else None
        if path is not None:
            return path
    return None


def find_linker() -> tuple[str, ...] | None:
    """The words that begin a command which links objects into a shared library: ``ld``, or the C compiler.

    ``ld`` by itself starts five times as fast as through the compiler, and kernels need none of its start-up files.
    """
    for name in ("ld", "ld.lld"):
        path = shutil.which(name)
        if path is not None:
            # ISPC's objects do not say that they need no executable stack; hardened systems refuse such libraries.
            return (path, "-shared", "-z", "noexecstack")
    cc = find_cc()
    return (cc, "-shared", "-nostartfiles", "-Wl,-z,noexecstack") if cc is not None else None


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(n) for n in re.findall(r"\d+", text))
