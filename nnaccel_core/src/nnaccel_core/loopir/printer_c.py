"""The plain C dialect: C11 with OpenMP simd pragmas, for gcc and clang.

Compile with `FLAGS`. Not with ``-ffast-math``: NaN and infinity must come out right.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import ClassVar

from nnaccel_core.errors import UnsupportedError
from nnaccel_core.ir.types import FLOATS
from nnaccel_core.loopir import grammar as g
from nnaccel_core.loopir import mathlib
from nnaccel_core.loopir.numeric import identity
from nnaccel_core.loopir.printer import SUFFIX, Printer, Text, Writer, decimal

#: Compiler options of generated C; ``-shared -fPIC`` and ``-lm`` besides.
FLAGS = (
    "-std=gnu11", "-O3", "-march=native", "-fopenmp-simd", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast",
    "-fwrapv",
)  # fmt: skip

_TYPES: Mapping[str, str] = {
    "float32": "float", "float64": "double", "int64": "int64_t", "int32": "int32_t", "int16": "int16_t", "int8": "int8_t",
    "uint8": "uint8_t", "bool": "bool",
}  # fmt: skip
_STORED: Mapping[str, str] = {"bool": "uint8_t", "float16": "_Float16", "bfloat16": "uint16_t"}
_RESERVED = """
auto bool break case char const continue default do double else enum extern false float for goto if inline int long
register restrict return short signed sizeof static struct switch true typedef union unsigned void volatile while asm
typeof int8_t int16_t int32_t int64_t uint8_t uint16_t uint32_t uint64_t size_t INFINITY NAN main y0 y1 yn j0 j1 jn
gamma exp log sin cos tan pow sqrt floor ceil round abs erf tanh isnan index time signal div remainder buffers dims
scratch begin end unix linux
"""
_PRIMITIVES = """
#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#define NN_ROUND(x) rintf(x)
#define NN_FLOOR_F64(x) floor(x)
#define NN_F64(x) x
#define NN_INF INFINITY
#define NN_NAN NAN
static inline int32_t NN_BITS(float x) { int32_t i; memcpy(&i, &x, 4); return i; }
static inline float NN_FLOAT(int32_t i) { float x; memcpy(&x, &i, 4); return x; }
"""


class CPrinter(Printer):
    """GNU C11."""

    name: ClassVar[str] = "c"
    extension: ClassVar[str] = ".c"
    reserved: ClassVar[frozenset[str]] = frozenset(_RESERVED.split())

    def prelude(self, helpers: set[tuple[str, str]]) -> str:
        text = [_PRIMITIVES]
        types = {"F": "float", "I": "int32_t", "D": "double", "H": "uint16_t", "uniform_int": "int"}
        text += [mathlib.instantiate(mathlib.FLOAT_HELPERS[n].text, types, "f32") for n in mathlib.closure(
            n for n, dtype in helpers if n in mathlib.FLOAT_HELPERS)]  # fmt: skip
        for name, dtype in sorted(helpers):
            if name in mathlib.TYPED_HELPERS:
                text.append(mathlib.instantiate(mathlib.TYPED_HELPERS[name].text, {**types, "T": _TYPES[dtype]}, SUFFIX[dtype]))
        for name, dtype in sorted(helpers):
            if name.startswith("nn_combine_"):
                # omp's own max and min may drop a NaN.
                op, kind = name[11:], SUFFIX[dtype]
                combiner = f"omp_out = nn_{op}_{kind}(omp_out, omp_in)"
                start = self.literal(identity(op, dtype), dtype)
                head = f"#pragma omp declare reduction(nn_{op}_{kind} : {_TYPES[dtype]} : {combiner})"
                text.append(f"{head} initializer(omp_priv = {start})")
        return "\n".join(t.strip("\n") for t in text) + "\n"

    def signature(self, symbol: str) -> str:
        return f"void {symbol}(void** buffers, const int64_t* dims, uint8_t* scratch, int64_t begin, int64_t end)"

    def type(self, dtype: str, *, varying: bool = False, stored: bool = False) -> str:
        if stored and dtype in _STORED:
            return _STORED[dtype]
        return _TYPES["float32" if dtype in ("float16", "bfloat16") else dtype]

    def pointer(self, buffer: g.Buffer, name: str, source: str) -> str:
        pointer = f"{self.type(buffer.dtype, stored=True)}*"
        return f"{pointer} {name} = ({pointer})({source});"

    def integer(self) -> str:
        return "int64_t"

    def simd(self, axis: str, begin: str, end: str, lanes: Sequence[tuple[str, str, str]], writer: Writer) -> list[str]:
        clauses = ""
        for variable, op, dtype in lanes:
            kind = {"sum": "+", "prod": "*"}.get(op)
            if kind is None and dtype not in FLOATS:
                kind = op
            if kind is None:
                writer.helper(f"nn_{op}", dtype)
                writer.helper(f"nn_combine_{op}", dtype)
                kind = f"nn_{op}_{SUFFIX[dtype]}"
            clauses += f" reduction({kind}:{variable})"
        return [f"#pragma omp simd{clauses}", f"for (int64_t {axis} = {begin}; {axis} < {end}; ++{axis}) {{"]

    def literal(self, value: float | int | bool, dtype: str) -> str:
        if dtype == "bool":
            return "true" if value else "false"
        if dtype in ("float32", "float64"):
            if not math.isfinite(value):
                text = "NAN" if math.isnan(value) else "INFINITY" if value > 0 else "-INFINITY"
                return f"({text})"
            text = decimal(value, dtype) + ("f" if dtype == "float32" else "")
        elif dtype == "int64":
            text = f"{int(value)}LL" if int(value) != -(1 << 63) else "(-9223372036854775807LL - 1)"
        else:
            text = str(int(value)) if int(value) != -(1 << 31) else "(-2147483647 - 1)"
        return f"({text})" if text.startswith("-") else text

    def unary(self, op: str, a: Text, writer: Writer) -> str:
        if op.startswith("reduce_"):
            return a.text  # the simd pragma has combined the lanes
        if a.dtype not in ("float32", "float64"):
            raise UnsupportedError(f"kernel {writer.kernel.name!r}: {op} of {a.dtype} is not defined; cast to float32 first")
        if op == "isnan":
            return f"(isnan({a.text}) != 0)"
        direct = {"sqrt": "sqrt", "abs": "fabs", "floor": "floor", "ceil": "ceil", "round": "rint"}
        if op in direct:
            return f"{direct[op]}{'f' if a.dtype == 'float32' else ''}({a.text})"
        if a.dtype == "float32" and op not in ("sin", "cos"):
            return f"{writer.helper(f'nn_{op}_f32')}({a.text})"
        return f"{op}{'f' if a.dtype == 'float32' else ''}({a.text})"

    def power(self, a: Text, b: Text, writer: Writer) -> str:
        return f"pow{'f' if a.dtype == 'float32' else ''}({a.text}, {b.text})"

    def widen(self, text: str, dtype: str, writer: Writer) -> str:
        return f"((float){text})" if dtype == "float16" else f"{writer.helper('nn_from_bf16')}({text})"

    def narrow(self, text: str, dtype: str, writer: Writer) -> str:
        return f"((_Float16){text})" if dtype == "float16" else f"{writer.helper('nn_to_bf16')}({text})"
