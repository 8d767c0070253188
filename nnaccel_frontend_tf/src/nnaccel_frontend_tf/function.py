"""Optimized functions, modules and SavedModels: callables with the signature of what they stand for."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import tensorflow as tf

from nnaccel_core.errors import InputError, UnsupportedError
from nnaccel_frontend_tf.state import State

if TYPE_CHECKING:
    from nnaccel_core.driver.session import Session


class Function:
    """An optimized function; called like the function it stands for, eagerly and inside a ``tf.function``."""

    def __init__(self, own: Callable[..., Any], session: Session, name: str) -> None:
        self._nnaccel = State(own, session, name)
        self.__name__ = name
        self.__wrapped__ = own

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The function's result.

        Raises:
            InputError: ragged or sparse tensors, strings, tensors of unknown rank.
        """
        return self._nnaccel(args, kwargs)

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        return self if instance is None else functools.partial(self, instance)

    def nnaccel_report(self) -> dict[str, Any]:
        """How calls ran: ``compiled_calls``, ``own_calls`` (reason to number), ``captures``, ``programs``."""
        return self._nnaccel.report()

    def nnaccel_refresh(self) -> None:
        """Capture the function again at the next call: what it refers to changed."""
        self._nnaccel.refresh()


class Module:
    """An optimized `tf.Module` or SavedModel: its functions run optimized, all other attributes are the user's.

    Attributes:
        signatures: of a SavedModel, by name: functions of named tensors that return a dictionary.
    """

    def __init__(self, user: Any, session: Session, name: str) -> None:
        self._nnaccel_user = user
        self._nnaccel_session = session
        self._nnaccel_name = name
        self._nnaccel_functions: dict[str, Function] = {}
        signatures = getattr(user, "signatures", None)
        if isinstance(signatures, Mapping):
            own = {k: f for k, f in signatures.items() if not k.startswith("__saved_model")}  # TensorFlow's own
            self.signatures = {k: Function(f, session, f"{name}.{k}") for k, f in own.items()}

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The module's own ``__call__``; a SavedModel without one runs its signature ``serving_default``, or its only one."""
        return self._nnaccel_main()(*args, **kwargs)

    def _nnaccel_main(self) -> Function:
        found = self._nnaccel_functions.get("__call__")
        if found is None:
            user = self._nnaccel_user
            if callable(user):
                found = Function(user.__call__, self._nnaccel_session, self._nnaccel_name)
            else:
                signatures = getattr(self, "signatures", {})
                chosen = signatures.get("serving_default") or (next(iter(signatures.values())) if len(signatures) == 1 else None)
                if chosen is None:
                    known = ", ".join(signatures) or "none"
                    raise UnsupportedError(f"{self._nnaccel_name} is not callable; call one of its signatures: {known}")
                found = chosen
            self._nnaccel_functions["__call__"] = found
        return found

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_nnaccel") or name == "signatures":
            raise AttributeError(name)
        value = getattr(self._nnaccel_user, name)
        if not is_function(value):
            return value
        found = self._nnaccel_functions.get(name)
        if found is None:
            found = Function(value, self._nnaccel_session, f"{self._nnaccel_name}.{name}")
            self._nnaccel_functions[name] = found
        return found

    def nnaccel_report(self) -> dict[str, Any]:
        """How calls of the main function ran."""
        return self._nnaccel_main().nnaccel_report()

    def nnaccel_refresh(self) -> None:
        """Capture all functions again at their next call."""
        for f in (*self._nnaccel_functions.values(), *getattr(self, "signatures", {}).values()):
            f.nnaccel_refresh()


def is_function(x: Any) -> bool:
    """Whether ``x`` is a ``tf.function`` or one of its concrete functions."""
    return isinstance(x, tf.types.experimental.GenericFunction) or hasattr(x, "get_concrete_function")


def load(path: str | os.PathLike[str]) -> Any:
    """The SavedModel in a folder.

    Raises:
        InputError: the folder holds none, or one that TensorFlow can't load.
    """
    folder = os.fsdecode(path)
    if not any(os.path.exists(os.path.join(folder, n)) for n in ("saved_model.pb", "saved_model.pbtxt")):
        raise InputError(f"{folder} holds no SavedModel (no saved_model.pb); make one with tf.saved_model.save or model.export")
    try:
        return tf.saved_model.load(folder)
    except Exception as e:
        try:
            return _signatures_of(folder)
        except Exception:
            raise InputError(f"TensorFlow can't load the SavedModel in {folder}: {type(e).__name__}: {e}") from e


def _signatures_of(folder: str) -> Any:
    """The SavedModel with its signatures only: what Keras 2 saved with the state of an optimizer can't be loaded as an object."""
    from tensorflow.python.saved_model import load_v1_in_v2

    return load_v1_in_v2.load(folder, ["serve"])


def wrap(user: Any, session: Session) -> Any:
    """The optimized callable for a function, a module or the folder of a SavedModel."""
    if isinstance(user, Function):
        user = user.__wrapped__
    elif isinstance(user, Module):
        user = user._nnaccel_user
    if isinstance(user, (str, os.PathLike)):
        name = os.path.basename(os.path.normpath(os.fsdecode(user)))
        return Module(load(user), session, name)
    if is_function(user):
        return Function(user, session, str(getattr(user, "__name__", None) or getattr(user, "name", "function")))
    return Module(user, session, type(user).__name__)
