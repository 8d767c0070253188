"""The meaning of the loop IR: an interpreter that runs a kernel on numpy arrays, one scalar at a time.

Loops of every bind run serially, in order; a ``lanes`` register has one lane. Every access is checked.
`Select`, ``and`` and ``or`` evaluate only the operands they need, so that a condition may guard a load.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from nnaccel_core.errors import VerifyError
from nnaccel_core.ir.dims import Dim, evaluate, free_symbols
from nnaccel_core.ir.types import numpy_dtype
from nnaccel_core.loopir import grammar as g
from nnaccel_core.loopir.nests import run_nests
from nnaccel_core.loopir.numeric import BINARY, COMBINE_OP, UNARY, compile_dim, compute_dtype, convert

__all__ = ["dims_env", "run", "run_nests", "scratch_bytes"]

Array = np.ndarray[Any, Any]
Thunk = Callable[[], Any]
#: memory of a buffer, which of its elements were written (None: all), and an index
Place = tuple[Array, "Array | None", tuple[int, ...]]


def dims_env(kernel: g.Kernel, dims: Mapping[str, int] | Sequence[int]) -> dict[str, int]:
    """The kernel's integer arguments by name, from a mapping or from values in ``kernel.dims`` order.

    Raises:
        VerifyError: one is missing.
    """
    if isinstance(dims, Mapping):
        missing = [d for d in kernel.dims if d not in dims]
        if missing:
            raise VerifyError(f"kernel {kernel.name!r} needs a value for dims {missing}; got {sorted(dims)}")
        return {d: int(dims[d]) for d in kernel.dims}
    if len(dims) != len(kernel.dims):
        raise VerifyError(f"kernel {kernel.name!r} takes {len(kernel.dims)} dims {kernel.dims}; got {len(dims)}")
    return {name: int(value) for name, value in zip(kernel.dims, dims, strict=True)}


def scratch_bytes(kernel: g.Kernel, dims: Mapping[str, int] | Sequence[int]) -> int:
    """Bytes of tile memory one task of ``kernel`` needs, each buffer rounded up to 64 bytes."""
    env = dims_env(kernel, dims)
    return sum(-(-evaluate(g.nbytes(b), env) // 64) * 64 for b in kernel.scratch())


def run(
    kernel: g.Kernel,
    arrays: Sequence[Array],
    dims: Mapping[str, int] | Sequence[int] = (),
    tasks: range | None = None,
) -> None:
    """Run ``kernel`` on ``arrays``, writing its outputs in place.

    Args:
        arrays: one per ``kernel.buffers``, of the buffer's logical shape (any numpy strides); bfloat16 buffers
            are float32 arrays whose stored values are rounded.
        dims: the kernel's integer arguments, by name or in order.
        tasks: flat task numbers to run; None runs all.

    Raises:
        VerifyError: an index out of range, a read of memory that was never written, or an array that does not fit.
    """
    env = dims_env(kernel, dims)
    for name, factor in kernel.multiples:
        if env[name] % factor:
            raise VerifyError(f"kernel {kernel.name!r} takes multiples of {factor} as {name}; got {env[name]}")
    if len(arrays) != len(kernel.buffers):
        raise VerifyError(f"kernel {kernel.name!r} takes {len(kernel.buffers)} arrays; got {len(arrays)}")
    frame = _Frame(kernel, env)
    for buffer, array in zip(kernel.buffers, arrays, strict=True):
        shape = tuple(evaluate(d, env) for d in buffer.shape)
        if array.shape != shape or array.dtype != numpy_dtype(buffer.dtype):
            want = f"{numpy_dtype(buffer.dtype)}{list(shape)}"
            have = f"{array.dtype}{list(array.shape)}"
            raise VerifyError(f"kernel {kernel.name!r}: buffer {buffer.name!r} is {want}, the array {have}")
        frame.memory[buffer] = (array, None)
    body = frame.block(kernel.body)
    extents = [evaluate(extent, env) for _, extent in kernel.tasks]
    with np.errstate(all="ignore"):
        for task in range(int(np.prod(extents, dtype=np.int64))) if tasks is None else tasks:
            rest = task
            for (axis, _), extent in zip(reversed(kernel.tasks), reversed(extents), strict=True):
                rest, env[axis] = divmod(rest, extent)
            body()


class _Frame:
    """Statements and scalars compiled to closures over one environment of integers and one of memory.

    ``memory`` maps a buffer to its array and, for tile and register memory, to which elements were written.
    """

    def __init__(self, kernel: g.Kernel, env: dict[str, int]) -> None:
        self.kernel = kernel
        self.env = env
        self.memory: dict[Any, tuple[Array, Array | None]] = {}

    def dim(self, dim: Dim) -> Callable[[Mapping[str, int]], int]:
        function = compile_dim(dim)

        def value(env: Mapping[str, int]) -> int:
            try:
                return function(env)  # type: ignore[no-any-return]
            except KeyError:
                unknown = sorted(free_symbols(dim) - env.keys())
                raise VerifyError(f"kernel {self.kernel.name!r}: {dim} uses {unknown}, which is not in scope") from None

        return value

    def element(self, buffer: Any, index: Sequence[Dim], *, read: bool) -> Callable[[], Place]:
        parts, env, memory = [self.dim(d) for d in index], self.env, self.memory

        def locate() -> Place:
            at = tuple([p(env) for p in parts])
            if buffer not in memory:
                raise VerifyError(f"kernel {self.kernel.name!r}: buffer {buffer.name!r} is used where it is not allocated")
            array, written = memory[buffer]
            if len(at) != array.ndim or not all(0 <= i < n for i, n in zip(at, array.shape, strict=True)):
                where = f"{buffer.name!r} of shape {list(array.shape)}"
                raise VerifyError(f"kernel {self.kernel.name!r}: index {list(at)} is outside {where}")
            if read and written is not None and not written[at]:
                raise VerifyError(f"kernel {self.kernel.name!r}: {buffer.name!r}{list(at)} is read before it is written")
            return array, written, at

        return locate

    def scalar(self, s: g.Scalar) -> Thunk:
        env = self.env
        if isinstance(s, g.Const):
            const = convert(s.value, s.dtype)
            return lambda: const
        if isinstance(s, g.Index):
            dim, kind = self.dim(s.dim), np.dtype(s.dtype).type
            return lambda: kind(dim(env))
        if isinstance(s, g.Load):
            locate, widen = self.element(s.buffer, s.index, read=True), s.buffer.dtype == "float16"

            def load() -> Any:
                array, _, at = locate()
                return np.float32(array[at]) if widen else array[at]

            return load
        if isinstance(s, g.Unary):
            a, unary = self.scalar(s.a), UNARY[s.op]
            return lambda: unary(a())
        if isinstance(s, g.Cast):
            a, dtype = self.scalar(s.a), s.dtype
            return lambda: convert(a(), dtype)
        if isinstance(s, g.Binary):
            a, b, binary = self.scalar(s.a), self.scalar(s.b), BINARY[s.op]
            if s.op in ("and", "or") and g.scalar_dtype(s.a) == "bool":
                stop = s.op == "or"
                return lambda: b() if bool(a()) != stop else np.bool_(stop)
            return lambda: binary(a(), b())
        if isinstance(s, g.Select):
            cond, a, b = self.scalar(s.cond), self.scalar(s.a), self.scalar(s.b)
            return lambda: a() if cond() else b()
        raise VerifyError(f"kernel {self.kernel.name!r}: {type(s).__name__} is no scalar of a kernel")

    def block(self, body: Sequence[g.Stmt]) -> Callable[[], None]:
        steps = [self.stmt(s) for s in body]
        names = [s.name for s in body if isinstance(s, g.Let)]
        local = [s.buffer for s in body if isinstance(s, g.Alloc)]

        def execute() -> None:
            for step in steps:
                step()
            for name in names:
                self.env.pop(name, None)
            for buffer in local:
                self.memory.pop(buffer, None)

        return execute

    def stmt(self, s: g.Stmt) -> Callable[[], None]:
        env, memory = self.env, self.memory
        if isinstance(s, g.Loop):
            begin, end, body, axis = self.dim(s.begin), self.dim(s.end), self.block(s.body), s.axis

            def loop() -> None:
                for i in range(begin(env), end(env)):
                    env[axis] = i
                    body()
                env.pop(axis, None)

            return loop
        if isinstance(s, g.Let):
            name, value = s.name, self.dim(s.dim)

            def let() -> None:
                env[name] = value(env)

            return let
        if isinstance(s, g.Alloc):
            buffer, shape = s.buffer, [self.dim(d) for d in s.buffer.shape]

            def alloc() -> None:
                extents = tuple(d(env) for d in shape)
                memory[buffer] = (np.zeros(extents, numpy_dtype(buffer.dtype)), np.zeros(extents, bool))

            return alloc
        if isinstance(s, (g.Store, g.Accumulate)):
            return self.write(s)
        if isinstance(s, g.If):
            cond, then, other = self.scalar(s.cond), self.block(s.then), self.block(s.other)
            return lambda: then() if cond() else other()
        return lambda: None  # a barrier: one task runs alone

    def write(self, s: g.Store | g.Accumulate) -> Callable[[], None]:
        """A store, or a read-modify-write with the combining operator."""
        combine = BINARY[COMBINE_OP[s.op]] if isinstance(s, g.Accumulate) else None
        locate, value = self.element(s.buffer, s.index, read=combine is not None), self.scalar(s.value)
        dtype, narrow = s.buffer.dtype, compute_dtype(s.buffer.dtype) != s.buffer.dtype

        def store() -> None:
            array, written, at = locate()
            new = value()
            if combine is not None:
                new = combine(convert(array[at], dtype) if narrow else array[at], new)
            array[at] = convert(new, dtype) if narrow else new
            if written is not None:
                written[at] = True

        return store
