"""The command line, in this process and as the installed script."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys

import pytest

from nnaccel_core.api import Backend, Diagnosis, Machine
from nnaccel_core.cache import DiskCache
from nnaccel_core.cli import main
from nnaccel_core.errors import ToolchainError
from nnaccel_core.hooks.manager import Manager
from nnaccel_core.hooks.plugins import Plugins


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("NNACCEL_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "200")


class Point:
    """An entry point that gives ``plugin`` or raises."""

    class dist:
        metadata = {"Name": "acme-toy"}
        version = "1.0"

    def __init__(self, name: str, plugin: object) -> None:
        self.name, self.plugin = name, plugin

    def load(self) -> object:
        if isinstance(self.plugin, Exception):
            raise self.plugin
        return self.plugin


@pytest.fixture
def with_plugins(monkeypatch):
    """``with_plugins(name=plugin)`` makes the command line see exactly these."""

    def use(**plugins: object) -> None:
        manager = Manager(Plugins(lambda: [Point(n, p) for n, p in plugins.items()]))
        monkeypatch.setattr(sys.modules["nnaccel_core.cli.main"], "manager", lambda: manager)

    return use


def toy(lines: list[Diagnosis], present: bool = True) -> object:
    """A plug-in with one backend that gives ``lines`` as its diagnosis."""
    from nnaccel_core.hooks import hookimpl

    class Toy(Backend):
        name, devices = "toy", ("toy",)

        @classmethod
        def probe(cls) -> Machine | None:
            return Machine("toy", "a toy", "avx2", 3, 32, 1, 1, 1, 2e9, 3e9) if present else None

        @classmethod
        def diagnose(cls) -> list[Diagnosis]:
            return lines

    class Plugin:
        @staticmethod
        @hookimpl
        def nnaccel_register_backends() -> list[type[Backend]]:
            return [Toy]

    return Plugin


def test_doctor_with_nothing_installed(with_plugins, capsys):
    with_plugins()
    assert main(["doctor"]) == 1
    out = capsys.readouterr().out
    assert "missing frontends: none is installed\n        mend it with: pip install 'nnaccel[torch]'" in out
    assert "missing backends: none is installed\n        mend it with: pip install 'nnaccel[x86]'" in out
    assert re.search(r"ok +Python: 3\.\d+\.\d+", out) and "ok      disk cache" in out


def test_doctor_shows_devices_and_what_mends(with_plugins, capsys):
    with_plugins(toy=toy([Diagnosis("tool", False, "not found [really]", "apt-get install tool")]))
    assert main(["doctor"]) == 1
    out = capsys.readouterr().out
    assert "ok      plug-in toy: package acme-toy 1.0" in out
    assert "ok      device toy: a toy (3 cores, avx2, 2 GFLOP/s, 3 GB/s)" in out
    assert "missing tool: not found [really]\n        mend it with: apt-get install tool" in out


def test_doctor_with_an_absent_device_and_a_broken_plugin(with_plugins, capsys):
    with_plugins(toy=toy([], present=False), bad=ImportError("no libfoo"))
    assert main(["doctor"]) == 1
    out = capsys.readouterr().out
    assert "missing device toy: package acme-toy is installed, but this machine has no such device" in out
    assert out.count("no libfoo") == 1 and "missing plug-in bad" in out


def test_doctor_guards_diagnose(with_plugins, capsys):
    plugin = toy([])
    plugin.nnaccel_register_backends()[0].diagnose = classmethod(lambda cls: 1 / 0)
    with_plugins(toy=plugin)
    assert main(["doctor"]) == 1
    assert "diagnose failed: ZeroDivisionError" in capsys.readouterr().out


def test_doctor_fix(with_plugins, capsys):
    lines = []

    def mend(say):
        say("downloading")
        lines[0] = Diagnosis("tool", True, "installed now")

    def fail(say):
        raise ToolchainError("no network")

    lines += [Diagnosis("tool", False, "not found", "nnaccel doctor --fix", mend), Diagnosis("other", False, "gone", "x", fail)]
    with_plugins(toy=toy(lines))
    assert main(["doctor", "--fix"]) == 1
    out = capsys.readouterr().out
    assert "mending tool\n  downloading\nmending other\n  failed: no network" in out
    assert "ok      tool: installed now" in out and "missing other: gone" in out


def test_doctor_with_an_unwritable_cache(with_plugins, monkeypatch, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("NNACCEL_CACHE_DIR", str(tmp_path / "file"))
    with_plugins()
    main(["doctor"])
    assert "missing disk cache: cannot be written" in capsys.readouterr().out


def test_plugins(with_plugins, capsys):
    with_plugins(toy=toy([]), bad=ImportError("no libfoo"))
    assert main(["plugins"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"bad +acme-toy +1.0 +available", out) and "no libfoo" not in out
    assert main(["plugins", "--load"]) == 1
    out = capsys.readouterr().out
    assert re.search(r"toy +acme-toy +1.0 +loaded", out) and re.search(r"bad +acme-toy +1.0 +broken", out) and "no libfoo" in out


def test_plugins_with_none(with_plugins, capsys):
    with_plugins()
    assert main(["plugins"]) == 0
    assert "pip install 'nnaccel[torch,x86]'" in capsys.readouterr().out


def test_cache(capsys, tmp_path):
    DiskCache().put("kernel", "key", b"12345")
    assert main(["cache", "path"]) == 0 and main(["cache", "size"]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'cache'}\n5 bytes of {2 << 30} in 1 entries\n"
    assert main(["cache", "clear"]) == 0 and main(["cache", "size"]) == 0
    assert capsys.readouterr().out == f"5 bytes freed\n0 bytes of {2 << 30} in 0 entries\n"


def test_wrong_variable_is_a_message_not_a_traceback(monkeypatch, capsys):
    monkeypatch.setenv("NNACCEL_CACHE_SIZE", "lots")
    assert main(["cache", "size"]) == 1
    assert capsys.readouterr().err.startswith("nnaccel: NNACCEL_CACHE_SIZE='lots' is not a size")


def test_demo_that_is_not_installed(monkeypatch, capsys):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(["demo"]) == 1
    assert "make demo" in capsys.readouterr().err


def test_wrong_usage(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["cache", "shrink"])
    assert caught.value.code == 2
    with pytest.raises(SystemExit) as caught:
        main(["plugins", "--unknown"])
    assert caught.value.code == 2


def test_the_module_runs_as_a_program(tmp_path):
    env = {**os.environ, "NNACCEL_DISABLE_PLUGINS": "cuda,onnx,torch,x86"}
    program = [sys.executable, "-m", "nnaccel_core.cli"]
    done = subprocess.run([*program, "doctor"], capture_output=True, text=True, env=env, cwd=tmp_path)
    assert done.returncode == 1 and "none is installed" in done.stdout, done.stderr
    done = subprocess.run([*program, "--version"], capture_output=True, text=True, cwd=tmp_path)
    assert re.fullmatch(r"nnaccel-core \d+\.\d+\.\d+\n", done.stdout)


class Command:
    """An entry point of a command that another package adds."""

    class dist:
        name = "acme-tools"
        version = "2.0"

    def __init__(self, name: str, run: object) -> None:
        self.name, self.run = name, run

    def load(self) -> object:
        if isinstance(self.run, Exception):
            raise self.run
        return self.run


def test_packages_add_commands(monkeypatch, capsys):
    given = []

    def run(argv):
        given.append(argv)
        return 3

    points = [Command("greet", run), Command("broken", ImportError("no module named nothing"))]
    module = importlib.import_module("nnaccel_core.cli.main")
    monkeypatch.setattr(module, "entry_points", lambda group: points if group == "nnaccel.commands" else [])
    assert main(["greet", "--loud", "you"]) == 3
    assert given == [["--loud", "you"]]
    assert main(["broken"]) == 1
    assert "acme-tools 2.0" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["--help"])
    assert "greet" in capsys.readouterr().out


def test_several_packages_offer_a_command(monkeypatch, capsys):
    """Which one runs is told by the ending of a file, or by an option; else it is the one of no kind."""
    ran = []
    names = ("show", "show.abc", "show.xyz", "only.xyz")
    points = [Command(name, lambda argv, name=name: ran.append(name) or 0) for name in names]
    points += [Command("two.abc", None), Command("two.xyz", None)]
    module = importlib.import_module("nnaccel_core.cli.main")
    monkeypatch.setattr(module, "entry_points", lambda group: points)
    for argv in (["net"], ["a.abc"], ["-v", "dir/b.xyz"], ["--abc", "c"], ["--xyz=c", "d"], ["xyz"], []):
        assert main(["show", *argv]) == 0
    assert ran == ["show", "show.abc", "show.xyz", "show.abc", "show.xyz", "show", "show"]
    assert main(["only", "net"]) == 0 and ran[-1] == "only.xyz"
    assert main(["two", "net"]) == 1
    assert "two: name a file that ends in one of .abc, .xyz" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["--help"])
    assert "acme-tools for .abc (or with --abc)" in " ".join(capsys.readouterr().out.split())
