"""A captured program as operations of TensorFlow's graphs: a node for each compiled segment, the others made again as they were.

A segment is a `tf.numpy_function`, which gives Python numpy views of TensorFlow's tensors and takes over aligned results
without a copy. Variables are inputs of that node, read by TensorFlow itself at each call. As long as we hold a view of a
variable's memory, TensorFlow writes new values elsewhere; so equal addresses mean equal values, and what was derived from a
variable is kept until its address changes.
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf

from nnaccel_core.api import Captured
from nnaccel_core.driver.training import TrainedSegment
from nnaccel_core.errors import UnsupportedError
from nnaccel_core.ir import Foreign, Segment, TensorType, free_symbols, identity
from nnaccel_frontend_tf.bridge import Borrowed, address
from nnaccel_frontend_tf.foreign import dim_tensor, size_name
from nnaccel_frontend_tf.items import Host, Known, Outside
from nnaccel_frontend_tf.operation import Call, operation
from nnaccel_frontend_tf.worker import run_on_worker

if TYPE_CHECKING:
    from nnaccel_core.driver.segment import Built
    from nnaccel_core.driver.session import Compiled
    from nnaccel_frontend_tf.assembly import Imported

Array = Any
#: Says of a tensor whether gradients are wanted of it.
Wanted = Callable[[Any], bool]


def nothing(tensor: Any) -> bool:
    """No gradients at all."""
    return False


def refusing(tensors: Sequence[Any], why: str) -> list[Any]:
    """``tensors``, of which gradients are an error that says ``why``."""

    def run(*given: Any) -> Any:
        def gradient(*seeds: Any) -> Any:
            raise UnsupportedError(
                f"nnaccel can't take gradients of this network: {why}; open the GradientTape around the call, then TensorFlow "
                f"runs it"
            )

        return [tf.identity(t) for t in given], gradient

    return list(tf.custom_gradient(run)(*tensors))


class SegmentNode:
    """One segment at run time. Safe to call from several threads."""

    def __init__(self, part: Segment, compiled: Compiled, imported: Imported, values: dict[str, Array]) -> None:
        """``values``: the parameters as compiled code reads them now, by name; constants are there from the start."""
        self.part = part
        self.compiled = compiled
        self.values = values
        self.count = len(part.inputs)
        #: names of the parameters that are variables, in the order in which calls bring their values
        self.variables = [v.name for v in part.graph.params if v.name in imported.variables]
        #: addresses of the variables' values that `values` has now; None where that is not known
        self._seen: list[int] | bytes | None = None
        #: its number among the native operation's segments; negative until it is in a graph
        self.nnaccel_key = -1
        graph = part.graph
        #: whether the native operation can run it
        self.fits = not graph.updates and all(v.type.layout == identity(v.type.rank) for v in graph.outputs)
        kinds = {v.name: v.type for v in graph.params}
        self.fits = self.fits and all(kinds[n].is_static for n in self.variables)
        self._given = tuple(_numpy_dtype(v.type) for v in graph.inputs)
        self._found = tuple(_numpy_dtype(v.type) for v in graph.outputs)
        self._kinds = tuple((kinds[n].shape, _numpy_dtype(kinds[n])) for n in self.variables)
        self._trained: dict[tuple[bool, ...], TrainedSegment] = {}
        self._lock = threading.RLock()

    # --- prediction -----------------------------------------------------------------------------------------------

    def predict(self, *arrays: Array) -> list[Array]:
        """Results, from the segment's inputs and then the values of its variables."""
        arrays = _arrays(arrays)
        given = arrays[self.count :]
        if given:
            now = [address(a) for a in given]
            if now != self._seen:
                self._renew(given, now)
        return self.compiled._run_segment(self.part, arrays[: self.count], None)

    def run(self, call: Call) -> None:
        """Results of a call of the native operation."""
        count = 8 * self.count
        if call.addresses[count:] != self._seen:
            self._take(call)
        hot = (id(self.part), call.header)
        built = self.compiled._hot.get(hot) or self._bind(call, hot)
        places = struct.unpack_from(f"={self.count}Q", call.addresses)
        inputs = list(map(Borrowed, places, call.shapes(), self._given))
        self.compiled._segment(self.part).run(built, inputs, lambda types: call.allocate(types, self._found))

    def _bind(self, call: Call, hot: tuple[int, bytes]) -> Built:
        """The plan for the sizes of a call."""
        compiled, segment = self.compiled, self.compiled._segment(self.part)
        # Sizes matter here, values do not.
        like = [np.broadcast_to(np.empty((), d), s) for s, d in zip(call.shapes(), self._given, strict=True)]
        found = segment.built(segment.sizes(like))
        if len(compiled._hot) > 256:  # sizes come and go
            compiled._hot = {}
        compiled._hot[hot] = found
        return found

    def _take(self, call: Call) -> None:
        """Keep the values of variables; the addresses that are compared then stay theirs."""
        now = call.addresses[8 * self.count :]
        places = struct.unpack(f"={len(now) // 8}Q", now)
        taken = enumerate(zip(places, self._kinds, strict=True), self.count)
        self._renew([call.take(k, address, *kind) for k, (address, kind) in taken], now)

    def _renew(self, given: Sequence[Array], now: list[int] | bytes) -> None:
        with self._lock:
            self.values.update(zip(self.variables, given, strict=True))
            segment = self.compiled.segments.get(id(self.part))
            if segment is not None:
                segment.refresh()
            self._seen = now

    # --- training -------------------------------------------------------------------------------------------------

    def trained(self, flags: tuple[bool, ...]) -> TrainedSegment:
        """The segment with gradients of its inputs and tracked variables, as ``flags`` say.

        Raises:
            UnsupportedError: an operator on the way has no gradient.
        """
        with self._lock:
            found = self._trained.get(flags)
            if found is None:
                c = self.compiled
                found = TrainedSegment(self.part.graph, flags, (), c.backend, c.bridge, c.options, c.captured)
                self._trained[flags] = found
            return found

    def forward(self, trained: TrainedSegment, *arrays: Array) -> list[Array]:
        """Results, then what `backward` needs beside them, in the order in which it lies in memory."""
        arrays = _arrays(arrays)
        results, kept = trained.forward(arrays[: self.count], self._tracked(trained, arrays[self.count :]))
        self._release(trained)
        laid = trained.segments()[0].main.outputs[len(results) :]
        return [*results, *(k.transpose(v.type.layout) for k, v in zip(kept, laid, strict=False))]

    def backward(self, trained: TrainedSegment, *arrays: Array) -> list[Array]:
        """Gradients, from the tensors that ``trained.sources`` names and then the values of the variables."""
        arrays = _arrays(arrays)
        count = len(trained.sources)
        layouts = trained.layouts()
        first = len(self.part.graph.outputs)
        given = []
        for array, source, layout in zip(arrays[:count], trained.sources, layouts, strict=True):
            if source.place == "output" and source.index >= first and layout is not None:
                array = array.transpose([layout.index(a) for a in range(len(layout))])
            given.append(array)
        found = trained.backward(given, self._tracked(trained, arrays[count:]))
        self._release(trained)
        return found

    def _tracked(self, trained: TrainedSegment, given: Sequence[Array]) -> list[Array]:
        """Values of the tracked variables; those of others are put where compiled code reads them."""
        now = dict(zip(self.variables, given, strict=True))
        others = {k: v for k, v in now.items() if k not in trained.parameters}
        if others:
            with self._lock:
                self.values.update(others)
                self._seen = None  # what predictions derived may be of other values
        return [now[name] for name in trained.parameters]

    @staticmethod
    def _release(trained: TrainedSegment) -> None:
        """Let go of the variables' memory, so that an optimizer writes them in place."""
        for segment in trained.segments():
            segment.refresh()


