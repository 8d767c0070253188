"""Printed kernels: their text against golden files, their numbers against the interpreter."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from loopir import native
from loopir.kernels import depthwise, inside
from loopir.strategies import Case, cases
from nnaccel_core.errors import UnsupportedError
from nnaccel_core.ir import sym
from nnaccel_core.loopir import grammar as g
from nnaccel_core.loopir import interp, transforms
from nnaccel_core.loopir.format import format_kernel

N, C, i, c, k = (sym(s) for s in ("N", "C", "i", "c", "k"))


@pytest.fixture(params=sorted(native.DIALECTS))
def dialect(request: pytest.FixtureRequest) -> str:
    name = str(request.param)
    if not native.DIALECTS[name]:
        pytest.skip(native.REASONS[name])
    return name


def elementwise(value: Callable[[g.Scalar], g.Scalar], source: str = "float32", target: str = "float32") -> g.Kernel:
    x, y = g.Buffer("x", (N,), source), g.Buffer("y", (N,), target)
    store = g.Store(y, (i,), value(g.Load(x, (i,))))
    return g.Kernel("elementwise", (x, y), ("N",), (), (g.Loop("i", 0, N, "simd", (store,)),))


def softmax() -> g.Kernel:
    """Rows of N x C: reduction-terminated, with lanes and a tile."""
    x, y = g.Buffer("x", (N, C), "float32"), g.Buffer("y", (N, C), "float32")
    top, total = (g.Buffer(s, (), "float32", "lanes") for s in ("top", "total"))
    peak, scale = (g.Buffer(s, (), "float32", "register") for s in ("peak", "scale"))
    tile = g.Buffer("exps", (C,), "float32", "tile")
    e = g.Unary("exp", g.Binary("sub", g.Load(x, (i, c)), g.Load(peak, ())))
    body: tuple[g.Stmt, ...] = (
        g.Alloc(top), g.Store(top, (), g.Const(float("-inf"))),
        g.Loop("c", 0, C, "simd", (g.Accumulate(top, (), "max", g.Load(x, (i, c))),)),
        g.Alloc(peak), g.Store(peak, (), g.Unary("reduce_max", g.Load(top, ()))),
        g.Alloc(total), g.Store(total, (), g.Const(0.0)), g.Alloc(tile),
        g.Loop("c", 0, C, "simd", (g.Store(tile, (c,), e), g.Accumulate(total, (), "sum", g.Load(tile, (c,))))),
        g.Alloc(scale), g.Store(scale, (), g.Unary("recip", g.Unary("reduce_sum", g.Load(total, ())))),
        g.Loop("c", 0, C, "simd", (g.Store(y, (i, c), g.Binary("mul", g.Load(tile, (c,)), g.Load(scale, ()))),)),
    )  # fmt: skip
    return g.Kernel("softmax", (x, y), ("N", "C"), (("i", N),), body)


def pool() -> g.Kernel:
    """A strided maximum with padding over the rows of N x C, all in one task."""
    x, y = g.Buffer("x", (N, C), "float32"), g.Buffer("y", ((N + 1) // 2, C), "float32")
    acc = g.Buffer("acc", (), "float32", "register")
    at = 2 * i + k - 1
    window = g.Loop("k", 0, 3, "serial", (g.If(inside(at, N), (g.Accumulate(acc, (), "max", g.Load(x, (at, c))),)),))
    body = (g.Alloc(acc), g.Store(acc, (), g.Const(float("-inf"))), window, g.Store(y, (i, c), g.Load(acc, ())))
    loop = g.Loop("i", 0, (N + 1) // 2, "serial", (g.Loop("c", 0, C, "simd", body),))
    return g.Kernel("pool", (x, y), ("N", "C"), (), (loop,))


GOLDEN = {"depthwise": lambda: depthwise(block=2), "softmax": softmax, "pool": pool}


@pytest.mark.parametrize("name", sorted(GOLDEN))
def test_golden(name: str, golden: Callable[[str, str], None]) -> None:
    kernel = GOLDEN[name]()
    golden(f"{name}.loops", format_kernel(kernel))
    ready = transforms.run_pipeline(kernel)
    golden(f"{name}.ready.loops", format_kernel(ready))
    for dialect in sorted(native.DIALECTS):
        printer = native.printer(dialect)
        text = printer.module([(name, ready)])
        assert text == printer.module([(name, transforms.run_pipeline(GOLDEN[name]()))]), "printing is not deterministic"
        golden(name + printer.extension, text)


def check(dialect: str, kernel: g.Kernel, dims: dict[str, int], arrays: list[np.ndarray[Any, Any]], rtol: float = 1e-5) -> None:
    """The built kernel writes what the interpreter writes, and touches nothing else."""
    want, got = [a.copy() for a in arrays], [a.copy() for a in arrays]
    interp.run(kernel, want, dims)
    library = native.build(dialect, native.printer(dialect).module([("f", kernel)]))
    native.call(library, "f", kernel, got, dims)
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol)


@pytest.mark.parametrize("raw", [False, True])
def test_softmax_and_pool(dialect: str, raw: bool) -> None:
    for make in (softmax, pool):
        kernel = make() if raw else transforms.run_pipeline(make())
        x = np.random.default_rng(0).standard_normal((7, 21)).astype(np.float32)
        y = np.zeros((7 if make is softmax else 4, 21), np.float32)
        check(dialect, kernel, {"N": 7, "C": 21}, [x, y])


@pytest.mark.parametrize("dims", [(2, 5, 6, 11, 2), (1, 1, 1, 8, 1), (1, 6, 9, 3, 6)])
def test_depthwise(dialect: str, dims: tuple[int, ...]) -> None:
    kernel = transforms.run_pipeline(depthwise())
    n, h, w, ch, _ = dims
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal(s).astype(np.float32) for s in ((n, h, w, ch), (3, 3, ch), (ch,), (n, h, w, ch))]
    check(dialect, kernel, dict(zip(kernel.dims, dims, strict=True)), arrays)


# Shrinking would run the compiler for minutes; the failing kernel is printed in full.
@settings(max_examples=3, deadline=None, suppress_health_check=list(HealthCheck), phases=[Phase.explicit, Phase.generate])
@given(some=st.lists(cases(), min_size=8, max_size=8), ready=st.booleans())
def test_random_kernels(dialect: str, some: list[Case], ready: bool) -> None:
    """Eight kernels a module, so that compilers run rarely."""
    named = [(f"k{n}", transforms.run_pipeline(s.kernel) if ready else s.kernel) for n, s in enumerate(some)]
    library = native.build(dialect, native.printer(dialect).module(named))
    for (symbol, kernel), case in zip(named, some, strict=True):
        want, got = case.arrays(), case.arrays()
        interp.run(case.kernel, want, case.dims)
        native.call(library, symbol, kernel, got, case.dims)
        floating = want[-1].dtype.kind == "f"
        rtol, atol = (2e-5, 1e-4) if floating else (0, 0)
        np.testing.assert_allclose(got[-1], want[-1], rtol=rtol, atol=atol, err_msg=format_kernel(kernel))


@pytest.mark.parametrize("op", ["max", "min"])
def test_extremes_hand_on_nan(dialect: str, op: str) -> None:
    special = [np.nan, 1.0, -1.0, np.inf, -np.inf, 0.0, np.nan, 3.0, 2.0]
    a, b = (np.array(v, np.float32).ravel() for v in np.meshgrid(special, special))
    x, z, y = (g.Buffer(s, (N,), "float32") for s in "xzy")
    lanes, total = g.Buffer("lanes", (), "float32", "lanes"), g.Buffer("total", (1,), "float32")
    start = float("-inf") if op == "max" else float("inf")
    both = g.Loop("i", 0, N, "simd", (g.Store(y, (i,), g.Binary(op, g.Load(x, (i,)), g.Load(z, (i,)))),))
    bound = g.Loop("i", 0, N, "simd", (g.Store(x, (i,), g.Binary(op, g.Load(x, (i,)), g.Const(0.5))),))
    reduce = (
        g.Alloc(lanes), g.Store(lanes, (), g.Const(start)),
        g.Loop("i", 0, N, "simd", (g.Accumulate(lanes, (), op, g.Load(y, (i,))),)),
        g.Store(total, (0,), g.Unary(f"reduce_{op}", g.Load(lanes, ()))),
    )  # fmt: skip
    kernel = g.Kernel("nan", (z, x, y, total), ("N",), (), (both, *reduce, bound), outputs=3)
    arrays = [b, a, np.zeros_like(a), np.zeros(1, np.float32)]
    check(dialect, kernel, {"N": a.size}, arrays)
    clean = [np.array([3.0, 1.0, 2.0], np.float32), np.array([0.0, 5.0, 4.0], np.float32), np.zeros(3, np.float32), arrays[3]]
    check(dialect, kernel, {"N": 3}, clean)


CASTS = ["float32", "float64", "int64", "int32", "uint8", "int8", "int16", "bool", "float16", "bfloat16"]


def test_casts_between_all_dtypes(dialect: str) -> None:
    pairs = [(a, b) for a in CASTS for b in CASTS]
    named = [(f"cast_{a}_{b}", elementwise(lambda x, to=b: g.Cast(x, to), a, b)) for a, b in pairs]
    library = native.build(dialect, native.printer(dialect).module(named))
    data = np.array([0, 1, 2, 3.75, 100.5, 1.0009765625, 7, 64, 0.3], np.float64)
    for (a, b), (symbol, kernel) in zip(pairs, named, strict=True):
        x, want = data.astype(stored(a)[0]), np.zeros(data.size, stored(b)[0])
        if a == "bfloat16":
            x = (x.view(np.uint32) & 0xFFFF0000).view(np.float32)
        interp.run(kernel, [x, want], {"N": data.size})
        got = np.zeros(data.size, stored(b)[1])
        memory = (x.view(np.uint32) >> 16).astype(np.uint16) if a == "bfloat16" else x
        native.call(library, symbol, kernel, [memory, got], {"N": data.size})
        if b == "bfloat16":
            got = (got.astype(np.uint32) << 16).view(np.float32)
        np.testing.assert_array_equal(got, want, err_msg=symbol)


def stored(dtype: str) -> tuple[np.dtype[Any], np.dtype[Any]]:
    """The interpreter's and the memory's element type."""
    return (np.dtype(np.float32), np.dtype(np.uint16)) if dtype == "bfloat16" else (np.dtype(dtype), np.dtype(dtype))


def test_bfloat16_rounds_to_nearest_even_and_keeps_nan(dialect: str) -> None:
    x = np.array([1.00390625, 1.01171875, -1.00390625, np.nan, np.inf, 3.4e38, 1e-40, 0.0], np.float32)
    kernel = elementwise(lambda v: v, "float32", "bfloat16")
    want, got = np.zeros(x.size, np.float32), np.zeros(x.size, np.uint16)
    interp.run(kernel, [x, want], {"N": x.size})
    native.call(native.build(dialect, native.printer(dialect).module([("f", kernel)])), "f", kernel, [x, got], {"N": x.size})
    np.testing.assert_array_equal((got.astype(np.uint32) << 16).view(np.float32), want)


def test_strides_gathers_and_broadcasts(dialect: str) -> None:
    """Simd over an axis of stride 0, 1, 2, a symbolic stride, and a divided index."""
    x = g.Buffer("x", (N, C), "float32", strides=(1, N))
    row, y = g.Buffer("row", (C,), "float32"), g.Buffer("y", (N, C), "float32", strides=(2 * C, 2))
    total: g.Scalar = g.Load(x, (i, c))
    for part in (g.Load(row, (0,)), g.Load(row, (c // 2,)), g.Load(row, (C - 1 - c,)), g.Load(row, ((c * 3 + 1) % C,))):
        total = g.Binary("add", g.Binary("mul", total, g.Const(2.0)), part)
    guard = g.Binary("or", g.Binary("lt", g.Index(c), g.Index(i + 1)), g.Binary("ge", g.Index(2 * c), g.Index(C)))
    body = (g.If(guard, (g.Store(y, (i, c), total),), (g.Store(y, (i, c), g.Const(-1.0)),)),)
    kernel = g.Kernel("strides", (x, row, y), ("N", "C"), (("i", N),), (g.Loop("c", 0, C, "simd", body),))
    n, ch = 5, 13
    rng = np.random.default_rng(0)
    column_major = rng.standard_normal((ch, n)).astype(np.float32)
    r = rng.standard_normal(ch).astype(np.float32)
    wide = np.full((n, ch, 2), 9, np.float32)
    want = np.zeros((n, ch), np.float32)
    interp.run(kernel, [column_major.T, r, want], {"N": n, "C": ch})
    library = native.build(dialect, native.printer(dialect).module([("f", kernel)]))
    native.call(library, "f", kernel, [column_major, r, wide], {"N": n, "C": ch})
    np.testing.assert_allclose(wide[:, :, 0], want, rtol=1e-6)
    assert (wide[:, :, 1] == 9).all()


def test_select_guards_its_loads(dialect: str) -> None:
    """The operand not chosen may be out of range by gigabytes."""
    x, y = g.Buffer("x", (N,), "float32"), g.Buffer("y", (C,), "float32")
    far = c * 1_000_003 - 2_000_006
    value = g.Select(inside(far, N), g.Load(x, (far,)), g.Const(7.0))
    kernel = g.Kernel("select", (x, y), ("N", "C"), (), (g.Loop("c", 0, C, "simd", (g.Store(y, (c,), value),)),))
    check(dialect, kernel, {"N": 3, "C": 300}, [np.ones(3, np.float32), np.zeros(300, np.float32)])
    far = i * (1 << 40) - (1 << 40)
    value = g.Select(inside(far, N), g.Load(x, (far,)), g.Const(7.0))
    inner = g.Loop("c", 0, C, "simd", (g.Store(y, (c,), g.Binary("add", value, g.Cast(g.Index(c), "float32"))),))
    kernel = g.Kernel("uniform", (x, y), ("N", "C"), (), (g.Loop("i", 0, 3, "serial", (inner,)),))
    check(dialect, kernel, {"N": 3, "C": 30}, [np.ones(3, np.float32), np.zeros(30, np.float32)])


def test_awkward_names_and_tasks_in_parts(dialect: str) -> None:
    names = ["float", "layer1.0.conv", "in", "nn_max", "0", "x"]
    buffers = tuple(g.Buffer(n, (sym("int"), C), "float32") for n in names)
    total: g.Scalar = g.Const(0.0)
    for b in buffers[:-1]:
        total = g.Binary("add", total, g.Load(b, (sym("for"), sym("begin"))))
    body = (g.Loop("begin", 0, C, "simd", (g.Store(buffers[-1], (sym("for"), sym("begin")), total),)),)
    kernel = g.Kernel("names", buffers, ("int", "C"), (("for", sym("int")),), body)
    arrays = [np.full((4, 3), v, np.float32) for v in range(6)]
    library = native.build(dialect, native.printer(dialect).module([("f", kernel), ("g", kernel)]))
    native.call(library, "g", kernel, arrays, {"int": 4, "C": 3}, range(1, 3))
    assert arrays[-1][:, 0].tolist() == [5, 10, 10, 5]


def test_integer_arithmetic_rounds_down(dialect: str) -> None:
    """Negative numerators, in scalars and in indices, uniform and along the lanes."""
    y = g.Buffer("y", (4, N), "int64")
    at = i - 6
    four, minus_four = g.Const(4, "int64"), g.Const(-4, "int64")
    values = (g.Index(at // 3), g.Index(at % 3), g.Binary("div", g.Index(at), four), g.Binary("mod", g.Index(at), minus_four))
    for bind in ("serial", "simd"):
        stores = tuple(g.Store(y, (row, i), v) for row, v in enumerate(values))
        kernel = g.Kernel("floor", (y,), ("N",), (), (g.Loop("i", 0, N, bind, stores),))
        check(dialect, kernel, {"N": 12}, [np.zeros((4, 12), np.int64)])


def test_rows_found_by_a_quotient_and_a_remainder(dialect: str) -> None:
    """A uniform offset that is a shift or a mask alone, beside one along the lanes: both bind less than the plus between."""
    x, y = g.Buffer("x", (N,), "float32"), g.Buffer("y", (4, C), "float32")
    for row in (i // 2, i % 2):
        load = g.Load(x, (row + 5 * c,))
        inner = g.Loop("c", 0, C, "simd", (g.Store(y, (i, c), load),))
        kernel = g.Kernel("rows", (x, y), ("N", "C"), (), (g.Loop("i", 0, 4, "serial", (inner,)),))
        check(dialect, kernel, {"N": 60, "C": 11}, [np.arange(60, dtype=np.float32), np.zeros((4, 11), np.float32)])


def test_ispc_uses_plain_vectors_and_fma() -> None:
    if not native.DIALECTS["ispc"]:
        pytest.skip(native.REASONS["ispc"])
    text = native.assembly(native.printer("ispc").module([("f", transforms.run_pipeline(depthwise()))]))
    assert "vfmadd" in text
    assert "gather" not in text and "scatter" not in text
    assert text.count(".globl") == 1, "one function, compiled once"


def test_what_cannot_be_printed_says_so() -> None:
    y = g.Buffer("y", (N,), "float32")
    atomic = g.Kernel("a", (y,), ("N",), (), (g.Accumulate(y, (0,), "sum", g.Const(1.0), atomic=True),))
    for dialect in sorted(native.DIALECTS):
        with pytest.raises(UnsupportedError, match="atomic"):
            native.printer(dialect).kernel("f", atomic)
