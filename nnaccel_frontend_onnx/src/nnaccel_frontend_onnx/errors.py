"""What goes wrong with a model, and what steers the import."""

from __future__ import annotations

from nnaccel_core.errors import NnaccelError


class ModelError(NnaccelError):
    """A file that is no valid ONNX model; names the node or initializer."""


class Unmapped(Exception):
    """This node can't become operators of the IR; it runs on onnx's reference evaluator."""


class NeedSizes(Exception):
    """A size must be a number here: import again for the sizes of this call."""


class NeedValue(Exception):
    """The value of the network's input ``name`` decides shapes, or with ``choice`` a condition: import again for the value of
    this call."""

    def __init__(self, name: str, choice: bool = False) -> None:
        super().__init__(f"the value of input {name!r} decides {'a condition' if choice else 'shapes'}")
        self.name = name
        self.choice = choice
