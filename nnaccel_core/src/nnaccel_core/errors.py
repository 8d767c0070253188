"""Exceptions users see. Every message says what happened, where, and what to do."""

from __future__ import annotations


class NnaccelError(Exception):
    """Base class of all errors raised by nnaccel."""


class ShapeError(NnaccelError):
    """Operands whose shapes, dtypes or attributes do not fit an operator."""


class VerifyError(NnaccelError):
    """A graph or loop nest that breaks the rules of the IR: a defect of a pass or a plug-in."""


class UnsupportedError(NnaccelError):
    """Something a frontend or backend cannot map; names the layer and the reason."""


class PluginError(NnaccelError):
    """A plug-in that is missing, broken, duplicated or of another API version."""


class DeviceError(NnaccelError):
    """An unknown or absent device."""


class ToolchainError(NnaccelError):
    """A compiler or library that is missing or failed; carries the command that mends it."""


class ReleasedError(NnaccelError):
    """Something needs the values of a parameter whose memory was given back (``release_parameters=True``)."""


class InputError(NnaccelError, ValueError):
    """A call whose arguments do not fit the network."""


class GuardError(NnaccelError):
    """A run-time shape guard that does not hold for this call's shapes."""


class MismatchError(NnaccelError):
    """A verified call whose result is not the framework's own; names the first group of layers that differs."""


class OutOfMemoryError(NnaccelError, MemoryError):
    """The plan's memory could not be allocated; says how much it needs."""
