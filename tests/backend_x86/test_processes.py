"""What needs a process of its own: fork, the order of imports, missing libraries, little memory."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PRELUDE = """
import os, sys
sys.path.insert(0, {tests!r})
from backend_x86.harness import *
B = backend()
net = Net()
x = net.input(1, 32, 28, 28, layout=(0, 2, 3, 1))
y = net.op("conv", x, net.param(32, 32, 3, 3), layout=(0, 2, 3, 1), **conv_attrs(2, 1, 1))
plan, inputs, memories = lower(B, net, propose(B, net, y)[0])
E = B.build(plan, Options())
OUT = X86Memory(4 * 32 * 28 * 28)
WANT = net.reference(y)
def run(threads=2):
    OUT.numpy(y.type)[...] = 0
    E.run([a.ctypes.data for a in inputs], tuple(m.address for m in memories), [OUT.address], threads, 0)
    assert abs(OUT.numpy(y.type) - WANT).max() < 1e-4
def copies(name):
    return sorted({{line.split()[5] for line in open("/proc/self/maps") if name in line}})
"""


def python(code: str, timeout: float = 60, **env: str) -> str:
    """Output of ``code`` after the prelude, in a new process."""
    text = PRELUDE.format(tests=str(Path(__file__).parents[1])) + code
    done = subprocess.run(
        [sys.executable, "-c", text], capture_output=True, text=True, timeout=timeout, env={**os.environ, **env}
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.strip()


def test_a_forked_child_runs_and_so_does_its_own_child() -> None:
    # libgomp alone would hang here: the child inherits a team whose threads do not exist in it.
    out = python("""
run()
def generation(depth):
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        for _ in range(3):
            run()
        if depth:
            generation(depth - 1)
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    assert status == 0, status
generation(2)
run()
print("done")
""")
    assert out == "done"


def test_threads_of_a_forked_child_run() -> None:
    out = python("""
import threading
run()
pid = os.fork()
if pid == 0:
    errors = []
    def work():
        try:
            out = X86Memory(OUT.nbytes)
            for _ in range(5):
                E.run([a.ctypes.data for a in inputs], tuple(m.address for m in memories), [out.address], 2, 0)
                assert abs(out.numpy(y.type) - WANT).max() < 1e-4
        except BaseException as e:
            errors.append(e)
    threads = [threading.Thread(target=work) for _ in range(3)]
    [t.start() for t in threads]
    run()
    [t.join() for t in threads]
    os._exit(len(errors))
print(os.waitpid(pid, 0)[1])
""")
    assert out == "0"


def test_fork_while_other_threads_run() -> None:
    out = python("""
import threading
stop = False
def work():
    out = X86Memory(OUT.nbytes)
    while not stop:
        E.run([a.ctypes.data for a in inputs], tuple(m.address for m in memories), [out.address], 2, 0)
threads = [threading.Thread(target=work) for _ in range(2)]
[t.start() for t in threads]
statuses = []
for _ in range(10):
    pid = os.fork()
    if pid == 0:
        run()
        os._exit(0)
    statuses.append(os.waitpid(pid, 0)[1])
stop = True
[t.join() for t in threads]
print(statuses == [0] * 10)
""")
    assert out == "True"


def test_onednn_obeys_the_number_of_threads() -> None:
    # A fresh process has no OpenMP team, so every thread that appears was started by the run. The second shape's weights
    # are packed in a format that oneDNN takes for the planned team only.
    out = python("""
def threads():
    return len(os.listdir("/proc/self/task"))
from backend_x86.test_convolution import SHAPES, convolution
before = threads()
run(1)
for shape in SHAPES:
    net = Net()
    v = convolution(net, 1, *shape)
    p, i, m = lower(B, net, propose(B, net, v)[0])
    out, e = X86Memory(4 * v.type.size), B.build(p, Options())
    def call(n):
        e.run([a.ctypes.data for a in i], tuple(k.address for k in m), [out.address], n, 0)
        assert abs(out.numpy(v.type) - net.reference(v)).max() < 1e-3
    call(1)
    assert threads() == before, shape
run(2)
print(threads() - before)
""")
    assert out == "1"


def has_torch() -> bool:
    import importlib.util

    return importlib.util.find_spec("torch") is not None


@pytest.mark.skipif(not has_torch(), reason="torch is not installed")
@pytest.mark.parametrize("first", ["torch", "nnaccel"])
def test_one_copy_of_openmp_with_torch_in_either_order(first: str) -> None:
    use_torch = "import torch; torch.set_num_threads(2); torch.randn(300, 300) @ torch.randn(300, 300)\n"
    text = PRELUDE.format(tests=str(Path(__file__).parents[1]))
    code = (use_torch + text if first == "torch" else text + "run()\n" + use_torch) + "run(); print(len(copies('libgomp')))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=90)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.strip() == "1"


def failing(code: str, **env: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, env={**os.environ, **env})
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_missing_onednn_names_the_command_that_installs_it() -> None:
    text = failing("""
from nnaccel_backend_x86 import native
from nnaccel_core.errors import ToolchainError
native.find_onednn = lambda: None
native.ONEDNN_SONAME = "libdnnl_that_is_not_there.so.3"
try:
    native.library()
except ToolchainError as e:
    print(e)
from nnaccel_backend_x86.backend import X86Backend
print([d for d in X86Backend.diagnose() if d.what == "oneDNN"])
assert X86Backend.probe() is not None
""")
    assert text.count("pip install onednn-cpu-gomp==2023.2.0") >= 2
    assert "ok=False" in text


def test_missing_runtime_says_what_to_do() -> None:
    text = failing(
        """
from nnaccel_backend_x86 import native
from nnaccel_core.errors import ToolchainError
try:
    native.library()
except ToolchainError as e:
    print(e)
""",
        NNACCEL_X86_LIBRARY="/nowhere/lib.so",
    )
    assert "NNACCEL_X86_LIBRARY" in text and "/nowhere/lib.so" in text


def test_probing_is_quick_and_loads_nothing() -> None:
    text = failing("""
import sys, time
from nnaccel_backend_x86.plugin import nnaccel_register_backends
(cls,) = nnaccel_register_backends()
started = time.perf_counter()
machine = cls.probe()
took = time.perf_counter() - started
maps = open("/proc/self/maps").read()
print(took < 0.02, "torch" in sys.modules, "libdnnl" in maps, "libnnaccel_x86" in maps, machine.cores >= 1)
""")
    assert text.split() == ["True", "False", "False", "False", "True"]


def test_address_space_limit_gives_out_of_memory_and_the_next_call_works() -> None:
    out = python("""
import resource
from nnaccel_core.errors import OutOfMemoryError
run()
import ctypes
from nnaccel_backend_x86 import native
used = int(open("/proc/self/statm").read().split()[0]) * 4096
resource.setrlimit(resource.RLIMIT_AS, (used + (200 << 20), -1))
try:
    X86Memory(1 << 30)
except OutOfMemoryError as e:
    print("1073741824" in str(e))
resource.setrlimit(resource.RLIMIT_AS, (-1, -1))
run()
""")
    assert out == "True"
