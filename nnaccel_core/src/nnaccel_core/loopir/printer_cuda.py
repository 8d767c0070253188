"""The CUDA C++ dialect, for NVRTC and nvcc. A thread block runs one task.

A ``block`` loop shares its iterations among the threads; a ``simd`` loop inside one is a vector access. Statements outside block
loops are run by all threads alike, and only the first of them writes memory there. ``reduce_*`` combines over the whole
block: shuffles within warps, then one exchange through shared memory. Tile buffers are dynamic shared memory.

Instead of the C interface of the other dialects a kernel takes its buffers and dims as arguments of their own::

    extern "C" __global__ void SYMBOL(const float* b0, ..., float* bN, nn_int d0, ...)

``nn_int`` is int32 unless ``-DNN_WIDE`` is given, for buffers of more than 2^31 elements. Threads per block are a multiple of 32.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar

from nnaccel_core.errors import UnsupportedError
from nnaccel_core.ir.dims import Dim, Expr
from nnaccel_core.loopir import grammar as g
from nnaccel_core.loopir import mathlib
from nnaccel_core.loopir.divisors import divisor
from nnaccel_core.loopir.numeric import compute_dtype, identity
from nnaccel_core.loopir.printer import SUFFIX, Function, Printer, Text, Writer, decimal
from nnaccel_core.loopir.ranges import args, substitute
from nnaccel_core.loopir.rewrite import scalars, walk
from nnaccel_core.loopir.transforms import unroll
from nnaccel_core.loopir.verify import verify
from nnaccel_core.loopir.writer import plain

#: Most threads of a block that printed kernels are compiled for.
MOST_THREADS = 512
#: Compiler options of generated CUDA, the architecture besides. No fast math: NaN and infinity must come out right.
FLAGS = ("--std=c++17",)

_TYPES: Mapping[str, str] = {
    "float32": "float", "float64": "double", "int64": "long long", "int32": "int", "int16": "short", "int8": "signed char",
    "uint8": "unsigned char", "bool": "bool",
}  # fmt: skip
_STORED: Mapping[str, str] = {"bool": "unsigned char", "float16": "unsigned short", "bfloat16": "unsigned short"}
_RESERVED = """
alignas auto asm bool break case catch char class const constexpr continue decltype default delete do double dynamic_cast else
enum explicit export extern false float for friend goto if inline int long mutable namespace new noexcept operator private
protected public register return short signed sizeof static struct switch template this throw true try typedef typeid typename
union unsigned using virtual void volatile wchar_t while and or not xor min max abs exp log sin cos tan pow sqrt floor ceil
round erf tanh isnan threadIdx blockIdx blockDim gridDim warpSize nn_int nn_uint nn_vec nn_tile y0 y1 yn j0 j1 jn
"""
_PRELUDE = """
#ifdef NN_WIDE
typedef long long nn_int;
typedef unsigned long long nn_uint;
#else
typedef int nn_int;
typedef unsigned nn_uint;
#endif
template <typename T, int N> struct alignas(sizeof(T) * N < 16 ? sizeof(T) * N : 16) nn_vec { T v[N]; };
static __device__ inline nn_int nn_quotient(nn_int a, nn_int b) {
    const nn_int q = a / b, r = a - q * b;
    return r != 0 && (r < 0) != (b < 0) ? q - 1 : q;
}
static __device__ inline nn_int nn_remainder(nn_int a, nn_int b) {
    const nn_int r = a % b;
    return r != 0 && (r < 0) != (b < 0) ? r + b : r;
}
#define NN_FLOOR_F64(x) floor(x)
#define NN_F64(x) x
#define NN_BITS(x) __float_as_int(x)
#define NN_FLOAT(x) __int_as_float(x)
"""
_REDUCE = """
static __device__ T nn_block_OP_S(T x) {
    __shared__ T part[32];
    for (int k = 16; k > 0; k >>= 1) x = COMBINE(x, (T)__shfl_xor_sync(0xffffffffu, x, k));
    const int warps = (int)(blockDim.x >> 5), lane = (int)(threadIdx.x & 31);
    if (warps == 1) return x;
    __syncthreads();
    if (lane == 0) part[threadIdx.x >> 5] = x;
    __syncthreads();
    x = lane < warps ? part[lane] : START;
    for (int k = 16; k > 0; k >>= 1) x = COMBINE(x, (T)__shfl_xor_sync(0xffffffffu, x, k));
    return x;
}"""
_HALF = """
static __device__ inline float nn_from_f16(unsigned short x) { float y; asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x)); return y; }
static __device__ inline unsigned short nn_to_f16(float x) {
    unsigned short y; asm("cvt.rn.f16.f32 %0, %1;" : "=h"(y) : "f"(x)); return y;
}"""

#: Two neighboring bfloat16 in one word: an instruction for each of them, where one by one they are extracted first.
_PAIRS = """
static __device__ inline float nn_low_bf16(unsigned x) { return __uint_as_float(x << 16); }
static __device__ inline float nn_high_bf16(unsigned x) { return __uint_as_float(x & 0xffff0000u); }
#if __CUDA_ARCH__ >= 800
static __device__ inline unsigned nn_pair_bf16(float low, float high) {
    unsigned y; asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(y) : "f"(high), "f"(low)); return y;
}
#else
static __device__ inline unsigned nn_pair_bf16(float low, float high) {
    return (unsigned)nn_to_bf16(low) | (unsigned)nn_to_bf16(high) << 16;
}
#endif"""

