"""Element-wise operators of one operand, casts among them.

One row each: the numpy reference, the loop IR body, the gradient and sample ranges.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from nnaccel_core.errors import ShapeError
from nnaccel_core.ir import Dim, Node, Rewriter, TensorType, Value, numpy_dtype, sym
from nnaccel_core.ir.types import FLOATS, ITEMSIZE
from nnaccel_core.loopir.grammar import Binary, Cast, Const, Load, Nest, Scalar, Select, Unary, scalar_dtype
from nnaccel_core.ops.registry import Array, Attrs, Emitter, OpDef, Sample, Vjp, flat_vjp, register, unary_vjp


def axis_names(rank: int) -> tuple[str, ...]:
    """Symbol names of the axes of an op's output in its naive nest."""
    return tuple(f"i{k}" for k in range(rank))


def load_broadcast(value: Value, axes: Sequence[Dim]) -> Load:
    """``value`` at the point ``axes`` of a broadcast result."""
    offset = len(axes) - len(value.shape)
    return Load(value, tuple(0 if d == 1 else axes[offset + k] for k, d in enumerate(value.shape)))


def pointwise(node: Node, body: Callable[..., Scalar]) -> tuple[Nest]:
    """The nest of an element-wise node: ``body`` of the loaded operands."""
    names = axis_names(node.output.type.rank)
    axes = [sym(n) for n in names]
    return (Nest(node.output, names, body(*(load_broadcast(v, axes) for v in node.inputs))),)


def like(s: Scalar, x: float) -> Const:
    """The constant ``x`` in the dtype of ``s``."""
    dtype = scalar_dtype(s)
    return Const(x if dtype.startswith(("float", "bfloat")) else int(x), dtype)


def _need_float(types: Sequence[TensorType], attrs: Attrs) -> Sequence[TensorType]:
    if not types[0].is_float:
        raise ShapeError(f"needs a floating-point input, not {types[0].dtype}")
    return (TensorType(types[0].shape, types[0].dtype),)


def _same(types: Sequence[TensorType], attrs: Attrs) -> Sequence[TensorType]:
    return (TensorType(types[0].shape, types[0].dtype),)


def _samples(lo: float, hi: float, rtol: float, *attrs: Attrs, dtype: str = "float32") -> Iterable[Sample]:
    rng = np.random.default_rng(0)
    for a in attrs or ({},):
        yield Sample((rng.uniform(lo, hi, (2, 3, 5, 17)).astype(dtype),), a, rtol)
        yield Sample((rng.uniform(lo, hi, (7,)).astype(dtype),), a, rtol)
        yield Sample((rng.uniform(lo, hi, ()).astype(dtype),), a, rtol)


_erf = np.vectorize(math.erf, otypes=[np.float64])


def erf(x: Array) -> Array:
    """The error function in float64, element by element."""
    return np.asarray(_erf(x.astype(np.float64))) if x.size else x


def sigmoid(x: Array) -> Array:
    """1 / (1 + exp(-x)) without overflow."""
    e = np.exp(-np.abs(x))
    return np.where(x >= 0, 1 / (1 + e), e / (1 + e))


def sigmoid_body(x: Scalar) -> Scalar:
    """`sigmoid` in the loop IR; exp overflows to inf for very negative x and gives the right 0."""
    one = like(x, 1.0)
    return Binary("div", one, Binary("add", one, Unary("exp", Unary("neg", x))))


def clip_body(x: Scalar, lo: float, hi: float) -> Scalar:
    """Clamp that keeps NaN, as torch does."""
    return Select(Binary("lt", x, like(x, lo)), like(x, lo), Select(Binary("gt", x, like(x, hi)), like(x, hi), x))


def _gelu_ref(x: Array, attrs: Attrs) -> Array:
    if attrs.get("approximate", "none") == "tanh":
        return np.asarray(0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))))
    return np.asarray(0.5 * x * (1 + erf(x / math.sqrt(2))))


def _gelu_body(x: Scalar, attrs: Attrs) -> Scalar:
    half, one = like(x, 0.5), like(x, 1.0)
    if attrs.get("approximate", "none") == "tanh":
        cube = Binary("mul", Binary("mul", x, x), x)
        inner = Binary("mul", like(x, math.sqrt(2 / math.pi)), Binary("add", x, Binary("mul", like(x, 0.044715), cube)))
        return Binary("mul", Binary("mul", half, x), Binary("add", one, Unary("tanh", inner)))
    return Binary("mul", Binary("mul", half, x), Binary("add", one, Unary("erf", Binary("mul", x, like(x, 1 / math.sqrt(2))))))


def _hardsigmoid_body(x: Scalar) -> Scalar:
    # Times 1/6, since vectors divide at a tenth of the speed; 6 * (1/6) is 1 in every type, so both ends stay exact.
    return Binary("mul", clip_body(Binary("add", x, like(x, 3.0)), 0.0, 6.0), like(x, 1 / 6))


