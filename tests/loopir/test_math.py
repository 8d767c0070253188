"""Elementary functions of generated kernels against float64, in units in the last place of the result."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from loopir import native
from nnaccel_core.ir import sym
from nnaccel_core.loopir import grammar as g

Array = np.ndarray[Any, Any]
N, i = sym("N"), sym("i")

#: function, float64 reference, largest error accepted in float32
FUNCTIONS: dict[str, tuple[Callable[[Array], Array], float]] = {
    "exp": (np.exp, 1.5), "log": (np.log, 1.0), "sin": (np.sin, 2.0), "cos": (np.cos, 2.0), "tanh": (np.tanh, 2.5),
    "erf": (np.vectorize(math.erf), 1.25), "log1p": (np.log1p, 2.0), "expm1": (np.expm1, 2.0), "sqrt": (np.sqrt, 0.5),
    "rsqrt": (lambda v: 1 / np.sqrt(v), 1.5), "recip": (lambda v: 1 / v, 0.5), "abs": (np.abs, 0), "neg": (np.negative, 0),
    "floor": (np.floor, 0), "ceil": (np.ceil, 0), "round": (np.rint, 0),
}  # fmt: skip


def points() -> Array:
    rng = np.random.default_rng(1)
    spread = [rng.standard_normal(10000) * scale for scale in (1e-30, 1e-6, 1e-3, 0.1, 1, 4, 20, 100)]
    special = [0, -0.0, np.inf, -np.inf, np.nan, 1e-40, -1e-40, 1e38, -1e38, 3e38, -1, 1, 0.5, 1.5, 2.5, -0.5]
    special += [88.7, 88.8, -103, -104]
    return np.concatenate([*spread, rng.uniform(-110, 110, 20000), np.linspace(-5, 5, 20001), special])


def kernel(op: str, dtype: str, bind: str) -> g.Kernel:
    x, y = g.Buffer("x", (N,), dtype), g.Buffer("y", (N,), dtype)
    return g.Kernel(op, (x, y), ("N",), (), (g.Loop("i", 0, N, bind, (g.Store(y, (i,), g.Unary(op, g.Load(x, (i,)))),)),))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("bind", ["simd", "serial"])
@pytest.mark.parametrize("dialect", sorted(native.DIALECTS))
def test_accuracy(dialect: str, bind: str, dtype: str) -> None:
    if not native.DIALECTS[dialect]:
        pytest.skip(native.REASONS[dialect])
    named = [(f"f_{op}", kernel(op, dtype, bind)) for op in FUNCTIONS]
    library = native.build(dialect, native.printer(dialect).module(named))
    x = points().astype(dtype)
    for symbol, k in named:
        reference, limit = FUNCTIONS[k.name]
        y = np.zeros_like(x)
        native.call(library, symbol, k, [x, y], {"N": x.size})
        with np.errstate(all="ignore"):
            exact = reference(x.astype(np.float64))
            want = exact.astype(dtype)
            finite = np.isfinite(want)
            # Beyond the finite numbers there is nothing to round: infinities and NaN match exactly.
            np.testing.assert_array_equal(y[~finite], want[~finite], err_msg=k.name)
            error = np.abs(y[finite].astype(np.float64) - exact[finite]) / np.spacing(np.abs(want[finite])).astype(np.float64)
        worst = int(error.argmax())
        # In float64 both sides are the system's library, which is good to 3 units.
        allowed = limit if dtype == "float32" else 4.0
        assert error[worst] <= allowed, f"{k.name}({x[finite][worst]!r}) is {error[worst]:.2f} ulp off"


@pytest.mark.parametrize("dialect", sorted(native.DIALECTS))
def test_powers(dialect: str) -> None:
    if not native.DIALECTS[dialect]:
        pytest.skip(native.REASONS[dialect])
    x, z, y = (g.Buffer(s, (N,), "float32") for s in "xzy")
    body = (g.Store(y, (i,), g.Binary("pow", g.Load(x, (i,)), g.Load(z, (i,)))),)
    k = g.Kernel("pow", (x, z, y), ("N",), (), (g.Loop("i", 0, N, "simd", body),))
    rng = np.random.default_rng(0)
    a, b = rng.uniform(0, 50, 999).astype(np.float32), rng.uniform(-8, 8, 999).astype(np.float32)
    got = np.zeros_like(a)
    native.call(native.build(dialect, native.printer(dialect).module([("f", k)])), "f", k, [a, b, got], {"N": a.size})
    np.testing.assert_allclose(got, a.astype(np.float64) ** b, rtol=2e-7)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("dialect", sorted(native.DIALECTS))
def test_remainders_of_all_kinds_of_numbers(dialect: str, dtype: str) -> None:
    """As numpy's mod: of the divisor's sign, NaN for infinities and by zero; a finite number by an infinity is itself or that."""
    if not native.DIALECTS[dialect]:
        pytest.skip(native.REASONS[dialect])
    x, z, y = (g.Buffer(s, (N,), dtype) for s in "xzy")
    body = (g.Store(y, (i,), g.Binary("mod", g.Load(x, (i,)), g.Load(z, (i,)))),)
    k = g.Kernel("mod", (x, z, y), ("N",), (), (g.Loop("i", 0, N, "simd", body),))
    kinds = np.array([0, -0.0, 1, -1, 2.5, -2.5, 7, -7, np.inf, -np.inf, np.nan], dtype)
    a, b = (m.ravel() for m in np.meshgrid(kinds, kinds))
    got = np.ones_like(a)
    native.call(native.build(dialect, native.printer(dialect).module([("f", k)])), "f", k, [a, b, got], {"N": a.size})
    with np.errstate(all="ignore"):
        np.testing.assert_array_equal(got, np.mod(a, b))