def _numpy_dtype(kind: TensorType) -> np.dtype[Any]:
    return np.dtype(tf.as_dtype(kind.dtype).as_numpy_dtype)


def _arrays(given: tuple[Any, ...]) -> tuple[Array, ...]:
    """Arrays of rank 0 where TensorFlow gave numpy scalars, whose address is none of the tensor's."""
    return given if all(type(a) is np.ndarray for a in given) else tuple(map(np.asarray, given))


class Runner:
    """A compiled program that builds itself into graphs of TensorFlow."""

    def __init__(self, imported: Imported, captured: Captured, compiled: Compiled, values: dict[str, Array]) -> None:
        self.imported = imported
        self.captured = captured
        self.nodes = {id(p): SegmentNode(p, compiled, imported, values) for p in imported.program.segments()}

    def _tracked_of(self, node: SegmentNode) -> list[str]:
        """Names of a segment's parameters that have gradients, in the order in which it takes them."""
        return [v.name for v in node.part.graph.params if v.name in self.captured.tracked]

    def _flags(self, env: Mapping[str, Any], read: Mapping[str, Any], wanted: Wanted) -> dict[int, tuple[bool, ...]]:
        """For each segment: of which inputs and tracked parameters gradients are asked for."""
        program = self.imported.program
        asked = {name: bool(t.dtype.is_floating and wanted(t)) for name, t in (*env.items(), *read.items())}
        flags: dict[int, tuple[bool, ...]] = {}
        for part in program.parts:
            if isinstance(part, Segment):
                inputs = [asked[n] and v.type.is_float for n, v in zip(part.inputs, part.graph.inputs, strict=True)]
                found = (*inputs, *(asked[n] for n in self._tracked_of(self.nodes[id(part)])))
                above = any(found) and any(v.type.is_float for v in part.graph.outputs)
                flags[id(part)] = found if above else ()
            else:
                assert isinstance(part, Foreign)
                above = any(asked.get(n, False) for n in part.inputs)
            asked.update(dict.fromkeys(part.outputs, above))
        return flags

    def __call__(self, tensors: Sequence[Any], wanted: Wanted | None) -> list[Any]:
        """The network's result tensors, as operations in the current graph.

        Args:
            wanted: says of a tensor whether its gradient is asked for; None where nobody can know yet: then nothing is kept for
                gradients, and the forward pass runs again where they are taken.

        Raises:
            UnsupportedError: an operator on the way has no gradient; nothing that the network does was put into the graph then.
        """
        made = self.imported
        env: dict[str, Any] = dict(zip(made.program.inputs, tensors, strict=False))
        used = dict.fromkeys(n for node in self.nodes.values() for n in node.variables)
        read = {name: self.parameter(name) for name in used}
        for name in made.given:
            env[name] = read[name] if name in read else self.parameter(name)
        trained: dict[int, TrainedSegment] = {}
        if wanted is not None:
            flags = self._flags(env, read, wanted)
            trained = {key: self.nodes[key].trained(f) for key, f in flags.items() if any(f)}
        for part in made.program.parts:
            if isinstance(part, Segment):
                values = self._segment(part, env, read, trained.get(id(part)), wanted is None)
            else:
                assert isinstance(part, Foreign)
                self._tell(part.inputs, env)
                values = list(part.call(*(env[n] for n in part.inputs)))
            env.update(zip(part.outputs, values, strict=True))
        return [self._result(r, env) for r in made.results]

    def parameter(self, name: str) -> Any:
        """The value of a parameter now, as a tensor."""
        made = self.imported
        return tf.convert_to_tensor(made.variables[name] if name in made.variables else made.constants[name])

    def _tell(self, names: Sequence[str], env: dict[str, Any]) -> None:
        """Put those sizes among ``names`` into ``env`` that are not there yet."""
        for name in names:
            if name not in env:
                source, axis = self.imported.symbols[name.removeprefix(size_name(""))]
                env[name] = tf.shape(env[source], out_type=tf.int64)[axis]

    def _result(self, result: Any, env: dict[str, Any]) -> Any:
        if result.name:
            return env[result.name]
        item = result.item
        if isinstance(item, Known):
            return tf.constant(item.array, result.dtype)
        if isinstance(item, Host):
            self._tell([size_name(s) for d in item.dims.reshape(-1) for s in free_symbols(d)], env)
            dims = [tf.cast(dim_tensor(d, env), result.dtype) for d in item.dims.reshape(-1)]
            return dims[0] if item.dims.ndim == 0 else tf.stack(dims)
        assert isinstance(item, Outside)
        return tf.convert_to_tensor(item.tensor)

    def _segment(
        self, part: Segment, env: Mapping[str, Any], read: Mapping[str, Any], trained: TrainedSegment | None, later: bool
    ) -> list[Any]:
        """A segment's results; ``later``: its gradients may be asked for when nothing was kept for them."""
        node = self.nodes[id(part)]
        tensors = [_symbolic(env[n]) for n in part.inputs] + [read[n] for n in node.variables]
        places = {name: node.count + k for k, name in enumerate(node.variables)}
        tracked = [places[name] for name in self._tracked_of(node)]
        if trained is not None:
            record = _Differentiable(node, trained, tracked)
            return list(tf.custom_gradient(lambda *given: record.run(given))(*tensors))
        flags = (*(v.type.is_float for v in part.graph.inputs), *(True for _ in tracked))
        if not (later and any(flags)):
            return self._predicted(node, tensors)

        def run(*given: Any) -> Any:
            def gradient(*seeds: Any) -> list[Any]:
                return _Differentiable(node, node.trained(flags), tracked).run(given)[1](*seeds)

            return self._predicted(node, given), gradient

        return list(tf.custom_gradient(run)(*tensors))

    @staticmethod
    def _predicted(node: SegmentNode, tensors: Sequence[Any]) -> list[Any]:
        outputs = node.part.graph.outputs
        kinds, name = [tf.as_dtype(v.dtype) for v in outputs], node.part.graph.name
        native = operation() if kinds and node.fits else None
        if native is not None:
            found = native(node, tensors, node.count, kinds, name)
        else:
            found = _call(node.predict, tensors, kinds, name)
        for t, v in zip(found, outputs, strict=True):
            t.set_shape([d if isinstance(d, int) else None for d in v.shape])
        return found


