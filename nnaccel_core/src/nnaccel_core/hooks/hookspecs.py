"""The five hooks. They only register; the registered objects' methods do the work.

A plug-in is a module (or object) named by an entry point of group ``nnaccel``. Importing it must be light: no
framework, no GPU library; those are imported inside methods.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from nnaccel_core.api import Backend, Bridge, Frontend, Pass
    from nnaccel_core.ops.registry import OpDef

#: Name of the pluggy project and of the entry-point group.
PROJECT = "nnaccel"

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def nnaccel_register_frontends() -> Sequence[type[Frontend]]:  # type: ignore[empty-body]
    """Frontend classes: frameworks whose networks this plug-in captures and wraps."""


@hookspec
def nnaccel_register_backends() -> Sequence[type[Backend]]:  # type: ignore[empty-body]
    """Backend classes: device kinds this plug-in builds and runs plans on."""


@hookspec
def nnaccel_register_bridges() -> Sequence[type[Bridge]]:  # type: ignore[empty-body]
    """Bridge classes: memory of one framework on one device kind."""


@hookspec
def nnaccel_register_passes(stage: str, device: str) -> Sequence[Pass]:  # type: ignore[empty-body]
    """Passes for ``stage`` (``"graph"`` or ``"loop"``) when compiling for ``device`` (``"cpu"``, ``"cuda"``).

    A pass says where it goes by naming others in its ``before`` and ``after``.
    """


@hookspec
def nnaccel_register_ops() -> Sequence[OpDef]:  # type: ignore[empty-body]
    """Operators to add to the table. A name that another package registered is an error."""