#: Helpers that newer GPUs have an instruction for; the common text serves the others.
_INSTRUCTIONS: Mapping[str, str] = {
    "nn_to_bf16": """
static inline unsigned short nn_to_bf16(float x) {
    unsigned short y; asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(y) : "f"(x)); return y;
}""",
    "nn_max_f32": """
static inline float nn_max_f32(float a, float b) {
    float y; asm("max.NaN.f32 %0, %1, %2;" : "=f"(y) : "f"(a), "f"(b)); return y;
}""",
    "nn_min_f32": """
static inline float nn_min_f32(float a, float b) {
    float y; asm("min.NaN.f32 %0, %1, %2;" : "=f"(y) : "f"(a), "f"(b)); return y;
}""",
}


def _by_gpu(name: str, text: str) -> str:
    """The helper ``name`` by an instruction where the GPU has it, else by ``text``."""
    fast = _INSTRUCTIONS.get(name)
    return text if fast is None else f"#if __CUDA_ARCH__ >= 800{fast}\n#else\n{text.strip()}\n#endif"


def unrolled(loop: g.Loop) -> int:
    """How many iterations of a thread's loop to unroll: as many as make their loads worth waiting for together.

    A sum over few accesses (of a batch, of a row) waits for memory in each iteration otherwise; many loads fill the registers.
    """
    inside = list(walk(loop.body))
    if any(isinstance(s, g.Loop) and s.bind == "serial" for s in inside):
        return 4
    reads = [x for s in inside for x in scalars(s) if isinstance(x, g.Load) and isinstance(x.buffer, g.Buffer)]
    loads = sum(x.buffer.space in ("global", "tile") for x in reads)  # type: ignore[union-attr]
    return 16 if loads <= 1 else 8 if loads == 2 else 4