class _Differentiable:
    """A segment with its gradient, for `tf.custom_gradient`."""

    def __init__(self, node: SegmentNode, trained: TrainedSegment, tracked: Sequence[int]) -> None:
        self.node = node
        self.trained = trained
        self.tracked = tracked

    def run(self, tensors: Sequence[Any]) -> tuple[list[Any], Callable[..., list[Any]]]:
        """The results, and the function of their gradients that gives those of ``tensors``."""
        node, trained, graph = self.node, self.trained, self.node.part.graph
        forward = trained.segments()[0].source.outputs
        kinds = [v.dtype for v in forward]
        made = _call(lambda *arrays: node.forward(trained, *arrays), tensors, kinds, f"{graph.name}_forward")
        count = len(graph.outputs)
        for t, v in zip(made, graph.outputs, strict=False):
            t.set_shape([d if isinstance(d, int) else None for d in v.shape])

        def gradient(*seeds: Any) -> list[Any]:
            given = {"input": tensors, "output": made, "grad": [_seed(s, t) for s, t in zip(seeds, made, strict=False)]}
            sources = [given[s.place][s.index] for s in trained.sources]
            places = [*range(node.count), *self.tracked]  # of the values that have gradients, among the tensors
            of = dict(zip(places, trained.gradient_of, strict=True))
            wanted = sorted((k, place) for place, k in of.items() if k is not None)
            dtypes = [tensors[place].dtype for _, place in wanted]
            read = [*sources, *tensors[node.count :]]
            found = _call(lambda *arrays: node.backward(trained, *arrays), read, dtypes, f"{graph.name}_backward")
            grads: list[Any] = [None] * len(tensors)
            for k, place in wanted:
                grads[place] = found[k]
                found[k].set_shape(tensors[place].shape)
            return grads

        return made[:count], gradient


def _seed(grad: Any, like: Any) -> Any:
    return tf.zeros_like(like) if grad is None else tf.convert_to_tensor(grad)


def _symbolic(tensor: Any) -> Any:
    """``tensor`` as one of the current graph."""
    return tensor if hasattr(tensor, "op") and not hasattr(tensor, "_numpy") else tf.identity(tensor)


def _call(function: Callable[..., list[Array]], tensors: Sequence[Any], dtypes: Sequence[Any], name: str) -> list[Any]:
    """``function`` of arrays as a node of the current graph; without results there is none."""
    if not dtypes:
        return []
    kinds = [tf.as_dtype(d) for d in dtypes]
    found = tf.numpy_function(lambda *arrays: run_on_worker(function, *arrays), list(tensors), kinds, stateful=False, name=name)
    return list(found) if isinstance(found, (list, tuple)) else [found]
