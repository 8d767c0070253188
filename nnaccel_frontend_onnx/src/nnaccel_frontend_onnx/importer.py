"""The importer: nodes of an ONNX graph in, a `Program` out."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx.helper

from nnaccel_core.errors import ShapeError, UnsupportedError
from nnaccel_core.ir import Dim, Node, TensorType, Value, free_symbols, numpy_dtype, sym
from nnaccel_core.ops.registry import collect_guards, infer
from nnaccel_frontend_onnx.assembly import ForeignPart, Imported, assemble, given
from nnaccel_frontend_onnx.bridge import ir_dtype
from nnaccel_frontend_onnx.control import Make, control_flow
from nnaccel_frontend_onnx.errors import NeedSizes, NeedValue, Unmapped
from nnaccel_frontend_onnx.expansion import body_of
from nnaccel_frontend_onnx.foreign import Run, evaluator, names_read, output_types, type_proto
from nnaccel_frontend_onnx.items import Array, Host, Item, Known, Opaque
from nnaccel_frontend_onnx.loading import Model, tensor_array, where

#: Elements of a constant's operands up to which a node is computed while importing.
FOLD = 1 << 16
#: Elements of an input up to which its value may be taken as fixed, where it decides shapes.
SMALL = 64
RANDOM = frozenset({"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial", "Bernoulli"})
#: Operators whose result is far larger than their operands: never computed while importing, unless mapped so.
GROWING = frozenset({"ConstantOfShape", "Expand", "Tile", "Range", "EyeLike", "Pad", "Resize", "Upsample", "OneHot", "MaxUnpool"})


@dataclass(frozen=True)
class Pattern:
    """An input's type: shape with symbols, or the type of something that is no tensor of the IR (``dtype`` is None)."""

    dtype: str | None
    shape: tuple[Dim, ...] = ()

    @classmethod
    def of_array(cls, value: Any) -> Pattern:
        """The pattern of exactly this value."""
        if not isinstance(value, np.ndarray):
            return cls(None)
        return cls(ir_dtype(value.dtype), value.shape)


