"""Why something was not captured. Every refusal has a reason that the user can read."""

from __future__ import annotations


class Refusal(Exception):
    """The trace can't be accepted; ``str()`` is the reason."""


class NeedStatic(Refusal):
    """The network looks at the size of a symbolic dim; capture again with that size fixed."""


class Unmapped(Exception):
    """A call that the importer does not map; it becomes a foreign part with this reason."""
