"""What an operator is, and the table of all of them."""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from nnaccel_core.errors import PluginError, ShapeError, UnsupportedError
from nnaccel_core.ir import Dim, Graph, Node, Rewriter, TensorType, Value, numpy_dtype
from nnaccel_core.loopir.grammar import Nest

Array = np.ndarray[Any, Any]
Attrs = Mapping[str, Any]
Infer = Callable[[Sequence[TensorType], Attrs], Sequence[TensorType]]
Ref = Callable[[Sequence[Array], Attrs], Sequence[Array]]
Decomposition = Callable[[Rewriter, Node, Sequence[Value]], Sequence[Value]]

#: What limits a layer: ``io`` reads and writes its activations, ``params`` reads its weights, ``compute`` multiplies;
#: ``any`` joins whatever is around it (element-wise); ``view`` moves nothing.
LIMITS = ("io", "params", "compute", "any", "view")


@dataclass(frozen=True)
class Sample:
    """One generated test case: concrete inputs and attributes; tests run ref, loop, vjp and backends on it."""

    inputs: tuple[Array, ...]
    attrs: Attrs = field(default_factory=dict)
    rtol: float = 1e-5


@dataclass(frozen=True)
class OpDef:
    """An operator: everything about it that is not a backend's library.

    Exactly one of ``loop``, ``decompositions`` and ``host`` says how it is computed (views need none).

    Attributes:
        infer: output types from input types; raises ShapeError; uses `require_equal` for dims.
        ref: numpy reference on row-major arrays.
        vjp: ``(rewriter, node, inputs, outputs, grads) -> input grads``, None where one is zero everywhere; of several outputs
            some may have no gradient (None). Without a rule, reverse mode differentiates the decompositions.
        limit: one of `LIMITS`, or a function of the node.
        loop: naive loop nests, last one writing the output; in order of execution.
        decompositions: named rewrites into smaller ops; each emits nodes and returns the new outputs.
        host: computed by ``ref`` on the host.
        flops: arithmetic operations as a dim; None counts one per output element.
        cost: relative cost of one scalar evaluation (1 = an add), for deciding what may be recomputed.
        fused: kept as it is only for a backend that runs it whole (`Backend.whole`); decomposed elsewhere before anything else,
            in training before gradients are taken.
        pointwise: element-wise although it is not limited as such; its result may be computed again rather than kept.
    """

    name: str
    infer: Infer
    ref: Ref
    vjp: Callable[..., Sequence[Value | None]] | None = None
    limit: str | Callable[[Node], str] = "io"
    loop: Callable[[Node], Sequence[Nest]] | None = None
    decompositions: Mapping[str, Decomposition] = field(default_factory=dict)
    host: bool = False
    samples: Callable[[], Iterable[Sample]] = tuple
    flops: Callable[[Node], Dim] | None = None
    cost: int = 1
    pointwise: bool = False
    fused: bool = False

    def __post_init__(self) -> None:
        ways = bool(self.loop) + bool(self.decompositions) + self.host
        if ways != 1 and self.limit != "view":
            raise ValueError(f"op {self.name!r} must have exactly one of loop, decompositions, host; has {ways}")
        if self.fused and not self.decompositions:
            raise ValueError(f"op {self.name!r} is fused, so it needs decompositions")

    def limit_of(self, node: Node) -> str:
        return self.limit if isinstance(self.limit, str) else self.limit(node)


_ops: dict[str, tuple[OpDef, str]] = {}


def register(op: OpDef, package: str = "nnaccel_core") -> OpDef:
    """Add ``op`` to the table.

    Raises:
        PluginError: another package registered an op of this name.
    """
    if op.name in _ops and _ops[op.name][1] != package:
        raise PluginError(f"op {op.name!r} is registered by both {_ops[op.name][1]!r} and {package!r}; uninstall or disable one")
    _ops[op.name] = (op, package)
    return op


def lookup(name: str, where: str = "") -> OpDef:
    """The op called ``name``.

    Raises:
        UnsupportedError: there is none.
    """
    try:
        return _ops[name][0]
    except KeyError:
        at = f" at {where}" if where else ""
        raise UnsupportedError(f"unknown op {name!r}{at}; a plug-in may add it with nnaccel_register_ops") from None


def package_of(name: str) -> str:
    """The package that registered the op called ``name``; "" when there is none."""
    return _ops[name][1] if name in _ops else ""


def all_ops() -> tuple[OpDef, ...]:
    return tuple(op for op, _ in _ops.values())


_guards: contextvars.ContextVar[list[tuple[Dim, Dim]] | None] = contextvars.ContextVar("guards", default=None)


