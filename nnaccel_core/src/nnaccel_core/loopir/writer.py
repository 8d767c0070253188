"""The walk that prints one kernel: names, scopes, index arithmetic, scalars. A `Printer` gives it the dialect."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nnaccel_core.errors import UnsupportedError
from nnaccel_core.ir.dims import Dim, Expr
from nnaccel_core.ir.types import FLOATS
from nnaccel_core.loopir import grammar as g
from nnaccel_core.loopir.numeric import compute_dtype
from nnaccel_core.loopir.ranges import Ranges, args, free_symbols, split, substitute, uses

if TYPE_CHECKING:
    from nnaccel_core.loopir.printer import Printer

SUFFIX: Mapping[str, str] = {
    "float32": "f32", "float64": "f64", "int64": "i64", "int32": "i32", "int16": "i16", "int8": "i8", "uint8": "u8", "bool": "b8",
}  # fmt: skip
OPERATOR = {"add": "+", "sub": "-", "mul": "*", "lt": "<", "le": "<=", "gt": ">", "ge": ">=", "eq": "==", "ne": "!="}
_LOGIC = {"and": ("&&", "&"), "or": ("||", "|"), "xor": ("!=", "^")}


@dataclass(frozen=True)
class Text:
    """A printed scalar."""

    text: str
    dtype: str
    varying: bool = False


class Writer:
    """Prints one kernel: names, scopes and lines."""

    def __init__(self, printer: Printer, symbol: str, kernel: g.Kernel, helpers: set[tuple[str, str]]) -> None:
        self.printer, self.symbol, self.kernel, self.helpers = printer, symbol, kernel, helpers
        self.lines: list[str] = []
        self.depth = 0
        self.taken = set(printer.reserved)
        self.symbols: dict[str, str] = {}
        self.buffers: dict[g.Buffer, str] = {}
        self.lane_axis: str | None = None
        #: registers that hold one value per lane
        self.varying: set[g.Buffer] = set()
        #: lets that depend on the simd axis are printed in place
        self.inline: dict[str, Dim] = {}
        self.ranges = Ranges.of(kernel)
        self.strides: dict[g.Buffer, tuple[Dim, ...]] = {}
        #: texts of places, valid while the symbols in scope stay the same
        self.places: dict[tuple[g.Buffer, tuple[Dim, ...]], str] = {}

    def emit(self, line: str) -> None:
        self.lines.append("    " * self.depth + line)

    def fresh(self, name: str) -> str:
        """A free identifier made from ``name``."""
        base = "".join(c if c.isalnum() and c.isascii() else "_" for c in name) or "v"
        if base[0].isdigit() or base.startswith(("nn_", "NN_", "__")):
            base = "v_" + base
        out, i = base, 1
        while out in self.taken:
            out, i = f"{base}_{i}", i + 1
        self.taken.add(out)
        return out

    def helper(self, name: str, dtype: str = "") -> str:
        """The name of a ``mathlib`` function, which the module will define."""
        self.helpers.add((name, dtype))
        return f"{name}_{SUFFIX[dtype]}" if dtype else name

    def function(self) -> str:
        k, p = self.kernel, self.printer
        integer = p.integer()
        self.lines.append(p.signature(self.symbol) + " {")
        self.depth = 1
        for i, name in enumerate(k.dims):
            self.symbols[name] = self.fresh(name)
            self.emit(f"const {integer} {self.symbols[name]} = dims[{i}];")
        for i, buffer in enumerate(k.buffers):
            self.buffers[buffer] = self.fresh(buffer.name)
            self.emit(p.pointer(buffer, self.buffers[buffer], f"buffers[{i}]"))
        offset = ""
        for buffer in k.scratch():
            self.buffers[buffer] = self.fresh(buffer.name)
            self.emit(p.pointer(buffer, self.buffers[buffer], f"scratch{offset}"))
            here = self.fresh(buffer.name + "_end")
            self.emit(f"const {integer} {here} = {offset[3:] or '0'} + (({self.dim(g.nbytes(buffer))} + 63) / 64) * 64;")
            offset = f" + {here}"
        task = self.fresh("task")
        self.emit(f"for ({integer} {task} = begin; {task} < end; ++{task}) {{")
        self.depth += 1
        self._decode(task)
        self.block(k.body)
        for self.depth in (1, 0):
            self.emit("}")
        return "\n".join(self.lines) + "\n"

    def _decode(self, task: str) -> None:
        axes = [(name, extent) for name, extent in self.kernel.tasks]
        rest = task
        for i, (name, extent) in reversed(list(enumerate(axes))):
            self.symbols[name] = self.fresh(name)
            if i == 0:
                self.emit(f"const {self.printer.integer()} {self.symbols[name]} = {rest};")
                continue
            count = self.dim(extent)
            self.emit(f"const {self.printer.integer()} {self.symbols[name]} = {rest} % {count};")
            upper = self.fresh(f"{task}_{i}")
            self.emit(f"const {self.printer.integer()} {upper} = {rest} / {count};")
            rest = upper

    # --- statements

    def block(self, body: Sequence[g.Stmt]) -> None:
        saved = self.ranges
        for s in body:
            self.stmt(s)
        self.ranges = saved

    def stmt(self, s: g.Stmt) -> None:
        if isinstance(s, g.Loop):
            self._loop(s)
        elif isinstance(s, g.Let):
            if self.is_varying(s.dim):
                self.inline[s.name] = substitute(s.dim, self.inline)
            else:
                text = self.dim(s.dim)
                self.symbols[s.name] = self.fresh(s.name)
                self.emit(f"const {self.printer.integer()} {self.symbols[s.name]} = {text};")
            self.ranges = self.ranges.let(s.name, s.dim)
            self.places.clear()
        elif isinstance(s, g.Alloc):
            self._alloc(s.buffer)
        elif isinstance(s, g.Store):
            self._assign(s.buffer, s.index, self.scalar(s.value))
        elif isinstance(s, g.Accumulate):
            self._accumulate(s)
        elif isinstance(s, g.If):
            self.emit(f"if ({plain(self.scalar(s.cond).text)}) {{")
            self._indented(s.then)
            if s.other:
                self.emit("} else {")
                self._indented(s.other)
            self.emit("}")
        # A barrier orders nothing within one task of a sequential dialect.

    def _indented(self, body: Sequence[g.Stmt]) -> None:
        self.depth += 1
        self.block(body)
        self.depth -= 1

    def _loop(self, s: g.Loop) -> None:
        begin, end = self.dim(s.begin), self.dim(s.end)
        saved = self.ranges
        self.places.clear()
        self.ranges = self.ranges.axis(s.axis, s.begin, s.end)
        name = self.symbols[s.axis] = self.fresh(s.axis)
        if s.bind == "simd":
            self.lane_axis = s.axis
            lanes = [(self.element(b, at), op, b.dtype) for b, at, op in lane_registers(s.body)]
            for line in self.printer.simd(name, begin, end, lanes, self):
                self.emit(line)
        else:
            self.emit(f"for ({self.printer.integer()} {name} = {begin}; {name} < {end}; ++{name}) {{")
        self._indented(s.body)
        self.emit("}")
        self.taken.discard(name)
        if s.bind == "simd":
            self.lane_axis = None
            self.inline.clear()
        self.ranges = saved
        self.places.clear()

    def _alloc(self, b: g.Buffer) -> None:
        if b.space == "tile":
            return
        varying = b.space == "lanes" or self.lane_axis is not None
        if varying:
            self.varying.add(b)
        count = math.prod(d for d in b.shape if isinstance(d, int))
        names = [name := self.fresh(b.name)]
        while b.shape:
            names = [f"{name}_{i}" for i in range(count)]
            if self.taken.isdisjoint(names):
                break
            name = self.fresh(b.name)
        self.buffers[b] = name
        self.taken.update(names)
        self.emit(f"{self.printer.type(b.dtype, varying=varying)} {', '.join(names)};")

    def _assign(self, b: g.Buffer, index: Sequence[Dim], value: Text) -> None:
        text = value.text
        if b.space in ("global", "tile"):
            if compute_dtype(b.dtype) != b.dtype:
                text = self.printer.narrow(text, b.dtype, self)
            elif b.dtype == "bool":
                text = f"({text} ? 1 : 0)"
        elif compute_dtype(b.dtype) != b.dtype:
            text = self.printer.widen(self.printer.narrow(text, b.dtype, self), b.dtype, self)
        self.emit(f"{self.element(b, index)} = {plain(text)};")

    def _accumulate(self, s: g.Accumulate) -> None:
        if s.atomic:
            raise UnsupportedError(f"the {self.printer.name} printer has no atomic accumulate (kernel {self.kernel.name!r})")
        value = g.Binary({"sum": "add", "prod": "mul"}.get(s.op, s.op), g.Load(s.buffer, s.index), s.value)
        self._assign(s.buffer, s.index, self.scalar(value))

    # --- integers

    def is_varying(self, dim: Dim) -> bool:
        return self.lane_axis is not None and uses(dim, (self.lane_axis, *self.inline))

    def dim(self, dim: Dim) -> str:
        """A dim as int64 arithmetic."""
        if isinstance(dim, int):
            return str(dim) if abs(dim) < 1 << 31 else self.printer.literal(dim, "int64")
        if dim.op == "sym":
            name = str(dim.args[0])
            return self.dim(self.inline[name]) if name in self.inline else self.symbols[name]
        if dim.op == "sum":
            return self.sum(dim, self.dim)
        parts = args(dim)
        if dim.op == "mul":
            return f"({' * '.join(map(self.dim, parts))})"
        if dim.op in ("min", "max"):
            text = self.dim(parts[0])
            for part in parts[1:]:
                text = f"{self.helper(f'nn_{dim.op}_k', 'int64')}({text}, {self.dim(part)})"
            return text
        return self.quotient(dim, self.dim, "int64")

    def quotient(self, dim: Expr, printed: Callable[[Dim], str], dtype: str) -> str:
        """A rounding-down division or remainder, by shift or mask where the divisor allows."""
        a, b = args(dim)
        if isinstance(b, int) and b > 0 and b & (b - 1) == 0:
            return f"({printed(a)} {f'>> {b.bit_length() - 1}' if dim.op == 'floordiv' else f'& {b - 1}'})"
        if self.ranges.nonneg(a) and self.ranges.nonneg(b):
            return f"({printed(a)} {'/' if dim.op == 'floordiv' else '%'} {printed(b)})"
        name = self.helper("nn_floordiv" if dim.op == "floordiv" else "nn_floormod", dtype)
        return f"{name}({printed(a)}, {printed(b)})"

    @staticmethod
    def sum(dim: Expr, printed: Callable[[Dim], str]) -> str:
        """A sum, positive terms first: shorter, and mostly without a leading minus."""
        const, terms = split(dim)
        text = ""
        for term, coef in sorted(terms, key=lambda tc: tc[1] < 0):
            body = plain(printed(term)) if term.op == "mul" else printed(term)
            text += (" - " if coef < 0 else " + ") + (body if abs(coef) == 1 else f"{abs(coef)} * {body}")
        if const:
            text += f" {'-' if const < 0 else '+'} {printed(abs(const))}"
        return f"({text[3:] if text.startswith(' + ') else '-' + text[3:]})"

    def summand(self, dim: Dim) -> str:
        """``dim`` behind a plus: sums and products need no parentheses there, shifts and masks bind less than the plus."""
        text = self.dim(dim)
        return text if isinstance(dim, Expr) and dim.op in ("floordiv", "mod") else plain(text)

    # --- memory

    def offset(self, b: g.Buffer, index: Sequence[Dim]) -> tuple[Dim, Dim]:
        """Flat element offset of an access, as ``(uniform part, part that depends on the simd axis)``."""
        if b not in self.strides:
            self.strides[b] = b.element_strides()
        flat: Dim = 0
        for i, stride in zip(index, self.strides[b], strict=True):
            flat = flat + substitute(i, self.inline) * stride
        if self.lane_axis is None or self.lane_axis not in free_symbols(flat):
            return flat, 0
        const, terms = split(flat)
        uniform: Dim = const
        lane: Dim = 0
        for term, coef in terms:
            if self.lane_axis in free_symbols(term):
                lane = lane + coef * term
            else:
                uniform = uniform + coef * term
        return uniform, lane

    def element(self, b: g.Buffer, index: Sequence[Dim]) -> str:
        """The place of one element, as an lvalue."""
        name = self.buffers[b]
        if b.space in ("register", "lanes"):
            return register(name, b, index)
        key = (b, tuple(index))
        if key not in self.places:
            uniform, lane = self.offset(b, index)
            base = name if lane == 0 or uniform == 0 else f"({name} + {self.summand(uniform)})"
            last = self.dim(uniform) if lane == 0 else self.printer.lane_index(lane, self)
            self.places[key] = f"{base}[{plain(last)}]"
        return self.places[key]

    # --- scalars

    def scalar(self, s: g.Scalar) -> Text:
        p = self.printer
        if isinstance(s, g.Const):
            return Text(p.literal(s.value, compute_dtype(s.dtype)), compute_dtype(s.dtype))
        if isinstance(s, g.Index):
            varying = self.is_varying(s.dim)
            text = p.lane_index(substitute(s.dim, self.inline), self) if varying else self.dim(s.dim)
            return Text(f"(({p.type(s.dtype, varying=varying)})({text}))", s.dtype, varying)
        if isinstance(s, g.Load):
            return self._load(s)
        if isinstance(s, g.Cast):
            return self.cast(self.scalar(s.a), s.dtype)
        if isinstance(s, g.Unary):
            return self._unary(s)
        if isinstance(s, g.Binary):
            return self._binary(s)
        if isinstance(s, g.Select):
            cond, a, b = self.scalar(s.cond), self.scalar(s.a), self.scalar(s.b)
            return Text(f"({cond.text} ? {a.text} : {b.text})", a.dtype, cond.varying or a.varying or b.varying)
        raise UnsupportedError(f"kernel {self.kernel.name!r}: {type(s).__name__} is no scalar of a kernel")

    def _load(self, s: g.Load) -> Text:
        assert isinstance(s.buffer, g.Buffer), "a kernel loads buffers"
        text, b = self.element(s.buffer, s.index), s.buffer
        memory = b.space in ("global", "tile")
        varying = any(self.is_varying(i) for i in s.index) if memory else b in self.varying
        if memory and compute_dtype(b.dtype) != b.dtype:
            return Text(self.printer.widen(text, b.dtype, self), "float32", varying)
        if memory and b.dtype == "bool":
            return Text(f"({text} != 0)", "bool", varying)
        return Text(text, compute_dtype(b.dtype), varying)

    def cast(self, a: Text, dtype: str) -> Text:
        """A conversion; 16-bit floats are rounded to and stay float32."""
        to, p = compute_dtype(dtype), self.printer
        if to != dtype:
            wide = a if a.dtype == "float32" else self.cast(a, "float32")
            return Text(p.widen(p.narrow(wide.text, dtype, self), dtype, self), to, a.varying)
        if to == a.dtype:
            return a
        if to == "bool":
            return Text(f"({a.text} != 0)", to, a.varying)
        if a.dtype == "bool":
            return Text(f"({a.text} ? {p.literal(1, to)} : {p.literal(0, to)})", to, a.varying)
        return Text(f"(({p.type(to, varying=a.varying)}){a.text})", to, a.varying)

    def _unary(self, s: g.Unary) -> Text:
        a = self.scalar(s.a)
        floating = a.dtype in ("float32", "float64")
        if s.op == "neg":
            return Text(self.small(f"(-{a.text})", a), a.dtype, a.varying)
        if s.op == "not":
            return Text(f"(!{a.text})", "bool", a.varying)
        if s.op == "isnan" and not floating:
            return Text(self.printer.literal(False, "bool"), "bool")
        if s.op in ("floor", "ceil", "round", "abs") and not floating:
            return a if s.op != "abs" or a.dtype in ("uint8", "bool") else self.call("nn_abs", a)
        if s.op == "recip":
            return Text(f"({self.printer.literal(1, a.dtype)} / {a.text})", a.dtype, a.varying)
        if s.op == "rsqrt":
            root = self.printer.unary("sqrt", a, self)
            return Text(f"({self.printer.literal(1, a.dtype)} / {root})", a.dtype, a.varying)
        text = self.printer.unary(s.op, a, self)
        return Text(text, "bool" if s.op == "isnan" else a.dtype, a.varying and not s.op.startswith("reduce_"))

    def _binary(self, s: g.Binary) -> Text:
        if s.op in g.COMPARE and isinstance(s.a, g.Index) and isinstance(s.b, g.Index):
            one, two = substitute(s.a.dim, self.inline), substitute(s.b.dim, self.inline)
            if self.is_varying(one) or self.is_varying(two):
                return Text(self.printer.compare_lanes(s.op, one, two, self), "bool", True)
            sides = [d if " & " in d else plain(d) for d in (self.dim(one), self.dim(two))]  # & binds looser than ==
            return Text(f"({sides[0]} {OPERATOR[s.op]} {sides[1]})", "bool")
        a, b = self.scalar(s.a), self.scalar(s.b)
        varying = a.varying or b.varying
        dtype = "bool" if s.op in g.COMPARE else a.dtype
        if s.op in OPERATOR:
            return Text(self.small(f"({a.text} {OPERATOR[s.op]} {b.text})", Text("", dtype, varying)), dtype, varying)
        if s.op in _LOGIC:
            bitwise = dtype != "bool" or (varying and self.printer.branches and s.op != "xor")
            return Text(f"({a.text} {_LOGIC[s.op][bitwise]} {b.text})", dtype, varying)
        floating = dtype in ("float32", "float64")
        if s.op in ("max", "min"):
            if floating and not never_nan(s.a) and not never_nan(s.b):
                return self.call(f"nn_{s.op}", a, b)
            return self.call(f"nn_{s.op}_k", *((a, b) if never_nan(s.a) else (b, a)))
        if s.op == "div":
            return Text(f"({a.text} / {b.text})", dtype, varying) if floating else self.call("nn_floordiv", a, b)
        if s.op == "mod":
            return self.call("nn_fmod" if floating else "nn_floormod", a, b)
        if not floating:
            return self.call("nn_ipow", a, b)
        if isinstance(s.b, g.Const) and s.b.value == 2:
            return self.call("nn_square", a)
        return Text(self.printer.power(a, b, self), dtype, varying)

    def small(self, text: str, like: Text) -> str:
        """Arithmetic on integers narrower than C's ``int`` wraps only after a cast back."""
        if like.dtype not in ("uint8", "int8", "int16"):
            return text
        return f"(({self.printer.type(like.dtype, varying=like.varying)}){text})"

    def call(self, name: str, *operands: Text) -> Text:
        """A call of a typed helper."""
        text = f"{self.helper(name, operands[0].dtype)}({', '.join(o.text for o in operands)})"
        return Text(text, operands[0].dtype, any(o.varying for o in operands))