def _softplus_body(x: Scalar, attrs: Attrs) -> Scalar:
    beta, threshold = attrs.get("beta", 1.0), attrs.get("threshold", 20.0)
    bx = Binary("mul", x, like(x, beta))
    soft = Binary("div", Unary("log1p", Unary("exp", bx)), like(x, beta))
    return Select(Binary("gt", bx, like(x, threshold)), x, soft)


def _elu_body(x: Scalar, attrs: Attrs) -> Scalar:
    return Select(Binary("gt", x, like(x, 0.0)), x, Binary("mul", like(x, attrs.get("alpha", 1.0)), Unary("expm1", x)))


def unary(
    name: str,
    ref: Callable[[Array, Attrs], Array],
    body: Callable[[Scalar, Attrs], Scalar],
    *,
    vjp: Vjp | None = None,
    domain: tuple[float, float] = (-3.0, 3.0),
    cost: int = 1,
    rtol: float = 1e-5,
    sample_attrs: tuple[Attrs, ...] = (),
    any_dtype: bool = False,
    sample_dtype: str = "float32",
) -> OpDef:
    """Register a float element-wise op of one operand."""

    def run(xs: Sequence[Array], attrs: Attrs) -> Sequence[Array]:
        return (np.asarray(ref(xs[0], attrs)).astype(xs[0].dtype),)

    return register(
        OpDef(
            name,
            _same if any_dtype else _need_float,
            run,
            vjp,
            "any",
            loop=lambda n: pointwise(n, lambda x: body(x, n.attrs)),
            samples=functools.partial(_samples, *domain, rtol, *sample_attrs, dtype=sample_dtype),
            cost=cost,
        )
    )


def _op1(op: str) -> Callable[[Scalar, Attrs], Scalar]:
    return lambda x, attrs: Unary(op, x)


def unbroadcast(r: Rewriter, grad: Value, shape: Sequence[Dim], origin: str) -> Value:
    """Sum ``grad`` over the axes along which an operand of ``shape`` was broadcast.

    In two stages where the batch is one of several: every image has tasks of its own, and sums are short.
    """
    extra = grad.type.rank - len(shape)
    axes = tuple(range(extra)) + tuple(extra + k for k, d in enumerate(shape) if d == 1 and grad.shape[extra + k] != 1)
    for part in (axes[1:], axes[:1]) if axes[:1] == (0,) else (axes,):
        if part:
            grad = r.add("reduce_sum", [grad], {"axes": part, "keepdims": True}, origin=origin)
    if extra:
        grad = r.add("reshape", [grad], {"shape": tuple(shape)}, origin=origin)
    return grad


# --- gradients: of x, its result y and the result's gradient g; at kinks as torch has them ----------------------------


def _scaled(f: Callable[[Emitter, Value, Value], Value]) -> Vjp:
    """``g`` times the derivative ``f(emit, x, y)``."""
    return unary_vjp(lambda e, n, x, y, g: e("mul", g, f(e, x, y)))


def _abs_vjp(e: Emitter, n: Node, x: Value, y: Value, g: Value) -> Value:
    return e("where", e("gt", x, 0.0), g, e("where", e("lt", x, 0.0), e("neg", g), 0.0))


def _silu_slope(e: Emitter, x: Value, y: Value) -> Value:
    s = e("sigmoid", x)
    return e("mul", s, e("add", e("mul", x, e("sub", 1.0, s)), 1.0))


def _gelu_vjp(e: Emitter, n: Node, x: Value, y: Value, g: Value) -> Value:
    square = e("mul", x, x)
    if n.attrs.get("approximate", "none") == "tanh":
        k = math.sqrt(2 / math.pi)
        t = e("tanh", e("mul", e("mul", x, k), e("add", e("mul", square, 0.044715), 1.0)))
        inner = e("add", e("mul", square, 3 * 0.044715 * k), k)
        chance, slope = e("add", t, 1.0), e("mul", e("sub", 1.0, e("mul", t, t)), inner)
        return e("mul", g, e("mul", e("add", chance, e("mul", x, slope)), 0.5))
    chance = e("mul", e("add", e("erf", e("mul", x, math.sqrt(0.5))), 1.0), 0.5)
    density = e("mul", e("exp", e("mul", square, -0.5)), 1 / math.sqrt(2 * math.pi))
    return e("mul", g, e("add", chance, e("mul", x, density)))


def _hardsigmoid_vjp(e: Emitter, n: Node, x: Value, y: Value, g: Value) -> Value:
    inside = e("bitwise_and", e("gt", x, -3.0), e("lt", x, 3.0))
    return e("where", inside, e("mul", g, 1 / 6), 0.0)


