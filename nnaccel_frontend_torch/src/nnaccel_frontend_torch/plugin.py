"""The plug-in: what this package registers. Importing it does not import torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from nnaccel_core.api import Bridge, Frontend

hookimpl = pluggy.HookimplMarker("nnaccel")


@hookimpl
def nnaccel_register_frontends() -> Sequence[type[Frontend]]:
    """The frontend for `torch.nn.Module`."""
    from nnaccel_frontend_torch.frontend import TorchFrontend

    return [TorchFrontend]


@hookimpl
def nnaccel_register_bridges() -> Sequence[type[Bridge]]:
    """The bridges for torch tensors in the memory of CPUs and of NVIDIA GPUs."""
    from nnaccel_frontend_torch.bridge import TorchCpuBridge, TorchCudaBridge

    return [TorchCpuBridge, TorchCudaBridge]
