"""The plug-in: what this package registers. Importing it does not import onnx."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from nnaccel_core.api import Bridge, Frontend

hookimpl = pluggy.HookimplMarker("nnaccel")


@hookimpl
def nnaccel_register_frontends() -> Sequence[type[Frontend]]:
    """The frontend for ONNX files."""
    from nnaccel_frontend_onnx.frontend import OnnxFrontend

    return [OnnxFrontend]


@hookimpl
def nnaccel_register_bridges() -> Sequence[type[Bridge]]:
    """The bridges: numpy arrays in host memory, CuPy arrays on NVIDIA GPUs."""
    from nnaccel_frontend_onnx.bridge import NumpyCpuBridge
    from nnaccel_frontend_onnx.gpu import CupyCudaBridge

    return [NumpyCpuBridge, CupyCudaBridge]
