"""The meaning of the loop IR: an interpreter that runs a kernel on numpy arrays.

Tasks and loops run serially, in order; a ``lanes`` register has one lane. Every access is checked.
`Select`, ``and`` and ``or`` evaluate only the operands they need, so that a condition may guard a load.

That is what ``serial=True`` does, one scalar at a time. Otherwise tasks, and loops that `independence` shows to give the same
results so, run all their iterations side by side: a statement at a time, on numpy vectors with one element for each iteration
(a point; see `points`). Floats are accumulated in the serial order either way. Where points of loops that the IR takes to be
independent (``simd``, ``block``, ``parallel``, ``grid``, tasks) store different values in one element, that is an error.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from nnaccel_core.errors import VerifyError
from nnaccel_core.ir.dims import Dim, evaluate, free_symbols
from nnaccel_core.ir.types import numpy_dtype
from nnaccel_core.loopir import grammar as g
from nnaccel_core.loopir.independence import Independence
from nnaccel_core.loopir.nests import run_nests
from nnaccel_core.loopir.numeric import BINARY, COMBINE_OP, UNARY, compile_dim, compute_dtype, convert
from nnaccel_core.loopir.points import Memory, Points, disagree, first_of, first_outside

__all__ = ["dims_env", "run", "run_nests", "scratch_bytes"]

Array = np.ndarray[Any, Any]
Step = Callable[[Points], None]
Value = Callable[[Points], Any]


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
    serial: bool = False,
) -> None:
    """Run ``kernel`` on ``arrays``, writing its outputs in place.

    Args:
        arrays: one per ``kernel.buffers``, of the buffer's logical shape (any numpy strides); bfloat16 buffers
            are float32 arrays whose stored values are rounded.
        dims: the kernel's integer arguments, by name or in order.
        tasks: flat task numbers to run; None runs all.
        serial: one scalar at a time, where otherwise iterations run side by side if that gives the same results.

    Raises:
        VerifyError: an index out of range, a read of memory that was never written, different values stored in one element
            by iterations that should be independent, or an array that does not fit.
    """
    env = dims_env(kernel, dims)
    for name, factor in kernel.multiples:
        if env[name] % factor:
            raise VerifyError(f"kernel {kernel.name!r} takes multiples of {factor} as {name}; got {env[name]}")
    if len(arrays) != len(kernel.buffers):
        raise VerifyError(f"kernel {kernel.name!r} takes {len(kernel.buffers)} arrays; got {len(arrays)}")
    for buffer, array in zip(kernel.buffers, arrays, strict=True):
        shape = tuple(evaluate(d, env) for d in buffer.shape)
        if array.shape != shape or array.dtype != numpy_dtype(buffer.dtype):
            want = f"{numpy_dtype(buffer.dtype)}{list(shape)}"
            have = f"{array.dtype}{list(array.shape)}"
            raise VerifyError(f"kernel {kernel.name!r}: buffer {buffer.name!r} is {want}, the array {have}")
    same = () if serial else _same_memory(kernel, arrays)
    code = _code(_Identity(kernel), serial or same is None, same or ())
    extents = [evaluate(extent, env) for _, extent in kernel.tasks]
    numbers = range(int(np.prod(extents, dtype=np.int64))) if tasks is None else tasks
    points = Points({b: Memory(a) for b, a in zip(kernel.buffers, arrays, strict=True)})
    points.update(env)
    with np.errstate(all="ignore"):
        for part in code.iterations(points, _TASK, 0, len(numbers), scratch_bytes(kernel, env) if code.tasks else None):
            rest = numbers.start + numbers.step * part[_TASK]
            for (axis, _), extent in zip(reversed(kernel.tasks), reversed(extents), strict=True):
                rest, part[axis] = divmod(rest, extent)
            code.body(part)


#: the flat number of a task, among the values of symbols
_TASK = "the task"


def _same_memory(kernel: g.Kernel, arrays: Sequence[Array]) -> tuple[tuple[int, int], ...] | None:
    """Numbers of buffers that lie in the same memory as an output does, each with one that stands for all of these; None where
    they overlap otherwise."""
    same: dict[int, int] = {}
    first = len(arrays) - kernel.outputs
    for k, j in itertools.product(range(first, len(arrays)), range(len(arrays))):
        if j != k and np.shares_memory(arrays[j], arrays[k]):
            if _layout(arrays[j]) != _layout(arrays[k]):
                return None
            same[j] = same[k] = min(same.get(j, j), same.get(k, k), j, k)
    return tuple(same.items())


def _layout(a: Array) -> tuple[Any, ...]:
    return a.ctypes.data, a.shape, a.strides, a.dtype


class _Identity:
    """A kernel, equal to itself alone."""

    def __init__(self, kernel: g.Kernel) -> None:
        self.kernel = kernel

    def __hash__(self) -> int:
        return id(self.kernel)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Identity) and other.kernel is self.kernel


@lru_cache(maxsize=64)
def _code(kernel: _Identity, serial: bool, same: tuple[tuple[int, int], ...]) -> _Code:
    return _Code(kernel.kernel, serial, same)


def _reads(s: g.Scalar) -> bool:
    return isinstance(s, g.Load) or any(map(_reads, g.children(s)))


class _Code:
    """Statements and scalars of a kernel compiled to closures over the points that run."""

    def __init__(self, kernel: g.Kernel, serial: bool, same: tuple[tuple[int, int], ...]) -> None:
        self.kernel = kernel
        buffers = kernel.buffers
        self.apart = None if serial else Independence(kernel, {buffers[k]: buffers[j] for k, j in same})
        self.tasks = self.apart is not None and self.apart.tasks
        self.body = self.block(kernel.body)

    def fail(self, message: str) -> VerifyError:
        return VerifyError(f"kernel {self.kernel.name!r}: {message}")

    def iterations(self, w: Points, axis: str, begin: Any, end: Any, bytes_each: int | None) -> Iterator[Points]:
        """Those of a loop: side by side where each needs some bytes of tiles, one by one where None."""
        return w.one_by_one(axis, begin, end) if bytes_each is None else w.side_by_side(axis, begin, end, bytes_each)

    def dim(self, dim: Dim) -> Value:
        function = compile_dim(dim)

        def value(w: Points) -> Any:
            try:
                return function(w)
            except KeyError:
                unknown = sorted(free_symbols(dim) - w.scope())
                raise self.fail(f"{dim} uses {unknown}, which is not in scope") from None

        return value

    def element(self, buffer: Any, index: Sequence[Dim], *, read: bool) -> Callable[[Points], tuple[Memory, Any]]:
        """Finds the memory of a buffer and the place of an element there, for each point."""
        parts = [self.dim(d) for d in index]

        def locate(w: Points) -> tuple[Memory, Any]:
            memory = w.memory.get(buffer)
            if memory is None:
                raise self.fail(f"buffer {buffer.name!r} is used where it is not allocated")
            at = [p(w) for p in parts]
            try:
                place = memory.find([w[buffer], *at] if memory.copies else at)
            except IndexError:
                shape = memory.array.shape[1:] if memory.copies else memory.array.shape
                raise self.fail(f"index {first_outside(at, shape)} is outside {buffer.name!r} of shape {list(shape)}") from None
            if read and memory.written is not None:
                written = memory.written[place]
                if not (written.all() if isinstance(written, np.ndarray) else written):
                    raise self.fail(f"{buffer.name!r}{first_of(at, ~written)} is read before it is written")
            return memory, place

        return locate

    def scalar(self, s: g.Scalar) -> Value:
        if isinstance(s, g.Const):
            const = convert(s.value, s.dtype)
            return lambda w: const
        if isinstance(s, g.Index):
            dim, dtype = self.dim(s.dim), np.dtype(s.dtype)
            return lambda w: np.asarray(dim(w)).astype(dtype)[()]
        if isinstance(s, g.Load):
            locate, widen = self.element(s.buffer, s.index, read=True), s.buffer.dtype == "float16"

            def load(w: Points) -> Any:
                memory, place = locate(w)
                value = memory.target[place]
                return value.astype(np.float32) if widen else value

            return load
        if isinstance(s, g.Unary):
            a, unary = self.scalar(s.a), UNARY[s.op]
            return lambda w: unary(a(w))
        if isinstance(s, g.Cast):
            a, dtype_name = self.scalar(s.a), s.dtype
            return lambda w: convert(a(w), dtype_name)
        if isinstance(s, g.Binary):
            if s.op in ("and", "or") and g.scalar_dtype(s.a) == "bool":
                # As the choice that they are: the second operand counts only where the first does not decide.
                decided = g.Const(s.op == "or", "bool")
                return self.scalar(g.Select(s.a, *((s.b, decided) if s.op == "and" else (decided, s.b))))
            a, b, binary = self.scalar(s.a), self.scalar(s.b), BINARY[s.op]
            return lambda w: binary(a(w), b(w))
        if isinstance(s, g.Select):
            return self.select(s)
        raise self.fail(f"{type(s).__name__} is no scalar of a kernel")

    def select(self, s: g.Select) -> Value:
        cond, a, b = self.scalar(s.cond), self.scalar(s.a), self.scalar(s.b)
        guards = _reads(s.a) or _reads(s.b)

        def choose(w: Points) -> Any:
            chosen = cond(w)
            if not isinstance(chosen, np.ndarray):
                return a(w) if chosen else b(w)
            if not guards:
                return np.where(chosen, a(w), b(w))
            yes, no = w.where(chosen)
            if yes is None or no is None:
                return a(w) if no is None else b(w)
            of_yes, of_no = a(yes), b(no)
            value = np.empty(len(chosen), of_yes.dtype)
            value[yes.index], value[no.index] = of_yes, of_no
            return value

        return choose

    def block(self, body: Sequence[g.Stmt]) -> Step:
        steps = [self.stmt(s) for s in body]
        names = [s.name for s in body if isinstance(s, g.Let)]
        local = [s.buffer for s in body if isinstance(s, g.Alloc)]

        def execute(w: Points) -> None:
            for step in steps:
                step(w)
            for name in names:
                w.pop(name, None)
            for buffer in local:
                w.memory.pop(buffer, None)
                w.pop(buffer, None)

        return execute

    def stmt(self, s: g.Stmt) -> Step:
        if isinstance(s, g.Loop):
            return self.loop(s)
        if isinstance(s, g.Let):
            name, value = s.name, self.dim(s.dim)

            def let(w: Points) -> None:
                w[name] = value(w)

            return let
        if isinstance(s, g.Alloc):
            return self.alloc(s.buffer)
        if isinstance(s, (g.Store, g.Accumulate)):
            return self.write(s)
        if isinstance(s, g.If):
            cond, then, other = self.scalar(s.cond), self.block(s.then), self.block(s.other)

            def branch(w: Points) -> None:
                for part, body in zip(w.where(cond(w)), (then, other), strict=True):
                    if part is not None:
                        body(part)

            return branch
        return lambda w: None  # a barrier: tasks run alone, or all together a statement at a time

    def loop(self, s: g.Loop) -> Step:
        begin, end, body, axis = self.dim(s.begin), self.dim(s.end), self.block(s.body), s.axis
        together = self.apart is not None and self.apart.of(s)
        tiles = _tiles(s.body)

        def loop(w: Points) -> None:
            bytes_each = sum(evaluate(g.nbytes(b), w) for b in tiles) if together else None
            for part in self.iterations(w, axis, begin(w), end(w), bytes_each):
                body(part)

        return loop

    def alloc(self, buffer: g.Buffer) -> Step:
        shape, dtype = [self.dim(d) for d in buffer.shape], numpy_dtype(buffer.dtype)

        def alloc(w: Points) -> None:
            extents = tuple(d(w) for d in shape)
            if w.count is None:
                w.memory[buffer] = Memory(np.zeros(extents, dtype), private=True)
            else:
                w.memory[buffer] = Memory(np.zeros((w.count, *extents), dtype), private=True, copies=True)
                w[buffer] = np.arange(w.count)

        return alloc

    def write(self, s: g.Store | g.Accumulate) -> Step:
        """A store, or a read-modify-write with the combining operator."""
        combine = BINARY[COMBINE_OP[s.op]] if isinstance(s, g.Accumulate) else None
        locate, value = self.element(s.buffer, s.index, read=combine is not None), self.scalar(s.value)
        dtype, narrow = s.buffer.dtype, compute_dtype(s.buffer.dtype) != s.buffer.dtype

        def one(memory: Memory, place: Any, new: Any) -> None:
            if combine is not None:
                old = memory.target[place]
                new = combine(convert(old, dtype) if narrow else old, new)
            memory.target[place] = convert(new, dtype) if narrow else new

        def store(w: Points) -> None:
            memory, place = locate(w)
            new = value(w)
            if w.count is None:
                one(memory, place, new)
            elif combine is None:
                self.store_all(s.buffer, memory, place, convert(new, dtype) if narrow else new)
            elif narrow:
                # Each term is rounded: one after the other, since several may go to one element.
                for at, value_there in zip(np.transpose(_of_each(place, w.count)), np.broadcast_to(new, w.count), strict=True):
                    one(memory, tuple(np.atleast_1d(at)), value_there)
            else:
                combine.at(memory.target, _of_each(place, w.count), np.broadcast_to(new, w.count))  # type: ignore[attr-defined]
            if memory.written is not None:
                memory.written[place] = True

        return store

    def store_all(self, buffer: g.Buffer, memory: Memory, place: Any, new: Any) -> None:
        """Store a value for each point."""
        several = isinstance(new, np.ndarray)
        memory.target[place] = new if not several or _many(place) else new[-1]
        if several and disagree(memory.target[place], new):
            raise self.fail(f"iterations that should be independent store different values in one element of {buffer.name!r}")


def _many(place: Any) -> bool:
    return any(isinstance(p, np.ndarray) for p in (place if isinstance(place, tuple) else (place,)))


def _of_each(place: Any, count: int) -> Any:
    """``place`` with a number for each point in every part of it."""
    return tuple([_of_each(p, count) for p in place]) if isinstance(place, tuple) else np.broadcast_to(place, count)


def _tiles(body: Sequence[g.Stmt]) -> list[g.Buffer]:
    """The tiles that ``body`` allocates."""
    found = [s.buffer for s in body if isinstance(s, g.Alloc) and s.buffer.space == "tile"]
    for s in body:
        for inner in (s.body,) if isinstance(s, g.Loop) else (s.then, s.other) if isinstance(s, g.If) else ():
            found += _tiles(inner)
    return found
