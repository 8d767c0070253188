"""The importer: nodes of an ONNX graph in, a `Program` out."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx.helper

from nnaccel_core.errors import ShapeError, UnsupportedError
from nnaccel_core.ir import Dim, Node, TensorType, Value, free_symbols, numpy_dtype
from nnaccel_core.ops.registry import collect_guards, infer
from nnaccel_frontend_onnx.assembly import ForeignPart, Imported, assemble
from nnaccel_frontend_onnx.bridge import ir_dtype, is_array
from nnaccel_frontend_onnx.control import Make
from nnaccel_frontend_onnx.errors import NeedSizes, NeedValue, Unmapped
from nnaccel_frontend_onnx.expansion import body_of
from nnaccel_frontend_onnx.foreign import evaluator, names_read, type_proto
from nnaccel_frontend_onnx.items import PREDICTION, Array, Host, Item, Known, Mode, Opaque, trainable
from nnaccel_frontend_onnx.leftover import leave
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
        if not is_array(value):
            return cls(None)
        return cls(ir_dtype(value.dtype), value.shape)


class Importer:
    """Builds a `Program` node by node.

    Args:
        inputs: what the call brings, by name.
        values: inputs whose values are taken as fixed.
        batch: the symbol of a batch axis that the file has fixed at 1, if the call brings more samples.
        make: makes networks of the bodies of conditions and loops; None leaves these to onnx.
        choices: inputs whose values may be asked for because they decide a condition.
        mode: whether parameters may change, and whether this is for a training step.

    Attributes:
        fixed_values: parameters whose values have become part of the import, as copies.
        statistics: names of graph parameters that are running statistics: no gradients are taken of them.
        written: inputs of a training step's program that are running statistics, with their initializers: it writes them.
        updates: these inputs, and what is written over them.
        stops: names of values that come from what has no gradient: which node, and why.
        reads_parameters: those among ``stops`` that are made from parameters directly.
    """

    def __init__(
        self, model: Model, inputs: Mapping[str, Pattern], values: Mapping[str, Array], batch: str = "", make: Make | None = None,
        mode: Mode = PREDICTION, choices: Collection[str] = (),
    ) -> None:  # fmt: skip
        self.model = model
        self.make = make
        self.mode = mode
        self.choices = choices
        self.fixed_values: dict[str, Array] = {}
        self.statistics: set[str] = set()
        self.written: dict[str, str] = {}
        self.updates: list[tuple[Value, Value]] = []
        self.stops: dict[str, str] = {}
        self.reads_parameters: set[str] = set()
        self.values = values
        self.batch = batch
        self.origin = ""
        self.items: dict[str, Item] = {}
        self.parts: list[list[Node] | ForeignPart] = [[]]
        self.inputs: list[str] = []
        self.outer: dict[str, Value] = {}  # program inputs and foreign results that segments may read, by name
        self.input_symbols: set[str] = set()
        self.params: dict[str, tuple[Value, Known]] = {}
        self.param_of: dict[tuple[int, bool], Value] = {}
        self.guards: dict[tuple[Dim, Dim], None] = {}
        self.foreign_reasons: list[str] = []
        self._names: set[str] = set()
        self.constants: dict[tuple[str, bytes], Value] = {}
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

    def reserve(self, names: Iterable[str]) -> None:
        """Names of values that something else made."""
        self._names.update(names)

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
        found = self.constants.get(key)
        if found is None or isinstance(self.parts[-1], ForeignPart):
            found = self.constants[key] = self.emit("constant", [], value=array)
        return found

    def cast(self, value: Value, dtype: str) -> Value:
        """``value`` as ``dtype``."""
        return value if value.dtype == dtype else self.emit("cast", [value], dtype=dtype)

    def live(self, item: Item | None) -> bool:
        """Whether ``item`` is a parameter that may change between calls."""
        return self.mode.live and isinstance(item, Known) and bool(item.parameter) and trainable(item.array)

    def fixed(self, item: Known) -> Array:
        """The values of ``item`` as they are now; where they may change, the import holds as long as they do not."""
        if not self.live(item):
            return item.array
        return self.fixed_values.setdefault(item.parameter, item.array.copy())

    def read(self, item: Item | None, statistic: bool = False) -> Value:
        """The tensor of an operand; ``statistic``: in training, no gradients are taken of it where it is a parameter.

        Raises:
            Unmapped: it is absent, or none that the IR has; NeedSizes: it is made of sizes.
        """
        if isinstance(item, Value):
            return item
        if isinstance(item, Known):
            dtype = ir_dtype(item.array.dtype)
            if dtype is None:
                raise Unmapped(f"an operand of dtype {item.array.dtype}")
            # A number that stays what it is says how an operator works; passes look at such.
            number = item.array.size == 1 and not self.mode.live and dtype not in ("float16", "bfloat16")
            return self._param(item, dtype, statistic) if item.parameter and not number else self.constant(item.array, dtype)
        if isinstance(item, Host):
            raise NeedSizes("sizes are used as a tensor")
        raise Unmapped("an operand is absent" if item is None else "an operand's type is known only while it runs")

    def _param(self, item: Known, dtype: str, statistic: bool) -> Value:
        key = id(item.array), statistic and self.mode.train
        found = self.param_of.get(key)
        if found is None:
            found = self.param_of[key] = Value(TensorType(item.array.shape, dtype), self.fresh(item.parameter))
            self.params[found.name] = (found, item)
            if key[1]:
                self.statistics.add(found.name)
        return found

    def running(self, item: Item | None) -> Value:
        """A running statistic of an operator in training; where it is a parameter, `update` may write it."""
        if not (self.mode.train and self.live(item)):
            return self.read(item)
        assert isinstance(item, Known)
        found = next((self.outer[n] for n, parameter in self.written.items() if parameter == item.parameter), None)
        if found is None:
            dtype = ir_dtype(item.array.dtype)
            assert dtype is not None, "live parameters are of dtypes of the IR"
            found = Value(TensorType(item.array.shape, dtype), self.fresh(item.parameter))
            self.outer[found.name] = found
            self.inputs.append(found.name)
            self.written[found.name] = item.parameter
        return found

    def update(self, target: Value, value: Value) -> None:
        """In a training step, write ``value`` over ``target`` where that is a parameter that nothing else has written."""
        if target.name in self.written and all(target is not t for t, _ in self.updates):
            self.updates.append((target, value))

    def known(self, item: Item | None, what: str) -> Array:
        """The value of an operand that decides shapes.

        Raises:
            NeedSizes, NeedValue: importing again may help; Unmapped: it won't.
        """
        if isinstance(item, Known):
            return self.fixed(item)
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

    def assume(self, a: Dim, b: Dim) -> None:
        """The program holds for sizes for which ``a`` is ``b``; for others it is imported again."""
        if a != b:
            self.guards[a, b] = None

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
        if node.op_type == "If" and isinstance(operands[0], Value):
            self._ask_for_choice(operands[0])
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
        self.constants.clear()

    def _expanded(self, node: onnx.NodeProto) -> bool:
        """Import a node as the smaller ones by which onnx defines it, where these are all mapped."""
        origin, mark = self.origin, self._mark()
        body = body_of(self.model, node, [self.type_of(self.items[n]) if n else None for n in node.input], self.fresh(origin))
        for inner in body or ():
            self.node(inner)
            if len(self.foreign_reasons) > mark[2]:
                self._rewind(mark)
                self.origin = origin
                return False
        self.origin = origin
        return body is not None

    def type_of(self, item: Item) -> onnx.TypeProto | None:
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

    def _ask_for_choice(self, condition: Value) -> None:
        """Have the import repeated with values for the inputs that decide a condition, where these are a few integers.

        Raises:
            NeedValue: for one of them.
        """
        producers = {v: n for part in self.parts if isinstance(part, list) for n in part for v in n.outputs}
        waiting, found, asked = [condition], dict[str, None](), set[Value]()
        while waiting:
            v = waiting.pop()
            if v in asked:
                continue
            asked.add(v)
            if v in producers:
                waiting += producers[v].inputs
                continue
            if v.name in self.params and not self.live(self.params[v.name][1]):
                continue
            name = self._read_input.get(id(v), "")
            if name not in self.choices or v.type.size != 1 or v.type.is_float:
                return
            found[name] = None
        for name in found:
            raise NeedValue(name, choice=True)

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
        return bool(present) and all(isinstance(x, Known) and x.array.size <= FOLD and not self.live(x) for x in present)

    def _fold(self, node: onnx.NodeProto) -> list[Item] | None:
        results = evaluator(self.model, node)(*(self.items[n].array for n in names_read(node)))  # type: ignore[union-attr]
        if not all(isinstance(r, (np.ndarray, np.generic)) for r in results):
            return None
        out: list[Item] = []
        done = iter(results)
        for name in node.output:
            out.append(Known(np.asarray(next(done))) if name else Known(np.zeros(0)))
        return out

    def foreign(self, node: onnx.NodeProto, reason: str) -> None:
        """Record a node that the reference evaluator runs."""
        leave(self, node, reason)


def import_model(
    model: Model, inputs: Mapping[str, Pattern], values: Mapping[str, Array], batch: str = "", make: Make | None = None,
    mode: Mode = PREDICTION, choices: Collection[str] = (),
) -> Imported:  # fmt: skip
    """Import ``model`` for inputs of these patterns; arguments are those of `Importer`.

    Raises:
        NeedSizes, NeedValue: sizes, or an input's value, must be known.
    """
    importer = Importer(model, inputs, values, batch, make, mode, choices)
    for node in model.proto.graph.node:
        importer.node(node)
    return assemble(importer)
