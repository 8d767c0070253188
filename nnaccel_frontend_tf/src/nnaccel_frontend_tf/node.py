"""A compiled segment at run time: its inputs, the values of its variables, and predictions.

Variables are inputs of the operation that a segment is, read by TensorFlow itself at each call. As long as we hold a view of a
variable's memory, TensorFlow writes new values elsewhere; so equal addresses mean equal values, and what was derived from a
variable is kept until its address changes.
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf

from nnaccel_core.ir import Segment, TensorType, identity
from nnaccel_frontend_tf.bridge import Borrowed, address
from nnaccel_frontend_tf.operation import Call
from nnaccel_frontend_tf.worker import run_on_worker

if TYPE_CHECKING:
    from nnaccel_core.driver.segment import Built
    from nnaccel_core.driver.session import Compiled
    from nnaccel_frontend_tf.assembly import Imported
    from nnaccel_frontend_tf.training import Passes

Array = Any


class SegmentNode:
    """One segment at run time. Safe to call from several threads."""

    nnaccel_keeps = False

    def __init__(self, part: Segment, compiled: Compiled, imported: Imported, values: dict[str, Array]) -> None:
        """``values``: the parameters as compiled code reads them now, by name; constants are there from the start."""
        self.part = part
        self.compiled = compiled
        self.values = values
        self.count = len(part.inputs)
        #: names of the parameters that are variables, in the order in which calls bring their values
        self.variables = [v.name for v in part.graph.params if v.name in imported.variables]
        #: addresses of the variables' values that `values` has now, by name
        self._held: dict[str, int] = {}
        #: the same as a call brings them; None where predictions have to look again
        self._seen: list[int] | bytes | None = None
        #: its number among the native operation's segments; negative until it is in a graph
        self.nnaccel_key = -1
        graph = part.graph
        #: whether the native operation can run it
        self.fits = not graph.updates and all(v.type.layout == identity(v.type.rank) for v in graph.outputs)
        kinds = {v.name: v.type for v in graph.params}
        self.fits = self.fits and all(kinds[n].is_static for n in self.variables)
        self.given = tuple(numpy_dtype(v.type) for v in graph.inputs)
        self.found = tuple(numpy_dtype(v.type) for v in graph.outputs)
        self._kinds: list[tuple[Any, np.dtype[Any]]] = [(kinds[n].shape, numpy_dtype(kinds[n])) for n in self.variables]
        #: in training: both passes, by what gradients are wanted of
        self.passes: dict[tuple[bool, ...], Passes] = {}
        self._lock = threading.RLock()

    def passes_for(self, flags: tuple[bool, ...]) -> Passes:
        """Forward and backward pass with gradients of the inputs and tracked variables, as ``flags`` say.

        Raises:
            UnsupportedError: an operator on the way has no gradient.
        """
        from nnaccel_frontend_tf.training import Passes

        with self._lock:
            found = self.passes.get(flags)
            if found is None:
                found = self.passes[flags] = Passes(self, flags)
            return found

    # --- predictions ----------------------------------------------------------------------------------------------

    def predict(self, *arrays: Array) -> list[Array]:
        """Results, from the segment's inputs and then the values of its variables."""
        arrays = whole_arrays(arrays)
        given = arrays[self.count :]
        if given:
            now = [address(a) for a in given]
            if now != self._seen:
                self._renew(given, now, now)
        return self.compiled._run_segment(self.part, arrays[: self.count], None)

    def run(self, call: Call) -> None:
        """Results of a call of the native operation."""
        if call.addresses[8 * self.count :] != self._seen:
            self._take(call)
        if self.passes:
            for passes in tuple(self.passes.values()):
                passes.release()
        hot = (id(self.part), call.header)
        built = self.compiled._hot.get(hot) or self._bind(call, hot)
        inputs = borrowed(call, call.shapes(), self.given)
        self.compiled._segment(self.part).run(built, inputs, lambda types: call.allocate(types, self.found))

    def _bind(self, call: Call, hot: tuple[int, bytes]) -> Built:
        """The plan for the sizes of a call."""
        compiled, segment = self.compiled, self.compiled._segment(self.part)
        # Sizes matter here, values do not.
        like = [np.broadcast_to(np.empty((), d), s) for s, d in zip(call.shapes(), self.given, strict=True)]
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
        self._renew([call.take(k, place, *kind) for k, (place, kind) in taken], places, now)

    def _renew(self, given: Sequence[Array], places: Sequence[int], now: list[int] | bytes) -> None:
        with self._lock:
            self.values.update(zip(self.variables, given, strict=True))
            self._held = dict(zip(self.variables, places, strict=True))
            segment = self.compiled.segments.get(id(self.part))
            if segment is not None:
                segment.refresh()
            self._seen = now

    # --- variables in training ------------------------------------------------------------------------------------

    def tracked(self, given: Sequence[Array], names: Collection[str]) -> list[Array]:
        """Values of the variables ``names``, of those of all; others are put where compiled code reads them."""
        now = dict(zip(self.variables, given, strict=True))
        others = {k: v for k, v in now.items() if k not in names}
        if others:
            self._put(others, {k: address(v) for k, v in others.items()})
        return [now[name] for name in names]

    def tracked_in(self, call: Call, first: int, names: Collection[str]) -> list[Array]:
        """The same of a call of the native operation, whose inputs from ``first`` on are variables; valid while that runs."""
        places = struct.unpack_from(f"={len(self.variables)}Q", call.addresses, 8 * first)
        now, others = {}, {}
        for k, (name, place, kind) in enumerate(zip(self.variables, places, self._kinds, strict=True), first):
            if name in names:
                now[name] = Borrowed(place, *kind)
            elif self._held.get(name) != place:
                others[name] = call.take(k, place, *kind)
        if others:
            held = dict(zip(self.variables, places, strict=True))
            self._put(others, {k: held[k] for k in others})
        return [now[name] for name in names]

    def _put(self, values: dict[str, Array], places: dict[str, int]) -> None:
        with self._lock:
            self.values.update(values)
            self._held.update(places)
            self._seen = None  # what predictions derived may be of other values


def borrowed(call: Call, shapes: Sequence[tuple[int, ...]], dtypes: Sequence[np.dtype[Any]]) -> list[Borrowed]:
    """The first inputs of a call of the native operation."""
    return list(map(Borrowed, struct.unpack_from(f"={len(dtypes)}Q", call.addresses), shapes, dtypes))


def numpy_dtype(kind: TensorType) -> np.dtype[Any]:
    """numpy's dtype of tensors of a type."""
    return np.dtype(tf.as_dtype(kind.dtype).as_numpy_dtype)


def whole_arrays(given: tuple[Any, ...]) -> tuple[Array, ...]:
    """Arrays of rank 0 where TensorFlow gave numpy scalars, whose address is none of the tensor's."""
    return given if all(type(a) is np.ndarray for a in given) else tuple(map(np.asarray, given))


def in_python(function: Callable[..., list[Array]], tensors: Sequence[Any], dtypes: Sequence[Any], name: str) -> list[Any]:
    """``function`` of arrays as a node of the current graph; without results there is none."""
    if not dtypes:
        return []
    kinds = [tf.as_dtype(d) for d in dtypes]
    found = tf.numpy_function(lambda *arrays: run_on_worker(function, *arrays), list(tensors), kinds, stateful=False, name=name)
    return list(found) if isinstance(found, (list, tuple)) else [found]
