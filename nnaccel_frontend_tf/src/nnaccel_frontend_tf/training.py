"""Training: a segment's forward and backward pass as operations of TensorFlow's graphs, joined by `tf.custom_gradient`.

With the native operation, what the forward pass keeps for the backward pass never becomes a tensor: it lies in memory that the
next step uses again, and a tensor of one number stands for it.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf

from nnaccel_core.driver.training import TrainedSegment
from nnaccel_core.errors import UnsupportedError
from nnaccel_core.ir import TensorType
from nnaccel_frontend_tf.bridge import Borrowed
from nnaccel_frontend_tf.node import SegmentNode, borrowed, in_python, numpy_dtype, whole_arrays
from nnaccel_frontend_tf.operation import Call, kept, operation

if TYPE_CHECKING:
    from nnaccel_frontend_tf.node import Array


def refusing(tensors: Sequence[Any], why: str) -> list[Any]:
    """``tensors``, of which gradients are an error that says ``why``."""

    def run(*given: Any) -> Any:
        def gradient(*seeds: Any) -> Any:
            raise UnsupportedError(f"nnaccel can't take gradients of this network: {why}")

        return [tf.identity(t) for t in given], gradient

    return list(tf.custom_gradient(run)(*tensors))


def once(function: Callable[..., list[Any]], tensors: Sequence[Any]) -> list[Any]:
    """``function`` of ``tensors``, whose gradients are an error when they are computed: TensorFlow makes the graph of second
    derivatives wherever two tapes are open, or one that persists, whether they are asked for or not."""

    def run(*given: Any) -> Any:
        return function(*given), lambda *seeds: _second(given, seeds)

    # Tensors of this graph: the graph of second derivatives can't reach those of the one around it.
    return list(tf.custom_gradient(run)(*map(tf.identity, tensors)))


def _second(given: Sequence[Any], seeds: Sequence[Any]) -> list[Any]:
    """Gradients of ``given`` in a graph of second derivatives: zeros where nothing depends on these, else an error."""
    floats = [t for t in given if t.dtype.is_floating]
    above = [s for s in seeds if s is not None and s.dtype.is_floating]

    def run(*arrays: Array) -> list[Array]:
        if any(np.any(s) for s in arrays[: len(above)]):
            raise NotImplementedError(
                "compiled segments have no second derivatives; take them of the network that was given to nnaccel.optimize()"
            )
        return [np.zeros_like(a) for a in arrays[len(above) :]]

    made = iter(in_python(run, [*above, *floats], [t.dtype for t in floats], "second"))
    grads = [next(made) if t.dtype.is_floating else None for t in given]
    for grad, t in zip(grads, given, strict=True):
        if grad is not None:
            grad.set_shape(t.shape)
    return grads


for _name in ("NnaccelForward", "NnaccelSegment"):  # backward passes read their results
    tf.RegisterGradient(_name)(lambda op, *seeds: _second(op.inputs, seeds))


class Passes:
    """Both passes of a segment with gradients of some of its inputs and tracked variables.

    Attributes:
        names: of the tracked variables; tracked: their places among the segment's inputs and then its variables.
    """

    def __init__(self, node: SegmentNode, flags: tuple[bool, ...]) -> None:
        """
        Raises:
            UnsupportedError: an operator on the way has no gradient.
        """
        c, graph = node.compiled, node.part.graph
        self.node = node
        self.segment = TrainedSegment(graph, flags, (), c.backend, c.bridge, c.options, c.captured)
        places = {name: node.count + k for k, name in enumerate(node.variables)}
        self.names = dict.fromkeys(self.segment.parameters)
        self.tracked = [places[name] for name in self.names]
        of = dict(zip([*range(node.count), *self.tracked], self.segment.gradient_of, strict=True))
        #: places of the inputs and variables that gradients come of, in the order in which `backward` gives them
        self.wanted = [place for _, place in sorted((k, place) for place, k in of.items() if k is not None)]
        self._forward = _Forward(self)
        self._backward = _Backward(self)

    def run(self, tensors: Sequence[Any]) -> tuple[list[Any], Callable[..., list[Any]]]:
        """For `tf.custom_gradient`: the results of ``tensors`` (inputs, then variables), and the function of their gradients that
        gives those of ``tensors``."""
        native = operation() if self.node.fits else None
        segment, graph = self.segment, self.node.part.graph
        count = len(graph.outputs)
        name = f"{graph.name}_forward"
        if native is not None:
            kinds = [tf.as_dtype(v.dtype) for v in graph.outputs]
            made = native(self._forward, tensors, self.node.count, kinds, name)
        else:
            made = in_python(self.forward, tensors, [v.dtype for v in segment.segments()[0].source.outputs], name)
        for t, v in zip(made, graph.outputs, strict=False):
            t.set_shape([d if isinstance(d, int) else None for d in v.shape])

        def gradient(*seeds: Any) -> list[Any]:
            seeded = [_seed(s, t) for s, t in zip(seeds, made, strict=False)]
            given = {"input": tensors, "output": made, "grad": seeded}
            variables, dtypes = tensors[self.node.count :], [tensors[place].dtype for place in self.wanted]
            name = f"{graph.name}_backward"
            if native is not None and dtypes:
                told = [given[segment.sources[k].place][segment.sources[k].index] for k in self._backward.told]
                read = [*told, made[count], *variables]
                found = once(lambda *read: native(self._backward, read, len(told) + 1, dtypes, name), read)
            else:
                read = [*(given[s.place][s.index] for s in segment.sources), *variables]
                found = once(lambda *read: in_python(self.backward, read, dtypes, name), read) if dtypes else []
            grads: list[Any] = [None] * len(tensors)
            for grad, place in zip(found, self.wanted, strict=True):
                grads[place] = grad
                grad.set_shape(tensors[place].shape)
            return grads

        return made[:count], gradient

    def release(self) -> None:
        """Leave memory that waits for the next step to the system: what runs now is no training."""
        native = operation()
        if native is not None:
            native.let_go()
        self.segment.release()

    def let_go(self) -> None:
        """Let go of the variables' memory, so that an optimizer writes them in place."""
        for segment in self.segment.segments():
            segment.refresh()

    # --- in tf.numpy_function --------------------------------------------------------------------------------------

    def forward(self, *arrays: Array) -> list[Array]:
        """Results, then what `backward` needs beside them, in the order in which it lies in memory."""
        arrays = whole_arrays(arrays)
        node, segment = self.node, self.segment
        results, extra = segment.forward(arrays[: node.count], node.tracked(arrays[node.count :], self.names))
        self.let_go()
        laid = segment.segments()[0].main.outputs[len(results) :]
        return [*results, *(k.transpose(v.type.layout) for k, v in zip(extra, laid, strict=False))]

    def backward(self, *arrays: Array) -> list[Array]:
        """Gradients, from the tensors that ``TrainedSegment.sources`` names and then the values of the variables."""
        arrays = whole_arrays(arrays)
        node, segment = self.node, self.segment
        count, first = len(segment.sources), len(node.part.graph.outputs)
        given = []
        for array, source, layout in zip(arrays[:count], segment.sources, segment.layouts(), strict=True):
            if source.place == "output" and source.index >= first and layout is not None:
                array = array.transpose([layout.index(a) for a in range(len(layout))])
            given.append(array)
        found = segment.backward(given, node.tracked(arrays[count:], self.names))
        self.let_go()
        return found


