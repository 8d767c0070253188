"""An optimized Keras model: an object of a subclass of the user's own class that shares the user's ``__dict__``."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Hashable
from typing import TYPE_CHECKING, Any

import keras

from nnaccel_frontend_tf.errors import Refused
from nnaccel_frontend_tf.state import State

if TYPE_CHECKING:
    from nnaccel_core.driver.session import Session

_classes: weakref.WeakKeyDictionary[type, type] = weakref.WeakKeyDictionary()


class _Own:
    """An attribute that the optimized model has of its own: what Keras made of the user's model would run that one."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __get__(self, model: Any, owner: type | None = None) -> Any:
        return self if model is None else model._nnaccel_own.get(self.name)

    def __set__(self, model: Any, value: Any) -> None:
        model._nnaccel_own[self.name] = value


class _Never:
    """An attribute that is False whatever Keras sets: compiled segments are no operations that XLA could take."""

    def __get__(self, model: Any, owner: type | None = None) -> Any:
        return self if model is None else False

    def __set__(self, model: Any, value: Any) -> None:
        pass


class Optimized:
    """What the optimized class adds to the user's."""

    _nnaccel: State
    _nnaccel_user: Any
    _nnaccel_own: dict[str, Any]

    def nnaccel_report(self) -> dict[str, Any]:
        """How calls ran.

        Returns:
            ``compiled_calls`` (a call inside a ``tf.function`` counts once, when that is traced); ``own_calls``: reason to number
            of calls in which the user's own layers ran; ``captures``; ``programs``: how each was captured.
        """
        return self._nnaccel.report()

    def nnaccel_refresh(self) -> None:
        """Capture the network again at the next call: its layers changed."""
        self._nnaccel.refresh()


def optimized_class(base: type) -> type:
    """The optimized subclass of ``base``, made once. It has the name of ``base``, by which Keras saves and loads models."""
    found = _classes.get(base)
    if found is None:
        own = base.call  # type: ignore[attr-defined]

        @functools.wraps(own)
        def call(self: Any, *args: Any, **kwargs: Any) -> Any:
            user = self._nnaccel_user
            if not user.built or any(isinstance(x, keras.KerasTensor) for x in keras.tree.flatten((args, kwargs))):
                return own(user, *args, **kwargs)
            return self._nnaccel(args, kwargs)

        body = {
            "__slots__": ("_nnaccel", "_nnaccel_own", "_nnaccel_user"),
            "__doc__": base.__doc__,
            "__module__": base.__module__,
            "__qualname__": base.__qualname__,
            "call": call,
            "jit_compile": _Never(),
            "supports_jit": _Never(),
            **{name: _Own(name) for name in ("train_function", "test_function", "predict_function")},
        }
        found = type(base)(base.__name__, (Optimized, base), body)
        _classes[base] = found
    return found


def wrap(user: Any, session: Session) -> Any:
    """The optimized model of ``user``: shares layers, weights, compile() settings and all other attributes with it."""
    if isinstance(user, Optimized):
        user = user._nnaccel_user
    base = type(user)
    optimized: Any = object.__new__(optimized_class(base))
    object.__setattr__(optimized, "__dict__", user.__dict__)

    def own(*args: Any, **kwargs: Any) -> Any:
        return base.call(user, *args, **kwargs)

    state = State(own, session, user.name, functools.partial(_context, user), functools.partial(_after, user))
    object.__setattr__(optimized, "_nnaccel", state)
    object.__setattr__(optimized, "_nnaccel_user", user)
    object.__setattr__(optimized, "_nnaccel_own", {})
    return optimized


def _context(user: Any) -> Hashable:
    """What Keras's layers look at beside their arguments: training or not, which layers train, mixed precision."""
    from keras.src.backend.common import global_state

    call = global_state.get_global_attribute("current_call_ctx")
    training = getattr(call, "training", None) if call is not None else None
    scope = global_state.get_global_attribute("autocast_scope")
    # Batch normalization that is not trained uses its running statistics even in training.
    frozen = tuple(layer.trainable for layer in user._flatten_layers()) if training else ()
    return training, getattr(scope, "dtype", None), frozen


def _after(user: Any) -> None:
    """Refuse networks that leave losses behind: those of a trace belong to its graph."""
    left = [layer.name for layer in user._flatten_layers() if layer._losses]
    if left:
        user._clear_losses()
        raise Refused(f"layer {left[0]!r} adds losses while it runs (add_loss or an activity regularizer)")
