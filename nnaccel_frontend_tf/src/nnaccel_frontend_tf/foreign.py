"""Operations that stay in TensorFlow: made again in the optimized network's graph, where TensorFlow differentiates them too."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import tensorflow as tf

from nnaccel_core.ir import Dim, Expr, Value, free_symbols
from nnaccel_frontend_tf.items import Host, Item, Known, Opaque, Outside
from nnaccel_frontend_tf.trace import definition, function_named

if TYPE_CHECKING:
    from nnaccel_frontend_tf.importer import ForeignStep


def size_name(symbol: str) -> str:
    """The name under which the size ``symbol``, a scalar of int64, stands among the program's values."""
    return f"size of {symbol}"


def names_read(step: ForeignStep) -> list[str]:
    """Names of the program's values that a step reads."""
    names: dict[str, None] = {}
    for item in step.inputs:
        if isinstance(item, (Value, Opaque)):
            names[item.name] = None
        elif isinstance(item, Host):
            for d in item.dims.reshape(-1):
                names.update((size_name(s), None) for s in sorted(free_symbols(d)))
    return list(names)


def operation(step: ForeignStep) -> Callable[..., list[Any]]:
    """``step`` as a function of the tensors of `names_read`; makes its operation in the current graph."""
    names = names_read(step)
    getters = [_getter(item, t.dtype) for item, t in zip(step.inputs, step.op.inputs, strict=True)]
    same = recorded(step.op)

    def call(*tensors: Any) -> list[Any]:
        env = dict(zip(names, tensors, strict=True))
        return again(same, [get(env) for get in getters])

    return call


Getter = Callable[[Mapping[str, Any]], Any]


def _getter(item: Item, dtype: Any) -> Getter:
    if isinstance(item, (Value, Opaque)):
        name = item.name
        return lambda env: env[name]
    if isinstance(item, Known):
        array = item.array
        return lambda env: tf.constant(array, dtype)
    if isinstance(item, Host):
        return functools.partial(_sizes, item, dtype)
    assert isinstance(item, Outside)
    tensor = item.tensor
    return lambda env: tensor


def _sizes(item: Host, dtype: Any, env: Mapping[str, Any]) -> Any:
    dims = [tf.cast(dim_tensor(d, env), dtype) for d in item.dims.reshape(-1)]
    return dims[0] if item.dims.ndim == 0 else tf.stack(dims)


_OPERATORS: dict[str, Callable[[Any, Any], Any]] = {
    "mul": tf.multiply, "floordiv": tf.math.floordiv, "mod": tf.math.floormod, "min": tf.minimum, "max": tf.maximum,
}  # fmt: skip


def dim_tensor(dim: Dim, env: Mapping[str, Any]) -> Any:
    """A size as a scalar tensor of int64."""
    if not isinstance(dim, Expr):
        return tf.constant(int(dim), tf.int64)
    if dim.op == "sym":
        return env[size_name(str(dim.args[0]))]
    if dim.op == "sum":
        total = tf.constant(dim.args[0], tf.int64)
        for term, coefficient in dim.args[1]:  # type: ignore[attr-defined]
            total += dim_tensor(term, env) * coefficient
        return total
    return functools.reduce(_OPERATORS[dim.op], [dim_tensor(d, env) for d in dim.args])  # type: ignore[arg-type]


@dataclass(frozen=True)
class Recorded:
    """An operation as it was when it was traced: TensorFlow's gradients change conditions and loops in place.

    Attributes:
        inputs: names of its operands; outputs: name, dtype and shape of its results; bodies: of the functions that it calls.
    """

    op: Any
    inputs: tuple[str, ...]
    outputs: tuple[tuple[str, Any, Any], ...]
    attrs: Mapping[str, Any]
    bodies: tuple[Body, ...]


@dataclass(frozen=True)
class Body:
    """A function that an operation calls."""

    inputs: tuple[str, ...]
    steps: tuple[Recorded, ...]
    outputs: tuple[str, ...]

    def __call__(self, inputs: Sequence[Any]) -> list[Any]:
        """Its operations again, on other inputs; its results."""
        env = dict(zip(self.inputs, inputs, strict=True))
        for step in self.steps:
            made = again(step, [env[n] for n in step.inputs])
            env.update((name, t) for (name, _, _), t in zip(step.outputs, made, strict=True))
        return [env[n] for n in self.outputs]


