"""Convolutions as our own kernels run them: also the gradient of a convolution's input, which is one where the stride is 1.

``dx`` of a convolution with stride 1 is a convolution of ``g`` with the same weights, input and output channels swapped and the
window turned around, with a padding of ``dilation * (window - 1) - padding``. `pack_panels` reads the weights that way.
"""

from __future__ import annotations

from dataclasses import dataclass

from nnaccel_backend_x86.builtin import pack_key
from nnaccel_backend_x86.onednn import sizes
from nnaccel_backend_x86.scope import Scope
from nnaccel_core.ir import Node, Value, channels_last, identity
from nnaccel_core.select.candidate import Pack

#: Columns of a packed panel (``PANEL`` in ``native/microkernel.h``).
PANEL = 16

Pair = tuple[int, int]


@dataclass(frozen=True)
class Convolution:
    """A dense convolution of channels-last images with one group; one spatial axis counts as a height of 1.

    Attributes:
        images: how many; size, out: height and width of input and output; channels, columns: input and output channels.
        pad: in front, of each axis. turned: the weights are (channels, columns, window), to be read backwards.
    """

    images: int
    size: Pair
    channels: int
    out: Pair
    columns: int
    window: Pair
    stride: Pair
    dilation: Pair
    pad: Pair
    padded: bool
    turned: bool

    @property
    def taps(self) -> int:
        return self.window[0] * self.window[1]

    def panels(self) -> tuple[int, int, int, int]:
        """The integers of kernel ``pack_panels`` for its weights."""
        return (self.columns, self.channels, self.taps, int(self.turned))


def two(values: tuple[int, ...], missing: int) -> Pair:
    """Height and width, or those of one axis."""
    return (missing, values[0]) if len(values) == 1 else (values[0], values[1])


def convolution(scope: Scope, node: Node) -> Convolution | None:
    """What a ``conv`` or ``conv_backward_data`` computes, when our kernels can: packed weights, images in channels-last
    memory; else None."""
    a = node.attrs
    x, w, out = scope.static(node.inputs[0]), scope.static(node.inputs[1]), scope.static(node.output)
    if x.rank not in (3, 4) or a["groups"] != 1 or w.layout != identity(w.rank):
        return None
    if any(v not in scope.params for v in node.inputs[1:]) or any(t.layout != channels_last(x.rank) for t in (x, out)):
        return None
    padding, window = a["padding"], sizes(w)[2:]
    turned = node.op == "conv_backward_data"
    if turned:
        reach = [d * (k - 1) for d, k in zip(a["dilation"], window, strict=True)]
        padding = [(r - low, r - high) for r, (low, high) in zip(reach, padding, strict=True)]
        if any(s != 1 for s in a["stride"]):
            return None
    if any(p < 0 for pair in padding for p in pair):
        return None
    return Convolution(
        images=sizes(x)[0],
        size=two(sizes(x)[2:], 1),
        channels=sizes(x)[1],
        out=two(sizes(out)[2:], 1),
        columns=sizes(out)[1],
        window=two(window, 1),
        stride=two(tuple(a["stride"]), 1),
        dilation=two(tuple(a["dilation"]), 1),
        pad=two(tuple(p[0] for p in padding), 0),
        padded=any(p for pair in padding for p in pair),
        turned=turned,
    )


def panels_pack(w: Value, packed: tuple[int, int, int, int]) -> Pack:
    """``w`` in panels: ``packed`` are the integers of kernel ``pack_panels``."""
    columns, channels, taps, _ = packed
    panels = -(-columns // PANEL)
    return Pack(w, pack_key("pack_panels", packed, panels), 4 * panels * PANEL * channels * taps)
