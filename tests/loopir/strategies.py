"""Random small kernels, with arrays to run them on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import strategies as st

from loopir.kernels import inside
from nnaccel_core.ir import Dim, ceil_div, dim_min, sym
from nnaccel_core.loopir import grammar as g
from nnaccel_core.loopir.format import format_kernel
from nnaccel_core.loopir.numeric import identity

Draw = Callable[[st.SearchStrategy[Any]], Any]
N, H, W, C, TH = (sym(s) for s in ("N", "H", "W", "C", "TH"))


@dataclass(repr=False)
class Case:
    """A kernel, its integer arguments, and fresh arrays for its buffers."""

    kernel: g.Kernel
    dims: dict[str, int]
    inputs: list[np.ndarray[Any, Any]]

    def __repr__(self) -> str:
        return f"Case({self.dims}, {self.inputs[0].dtype})\n{format_kernel(self.kernel)}"

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        printer.text(repr(self))

    def arrays(self) -> list[np.ndarray[Any, Any]]:
        shape = tuple(self.dims[n] for n in ("N", "H", "C"))
        out = [np.zeros(shape, b.dtype) for b in self.kernel.buffers[len(self.inputs) :]]
        return [a.copy() for a in self.inputs] + out


def values(shape: tuple[int, ...], dtype: str, seed: int) -> np.ndarray[Any, Any]:
    rng = np.random.default_rng(seed)
    if dtype == "bool":
        return rng.random(shape) < 0.5
    if dtype.startswith("float"):
        return rng.uniform(-2, 2, shape).astype(dtype)
    return rng.integers(0 if dtype == "uint8" else -4, 5, shape).astype(dtype)


def expression(draw: Draw, leaf: Callable[[], g.Scalar], dtype: str, depth: int) -> g.Scalar:
    """A bounded, continuous expression over leaves, so that rounding cannot be magnified."""
    floating = dtype.startswith("float")
    if depth == 0:
        return leaf() if draw(st.booleans()) else g.Const(draw(st.integers(1, 3)) / (2 if floating else 1), dtype)
    kind = draw(st.sampled_from(["leaf", "unary", "binary", "select"]))
    if kind == "leaf":
        return leaf()
    if kind == "unary":
        ops = ["neg", "abs", "tanh", "erf", "sin", "cos"] if floating else ["neg", "abs"]
        return g.Unary(draw(st.sampled_from(ops)), expression(draw, leaf, dtype, depth - 1))
    a, b = expression(draw, leaf, dtype, depth - 1), expression(draw, leaf, dtype, depth - 1)
    if kind == "select":
        op = draw(st.sampled_from(sorted(g.COMPARE)))
        return g.Select(g.Binary(op, leaf(), g.Const(1, dtype)), a, b)
    ops = ["add", "sub", "mul", "max", "min"]
    if not floating and draw(st.booleans()):
        return g.Binary(draw(st.sampled_from(["div", "mod"])), a, g.Const(draw(st.integers(2, 5)), dtype))
    return g.Binary(draw(st.sampled_from(ops)), a, b)


@st.composite
def cases(draw: Draw) -> Case:
    """A task grid over images and row bands; optionally a tile of preprocessed rows; a window with guards; lanes over C."""
    limits = {"N": 2, "H": 7, "C": 19, "TH": 4}
    dims = {name: draw(st.integers(1, high)) for name, high in limits.items()}
    dtype = draw(st.sampled_from(["float32", "float32", "float64", "int32", "int64"]))
    x, y = g.Buffer("x", (N, H, C), dtype), g.Buffer("y", (N, H, C), dtype)
    b, t, r, c, k, e = (sym(s) for s in ("b", "t", "r", "c", "k", "e"))
    size, stride = draw(st.integers(1, 4)), draw(st.sampled_from([1, 1, 2]))
    pad = draw(st.integers(0, size - 1))
    bind = draw(st.sampled_from(["serial", "unroll"]))
    combine = draw(st.sampled_from(sorted(g.COMBINE)))
    row: Dim = stride * sym("h") + k - pad
    body: list[g.Stmt] = []
    source: tuple[g.Buffer, Callable[[Dim], tuple[Dim, ...]]] = (x, lambda at: (b, at, c))

    def leaf() -> g.Scalar:
        if draw(st.booleans()):
            return g.Load(x, (b, t * TH, c))
        return g.Cast(g.Index(draw(st.sampled_from([c, b + t, (t + 3) // 2, c % 3]))), dtype)

    if draw(st.booleans()):
        # Every row of the image, preprocessed: more than one task needs, but legal.
        tile = g.Buffer("tile", (H, C), dtype, "tile")
        pre = expression(draw, lambda: g.Load(x, (b, e, c)), dtype, 2)
        body += [g.Alloc(tile), g.Loop("e", 0, H, "serial", (g.Loop("c", 0, C, "simd", (g.Store(tile, (e, c), pre),)),))]
        source = (tile, lambda at: (at, c))
    acc = g.Buffer("acc", (), dtype, "register")
    term = expression(draw, lambda: g.Load(source[0], source[1](row)), dtype, 1)
    if combine == "prod":
        term = g.Binary("min", g.Binary("max", term, g.Const(-1, dtype)), g.Const(1, dtype))
    window = g.Loop("k", 0, size, bind, (g.If(inside(row, H), (g.Accumulate(acc, (), combine, term),)),))
    start = g.Const(identity(combine, dtype) if draw(st.booleans()) else 1, dtype)
    post = expression(draw, leaf, dtype, 1)
    result = g.Binary(draw(st.sampled_from(["add", "max"])), g.Load(acc, ()), post)
    lane_loop = g.Loop("c", 0, C, "simd", (g.Alloc(acc), g.Store(acc, (), start), window, g.Store(y, (b, sym("h"), c), result)))
    rows: list[g.Stmt] = [g.Let("h", t * TH + r), lane_loop]
    if draw(st.booleans()):
        # Then add the row's horizontal reduction to it.
        op = draw(st.sampled_from(["sum", "max", "min"]))
        lanes, total = g.Buffer("lanes", (), dtype, "lanes"), g.Buffer("total", (), dtype, "register")
        rows += [
            g.Alloc(lanes),
            g.Store(lanes, (), g.Const(identity(op, dtype), dtype)),
            g.Loop("c", 0, C, "simd", (g.Accumulate(lanes, (), op, g.Load(x, (b, sym("h"), c))),)),
            g.Alloc(total),
            g.Store(total, (), g.Unary(f"reduce_{op}", g.Load(lanes, ()))),
            g.Loop("c", 0, C, "simd", (g.Accumulate(y, (b, sym("h"), c), "sum", g.Load(total, ())),)),
        ]
    body.append(g.Loop("r", 0, dim_min(TH, H - t * TH), "serial", tuple(rows)))
    kernel = g.Kernel("random", (x, y), ("N", "H", "C", "TH"), (("b", N), ("t", ceil_div(H, TH))), tuple(body))
    return Case(kernel, dims, [values((dims["N"], dims["H"], dims["C"]), dtype, draw(st.integers(0, 99)))])
