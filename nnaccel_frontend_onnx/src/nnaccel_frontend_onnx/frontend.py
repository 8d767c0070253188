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


class OnnxFrontend(Frontend):
    """ONNX: a path that ends in ``.onnx``, a file's bytes, or a ``ModelProto``."""

    name = "onnx"

    @classmethod
    def accepts(cls, model: Any) -> bool:
        """Whether ``model`` is one of the three, or was optimized already; does not import onnx."""
        if isinstance(model, (str, os.PathLike)):
            return os.fsdecode(model).endswith(".onnx")
        if isinstance(model, (bytes, bytearray, memoryview)):
            return True
        onnx, own = sys.modules.get("onnx"), sys.modules.get("nnaccel_frontend_onnx.network")
        return (onnx is not None and isinstance(model, onnx.ModelProto)) or (own is not None and isinstance(model, own.Network))

    @classmethod
    def default_device(cls, model: Any) -> str:
        """The CPU: a file's parameters are on no device."""
        return "cpu"

    def capture(self, model: Any, call: Any) -> Captured:
        """Import ``model`` for ``call``, a mapping of input names to arrays, at exactly their sizes.

        Raises:
            ModelError: the file is not valid; UnsupportedError: an operator that nobody knows.
        """
        from nnaccel_frontend_onnx.importer import Pattern, import_model
        from nnaccel_frontend_onnx.loading import load

        feeds = dict(call)
        return import_model(load(model), {k: Pattern.of_array(v) for k, v in feeds.items()}, {}).captured

    def wrap(self, model: Any, session: Session) -> Any:
        """A `Network`: callable, and with ``run``, ``inputs``, ``outputs`` like an inference session; under
        ``optimize(..., train=True)`` a `TrainableNetwork`.

        Raises:
            ModelError: the model is not valid; InputError: it is to be trained, but has no parameters; UnsupportedError: it is to
                be trained on a GPU.
        """
        from nnaccel_frontend_onnx.loading import load
        from nnaccel_frontend_onnx.network import Network
        from nnaccel_frontend_onnx.training import TrainableNetwork

        if session.options.train and session.bridge.device != "cpu":
            raise UnsupportedError(
                f"ONNX networks are trained on the CPU, where their parameters are numpy arrays; {session.device} was asked for: "
                f"optimize(model, train=True), then optimize(trained, device={session.device!r}) to predict there"
            )
        if isinstance(model, TrainableNetwork):
            checked = load(model.proto())  # its parameters as they are now
        else:
            checked = model.model if isinstance(model, Network) else load(model)
        return TrainableNetwork(checked, session) if session.options.train else Network(checked, session)

    @classmethod
    def inspect(cls, optimized: Any) -> Inspection | None:
        """The report of a `Network`."""
        from nnaccel_frontend_onnx.network import Network

        if not isinstance(optimized, Network):
            return None
        return Inspection(optimized.name, optimized.session, optimized, tuple(optimized.notes()))

    @classmethod
    def diagnose(cls) -> Sequence[Diagnosis]:
        """onnx's presence and version."""
        import importlib.metadata

        try:
            return [Diagnosis("onnx", True, importlib.metadata.version("onnx"))]
        except importlib.metadata.PackageNotFoundError:
            return [Diagnosis("onnx", False, "not installed", "pip install onnx")]