def _hardswish_vjp(e: Emitter, n: Node, x: Value, y: Value, g: Value) -> Value:
    middle = e("mul", g, e("add", e("mul", x, 1 / 3), 0.5))
    return e("where", e("le", x, -3.0), 0.0, e("where", e("lt", x, 3.0), middle, g))


def _clip_vjp(e: Emitter, n: Node, x: Value, y: Value, g: Value) -> Value:
    """1 inside and at the bounds, as ``clamp`` has it; with ``open`` only inside, as ``hardtanh`` and ``relu6`` have it."""
    inner = n.attrs.get("open", False)
    tests = [
        e(op, y if inner else x, float(bound))
        for op, bound in (("gt" if inner else "ge", n.attrs["min"]), ("lt" if inner else "le", n.attrs["max"]))
        if math.isfinite(bound)
    ]
    if not tests:
        return g
    return e("where", tests[0] if len(tests) == 1 else e("bitwise_and", *tests), g, 0.0)


def _leaky_vjp(e: Emitter, n: Node, x: Value, y: Value, g: Value) -> Value:
    alpha = n.attrs["alpha"]
    return e("where", e("gt", y if alpha >= 0 else x, 0.0), g, e("mul", g, alpha))


def _elu_vjp(e: Emitter, n: Node, x: Value, y: Value, g: Value) -> Value:
    alpha = n.attrs.get("alpha", 1.0)
    slope = e("add", y, alpha) if alpha > 0 else e("mul", e("exp", x), alpha)
    return e("where", e("gt", y if alpha > 0 else x, 0.0), g, e("mul", g, slope))


def _softplus_vjp(e: Emitter, n: Node, x: Value, y: Value, g: Value) -> Value:
    scaled = e("mul", x, n.attrs.get("beta", 1.0))
    straight = e("gt", scaled, n.attrs.get("threshold", 20.0))
    return e("where", straight, g, e("mul", g, e("sigmoid", scaled)))


# --- the operators ----------------------------------------------------------------------------------------------------

