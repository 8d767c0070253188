"""The native runtime: tasks, threads, arenas, host steps, errors. Kernels are Python functions behind the C interface."""

from __future__ import annotations

import ctypes
import dataclasses
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from backend_x86.harness import Net, backend, conv_attrs, lower, propose
from nnaccel_backend_x86 import native
from nnaccel_backend_x86.executable import X86Executable
from nnaccel_backend_x86.memory import X86Memory
from nnaccel_core.errors import NnaccelError, OutOfMemoryError
from nnaccel_core.ir import Node, TensorType, Value
from nnaccel_core.loopir.grammar import Kernel
from nnaccel_core.options import Options
from nnaccel_core.plan import BufferRef, HostStep, KernelStep, Plan

B = backend()
OPTIONS = Options()
Function = ctypes.CFUNCTYPE(
    None, ctypes.POINTER(ctypes.c_void_p), ctypes.POINTER(ctypes.c_int64), ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64
)
KERNEL = Kernel("k", (), (), (), ())


def executable(plan: Plan, body: Callable[..., None]) -> X86Executable:
    """``plan`` with every generated kernel replaced by ``body(buffers, dims, scratch, begin, end)``."""
    pointer = Function(body)
    found = X86Executable(plan, lambda ks: [ctypes.cast(pointer, ctypes.c_void_p).value or 0] * len(ks), 2)
    found.keep = pointer  # type: ignore[attr-defined]
    return found


def floats(address: int, n: int) -> np.ndarray[Any, Any]:
    return np.ctypeslib.as_array((ctypes.c_float * n).from_address(address))


def kernel_plan(tasks: int, scratch: int = 0, arena: int = 0, seconds: float = 0.0) -> Plan:
    t = TensorType((max(1, tasks),), "float32")
    refs = (BufferRef("input", 0, 0, t), BufferRef("output", 0, 0, t))
    return Plan("k", (KernelStep(KERNEL, refs, (7, -3), tasks, scratch, "layer", seconds),), (t,), (), (t,), (), arena)


@pytest.mark.parametrize("tasks", [0, 1, 2, 3, 100, 1001])
@pytest.mark.parametrize("threads", [1, 2, 5])
def test_every_task_runs_once_on_at_most_that_many_threads(tasks: int, threads: int) -> None:
    runs: Counter[int] = Counter()
    scratches: dict[int, set[int]] = {}
    lock = threading.Lock()

    def body(buffers: Any, dims: Any, scratch: int, begin: int, end: int) -> None:
        assert (dims[0], dims[1]) == (7, -3)
        source, target = floats(buffers[0], tasks), floats(buffers[1], tasks)
        target[begin:end] = source[begin:end] + 1
        with lock:
            runs.update(range(begin, end))
            scratches.setdefault(threading.get_ident(), set()).add(scratch)

    x, y = np.arange(max(1, tasks), dtype=np.float32), np.zeros(max(1, tasks), np.float32)
    executable(kernel_plan(tasks, 1000), body).run([x.ctypes.data], (), [y.ctypes.data], threads, 0)
    assert runs == Counter(range(tasks))
    assert len(scratches) <= threads
    if tasks:
        assert (y == x + 1).all()
    everyones = [s for each in scratches.values() for s in each]
    assert all(len(each) == 1 for each in scratches.values())
    assert all(s % 64 == 0 for s in everyones)
    assert all(abs(a - b) >= 1000 for i, a in enumerate(everyones) for b in everyones[:i])


def test_several_threads_are_really_used() -> None:
    barrier = threading.Barrier(2, timeout=20)

    def body(buffers: Any, dims: Any, scratch: int, begin: int, end: int) -> None:
        barrier.wait()  # passes only when two tasks run at the same time

    x = np.zeros(2, np.float32)
    executable(kernel_plan(2), body).run([x.ctypes.data], (), [x.ctypes.data], 2, 0)
    assert not barrier.broken and barrier.n_waiting == 0