_FUNCTIONS: dict[str, tuple[str, ...]] = {
    "While": ("cond", "body"), "StatelessWhile": ("cond", "body"), "If": ("then_branch", "else_branch"),
    "StatelessIf": ("then_branch", "else_branch"), "PartitionedCall": ("f",), "StatefulPartitionedCall": ("f",),
}  # fmt: skip


def recorded(op: Any) -> Recorded:
    """``op`` with all that making it again takes."""
    if op.type in ("Case", "StatelessCase"):
        names = [f.name for f in op.get_attr("branches")]
    else:
        names = [op.get_attr(k).name for k in _FUNCTIONS.get(op.type, ())]
    bodies = tuple(_body(function_named(op.graph, name)) for name in names)
    outputs = tuple((t.name, t.dtype, t.shape) for t in op.outputs)
    return Recorded(op, tuple(t.name for t in op.inputs), outputs, dict(op.node_def.attr), bodies)


def _body(graph: Any) -> Body:
    given = tuple(t.name for t in graph.inputs)
    steps = [op for op in graph.get_operations() if op.type != "NoOp" and not (op.outputs and op.outputs[0].name in given)]
    return Body(given, tuple(recorded(op) for op in steps), tuple(t.name for t in graph.outputs))


def again(step: Recorded, inputs: Sequence[Any]) -> list[Any]:
    """An operation like ``step`` in the current graph, on other tensors."""
    op = step.op
    if "While" in op.type and step.bodies:
        return _loop(step, inputs)
    if "If" in op.type and step.bodies:
        then, other = (functools.partial(b, inputs[1:]) for b in step.bodies)
        return list(tf.cond(tf.cast(inputs[0], tf.bool), then, other))
    if "Case" in op.type and step.bodies:
        return list(tf.switch_case(inputs[0], [functools.partial(b, inputs[1:]) for b in step.bodies]))
    if step.bodies:
        return step.bodies[0](inputs)
    graph = tf.compat.v1.get_default_graph()
    for value in step.attrs.values():
        for name in [value.func.name, *(f.name for f in value.list.func)]:
            if name and not graph._is_function(name):
                found = definition(op.graph, name)
                if found is not None:
                    graph._add_function_recursive(found)
    made = graph._create_op_internal(
        op.type, [tf.convert_to_tensor(x) for x in inputs], [dtype for _, dtype, _ in step.outputs],
        name=op.name.split("/")[-1], attrs=dict(step.attrs), op_def=op.op_def,
    )  # fmt: skip
    results = list(made.outputs)
    _record(op, inputs, step.attrs, results)
    return results


def _loop(step: Recorded, inputs: Sequence[Any]) -> list[Any]:
    """A loop with bodies of its own: TensorFlow's gradients rewrite those, under names that a second loop must not share."""
    test, body = step.bodies
    moving = [k for k, (_, dtype, _) in enumerate(step.outputs) if dtype != tf.resource]

    def full(values: Sequence[Any]) -> list[Any]:
        out = list(inputs)  # handles of variables and tables are the same in every turn
        for k, v in zip(moving, values, strict=True):
            out[k] = v
        return out

    done = tf.while_loop(
        lambda *values: test(full(values))[0],
        lambda *values: [body(full(values))[k] for k in moving],
        [inputs[k] for k in moving],
        shape_invariants=[step.outputs[k][2] for k in moving],
        parallel_iterations=int(step.attrs["parallel_iterations"].i),
    )
    return full(list(done))


def _record(op: Any, inputs: Sequence[Any], attrs: Mapping[str, Any], results: Sequence[Any]) -> None:
    """Tell the tapes that watch ``inputs`` of the new operation: making it by name bypasses them."""
    from tensorflow.python.eager import execute, record

    if not results or not record.should_record_backprop(list(inputs)):
        return
    flat = [part for name in attrs for part in (name, op.get_attr(name))]
    execute.record_gradient(op.type, list(inputs), tuple(flat), list(results))
