"""What steers the import of a graph."""

from __future__ import annotations


class Unmapped(Exception):
    """This operation can't become operators of the IR; TensorFlow runs it."""


class NeedSizes(Exception):
    """A size must be a number here: import again for the sizes of this call."""


class Refused(Exception):
    """The network, called this way, can't be captured at all; TensorFlow runs the call. Says why."""
