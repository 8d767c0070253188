"""Kernels to addresses: memo, disk cache, parallel batches, and every failure."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from nnaccel_backend_x86.toolchain import KernelCompiler, build
from nnaccel_backend_x86.toolchain import compiler as compiler_module
from nnaccel_core import progress
from nnaccel_core.errors import ToolchainError
from nnaccel_core.loopir.source import KernelSource
from toolchain.helpers import call, scale_kernel

X = np.arange(37, dtype=np.float32)


@pytest.fixture
def no_compiles(monkeypatch):
    """Any compile from here on is an error."""

    def forbid():
        def fail(*args):
            raise AssertionError("compiled again")

        monkeypatch.setattr(compiler_module, "compile_library", fail)

    return forbid


def forget() -> None:
    compiler_module._loaded.clear()
    compiler_module._libraries.clear()


def test_ispc_kernels_run_and_are_remembered(ispc, machine, no_compiles):
    compiler = KernelCompiler(machine)
    assert compiler.printer().extension == ".ispc"
    assert re.fullmatch(r"ISPC 1\.\d+\.\d+", compiler.describe())
    kernels = [scale_kernel(f) for f in (2.0, 3.0, 2.0)]
    addresses = compiler.load(kernels)
    assert addresses[0] == addresses[2] != addresses[1]
    np.testing.assert_array_equal(call(addresses[0], X), 2 * X)
    np.testing.assert_array_equal(call(addresses[1], X), 3 * X)
    no_compiles()
    assert compiler.load(kernels[1:2]) == addresses[1:2]
    forget()  # as in a new process
    again = KernelCompiler(machine).load(kernels)
    np.testing.assert_array_equal(call(again[1], X), 3 * X)


def test_c_kernels_run_and_say_that_they_are_slower(no_ispc, machine, no_compiles):
    with pytest.warns(RuntimeWarning, match="ISPC was not found.*slower.*nnaccel doctor --fix") as caught:
        compiler = KernelCompiler(machine)
        assert compiler.printer().extension == ".c"
        KernelCompiler(machine).printer()
    assert len(caught) == 1
    kernels = [scale_kernel(4.0), scale_kernel(5.0)]
    np.testing.assert_array_equal(call(compiler.load(kernels)[1], X), 5 * X)
    no_compiles()
    forget()
    np.testing.assert_array_equal(call(compiler.load(kernels)[0], X), 4 * X)


def test_neither_ispc_nor_a_c_compiler(no_ispc, machine, monkeypatch):
    monkeypatch.setattr("nnaccel_backend_x86.toolchain.targets.find_cc", lambda: None)
    with pytest.raises(ToolchainError, match="neither ISPC nor a C compiler is installed; run: nnaccel doctor --fix"):
        KernelCompiler(machine).printer()


def test_keys_depend_on_text_compiler_and_machine(no_ispc, machine):
    from dataclasses import replace

    compiler = KernelCompiler(machine)
    with pytest.warns(RuntimeWarning):
        tool = compiler._choose()
    base = compiler._key(tool, scale_kernel(2.0))
    assert base == compiler._key(tool, scale_kernel(2.0))
    assert base != compiler._key(tool, scale_kernel(2.5))
    assert base != compiler._key(replace(tool, identity="other"), scale_kernel(2.0))
    wider = KernelCompiler(replace(machine, isa="avx2", simd_bytes=32))
    assert base != wider._key(tool, scale_kernel(2.0))


def test_a_kernel_of_known_identity_is_found_without_being_made(no_ispc, machine, no_compiles):
    compiler = KernelCompiler(machine)
    made: list[int] = []

    def make(factor: float):
        made.append(1)
        return scale_kernel(factor)

    with pytest.warns(RuntimeWarning):
        (first,) = compiler.load([KernelSource("k", "identity of 9", lambda: make(9.0))])
    np.testing.assert_array_equal(call(first, X), np.float32(9) * X)
    assert made == [1]
    forget()
    no_compiles()
    (again,) = KernelCompiler(machine).load([KernelSource("k", "identity of 9", lambda: make(9.0))])
    np.testing.assert_array_equal(call(again, X), np.float32(9) * X)
    assert made == [1]
    with pytest.raises(AssertionError, match="compiled again"):
        compiler.load([KernelSource("k", "identity of another", lambda: make(9.5))])
    unknown = KernelSource("k", "", lambda: make(10.0))
    assert compiler._key(compiler._choose(), unknown) == compiler._key(compiler._choose(), scale_kernel(10.0))


def test_only_missing_kernels_are_compiled(no_ispc, machine, monkeypatch):
    compiled: list[list[str]] = []
    real = build.compile_library

    def watch(compiler, batches, folder):
        compiled.append([name for b in batches for name in b.kernels])
        return real(compiler, batches, folder)

    monkeypatch.setattr(compiler_module, "compile_library", watch)
    compiler = KernelCompiler(machine)
    with pytest.warns(RuntimeWarning):
        compiler.load([scale_kernel(1.5, "one")])
    forget()
    addresses = compiler.load([scale_kernel(1.5, "one"), scale_kernel(2.5, "two"), scale_kernel(3.5, "three")])
    assert [sorted(names) for names in compiled] == [["one"], ["three", "two"]]
    np.testing.assert_array_equal(call(addresses[2], X), np.float32(3.5) * X)


def test_batches_use_all_cores_and_share_the_work(no_ispc, machine, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2})
    with pytest.warns(RuntimeWarning):
        printer = KernelCompiler(machine).printer()
    batches = compiler_module._split(printer, {f"{i:064d}": scale_kernel(float(i), f"k{i}") for i in range(7)})
    assert sorted(len(b.kernels) for b in batches) == [2, 2, 3]
    assert sorted(n for b in batches for n in b.kernels) == [f"k{i}" for i in range(7)]


@pytest.mark.parametrize("kind", ["library", "kernel"])
@pytest.mark.filterwarnings("ignore:ISPC was not found")
def test_damaged_or_evicted_cache_entries_are_rebuilt(no_ispc, machine, kind):
    compiler = KernelCompiler(machine)
    compiler.load([scale_kernel(6.0)])
    (path,) = [e.path for e in compiler.cache.entries() if e.path.parts[-3] == kind]
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    forget()
    with pytest.warns(RuntimeWarning, match="damaged"):
        np.testing.assert_array_equal(call(compiler.load([scale_kernel(6.0)])[0], X), 6 * X)
    (path,) = [e.path for e in compiler.cache.entries() if e.path.parts[-3] == kind]
    path.unlink()
    forget()
    np.testing.assert_array_equal(call(compiler.load([scale_kernel(6.0)])[0], X), 6 * X)


@pytest.mark.filterwarnings("ignore:ISPC was not found")
def test_unwritable_cache_still_compiles(no_ispc, machine, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("NNACCEL_CACHE_DIR", str(tmp_path / "file"))
    with pytest.warns(RuntimeWarning, match="cannot be written"):
        np.testing.assert_array_equal(call(KernelCompiler(machine).load([scale_kernel(7.0)])[0], X), 7 * X)


def fake_cc(script, monkeypatch, body: str) -> None:
    """A C compiler that answers --version and then does ``body``; "$out" is the object it was asked for."""
    text = 'if [ "$1" = --version ]; then echo "fake 1.0"; exit 0; fi\n'
    text += 'for a in "$@"; do [ "$p" = -o ] && out="$a"; p="$a"; done\n'
    monkeypatch.setenv("CC", script("fakecc", text + body))


def build_folders() -> set[str]:
    import tempfile

    return {n for n in os.listdir(tempfile.gettempdir()) if n.startswith("nnaccel-build-")}


@pytest.mark.filterwarnings("ignore:ISPC was not found")
@pytest.mark.parametrize(("body", "reason"), [
    ("echo half > $out; echo 'k.c:1: error: no such thing' >&2; exit 2", r"exit status 2(?s:.)*no such thing"),
    ("echo half > $out; kill -9 $$", "killed by signal 9"),
])  # fmt: skip
def test_failed_compile_leaves_nothing_and_keeps_the_source(no_ispc, machine, monkeypatch, script, body, reason):
    fake_cc(script, monkeypatch, body)
    compiler = KernelCompiler(machine)
    before = build_folders()
    with pytest.raises(ToolchainError, match=reason) as caught:
        compiler.load([scale_kernel(8.0)])
    kept = Path(re.search(r"kept in (\S+\.c):", str(caught.value))[1])
    assert "nnaccel_k" in kept.read_text()
    kept.unlink()
    assert compiler.cache.entries() == [] and build_folders() == before
    monkeypatch.delenv("CC")
    np.testing.assert_array_equal(call(KernelCompiler(machine).load([scale_kernel(8.0)])[0], X), 8 * X)


@pytest.mark.filterwarnings("ignore:ISPC was not found")
def test_failed_source_goes_to_the_dump_folder(no_ispc, machine, monkeypatch, script, tmp_path):
    fake_cc(script, monkeypatch, "exit 1")
    monkeypatch.setenv("NNACCEL_DUMP", str(tmp_path / "dumps"))
    with pytest.raises(ToolchainError, match=rf"kept in {tmp_path}/dumps/0002-code-failed.c"):
        KernelCompiler(machine).load([scale_kernel(8.0)])
    assert (tmp_path / "dumps/0001-code-kernels.c").exists()


@pytest.mark.filterwarnings("ignore:ISPC was not found")
def test_compiler_that_is_no_compiler(no_ispc, machine, monkeypatch, script):
    monkeypatch.setenv("CC", script("fakecc", "exit 3"))
    with pytest.raises(ToolchainError, match=r"fakecc does not run \(exit status 3\)"):
        KernelCompiler(machine).printer()


@pytest.mark.filterwarnings("ignore:ISPC was not found")
def test_slow_compile_shows_progress(no_ispc, machine, monkeypatch, script, capsys):
    monkeypatch.setattr(progress, "SHOW_AFTER", 0.2)
    fake_cc(script, monkeypatch, 'sleep 0.6; exec cc "$@"')
    KernelCompiler(machine).load([scale_kernel(9.0)])
    err = capsys.readouterr().err
    assert err == "nnaccel: compiling 1 kernel with fake 1.0 ...\n"


@pytest.mark.filterwarnings("ignore:ISPC was not found")
def test_long_sources_are_compiled_in_more_batches_than_cores(no_ispc, machine, monkeypatch, script, capsys):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0})
    monkeypatch.setattr(compiler_module, "BATCH", 1)
    fake_cc(script, monkeypatch, 'sleep 0.3; exec cc "$@"')
    monkeypatch.setattr(progress, "SHOW_AFTER", 0.0)
    monkeypatch.setattr(progress, "INTERVAL", 0.0)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    KernelCompiler(machine).load([scale_kernel(10.0 + i) for i in range(4)])
    shown = [line for line in re.split(r"[\r\n]", capsys.readouterr().err) if line]
    states = [int(m.group(1)) for line in shown if (m := re.search(r": (\d) of 4, \d+ s$", line))]
    assert states == sorted(states)
    assert len(set(states)) > 2
    assert re.search(r"nnaccel: compiled 4 kernels with .* \(kept for next time\) in \d+\.\d s$", shown[-1])


@pytest.mark.filterwarnings("ignore:ISPC was not found")
def test_progress_can_be_silenced(no_ispc, machine, monkeypatch, capsys):
    monkeypatch.setattr(progress, "SHOW_AFTER", 0.0)
    monkeypatch.setenv("NNACCEL_PROGRESS", "0")
    KernelCompiler(machine).load([scale_kernel(20.0)])
    assert capsys.readouterr().err == ""


@pytest.mark.filterwarnings("ignore:ISPC was not found")
def test_quick_compile_shows_nothing(no_ispc, machine, capsys):
    KernelCompiler(machine).load([scale_kernel(9.5)])
    assert capsys.readouterr().err == ""


@pytest.mark.filterwarnings("ignore:ISPC was not found")
def test_one_failure_stops_the_other_batches(no_ispc, machine, monkeypatch, script):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1})
    fake_cc(script, monkeypatch, 'for a in "$@"; do case $a in *batch0.c) exit 1;; esac; done; exec sleep 60')
    start = time.monotonic()
    with pytest.raises(ToolchainError, match="exit status 1"):
        KernelCompiler(machine).load([scale_kernel(1.0), scale_kernel(2.0)])
    assert time.monotonic() - start < 30


#: Interrupts are ignored in jobs that a shell started in the background, and that is inherited.
COMPILE_ONE = """
import signal, sys, warnings
signal.signal(signal.SIGINT, signal.default_int_handler)
warnings.simplefilter("ignore")
sys.path.insert(0, {tests!r})
from toolchain.helpers import scale_kernel, call
import numpy as np
from nnaccel_backend_x86.toolchain import KernelCompiler
from nnaccel_core.api import Machine
machine = Machine("x86", "test", "sse4", 2, 16, 1, 1, 1, 1.0, 1.0)
kernels = [scale_kernel(float(i)) for i in range(1, 5)]
x = np.arange(9, dtype=np.float32)
for i, address in enumerate(KernelCompiler(machine).load(kernels)):
    assert (call(address, x) == (i + 1) * x).all()