def never_nan(s: g.Scalar) -> bool:
    """Whether a scalar is certainly a number."""
    if isinstance(s, g.Const):
        return not (isinstance(s.value, float) and math.isnan(s.value))
    return (g.scalar_dtype(s.a) if isinstance(s, g.Cast) else g.scalar_dtype(s)) not in FLOATS


def register(name: str, b: g.Buffer, index: Sequence[Dim]) -> str:
    """The variable of one element of a register array, whose indices `verify` found to be constants."""
    if not b.shape:
        return name
    flat: Dim = 0
    for i, extent in zip(index, b.shape, strict=True):
        flat = flat * extent + i
    return f"{name}_{flat}"


def lane_registers(body: Sequence[g.Stmt]) -> list[tuple[g.Buffer, tuple[Dim, ...], str]]:
    """The ``lanes`` elements that a simd loop's body accumulates into, each with its combine, in order."""
    found: dict[tuple[g.Buffer, tuple[Dim, ...], str], None] = {}
    for s in body:
        if isinstance(s, g.Accumulate) and s.buffer.space == "lanes":
            found[s.buffer, s.index, s.op] = None
        elif isinstance(s, g.Loop):
            found.update(dict.fromkeys(lane_registers(s.body)))
        elif isinstance(s, g.If):
            found.update(dict.fromkeys(lane_registers(s.then + s.other)))
    return list(found)


def plain(text: str) -> str:
    """``text`` without a pair of parentheses that encloses all of it."""
    if not text.startswith("(") or not text.endswith(")"):
        return text
    depth = 0
    for i, c in enumerate(text):
        depth += (c == "(") - (c == ")")
        if depth == 0 and i < len(text) - 1:
            return text
    return text[1:-1]
