"""Kernels written by hand, as depth-first generation would give them."""

from __future__ import annotations

from nnaccel_core.ir import Dim, ceil_div, dim_min, sym
from nnaccel_core.loopir import grammar as g


def inside(index: Dim, extent: Dim) -> g.Scalar:
    """``0 <= index < extent``."""
    return g.Binary("and", g.Binary("le", g.Index(0), g.Index(index)), g.Binary("lt", g.Index(index), g.Index(extent)))


def clip6(a: g.Scalar) -> g.Scalar:
    return g.Binary("min", g.Binary("max", a, g.Const(0.0)), g.Const(6.0))


def depthwise(block: int = 4, kernel: int = 3, *, overlap: bool = False, lanes: int = 0) -> g.Kernel:
    """Depthwise convolution, stride 1, same padding, channels last, clipped to [0, 6].

    Tasks: images x bands of ``TH`` rows. Columns go in blocks of ``block``, whose sums are registers; channels are the
    lanes. The remaining columns go one at a time, or with ``overlap`` as a block that computes some columns again.
    With ``lanes``, that many channels at a time go over all rows of a band, so that rows and weights stay in L1.
    """
    n, h_extent, w_extent, c_extent, band = (sym(s) for s in ("N", "H", "W", "C", "TH"))
    x = g.Buffer("x", (n, h_extent, w_extent, c_extent), "float32")
    weights = g.Buffer("weights", (kernel, kernel, c_extent), "float32")
    bias = g.Buffer("bias", (c_extent,), "float32")
    y = g.Buffer("y", (n, h_extent, w_extent, c_extent), "float32")
    pad = kernel // 2
    b, t, r, c, kh, kw = (sym(s) for s in ("b", "t", "r", "c", "kh", "kw"))
    h = sym("h")

    def columns(start: Dim, count: int) -> tuple[g.Stmt, ...]:
        acc = g.Buffer("acc", (count,), "float32", "register")
        j = sym("j")
        w = start + j
        row, column = h + kh - pad, w + kw - pad
        product = g.Binary("mul", g.Load(x, (b, row, column, c)), g.Load(weights, (kh, kw, c)))
        taps = g.Loop("j", 0, count, "unroll", (g.If(inside(column, w_extent), (g.Accumulate(acc, (j,), "sum", product),)),))
        rows = (g.If(inside(row, h_extent), (g.Loop("kw", 0, kernel, "unroll", (taps,)),)),)
        each = (
            g.Alloc(acc),
            g.Loop("j", 0, count, "unroll", (g.Store(acc, (j,), g.Load(bias, (c,))),)),
            g.Loop("kh", 0, kernel, "unroll", rows),
            g.Loop("j", 0, count, "unroll", (g.Store(y, (b, h, w, c), clip6(g.Load(acc, (j,)))),)),
        )
        start_c = sym("cb") * lanes if lanes else 0
        return (g.Loop("c", start_c, dim_min(c_extent, start_c + lanes) if lanes else c_extent, "simd", each),)

    def band_of(body: tuple[g.Stmt, ...]) -> g.Stmt:
        return g.Loop("r", 0, dim_min(band, h_extent - t * band), "serial", (g.Let("h", t * band + r), *body))

    blocks = g.Loop("wb", 0, w_extent // block, "serial", columns(sym("wb") * block, block))
    single = g.Loop("w", w_extent // block * block, w_extent, "serial", columns(sym("w"), 1))
    if overlap:
        wide = g.Binary("le", g.Index(block), g.Index(w_extent))
        rest = g.Binary("lt", g.Index(w_extent // block * block), g.Index(w_extent))
        last = g.If(g.Binary("and", wide, rest), columns(w_extent - block, block))
        narrow = g.Loop("w", 0, w_extent, "serial", columns(sym("w"), 1))
        body = band_of((blocks, last, g.If(g.Binary("lt", g.Index(w_extent), g.Index(block)), (narrow,))))
    else:
        body = band_of((blocks, single))
    if lanes:
        body = g.Loop("cb", 0, ceil_div(c_extent, lanes), "serial", (body,))
    tasks = (("b", n), ("t", ceil_div(h_extent, band)))
    return g.Kernel("depthwise", (x, weights, bias, y), ("N", "H", "W", "C", "TH"), tasks, (body,))
