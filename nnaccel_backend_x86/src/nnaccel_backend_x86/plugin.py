"""What this package registers with nnaccel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from nnaccel_core.api import Backend

hookimpl = pluggy.HookimplMarker("nnaccel")


@hookimpl
def nnaccel_register_backends() -> Sequence[type[Backend]]:
    from nnaccel_backend_x86.backend import X86Backend

    return [X86Backend]
