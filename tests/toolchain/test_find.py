"""Where ISPC is looked for, versions, and installing it."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from nnaccel_backend_x86.toolchain import diagnose, find, find_ispc, install, install_ispc
from nnaccel_core.errors import ToolchainError

VERSION_LINE = "Intel(r) Implicit SPMD Program Compiler (Intel(r) ISPC), {} (build  @ 20250326, LLVM 19.1.7)"


@pytest.fixture(autouse=True)
def nothing_set(no_ispc):
    """Each test makes the ISPCs that it finds."""


def fake_ispc(script, version: str, name: str = "ispc") -> str:
    return script(name, f"echo '{VERSION_LINE.format(version)}'")


def test_nothing_found():
    assert find_ispc() is None


def test_environment_variable_wins(script, monkeypatch):
    monkeypatch.setenv("NNACCEL_ISPC", fake_ispc(script, "1.27.0"))
    found = find_ispc()
    assert (found.version, found.source) == ("1.27.0", "$NNACCEL_ISPC")


@pytest.mark.parametrize(("text", "match"), [
    (None, "NNACCEL_ISPC=.* is no executable file"),
    (VERSION_LINE.format("1.24.9"), r"is ISPC 1.24.9; at least 1.25 is needed; run: nnaccel doctor --fix"),
    ("something else 4.2", "is not ISPC: it calls itself 'something else 4.2'"),
])  # fmt: skip
def test_wrong_environment_variable_is_an_error(script, monkeypatch, tmp_path, text, match):
    monkeypatch.setenv("NNACCEL_ISPC", script("ispc", f"echo '{text}'") if text else str(tmp_path / "nowhere"))
    with pytest.raises(ToolchainError, match=match):
        find_ispc()
    (line, *_) = diagnose()
    assert line.what == "ISPC" and not line.ok and line.fix == "unset NNACCEL_ISPC"


def test_ispc_that_crashes(script, monkeypatch):
    monkeypatch.setenv("NNACCEL_ISPC", script("ispc", "echo 'libLLVM.so.19 not found' >&2; exit 127"))
    with pytest.raises(ToolchainError, match=r"does not run \(exit status 127\): libLLVM.so.19 not found"):
        find_ispc()


def test_old_ispc_on_path_is_passed_over(script, monkeypatch):
    old, new = fake_ispc(script, "1.18.0", "old"), fake_ispc(script, "1.30.1", "new")
    real = shutil.which
    monkeypatch.setattr(find.shutil, "which", lambda name: old if name == "ispc" else real(name))
    assert find_ispc() is None
    monkeypatch.setattr(find.shutil, "which", lambda name: new if name == "ispc" else real(name))
    assert find_ispc().source == "PATH"


def test_version_is_asked_once_for_one_file(script, monkeypatch, tmp_path):
    path = script("ispc", f"echo x >> {tmp_path}/asked; echo '{VERSION_LINE.format('1.26.0')}'")
    monkeypatch.setenv("NNACCEL_ISPC", path)
    first = find_ispc()
    assert find_ispc() == first and (tmp_path / "asked").read_text() == "x\n"
    os.utime(path, ns=(1, 1))  # another file now, for all that can be told
    assert find_ispc().identity != first.identity
    assert (tmp_path / "asked").read_text() == "x\nx\n"


def make_private(root: Path, version: str) -> None:
    """A toolchain folder whose loader is a shell script that answers for ISPC."""
    folder = root / f"ispc-{version}"
    for name in ("usr/bin/ispc", "usr/lib64/ld-linux-x86-64.so.2"):
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_text(f"#!/bin/sh\necho '{VERSION_LINE.format(version)}'\n")
        (folder / name).chmod(0o755)


def test_newest_in_the_toolchain_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("NNACCEL_TOOLCHAIN_DIR", str(tmp_path))
    make_private(tmp_path, "1.9.0")
    make_private(tmp_path, "1.26.0")
    found = find_ispc()
    assert found.version == "1.26.0" and found.command[1] == "--library-path"


def test_install_does_nothing_when_it_is_there(monkeypatch, tmp_path):
    monkeypatch.setenv("NNACCEL_TOOLCHAIN_DIR", str(tmp_path))
    make_private(tmp_path, "1.26.0")
    monkeypatch.setattr(install, "_download", lambda *a: pytest.fail("downloaded"))
    said: list[str] = []
    assert install_ispc(said.append).version == "1.26.0"
    assert said == [f"ISPC 1.26.0 is already in {tmp_path}"]


def test_install_without_apt(monkeypatch, tmp_path):
    monkeypatch.setattr(install.shutil, "which", lambda name: None)
    with pytest.raises(ToolchainError, match="apt-get is not on this machine.*NNACCEL_ISPC"):
        install_ispc()


def test_install_on_another_processor(monkeypatch):
    monkeypatch.setattr(install.platform, "machine", lambda: "aarch64")
    with pytest.raises(ToolchainError, match="this machine is aarch64"):
        install_ispc()


def test_install_into_an_unwritable_folder(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("NNACCEL_TOOLCHAIN_DIR", str(tmp_path / "file"))
    with pytest.raises(ToolchainError, match="cannot write the toolchain folder.*NNACCEL_TOOLCHAIN_DIR"):
        install_ispc()


def test_failed_install_leaves_nothing(monkeypatch, tmp_path):
    monkeypatch.setenv("NNACCEL_TOOLCHAIN_DIR", str(tmp_path))
    monkeypatch.setattr(install, "_check_machine", lambda: None)
    monkeypatch.setattr(install, "mirrors", lambda: ["file:/nowhere/at/all"])
    if shutil.which("apt-get") is None:
        pytest.skip("apt-get is not on this machine")
    with pytest.raises(ToolchainError, match=r"file:/nowhere/at/all: (?s:.)*nnaccel doctor --fix"):
        install_ispc()
    assert os.listdir(tmp_path) == [".lock"]


def test_changed_package_is_refused(tmp_path):
    good = tmp_path / "libllvm19_1%3a19.1.7-3+b1_amd64.deb"
    good.write_bytes(b"tampered")
    (tmp_path / "ispc_1.26.0-1_amd64.deb").write_bytes(b"tampered")
    with pytest.raises(ToolchainError, match="has SHA-256 .* is pinned; it is not used"):
        install._check_pins(sorted(tmp_path.glob("*.deb")), any_version=False)
    with pytest.raises(ToolchainError, match="apt downloaded no package ispc"):
        install._check_pins([good], any_version=False)


def test_pins_accept_the_pinned_content(tmp_path, monkeypatch):
    deb = tmp_path / "ispc_1.26.0-1_amd64.deb"
    deb.write_bytes(b"content")
    monkeypatch.setattr(install, "PINNED", {"ispc": ("1.26.0-1", hashlib.sha256(b"content").hexdigest())})
    install._check_pins([deb], any_version=False)
    install._check_pins([tmp_path / "ispc_2.0-1_amd64.deb"], any_version=True)


@pytest.mark.parametrize(("listing", "expected"), [
    ("http://m/debian/ bookworm main\nhttp://m/debian/ bookworm-updates main\nhttp://s/debian-security/ bookworm-security main\n",
     ["http://m/debian/"]),
    ("https://other/apt stable main\nhttp://m/debian trixie main\nhttp://m/debian trixie contrib\n",
     ["http://m/debian", "https://other/apt"]),
])  # fmt: skip
def test_mirror_comes_from_the_machines_settings(monkeypatch, listing, expected):
    monkeypatch.setattr(install, "_run", lambda *a: listing)
    assert install.mirrors() == expected


def test_no_mirror(monkeypatch):
    monkeypatch.setattr(install, "_run", lambda *a: "")
    with pytest.raises(ToolchainError, match="name no Debian archive"):
        install.mirrors()


def test_diagnose_offers_to_install(monkeypatch):
    line = diagnose()[0]
    assert (line.what, line.ok, line.fix, line.mend) == ("ISPC", False, "nnaccel doctor --fix", install_ispc)


def test_diagnose_without_any_compiler(monkeypatch):
    real = shutil.which
    monkeypatch.setattr(find.shutil, "which", lambda name: real(name) if name == "sh" else None)
    lines = {line.what: line for line in diagnose()}
    assert not any(line.ok for line in lines.values())
    assert lines["linker"].fix == "apt-get install binutils" and lines["C compiler"].fix == "apt-get install gcc"


@pytest.mark.slow
def test_real_installation(monkeypatch, tmp_path):
    """Downloads Debian's packages as a user's machine would."""
    if shutil.which("apt-get") is None or not os.path.isfile(install.KEYRING):
        pytest.skip("this machine has no apt with Debian's keys")
    monkeypatch.setenv("NNACCEL_TOOLCHAIN_DIR", str(tmp_path / "tools"))
    said: list[str] = []
    found = install_ispc(said.append)
    assert found.version == "1.26.0" and sorted(os.listdir(tmp_path / "tools")) == [".lock", "ispc-1.26.0"]
    (tmp_path / "k.ispc").write_text("export void f(uniform float x[], uniform int n) { foreach (i = 0 ... n) { x[i] *= 2; } }\n")
    done = subprocess.run([*found.command, "--target=sse4.2-i32x4", "--pic", "-o", "k.o", "k.ispc"], cwd=tmp_path)
    assert done.returncode == 0 and (tmp_path / "k.o").stat().st_size > 0
