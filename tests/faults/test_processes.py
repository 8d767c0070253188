"""Caches and compilers that fail under a whole network: each run gives the right result or one clear error."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow  # a process that imports torch for each
pytest.importorskip("torch")
pytest.importorskip("nnaccel_backend_x86")

#: First line of a stand-in for ISPC.
VERSION = (
    'case "$1" in --version) echo "Intel(r) Implicit SPMD Program Compiler (Intel(r) ISPC), 1.26.0 '
    '(build  @ 20250326, LLVM 19.1.7)"; exit 0;; esac'
)

#: Optimizes a small network, compares it with torch, and prints "right".
PROGRAM = """
import os, resource, sys, warnings
import torch, nnaccel_core
from torch import nn
torch.manual_seed(0)
net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Sigmoid(), nn.MaxPool2d(2), nn.Tanh(), nn.Flatten(), nn.Linear(36, 2)).eval()
x = torch.randn(2, 3, 8, 8)
{before}
fast = nnaccel_core.optimize(net)
with torch.no_grad():
    torch.testing.assert_close(fast(x), net(x), rtol=1e-4, atol=1e-5)
assert fast.nnaccel_report()["compiled_calls"] == 1, fast.nnaccel_report()
print("right")
"""


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """A cache and temporary files of the test's own."""
    (tmp_path / "tmp").mkdir()
    return {**os.environ, "NNACCEL_CACHE_DIR": str(tmp_path / "cache"), "TMPDIR": str(tmp_path / "tmp")}


Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def run(environment: dict[str, str]) -> Run:
    """``run(before="", **variables)``: the program in a process of its own."""

    def start(before: str = "", **variables: str) -> subprocess.CompletedProcess[str]:
        code = PROGRAM.format(before=before)
        return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={**environment, **variables})

    return start


def right(done: subprocess.CompletedProcess[str]) -> subprocess.CompletedProcess[str]:
    assert done.returncode == 0 and done.stdout == "right\n", done.stdout + done.stderr
    return done


def script(path: Path, text: str) -> str:
    path.write_text("#!/bin/sh\n" + text + "\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


@pytest.fixture
def without_ispc(tmp_path: Path) -> dict[str, str]:
    """Variables of a machine that has no ISPC: PATH holds links to all programs but that one."""
    folder = tmp_path / "programs"
    folder.mkdir()
    for name in ("cc", "gcc", "as", "ld", "sh", "env"):
        found = next((p for d in os.defpath.split(":") + ["/usr/bin"] if (p := Path(d) / name).exists()), None)
        if found is not None:
            (folder / name).symlink_to(found)
    return {"NNACCEL_ISPC": "", "NNACCEL_TOOLCHAIN_DIR": str(tmp_path / "none"), "PATH": str(folder)}


def test_a_damaged_cache(run, tmp_path):
    right(run())
    files = [p for p in (tmp_path / "cache").rglob("*") if p.is_file()]
    assert len(files) >= 2
    for p in files:
        p.write_bytes(p.read_bytes()[:-1] + b"\0")
    done = right(run())
    assert "is damaged; it is dropped and will be rebuilt" in done.stderr
    assert "damaged" not in right(run()).stderr


def test_empty_files_in_the_cache(run, tmp_path):
    right(run())
    for p in (tmp_path / "cache").rglob("*"):
        if p.is_file():
            p.write_bytes(b"")
    assert "damaged" in right(run()).stderr


@pytest.mark.parametrize("what", ["a file", "unwritable"])
def test_a_cache_that_cannot_be_written(run, tmp_path, what):
    place = tmp_path / "place"
    if what == "a file":
        place.write_text("")
    else:
        if os.geteuid() == 0:
            place = Path("/proc/nnaccel-cache")  # nobody writes there, the administrator neither
        else:
            place.mkdir(mode=0o500)
    done = right(run(NNACCEL_CACHE_DIR=str(place)))
    assert done.stderr.count("cannot be written") == 1, done.stderr
    assert "Set NNACCEL_CACHE_DIR to a writable folder" in done.stderr


def test_a_full_disk(run):
    """No file may grow beyond 2 KB: as on a full disk, everything that is written is cut off."""
    done = run("import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
               "resource.setrlimit(resource.RLIMIT_FSIZE, (2048, 2048))")  # fmt: skip
    assert done.returncode != 0
    last = done.stderr.strip().splitlines()[-1]
    assert "Error" in last and "nnaccel" in done.stderr
    assert any(text in done.stderr for text in ("File too large", "File size limit", "failed (")), done.stderr
    assert "ToolchainError" in done.stderr or "NnaccelError" in done.stderr, done.stderr
    assert "right" in run().stdout, "nothing broken is left behind"


def test_two_processes_compile_the_same_network(environment, tmp_path):
    code = PROGRAM.format(before="")
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    both = [subprocess.Popen([sys.executable, "-c", code], env=environment, **pipes) for _ in range(2)]
    for process in both:
        out, err = process.communicate()
        assert process.returncode == 0 and out == "right\n" and "damaged" not in err, err


@pytest.mark.parametrize("whom", ["compiler", "process"])
def test_a_killed_compile(environment, run, tmp_path, whom):
    """Killed in the middle of a compile, the compiler alone or the whole process: the next run is fine."""
    started = tmp_path / "started"
    slow = script(tmp_path / "ispc", f"{VERSION}\necho $$ > {started}\nexec sleep 60")
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM.format(before="")], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**environment, "NNACCEL_ISPC": slow},
    )  # fmt: skip
    until = time.monotonic() + 60
    while not (started.exists() and started.read_text().strip()) and time.monotonic() < until and process.poll() is None:
        time.sleep(0.05)
    compiler = int(started.read_text())
    os.kill(compiler if whom == "compiler" else process.pid, signal.SIGKILL)
    _, err = process.communicate()
    if whom == "compiler":
        assert process.returncode == 1 and "was killed by signal 9" in err, err
    else:
        os.kill(compiler, signal.SIGKILL)
    right(run())


def test_without_ispc_the_c_compiler_serves_with_one_warning(run, without_ispc):
    done = right(run(**without_ispc))
    assert done.stderr.count("ISPC was not found") == 1 and "nnaccel doctor --fix" in done.stderr


def test_without_any_compiler(run, without_ispc, tmp_path):
    done = run(**{**without_ispc, "PATH": str(tmp_path / "none")})
    assert done.returncode == 1
    assert "neither ISPC nor a C compiler is installed; run: nnaccel doctor --fix" in done.stderr.splitlines()[-1]


def test_without_any_compiler_what_is_cached_still_says_what_is_missing(run, without_ispc, tmp_path):
    right(run())
    done = run(**{**without_ispc, "PATH": str(tmp_path / "none")})
    assert done.returncode == 1 and "ToolchainError" in done.stderr


def test_a_compiler_that_fails(run, tmp_path):
    bad = script(tmp_path / "ispc", f"{VERSION}\necho 'internal compiler error' >&2\nexit 7")
    done = run(NNACCEL_ISPC=bad)
    assert done.returncode == 1
    assert "exit status 7" in done.stderr and "internal compiler error" in done.stderr and "kept in" in done.stderr
