"""The table of ONNX operators: for each a function from a `Call` to what its outputs are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Union

import onnx
import onnx.helper

from nnaccel_core.ir import TensorType, Value
from nnaccel_frontend_onnx.errors import Unmapped
from nnaccel_frontend_onnx.items import Array, Host, Item, Known

if TYPE_CHECKING:
    from nnaccel_frontend_onnx.importer import Importer

Result = Union[Item, Sequence[Union[Item, None]]]
Handler = Callable[["Call"], Result]
_table: dict[tuple[str, str], Handler] = {}


class Call:
    """A node with its operands, for handlers.

    Attributes:
        c: the importer, to emit nodes with; operands: None where one is left out; version: of the operator set.
    """

    def __init__(self, importer: Importer, node: onnx.NodeProto, operands: Sequence[Item | None]) -> None:
        self.c = importer
        self.node = node
        self.operands = list(operands)
        self.attrs = {a.name: a for a in node.attribute}
        self.version = importer.model.versions.get("" if node.domain == "ai.onnx" else node.domain, 1)
        self.outputs = len([o for o in node.output if o])

    def has(self, k: int) -> bool:
        """Whether operand ``k`` is given."""
        return k < len(self.operands) and self.operands[k] is not None

    def item(self, k: int) -> Item | None:
        return self.operands[k] if k < len(self.operands) else None

    def x(self, k: int = 0) -> Value:
        """Operand ``k`` as a tensor."""
        return self.c.read(self.item(k))

    def statistic(self, k: int) -> Value:
        """Operand ``k``, a running statistic: in training it is no parameter that gradients are taken of."""
        return self.c.read(self.item(k), statistic=True)

    def xs(self) -> list[Value]:
        """All operands as tensors."""
        return [self.c.read(i) for i in self.operands if i is not None]

    def attr(self, name: str, default: Any = None) -> Any:
        """An attribute; text as str, lists as tuples."""
        if name not in self.attrs:
            return default
        value = onnx.helper.get_attribute_value(self.attrs[name])
        if isinstance(value, bytes):
            return value.decode("utf-8", "replace")
        if isinstance(value, (list, tuple)):
            return tuple(value)
        return value if isinstance(value, (int, float, str, onnx.TensorProto)) else tuple(value)

    def known(self, k: int, what: str) -> Array | None:
        """The value of operand ``k``; None where it is left out."""
        return self.c.known(self.operands[k], what) if self.has(k) else None

    def ints(self, k: int, name: str) -> tuple[int, ...] | None:
        """Integers that are an attribute in old operator sets and operand ``k`` in new ones; None where left out."""
        found = self.known(k, name)
        if found is not None:
            return tuple(int(v) for v in found.reshape(-1))
        value = self.attr(name)
        return None if value is None else tuple(int(v) for v in value) if isinstance(value, tuple) else (int(value),)

    def axis(self, rank: int, default: int, name: str = "axis") -> int:
        """An axis attribute, counted from the front."""
        return positive(int(self.attr(name, default)), rank)

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


def maps(*names: str, domain: str = "") -> Callable[[Handler], Handler]:
    """Register a handler for operators."""

    def register(handler: Handler) -> Handler:
        for name in names:
            _table[domain, name] = handler
        return handler

    return register


def lookup(node: onnx.NodeProto) -> Handler | None:
    """The handler of a node; None where there is none."""
    return _table.get(("" if node.domain == "ai.onnx" else node.domain, node.op_type))


def names() -> list[str]:
    """All operators that have a handler."""
    return sorted(name for _, name in _table)


from nnaccel_frontend_onnx.mapping import (  # noqa: E402 - the modules register themselves in the table above
    activations,
    einsum,
    gradient,
    indexing,
    layers,
    made,
    norms,
    pointwise,
    pools,
    quantized,
    recurrent,
    reductions,
    resize,
    shapes,
)
from nnaccel_frontend_onnx.mapping.sizes import fold_sizes  # noqa: E402

__all__ = [
    "Call", "Handler", "Host", "Known", "TensorType", "activations", "einsum", "fold_sizes", "gradient", "indexing", "layers",
    "lookup", "made", "maps", "names", "needs_float", "norms", "pointwise", "pools", "positive", "quantized", "recurrent",
    "reductions", "resize", "shapes",
]  # fmt: skip
