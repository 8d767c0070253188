"""The table of TensorFlow's operations: for each a function from a `Call` to what its results are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Union

from nnaccel_core.ir import Value
from nnaccel_frontend_tf.errors import Unmapped
from nnaccel_frontend_tf.items import Array, Host, Item, Known

if TYPE_CHECKING:
    from nnaccel_frontend_tf.importer import Importer

Result = Union[Item, Sequence[Union[Item, None]]]
Handler = Callable[["Call"], Result]
_table: dict[str, Handler] = {}


class Call:
    """An operation with its operands, for handlers.

    Attributes:
        c: the importer, to emit nodes with; op: TensorFlow's operation; operands: what its inputs stand for.
    """

    def __init__(self, importer: Importer, op: Any, operands: Sequence[Item]) -> None:
        self.c = importer
        self.op = op
        self.operands = list(operands)

    def item(self, k: int) -> Item:
        return self.operands[k]

    def x(self, k: int = 0) -> Value:
        """Operand ``k`` as a tensor."""
        return self.c.read(self.operands[k])

    def xs(self) -> list[Value]:
        """All operands as tensors."""
        return [self.c.read(i) for i in self.operands]

    def attr(self, name: str, default: Any = None) -> Any:
        """An attribute; text as str, lists as tuples."""
        try:
            value = self.op.get_attr(name)
        except ValueError:
            return default
        if isinstance(value, bytes):
            return value.decode()
        return tuple(value) if isinstance(value, list) else value

    def known(self, k: int, what: str) -> Array:
        """The value of operand ``k``, which decides shapes."""
        return self.c.known(self.operands[k], self.op.inputs[k], what)

    def ints(self, k: int, what: str) -> tuple[int, ...]:
        """Operand ``k`` as integers."""
        return tuple(int(v) for v in self.known(k, what).reshape(-1))

    def dtype(self, k: int = 0) -> str:
        """The IR's dtype of result ``k``."""
        from nnaccel_frontend_tf.importer import ir_dtype

        found = ir_dtype(self.op.outputs[k].dtype)
        if found is None:
            raise Unmapped(f"a result of {self.op.outputs[k].dtype.name}")
        return found

    def emit(self, op: str, *inputs: Value, **attrs: Any) -> Value:
        """Append a node; returns its value."""
        return self.c.emit(op, inputs, **attrs)

    def number(self, x: Any, like: Value) -> Value:
        """A 0-d constant of the dtype of ``like``."""
        return self.c.constant(x, like.dtype)

    def reshape(self, x: Value, shape: Sequence[Any]) -> Value:
        """``x`` under another shape."""
        return x if x.shape == tuple(shape) else self.emit("reshape", x, shape=tuple(shape))

    def transpose(self, x: Value, perm: Sequence[int]) -> Value:
        """``x`` with its axes in another order."""
        return x if list(perm) == list(range(len(perm))) else self.emit("transpose", x, perm=tuple(int(p) for p in perm))


def positive(axis: int, rank: int) -> int:
    """An axis counted from the front.

    Raises:
        Unmapped: there is no such axis.
    """
    found = axis + rank if axis < 0 else axis
    if not 0 <= found < max(rank, 1):
        raise Unmapped(f"axis {axis} of a tensor of rank {rank}")
    return found


def needs_float(x: Value) -> Value:
    """``x``, which must be of a floating-point dtype."""
    if not x.type.is_float:
        raise Unmapped(f"a tensor of {x.dtype}, where a floating-point one is needed")
    return x


def maps(*names: str) -> Callable[[Handler], Handler]:
    """Register a handler for operations."""

    def register(handler: Handler) -> Handler:
        for name in names:
            _table[name] = handler
        return handler

    return register


def lookup(name: str) -> Handler | None:
    """The handler of an operation; None where there is none."""
    return _table.get(name)


def names() -> list[str]:
    """All operations that have a handler."""
    return sorted(_table)


from nnaccel_frontend_tf.mapping import (  # noqa: E402 - the modules register themselves in the table above
    activations,
    indexing,
    layers,
    made,
    norms,
    pointwise,
    pools,
    reductions,
    resize,
    shapes,
)
from nnaccel_frontend_tf.mapping.sizes import fold_sizes  # noqa: E402

__all__ = [
    "Call", "Handler", "Host", "Known", "activations", "fold_sizes", "indexing", "layers", "lookup", "made", "maps", "names",
    "needs_float", "norms", "pointwise", "pools", "positive", "reductions", "resize", "shapes",
]  # fmt: skip
