"""The plug-in: what this package registers. Importing it does not import TensorFlow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from nnaccel_core.api import Bridge, Frontend

hookimpl = pluggy.HookimplMarker("nnaccel")


@hookimpl
def nnaccel_register_frontends() -> Sequence[type[Frontend]]:
    """The frontend for Keras models, `tf.Module`, `tf.function` and SavedModel folders."""
    from nnaccel_frontend_tf.frontend import TensorFlowFrontend

    return [TensorFlowFrontend]


@hookimpl
def nnaccel_register_bridges() -> Sequence[type[Bridge]]:
    """The bridge for TensorFlow's tensors in host memory."""
    from nnaccel_frontend_tf.bridge import TensorFlowCpuBridge

    return [TensorFlowCpuBridge]