class CudaPrinter(Printer):
    """CUDA C++17."""

    name: ClassVar[str] = "cuda"
    extension: ClassVar[str] = ".cu"
    reserved: ClassVar[frozenset[str]] = frozenset(_RESERVED.split())

    def function(self, symbol: str, kernel: g.Kernel) -> Function:
        helpers: set[tuple[str, str]] = set()
        straight = unroll(kernel)
        verify(straight)
        return Function(CudaWriter(self, symbol, straight, helpers).function(), frozenset(helpers))

    def prelude(self, helpers: set[tuple[str, str]]) -> str:
        types = {"F": "float", "I": "int", "D": "double", "H": "unsigned short", "uniform_int": "int"}
        text = [_PRELUDE]
        if any(name in ("nn_from_f16", "nn_to_f16") for name, _ in helpers):
            text.append(_HALF)
        pairs = any(name in ("nn_low_bf16", "nn_high_bf16", "nn_pair_bf16") for name, _ in helpers)
        single = {n for n, _ in helpers if n in mathlib.FLOAT_HELPERS} | ({"nn_to_bf16"} if pairs else set())
        for name in mathlib.closure(sorted(single)):
            text.append(_by_gpu(name, mathlib.instantiate(mathlib.FLOAT_HELPERS[name].text, types, "f32")))
        if pairs:
            text.append(_PAIRS)
        reduced = {(name[9:], dtype) for name, dtype in helpers if name.startswith("nn_block_")}
        typed = set(helpers) | {(f"nn_{op}", dtype) for op, dtype in reduced if op in ("max", "min")}
        for name, dtype in sorted(typed):
            if name in mathlib.TYPED_HELPERS:
                common = mathlib.instantiate(mathlib.TYPED_HELPERS[name].text, {**types, "T": _TYPES[dtype]}, SUFFIX[dtype])
                text.append(_by_gpu(f"{name}_{SUFFIX[dtype]}", common))
        for op, dtype in sorted(reduced):
            text.append(self._reduction(op, dtype))
        return "\n".join(t.strip("\n").replace("static inline", "static __device__ inline") for t in text) + "\n"

    def _reduction(self, op: str, dtype: str) -> str:
        sign = {"sum": "+", "prod": "*"}.get(op)
        suffix = SUFFIX[dtype]
        head = f"#define NN_{op}_{suffix}(a, b) " + (f"((a) {sign} (b))" if sign else f"nn_{op}_{suffix}(a, b)")
        body = _REDUCE.replace("COMBINE", f"NN_{op}_{suffix}").replace("START", self.literal(identity(op, dtype), dtype))
        return head + mathlib.instantiate(body.replace("nn_block_OP_S", f"nn_block_{op}_S"), {"T": _TYPES[dtype]}, suffix)

    def signature(self, symbol: str) -> str:
        return f'extern "C" __global__ void __launch_bounds__({MOST_THREADS}) {symbol}'

    def type(self, dtype: str, *, varying: bool = False, stored: bool = False) -> str:
        if stored and dtype in _STORED:
            return _STORED[dtype]
        return _TYPES[compute_dtype(dtype)]

    def pointer(self, buffer: g.Buffer, name: str, source: str) -> str:
        pointer = f"{self.type(buffer.dtype, stored=True)}*"
        return f"{pointer} {name} = ({pointer})({source});"

    def integer(self) -> str:
        return "nn_int"

    def simd(self, axis: str, begin: str, end: str, lanes: Sequence[tuple[str, str, str]], writer: Writer) -> list[str]:
        raise UnsupportedError(f"kernel {writer.kernel.name!r}: CUDA has simd loops inside block loops only; use map_simt")

    def literal(self, value: float | int | bool, dtype: str) -> str:
        if dtype == "bool":
            return "true" if value else "false"
        if dtype in ("float32", "float64"):
            if not math.isfinite(value):
                bits = "7fffffff" if math.isnan(value) else "7f800000" if value > 0 else "ff800000"
                return f"__int_as_float(0x{bits})" if dtype == "float32" else f"((double)__int_as_float(0x{bits}))"
            text = decimal(value, dtype) + ("f" if dtype == "float32" else "")
        elif dtype == "int64":
            text = f"{int(value)}LL" if int(value) != -(1 << 63) else "(-9223372036854775807LL - 1)"
        else:
            text = str(int(value)) if int(value) != -(1 << 31) else "(-2147483647 - 1)"
        return f"({text})" if text.startswith("-") else text

    def unary(self, op: str, a: Text, writer: Writer) -> str:
        if op.startswith("reduce_"):
            return f"{writer.helper(f'nn_block_{op[7:]}', a.dtype)}({a.text})"
        if a.dtype not in ("float32", "float64"):
            raise UnsupportedError(f"kernel {writer.kernel.name!r}: {op} of {a.dtype} is not defined; cast to float32 first")
        if op == "isnan":
            return f"({a.text} != {a.text})"
        name = {"abs": "fabs", "round": "rint"}.get(op, op)
        return f"{name}{'f' if a.dtype == 'float32' else ''}({a.text})"

    def power(self, a: Text, b: Text, writer: Writer) -> str:
        return f"pow{'f' if a.dtype == 'float32' else ''}({a.text}, {b.text})"

    def widen(self, text: str, dtype: str, writer: Writer) -> str:
        return f"{writer.helper('nn_from_f16' if dtype == 'float16' else 'nn_from_bf16')}({text})"

    def narrow(self, text: str, dtype: str, writer: Writer) -> str:
        return f"{writer.helper('nn_to_f16' if dtype == 'float16' else 'nn_to_bf16')}({text})"


