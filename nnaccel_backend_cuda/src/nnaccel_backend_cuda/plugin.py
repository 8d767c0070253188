"""What this package registers with nnaccel. Importing it imports no GPU library."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from nnaccel_core.api import Backend

hookimpl = pluggy.HookimplMarker("nnaccel")


@hookimpl
def nnaccel_register_backends() -> Sequence[type[Backend]]:
    """The backend for NVIDIA GPUs."""
    from nnaccel_backend_cuda.backend import CudaBackend

    return [CudaBackend]
