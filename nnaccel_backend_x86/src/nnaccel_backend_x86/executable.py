"""Builds a plan in the native runtime, and runs it."""

from __future__ import annotations

import array
import ctypes
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from nnaccel_backend_x86 import builtin, native
from nnaccel_backend_x86.builtin import BoundCall, BuiltinCall
from nnaccel_backend_x86.chain import chain_call, member
from nnaccel_backend_x86.onednn import Eltwise, PrimitiveCall, sizes
from nnaccel_core.api import Executable
from nnaccel_core.errors import NnaccelError
from nnaccel_core.ir import numpy_dtype
from nnaccel_core.ops.registry import lookup
from nnaccel_core.plan import SPACES, BufferRef, ChainStep, HostStep, KernelStep, LibraryStep, Plan

#: Kernels estimated to take less than this in all run on the calling thread: waking others takes longer.
SERIAL_SECONDS = 2e-6

#: Bytes and exponent bits of floating-point types.
FLOATS = {
    "float16": (2, 0x7C00),
    "bfloat16": (2, 0x7F80),
    "float32": (4, 0x7F800000),
    "float64": (8, 0x7FF0000000000000),
}

Addresses = Sequence[int]
Lists = dict[str, "array.array[int]"]


def _refs(refs: Sequence[BufferRef]) -> Any:
    return (native.Ref * max(1, len(refs)))(*(native.Ref(SPACES.index(r.space), r.index, r.offset) for r in refs))


def _same_place(a: BufferRef, b: BufferRef) -> bool:
    return (a.space, a.index, a.offset) == (b.space, b.index, b.offset)


