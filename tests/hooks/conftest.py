"""Tiny plug-in distributions in a temporary folder, as a third party's would look on ``sys.path``."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from nnaccel_core.hooks.manager import Manager
from nnaccel_core.hooks.plugins import Plugins

MakePlugin = Callable[..., str]


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on ``sys.path``; modules imported from it are forgotten afterwards."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    before = set(sys.modules)
    yield folder
    for name in set(sys.modules) - before:
        if str(folder) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


@pytest.fixture
def make_plugin(site: Path) -> MakePlugin:
    """``make(name, source, package, version)`` installs a plug-in; returns its module's name."""

    def make(name: str, source: str, package: str | None = None, version: str = "1.0") -> str:
        package = package or f"acme-{name}"
        module = package.replace("-", "_")
        (site / f"{module}.py").write_text(textwrap.dedent(source))
        info = site / f"{module}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n")
        (info / "entry_points.txt").write_text(f"[nnaccel]\n{name} = {module}\n")
        return module

    return make


@pytest.fixture
def new_manager(monkeypatch: pytest.MonkeyPatch) -> Callable[[], Manager]:
    """Makes a manager that sees only the test's own plug-ins."""
    from importlib import metadata

    def make() -> Manager:
        def read() -> list[metadata.EntryPoint]:
            return [p for p in metadata.entry_points(group="nnaccel") if not p.dist.metadata["Name"].startswith("nnaccel")]

        return Manager(Plugins(read))

    monkeypatch.delenv("NNACCEL_DISABLE_PLUGINS", raising=False)
    return make
