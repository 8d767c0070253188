"""The rules of the loop IR.

Scoping: axes, lets and buffers are visible to the end of the enclosing body and never shadow one another. Dtypes:
operands agree, nothing promotes. Registers: constant extents and constant indices. Tile buffers: sized by the
kernel's dims. Simd loops: not nested; memory written in one is indexed by its axis or private to it; ``lanes``
start at the neutral element and are read outside it through one matching ``reduce_*``. The same holds for block loops, whose
iterations may have limits of their own; a simd loop inside one has constant limits and may index registers by its axis.
"""

from __future__ import annotations

from collections.abc import Sequence

from nnaccel_core.errors import VerifyError
from nnaccel_core.ir.dims import Dim, free_symbols, sym
from nnaccel_core.ir.types import ITEMSIZE
from nnaccel_core.loopir import grammar as g
from nnaccel_core.loopir.numeric import compute_dtype
from nnaccel_core.loopir.ranges import uses

_INTEGERS = ("int8", "int16", "int32", "int64", "uint8")
_FLOAT_ONLY = frozenset(["exp", "log", "sqrt", "rsqrt", "recip", "sin", "cos", "tanh", "erf", "log1p", "expm1"])


def verify(kernel: g.Kernel) -> g.Kernel:
    """``kernel``, if it keeps the rules.

    Raises:
        VerifyError: it does not; names the kernel, the statement and the rule.
    """
    _Checker(kernel).run()
    return kernel


