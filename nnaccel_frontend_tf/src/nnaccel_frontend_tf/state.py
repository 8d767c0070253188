"""What an optimized object remembers: its programs for each kind of call, and how calls ran."""

from __future__ import annotations

import functools
import itertools
import threading
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf

from nnaccel_core.api import Captured, Signature
from nnaccel_core.errors import GuardError, UnsupportedError
from nnaccel_core.ir import Dim, TensorType, sym
from nnaccel_frontend_tf.assembly import Imported, assemble
from nnaccel_frontend_tf.errors import NeedSizes, Refused
from nnaccel_frontend_tf.importer import Importer, ir_dtype
from nnaccel_frontend_tf.operation import why_not
from nnaccel_frontend_tf.runner import Runner, nothing
from nnaccel_frontend_tf.trace import Flat, Static, Trace, flatten, trace
from nnaccel_frontend_tf.training import refusing

if TYPE_CHECKING:
    from nnaccel_core.driver.session import Compiled, Session

BATCH = "batch"
#: Kinds of calls that are remembered at most, where sizes come and go.
MOST = 256
_numbers = itertools.count()
#: ``capturing``: this thread traces a network; what it calls runs as it is, optimized networks inside it too.
_busy = threading.local()


@dataclass
class Entry:
    """A captured kind of call.

    Attributes:
        functions: for calls outside of any graph: by what gradients are wanted of, a concrete function of the call's tensors.
        untrainable: why gradients can't be taken; "" where nothing is known against it.
    """

    traced: Trace
    imported: Imported
    compiled: Compiled
    runner: Runner
    functions: dict[Hashable, Any]
    untrainable: str

    def result(self, tensors: Sequence[Any]) -> Any:
        """The call's result, of its tensors."""
        leaves = iter(tensors)
        flat = tf.nest.flatten(self.traced.structure)
        found = [x.value if isinstance(x, Static) else next(leaves) for x in flat]
        return tf.nest.pack_sequence_as(self.traced.structure, found)