def test_a_tiny_kernel_stays_on_the_calling_thread() -> None:
    seen = set()

    def body(buffers: Any, dims: Any, scratch: int, begin: int, end: int) -> None:
        seen.add((threading.get_ident(), begin, end))

    x = np.zeros(100, np.float32)
    executable(kernel_plan(100, seconds=1e-7), body).run([x.ctypes.data], (), [x.ctypes.data], 2, 0)
    assert seen == {(threading.get_ident(), 0, 100)}


def test_team_size_of_the_caller_is_restored() -> None:
    omp = ctypes.CDLL("libgomp.so.1")
    before = omp.omp_get_max_threads()
    omp.omp_set_num_threads(1)
    try:
        x = np.zeros(8, np.float32)
        executable(kernel_plan(8), lambda *a: None).run([x.ctypes.data], (), [x.ctypes.data], 2, 0)
        assert omp.omp_get_max_threads() == 1
    finally:
        omp.omp_set_num_threads(before)


def test_calls_from_several_threads_have_arenas_of_their_own() -> None:
    clash: list[str] = []
    t = TensorType((16,), "float32")
    arena = BufferRef("arena", 0, 0, t)
    write = KernelStep(KERNEL, (BufferRef("input", 0, 0, t), arena), (0,), 1, 0, "write")
    read = KernelStep(KERNEL, (arena, BufferRef("output", 0, 0, t)), (1,), 1, 0, "read")
    plan = Plan("two", (write, read), (t,), (), (t,), (), 64)

    def body(buffers: Any, dims: Any, scratch: int, begin: int, end: int) -> None:
        floats(buffers[1], 16)[:] = floats(buffers[0], 16)

    e = executable(plan, body)

    def work(k: int) -> None:
        x, y = np.full(16, k, np.float32), np.zeros(16, np.float32)
        for _ in range(100):
            y[:] = -1
            e.run([x.ctypes.data], (), [y.ctypes.data], 2, 0)
            if not (y == k).all():
                clash.append(f"{k}: {y}")

    threads = [threading.Thread(target=work, args=(k,)) for k in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not clash


def test_convolutions_from_several_threads() -> None:
    net = Net()
    x = net.input(2, 32, 14, 14, layout=(0, 2, 3, 1))
    y = net.op("conv", x, net.param(32, 32, 3, 3), layout=(0, 2, 3, 1), **conv_attrs(2, 1, 1))
    plan, inputs, memories = lower(B, net, propose(B, net, y)[0])
    e = B.build(plan, OPTIONS)
    want = net.reference(y)
    bad: list[float] = []

    def work() -> None:
        out = X86Memory(4 * 2 * 32 * 14 * 14)
        for _ in range(30):
            e.run([a.ctypes.data for a in inputs], tuple(m.address for m in memories), [out.address], 2, 0)
            error = float(np.abs(out.numpy(y.type) - want).max())
            if error > 1e-4:
                bad.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not bad


def test_arenas_are_reused_and_given_back() -> None:
    lib = native.library()
    lib.nnx_arena_trim()
    x = np.zeros(4, np.float32)
    e = executable(kernel_plan(1, arena=10_000_000), lambda *a: None)
    for _ in range(3):
        e.run([x.ctypes.data], (), [x.ctypes.data], 1, 0)
    assert 10_000_000 <= lib.nnx_arena_idle_bytes() < 13_000_000
    lib.nnx_arena_trim()
    assert lib.nnx_arena_idle_bytes() == 0


def test_a_small_plan_does_not_take_a_large_arena_and_a_larger_one_replaces_it() -> None:
    lib = native.library()
    lib.nnx_arena_trim()
    x = np.zeros(4, np.float32)
    small, large, larger = (executable(kernel_plan(1, arena=n), lambda *a: None) for n in (4096, 8 << 20, 16 << 20))
    for e in (small, large, small):
        e.run([x.ctypes.data], (), [x.ctypes.data], 1, 0)
    assert lib.nnx_arena_idle_bytes() == 8 << 20  # the small one had grown, and served both
    larger.run([x.ctypes.data], (), [x.ctypes.data], 1, 0)
    assert lib.nnx_arena_idle_bytes() == 16 << 20
    lib.nnx_arena_trim()


def test_out_of_memory_says_how_much_and_leaves_the_process_usable() -> None:
    x = np.zeros(4, np.float32)
    huge = 1 << 46
    e = executable(kernel_plan(1, arena=huge), lambda *a: None)
    with pytest.raises(OutOfMemoryError, match=str(huge)):
        e.run([x.ctypes.data], (), [x.ctypes.data], 1, 0)
    with pytest.raises(OutOfMemoryError, match=str(huge)):
        X86Memory(huge)
    small = executable(kernel_plan(1, arena=64), lambda *a: None)
    small.run([x.ctypes.data], (), [x.ctypes.data], 1, 0)


def test_memory_is_aligned_zeroed_and_a_view() -> None:
    for nbytes in (1, 100, 5000, 3 << 20):
        m = X86Memory(nbytes)
        assert m.address % 64 == 0
    m = X86Memory(4 * 6)
    t = TensorType((2, 3), "float32", (1, 0))
    v = m.numpy(t)
    assert v.shape == (2, 3) and (v == 0).all()
    v[1, 2] = 5
    assert floats(m.address, 6)[5] == 5  # axis 1 is the outer one: element 2 * 2 + 1


def host_plan() -> tuple[Plan, TensorType]:
    """kernel (+1) -> host relu on a channels-last view -> kernel (+1)."""
    t = TensorType((1, 3, 2, 2), "float32", (0, 2, 3, 1))
    a, b = BufferRef("arena", 0, 0, t), BufferRef("arena", 0, 64, t)
    flat = TensorType((12,), "float32")
    node = Node("relu", (Value(t, "a"),), (Value(t, "b"),), {}, "act")
    steps = (
        KernelStep(KERNEL, (BufferRef("input", 0, 0, flat), a), (), 12, 0, "first"),
        HostStep(node, (a,), (b,), "act"),
        KernelStep(KERNEL, (b, BufferRef("output", 0, 0, flat)), (), 12, 0, "last"),
    )
    return Plan("host", steps, (flat,), (), (flat,), (), 128), t


def add_one(buffers: Any, dims: Any, scratch: int, begin: int, end: int) -> None:
    floats(buffers[1], 12)[begin:end] = floats(buffers[0], 12)[begin:end] + 1


def test_host_steps_run_between_native_ones() -> None:
    plan, _ = host_plan()
    x, y = np.linspace(-6, 6, 12, dtype=np.float32), np.zeros(12, np.float32)
    executable(plan, add_one).run([x.ctypes.data], (), [y.ctypes.data], 2, 0)
    np.testing.assert_array_equal(y, np.maximum(x + 1, 0) + 1)


def test_host_steps_see_logical_axes_and_strided_slices() -> None:
    t = TensorType((2, 3), "float32")
    wide = BufferRef("input", 0, 4, t, strides=(5, 1))  # columns 1..3 of a matrix with five
    node = Node("relu", (Value(t, "a"),), (Value(t, "b"),), {}, "act")
    plan = Plan(
        "slice", (HostStep(node, (wide,), (BufferRef("output", 0, 0, t),)),), (TensorType((2, 5), "float32"),), (), (t,), (), 0
    )
    x = np.arange(-5, 5, dtype=np.float32).reshape(2, 5)
    y = np.zeros((2, 3), np.float32)
    executable(plan, add_one).run([x.ctypes.data], (), [y.ctypes.data], 1, 0)
    np.testing.assert_array_equal(y, np.maximum(x[:, 1:4], 0))


def test_constants_live_with_the_executable() -> None:
    t = TensorType((3,), "float32")
    node = Node("relu", (Value(t, "a"),), (Value(t, "b"),), {}, "act")
    steps = (
        KernelStep(KERNEL, (BufferRef("constant", 0, 0, t), BufferRef("arena", 0, 0, t)), (), 1, 0, "copy"),
        HostStep(node, (BufferRef("constant", 0, 0, t),), (BufferRef("output", 0, 0, t),)),
    )
    seen: list[np.ndarray[Any, Any]] = []

    def body(buffers: Any, dims: Any, scratch: int, begin: int, end: int) -> None:
        seen.append(floats(buffers[0], 3).copy())

    e = executable(Plan("c", steps, (), (), (t,), (np.array([-1, 0, 2], np.float32),), 64), body)
    y = np.zeros(3, np.float32)
    e.run([], (), [y.ctypes.data], 1, 0)
    assert seen[0].tolist() == [-1, 0, 2] and y.tolist() == [0, 0, 2]


def test_profile_names_every_step() -> None:
    plan, _ = host_plan()
    e = executable(plan, add_one)
    assert e.profile() == ()
    e.profiling = True
    x, y = np.zeros(12, np.float32), np.zeros(12, np.float32)
    e.run([x.ctypes.data], (), [y.ctypes.data], 2, 0)
    assert [name for name, _ in e.profile()] == ["first", "act", "last"]
    assert all(0 < seconds < 1 for _, seconds in e.profile())


def test_prepared_addresses_may_change_between_calls() -> None:
    t = TensorType((1,), "float32")
    step = KernelStep(KERNEL, (BufferRef("prepared", 0, 0, t), BufferRef("output", 0, 0, t)), (), 1, 0, "copy")

    def body(buffers: Any, dims: Any, scratch: int, begin: int, end: int) -> None:
        floats(buffers[1], 1)[0] = floats(buffers[0], 1)[0]

    e = executable(Plan("p", (step,), (), (t,), (t,)), body)
    a, b, y = (np.array([v], np.float32) for v in (1.0, 2.0, 0.0))
    addresses: list[Sequence[int]] = [(a.ctypes.data,), (b.ctypes.data,)]
    changing = [a.ctypes.data]
    for given, want in [(addresses[0], 1), (addresses[1], 2), (addresses[0], 1), (changing, 1)]:
        e.run([], given, [y.ctypes.data], 1, 0)
        assert y[0] == want
    changing[0] = b.ctypes.data  # the same list object
    e.run([], changing, [y.ctypes.data], 1, 0)
    assert y[0] == 2


def test_call_bytes() -> None:
    e = executable(kernel_plan(10, scratch=100_000, arena=1 << 20), lambda *a: None)
    one, four = e.call_bytes(1), e.call_bytes(4)
    assert (1 << 20) + 100_000 <= one < four
    assert four - (1 << 20) >= 4 * 100_000


def test_a_primitive_that_oneDNN_refuses_names_the_layer() -> None:
    net = Net()
    x = net.input(1, 16, 8, 8, layout=(0, 2, 3, 1))
    y = net.op("conv", x, net.param(16, 16, 3, 3), layout=(0, 2, 3, 1), **conv_attrs(2, 1, 1))
    (c,) = propose(B, net, y)
    plan, _, _ = lower(B, net, c)
    primitive = c.impl.primitive
    broken = dataclasses.replace(primitive, dst=dataclasses.replace(primitive.dst, dims=(1, 16, 9, 9)))
    step = dataclasses.replace(
        plan.steps[0], candidate=dataclasses.replace(c, impl=dataclasses.replace(c.impl, primitive=broken))
    )
    with pytest.raises(NnaccelError, match=r"layer0\.conv.*oneDNN.*invalid"):
        B.build(dataclasses.replace(plan, steps=(step,)), OPTIONS)
