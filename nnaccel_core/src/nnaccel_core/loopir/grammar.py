"""The loop IR: what a generated kernel is before it is printed.

    Kernel    = (name, buffers, dims, tasks, body)
    Stmt      = Loop(axis, begin, end, bind, body)       bind: serial parallel simd unroll grid block
              | Let(name, dim)                           a named integer, visible to the end of the enclosing body
              | Alloc(buffer)                            visible to the end of the enclosing body
              | Store(buffer, index, value)
              | Accumulate(buffer, index, op, value, atomic)
              | If(cond, then, other)
              | Barrier()
    Scalar    = Const | Index(dim) | Load(buffer, index) | Acc()
              | Unary(op, a) | Binary(op, a, b) | Select(cond, a, b) | Cast(a, dtype)

Integer index arithmetic is a `Dim` (see ``ir.dims``) whose symbols are loop axes, lets and the kernel's ``dims``,
so a kernel is generic in its extents. ``loopir.interp`` is the meaning of all this.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Union

from nnaccel_core.ir.dims import Dim, product
from nnaccel_core.ir.graph import Value
from nnaccel_core.ir.types import ITEMSIZE

#: Where a buffer lives. ``global``: argument memory; ``tile``: scratch of one task, in L1/L2 or shared memory;
#: ``register``: private scalars or small arrays, indexed by constants; ``lanes``: one register per SIMD lane,
#: private to the lane until combined by a horizontal ``reduce_*`` unary (the interpreter runs one lane).
SPACES = ("global", "tile", "register", "lanes")
#: ``block``: the iterations are shared among the threads of a block, in any order; each may have limits and loops of its own.
#: A ``simd`` loop inside one is a vector access of one thread: a constant number of elements moved between registers and memory.
BINDS = ("serial", "parallel", "simd", "unroll", "grid", "block")

#: Unary operators on scalars. ``reduce_*`` combine a ``lanes`` register over the SIMD lanes.
UNARY = frozenset(
    [
        "neg",
        "abs",
        "exp",
        "log",
        "sqrt",
        "rsqrt",
        "recip",
        "sin",
        "cos",
        "tanh",
        "erf",
        "floor",
        "ceil",
        "round",
        "not",
        "isnan",
        "log1p",
        "expm1",
        "reduce_sum",
        "reduce_max",
        "reduce_min",
        "reduce_prod",
    ]
)
#: Binary operators. ``max`` and ``min`` propagate NaN, as torch's and numpy's ``maximum`` do.
BINARY = frozenset(
    ["add", "sub", "mul", "div", "pow", "mod", "max", "min", "lt", "le", "gt", "ge", "eq", "ne", "and", "or", "xor"]
)
COMBINE: Mapping[str, float] = {"sum": 0.0, "prod": 1.0, "max": float("-inf"), "min": float("inf")}
COMPARE = frozenset(["lt", "le", "gt", "ge", "eq", "ne"])


@dataclass(frozen=True, eq=False)
class Buffer:
    """Memory a kernel reads or writes; identity equality. ``strides`` are in elements; None means row-major."""

    name: str
    shape: tuple[Dim, ...]
    dtype: str
    space: str = "global"
    strides: tuple[Dim, ...] | None = None

    def element_strides(self) -> tuple[Dim, ...]:
        if self.strides is not None:
            return self.strides
        out: list[Dim] = []
        step: Dim = 1
        for d in reversed(self.shape):
            out.append(step)
            step = step * d
        return tuple(reversed(out))

    @property
    def size(self) -> Dim:
        return product(self.shape)

    def __repr__(self) -> str:
        return f"{self.name}:{self.space} {self.dtype}[{', '.join(map(str, self.shape))}]"


def nbytes(buffer: Buffer) -> Dim:
    """Bytes of a dense ``buffer`` (tile memory is always dense)."""
    return buffer.size * ITEMSIZE[buffer.dtype]


@dataclass(frozen=True)
class Const:
    value: float | int | bool
    dtype: str = "float32"


@dataclass(frozen=True)
class Index:
    """An integer index as a scalar value."""

    dim: Dim
    dtype: str = "int64"


@dataclass(frozen=True)
class Load:
    """One element. In an op's naive nest ``buffer`` is a graph `Value`; in a kernel it is a `Buffer`."""

    buffer: Value | Buffer
    index: tuple[Dim, ...]


@dataclass(frozen=True)
class Acc:
    """The reduced value, inside a nest's ``final`` only."""


@dataclass(frozen=True)
class Unary:
    op: str
    a: Scalar


@dataclass(frozen=True)
class Binary:
    op: str
    a: Scalar
    b: Scalar


@dataclass(frozen=True)
class Select:
    cond: Scalar
    a: Scalar
    b: Scalar


@dataclass(frozen=True)
class Cast:
    a: Scalar
    dtype: str


Scalar = Union[Const, Index, Load, Acc, Unary, Binary, Select, Cast]


