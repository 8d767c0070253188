"""Machines and stand-in compilers for the toolchain's tests."""

from __future__ import annotations

import shutil
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from nnaccel_backend_x86.toolchain import compiler as compiler_module
from nnaccel_backend_x86.toolchain import find
from nnaccel_backend_x86.toolchain.find import find_ispc
from nnaccel_core.api import Machine


@pytest.fixture
def machine() -> Machine:
    """An SSE4 machine: its code runs on every x86-64 processor that tests run on."""
    return Machine("x86", "test", "sse4", 2, 16, 32 << 10, 1 << 20, 32 << 20, 1e11, 2e10)


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A process that has loaded no kernels, and a cache of its own."""
    monkeypatch.setattr(compiler_module, "_loaded", {})
    monkeypatch.setattr(compiler_module, "_libraries", {})
    monkeypatch.setattr(compiler_module, "_told_slower", False)
    monkeypatch.setenv("NNACCEL_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv("NNACCEL_DUMP", raising=False)


@pytest.fixture
def ispc() -> None:
    """Skips where there is no ISPC."""
    if find_ispc() is None:
        pytest.skip("ISPC is not installed; run: nnaccel doctor --fix")


@pytest.fixture
def no_ispc(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Hides every ISPC of the machine."""
    monkeypatch.delenv("NNACCEL_ISPC", raising=False)
    monkeypatch.setenv("NNACCEL_TOOLCHAIN_DIR", str(tmp_path / "no-toolchain"))
    real = shutil.which
    monkeypatch.setattr(find.shutil, "which", lambda name: None if name == "ispc" else real(name))


@pytest.fixture
def script(tmp_path: Path) -> Callable[[str, str], str]:
    """``script(name, text)`` makes an executable shell script; returns its path."""

    def make(name: str, text: str) -> str:
        path = tmp_path / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("#!/bin/sh\n" + text + "\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        return str(path)

    return make