"""


def process() -> subprocess.Popen:
    code = COMPILE_ONE.format(tests=str(Path(__file__).parent.parent))
    return subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True, start_new_session=True)


def test_processes_that_compile_the_same_at_once(no_ispc, machine):
    running = [process() for _ in range(3)]
    for p in running:
        _, err = p.communicate(timeout=120)
        assert p.returncode == 0, err


def test_interrupt_leaves_no_cache_entry_and_no_compiler(no_ispc, machine, monkeypatch, script, tmp_path):
    fake_cc(script, monkeypatch, f"echo $$ >> {tmp_path}/pids; exec sleep 60")
    p = process()
    deadline = time.monotonic() + 60
    while not (tmp_path / "pids").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    p.send_signal(signal.SIGINT)
    _, err = p.communicate(timeout=60)
    assert "KeyboardInterrupt" in err
    for pid in (tmp_path / "pids").read_text().split():
        assert not os.path.exists(f"/proc/{pid}")
    assert KernelCompiler(machine).cache.entries() == []


@pytest.mark.filterwarnings("ignore:ISPC was not found")
def test_threads_compile_once(no_ispc, machine, monkeypatch):
    count = []
    real = build.compile_library
    monkeypatch.setattr(compiler_module, "compile_library", lambda *a: count.append(1) or real(*a))
    results: list[list[int]] = []

    def work() -> None:
        results.append(KernelCompiler(machine).load([scale_kernel(11.0)]))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len(count) == 1 and len(results) == 4 and len({tuple(r) for r in results}) == 1
