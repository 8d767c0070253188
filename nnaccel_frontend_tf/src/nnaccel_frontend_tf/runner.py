"""A captured program as operations of TensorFlow's graphs: a node for each compiled segment, the others made again as they were.

A segment is the native operation (`operation.py`), or a `tf.numpy_function`, which gives Python numpy views of TensorFlow's
tensors and takes over aligned results without a copy (`node.py`, `training.py`). Variables are inputs of that node.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import tensorflow as tf

from nnaccel_core.api import Captured
from nnaccel_core.ir import Foreign, Segment, free_symbols
from nnaccel_frontend_tf.foreign import dim_tensor, size_name
from nnaccel_frontend_tf.items import Host, Known, Outside
from nnaccel_frontend_tf.node import SegmentNode, in_python
from nnaccel_frontend_tf.operation import operation
from nnaccel_frontend_tf.reads import read as read_variables

if TYPE_CHECKING:
    from nnaccel_core.driver.session import Compiled
    from nnaccel_frontend_tf.assembly import Imported
    from nnaccel_frontend_tf.node import Array
    from nnaccel_frontend_tf.training import Passes

#: Says of a tensor whether gradients are wanted of it.
Wanted = Callable[[Any], bool]


def nothing(tensor: Any) -> bool:
    """No gradients at all."""
    return False


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
        read = dict(zip(used, read_variables([made.variables[n] for n in used]), strict=True))
        for name in made.given:
            env[name] = read[name] if name in read else self.parameter(name)
        passes: dict[int, Passes] = {}
        if wanted is not None:
            flags = self._flags(env, read, wanted)
            passes = {key: self.nodes[key].passes_for(f) for key, f in flags.items() if any(f)}
        for part in made.program.parts:
            if isinstance(part, Segment):
                values = self._segment(part, env, read, passes.get(id(part)), wanted is None)
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
        self, part: Segment, env: Mapping[str, Any], read: Mapping[str, Any], passes: Passes | None, later: bool
    ) -> list[Any]:
        """A segment's results; ``later``: its gradients may be asked for when nothing was kept for them."""
        node = self.nodes[id(part)]
        tensors = [_symbolic(env[n]) for n in part.inputs] + [read[n] for n in node.variables]
        if passes is not None:
            return list(tf.custom_gradient(lambda *given: passes.run(given))(*tensors))
        flags = (*(v.type.is_float for v in part.graph.inputs), *(True for _ in self._tracked_of(node)))
        if not (later and any(flags)):
            return self._predicted(node, tensors)

        def run(*given: Any) -> Any:
            def gradient(*seeds: Any) -> list[Any]:
                return node.passes_for(flags).run(given)[1](*seeds)

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
            found = in_python(node.predict, tensors, kinds, name)
        for t, v in zip(found, outputs, strict=True):
            t.set_shape([d if isinstance(d, int) else None for d in v.shape])
        return found


def _symbolic(tensor: Any) -> Any:
    """``tensor`` as one of the current graph."""
    return tensor if hasattr(tensor, "op") and not hasattr(tensor, "_numpy") else tf.identity(tensor)