@contextlib.contextmanager
def collect_guards() -> Iterator[list[tuple[Dim, Dim]]]:
    """Collects the undecidable equalities met by `require_equal` inside the block."""
    found: list[tuple[Dim, Dim]] = []
    token = _guards.set(found)
    try:
        yield found
    finally:
        _guards.reset(token)


def require_equal(a: Dim, b: Dim, what: str) -> None:
    """Demand ``a == b``; an undecidable equality becomes a guard checked at the call.

    Raises:
        ShapeError: they differ for every value of their symbols.
    """
    if a == b:
        return
    diff = a - b
    if isinstance(diff, int):
        raise ShapeError(f"{what}: {a} and {b} differ")
    found = _guards.get()
    if found is not None:
        found.append((a, b))


def broadcast_dims(a: Dim, b: Dim, what: str) -> Dim:
    """The dim of two broadcast operands (numpy's rule; a symbolic dim is taken not to be 1)."""
    if a == 1:
        return b
    if b == 1:
        return a
    require_equal(a, b, what)
    return a if isinstance(a, int) else b


def broadcast_shapes(*shapes: Sequence[Dim], what: str = "broadcast") -> tuple[Dim, ...]:
    """numpy's broadcast of several shapes."""
    rank = max((len(s) for s in shapes), default=0)
    out: list[Dim] = [1] * rank
    for s in shapes:
        for i, d in enumerate(s):
            k = rank - len(s) + i
            out[k] = broadcast_dims(out[k], d, what)
    return tuple(out)


def infer(op: str, types: Sequence[TensorType], attrs: Attrs, where: str = "") -> tuple[TensorType, ...]:
    """Output types of ``op`` on ``types``, row-major; errors name ``where``.

    Raises:
        ShapeError: the inputs do not fit; UnsupportedError: no such op.
    """
    opdef = lookup(op, where)
    try:
        return tuple(opdef.infer(types, attrs))
    except ShapeError as e:
        at = f"{where}: " if where and where != op else ""
        given = ", ".join(map(str, types))
        raise ShapeError(f"{at}{op}({given}): {e}") from None


def constant(r: Rewriter, value: object, dtype: str, origin: str) -> Value:
    """``value``, a number or an array, as a constant; numpy has no bfloat16, so that one is a cast."""
    found = r.add("constant", [], {"value": np.asarray(value, numpy_dtype(dtype))}, origin=origin)
    return found if found.dtype == dtype else r.add("cast", [found], {"dtype": dtype}, origin=origin)


def sum_dtype(dtype: str) -> str:
    """The dtype in which frameworks sum numbers of a floating-point ``dtype``."""
    return "float32" if dtype in ("float16", "bfloat16") else dtype


class Emitter:
    """Emits nodes of a decomposition or gradient: ``e("mul", g, 2.0)``; numbers become constants of the last value's dtype."""

    def __init__(self, r: Rewriter, origin: str) -> None:
        self.r, self.origin = r, origin

    def __call__(self, op: str, *operands: Value | float, **attrs: object) -> Value:
        dtype = next((v.dtype for v in reversed(operands) if isinstance(v, Value)), "float32")
        values = [v if isinstance(v, Value) else constant(self.r, v, dtype, self.origin) for v in operands]
        return self.r.add(op, values, attrs, origin=self.origin)

    def cast(self, x: Value, dtype: str) -> Value:
        """``x`` in ``dtype``."""
        return x if x.dtype == dtype else self("cast", x, dtype=dtype)

    def zeros(self, shape: Sequence[Dim], dtype: str) -> Value:
        return self("expand", constant(self.r, 0.0, dtype, self.origin), shape=tuple(shape))


Vjp = Callable[[Rewriter, Node, Sequence[Value], Sequence[Value], Sequence[Value]], Sequence["Value | None"]]


def unary_vjp(f: Callable[[Emitter, Node, Value, Value, Value], Value]) -> Vjp:
    """The gradient rule of an op of one operand and one result, from ``f(emit, node, x, y, g)``; integers have no gradient."""

    def vjp(r: Rewriter, n: Node, ins: Sequence[Value], outs: Sequence[Value], gs: Sequence[Value]) -> Sequence[Value | None]:
        return (f(Emitter(r, n.origin), n, ins[0], outs[0], gs[0]) if ins[0].type.is_float else None,)

    return vjp


def flat_vjp(r: Rewriter, n: Node, ins: Sequence[Value], outs: Sequence[Value], gs: Sequence[Value]) -> Sequence[Value | None]:
    """The gradient rule of an op whose derivative is zero wherever there is one."""
    return (None,) * len(ins)


def rewriter(graph: Graph) -> Rewriter:
    """A `Rewriter` over ``graph`` with this table's shape inference."""
    return Rewriter(graph, infer)