class X86Executable(Executable):
    """A plan in the native runtime: no Python runs between its steps, except for host steps.

    Set `profiling` to have the following runs timed step by step, for `profile`.
    """

    def __init__(self, plan: Plan, addresses: Callable[[Sequence[Any]], Sequence[int]], threads: int) -> None:
        """``addresses`` compiles kernels; primitives are created now for runs on ``threads`` threads, others when needed.

        Raises:
            ToolchainError: a compiler failed; NnaccelError: oneDNN refused a primitive (names the layer).
        """
        self.profiling = False
        self.name = plan.name
        self._plan = plan
        self._library = native.library()
        self._constants = tuple(np.ascontiguousarray(c) for c in plan.constants)
        self._origins = tuple(s.origin or type(s).__name__ for s in plan.steps)
        self._host = tuple(i for i, s in enumerate(plan.steps) if isinstance(s, HostStep))
        self._profile: tuple[tuple[str, float], ...] = ()
        self._last: tuple[Sequence[int], Any, int] = ((), array.array("Q"), 0)
        self._checked = self._floats() if self._drops_nan() else {}
        constants = array.array("Q", [c.ctypes.data for c in self._constants])
        kernels = plan.kernels()
        compiled = dict(zip(map(id, kernels), addresses(kernels), strict=True)) if kernels else {}
        self._handle = self._library.nnx_plan_new(plan.arena, len(constants), constants.buffer_info()[0])
        if not self._handle:
            native.check(2, f"building {plan.name}")
        self._run = self._library.nnx_plan_run
        self._all_finite = self._library.nnx_all_finite
        for step in plan.steps:
            if isinstance(step, KernelStep):
                self._add_kernel(step, compiled[id(step.source)])
            elif isinstance(step, ChainStep):
                self._add_chain(step, compiled)
            elif isinstance(step, LibraryStep) and isinstance(step.candidate.impl, BuiltinCall):
                self._add_builtin(step, step.candidate.impl)
            elif isinstance(step, LibraryStep):
                self._add_primitive(step)
        native.check(self._library.nnx_plan_prepare(self._handle, threads), f"building {plan.name}")

    def __del__(self) -> None:
        handle = getattr(self, "_handle", None)
        if handle:
            self._library.nnx_plan_free(handle)

    def _add_call(self, function: int, call: BoundCall, seconds: float, origin: str) -> None:
        dims = array.array("q", call.dims)
        status = self._library.nnx_plan_add_kernel(
            self._handle, function, len(call.buffers), _refs(call.buffers), len(dims), dims.buffer_info()[0],
            call.tasks, call.scratch, 0.0 < seconds < SERIAL_SECONDS, origin.encode(),
        )  # fmt: skip
        native.check(status, origin)

    def _add_kernel(self, step: KernelStep, function: int) -> None:
        self._add_call(function, builtin.generated(step), step.seconds, step.origin)

    def _add_builtin(self, step: LibraryStep, impl: BuiltinCall) -> None:
        # One with nothing to do is kept, without tasks: profiles name every step of the plan.
        call = impl.bound(step) or BoundCall(impl.name, (), (), 0, 0)
        self._add_call(builtin.address(call.name), call, step.candidate.seconds, step.origin)

    def _add_chain(self, step: ChainStep, compiled: Mapping[int, int]) -> None:
        members = [member(m, step.images, compiled[id(m.source)] if isinstance(m, KernelStep) else 0) for m in step.members]
        call = chain_call(step, members)
        self._add_call(builtin.address(call.name), call, 0.0, step.origin)

    def _add_primitive(self, step: LibraryStep) -> None:
        call = step.candidate.impl
        if not isinstance(call, PrimitiveCall):
            raise NnaccelError(f"{step.origin}: the candidate {step.candidate.reason!r} is not of the x86 backend")
        primitive, given = call.primitive, list(zip(call.inputs, step.inputs, strict=True))
        if call.over is not None and _same_place(step.inputs[call.over[0]], step.outputs[0]):
            primitive = call.over[1]
            del given[call.over[0]]
        pairs = [*given, *zip(call.outputs, step.outputs, strict=True)]
        arguments = (native.Argument * len(pairs))()
        for a, (number, ref) in zip(arguments, pairs, strict=True):
            if ref.strides is not None and ref.strides != ref.type.strides():
                raise NnaccelError(f"{step.origin}: {step.candidate.reason} got a strided operand, which it does not take")
            a.arg, a.stride = number, call.strides.get(number, 0)
            a.ref = native.Ref(SPACES.index(ref.space), ref.index, ref.offset)
        spec = array.array("q", primitive.encode())
        label = f"{step.origin} ({step.candidate.reason}; {step.inputs[0].type} -> {step.outputs[0].type})"
        status = self._library.nnx_plan_add_primitive(
            self._handle, spec.buffer_info()[0], len(spec), len(pairs), arguments, call.repeat, label.encode()
        )
        native.check(status, step.origin)

    def run(self, inputs: Addresses, prepared: Addresses, outputs: Addresses, threads: int, stream: int) -> None:
        """Run on memory at these addresses, on at most ``threads`` threads; ``stream`` is not used.

        Raises:
            OutOfMemoryError: the arena could not be allocated; NnaccelError: a primitive failed (names the layer).
        """
        # Prepared memory is mostly the same tuple in every call; a list may have changed in place.
        last, held, prepared_at = self._last
        if prepared is not last or type(prepared) is not tuple:
            held = array.array("Q", prepared)
            prepared_at = held.buffer_info()[0]
            self._last = (prepared, held, prepared_at)
        given, wanted = array.array("Q", inputs), array.array("Q", outputs)
        if self._host or self.profiling:
            self._run_in_pieces(given, held, wanted, threads)
            return
        status = self._run(self._handle, given.buffer_info()[0], prepared_at, wanted.buffer_info()[0], threads, None)
        if status:
            native.check(status, f"running {self.name}")

    def exact(self, space: str, addresses: Addresses, threads: int) -> bool:
        """See `Executable.exact`: False when a step drops NaN and the memory holds NaN or infinity."""
        floats = self._checked.get(space)
        if not floats:
            return floats is None
        given = array.array("Q", addresses)
        found = self._all_finite(len(floats), given.buffer_info()[0], floats, threads)
        if found < 0:
            native.check(1, f"looking for NaN among the values of {self.name}")
        return bool(found)

    def _drops_nan(self) -> bool:
        calls = [s.candidate.impl for s in self._plan.single() if isinstance(s, LibraryStep)]
        posts = [p for c in calls if isinstance(c, PrimitiveCall) for p in c.primitive.post]
        return any(isinstance(p, Eltwise) and p.drops_nan for p in posts)

    def _floats(self) -> dict[str, Any]:
        """What to look at in each space; an empty entry means that it is known not to be finite."""
        if not all(np.isfinite(c).all() for c in self._constants if c.dtype.kind in "fc"):
            return {"input": (), "prepared": ()}
        packed = {
            ref.index
            for s in self._plan.single()
            if isinstance(s, LibraryStep)
            for v, ref in zip(s.candidate.inputs, s.inputs, strict=True)
            if any(p.value is v for p in s.candidate.packs)
        }
        found = {}
        for space, types in (("input", self._plan.inputs), ("prepared", self._plan.prepared)):
            entries = []
            for i, t in enumerate(types):
                count, dtype = math.prod(sizes(t)), t.dtype
                if space == "prepared" and i in packed:  # bytes that oneDNN's reorder filled with float32
                    count, dtype = count // 4, "float32"
                if dtype in FLOATS and count:
                    entries.append(native.Floats(i, count, *FLOATS[dtype]))
            if entries:
                found[space] = (native.Floats * len(entries))(*entries)
        return found

    def call_bytes(self, threads: int) -> int:
        """Bytes of scratch memory one call on ``threads`` threads takes: arena, oneDNN's scratch, tile memory.

        Raises:
            NnaccelError: a primitive cannot be created for this many threads.
        """
        found = int(self._library.nnx_plan_call_bytes(self._handle, threads))
        native.check(int(found < 0), self.name)
        return found

    def prepared_bytes(self) -> int:
        """Bytes of the prepared parameters the plan reads."""
        return sum(t.itemsize * math.prod(sizes(t)) for t in self._plan.prepared)

    def profile(self) -> Sequence[tuple[str, float]]:
        return self._profile

    # --- host steps --------------------------------------------------------------------------------------------

    def _run_in_pieces(self, inputs: Any, prepared: Any, outputs: Any, threads: int) -> None:
        lists: Lists = {"input": inputs, "prepared": prepared, "output": outputs}
        native_steps = len(self._origins) - len(self._host)
        seconds = (ctypes.c_double * max(1, native_steps))() if self.profiling else None
        host_seconds: list[float] = []
        call = ctypes.c_void_p()
        status = self._library.nnx_call_begin(self._handle, threads, ctypes.byref(call))
        native.check(status, f"running {self.name}")
        try:
            arena = self._library.nnx_call_arena(call) or 0
            done = 0
            for count, index in enumerate((*self._host, len(self._origins))):
                until = index - count  # native steps before this host step
                if until > done:
                    status = self._library.nnx_call_steps(
                        call, done, until, inputs.buffer_info()[0], prepared.buffer_info()[0], outputs.buffer_info()[0], seconds
                    )
                    native.check(status, f"running {self.name}")
                    done = until
                if index < len(self._origins):
                    started = time.perf_counter()
                    self._run_host(index, lists, arena)
                    host_seconds.append(time.perf_counter() - started)
        finally:
            self._library.nnx_call_end(call)
        if seconds is not None:
            native_times, host_times = iter(seconds), iter(host_seconds)
            self._profile = tuple(
                (name, next(host_times) if i in self._host else next(native_times)) for i, name in enumerate(self._origins)
            )

    def _run_host(self, index: int, lists: Lists, arena: int) -> None:
        step = self._plan.steps[index]
        assert isinstance(step, HostStep)
        views = [self._view(r, lists, arena) for r in step.inputs]
        results = lookup(step.node.op, step.node.where()).ref(views, step.node.attrs)
        for ref, result in zip(step.outputs, results, strict=True):
            self._view(ref, lists, arena)[...] = result

    def _view(self, ref: BufferRef, lists: Lists, arena: int) -> np.ndarray[Any, Any]:
        """The placed tensor in logical axis order, without a copy."""
        if ref.space == "constant":
            base = self._constants[ref.index].ctypes.data
        else:
            base = arena if ref.space == "arena" else lists[ref.space][ref.index]
        return view(base + ref.offset, ref)


def view(address: int, ref: BufferRef) -> np.ndarray[Any, Any]:
    """A numpy view, in logical axis order, of the tensor ``ref`` at ``address``. The caller keeps the memory alive."""
    shape, dtype = sizes(ref.type), numpy_dtype(ref.type.dtype)
    if 0 in shape:
        return np.empty(shape, dtype)
    strides = tuple(int(s) * dtype.itemsize for s in ref.element_strides())
    span = sum((d - 1) * s for d, s in zip(shape, strides, strict=True)) + dtype.itemsize
    raw = memoryview((ctypes.c_uint8 * span).from_address(address))
    found: np.ndarray[Any, Any] = np.ndarray(shape, dtype, raw, 0, strides)
    return found