class _Checker:
    def __init__(self, kernel: g.Kernel) -> None:
        self.kernel = kernel
        self.symbols: dict[str, str] = dict.fromkeys(kernel.dims, "dim")
        self.buffers: set[g.Buffer] = set(kernel.buffers)
        #: axis of the enclosing simd loop, symbols and buffers that vary over its lanes
        self.simd: str | None = None
        #: whether that loop is shared among the threads of a block; axis and extent of the vector access inside it
        self.threads = False
        self.vector: tuple[Dim, int] | None = None
        self.lane_symbols: set[str] = set()
        self.private: set[g.Buffer] = set()
        self.combines: dict[g.Buffer, str] = {}
        self.starts: dict[g.Buffer, set[float | int | bool]] = {}
        self.at = "the kernel's head"

    def fail(self, rule: str) -> VerifyError:
        return VerifyError(f"kernel {self.kernel.name!r}, {self.at}: {rule}")

    def run(self) -> None:
        k = self.kernel
        if len(set(k.dims)) != len(k.dims):
            raise self.fail(f"dims {k.dims} are not distinct")
        if len(set(k.buffers)) != len(k.buffers) or not 0 <= k.outputs <= len(k.buffers):
            raise self.fail(f"buffers must be distinct and at least {k.outputs} (the outputs)")
        for b in k.buffers:
            self.at = f"argument {b!r}"
            if b.space != "global":
                raise self.fail("an argument is global")
            if len(b.element_strides()) != len(b.shape):
                raise self.fail(f"{len(b.element_strides())} strides for rank {len(b.shape)}")
            for d in (*b.shape, *b.element_strides()):
                self.dim(d, only="dim")
        for axis, extent in k.tasks:
            self.at = f"task axis {axis!r}"
            self.dim(extent, only="dim")
            self.define(axis, "task")
        self.body(k.body)

    def define(self, name: str, kind: str) -> None:
        if name in self.symbols:
            raise self.fail(f"{kind} {name!r} shadows a {self.symbols[name]} of that name")
        self.symbols[name] = kind

    def dim(self, dim: Dim, only: str = "") -> None:
        for name in sorted(free_symbols(dim)):
            if name not in self.symbols:
                raise self.fail(f"{dim} uses {name!r}, which is not in scope")
            if only and self.symbols[name] != only:
                raise self.fail(f"{dim} may use the kernel's dims only, not the {self.symbols[name]} {name!r}")

    def varies(self, dim: Dim) -> bool:
        return uses(dim, self.lane_symbols)

    def body(self, body: Sequence[g.Stmt]) -> None:
        symbols, buffers = dict(self.symbols), set(self.buffers)
        for s in body:
            self.at = _describe(s)
            self.stmt(s)
        self.symbols, self.buffers = symbols, buffers

    def stmt(self, s: g.Stmt) -> None:
        if isinstance(s, g.Loop):
            self.loop(s)
        elif isinstance(s, g.Let):
            self.dim(s.dim)
            if self.varies(s.dim):
                self.lane_symbols.add(s.name)
            self.define(s.name, "let")
        elif isinstance(s, g.Alloc):
            self.alloc(s.buffer)
        elif isinstance(s, (g.Store, g.Accumulate)):
            self.write(s)
        elif isinstance(s, g.If):
            if self.scalar(s.cond) != "bool":
                raise self.fail("a condition is a bool")
            self.body(s.then)
            self.body(s.other)
        elif not isinstance(s, g.Barrier):
            raise self.fail(f"{type(s).__name__} is no statement")
        elif self.threads:
            raise self.fail("a barrier inside a block loop is not reached by all threads")

    def loop(self, s: g.Loop) -> None:
        if s.bind not in g.BINDS:
            raise self.fail(f"unknown bind {s.bind!r}; known: {', '.join(g.BINDS)}")
        for d in (s.begin, s.end):
            self.dim(d)
            if self.varies(d) and not self.threads:
                raise self.fail(f"the bound {d} depends on the simd axis {self.simd!r}")
        self.define(s.axis, "axis")
        if s.bind == "simd" and self.threads and self.vector is None:
            self.access_loop(s)
        elif s.bind in ("simd", "block"):
            if self.simd is not None:
                raise self.fail(f"it is nested in the {'block' if self.threads else 'simd'} loop over {self.simd!r}")
            self.simd, self.lane_symbols, self.private, self.threads = s.axis, {s.axis}, set(), s.bind == "block"
            self.body(s.body)
            self.simd, self.lane_symbols, self.private, self.threads = None, set(), set(), False
        else:
            self.body(s.body)
        del self.symbols[s.axis]

    def access_loop(self, s: g.Loop) -> None:
        if s.begin != 0 or not isinstance(s.end, int) or len(s.body) != 1 or not isinstance(s.body[0], g.Store):
            raise self.fail("a simd loop inside a block loop is one store for each of a constant number of elements")
        self.vector = (sym(s.axis), s.end)
        self.lane_symbols.add(s.axis)
        self.body(s.body)
        self.lane_symbols.discard(s.axis)
        self.vector = None

    def alloc(self, b: g.Buffer) -> None:
        if b in self.buffers:
            raise self.fail("the buffer is already allocated here")
        if b.dtype not in ITEMSIZE:
            raise self.fail(f"unknown dtype {b.dtype!r}")
        if b.space == "global" or b.space not in g.SPACES:
            raise self.fail(f"space {b.space!r} cannot be allocated; use tile, register or lanes")
        if b.strides is not None:
            raise self.fail("only arguments have strides")
        if b.space == "tile":
            for d in b.shape:
                self.dim(d, only="dim")
        elif not all(isinstance(d, int) for d in b.shape):
            raise self.fail(f"a {b.space} array has constant extents, not {list(b.shape)}")
        if self.simd is not None:
            if b.space != "register":
                raise self.fail(f"a {b.space} buffer is allocated outside the simd loop over {self.simd!r}")
            self.private.add(b)
        self.buffers.add(b)

    def access(self, b: object, index: Sequence[Dim]) -> g.Buffer:
        if not isinstance(b, g.Buffer) or b not in self.buffers:
            raise self.fail(f"buffer {getattr(b, 'name', b)!r} is not in scope")
        if len(index) != len(b.shape):
            raise self.fail(f"{len(index)} indices into {b!r}")
        for i in index:
            self.dim(i)
        if b.space in ("register", "lanes"):
            for i, extent in zip(index, b.shape, strict=True):
                if self.vector is not None and i == self.vector[0] and self.vector[1] == extent:
                    continue
                if not isinstance(i, int):
                    raise self.fail(f"{b!r} is indexed by {i}, not by a constant (is its loop unrolled?)")
                if not 0 <= i < extent:  # type: ignore[operator]
                    raise self.fail(f"index {i} is outside {b!r}")
        return b

    def write(self, s: g.Store | g.Accumulate) -> None:
        b = self.access(s.buffer, s.index)
        if b.space == "global" and b not in self.kernel.buffers[len(self.kernel.buffers) - self.kernel.outputs :]:
            raise self.fail(f"{b.name!r} is an input")
        dtype = self.scalar(s.value)
        if dtype != compute_dtype(b.dtype):
            raise self.fail(f"a {dtype} value is written to {b!r}; insert a Cast")
        if isinstance(s, g.Accumulate) and s.op not in g.COMBINE:
            raise self.fail(f"unknown combine {s.op!r}; known: {', '.join(g.COMBINE)}")
        if isinstance(s, g.Accumulate) and b.dtype == "bool" and s.op in ("sum", "prod"):
            raise self.fail("bools have no sum or product")
        if b.space == "lanes":
            self.lanes(s)
        elif self.simd is not None and b not in self.private and not any(self.varies(i) for i in s.index):
            raise self.fail(f"all lanes of the simd loop over {self.simd!r} write one element of {b!r}")

    def lanes(self, s: g.Store | g.Accumulate) -> None:
        b = s.buffer
        if isinstance(s, g.Accumulate):
            if self.combines.setdefault(b, s.op) != s.op:
                raise self.fail(f"{b!r} is combined by both {self.combines[b]} and {s.op}")
            if self.simd is None:
                raise self.fail(f"{b!r} is accumulated outside a simd loop")
        elif self.simd is not None or not isinstance(s.value, g.Const):
            raise self.fail(f"{b!r} is set to a constant before its simd loop, then accumulated")
        else:
            self.starts.setdefault(b, set()).add(s.value.value)
        # Every lane starts there, so anything else would count once per lane (for max and min that is harmless).
        op = self.combines.get(b)
        if op in ("sum", "prod") and not self.starts.get(b, set()) <= {g.COMBINE[op]}:
            raise self.fail(f"{b!r} starts at {self.starts[b]}, not at the neutral element of {op}")

    def scalar(self, s: g.Scalar) -> str:
        """Checks an expression; its dtype, 16-bit floats widened."""
        if isinstance(s, g.Const):
            return compute_dtype(s.dtype)
        if isinstance(s, g.Index):
            self.dim(s.dim)
            if s.dtype not in _INTEGERS:
                raise self.fail(f"an Index is an integer, not {s.dtype}; insert a Cast")
            return s.dtype
        if isinstance(s, g.Load):
            b = self.access(s.buffer, s.index)
            if b.space == "lanes":
                raise self.fail(f"{b!r} is read other than through a reduce_* operator")
            return compute_dtype(b.dtype)
        if isinstance(s, g.Unary):
            return self.unary(s)
        if isinstance(s, g.Binary):
            return self.binary(s)
        if isinstance(s, g.Cast):
            self.scalar(s.a)
            if s.dtype not in ITEMSIZE:
                raise self.fail(f"unknown dtype {s.dtype!r}")
            return compute_dtype(s.dtype)
        if isinstance(s, g.Select):
            if self.scalar(s.cond) != "bool":
                raise self.fail("a Select's condition is a bool")
            a, b_ = self.scalar(s.a), self.scalar(s.b)
            if a != b_:
                raise self.fail(f"a Select between {a} and {b_}; insert a Cast")
            return a
        raise self.fail(f"{type(s).__name__} is no scalar of a kernel")

    def unary(self, s: g.Unary) -> str:
        if s.op not in g.UNARY:
            raise self.fail(f"unknown unary operator {s.op!r}")
        if s.op.startswith("reduce_"):
            if not isinstance(s.a, g.Load) or s.a.buffer not in self.buffers or s.a.buffer.space != "lanes":
                raise self.fail(f"{s.op} takes a load of a lanes register")
            b = self.access(s.a.buffer, s.a.index)
            if self.simd is not None:
                raise self.fail(f"{s.op} inside the simd loop over {self.simd!r}")
            if self.combines.get(b, s.op[7:]) != s.op[7:]:
                raise self.fail(f"{s.op} of {b!r}, which is combined by {self.combines[b]}")
            return compute_dtype(b.dtype)
        dtype = self.scalar(s.a)
        if s.op in _FLOAT_ONLY and dtype not in ("float32", "float64"):
            raise self.fail(f"{s.op} of {dtype}; insert a Cast")
        if dtype == "bool" and s.op not in ("not", "isnan"):
            raise self.fail(f"{s.op} of a bool")
        if s.op == "not" and dtype != "bool":
            raise self.fail(f"not of {dtype}")
        return "bool" if s.op == "isnan" else dtype

    def binary(self, s: g.Binary) -> str:
        if s.op not in g.BINARY:
            raise self.fail(f"unknown binary operator {s.op!r}")
        a, b = self.scalar(s.a), self.scalar(s.b)
        if a != b:
            raise self.fail(f"{s.op} of {a} and {b}; insert a Cast")
        if s.op in g.COMPARE:
            return "bool"
        if s.op in ("and", "or", "xor"):
            if a in ("float32", "float64"):
                raise self.fail(f"{s.op} of {a}")
        elif a == "bool" and s.op not in ("max", "min"):
            raise self.fail(f"{s.op} of bools")
        return a


def _describe(s: g.Stmt) -> str:
    if isinstance(s, g.Loop):
        return f"{s.bind} loop over {s.axis!r}"
    if isinstance(s, g.Let):
        return f"let {s.name!r}"
    if isinstance(s, g.Alloc):
        return f"alloc of {s.buffer!r}"
    if isinstance(s, (g.Store, g.Accumulate)):
        name = getattr(s.buffer, "name", s.buffer)
        return f"{'store to' if isinstance(s, g.Store) else 'accumulate into'} {name}[{', '.join(map(str, s.index))}]"
    return type(s).__name__.lower()