class Importer:
    """Builds a `Program` node by node.

    Args:
        inputs: what the call brings, by name.
        values: inputs whose values are taken as fixed.
        batch: the symbol of a batch axis that the file has fixed at 1, if the call brings more samples.
        make: makes networks of the bodies of conditions and loops; None leaves these to onnx.
    """

    def __init__(
        self, model: Model, inputs: Mapping[str, Pattern], values: Mapping[str, Array], batch: str = "", make: Make | None = None
    ) -> None:
        self.model = model
        self.make = make
        self.values = values
        self.batch = batch
        self.origin = ""
        self.items: dict[str, Item] = {}
        self.parts: list[list[Node] | ForeignPart] = [[]]
        self.inputs: list[str] = []
        self.outer: dict[str, Value] = {}  # program inputs and foreign results that segments may read, by name
        self.input_symbols: set[str] = set()
        self.params: dict[str, tuple[Value, Array]] = {}
        self.param_of: dict[int, Value] = {}
        self.guards: dict[tuple[Dim, Dim], None] = {}
        self.foreign_reasons: list[str] = []
        self._names: set[str] = set()
        self._constants: dict[tuple[str, bytes], Value] = {}
        for name, array in model.initializers.items():
            self.items[name] = Known(array, name)
        for name, pattern in inputs.items():
            self._add_input(name, pattern)
        self._read_input = {id(v): n for n, v in self.items.items() if isinstance(v, Value)}

    def _add_input(self, name: str, pattern: Pattern) -> None:
        self.inputs.append(name)
        self._names.add(name)
        if name in self.values:
            self.items[name] = Known(self.values[name])
        elif pattern.dtype is None:
            self.items[name] = Opaque(name, self.model.types.get(name))
        else:
            value = Value(TensorType(pattern.shape, pattern.dtype), name)
            self.items[name] = self.outer[name] = value
            for d in pattern.shape:
                self.input_symbols |= free_symbols(d)

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
            Unmapped: the IR refuses these operands.
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
            if not (self.told(a) and self.told(b)):
                # Sizes that are known only while the network runs may also broadcast.
                raise Unmapped(f"whether {a} is {b} is known only while it runs")
        self.guards.update(dict.fromkeys(guards))
        outs = [Value(t, self.fresh(f"{self.origin}.{op}" if self.origin else op)) for t in types]
        part = self.parts[-1]
        if isinstance(part, ForeignPart):
            part = []
            self.parts.append(part)
        part.append(Node(op, tuple(inputs), tuple(outs), attrs, self.origin))
        return outs

    def constant(self, value: Any, dtype: str) -> Value:
        """A constant of ``dtype``."""
        if dtype == "float16" and not isinstance(value, np.ndarray):
            return self.emit("cast", [self.constant(value, "float32")], dtype=dtype)
        array = np.ascontiguousarray(np.asarray(value, numpy_dtype(dtype))).reshape(np.shape(value))
        key = (f"{dtype}{array.shape}", array.tobytes())
        if array.size > SMALL:
            return self.emit("constant", [], value=array)
        found = self._constants.get(key)
        if found is None or isinstance(self.parts[-1], ForeignPart):
            found = self._constants[key] = self.emit("constant", [], value=array)
        return found

    def cast(self, value: Value, dtype: str) -> Value:
        """``value`` as ``dtype``."""
        return value if value.dtype == dtype else self.emit("cast", [value], dtype=dtype)

    def read(self, item: Item | None) -> Value:
        """The tensor of an operand.

        Raises:
            Unmapped: it is absent, or none that the IR has; NeedSizes: it is made of sizes.
        """
        if isinstance(item, Value):
            return item
        if isinstance(item, Known):
            dtype = ir_dtype(item.array.dtype)
            if dtype is None:
                raise Unmapped(f"an operand of dtype {item.array.dtype}")
            return self._param(item, dtype) if item.parameter else self.constant(item.array, dtype)
        if isinstance(item, Host):
            raise NeedSizes("sizes are used as a tensor")
        raise Unmapped("an operand is absent" if item is None else "an operand's type is known only while it runs")

    def _param(self, item: Known, dtype: str) -> Value:
        found = self.param_of.get(id(item.array))
        if found is None:
            found = self.param_of[id(item.array)] = Value(TensorType(item.array.shape, dtype), self.fresh(item.parameter))
            self.params[found.name] = (found, item.array)
        return found

    def known(self, item: Item | None, what: str) -> Array:
        """The value of an operand that decides shapes.

        Raises:
            NeedSizes, NeedValue: importing again may help; Unmapped: it won't.
        """
        if isinstance(item, Known):
            return item.array
        if isinstance(item, Host):
            raise NeedSizes(f"{what} depends on sizes")
        if isinstance(item, Value):
            name = self._read_input.get(id(item), "")
            small = all(isinstance(d, int) for d in item.shape) and item.type.size <= SMALL  # type: ignore[operator]
            if name in self.inputs and (small or item.type.rank == 1):
                raise NeedValue(name)
        raise Unmapped(f"{what} is known only while it runs")

    def static(self, dim: Dim) -> int:
        """A size that must be a number."""
        if isinstance(dim, int):
            return dim
        if free_symbols(dim) <= self.input_symbols:
            raise NeedSizes(f"the size {dim} must be a number")
        raise Unmapped(f"the size {dim} is known only while it runs")

    def told(self, dim: Dim) -> bool:
        """Whether the sizes of inputs tell ``dim``."""
        return isinstance(dim, int) or free_symbols(dim) <= self.input_symbols

    # --- nodes --------------------------------------------------------------------------------------------------

    def node(self, node: onnx.NodeProto) -> None:
        """Import one node."""
        from nnaccel_frontend_onnx.mapping import Call, fold_sizes, lookup

        self.origin = node.name or next((o for o in node.output if o), node.op_type)
        operands = [self.items[n] if n else None for n in node.input]
        call = Call(self, node, operands)
        if self._foldable(node, operands):
            results = self._fold(node)
            if results is not None:
                self.bind(node, results)
                return
        if any(isinstance(x, Host) for x in operands):
            folded = fold_sizes(call)
            if folded is not None:
                self.bind(node, folded)
                return
        if node.op_type == "If" and isinstance(operands[0], Known):
            self._branch(node, bool(operands[0].array.reshape(-1)[0]))
            return
        mark = self._mark()
        try:
            handler = lookup(node)
            if handler is None:
                if self._expanded(node):
                    return
                raise Unmapped("nnaccel has no mapping for this operator")
            found = handler(call)
            self.bind(node, [found] if isinstance(found, (Known, Host, Value, Opaque)) else found)
        except Unmapped as e:
            self._rewind(mark)
            self.foreign(node, str(e))
        except (TypeError, ValueError, ArithmeticError, LookupError) as e:
            # An attribute or operand that handlers do not expect: the reference evaluator runs it, or says what is wrong.
            self._rewind(mark)
            self.foreign(node, f"{type(e).__name__}: {e}")

    def _mark(self) -> tuple[int, int, int]:
        last = self.parts[-1]
        return len(self.parts), len(last) if isinstance(last, list) else 0, len(self.foreign_reasons)

    def _rewind(self, mark: tuple[int, int, int]) -> None:
        """Forget what was emitted since ``mark``."""
        del self.parts[mark[0] :]
        last = self.parts[-1]
        if isinstance(last, list):
            del last[mark[1] :]
        del self.foreign_reasons[mark[2] :]
        self._constants.clear()

    def _expanded(self, node: onnx.NodeProto) -> bool:
        """Import a node as the smaller ones by which onnx defines it, where these are all mapped."""
        origin, mark = self.origin, self._mark()
        body = body_of(self.model, node, [self._type_of(self.items[n]) if n else None for n in node.input], self.fresh(origin))
        for inner in body or ():
            self.node(inner)
            if len(self.foreign_reasons) > mark[2]:
                self._rewind(mark)
                self.origin = origin
                return False
        self.origin = origin
        return body is not None

    def _type_of(self, item: Item) -> onnx.TypeProto | None:
        if isinstance(item, Known):
            return onnx.helper.make_tensor_type_proto(onnx.helper.np_dtype_to_tensor_dtype(item.array.dtype), item.array.shape)
        if isinstance(item, Host):
            return onnx.helper.make_tensor_type_proto(onnx.TensorProto.INT64, item.dims.shape)
        return type_proto(item.dtype, item.shape) if isinstance(item, Value) else item.type

    def _branch(self, node: onnx.NodeProto, condition: bool) -> None:
        """Import the branch that a known condition chooses."""
        graph = next(a.g for a in node.attribute if a.name == ("then_branch" if condition else "else_branch"))
        for t in graph.initializer:
            self.items[t.name] = Known(tensor_array(t, None, f"{where(node)}: initializer {t.name!r}"))
        for inner in graph.node:
            self.node(inner)
        for name, out in zip(node.output, graph.output, strict=True):
            if name:
                self.items[name] = self.items[out.name]

    def bind(self, node: onnx.NodeProto, results: Sequence[Item | None]) -> None:
        """Give the node's outputs their meaning."""
        for k, name in enumerate(node.output):
            if not name:
                continue
            item = results[k] if k < len(results) else None
            if item is None:
                raise Unmapped(f"its output {name!r} is not mapped")
            self.items[name] = item

    def _foldable(self, node: onnx.NodeProto, operands: Sequence[Item | None]) -> bool:
        if node.op_type in RANDOM or node.op_type in GROWING or any(a.HasField("g") for a in node.attribute):
            return False
        present = [x for x in operands if x is not None]
        return bool(present) and all(isinstance(x, Known) and x.array.size <= FOLD for x in present)

    def _fold(self, node: onnx.NodeProto) -> list[Item] | None:
        results = evaluator(self.model, node)(*(self.items[n].array for n in names_read(node)))  # type: ignore[union-attr]
        if not all(isinstance(r, (np.ndarray, np.generic)) for r in results):
            return None
        out: list[Item] = []
        done = iter(results)
        for name in node.output:
            out.append(Known(np.asarray(next(done))) if name else Known(np.zeros(0)))
        return out

    # --- nodes that stay with onnx --------------------------------------------------------------------------------

    def foreign(self, node: onnx.NodeProto, reason: str) -> None:
        """Record a node that the reference evaluator runs."""
        names = names_read(node)
        getters: list[Callable[[Sequence[Any]], Any]] = []
        inputs: list[str] = []
        types: dict[str, onnx.TypeProto] = {}
        data: dict[str, Array] = {}
        for name in names:
            item = self.items[name]
            if isinstance(item, Host):
                raise NeedSizes(f"{reason}: it gets sizes")
            if isinstance(item, Known):
                getters.append(functools.partial(given, item.array))
                data[name] = item.array
                types[name] = self._type_of(item)
                continue
            inner = item.name
            if inner not in inputs:
                inputs.append(inner)
            getters.append(functools.partial(_pick, inputs.index(inner)))
            found = self._type_of(item)
            if found is not None:
                types[name] = found
        results: list[str] = []
        kinds: list[TensorType | None] = []
        for name, kind in zip((o for o in node.output if o), output_types(self.model, node, types, data), strict=True):
            inner = self.fresh(name)
            tensor = self._tensor_type(kind)
            if tensor is None:
                self.items[name] = Opaque(inner, kind)
            else:
                self.items[name] = self.outer[inner] = Value(tensor, inner)
            results.append(inner)
            kinds.append(tensor)
        run = self._control_flow(node, data, types)
        if run is None:
            run = evaluator(self.model, node)
        else:
            reason = "its body is a network of its own"

        def call(*values: Any) -> list[Any]:
            return [_arranged(r, k) for r, k in zip(run(*(g(values) for g in getters)), kinds, strict=True)]

        self.parts.append(ForeignPart(call, inputs, results, reason, self.origin))
        self._constants.clear()
        self.foreign_reasons.append(f"{where(node)}: {reason}")

    def _control_flow(self, node: onnx.NodeProto, known: Mapping[str, Array], types: Mapping[str, onnx.TypeProto]) -> Run | None:
        """A condition or loop whose bodies are networks; None for other nodes."""
        if self.make is None or node.domain not in ("", "ai.onnx") or node.op_type not in ("If", "Loop", "Scan"):
            return None
        try:
            return control_flow(self.model, node, known, types, self.make)
        except Unmapped:
            return None

    def _tensor_type(self, kind: onnx.TypeProto | None) -> TensorType | None:
        """The IR's type of an inferred one, sizes that are not known as new symbols; None where the IR has none."""
        if kind is None or not kind.HasField("tensor_type") or not kind.tensor_type.HasField("shape"):
            return None
        try:
            dtype = ir_dtype(np.dtype(onnx.helper.tensor_dtype_to_np_dtype(kind.tensor_type.elem_type)))
        except (KeyError, TypeError):
            return None
        if dtype is None:
            return None
        shape: list[Dim] = []
        for d in kind.tensor_type.shape.dim:
            if d.HasField("dim_value"):
                shape.append(d.dim_value)
            else:
                known = next((x for v in self.outer.values() for x in v.shape if d.dim_param and str(x) == d.dim_param), None)
                shape.append(known if known is not None else sym(self.fresh("size")))
        return TensorType(tuple(shape), dtype)


def _pick(k: int, values: Sequence[Any]) -> Any:
    return values[k]


def _arranged(result: Any, kind: TensorType | None) -> Any:
    """A result of the evaluator as compiled code wants it: row-major, of the declared dtype."""
    if kind is None:
        return result
    return np.ascontiguousarray(np.asarray(result), dtype=numpy_dtype(kind.dtype)).reshape(np.shape(result))


def import_model(
    model: Model, inputs: Mapping[str, Pattern], values: Mapping[str, Array], batch: str = "", make: Make | None = None
) -> Imported:
    """Import ``model`` for inputs of these patterns.

    Raises:
        NeedSizes, NeedValue: sizes, or an input's value, must be known.
    """
    importer = Importer(model, inputs, values, batch, make)
    for node in model.proto.graph.node:
        importer.node(node)
    return assemble(importer)