class _Forward:
    """The forward pass as a native operation."""

    nnaccel_keeps = True

    def __init__(self, passes: Passes) -> None:
        self.nnaccel_key = -1
        self._passes = passes

    def run(self, call: Call) -> None:
        passes = self._passes
        node, segment = passes.node, passes.segment
        native = operation()
        assert native is not None
        native.let_go()  # before new memory is asked for
        inputs = borrowed(call, call.shapes(), node.given)
        tracked = node.tracked_in(call, node.count, passes.names)
        try:
            _, extra, block = segment.forward_in_block(inputs, tracked, lambda types: call.allocate(types, node.found))
        finally:
            passes.let_go()
        call.keep(len(node.found), (extra, block))


class _Backward:
    """The backward pass as a native operation. Its inputs are those of the sources that are tensors, what the forward pass kept,
    and the variables.

    Attributes:
        told: positions of those sources.
    """

    nnaccel_keeps = False

    def __init__(self, passes: Passes) -> None:
        self.nnaccel_key = -1
        self._passes = passes
        graph, sources = passes.node.part.graph, passes.segment.sources
        self._first = len(graph.outputs)
        self.told = [k for k, s in enumerate(sources) if s.place != "output" or s.index < self._first]
        values = {"input": graph.inputs, "output": graph.outputs, "grad": graph.outputs}
        kinds = [values[sources[k].place][sources[k].index].type for k in self.told]
        self._given = [*map(numpy_dtype, kinds), np.dtype(np.int64)]
        both = (*graph.inputs, *(v for v in graph.params if v.name in passes.names))
        by_place = dict(zip([*range(passes.node.count), *passes.tracked], both, strict=True))
        self._wanted = [by_place[place].dtype for place in passes.wanted]
        self._found = [numpy_dtype(by_place[place].type) for place in passes.wanted]

    def run(self, call: Call) -> None:
        passes = self._passes
        node, segment = passes.node, passes.segment
        tensors = borrowed(call, call.shapes(), self._given)
        extra, _ = kept(tensors[-1])
        told = dict(zip(self.told, tensors, strict=False))
        given = [told[k] if k in told else extra[s.index - self._first] for k, s in enumerate(segment.sources)]
        tracked = node.tracked_in(call, len(tensors), passes.names)
        bridge = node.compiled.bridge
        made: list[Any] = []

        def allocate(types: Sequence[TensorType]) -> list[Any]:
            if len(types) != len(self._found):  # two gradients are the same, or one is what was given
                return [bridge.allocate(t) for t in types]
            made.extend(call.allocate(types, self._found))
            return made

        try:
            found = segment.backward(given, tracked, allocate)
        finally:
            passes.let_go()
        if len(made) != len(found) or not all(map(operator.is_, found, made)):  # not where TensorFlow wants them
            types = [TensorType(tuple(g.shape), dtype) for g, dtype in zip(found, self._wanted, strict=True)]
            for target, grad in zip(call.allocate(types, self._found), found, strict=True):
                target.numpy()[...] = grad.numpy() if isinstance(grad, Borrowed) else grad


def _seed(grad: Any, like: Any) -> Any:
    return tf.zeros_like(like) if grad is None else tf.convert_to_tensor(grad)
