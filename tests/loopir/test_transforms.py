"""Every pass keeps what the interpreter computes, and does what it is for."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from loopir.kernels import depthwise, inside
from loopir.strategies import Case, cases
from nnaccel_core.ir import dim_max, dim_min, sym
from nnaccel_core.loopir import grammar as g
from nnaccel_core.loopir import interp, transforms
from nnaccel_core.loopir.format import format_kernel
from nnaccel_core.loopir.ranges import Ranges
from nnaccel_core.loopir.rewrite import walk
from nnaccel_core.loopir.verify import verify

N, i, k = sym("N"), sym("i"), sym("k")


@pytest.mark.parametrize("name", ["simplify", "unroll", "clip", "peel", "unswitch", "hoist", "run_pipeline"])
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(case=cases())
def test_a_pass_keeps_the_result(name: str, case: Case) -> None:
    before, after = case.arrays(), case.arrays()
    interp.run(case.kernel, before, case.dims)
    new = verify(getattr(transforms, name)(transforms.unroll(case.kernel) if name in ("hoist", "unswitch") else case.kernel))
    interp.run(new, after, case.dims)
    np.testing.assert_array_equal(after[-1], before[-1], err_msg=format_kernel(new))


@pytest.mark.parametrize("dims", [(2, 5, 6, 3, 2), (1, 1, 1, 2, 1), (1, 2, 9, 1, 4), (1, 7, 3, 2, 3), (1, 3, 4, 1, 3)])
@pytest.mark.parametrize("size", [3, 5])
@pytest.mark.parametrize("how", [{}, {"overlap": True}, {"lanes": 2}])
def test_the_pipeline_keeps_a_depthwise_convolution(dims: tuple[int, ...], size: int, how: dict[str, int]) -> None:
    kernel = depthwise(kernel=size, **how)  # type: ignore[arg-type]
    env = dict(zip(kernel.dims, dims, strict=True))
    n, h, w, c, _ = dims
    rng = np.random.default_rng(0)
    shapes = [(n, h, w, c), (size, size, c), (c,)]
    arrays = [rng.standard_normal(s).astype(np.float32) for s in shapes]
    got = [*arrays, np.zeros((n, h, w, c), np.float32)]
    interp.run(transforms.run_pipeline(kernel), got, env)
    pad = size // 2
    padded = np.pad(arrays[0], ((0, 0), (pad, pad), (pad, pad), (0, 0))).astype(np.float64)
    want = arrays[2] + sum(padded[:, a : a + h, b : b + w] * arrays[1][a, b] for a in range(size) for b in range(size))
    np.testing.assert_allclose(got[-1], np.clip(want, 0, 6), rtol=1e-5, atol=1e-5)


def guarded(*offsets: int, stride: int = 1) -> g.Kernel:
    x, y = g.Buffer("x", (N,), "float32"), g.Buffer("y", (N,), "float32")
    body = tuple(g.If(inside(stride * i + o, N), (g.Accumulate(y, (i,), "sum", g.Load(x, (stride * i + o,))),)) for o in offsets)
    return g.Kernel("guarded", (x, y), ("N",), (), (g.Loop("i", 0, N, "serial", (g.Store(y, (i,), g.Const(0.0)), *body)),))


@pytest.mark.parametrize("n", range(6))
@pytest.mark.parametrize(("offsets", "stride"), [((-1, 0, 1), 1), ((-2, 3), 1), ((-1, 1), 2), ((4,), 1)])
def test_peel_gives_a_guard_free_interior(n: int, offsets: tuple[int, ...], stride: int) -> None:
    kernel = guarded(*offsets, stride=stride)
    new = verify(transforms.peel(kernel))
    loops = [s for s in new.body if isinstance(s, g.Loop)]
    assert any(not any(isinstance(s, g.If) for s in walk(loop.body)) for loop in loops), format_kernel(new)
    x = np.arange(1, n + 1, dtype=np.float32)
    a, b = np.zeros(n, np.float32), np.zeros(n, np.float32)
    interp.run(kernel, [x, a], {"N": n})
    interp.run(new, [x, b], {"N": n})
    assert (a == b).all()


def test_peel_sees_through_inner_loops_and_lets() -> None:
    x, y = g.Buffer("x", (N,), "float32"), g.Buffer("y", (N,), "float32")
    inner = g.If(inside(sym("at") - 1, N), (g.Accumulate(y, (i,), "sum", g.Load(x, (sym("at") - 1,))),))
    body = (g.Store(y, (i,), g.Const(0.0)), g.Loop("k", 0, 3, "serial", (g.Let("at", i + k), inner)))
    new = transforms.peel(g.Kernel("w", (x, y), ("N",), (), (g.Loop("i", 0, N, "serial", body),)))
    interior = [s for s in new.body if isinstance(s, g.Loop) and not any(isinstance(t, g.If) for t in walk(s.body))]
    assert [str(s.begin) for s in interior] == ["i_lo"], format_kernel(new)
    for n in range(5):
        data = np.arange(1, n + 1, dtype=np.float32)
        got = np.zeros(n, np.float32)
        interp.run(new, [data, got], {"N": n})
        np.testing.assert_array_equal(got, [data[max(0, at - 1) : at + 2].sum() for at in range(n)])


def test_two_windows_with_one_axis_name_are_peeled_for_both() -> None:
    """The same guard text under loops of different extents: the interior must suit the wider one."""
    x, y = g.Buffer("x", (N,), "float32"), g.Buffer("y", (N,), "float32")

    def window(size: int) -> g.Stmt:
        term = g.If(inside(i + k, N), (g.Accumulate(y, (i,), "sum", g.Load(x, (i + k,))),))
        return g.Loop("k", 0, size, "serial", (term,))

    for sizes in ((5, 2), (2, 5)):
        body = (g.Store(y, (i,), g.Const(0.0)), *map(window, sizes))
        kernel = g.Kernel("two", (x, y), ("N",), (), (g.Loop("i", 0, N, "serial", body),))
        x1, a, b = np.arange(7, dtype=np.float32), np.zeros(7, np.float32), np.zeros(7, np.float32)
        interp.run(kernel, [x1, a], {"N": 7})
        interp.run(transforms.peel(kernel), [x1, b], {"N": 7})
        assert (a == b).all()


def test_unswitch_gives_a_simd_loop_without_guards() -> None:
    x, y, c, C = g.Buffer("x", (N, sym("C")), "float32"), g.Buffer("y", (N, sym("C")), "float32"), sym("c"), sym("C")
    edge = g.If(inside(i - 1, N), (g.Accumulate(y, (i, c), "sum", g.Load(x, (i - 1, c))),))
    lane = g.If(inside(c - 1, C), (g.Accumulate(y, (i, c), "sum", g.Load(x, (i, c - 1))),))
    loop = g.Loop("c", 0, C, "simd", (g.Store(y, (i, c), g.Const(0.0)), edge, lane))
    kernel = g.Kernel("u", (x, y), ("N", "C"), (("i", N),), (loop,))
    new = transforms.simplify(transforms.unswitch(kernel))
    (outer,) = new.body
    assert isinstance(outer, g.If)
    guards = [sum(isinstance(s, g.If) for s in walk(branch)) for branch in (outer.then, outer.other)]
    assert guards == [1, 2], format_kernel(new)
    data, a, b = np.arange(12, dtype=np.float32).reshape(3, 4), np.zeros((3, 4), np.float32), np.zeros((3, 4), np.float32)
    interp.run(kernel, [data, a], {"N": 3, "C": 4})
    interp.run(verify(new), [data, b], {"N": 3, "C": 4})
    assert (a == b).all()


def test_clip_turns_guards_into_bounds() -> None:
    x, y = g.Buffer("x", (N,), "float32"), g.Buffer("y", (N,), "float32")
    at = 2 * i + k - 1
    window = g.Loop("k", 0, 3, "serial", (g.If(inside(at, N), (g.Accumulate(y, (i,), "sum", g.Load(x, (at,))),)),))
    loop = g.Loop("i", 0, N, "serial", (g.Store(y, (i,), g.Const(0.0)), window))
    new = transforms.simplify(transforms.clip(g.Kernel("w", (x, y), ("N",), (), (loop,))))
    (inner,) = [s for s in walk(new.body) if isinstance(s, g.Loop) and s.axis == "k"]
    assert not any(isinstance(s, g.If) for s in walk(new.body))
    assert inner.begin == dim_max(0, 1 - 2 * i)
    assert inner.end == dim_min(3, N - 2 * i + 1)


def test_unroll_makes_register_indices_constants() -> None:
    y, acc = g.Buffer("y", (4,), "float32"), g.Buffer("acc", (4,), "float32", "register")
    fill = g.Loop("i", 0, 4, "unroll", (g.Store(acc, (i,), g.Const(1.0)),))
    copy = g.Loop("i", 0, 4, "unroll", (g.Let("j", i), g.Store(y, (sym("j"),), g.Load(acc, (sym("j"),)))))
    kernel = g.Kernel("u", (y,), (), (), (g.Alloc(acc), fill, copy))
    new = verify(transforms.unroll(kernel))
    assert len(new.body) == 9
    out = np.zeros(4, np.float32)
    interp.run(new, [out], {})
    assert (out == 1).all()


def test_simplify_drops_what_does_nothing() -> None:
    y = g.Buffer("y", (N,), "float32")
    one = g.Loop("k", 0, 1, "serial", (g.Store(y, (i + k,), g.Binary("add", g.Const(1.0), g.Const(2.0))),))
    body = (g.Let("dead", N * 2), g.If(inside(i, N), (one,)), g.Loop("e", N, N, "serial", (one,)))
    new = transforms.simplify(g.Kernel("s", (y,), ("N",), (), (g.Loop("i", 0, N, "serial", body),)))
    assert format_kernel(new).splitlines()[3:] == ["  serial i in 0 .. N", "    y[i] = 3.0"]


def test_hoist_moves_invariant_lets_out() -> None:
    y = g.Buffer("y", (N,), "float32")
    body = (g.Let("m", N - 1), g.Let("j", sym("m") - i), g.Store(y, (sym("j"),), g.Const(1.0)))
    new = transforms.hoist(g.Kernel("h", (y,), ("N",), (), (g.Loop("i", 0, N, "serial", body),)))
    assert [type(s).__name__ for s in new.body] == ["Let", "Loop"]
    out = np.zeros(3, np.float32)
    interp.run(verify(new), [out], {"N": 3})
    assert (out == 1).all()


def test_ranges_prove_what_they_should() -> None:
    t, r, TH, H = (sym(s) for s in ("t", "r", "TH", "H"))
    ranges = Ranges((("t", 0, (H + TH - 1) // TH - 1),)).axis("r", 0, dim_min(TH, H - t * TH))
    assert ranges.nonneg(t * TH + r)
    assert ranges.nonneg(H - 1 - t * TH - r)
    assert not ranges.nonneg(H - 2 - t * TH - r)
    assert ranges.nonneg(3 - (H - 4 * (H // 4)))
    assert not ranges.nonneg(2 - (H - 4 * (H // 4)))
    assert ranges.nonneg(7 - H % 8)
