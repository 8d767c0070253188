"""The one importer: torch calls in, IR parts out. Both ways of capture (trace and Dynamo) drive it call by call."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch.utils._pytree import tree_flatten, tree_unflatten

from nnaccel_core.errors import ShapeError, UnsupportedError
from nnaccel_core.ir import (
    Dim,
    Env,
    Expr,
    Graph,
    Node,
    TensorType,
    Value,
    channels_last,
    evaluate,
    free_symbols,
    live_nodes,
    numpy_dtype,
    sym,
)  # fmt: skip
from nnaccel_core.ir.program import Foreign, Part, Program, Segment
from nnaccel_core.ops.registry import infer
from nnaccel_core.passes.widen import widen
from nnaccel_frontend_torch.alias import Ref, Step, Storage
from nnaccel_frontend_torch.autocast import held, lower_dtype
from nnaccel_frontend_torch.dtypes import TO_IR, TO_TORCH, dense_layout, is_channels_last, torch_strides
from nnaccel_frontend_torch.place import here, is_here
from nnaccel_frontend_torch.refusal import NeedStatic, Refusal, Unmapped
from nnaccel_frontend_torch.released import is_released

Param = tuple[str, Callable[[], Any]]


class NeedMutable(Refusal):
    """A buffer is written by the network; capture again with it as an input."""

    def __init__(self, name: str) -> None:
        super().__init__(f"the network writes its buffer {name!r}")
        self.name = name


class Noise:
    """Dropout's factors, drawn as torch's own dropout draws them, so that one seed gives the same numbers."""

    def __init__(self, type: TensorType, keep: float) -> None:
        self.type, self.keep = type, keep

    def draw(self, env: Env) -> torch.Tensor:
        """The factors of one call; moves torch's generator."""
        shape = [evaluate(d, env) for d in self.type.shape]
        noise = torch.empty(shape, dtype=TO_TORCH[self.type.dtype], device=here())
        return noise.bernoulli_(self.keep).div_(self.keep)


class _Foreign:
    """A foreign call while it is recorded."""

    def __init__(self, call: Callable[..., Any], inputs: list[Value], outputs: list[Value], reason: str, origin: str) -> None:
        self.call, self.inputs, self.outputs, self.reason, self.origin = call, inputs, outputs, reason, origin


