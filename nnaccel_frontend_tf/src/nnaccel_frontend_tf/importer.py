"""The importer: operations of a traced graph in, what a `Program` is assembled from out."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Union

import numpy as np
import tensorflow as tf

from nnaccel_core.errors import ShapeError, UnsupportedError
from nnaccel_core.ir import Dim, Expr, Node, TensorType, Value, free_symbols, numpy_dtype, sym
from nnaccel_core.ops.registry import collect_guards, infer
from nnaccel_frontend_tf.errors import NeedSizes, Unmapped
from nnaccel_frontend_tf.items import Array, Host, Item, Known, Opaque, Outside
from nnaccel_frontend_tf.trace import Trace, function_named

#: Elements of a constant up to which it is part of the graph; larger ones are parameters.
SMALL = 64
#: Operations that call a function, whose body is imported in their place.
CALLS = frozenset({"PartitionedCall", "StatefulPartitionedCall"})
#: Stateful operations that leave variables as they are.
READS = frozenset({"ReadVariableOp", "ResourceGather", "ResourceGatherNd", "VariableShape"})
#: Operations without a mapping whose result has the shape of their first operand.
SAME_SHAPE = frozenset(
    {
        "Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "Bucketize", "CheckNumerics", "CheckNumericsV2", "Digamma", "Erfinv",
        "FakeQuantWithMinMaxArgs", "FakeQuantWithMinMaxVars", "Lgamma", "Ndtri", "QuantizeAndDequantizeV4", "RandomShuffle",
    }
)  # fmt: skip
_IR = {
    tf.bool: "bool", tf.uint8: "uint8", tf.int8: "int8", tf.int16: "int16", tf.int32: "int32", tf.int64: "int64",
    tf.float16: "float16", tf.bfloat16: "bfloat16", tf.float32: "float32", tf.float64: "float64",
}  # fmt: skip


def ir_dtype(dtype: Any) -> str | None:
    """The IR's name of one of TensorFlow's dtypes; None where it has none (strings, resources, complex numbers)."""
    return _IR.get(dtype)


@dataclass(eq=False)
class ForeignStep:
    """An operation that stays in TensorFlow, while it is recorded.

    Attributes:
        op: of the traced graph; inputs: what its operands stand for; outputs: names of its results.
        stateful: whether it must run even where nobody reads its results, in its place among other such operations.
    """

    op: Any
    inputs: list[Item]
    outputs: list[str]
    reason: str
    origin: str
    stateful: bool


Step = Union[Node, ForeignStep]


class Importer:
    """Records the operations of a trace as nodes of the IR, or as operations that stay in TensorFlow.

    Args:
        shapes: of the call's tensors, with symbols where any size will do.
    """

    def __init__(self, trace: Trace, shapes: Sequence[tuple[Dim, ...]]) -> None:
        self.trace = trace
        self.origin = ""
        self.steps: list[Step] = []
        self.guards: dict[tuple[Dim, Dim], None] = {}
        #: parameters: names to a variable of TensorFlow, or to a constant
        self.variables: dict[str, Any] = {}
        self.constants: dict[str, Array] = {}
        self.params: dict[str, Value] = {}
        #: results of operations that stay in TensorFlow, as segments read them
        self.outer: dict[str, Value] = {}
        self.inputs: list[str] = []
        #: where a size can be seen: a value's name and the axis
        self.symbols: dict[str, tuple[str, int]] = {}
        #: why gradients can't be taken of what is imported; "" where they can
        self.untrainable = ""
        self._names: set[str] = set()
        self._small: dict[tuple[str, bytes], tuple[Value, int]] = {}  # with the number of steps before it
        self._param_of: dict[Any, Value] = {}
        self._written: set[int] = set()
        items: dict[str, Item] = {}
        for tensor, shape in zip(trace.inputs, shapes, strict=True):
            name = self.fresh(tensor.op.name)
            self.inputs.append(name)
            dtype = ir_dtype(tensor.dtype)
            if dtype is None:
                items[tensor.name] = Opaque(name)
                continue
            value = Value(TensorType(shape, dtype), name)
            items[tensor.name] = self.outer[name] = value
            self._told_by(value)
        self._handles = {id(v.handle): v for v in trace.variables}
        for external, internal in trace.captures:
            items[internal.name] = self._outside(external)
        self.graph_items = items

    def _told_by(self, value: Value) -> None:
        for axis, d in enumerate(value.shape):
            if isinstance(d, Expr) and d.op == "sym":
                self.symbols.setdefault(str(d.args[0]), (value.name, axis))

    def run(self) -> list[Item]:
        """Import the whole trace; returns what its outputs stand for.

        Raises:
            NeedSizes: a size must be known.
        """
        self._operations(self.trace.graph, self.graph_items, "")
        return [self.graph_items[t.name] for t in self.trace.outputs]

    # --- values -------------------------------------------------------------------------------------------------

    def fresh(self, hint: str) -> str:
        """A value name that is not in use yet."""
        name, i = hint, 1
        while name in self._names:
            name, i = f"{hint}_{i}", i + 1
        self._names.add(name)
        return name

    def emit(self, op: str, inputs: Sequence[Value], **attrs: Any) -> Value:
        """Append a node and return its value.

        Raises:
            Unmapped: the IR refuses these operands; NeedSizes: it takes them for some sizes only.
        """
        return self.emit_many(op, inputs, **attrs)[0]

    def emit_many(self, op: str, inputs: Sequence[Value], **attrs: Any) -> list[Value]:
        """Append a node and return its results."""
        try:
            with collect_guards() as guards:
                types = infer(op, [v.type for v in inputs], attrs, self.origin or op)
        except (ShapeError, UnsupportedError) as e:
            raise Unmapped(str(e)) from e
        for a, b in guards:
            if all(self.symbols.get(s, ("",))[0] in self.inputs for s in free_symbols(a) | free_symbols(b)):
                raise NeedSizes(f"{self.origin} works for sizes only for which {a} is {b}")
        self.guards.update(dict.fromkeys(guards))
        outs = [Value(t, self.fresh(f"{self.origin}.{op}" if self.origin else op)) for t in types]
        self.steps.append(Node(op, tuple(inputs), tuple(outs), attrs, self.origin))
        return outs

    def constant(self, value: Any, dtype: str) -> Value:
        """A constant of ``dtype``."""
        if dtype in ("float16", "bfloat16") and np.ndim(value) == 0:
            return self.emit("cast", [self.constant(value, "float32")], dtype=dtype)
        array = np.ascontiguousarray(np.asarray(value, numpy_dtype(dtype))).reshape(np.shape(value))
        if array.size > SMALL:
            return self.emit("constant", [], value=array)
        key = (f"{dtype}{array.shape}", array.tobytes())
        found = self._small.get(key)
        if found is None:
            found = self._small[key] = (self.emit("constant", [], value=array), len(self.steps) - 1)
        return found[0]

    def cast(self, value: Value, dtype: str) -> Value:
        """``value`` as ``dtype``."""
        return value if value.dtype == dtype else self.emit("cast", [value], dtype=dtype)

    def read(self, item: Item | None) -> Value:
        """The tensor of an operand.

        Raises:
            Unmapped: it is none that the IR has.
        """
        if isinstance(item, Value):
            return item
        if isinstance(item, Known):
            return self._known(item)
        if isinstance(item, Host):
            numbers = [self.emit("extent", [], dim=d, dtype=item.dtype) for d in item.dims.reshape(-1)]
            if not item.dims.ndim:
                return numbers[0]
            return self.emit("concat", [self.emit("reshape", [v], shape=(1,)) for v in numbers], axis=0)
        raise Unmapped("an operand is no tensor that nnaccel handles, or its sizes are known only while it runs")

    def _known(self, item: Known) -> Value:
        name = "bfloat16" if item.array.dtype.name == "bfloat16" else str(item.array.dtype)
        if name not in _IR.values():
            raise Unmapped(f"a constant of dtype {name}")
        if item.array.size <= SMALL and name != "bfloat16":
            return self.constant(item.array, name)
        found = self._param_of.get(id(item))
        if found is None:
            found = self._param_of[id(item)] = self._param(item.parameter or "constant", TensorType(item.array.shape, name))
            self.constants[found.name] = np.ascontiguousarray(item.array)
        return found

    def _param(self, hint: str, type: TensorType) -> Value:
        value = Value(type, self.fresh(hint))
        self.params[value.name] = value
        return value

    def variable(self, item: Item) -> Value:
        """The value of a variable, whose handle ``item`` is, as it is before the network writes anything.

        Raises:
            Unmapped: it is no variable, was written by now, or holds what the IR has not.
        """
        found = self._handles.get(id(item.tensor)) if isinstance(item, Outside) else None
        if found is None:
            raise Unmapped("a resource that is no variable of the network's")
        dtype = ir_dtype(found.dtype)
        if dtype is None or not found.shape.is_fully_defined():
            raise Unmapped(f"a variable of {found.dtype.name} and shape {found.shape}")
        if id(item.tensor) in self._written:  # type: ignore[union-attr]
            raise Unmapped("the variable was written before")
        key = id(found)
        value = self._param_of.get(key)
        if value is None:
            name = found.name.split(":")[0]
            value = self._param_of[key] = self._param(name, TensorType(tuple(found.shape.as_list()), dtype))
            self.variables[value.name] = found
        return value

    def _outside(self, tensor: Any) -> Item:
        """What stands for a tensor that the graph captured: constants are known, all else is TensorFlow's."""
        if isinstance(tensor, tf.Tensor) and hasattr(tensor, "_numpy") and ir_dtype(tensor.dtype) is not None:
            return Known(np.asarray(tensor), "captured")
        return Outside(tensor)

    def known(self, item: Item | None, tensor: Any, what: str) -> Array:
        """The value of an operand that decides shapes.

        Raises:
            NeedSizes: importing again for numbers helps; Unmapped: it won't.
        """
        if isinstance(item, Known):
            return item.array
        if isinstance(item, Host):
            raise NeedSizes(f"{what} depends on sizes")
        found = tf.get_static_value(tensor)
        if found is None:
            raise Unmapped(f"{what} is known only while it runs")
        return np.asarray(found)

    def static(self, dim: Dim) -> int:
        """A size that must be a number."""
        if isinstance(dim, int):
            return dim
        if self.told(dim):
            raise NeedSizes(f"the size {dim} must be a number")
        raise Unmapped(f"the size {dim} is known only while it runs")

    def told(self, dim: Dim) -> bool:
        """Whether ``dim`` can be had from tensors that TensorFlow has."""
        return isinstance(dim, int) or all(s in self.symbols for s in free_symbols(dim))

    # --- operations -----------------------------------------------------------------------------------------------

    def _operations(self, graph: Any, items: dict[str, Item], prefix: str) -> None:
        for op in graph.get_operations():
            if op.outputs and all(t.name in items for t in op.outputs):
                continue  # inputs and captures
            self.operation(op, items, prefix)

    def operation(self, op: Any, items: dict[str, Item], prefix: str) -> None:
        """Import one operation."""
        from nnaccel_frontend_tf.mapping import Call, fold_sizes, lookup

        if op.type == "NoOp":
            return
        self.origin = layer_of(f"{prefix}/{op.name}" if prefix else op.name)
        operands = [items[t.name] for t in op.inputs]
        if op.type in CALLS:
            self._call(op, operands, items)
            return
        call = Call(self, op, operands)
        if operands and all(isinstance(x, (Host, Known)) for x in operands):
            folded = fold_sizes(call)
            if folded is not None:
                items[op.outputs[0].name] = folded
                return
        mark = len(self.steps)
        try:
            handler = lookup(op.type)
            if handler is None:
                static = self._static(op)
                if static is None:
                    raise Unmapped("nnaccel has no mapping for this operation")
                found: Any = static
            else:
                found = handler(call)
            results = found if isinstance(found, (list, tuple)) else [found]
            for t, result in zip(op.outputs, results, strict=False):
                if result is not None:
                    items[t.name] = result
            for t in op.outputs[len(results) :]:
                items.setdefault(t.name, Opaque(""))
        except Unmapped as e:
            self._foreign(op, operands, items, str(e), mark)
        except (TypeError, ValueError, ArithmeticError, LookupError) as e:
            # An attribute or operand that handlers do not expect: TensorFlow runs it, or says what is wrong.
            self._foreign(op, operands, items, f"{type(e).__name__}: {e}", mark)

    @staticmethod
    def _static(op: Any) -> list[Item] | None:
        """The constant results of an operation on constants, as far as TensorFlow tells them while tracing."""
        if len(op.outputs) != 1 or op.op_def.is_stateful or ir_dtype(op.outputs[0].dtype) is None:
            return None
        found = tf.get_static_value(op.outputs[0])
        return None if found is None else [Known(np.asarray(found))]

    def _call(self, op: Any, operands: Sequence[Item], items: dict[str, Item]) -> None:
        """Import a function's body in place of its call."""
        body = function_named(op.graph, op.get_attr("f").name)
        prefix = self.origin
        inner: dict[str, Item] = {t.name: item for t, item in zip(body.inputs, operands, strict=True)}
        self._operations(body, inner, prefix)
        for t, result in zip(op.outputs, body.outputs, strict=True):
            items[t.name] = inner[result.name]

    def _foreign(self, op: Any, operands: Sequence[Item], items: dict[str, Item], reason: str, mark: int) -> None:
        """Record an operation that TensorFlow runs; forget what was emitted for it since ``mark``."""
        del self.steps[mark:]
        self._small = {k: v for k, v in self._small.items() if v[1] < mark}
        inputs = list(operands)
        for x in inputs:
            if isinstance(x, Host) and not all(self.told(d) for d in x.dims.reshape(-1)):
                raise NeedSizes(f"{reason}: it gets sizes that are known only while it runs")
            if isinstance(x, Opaque) and not x.name:
                raise UnsupportedError(f"{op.type} at {self.origin} reads a result that nnaccel does not make")
        names = []
        stateful = bool(op.op_def.is_stateful)
        if stateful and op.type not in READS:  # loops and conditions may write as well
            self._written |= {id(x.tensor) for x in inputs if isinstance(x, Outside)}
        for t, shape in zip(op.outputs, _result_shapes(op, operands), strict=True):
            name = self.fresh(t.op.name if len(op.outputs) == 1 else f"{t.op.name}:{t.value_index}")
            names.append(name)
            dtype = ir_dtype(t.dtype)
            if dtype is None or shape is None:
                items[t.name] = Opaque(name)
            else:
                full = tuple(sym(self.fresh(f"{name}.size{k}")) if d is None else d for k, d in enumerate(shape))
                items[t.name] = self.outer[name] = value = Value(TensorType(full, dtype), name)
                self._told_by(value)
        self.steps.append(ForeignStep(op, inputs, names, reason, f"{op.type} at {self.origin}", stateful))


def _result_shapes(op: Any, operands: Sequence[Item]) -> list[tuple[Dim | None, ...] | None]:
    """What is known of each result's shape: None for an unknown size, None altogether for an unknown rank."""
    shapes: list[tuple[Dim | None, ...] | None] = []
    for t in op.outputs:
        if t.shape.rank is None:
            shapes.append(None)
        else:
            shapes.append(tuple(t.shape.as_list()))
    first = operands[0] if operands else None
    if op.type in SAME_SHAPE and isinstance(first, Value):
        return [first.shape]
    # Random numbers have the shape that their first operand says, symbols and all.
    if "Random" in op.type and len(shapes) == 1 and isinstance(first, (Host, Known)):
        dims = first.dims if isinstance(first, Host) else first.array
        if dims.ndim == 1 and shapes[0] is not None and len(shapes[0]) == len(dims):
            return [tuple(d if not isinstance(d, np.integer) else int(d) for d in dims)]
    return shapes


@functools.lru_cache(maxsize=4096)
def layer_of(name: str) -> str:
    """The layer path of an operation: its scopes without its own name."""
    path, _, last = name.rpartition("/")
    return path or last
