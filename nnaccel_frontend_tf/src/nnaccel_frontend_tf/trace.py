"""From a call of a Python function to TensorFlow's graph of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import tensorflow as tf

from nnaccel_core.errors import InputError
from nnaccel_frontend_tf.errors import Refused


@dataclass
class Trace:
    """A traced call.

    Attributes:
        graph: a ``FuncGraph``; inputs: its placeholders for the call's tensors; outputs: its result tensors, in order.
        captures: pairs of a tensor from outside and its placeholder; variables: those that the graph reads or writes.
        structure: the call's result, with None in place of each tensor of ``outputs``.
        keep: what must stay alive as long as the graph is used.
    """

    graph: Any
    inputs: list[Any]
    outputs: list[Any]
    captures: list[tuple[Any, Any]]
    variables: list[Any]
    structure: Any
    keep: list[Any] = field(default_factory=list)


@dataclass(frozen=True)
class Flat:
    """A call's arguments taken apart.

    Attributes:
        structure: ``(args, kwargs)``; leaves: what it holds, flat; tensors: the leaves that are tensors, in order; positions:
            where these are among the leaves; key: tells calls apart that differ in anything but tensors' values and sizes.
    """

    structure: Any
    leaves: list[Any]
    tensors: list[Any]
    positions: list[int]
    key: tuple[Any, ...]

    def rebuilt(self, tensors: Sequence[Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """``(args, kwargs)`` with other tensors."""
        leaves = list(self.leaves)
        for k, t in zip(self.positions, tensors, strict=True):
            leaves[k] = t
        args, kwargs = tf.nest.pack_sequence_as(self.structure, leaves)
        return args, kwargs


def flatten(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Flat:
    """Take a call's arguments apart; arrays and variables become tensors.

    Raises:
        InputError: a ragged or sparse tensor, or one of unknown rank.
    """
    leaves = tf.nest.flatten((args, kwargs))
    tensors: list[Any] = []
    positions: list[int] = []
    static: list[Any] = []
    for k, x in enumerate(leaves):
        if isinstance(x, (tf.RaggedTensor, tf.SparseTensor, tf.IndexedSlices)):
            raise InputError(f"{name} got a {type(x).__name__}; nnaccel takes dense tensors only: convert it with {_dense(x)}")
        if isinstance(x, (tf.Tensor, tf.Variable)) or hasattr(x, "__array__"):
            t = tf.convert_to_tensor(x)
            if t.shape.rank is None:
                raise InputError(
                    f"{name} got a tensor of unknown rank ({t.name if hasattr(t, 'graph') else 'argument'}); give its rank with "
                    f"x.set_shape([None, ...]) or an input_signature"
                )
            if t.dtype == tf.string:
                raise InputError(
                    f"{name} got a tensor of strings; nnaccel compiles numbers only: turn text into numbers in front of the "
                    f"optimized network, and optimize what follows"
                )
            tensors.append(t)
            positions.append(k)
            static.append(None)
            leaves[k] = t
        else:
            static.append(x)
    shape = repr(tf.nest.map_structure(lambda _: 0, (args, kwargs))) if kwargs or len(leaves) != 1 else len(args)
    key = (shape, tuple((type(x), _hashable(x)) for x in static), tuple((t.dtype.name, t.shape.rank) for t in tensors))
    return Flat((args, kwargs), leaves, tensors, positions, key)


def _dense(x: Any) -> str:
    """How to make a dense tensor of ``x``."""
    if isinstance(x, tf.SparseTensor):
        return "tf.sparse.to_dense(x)"
    return "x.to_tensor()" if isinstance(x, tf.RaggedTensor) else "tf.convert_to_tensor(x)"


def _hashable(x: Any) -> Any:
    try:
        hash(x)
    except TypeError:
        return id(x)
    return x


def trace(own: Callable[..., Any], flat: Flat, shapes: Sequence[Sequence[int | None]]) -> Trace:
    """TensorFlow's graph of ``own`` for tensors of these shapes (None: any size).

    Raises:
        Refused: the call can't be traced, or returns what is no tensor; carries TensorFlow's reason.
    """
    found: dict[str, Any] = {}

    def flat_call(*tensors: Any) -> list[Any]:
        args, kwargs = flat.rebuilt(tensors)
        result = own(*args, **kwargs)
        leaves = tf.nest.flatten(result)
        out = [tf.convert_to_tensor(x) for x in leaves if _is_tensor(x)]
        found["structure"] = tf.nest.map_structure(
            lambda x: None if _is_tensor(x) else Static(x), result
        )
        if any(isinstance(x, (tf.RaggedTensor, tf.SparseTensor)) for x in tf.nest.flatten(result)):
            raise Refused("it returns a ragged or sparse tensor")
        return out

    specs = [tf.TensorSpec(s, t.dtype) for s, t in zip(shapes, flat.tensors, strict=True)]
    function = tf.function(flat_call, autograph=False)
    try:
        # Outside of whatever graph the call is in: captures must be tensors that exist, not ones of that graph.
        with tf.init_scope():
            concrete = function.get_concrete_function(*specs)
    except Refused:
        raise
    except Exception as e:
        text = str(e).strip().splitlines()
        raise Refused(f"tracing it failed: {type(e).__name__}: {text[0] if text else ''}") from e
    graph = concrete.graph
    if getattr(graph, "deferred_internal_captures", None):
        raise Refused("it reads a tensor that is known only when it is called")
    captures = list(graph.captures)
    given = len(specs)
    for external, _ in captures:
        if not hasattr(external, "_numpy") and not hasattr(external, "numpy"):
            raise Refused("it reads a tensor of the graph around it that is no argument")
    return Trace(
        graph, list(graph.inputs[:given]), list(graph.outputs), captures, list(graph.variables), found["structure"],
        [concrete, function],
    )  # fmt: skip


@dataclass(frozen=True)
class Static:
    """A leaf of a result that is no tensor."""

    value: Any


def _is_tensor(x: Any) -> bool:
    return isinstance(x, (tf.Tensor, tf.Variable))


def function_named(graph: Any, name: str) -> Any:
    """The body of a function that ``graph`` or a graph around it holds, as a ``FuncGraph``."""
    from tensorflow.python.eager import context
    from tensorflow.python.framework import function_def_to_graph

    found = definition(graph, name)
    if found is not None and getattr(found, "graph", None) is not None:
        return found.graph
    made = function_def_to_graph.function_def_to_graph(context.context().get_function_def(name))
    return made


def definition(graph: Any, name: str) -> Any:
    """The function called ``name`` that ``graph`` or a graph around it holds; None where none does."""
    while graph is not None:
        if graph._is_function(name):
            return graph._get_function(name)
        graph = getattr(graph, "outer_graph", None)
    return None
