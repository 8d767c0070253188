"""``nnaccel doctor``: what was found, what is missing, and the command that mends it."""

from __future__ import annotations

import os
import platform
import sys
import tempfile
from collections.abc import Iterator
from importlib import metadata

from rich.console import Console
from rich.markup import escape

import nnaccel_core
from nnaccel_core.api import Backend, Diagnosis, Frontend
from nnaccel_core.cache import DiskCache
from nnaccel_core.errors import NnaccelError
from nnaccel_core.hooks.manager import EXTRAS, Manager
from nnaccel_core.hooks.plugins import core_version

_REPLACE = "upgrade, reinstall or uninstall the package named here"


def run(console: Console, manager: Manager, fix: bool) -> int:
    """Print the diagnosis and, with ``fix``, mend what can be. Returns 0 when all is well (in the end), else 1."""
    lines = list(examine(manager))
    if fix:
        mended = False
        for line in lines:
            if not line.ok and line.mend is not None:
                console.print(f"mending {escape(line.what)}")
                try:
                    line.mend(lambda text: console.print(f"  {escape(text)}", soft_wrap=True))
                    mended = True
                except NnaccelError as e:
                    console.print(f"  [red]failed[/]: {escape(str(e))}", soft_wrap=True)
        if mended:
            lines = list(examine(manager))
    for line in lines:
        mark = "[green]ok     [/]" if line.ok else "[red]missing[/]"
        console.print(f"{mark} {escape(line.what)}: {escape(line.detail)}", soft_wrap=True)
        if not line.ok and line.fix:
            console.print(f"        mend it with: [bold]{escape(line.fix)}[/]", soft_wrap=True)
    return 0 if all(line.ok for line in lines) else 1


def examine(manager: Manager) -> Iterator[Diagnosis]:
    """All that can be said about this installation, the core first, then each plug-in's own lines."""
    python = f"{platform.python_version()} ({sys.executable})"
    yield Diagnosis("Python", sys.version_info >= (3, 10), python, "install Python 3.10 or newer")
    where = os.path.dirname(nnaccel_core.__file__ or "")
    yield Diagnosis("nnaccel-core", True, f"{core_version()} ({where}), numpy {metadata.version('numpy')}")
    yield _cache_line()
    for name in manager.plugins.names():
        try:
            slot = manager.plugins.load(name)
        except NnaccelError as e:
            yield Diagnosis(f"plug-in {name}", False, str(e), _REPLACE)
        else:
            yield Diagnosis(f"plug-in {name}", True, slot.label.partition(" (")[2].rstrip(")"))
    frontends, errors = manager.plugins.each("nnaccel_register_frontends", Frontend)
    backends, more = manager.plugins.each("nnaccel_register_backends", Backend)
    said = {str(e) for e in errors}
    for error in errors + [e for e in more if str(e) not in said]:
        if error.__cause__ is not None and "failed to load" not in str(error):
            yield Diagnosis("plug-in", False, str(error), _REPLACE)
    if not frontends:
        yield Diagnosis("frontends", False, "none is installed", _extra_command("torch"))
    if not backends:
        yield Diagnosis("backends", False, "none is installed", _extra_command("cpu"))
    for package, backend in backends:
        yield from _backend_lines(package, backend)
    for package, frontend in frontends:
        yield from _guarded(package, frontend)


def _backend_lines(package: str, backend: type[Backend]) -> Iterator[Diagnosis]:
    what = f"device {'/'.join(backend.devices)}"
    try:
        machine = backend.probe()
    except Exception as e:
        yield Diagnosis(what, False, f"package {package}: probe failed: {type(e).__name__}: {e}", _REPLACE)
        return
    if machine is None:
        yield Diagnosis(what, False, f"package {package} is installed, but this machine has no such device")
    else:
        speeds = f"{machine.cores} cores, {machine.isa}, {machine.flops / 1e9:.0f} GFLOP/s, {machine.bandwidth / 1e9:.0f} GB/s"
        yield Diagnosis(what, True, f"{machine.name} ({speeds})")
    yield from _guarded(package, backend)


def _guarded(package: str, cls: type[Backend] | type[Frontend]) -> Iterator[Diagnosis]:
    try:
        yield from cls.diagnose()
    except Exception as e:
        yield Diagnosis(cls.name, False, f"package {package}: diagnose failed: {type(e).__name__}: {e}", _REPLACE)


def _cache_line() -> Diagnosis:
    try:
        cache = DiskCache()
        cache.path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=cache.path):
            pass
    except NnaccelError as e:
        return Diagnosis("disk cache", False, str(e), "correct or unset the variable named here")
    except OSError as e:
        return Diagnosis("disk cache", False, f"cannot be written: {e}; kernels are compiled again in every process",
                         "set NNACCEL_CACHE_DIR to a writable folder")  # fmt: skip
    return Diagnosis("disk cache", True, f"{cache.root} ({cache.size() / 1e6:.1f} of {cache.limit / 1e6:.0f} MB)")


def _extra_command(device_or_framework: str) -> str:
    return f"pip install 'nnaccel[{EXTRAS[device_or_framework]}]'"