class Importer:
    """Builds a `Program` from torch calls over `Ref`s.

    Args:
        params: identity of each tensor the network owns, to its state_dict-like name and a function that returns the live tensor.
        mutable: names of those that the network writes and that are therefore inputs.
    """

    def __init__(self, params: Mapping[int, Param], mutable: Sequence[str] = ()) -> None:
        self.params = params
        self.mutable = tuple(mutable)
        self.origin = ""
        self.row_major = True
        self.image_layout = False
        self.parts: list[list[Node] | _Foreign] = [[]]
        self.inputs: list[Ref] = []
        self.input_values: list[Value] = []
        self.extra_inputs: list[Param] = []
        self.noise: list[Noise] = []
        #: why gradients are not to be had from the IR
        self.own_backward = ""
        self.param_refs: dict[int, Ref] = {}
        self.param_values: dict[str, tuple[Value, Callable[[], Any], Any]] = {}
        self.written_inputs: dict[int, Storage] = {}
        self.foreign_reasons: list[str] = []
        #: names of parameters that are read beside the segments: by foreign calls, or as results
        self.outside: set[str] = set()
        self._names: set[str] = set()
        self._scalars: dict[tuple[str, float], Value] = {}
        #: narrow float types that are computed in float32, because the device has no fast products of them
        self.widened: Collection[str] = ()
        #: what autocast lowered to around the network, and whatever it did inside
        self.lower = lower_dtype(here().type)
        self.autocast = self.lower
        #: results that torch rounds to a narrow type on the way, not because the network says so
        self.rounded_on_the_way: set[Value] = set()

    # --- values -------------------------------------------------------------------------------------------------

    def fresh(self, hint: str) -> str:
        """A value name that is not in use yet."""
        name, i = hint, 1
        while name in self._names:
            name, i = f"{hint}_{i}", i + 1
        self._names.add(name)
        return name

    def add_input(self, type: TensorType, name: str = "x") -> Ref:
        """The next tensor argument."""
        value = Value(type, self.fresh(name))
        ref = Ref(Storage(value, "input", len(self.inputs)))
        self.inputs.append(ref)
        self.input_values.append(value)
        if is_channels_last(type.layout):
            self.image_layout = True
        if type.layout != tuple(range(type.rank)):
            self.row_major = False
        return ref

    def add_mutable(self) -> None:
        """Append the buffers that the network writes to the inputs."""
        for key, (name, get) in self.params.items():
            if name in self.mutable:
                tensor = get()
                type = self.type_of(tensor)
                self.extra_inputs.append((name, get))
                self.param_refs[key] = self.add_input(type, name)

    def add_noise(self, shape: Sequence[Dim], dtype: str, keep: float) -> Value:
        """A further input that torch draws anew for each call: 1 / keep with probability ``keep``, else 0."""
        type = TensorType(tuple(shape), dtype)
        ref = self.add_input(type, "noise")
        self.noise.append(Noise(type, keep))
        return ref.storage.value

    def type_of(self, tensor: torch.Tensor) -> TensorType:
        """The IR type of a real tensor; row-major when it is not dense."""
        if tensor.dtype not in TO_IR:
            raise Refusal(f"a tensor of dtype {tensor.dtype}")
        layout = dense_layout(tensor.shape, tensor.stride())
        return TensorType(tuple(tensor.shape), TO_IR[tensor.dtype], layout)  # type: ignore[arg-type]

    def param(self, tensor: torch.Tensor) -> Ref:
        """The network's own parameter, buffer or tensor attribute.

        Raises:
            Refusal: the tensor is none of the network's.
        """
        found = self.param_refs.get(id(tensor))
        if found is not None:
            return found
        if id(tensor) not in self.params:
            where = f" in {self.origin}" if self.origin else ""
            raise Refusal(
                f"a tensor of shape {list(tensor.shape)} is used{where} that is no parameter, buffer or attribute of the network"
            )
        plain = type(tensor) in (torch.Tensor, torch.nn.Parameter) or is_released(tensor)
        if not plain or tensor.layout != torch.strided or tensor.is_neg():
            raise Refusal(f"parameter {self.params[id(tensor)][0]!r} is a {type(tensor).__name__} of layout {tensor.layout}")
        if not is_here(tensor.device):
            raise Refusal(f"parameter {self.params[id(tensor)][0]!r} is on {tensor.device}")
        name, get = self.params[id(tensor)]
        type_ = self.type_of(tensor)
        value = Value(type_, self.fresh(name))
        self.param_values[value.name] = (value, get, tensor)
        if type_.rank >= 4 and is_channels_last(type_.layout):
            self.image_layout = True
            self.row_major = False
        ref = Ref(Storage(value, "param", name=name))
        self.param_refs[id(tensor)] = ref
        return ref

    def written(self, storage: Storage) -> None:
        """Called when a tensor that outlives the call was written."""
        if storage.owner == "param":
            raise NeedMutable(storage.name)
        self.written_inputs[storage.index] = storage

    def emit(self, op: str, inputs: Sequence[Value], **attrs: Any) -> Value:
        """Append a node and return its first result.

        Raises:
            Unmapped: the IR has no such op or refuses these operands.
        """
        try:
            types = infer(op, [v.type for v in inputs], attrs, self.origin or op)
        except (ShapeError, UnsupportedError) as e:
            raise Unmapped(str(e)) from e
        return self.emit_many(op, inputs, types, attrs)[0]

    def emit_many(self, op: str, inputs: Sequence[Value], types: Sequence[TensorType], attrs: Mapping[str, Any]) -> list[Value]:
        """Append a node with results of known ``types``."""
        hint = f"{self.origin}.{op}" if self.origin else op
        outs = [Value(t, self.fresh(hint)) for t in types]
        part = self.parts[-1]
        if isinstance(part, _Foreign):
            part = []
            self.parts.append(part)
        part.append(Node(op, tuple(inputs), tuple(outs), attrs, self.origin))
        return outs

    def constant(self, value: Any, dtype: str) -> Value:
        """A constant of ``dtype``; Python scalars become 0-d."""
        if dtype in ("float16", "bfloat16"):
            return self.emit("cast", [self.constant(value, "float32")], dtype=dtype)
        if isinstance(value, np.ndarray):
            return self.emit("constant", [], value=value.astype(numpy_dtype(dtype)))
        key = (dtype, repr(value))
        found = self._scalars.get(key)  # type: ignore[arg-type]
        if found is None:
            found = self.emit("constant", [], value=np.asarray(value, numpy_dtype(dtype)))
            self._scalars[key] = found  # type: ignore[index]
        return found

    def cast(self, value: Value, dtype: str) -> Value:
        """``value`` as ``dtype``."""
        return value if value.dtype == dtype else self.emit("cast", [value], dtype=dtype)

    def rounded(self, value: Value, dtype: str) -> Value:
        """``value`` as ``dtype``, as torch's kernels and autocast round: more precision would do no harm."""
        out = self.cast(value, dtype)
        if out is not value and out.type.itemsize < value.type.itemsize:
            self.rounded_on_the_way.add(out)
        return out

    def read(self, x: Any) -> Value:
        """The current value of a tensor argument.

        Raises:
            Unmapped: ``x`` is no tensor.
        """
        if isinstance(x, torch.Tensor):
            x = self.param(x)
        if not isinstance(x, Ref):
            raise Unmapped(f"expected a tensor, got {type(x).__name__}")
        return x.read(self)

    def temp(self, value: Value) -> Ref:
        """A new tensor holding ``value``."""
        return Ref(Storage(value))

    def view(self, x: Ref, step: Step) -> Ref:
        """A view of ``x``."""
        return x.view(self, step)

    def contiguous(self, x: Ref) -> bool:
        """Whether ``x`` is certainly stored in axis order."""
        return self.row_major and not x.storage.unclear and all(s.op == "reshape" for s in x.steps)

    # --- calls that stay in torch ---------------------------------------------------------------------------------

    def foreign(self, func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], reason: str) -> Any:
        """Record a call that torch runs; returns its results as `Ref`s.

        Raises:
            Refusal: it writes its arguments, or its results' shapes depend on data.
        """
        leaves, spec = tree_flatten((tuple(args), dict(kwargs)))
        leaves = [self.param(x) if isinstance(x, torch.Tensor) else x for x in leaves]
        if any(isinstance(x, Expr) for x in leaves):
            raise NeedStatic(f"{reason}: it gets a symbolic size")
        values: list[Value] = []
        getters: list[Callable[[Sequence[Any]], Any]] = []
        for x in leaves:
            getters.append(self._foreign_leaf(x, values))
        types = [v.type for v in values]
        if any(not t.is_static for t in types):
            raise NeedStatic(reason)

        if lower_dtype(here().type) != self.lower:
            func = held(func, here().type)

        def call(*tensors: Any) -> tuple[Any, ...]:
            new_args, new_kwargs = tree_unflatten([g(tensors) for g in getters], spec)
            return tuple(t for t in tree_flatten(func(*new_args, **new_kwargs))[0] if isinstance(t, torch.Tensor))

        results, result_spec = tree_flatten(self._dry_run(func, getters, spec, types, reason))
        outs: list[Value] = []
        refs: list[Any] = []
        for r in results:
            if isinstance(r, torch.Tensor):
                value = Value(self.type_of(r), self.fresh(f"{self.origin}.torch" if self.origin else "torch"))
                outs.append(value)
                refs.append(Ref(Storage(value, unclear=True)))
            elif r is None or isinstance(r, (bool, int, float, str)):
                refs.append(r)
            else:
                raise Refusal(f"{reason}: it returns a {type(r).__name__}")
        for x in leaves:
            if isinstance(x, Ref):
                x.storage.unclear = True
        self.parts.append(_Foreign(call, values, outs, reason, self.origin))
        self._scalars.clear()
        self.foreign_reasons.append(f"{self.origin}: {reason}" if self.origin else reason)
        return tree_unflatten(refs, result_spec)

    def _foreign_leaf(self, x: Any, values: list[Value]) -> Callable[[Sequence[Any]], Any]:
        if not isinstance(x, Ref):
            return lambda tensors: x
        if x.storage.owner == "param":
            get, steps = self.param_values[x.storage.value.name][1], x.steps
            self.outside.add(x.storage.value.name)

            def live(tensors: Sequence[Any]) -> Any:
                t = get()
                for s in steps:
                    t = s.replay(t, {})
                return t

            return live
        value = x.read(self)
        k = values.index(value) if value in values else len(values)
        if k == len(values):
            values.append(value)
        return lambda tensors: tensors[k]

    def _dry_run(self, func: Any, getters: Sequence[Any], spec: Any, types: Sequence[TensorType], reason: str) -> Any:
        """The call on tensors without data, for the types of its results."""
        from torch._subclasses.fake_tensor import FakeTensorMode

        with paused(), FakeTensorMode(allow_non_fake_inputs=True):
            fakes = [torch.empty_strided([int(d) for d in t.shape], torch_strides(t), dtype=TO_TORCH[t.dtype]) for t in types]  # type: ignore[arg-type]
            versions = [t._version for t in fakes]
            args, kwargs = tree_unflatten([g(fakes) for g in getters], spec)
            try:
                out = func(*args, **kwargs)
            except Exception as e:
                raise Refusal(
                    f"{reason}: its result is not known before it runs ({type(e).__name__}: {str(e).splitlines()[0]})"
                ) from e
            if [t._version for t in fakes] != versions:
                raise Refusal(f"{reason}: it writes its arguments")
        return out

    # --- the result -----------------------------------------------------------------------------------------------

    def program(self, results: Sequence[Value], guards: Sequence[tuple[Dim, Dim]]) -> Program:
        """The finished program computing ``results``."""
        parts = [p for p in self.parts if isinstance(p, _Foreign) or p]
        used_later: list[set[Value]] = []
        needed: set[Value] = set(results)
        for part in reversed(parts):
            used_later.append(set(needed))
            needed |= set(part.inputs) if isinstance(part, _Foreign) else {v for n in part for v in n.inputs}
        used_later.reverse()
        param_values = {v for v, _, _ in self.param_values.values()}
        done: list[Part] = []
        for part, later in zip(parts, used_later, strict=True):
            if isinstance(part, _Foreign):
                names = tuple(v.name for v in part.outputs)
                done.append(Foreign(part.call, tuple(v.name for v in part.inputs), names, part.reason, part.origin))
            else:
                segment = self._segment(part, later, param_values, tuple(guards))
                if segment is not None:
                    done.append(segment)
        return Program(tuple(v.name for v in self.input_values), tuple(done), tuple(v.name for v in results))

    def _segment(
        self, nodes: list[Node], later: set[Value], params: set[Value], guards: tuple[tuple[Dim, Dim], ...]
    ) -> Segment | None:
        made = {v for n in nodes for v in n.outputs}
        outputs = [v for n in nodes for v in n.outputs if v in later]
        if not outputs:
            return None
        kept = live_nodes(nodes, outputs)
        inputs: dict[Value, None] = {}
        own: dict[Value, None] = {}
        for n in kept:
            for v in n.inputs:
                if v not in made:
                    (own if v in params else inputs)[v] = None
        for v in self._size_sources(kept, inputs):
            inputs[v] = None
        final = {v: self._final(v) for v in outputs}
        new_nodes = [
            Node(n.op, tuple(final.get(v, v) for v in n.inputs), tuple(final.get(v, v) for v in n.outputs), n.attrs, n.origin)
            for n in kept
        ]
        names = tuple(v.name for v in inputs)
        graph = Graph(tuple(inputs), tuple(own), tuple(new_nodes), tuple(final[v] for v in outputs), guards=guards)
        if self.autocast is not None and self.widened:
            graph = widen(graph, self.widened, {final.get(v, v) for v in self.rounded_on_the_way})
        return Segment(graph, names, tuple(v.name for v in outputs))

    def _size_sources(self, nodes: Sequence[Node], inputs: Mapping[Value, None]) -> list[Value]:
        """Program inputs from which the segment reads sizes that its own inputs do not tell."""
        used = {s for n in nodes for v in n.outputs for d in v.shape for s in free_symbols(d)}
        told = {str(d) for v in inputs for d in v.shape if isinstance(d, Expr) and d.op == "sym"}
        sources = []
        for name in sorted(used - told):
            source = next((v for v in self.input_values if sym(name) in v.shape), None)
            if source is None:
                raise NeedStatic(f"the size {name} is told by no tensor")
            if source not in sources:
                sources.append(source)
        return sources

    def _final(self, value: Value) -> Value:
        """An output's value in the layout torch would give it: channels-last for images when the network works so."""
        if self.image_layout and value.type.rank >= 4 and not is_channels_last(value.type.layout):
            return Value(value.type.with_layout(channels_last(value.type.rank)), value.name)
        return value


# --- watching for work that torch does while the importer is at work ----------------------------------------------

_thread = threading.local()


@contextmanager
def paused() -> Iterator[None]:
    """torch calls of this thread inside the block are the importer's own, not the network's."""
    _thread.depth = getattr(_thread, "depth", 0) + 1
    try:
        yield
    finally:
        _thread.depth -= 1


def is_paused() -> bool:
    """Whether torch calls of this thread are the importer's own now."""
    return getattr(_thread, "depth", 0) > 0
