"""What the core asks of this package."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from nnaccel_core.api import Captured, Diagnosis, Frontend, Inspection
from nnaccel_core.errors import UnsupportedError

if TYPE_CHECKING:
    from nnaccel_core.driver.session import Session


class TensorFlowFrontend(Frontend):
    """TensorFlow 2: Keras 3 models, ``tf.Module``, ``tf.function``, folders of SavedModels."""

    name = "tf"

    @classmethod
    def accepts(cls, model: Any) -> bool:
        """Whether ``model`` is one of these, or was optimized already; does not import TensorFlow."""
        if isinstance(model, (str, os.PathLike)):
            folder = os.fsdecode(model)
            return os.path.isdir(folder) and not folder.endswith(".onnx")
        own = sys.modules.get("nnaccel_frontend_tf.function")
        if own is not None and isinstance(model, (own.Function, own.Module)):
            return True
        tf, keras = sys.modules.get("tensorflow"), sys.modules.get("keras")
        if keras is not None and hasattr(keras, "Model") and isinstance(model, keras.Model):
            return bool(keras.backend.backend() == "tensorflow")
        if tf is None or not hasattr(tf, "Module"):
            return False
        return isinstance(model, tf.Module) or hasattr(model, "get_concrete_function") or _is_loaded(model)

    @classmethod
    def default_device(cls, model: Any) -> str:
        """Where the first variable is; the CPU where there is none."""
        for v in getattr(model, "variables", None) or ():
            device = str(getattr(getattr(v, "value", v), "device", ""))
            return f"cuda:{device.rsplit(':', 1)[1]}" if "GPU" in device else "cpu"
        return "cpu"

    def capture(self, model: Any, call: Any) -> Captured:
        """Trace ``model`` for ``call = (args, kwargs)``, at exactly their sizes.

        Raises:
            UnsupportedError: it can't be traced; carries the reason.
        """
        import functools

        from nnaccel_frontend_tf.assembly import assemble
        from nnaccel_frontend_tf.errors import NeedSizes, Refused
        from nnaccel_frontend_tf.importer import Importer
        from nnaccel_frontend_tf.trace import flatten, trace

        flat = flatten(type(model).__name__, *call)
        shapes = [tuple(t.shape.as_list()) for t in flat.tensors]
        try:
            made = Importer(trace(model, flat, shapes), shapes)
            imported = assemble(made, made.run())
        except (Refused, NeedSizes) as e:
            raise UnsupportedError(f"{type(model).__name__} can't be captured: {e}") from e
        getters = {name: functools.partial(_now, v) for name, v in imported.variables.items()}
        getters.update((name, functools.partial(_now, array)) for name, array in imported.constants.items())
        return Captured(imported.program, getters, "traced by TensorFlow")

    def wrap(self, model: Any, session: Session) -> Any:
        """A model of the user's own class for a Keras model, a callable for all else."""
        keras = sys.modules.get("keras")
        if keras is not None and hasattr(keras, "Model") and isinstance(model, keras.Model):
            from nnaccel_frontend_tf import keras_model

            return keras_model.wrap(model, session)
        from nnaccel_frontend_tf import function

        return function.wrap(model, session)

    @classmethod
    def inspect(cls, optimized: Any) -> Inspection | None:
        """The report of what `wrap` made; calls predict."""
        from nnaccel_frontend_tf import function, keras_model

        if isinstance(optimized, keras_model.Optimized):
            state = optimized._nnaccel
        elif isinstance(optimized, function.Module):
            state = optimized._nnaccel_main()._nnaccel
        elif isinstance(optimized, function.Function):
            state = optimized._nnaccel
        else:
            return None
        return Inspection(state.name, state.session, optimized, tuple(state.notes()))

    @classmethod
    def diagnose(cls) -> Sequence[Diagnosis]:
        """TensorFlow's presence and version."""
        import importlib.metadata

        for name in ("tensorflow", "tensorflow-cpu"):
            try:
                return [Diagnosis("TensorFlow", True, importlib.metadata.version(name))]
            except importlib.metadata.PackageNotFoundError:
                continue
        return [Diagnosis("TensorFlow", False, "not installed", "pip install tensorflow-cpu")]


def _is_loaded(model: Any) -> bool:
    """Whether ``model`` is a loaded SavedModel."""
    return type(model).__module__.startswith("tensorflow.python.saved_model") and hasattr(model, "signatures")


def _now(source: Any) -> Any:
    """A variable's or constant's value, as an array."""
    import numpy as np

    return np.asarray(source)