@dataclass(frozen=True)
class Loop:
    axis: str
    begin: Dim
    end: Dim
    bind: str
    body: tuple[Stmt, ...]


@dataclass(frozen=True)
class Let:
    name: str
    dim: Dim


@dataclass(frozen=True)
class Alloc:
    buffer: Buffer


@dataclass(frozen=True)
class Store:
    buffer: Buffer
    index: tuple[Dim, ...]
    value: Scalar


@dataclass(frozen=True)
class Accumulate:
    """``buffer[index] = op(buffer[index], value)`` with op one of `COMBINE`."""

    buffer: Buffer
    index: tuple[Dim, ...]
    op: str
    value: Scalar
    atomic: bool = False


@dataclass(frozen=True)
class If:
    cond: Scalar
    then: tuple[Stmt, ...]
    other: tuple[Stmt, ...] = ()


@dataclass(frozen=True)
class Barrier:
    pass


Stmt = Union[Loop, Let, Alloc, Store, Accumulate, If, Barrier]


@dataclass(frozen=True)
class Kernel:
    """A generated kernel.

    Attributes:
        buffers: global buffers in argument order: inputs, then outputs.
        dims: names of the integer arguments (extents, tile sizes, strides).
        tasks: ``(axis, extent)`` of the parallel tile grid, outermost first; the flat task number of a call
            enumerates them row-major. ``body`` computes one task and sees the axes as symbols.
        outputs: how many of the last buffers are written.
        multiples: ``(dim, number)``: the dim is always a multiple of the number, which wide accesses rely on.
    """

    name: str
    buffers: tuple[Buffer, ...]
    dims: tuple[str, ...]
    tasks: tuple[tuple[str, Dim], ...]
    body: tuple[Stmt, ...]
    outputs: int = 1
    multiples: tuple[tuple[str, int], ...] = ()

    def task_count(self) -> Dim:
        return product(extent for _, extent in self.tasks)

    def scratch(self) -> tuple[Buffer, ...]:
        """All ``tile`` buffers, in order; one task needs the sum of their sizes (each 64-byte aligned)."""
        found: list[Buffer] = []

        def walk(body: Sequence[Stmt]) -> None:
            for s in body:
                if isinstance(s, Alloc) and s.buffer.space == "tile":
                    found.append(s.buffer)
                elif isinstance(s, Loop):
                    walk(s.body)
                elif isinstance(s, If):
                    walk(s.then)
                    walk(s.other)

        walk(self.body)
        return tuple(found)


@dataclass(frozen=True)
class Bound:
    """``0 <= index < extent``."""

    index: Dim
    extent: Dim


@dataclass(frozen=True, eq=False)
class Nest:
    """The naive loop nest of an op, or of one step of it: ``out[axes] = final(combine over reduce of body)``.

    Attributes:
        out: the value written; a temporary of the op or one of its outputs.
        axes: one symbol name per logical dim of ``out``.
        body: the element (``combine`` None) or the term; loads `Value`s at affine indices of axes and reduce.
        reduce: ``(name, extent)`` of the reduced axes, outermost first.
        combine: one of `COMBINE`, or None without reduction.
        final: maps `Acc` (and loads at ``axes``) to the result; None means the accumulator itself.
        where: terms count only where all bounds hold: padding is a bound, never a copy.
    """

    out: Value
    axes: tuple[str, ...]
    body: Scalar
    reduce: tuple[tuple[str, Dim], ...] = ()
    combine: str | None = None
    final: Scalar | None = None
    where: tuple[Bound, ...] = ()
    #: Accumulator dtype; None means float32 for 16-bit floats, else the output's own.
    acc_dtype: str | None = field(default=None)


def children(s: Scalar) -> tuple[Scalar, ...]:
    """Direct operands of a scalar expression."""
    if isinstance(s, (Unary, Cast)):
        return (s.a,)
    if isinstance(s, Binary):
        return (s.a, s.b)
    if isinstance(s, Select):
        return (s.cond, s.a, s.b)
    return ()


def rebuild(s: Scalar, kids: Sequence[Scalar]) -> Scalar:
    """``s`` with its operands replaced."""
    if isinstance(s, Unary):
        return Unary(s.op, kids[0])
    if isinstance(s, Cast):
        return Cast(kids[0], s.dtype)
    if isinstance(s, Binary):
        return Binary(s.op, kids[0], kids[1])
    if isinstance(s, Select):
        return Select(kids[0], kids[1], kids[2])
    return s


def scalar_dtype(s: Scalar) -> str:
    """The element type of a scalar expression (operands of a binary have one type: the IR never promotes)."""
    if isinstance(s, (Const, Index, Cast)):
        return s.dtype
    if isinstance(s, Load):
        return s.buffer.dtype
    if isinstance(s, Acc):
        return "float32"
    if isinstance(s, Unary):
        return "bool" if s.op in ("not", "isnan") else scalar_dtype(s.a)
    if isinstance(s, Binary):
        return "bool" if s.op in COMPARE else scalar_dtype(s.a)
    return scalar_dtype(s.a)