class CudaWriter(Writer):
    """Prints one kernel for a thread block."""

    #: inside a block loop
    threads = False

    def function(self) -> str:
        k, p = self.kernel, self.printer
        #: symbols that are not negative, though `Ranges` cannot prove it
        self.counts: set[str] = set()
        first = len(k.buffers) - k.outputs
        parameters = []
        for i, buffer in enumerate(k.buffers):
            self.buffers[buffer] = self.fresh(buffer.name)
            const = "const " if i < first else ""
            parameters.append(f"{const}{p.type(buffer.dtype, stored=True)}* __restrict__ {self.buffers[buffer]}")
        for name in k.dims:
            self.symbols[name] = self.fresh(name)
            parameters.append(f"const {p.integer()} {self.symbols[name]}")
        self.lines.append(f"{p.signature(self.symbol)}({', '.join(parameters)}) {{")
        self.depth = 1
        scratch = k.scratch()
        if scratch:
            self.emit("extern __shared__ __align__(64) unsigned char nn_tile[];")
        offset = ""
        for buffer in scratch:
            self.buffers[buffer] = self.fresh(buffer.name)
            self.emit(p.pointer(buffer, self.buffers[buffer], f"nn_tile{offset}"))
            here = self.fresh(buffer.name + "_end")
            self.emit(f"const {p.integer()} {here} = {offset[3:] or '0'} + (({self.dim(g.nbytes(buffer))} + 63) / 64) * 64;")
            offset = f" + {here}"
        task = self.fresh("task")
        self.emit(f"const {p.integer()} {task} = (nn_int)blockIdx.x;")
        self._decode(task)
        self.block(k.body)
        self.lines.append("}")
        return "\n".join(self.lines) + "\n"

    # --- statements

    def stmt(self, s: g.Stmt) -> None:
        if isinstance(s, g.Barrier):
            self.emit("__syncthreads();")
        elif isinstance(s, g.Loop) and s.bind == "block":
            self._block_loop(s)
        elif isinstance(s, g.Loop) and s.bind == "serial" and self.threads:
            # Loads of several iterations are under way together, where a thread would wait for one after the other.
            self.emit(f"#pragma unroll {unrolled(s)}")
            super().stmt(s)
        elif isinstance(s, g.Let) and self.threads:
            if self._counted(s.dim):
                self.counts.add(s.name)
            super().stmt(s)
        elif isinstance(s, g.Loop) and s.bind == "simd" and self.threads:
            self._vector(s)
        elif isinstance(s, (g.Store, g.Accumulate)) and not self.threads and s.buffer.space in ("global", "tile"):
            self.emit("if (threadIdx.x == 0) {")
            self.depth += 1
            super().stmt(s)
            self.depth -= 1
            self.emit("}")
        else:
            super().stmt(s)

    def _block_loop(self, s: g.Loop) -> None:
        begin, end = self.dim(s.begin), self.dim(s.end)
        saved = self.ranges
        self.places.clear()
        self.ranges = self.ranges.axis(s.axis, s.begin, s.end)
        name = self.symbols[s.axis] = self.fresh(s.axis)
        start = "(nn_int)threadIdx.x" if begin == "0" else f"{begin} + (nn_int)threadIdx.x"
        self.emit(f"for (nn_int {name} = {start}; {name} < {end}; {name} += (nn_int)blockDim.x) {{")
        self.threads = True
        # Where the loop runs at all, its extent is positive, and so are the counts that it is a product of.
        saved_counts = set(self.counts)
        factors = args(s.end) if not isinstance(s.end, int) and s.end.op in ("mul", "sym") else ()
        self.counts |= {s.axis, *map(str, factors)}
        self._indented(s.body)
        self.counts = saved_counts
        self.threads = False
        self.emit("}")
        self.taken.discard(name)
        self.ranges = saved
        self.places.clear()

    def _vector(self, s: g.Loop) -> None:
        """A vector access: one wide load or store where the address is known to be aligned, else element by element."""
        (store,) = s.body
        assert isinstance(store, g.Store) and isinstance(s.end, int)  # `verify` saw to it
        count = s.end
        memory: g.Buffer | None = None
        if isinstance(store.value, g.Load) and isinstance(store.value.buffer, g.Buffer):
            loads = store.buffer.space in ("register", "lanes")
            memory, index = (store.value.buffer, store.value.index) if loads else (store.buffer, store.index)
            if memory.space in ("global", "tile") and self._wide(memory, index, s.axis, count):
                self._wide_access(store, memory, index, s.axis, count, loads)
                return
        for j in range(count):
            at = {s.axis: j}
            value = _at(store.value, at)
            super().stmt(g.Store(store.buffer, tuple(substitute(i, at) for i in store.index), value))

    def _wide(self, memory: g.Buffer, index: Sequence[Dim], axis: str, count: int) -> bool:
        zero, one = (self.offset(memory, [substitute(i, {axis: j}) for i in index])[0] for j in (0, 1))
        facts = dict(self.kernel.multiples)
        return one - zero == 1 and divisor(self.ranges.inline(zero), facts) % count == 0

    def _wide_access(
        self, store: g.Store, memory: g.Buffer, index: Sequence[Dim], axis: str, count: int, loads: bool
    ) -> None:
        p = self.printer
        base = self.offset(memory, [substitute(i, {axis: 0}) for i in index])[0]
        pairs = memory.dtype == "bfloat16" and count % 2 == 0
        kind = f"nn_vec<unsigned, {count // 2}>" if pairs else f"nn_vec<{p.type(memory.dtype, stored=True)}, {count}>"
        const = "const " if loads else ""
        # In parentheses, or each summand would be widened to the pointer's 64 bits by itself.
        place = f"*({const}{kind}*)({self.buffers[memory]} + {self.dim(base)})"
        v = self.fresh("v")
        self.emit("{")
        self.depth += 1
        self.emit(f"{const}{kind} {v}" + (f" = {place};" if loads else ";"))
        registers, values = [], []
        for at in ({axis: j} for j in range(count)):
            if loads:
                registers.append(self.element(store.buffer, [substitute(i, at) for i in store.index]))
            else:
                values.append(self.scalar(_at(store.value, at)).text)
        if pairs:
            low, high = self.helper("nn_low_bf16"), self.helper("nn_high_bf16")
            for j, (a, b) in enumerate(zip(registers[::2], registers[1::2], strict=True)):
                self.emit(f"{a} = {low}({v}.v[{j}]);")
                self.emit(f"{b} = {high}({v}.v[{j}]);")
            for j, (a, b) in enumerate(zip(values[::2], values[1::2], strict=True)):
                self.emit(f"{v}.v[{j}] = {self.helper('nn_pair_bf16')}({plain(a)}, {plain(b)});")
        else:
            self._elements(v, memory.dtype, registers, values)
        if not loads:
            self.emit(f"{place} = {v};")
        self.depth -= 1
        self.emit("}")
        self.taken.discard(v)

    def _elements(self, v: str, dtype: str, registers: Sequence[str], values: Sequence[str]) -> None:
        """The vector ``v`` into ``registers``, or ``values`` into it, element by element."""
        p, narrow = self.printer, compute_dtype(dtype) != dtype
        for j, register in enumerate(registers):
            element = f"{v}.v[{j}]"
            text = f"({element} != 0)" if dtype == "bool" else p.widen(element, dtype, self) if narrow else element
            self.emit(f"{register} = {text};")
        for j, value in enumerate(values):
            text = p.narrow(value, dtype, self) if narrow else f"({value} ? 1 : 0)" if dtype == "bool" else value
            self.emit(f"{v}.v[{j}] = {plain(text)};")

    def _accumulate(self, s: g.Accumulate) -> None:
        if not s.atomic:
            super()._accumulate(s)
            return
        if s.op != "sum" or s.buffer.dtype not in ("float32", "float64", "int32"):
            raise UnsupportedError(f"kernel {self.kernel.name!r}: no atomic {s.op} of {s.buffer.dtype} on CUDA")
        self.emit(f"atomicAdd(&{self.element(s.buffer, s.index)}, {plain(self.scalar(s.value).text)});")

    # --- integers

    def dim(self, dim: Dim) -> str:
        if not isinstance(dim, int) and dim.op in ("min", "max"):
            text, *rest = [f"(nn_int){part}" if isinstance(part, int) else plain(self.dim(part)) for part in args(dim)]
            for part in rest:
                text = f"{dim.op}({text}, {part})"
            return text
        return super().dim(dim)

    def _counted(self, dim: Dim) -> bool:
        """Whether ``dim`` is not negative."""
        if self.ranges.nonneg(dim) or (not isinstance(dim, int) and dim.op == "sym" and str(dim.args[0]) in self.counts):
            return True
        return not isinstance(dim, int) and dim.op in ("floordiv", "mod", "mul") and all(map(self._counted, args(dim)))

    def quotient(self, dim: Expr, printed: Callable[[Dim], str], dtype: str) -> str:
        a, b = args(dim)
        if isinstance(b, int) and b > 0 and b & (b - 1) == 0:
            return f"({printed(a)} {f'>> {b.bit_length() - 1}' if dim.op == 'floordiv' else f'& {b - 1}'})"
        if self._counted(a) and self._counted(b):
            # Without signs a division takes a fourth fewer instructions.
            return f"(nn_int)((nn_uint){printed(a)} {'/' if dim.op == 'floordiv' else '%'} (nn_uint){printed(b)})"
        name = "nn_quotient" if dim.op == "floordiv" else "nn_remainder"
        return f"{name}({printed(a)}, {printed(b)})"


def _at(s: g.Scalar, env: Mapping[str, Dim]) -> g.Scalar:
    """A load, or anything else that a vector access stores, with its indices substituted."""
    if isinstance(s, g.Load):
        return g.Load(s.buffer, tuple(substitute(i, env) for i in s.index))
    kids = g.children(s)
    if not kids:
        return g.Index(substitute(s.dim, env), s.dtype) if isinstance(s, g.Index) else s
    return g.rebuild(s, [_at(k, env) for k in kids])


__all__ = ["FLAGS", "MOST_THREADS", "CudaPrinter", "CudaWriter"]
