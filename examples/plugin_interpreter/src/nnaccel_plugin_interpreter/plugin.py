"""What this package registers. Importing it imports neither torch nor any of the classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from nnaccel_core.hooks import hookimpl

if TYPE_CHECKING:
    from nnaccel_core.api import Backend, Bridge, Pass
    from nnaccel_core.ops.registry import OpDef


@hookimpl
def nnaccel_register_backends() -> Sequence[type[Backend]]:
    from nnaccel_plugin_interpreter.backend import InterpBackend

    return [InterpBackend]


@hookimpl
def nnaccel_register_bridges() -> Sequence[type[Bridge]]:
    from nnaccel_plugin_interpreter.bridge import TorchInterpBridge

    return [TorchInterpBridge]


@hookimpl
def nnaccel_register_ops() -> Sequence[OpDef]:
    from nnaccel_plugin_interpreter.ops import SOFT_THRESHOLD

    return [SOFT_THRESHOLD]


@hookimpl
def nnaccel_register_passes(stage: str, device: str) -> Sequence[Pass]:
    from nnaccel_plugin_interpreter.passes import FUSE_SOFT_THRESHOLD

    return [FUSE_SOFT_THRESHOLD] if stage == "graph" and device == "interp" else []
