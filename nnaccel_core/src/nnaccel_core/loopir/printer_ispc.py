"""The ISPC dialect: everything is uniform except what depends on the axis of a ``simd`` loop, a ``foreach``.

Indices along the simd axis are 32-bit lane numbers beside 64-bit uniform offsets, so that unit stride becomes a
plain vector access: the extent of a simd axis, and its stride times its extent, must stay below 2**31 elements.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import ClassVar

from nnaccel_core.errors import UnsupportedError
from nnaccel_core.ir.dims import Dim, linear
from nnaccel_core.loopir import grammar as g
from nnaccel_core.loopir import mathlib
from nnaccel_core.loopir.printer import SUFFIX, Printer, Text, Writer, decimal
from nnaccel_core.loopir.ranges import args

#: Compiler options of generated ISPC code, beside ``--target``.
FLAGS = ("-O3", "--pic", "--wno-perf", "--wrap-signed-int")

_TYPES: Mapping[str, str] = {
    "float32": "float", "float64": "double", "int64": "int64", "int32": "int32", "int16": "int16", "int8": "int8",
    "uint8": "unsigned int8", "bool": "bool",
}  # fmt: skip
_STORED: Mapping[str, str] = {"bool": "unsigned int8", "float16": "unsigned int16", "bfloat16": "unsigned int16"}
_RESERVED = """
assert bool break case cbreak ccontinue cdo cfor cif cwhile const continue default delete do double else enum export
extern false float float16 for foreach foreach_active foreach_tiled foreach_unique goto if in inline int int8 int16
int32 int64 launch launch_unordered new noinline NULL operator print programCount programIndex reduce return signed
sizeof size_t soa static struct switch sync task taskCount taskIndex template typedef typename uint uint8 uint16
uint32 uint64 uniform union unmasked unsigned varying void volatile while abs all any ceil cos exp floor isnan log max
min pow rcp round rsqrt select sin sqrt tan extract insert buffers dims scratch begin end
"""

_PRIMITIVES = """
#define NN_BITS(x) intbits(x)
#define NN_FLOAT(i) floatbits(i)
#define NN_ROUND(x) round(x)
#define NN_FLOOR_F64(x) floor(x)
#define NN_F64(x) x##d
#define NN_INF floatbits(0x7f800000)
#define NN_NAN floatbits(0x7fc00000)
#define NN_INF_F64 doublebits(0x7ff0000000000000ull)
#define NN_NAN_F64 doublebits(0x7ff8000000000000ull)
static inline uniform int nn_lane(uniform int64 x) {
    return x > 0x7fffffff ? 0x7fffffff : (x < -0x7fffffff ? -0x7fffffff : (uniform int)x);
}
"""

#: float64 functions come from the system's math library, one lane at a time; float32 ``pow`` too. ISPC's own
#: library declares and calls the first four itself.
_LIBM = ("tanh", "erf", "log1p", "expm1")
_LIBM_CALL = """
extern "C" uniform double {name}(uniform double);
static inline uniform double nn_{name}_f64(uniform double x) {{ return {name}(x); }}
static inline varying double nn_{name}_f64(varying double x) {{
    varying double r = x;
    foreach_active (i) {{ r = insert(r, i, {name}(extract(x, i))); }}
    return r;
}}"""
_POWER = """
static inline uniform double nn_pow_f64(uniform double x, uniform double y) { return pow(x, y); }
static inline varying double nn_pow_f64(varying double x, varying double y) { return pow(x, y); }"""
_REDUCE = {
    "nn_reduce_sum": "{ return (uniform T)reduce_add(x); }",
    "nn_reduce_max": "{ return any(x != x) ? (uniform T)(NAN_T) : (uniform T)reduce_max(x); }",
    "nn_reduce_min": "{ return any(x != x) ? (uniform T)(NAN_T) : (uniform T)reduce_min(x); }",
    "nn_reduce_prod": (
        "{\n    uniform T r = 1;\n    for (uniform int i = 0; i < programCount; ++i) { r *= extract(x, i); }\n    return r;\n}"
    ),
}


class IspcPrinter(Printer):
    """Intel ISPC 1.25 or later. Link modules that compute float64 functions or powers with ``-lm``."""

    name: ClassVar[str] = "ispc"
    extension: ClassVar[str] = ".ispc"
    reserved: ClassVar[frozenset[str]] = frozenset(_RESERVED.split())
    branches: ClassVar[bool] = True

    def prelude(self, helpers: set[tuple[str, str]]) -> str:
        text = [_PRIMITIVES.strip("\n")]
        for name in mathlib.closure(n for n, dtype in helpers if n in mathlib.FLOAT_HELPERS):
            text += [_instance(mathlib.FLOAT_HELPERS[name].text, "float32", q) for q in ("uniform", "varying")]
        for name, dtype in sorted(helpers):
            if name in mathlib.TYPED_HELPERS:
                text += [_instance(mathlib.TYPED_HELPERS[name].text, dtype, q) for q in ("uniform", "varying")]
            elif name in _REDUCE:
                nan = {"float32": "NN_NAN", "float64": "NN_NAN_F64"}.get(dtype, "0")
                body = _REDUCE[name].replace("NAN_T", nan)
                if dtype in ("bool", "uint8", "int8", "int16"):  # ISPC has minima and maxima of wider integers only
                    body = body.replace("reduce_max(x)", "reduce_max((int)x)").replace("reduce_min(x)", "reduce_min((int)x)")
                body = body.replace("T", _TYPES[dtype])
                text.append(f"\nstatic inline uniform {_TYPES[dtype]} {name}_{SUFFIX[dtype]}(varying {_TYPES[dtype]} x) {body}")
            elif name == "nn_pow":
                text.append(_POWER)
            elif name.startswith("nn_libm_"):
                text.append(_LIBM_CALL.format(name=name[8:]))
        return "\n".join(t.strip("\n") for t in text) + "\n"

    def signature(self, symbol: str) -> str:
        # Not `export`: that compiles the body twice, with and without an execution mask.
        return (
            f'extern "C" void {symbol}(void * uniform * uniform buffers, const uniform int64 * uniform dims,\n'
            "    uniform unsigned int8 * uniform scratch, uniform int64 begin, uniform int64 end)"
        )

    def type(self, dtype: str, *, varying: bool = False, stored: bool = False) -> str:
        if stored and dtype in _STORED:
            return f"uniform {_STORED[dtype]}"
        base = _TYPES["float32" if dtype in ("float16", "bfloat16") else dtype]
        return f"{'varying' if varying else 'uniform'} {base}"

    def pointer(self, buffer: g.Buffer, name: str, source: str) -> str:
        pointer = f"{self.type(buffer.dtype, stored=True)} * uniform"
        return f"{pointer} {name} = ({pointer})({source});"

    def integer(self) -> str:
        return "uniform int64"

    def simd(self, axis: str, begin: str, end: str, lanes: Sequence[tuple[str, str, str]], writer: Writer) -> list[str]:
        return [f"foreach ({axis} = (uniform int32)({begin}) ... (uniform int32)({end})) {{"]

    def literal(self, value: float | int | bool, dtype: str) -> str:
        if dtype == "bool":
            return "true" if value else "false"
        if dtype in ("float32", "float64"):
            tail = "" if dtype == "float32" else "_F64"
            if not math.isfinite(value):
                name = "NN_NAN" if math.isnan(value) else "NN_INF" if value > 0 else "-NN_INF"
                return f"({name}{tail})"
            text = decimal(value, dtype)
            text = text + "f" if dtype == "float32" else _double(text)
        else:
            text = str(int(value)) + ("ll" if dtype == "int64" else "")
        return f"({text})" if text.startswith("-") else text

    def unary(self, op: str, a: Text, writer: Writer) -> str:
        if op.startswith("reduce_"):
            return f"{writer.helper('nn_' + op, a.dtype)}({a.text})"
        if op in ("sqrt", "abs", "floor", "ceil", "round", "isnan"):
            return f"{op}({a.text})"
        if a.dtype == "float64" and op in ("exp", "log", "sin", "cos"):
            return f"{op}({a.text})"
        if a.dtype == "float64" and op in _LIBM:
            writer.helper(f"nn_libm_{op}")
            return f"nn_{op}_f64({a.text})"
        if a.dtype == "float32":
            return f"{writer.helper(f'nn_{op}_f32')}({a.text})"
        raise UnsupportedError(f"kernel {writer.kernel.name!r}: {op} of {a.dtype} is not defined; cast to float32 first")

    def power(self, a: Text, b: Text, writer: Writer) -> str:
        writer.helper("nn_pow")
        if a.dtype == "float64":
            return f"nn_pow_f64({a.text}, {b.text})"
        to = self.type("float64", varying=a.varying or b.varying)
        return f"((float)nn_pow_f64(({to}){a.text}, ({to}){b.text}))"

    def widen(self, text: str, dtype: str, writer: Writer) -> str:
        return f"half_to_float({text})" if dtype == "float16" else f"{writer.helper('nn_from_bf16')}({text})"

    def narrow(self, text: str, dtype: str, writer: Writer) -> str:
        return f"float_to_half({text})" if dtype == "float16" else f"{writer.helper('nn_to_bf16')}({text})"

    def lane_index(self, dim: Dim, writer: Writer) -> str:
        """32-bit arithmetic; uniform parts are computed in 64 bits and narrowed."""
        if not writer.is_varying(dim):
            return str(dim) if isinstance(dim, int) else f"(uniform int32){writer.dim(dim)}"
        assert not isinstance(dim, int)
        if dim.op == "sym":
            return writer.dim(dim)
        if dim.op == "sum":
            return writer.sum(dim, lambda d: self.lane_index(d, writer))
        parts = args(dim)
        if dim.op == "mul":
            return "(" + " * ".join(self.lane_index(p, writer) for p in parts) + ")"
        if dim.op in ("min", "max"):
            text = self.lane_index(parts[0], writer)
            for part in parts[1:]:
                text = f"{writer.helper(f'nn_{dim.op}_k', 'int32')}({text}, {self.lane_index(part, writer)})"
            return text
        return writer.quotient(dim, lambda d: self.lane_index(d, writer), "int32")

    def compare_lanes(self, op: str, a: Dim, b: Dim, writer: Writer) -> str:
        """``lane < bound`` with the bound computed in 64 bits and saturated, where the lane has coefficient 1."""
        symbol = {"lt": "<", "le": "<=", "gt": ">", "ge": ">=", "eq": "==", "ne": "!="}[op]
        found = linear(a - b, writer.lane_axis or "")
        if found is None or found[0] not in (1, -1):
            return f"({self.lane_index(a, writer)} {symbol} {self.lane_index(b, writer)})"
        lane, bound = writer.symbols[writer.lane_axis or ""], f"nn_lane({writer.dim(-found[0] * found[1])})"
        return f"({lane} {symbol} {bound})" if found[0] == 1 else f"({bound} {symbol} {lane})"


def _double(text: str) -> str:
    """ISPC writes a double's exponent with ``d``: 1.5d0."""
    return text.replace("e", "d") if "e" in text else text + "d"


def _instance(template: str, dtype: str, qualifier: str) -> str:
    types = {
        "F": f"{qualifier} float", "I": f"{qualifier} int", "D": f"{qualifier} double", "H": f"{qualifier} unsigned int16",
        "T": f"{qualifier} {_TYPES[dtype]}", "uniform_int": "uniform int",
    }  # fmt: skip
    return mathlib.instantiate(template, types, SUFFIX[dtype])
