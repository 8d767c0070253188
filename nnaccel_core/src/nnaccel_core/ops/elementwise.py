"""Element-wise operators: unary, binary with numpy broadcasting, comparison, selection, cast.

One row each: the numpy reference, the loop IR body, the gradient and sample ranges.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from nnaccel_core.errors import ShapeError
from nnaccel_core.ir import Dim, Node, Rewriter, TensorType, Value, numpy_dtype, sym
from nnaccel_core.loopir.grammar import Binary, Cast, Const, Load, Nest, Scalar, Select, Unary, scalar_dtype
from nnaccel_core.ops.registry import Array, Attrs, OpDef, Sample, broadcast_shapes, register


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


def f32(x: float) -> Const:
    return Const(x, "float32")


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
    return Binary("div", clip_body(Binary("add", x, like(x, 3.0)), 0.0, 6.0), like(x, 6.0))


def _softplus_body(x: Scalar, attrs: Attrs) -> Scalar:
    beta, threshold = attrs.get("beta", 1.0), attrs.get("threshold", 20.0)
    bx = Binary("mul", x, like(x, beta))
    soft = Binary("div", Unary("log1p", Unary("exp", bx)), like(x, beta))
    return Select(Binary("gt", bx, like(x, threshold)), x, soft)


def _elu_body(x: Scalar, attrs: Attrs) -> Scalar:
    return Select(Binary("gt", x, like(x, 0.0)), x, Binary("mul", like(x, attrs.get("alpha", 1.0)), Unary("expm1", x)))


Grad = Callable[[Rewriter, Node, Sequence[Value], Sequence[Value], Sequence[Value]], Sequence["Value | None"]]


def unary(
    name: str,
    ref: Callable[[Array, Attrs], Array],
    body: Callable[[Scalar, Attrs], Scalar],
    *,
    vjp: Grad | None = None,
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


def _times(f: Callable[[Rewriter, Node, Value, Value], Value]) -> Grad:
    """A vjp from the local derivative ``f(rewriter, node, input, output)``."""

    def vjp(r: Rewriter, n: Node, ins: Sequence[Value], outs: Sequence[Value], gs: Sequence[Value]) -> Sequence[Value | None]:
        return (r.add("mul", [gs[0], f(r, n, ins[0], outs[0])], origin=n.origin),)

    return vjp


def _op1(op: str) -> Callable[[Scalar, Attrs], Scalar]:
    return lambda x, attrs: Unary(op, x)


def scalar_constant(r: Rewriter, x: float, like_value: Value, origin: str) -> Value:
    """A 0-d constant of the dtype of ``like_value``."""
    return r.add("constant", [], {"value": np.asarray(x, numpy_dtype(like_value.dtype))}, origin=origin)


def _relu_vjp(r: Rewriter, n: Node, ins: Sequence[Value], outs: Sequence[Value], gs: Sequence[Value]) -> Sequence[Value | None]:
    zero = scalar_constant(r, 0.0, outs[0], n.origin)
    positive = r.add("gt", [outs[0], zero], origin=n.origin)
    return (r.add("where", [positive, gs[0], zero], origin=n.origin),)


unary(
    "relu",
    lambda x, a: np.where(x < 0, np.zeros((), x.dtype), x),
    lambda x, a: Select(Binary("lt", x, like(x, 0)), like(x, 0), x),
    vjp=_relu_vjp,
    any_dtype=True,
)
unary("neg", lambda x, a: -x, _op1("neg"), any_dtype=True, vjp=lambda r, n, i, o, g: (r.add("neg", [g[0]], origin=n.origin),))
unary("abs", lambda x, a: np.abs(x), _op1("abs"), any_dtype=True)
unary("exp", lambda x, a: np.exp(x), _op1("exp"), cost=8, vjp=_times(lambda r, n, x, y: y))
unary("expm1", lambda x, a: np.expm1(x), _op1("expm1"), cost=10)
unary(
    "log",
    lambda x, a: np.log(x),
    _op1("log"),
    domain=(0.1, 3.0),
    cost=8,
    vjp=lambda r, n, i, o, g: (r.add("div", [g[0], i[0]], origin=n.origin),),
)
unary("log1p", lambda x, a: np.log1p(x), _op1("log1p"), domain=(-0.5, 3.0), cost=10)
unary("sqrt", lambda x, a: np.sqrt(x), _op1("sqrt"), domain=(0.1, 3.0), cost=4)
unary("rsqrt", lambda x, a: 1 / np.sqrt(x), _op1("rsqrt"), domain=(0.1, 3.0), cost=6)
unary("reciprocal", lambda x, a: 1 / x, _op1("recip"), domain=(0.1, 3.0), cost=4)
unary("sin", lambda x, a: np.sin(x), _op1("sin"), cost=10)
unary("cos", lambda x, a: np.cos(x), _op1("cos"), cost=10)
unary("tanh", lambda x, a: np.tanh(x), _op1("tanh"), cost=12)
unary("erf", lambda x, a: erf(x), _op1("erf"), cost=12)
unary("floor", lambda x, a: np.floor(x), _op1("floor"))
unary("ceil", lambda x, a: np.ceil(x), _op1("ceil"))
unary("round", lambda x, a: np.round(x), _op1("round"))
unary("sigmoid", lambda x, a: sigmoid(x), lambda x, a: sigmoid_body(x), cost=10)
unary("silu", lambda x, a: x * sigmoid(x), lambda x, a: Binary("mul", x, sigmoid_body(x)), cost=11)
unary("gelu", _gelu_ref, _gelu_body, cost=16, sample_attrs=({"approximate": "none"}, {"approximate": "tanh"}))
unary("hardsigmoid", lambda x, a: np.clip(x + 3, 0, 6) / 6, lambda x, a: _hardsigmoid_body(x), domain=(-5, 5), cost=3)
unary(
    "hardswish",
    lambda x, a: x * np.clip(x + 3, 0, 6) / 6,
    lambda x, a: Binary("mul", x, _hardsigmoid_body(x)),
    domain=(-5, 5),
    cost=4,
)
unary(
    "clip",
    lambda x, a: np.where(x < a["min"], np.asarray(a["min"], x.dtype), np.where(x > a["max"], np.asarray(a["max"], x.dtype), x)),
    lambda x, a: clip_body(x, a["min"], a["max"]),
    domain=(-8, 8),
    sample_attrs=({"min": 0.0, "max": 6.0}, {"min": float("-inf"), "max": 1.0}),
    cost=2,
    any_dtype=True,
)
unary(
    "leaky_relu",
    lambda x, a: np.where(x > 0, x, x * a["alpha"]),
    lambda x, a: Select(Binary("gt", x, like(x, 0.0)), x, Binary("mul", x, like(x, a["alpha"]))),
    sample_attrs=({"alpha": 0.01}, {"alpha": 0.3}),
    cost=2,
)
unary(
    "elu",
    lambda x, a: np.where(x > 0, x, a.get("alpha", 1.0) * np.expm1(np.minimum(x, 0))),
    _elu_body,
    sample_attrs=({"alpha": 1.0}, {"alpha": 0.5}),
    cost=12,
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
    rtol=3e-5,
)


# --- two operands ---------------------------------------------------------------------------------------------


def unbroadcast(r: Rewriter, grad: Value, shape: Sequence[Dim], origin: str) -> Value:
    """Sum ``grad`` over the axes along which an operand of ``shape`` was broadcast."""
    extra = grad.type.rank - len(shape)
    axes = tuple(range(extra)) + tuple(extra + k for k, d in enumerate(shape) if d == 1 and grad.shape[extra + k] != 1)
    if axes:
        grad = r.add("reduce_sum", [grad], {"axes": axes, "keepdims": True}, origin=origin)
    if extra:
        grad = r.add("reshape", [grad], {"shape": tuple(shape)}, origin=origin)
    return grad


def _infer_binary(types: Sequence[TensorType], attrs: Attrs) -> Sequence[TensorType]:
    a, b = types
    if a.dtype != b.dtype:
        raise ShapeError(f"dtypes {a.dtype} and {b.dtype} differ; frontends insert casts")
    return (TensorType(broadcast_shapes(a.shape, b.shape), a.dtype),)


def _infer_compare(types: Sequence[TensorType], attrs: Attrs) -> Sequence[TensorType]:
    return (_infer_binary(types, attrs)[0].with_dtype("bool"),)


def _binary_samples(lo: float, hi: float, dtype: str) -> Iterable[Sample]:
    rng = np.random.default_rng(1)

    def draw(*shape: int) -> Array:
        return (rng.uniform(lo, hi, shape) * (1 if dtype.startswith("float") else 10)).astype(dtype)

    yield Sample((draw(2, 3, 5, 9), draw(2, 3, 5, 9)))
    yield Sample((draw(2, 3, 5, 9), draw(3, 1, 1)))
    yield Sample((draw(4, 1), draw(1, 19)))
    yield Sample((draw(), draw(6)))


def binary(
    name: str,
    ref: Callable[[Array, Array], Array],
    op: str,
    *,
    compare: bool = False,
    vjp: Grad | None = None,
    domain: tuple[float, float] = (-3.0, 3.0),
    dtype: str = "float32",
    cost: int = 1,
    body: Callable[[Scalar, Scalar], Scalar] | None = None,
) -> OpDef:
    """Register an element-wise op of two operands of one dtype, by default ``Binary(op, a, b)`` in the loop IR."""
    element = body or (lambda a, b: Binary(op, a, b))

    def run(xs: Sequence[Array], attrs: Attrs) -> Sequence[Array]:
        out = np.asarray(ref(xs[0], xs[1]))
        return (out if compare else out.astype(xs[0].dtype, copy=False),)

    return register(
        OpDef(
            name,
            _infer_compare if compare else _infer_binary,
            run,
            vjp,
            "any",
            loop=lambda n: pointwise(n, element),
            samples=functools.partial(_binary_samples, *domain, dtype),
            cost=cost,
        )
    )


def _add_vjp(r: Rewriter, n: Node, ins: Sequence[Value], outs: Sequence[Value], gs: Sequence[Value]) -> Sequence[Value | None]:
    return tuple(unbroadcast(r, gs[0], v.shape, n.origin) for v in ins)


def _sub_vjp(r: Rewriter, n: Node, ins: Sequence[Value], outs: Sequence[Value], gs: Sequence[Value]) -> Sequence[Value | None]:
    minus = r.add("neg", [gs[0]], origin=n.origin)
    return (unbroadcast(r, gs[0], ins[0].shape, n.origin), unbroadcast(r, minus, ins[1].shape, n.origin))


def _mul_vjp(r: Rewriter, n: Node, ins: Sequence[Value], outs: Sequence[Value], gs: Sequence[Value]) -> Sequence[Value | None]:
    ga = r.add("mul", [gs[0], ins[1]], origin=n.origin)
    gb = r.add("mul", [gs[0], ins[0]], origin=n.origin)
    return (unbroadcast(r, ga, ins[0].shape, n.origin), unbroadcast(r, gb, ins[1].shape, n.origin))


def _div_vjp(r: Rewriter, n: Node, ins: Sequence[Value], outs: Sequence[Value], gs: Sequence[Value]) -> Sequence[Value | None]:
    ga = r.add("div", [gs[0], ins[1]], origin=n.origin)
    gb = r.add("neg", [r.add("mul", [ga, outs[0]], origin=n.origin)], origin=n.origin)
    return (unbroadcast(r, ga, ins[0].shape, n.origin), unbroadcast(r, gb, ins[1].shape, n.origin))


binary("add", np.add, "add", vjp=_add_vjp)
binary("sub", np.subtract, "sub", vjp=_sub_vjp)
binary("mul", np.multiply, "mul", vjp=_mul_vjp)
binary("div", lambda a, b: a / b, "div", vjp=_div_vjp, domain=(0.5, 3.0), cost=4)
binary("pow", np.power, "pow", domain=(0.5, 3.0), cost=20)
binary("maximum", np.maximum, "max")
binary("minimum", np.minimum, "min")
for _name, _ref in (
    ("lt", np.less), ("le", np.less_equal), ("gt", np.greater), ("ge", np.greater_equal), ("eq", np.equal), ("ne", np.not_equal),
):  # fmt: skip
    binary(_name, _ref, _name, compare=True)


def _infer_where(types: Sequence[TensorType], attrs: Attrs) -> Sequence[TensorType]:
    c, a, b = types
    if c.dtype != "bool" or a.dtype != b.dtype:
        raise ShapeError("needs a bool condition and two operands of one dtype")
    return (TensorType(broadcast_shapes(c.shape, a.shape, b.shape), a.dtype),)


def _where_samples() -> Iterable[Sample]:
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=(2, 3, 9)).astype(np.float32), rng.normal(size=(3, 1)).astype(np.float32)
    yield Sample((x > 0, x, y))


register(
    OpDef(
        "where",
        _infer_where,
        lambda xs, a: (np.where(xs[0], xs[1], xs[2]),),
        limit="any",
        loop=lambda n: pointwise(n, Select),
        samples=_where_samples,
    )
)


def _cast_samples() -> Iterable[Sample]:
    rng = np.random.default_rng(3)
    x = rng.uniform(0, 100, (3, 7)).astype(np.float32)
    yield Sample((x,), {"dtype": "int64"})
    yield Sample((x.astype(np.int64),), {"dtype": "float32"})


register(
    OpDef(
        "cast",
        lambda ts, a: (TensorType(ts[0].shape, a["dtype"]),),
        lambda xs, a: (xs[0].astype(numpy_dtype(a["dtype"])),),
        limit="any",
        loop=lambda n: pointwise(n, lambda x: Cast(x, n.attrs["dtype"])),
        samples=_cast_samples,
    )
)

__all__ = ["axis_names", "binary", "load_broadcast", "pointwise", "unary", "unbroadcast"]