class State:
    """One optimized network. Safe to call from several threads.

    Args:
        own: the user's network itself; name: for people; context: what else decides how it runs (modes, scopes).
        after: called when ``own`` was traced; may refuse.
    """

    def __init__(
        self,
        own: Callable[..., Any],
        session: Session,
        name: str,
        context: Callable[[], Hashable] = tuple,
        after: Callable[[], None] | None = None,
    ) -> None:
        self.own = own
        self.session = session
        self.name = name
        self.reasons: Counter[str] = Counter()
        self.compiled_calls = 0
        self._context = context
        self._after = after
        self._entries: dict[tuple[Any, ...], Entry | str] = {}
        self._number = next(_numbers)
        self._lock = threading.RLock()

    def __call__(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The result of a call, as a tensor or as operations of the graph that is being made.

        Raises:
            InputError: arguments that no program can take.
        """
        if getattr(_busy, "capturing", False):
            return self.own(*args, **kwargs)
        flat = flatten(self.name, args, kwargs)
        if not flat.tensors:
            return self._own("it got no tensor", args, kwargs)
        if not tf.executing_eagerly() and _for_xla():
            return self._own("inside a function that XLA compiles (jit_compile=True)", args, kwargs)
        with self._lock:
            found = self._entry(flat)
        if isinstance(found, str):
            return self._own(found, args, kwargs)
        recording = _recording()
        if recording and found.untrainable:
            return self._own(found.untrainable, args, kwargs)
        try:
            result = self._run(found, flat, recording)
        except UnsupportedError as e:  # an operator has no gradient; nothing ran yet
            found.untrainable = f"not trained: {e}"
            return self._own(found.untrainable, args, kwargs)
        self.compiled_calls += 1
        return result

    def _run(self, found: Entry, flat: Flat, recording: bool) -> Any:
        if tf.executing_eagerly():
            result = found.result(self._function(found, flat.tensors, recording)(*flat.tensors))
            if found.compiled.to_verify and not recording:
                self._verify(found, flat, result)
            return result
        if recording or not found.untrainable:
            return found.result(found.runner(flat.tensors, _asked if recording else None))
        why = f"{found.untrainable}; open the GradientTape around the call, then TensorFlow runs it"
        return found.result(refusing(found.runner(flat.tensors, nothing), why))

    def _verify(self, entry: Entry, flat: Flat, result: Any) -> None:
        """Compare a call with the user's own network, for ``optimize(..., verify=True)``."""
        from nnaccel_core.driver.verify import check

        args, kwargs = flat.rebuilt(flat.tensors)
        pairs = zip(tf.nest.flatten(result), tf.nest.flatten(self.own(*args, **kwargs)), strict=True)
        tensors = [(a, b) for a, b in pairs if isinstance(a, tf.Tensor) and ir_dtype(a.dtype) is not None]
        inputs = [np.asarray(t) for t in (*flat.tensors, *(entry.runner.parameter(n) for n in entry.imported.given))]
        check(entry.compiled, inputs, [np.asarray(a) for a, _ in tensors], [np.asarray(b) for _, b in tensors])

    def _function(self, entry: Entry, tensors: Sequence[Any], recording: bool) -> Any:
        """The call as a concrete function, for tensors outside of any graph."""
        asked = tuple(t.dtype.is_floating and _asked(t) for t in tensors) if recording else ()
        found = entry.functions.get((recording, asked))
        if found is None:
            with self._lock:
                found = entry.functions.get((recording, asked))
                if found is None:
                    found = entry.functions[recording, asked] = self._build(entry, recording, asked)
        return found

    @staticmethod
    def _build(entry: Entry, recording: bool, asked: tuple[bool, ...]) -> Any:
        specs = [tf.TensorSpec(t.shape, t.dtype) for t in entry.traced.inputs]

        def body(*tensors: Any) -> list[Any]:
            if not recording:
                return entry.runner(tensors, nothing)
            # What depends on nothing that gradients are wanted of is told by the tape, which follows these.
            with tf.GradientTape() as tape:
                tape.watch([t for t, flag in zip(tensors, asked, strict=True) if flag])
                return entry.runner(tensors, _asked)

        return tf.function(body, autograph=False, input_signature=specs).get_concrete_function()

    def _own(self, reason: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The user's own network; counted with its reason."""
        self.reasons[reason] += 1
        return self.own(*args, **kwargs)

    # --- programs -----------------------------------------------------------------------------------------------

    def _entry(self, flat: Flat) -> Entry | str:
        """The program for a call, captured if need be, for any batch size before one for this size; else why there is none."""
        first = next((t.shape[0] for t in flat.tensors if t.shape.rank), None)
        loose: list[tuple[Dim | None, ...]] = []
        for t in flat.tensors:
            dims: list[Any] = t.shape.as_list()
            if dims and (dims[0] == first or dims[0] is None):
                dims[0] = sym(BATCH)
            loose.append(tuple(dims))
        fixed = (flat.key, self._context())
        why = "sizes that are known only while it runs"
        for shapes in (loose, [tuple(t.shape.as_list()) for t in flat.tensors]):
            key = (fixed, tuple(shapes))
            found = self._entries.get(key)
            if found is None and not any(d is None for s in shapes for d in s):
                if len(self._entries) >= MOST:
                    self.refresh()
                found = self._entries[key] = self._capture(flat, shapes)  # type: ignore[arg-type]
            if isinstance(found, Entry):
                return found
            why = found or why
        return why

    def _capture(self, flat: Flat, shapes: Sequence[tuple[Dim, ...]]) -> Entry | str:
        _busy.capturing = True
        try:
            traced = trace(self.own, flat, [[d if isinstance(d, int) else None for d in s] for s in shapes])
            if self._after is not None:
                self._after()
            made = Importer(traced, shapes)
            imported = assemble(made, made.run())
        except (Refused, NeedSizes, GuardError) as e:
            return str(e)
        except UnsupportedError as e:
            return f"not compiled: {e}"
        finally:
            _busy.capturing = False
        if not imported.program.segments():
            return "no part of it is one that nnaccel compiles" + "".join(f"\n  {r}" for r in imported.reasons[:8])
        values: dict[str, Any] = dict(imported.constants)
        getters = {name: functools.partial(values.__getitem__, name) for name in (*imported.variables, *imported.constants)}
        tracked = {
            name: getters[name] for name, v in imported.variables.items() if v.trainable and v.dtype.is_floating
        }
        reason = "traced by TensorFlow" + "".join(f"\nin TensorFlow: {r}" for r in imported.reasons)
        captured = Captured(imported.program, getters, reason, tracked)
        kinds = tuple(
            TensorType(s, d) for s, t in zip(shapes, flat.tensors, strict=True) if (d := ir_dtype(t.dtype)) is not None
        )
        # Nothing is compiled before it is known whether calls predict or train.
        signature = Signature(kinds, grad=True)
        compiled = self.session.compiled(("tf", self._number, next(_numbers)), signature, lambda: captured)
        untrainable = f"not trained: {imported.untrainable}" if imported.untrainable else ""
        return Entry(traced, imported, compiled, Runner(imported, captured, compiled, values), {}, untrainable)

    def refresh(self) -> None:
        """Drop all programs: the network itself changed."""
        with self._lock:
            self._entries = {}
            self.session.forget()

    def notes(self) -> list[str]:
        """For `explain`: what stays in TensorFlow, and calls that ran there."""
        found = [f"ran in TensorFlow ({n} call{'s' if n > 1 else ''}): {why}" for why, n in self.reasons.items()]
        for entry in list(self._entries.values()):
            if isinstance(entry, Entry):
                found += [f"in TensorFlow: {r}" for r in entry.imported.reasons]
        if why_not():
            found.append(f"segments are tf.numpy_function, each variable costs some microseconds a call: {why_not()}")
        return list(dict.fromkeys(found))

    def report(self) -> dict[str, Any]:
        """How calls ran; see ``nnaccel_report``."""
        entries = [e for e in self._entries.values() if isinstance(e, Entry)]
        return {
            "compiled_calls": self.compiled_calls,
            "own_calls": dict(self.reasons),
            "captures": len(entries),
            "programs": [e.runner.captured.reason for e in entries],
        }


def _recording() -> bool:
    """Whether any tape is open."""
    from tensorflow.python.eager import record

    return bool(record.could_possibly_record())


def _for_xla() -> bool:
    """Whether the graph that is being made is for XLA, which compiled segments are no operations of."""
    from tensorflow.python.ops import control_flow_util

    return bool(control_flow_util.GraphOrParentsInXlaContext(tf.compat.v1.get_default_graph()))


def _asked(tensor: Any) -> bool:
    """Whether a tape follows ``tensor``."""
    from tensorflow.python.eager import record

    return bool(record.should_record_backprop([tensor]))