unary(
    "relu",
    lambda x, a: np.where(x < 0, np.zeros((), x.dtype), x),
    lambda x, a: Select(Binary("lt", x, like(x, 0)), like(x, 0), x),
    vjp=unary_vjp(lambda e, n, x, y, g: e("where", e("le", y, 0.0), 0.0, g)),
    any_dtype=True,
)
unary("neg", lambda x, a: -x, _op1("neg"), any_dtype=True, vjp=unary_vjp(lambda e, n, x, y, g: e("neg", g)))
unary("abs", lambda x, a: np.abs(x), _op1("abs"), any_dtype=True, vjp=unary_vjp(_abs_vjp))
unary("exp", lambda x, a: np.exp(x), _op1("exp"), cost=8, vjp=_scaled(lambda e, x, y: y))
unary("expm1", lambda x, a: np.expm1(x), _op1("expm1"), cost=10, vjp=_scaled(lambda e, x, y: e("add", y, 1.0)))
unary(
    "log",
    lambda x, a: np.log(x),
    _op1("log"),
    domain=(0.1, 3.0),
    cost=8,
    vjp=unary_vjp(lambda e, n, x, y, g: e("div", g, x)),
)
unary(
    "log1p",
    lambda x, a: np.log1p(x),
    _op1("log1p"),
    domain=(-0.5, 3.0),
    cost=10,
    vjp=unary_vjp(lambda e, n, x, y, g: e("div", g, e("add", x, 1.0))),
)
unary(
    "sqrt",
    lambda x, a: np.sqrt(x),
    _op1("sqrt"),
    domain=(0.1, 3.0),
    cost=4,
    vjp=unary_vjp(lambda e, n, x, y, g: e("div", g, e("mul", y, 2.0))),
)
unary(
    "rsqrt",
    lambda x, a: 1 / np.sqrt(x),
    _op1("rsqrt"),
    domain=(0.1, 3.0),
    cost=6,
    vjp=_scaled(lambda e, x, y: e("mul", e("mul", y, e("mul", y, y)), -0.5)),
)
unary(
    "reciprocal",
    lambda x, a: 1 / x,
    _op1("recip"),
    domain=(0.1, 3.0),
    cost=4,
    vjp=_scaled(lambda e, x, y: e("neg", e("mul", y, y))),
)
unary("sin", lambda x, a: np.sin(x), _op1("sin"), cost=10, vjp=_scaled(lambda e, x, y: e("cos", x)))
unary("cos", lambda x, a: np.cos(x), _op1("cos"), cost=10, vjp=_scaled(lambda e, x, y: e("neg", e("sin", x))))
unary("tanh", lambda x, a: np.tanh(x), _op1("tanh"), cost=12, vjp=_scaled(lambda e, x, y: e("sub", 1.0, e("mul", y, y))))
unary(
    "erf",
    lambda x, a: erf(x),
    _op1("erf"),
    cost=12,
    vjp=_scaled(lambda e, x, y: e("mul", e("exp", e("neg", e("mul", x, x))), 2 / math.sqrt(math.pi))),
)
unary("floor", lambda x, a: np.floor(x), _op1("floor"), vjp=flat_vjp)
unary("ceil", lambda x, a: np.ceil(x), _op1("ceil"), vjp=flat_vjp)
unary("round", lambda x, a: np.round(x), _op1("round"), vjp=flat_vjp)
unary(
    "sigmoid",
    lambda x, a: sigmoid(x),
    lambda x, a: sigmoid_body(x),
    cost=10,
    vjp=_scaled(lambda e, x, y: e("mul", e("sub", 1.0, y), y)),
)
unary("silu", lambda x, a: x * sigmoid(x), lambda x, a: Binary("mul", x, sigmoid_body(x)), cost=11, vjp=_scaled(_silu_slope))
unary(
    "gelu",
    _gelu_ref,
    _gelu_body,
    cost=16,
    sample_attrs=({"approximate": "none"}, {"approximate": "tanh"}),
    vjp=unary_vjp(_gelu_vjp),
)
unary(
    "hardsigmoid",
    lambda x, a: np.clip(x + 3, 0, 6) / 6,
    lambda x, a: _hardsigmoid_body(x),
    domain=(-5, 5),
    cost=3,
    vjp=unary_vjp(_hardsigmoid_vjp),
)
unary(
    "hardswish",
    lambda x, a: x * np.clip(x + 3, 0, 6) / 6,
    lambda x, a: Binary("mul", x, _hardsigmoid_body(x)),
    domain=(-5, 5),
    cost=4,
    vjp=unary_vjp(_hardswish_vjp),
)
unary(
    "clip",
    lambda x, a: np.where(x < a["min"], np.asarray(a["min"], x.dtype), np.where(x > a["max"], np.asarray(a["max"], x.dtype), x)),
    lambda x, a: clip_body(x, a["min"], a["max"]),
    domain=(-8, 8),
    sample_attrs=({"min": 0.0, "max": 6.0, "open": True}, {"min": -1.0, "max": 2.5}, {"min": float("-inf"), "max": 1.0}),
    cost=2,
    vjp=unary_vjp(_clip_vjp),
    any_dtype=True,
)
unary(
    "leaky_relu",
    lambda x, a: np.where(x > 0, x, x * a["alpha"]),
    lambda x, a: Select(Binary("gt", x, like(x, 0.0)), x, Binary("mul", x, like(x, a["alpha"]))),
    sample_attrs=({"alpha": 0.01}, {"alpha": -0.3}),
    cost=2,
    vjp=unary_vjp(_leaky_vjp),
)
unary(
    "elu",
    lambda x, a: np.where(x > 0, x, a.get("alpha", 1.0) * np.expm1(np.minimum(x, 0))),
    _elu_body,
    sample_attrs=({"alpha": 1.0}, {"alpha": 0.5}),
    cost=12,
    vjp=unary_vjp(_elu_vjp),
    rtol=3e-5,
)
unary(
    "softplus",
    lambda x, a: np.where(
        x * a.get("beta", 1.0) > a.get("threshold", 20.0),
        x,
        np.log1p(np.exp(np.minimum(x * a.get("beta", 1.0), 80))) / a.get("beta", 1.0),
    ),
    _softplus_body,
    domain=(-30, 30),
    cost=20,
    vjp=unary_vjp(_softplus_vjp),
    rtol=3e-5,
)


def _cast_samples() -> Iterable[Sample]:
    rng = np.random.default_rng(3)
    x = rng.uniform(0, 100, (3, 7)).astype(np.float32)
    yield Sample((x,), {"dtype": "int64"})
    yield Sample((x.astype(np.int64),), {"dtype": "float32"})
    yield Sample((x,), {"dtype": "float64"})


register(
    OpDef(
        "cast",
        lambda ts, a: (TensorType(ts[0].shape, a["dtype"]),),
        lambda xs, a: (xs[0].astype(numpy_dtype(a["dtype"])),),
        unary_vjp(lambda e, n, x, y, g: e("cast", g, dtype=x.dtype)),
        "any",
        loop=lambda n: pointwise(n, lambda x: Cast(x, n.attrs["dtype"])),
        samples=_cast_samples,
    )
)


def is_widening(node: Node) -> bool:
    """Whether ``node`` casts floating-point numbers to a wider type, which is exact."""
    if node.op != "cast":
        return False
    a, b = node.inputs[0].dtype, node.output.dtype
    return a in FLOATS and b in FLOATS and ITEMSIZE[a] < ITEMSIZE[b]


__all__ = ["axis_names", "is_widening", "load_broadcast", "pointwise", "unary", "unbroadcast"]
