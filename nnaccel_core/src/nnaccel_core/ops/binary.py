"""Element-wise operators of several operands with numpy's broadcasting: arithmetic, comparison, selection."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from nnaccel_core.errors import ShapeError
from nnaccel_core.ir import Node, Rewriter, TensorType, Value
from nnaccel_core.loopir.grammar import Binary, Scalar, Select
from nnaccel_core.ops.elementwise import pointwise, unbroadcast
from nnaccel_core.ops.registry import Array, Attrs, Emitter, OpDef, Sample, Vjp, broadcast_shapes, register


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
    vjp: Vjp | None = None,
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


def pair_vjp(f: Callable[[Emitter, Value, Value, Value, Value], tuple[Value | None, Value | None]]) -> Vjp:
    """The gradient rule from ``f(emit, a, b, y, g)``, whose results are summed over broadcast axes."""

    def vjp(r: Rewriter, n: Node, ins: Sequence[Value], outs: Sequence[Value], gs: Sequence[Value]) -> Sequence[Value | None]:
        if not outs[0].type.is_float:
            return (None, None)
        found = f(Emitter(r, n.origin), ins[0], ins[1], outs[0], gs[0])
        return tuple(None if g is None else unbroadcast(r, g, v.shape, n.origin) for v, g in zip(ins, found, strict=True))

    return vjp


def _div_grads(e: Emitter, a: Value, b: Value, y: Value, g: Value) -> tuple[Value, Value]:
    ga = e("div", g, b)
    return ga, e("neg", e("mul", ga, y))


def _pow_grads(e: Emitter, a: Value, b: Value, y: Value, g: Value) -> tuple[Value, Value]:
    """0 where the formulas are 0 times infinite: ``x ** 0`` by x, and ``0 ** b`` by b."""
    slope = e("mul", b, e("pow", a, e("sub", b, 1.0)))
    at_zero = e("bitwise_and", e("eq", a, 0.0), e("ge", b, 0.0))
    return (
        e("where", e("eq", b, 0.0), 0.0, e("mul", g, slope)),
        e("where", at_zero, 0.0, e("mul", g, e("mul", y, e("log", a)))),
    )


def _extreme_grads(beaten: str) -> Vjp:
    """All to the winner, half each on ties; ``beaten`` compares an operand to the other."""

    def part(e: Emitter, a: Value, b: Value, g: Value) -> Value:
        return e("where", e(beaten, a, b), 0.0, e("where", e("eq", a, b), e("mul", g, 0.5), g))

    return pair_vjp(lambda e, a, b, y, g: (part(e, a, b, g), part(e, b, a, g)))


binary("add", np.add, "add", vjp=pair_vjp(lambda e, a, b, y, g: (g, g)))
binary("sub", np.subtract, "sub", vjp=pair_vjp(lambda e, a, b, y, g: (g, e("neg", g))))
binary("mul", np.multiply, "mul", vjp=pair_vjp(lambda e, a, b, y, g: (e("mul", g, b), e("mul", g, a))))
binary("div", lambda a, b: a / b, "div", vjp=pair_vjp(_div_grads), domain=(0.5, 3.0), cost=4)
binary("pow", np.power, "pow", vjp=pair_vjp(_pow_grads), domain=(0.5, 3.0), cost=20)
binary("maximum", np.maximum, "max", vjp=_extreme_grads("lt"))
binary("minimum", np.minimum, "min", vjp=_extreme_grads("gt"))
for _name, _ref in (
    ("lt", np.less), ("le", np.less_equal), ("gt", np.greater), ("ge", np.greater_equal), ("eq", np.equal), ("ne", np.not_equal),
):  # fmt: skip
    binary(_name, _ref, _name, compare=True)


def _infer_where(types: Sequence[TensorType], attrs: Attrs) -> Sequence[TensorType]:
    c, a, b = types
    if c.dtype != "bool" or a.dtype != b.dtype:
        raise ShapeError("needs a bool condition and two operands of one dtype")
    return (TensorType(broadcast_shapes(c.shape, a.shape, b.shape), a.dtype),)


def _where_vjp(r: Rewriter, n: Node, ins: Sequence[Value], outs: Sequence[Value], gs: Sequence[Value]) -> Sequence[Value | None]:
    e, (c, a, b), g = Emitter(r, n.origin), ins, gs[0]
    if not a.type.is_float:
        return (None, None, None)
    ga, gb = e("where", c, g, 0.0), e("where", c, 0.0, g)
    return (None, unbroadcast(r, ga, a.shape, n.origin), unbroadcast(r, gb, b.shape, n.origin))


def _where_samples() -> Iterable[Sample]:
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=(2, 3, 9)).astype(np.float32), rng.normal(size=(3, 1)).astype(np.float32)
    yield Sample((x > 0, x, y))


register(
    OpDef(
        "where",
        _infer_where,
        lambda xs, a: (np.where(xs[0], xs[1], xs[2]),),
        _where_vjp,
        "any",
        loop=lambda n: pointwise(n, Select),
        samples=_where_samples,
    )
)
