"""Loop IR as indented text, for dumps and golden files."""

from __future__ import annotations

from collections.abc import Sequence

from nnaccel_core.ir.dims import Dim
from nnaccel_core.loopir import grammar as g

_INFIX = {
    "add": "+", "sub": "-", "mul": "*", "div": "/", "mod": "%", "lt": "<", "le": "<=", "gt": ">", "ge": ">=",
    "eq": "==", "ne": "!=", "and": "and", "or": "or", "xor": "xor",
}  # fmt: skip
_COMBINE = {"sum": "+=", "prod": "*=", "max": "max=", "min": "min="}


def format_kernel(kernel: g.Kernel) -> str:
    """``kernel`` as text that depends on its structure and names only. Buffers of one name are numbered."""
    writer = _Formatter()
    writer.lines.append(f"kernel {kernel.name}({', '.join(kernel.dims)})")
    first = len(kernel.buffers) - kernel.outputs
    for i, b in enumerate(kernel.buffers):
        writer.lines.append(f"  {'out' if i >= first else 'in'} {writer.declare(b)}")
    writer.lines.append(f"  tasks {', '.join(f'{axis} < {extent}' for axis, extent in kernel.tasks) or '1'}")
    writer.body(kernel.body, 1)
    return "\n".join(writer.lines) + "\n"


def format_scalar(s: g.Scalar) -> str:
    """One expression as text."""
    return _Formatter().scalar(s)


class _Formatter:
    def __init__(self) -> None:
        self.lines: list[str] = []
        self.names: dict[object, str] = {}
        self.taken: set[str] = set()

    def name(self, buffer: object) -> str:
        if buffer not in self.names:
            base, i = str(getattr(buffer, "name", buffer)) or "v", 1
            name = base
            while name in self.taken:
                name, i = f"{base}_{i}", i + 1
            self.taken.add(name)
            self.names[buffer] = name
        return self.names[buffer]

    def declare(self, b: g.Buffer) -> str:
        strides = f" strides [{_list(b.strides)}]" if b.strides is not None else ""
        return f"{self.name(b)}: {b.space} {b.dtype}[{_list(b.shape)}]{strides}"

    def body(self, body: Sequence[g.Stmt], depth: int) -> None:
        for s in body:
            self.stmt(s, depth)

    def stmt(self, s: g.Stmt, depth: int) -> None:
        pad = "  " * depth
        if isinstance(s, g.Loop):
            self.lines.append(f"{pad}{s.bind} {s.axis} in {s.begin} .. {s.end}")
            self.body(s.body, depth + 1)
        elif isinstance(s, g.Let):
            self.lines.append(f"{pad}let {s.name} = {s.dim}")
        elif isinstance(s, g.Alloc):
            self.lines.append(f"{pad}alloc {self.declare(s.buffer)}")
        elif isinstance(s, g.Store):
            self.lines.append(f"{pad}{self.place(s.buffer, s.index)} = {self.scalar(s.value)}")
        elif isinstance(s, g.Accumulate):
            atomic = "atomic " if s.atomic else ""
            self.lines.append(f"{pad}{atomic}{self.place(s.buffer, s.index)} {_COMBINE[s.op]} {self.scalar(s.value)}")
        elif isinstance(s, g.If):
            self.lines.append(f"{pad}if {self.scalar(s.cond)}")
            self.body(s.then, depth + 1)
            if s.other:
                self.lines.append(f"{pad}else")
                self.body(s.other, depth + 1)
        else:
            self.lines.append(f"{pad}barrier")

    def place(self, buffer: object, index: Sequence[Dim]) -> str:
        return f"{self.name(buffer)}[{_list(index)}]"

    def scalar(self, s: g.Scalar) -> str:
        if isinstance(s, g.Const):
            return f"{s.value}" if s.dtype in ("float32", "bool") else f"{s.value}:{s.dtype}"
        if isinstance(s, g.Index):
            return f"{s.dim}"
        if isinstance(s, g.Load):
            return self.place(s.buffer, s.index)
        if isinstance(s, g.Acc):
            return "acc"
        if isinstance(s, g.Unary):
            return f"{s.op}({self.scalar(s.a)})"
        if isinstance(s, g.Cast):
            return f"{s.dtype}({self.scalar(s.a)})"
        if isinstance(s, g.Select):
            return f"select({self.scalar(s.cond)}, {self.scalar(s.a)}, {self.scalar(s.b)})"
        a, b = self.scalar(s.a), self.scalar(s.b)
        return f"({a} {_INFIX[s.op]} {b})" if s.op in _INFIX else f"{s.op}({a}, {b})"


def _list(dims: Sequence[Dim]) -> str:
    return ", ".join(map(str, dims))
