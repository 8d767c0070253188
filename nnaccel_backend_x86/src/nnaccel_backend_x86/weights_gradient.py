"""The gradient of a convolution's weights by a kernel of our own: ``native/weights_gradient.cpp``.

It is a sum over all pixels of all images, in which oneDNN's code for channels-last images reaches a quarter to a half of the
peak. Ours cuts the weights into blocks of output and input channels, one task each, so that no two tasks add to the same sums.
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from nnaccel_backend_x86 import costs
from nnaccel_backend_x86.builtin import BuiltinCall
from nnaccel_backend_x86.convolution import PANEL, two
from nnaccel_backend_x86.onednn import sizes
from nnaccel_backend_x86.scope import Scope
from nnaccel_core.api import Machine
from nnaccel_core.ir import Node, channels_last, identity
from nnaccel_core.select.candidate import Candidate

#: Channels of a block, and pixels of a band, that are weighed against each other.
OUTER = (32, 64, 128, 256)
INNER = (16, 32, 64, 128, 256, 512)
PIXELS = (64, 128, 256)
#: Rows of a 1x1 window are joined up to this many pixels: short runs have short sums.
LONGEST_ROW = 256
#: A task may work on this many times the second-level cache: each piece is used for long before the next one.
MOST_SCRATCH = 4


@dataclass(frozen=True)
class GradientDims:
    """The integers of kernel ``weights_gradient``, in the order of its C++ structure ``Dims``, without the blocks."""

    images: int
    height: int
    width: int
    channels: int
    out_height: int
    out_width: int
    out_channels: int
    kernel_height: int
    kernel_width: int
    stride_y: int
    stride_x: int
    dilation_y: int
    dilation_x: int
    pad_y: int
    pad_x: int

    @property
    def taps(self) -> int:
        return self.kernel_height * self.kernel_width

    @property
    def pixels(self) -> int:
        return self.images * self.out_height * self.out_width


#: Windows of images with fewer channels than this are joined: all that one sees stands for the channels of one pixel, which takes
#: this part of the time that gathering as many channels does, as neighbors see much of the same.
JOINED_BELOW, JOINED = 16, 0.5


def joined(d: GradientDims) -> GradientDims:
    """The same gradient as that of a 1x1 window whose input channels are all that the window sees."""
    out = (d.out_height, d.out_width)
    return GradientDims(d.images, *out, d.taps * d.channels, *out, d.out_channels, 1, 1, 1, 1, 1, 1, 0, 0)


def joined_from(d: GradientDims) -> tuple[int, ...]:
    """The integers of kernel ``joined_weights_gradient`` that say what was joined: its C++ structure ``Joined``."""
    spacing = (d.stride_y, d.stride_x, d.dilation_y, d.dilation_x, d.pad_y, d.pad_x)
    return (d.height, d.width, d.channels, d.kernel_height, d.kernel_width, *spacing)


#: Where the distances between pixels of g and x come, after `GradientDims`.
G_STRIDE, X_STRIDE = 15, 16


@dataclass(frozen=True)
class Blocks:
    """How the work is cut: ``outer`` output by ``inner`` input channels a task, ``rows`` output rows a band (of one image, or all
    rows of some images)."""

    outer: int
    inner: int
    rows: int

    def tasks(self, d: GradientDims) -> int:
        return -(-d.out_channels // self.outer) * -(-d.channels // self.inner)

    def gathered(self, d: GradientDims) -> int:
        """Most input pixels that a band gathers."""
        images, rows = max(1, self.rows // d.out_height), min(self.rows, d.out_height)

        def axis(extent: int, taps: int, stride: int, dilation: int) -> int:
            phases = {k * dilation % stride for k in range(taps)}
            return len(phases) * (extent + (taps - 1) * dilation // stride)

        down = axis(rows, d.kernel_height, d.stride_y, d.dilation_y)
        return images * down * axis(d.out_width, d.kernel_width, d.stride_x, d.dilation_x)

    def scratch(self, d: GradientDims) -> int:
        """Bytes a thread needs: sums, the band of g, the gathered pixels, addresses."""
        packed = -(-self.outer * self.rows * d.out_width // PANEL) * PANEL + self.outer * PANEL
        floats = d.taps * self.outer * self.inner + packed + self.inner * self.gathered(d)
        return 4 * floats + 8 * (self.rows * (1 + 2 * d.taps) + 2 * d.taps + 3 * self.outer)


def _cuts(d: GradientDims, machine: Machine) -> Iterator[Blocks]:
    """The ways to cut that are weighed, with one that needs the least memory."""
    panels = -(-d.channels // PANEL) * PANEL
    image = d.out_height * d.out_width
    rows = set()
    for pixels in PIXELS:
        if image <= pixels:
            rows.add(d.out_height * min(d.images, pixels // image))
        else:
            bands = -(-d.out_height // max(1, pixels // d.out_width))
            rows.add(-(-d.out_height // bands))
    outers, inners = {min(k, d.out_channels) for k in OUTER}, {min(k, panels) for k in INNER}
    inners.add(-(-panels // PANEL // machine.cores) * PANEL)  # each core's share
    least = Blocks(min(outers), min(inners), min(rows))
    for b in (Blocks(o, i, r) for o in sorted(outers) for i in sorted(inners) for r in sorted(rows)):
        if b == least or b.scratch(d) <= MOST_SCRATCH * machine.l2:
            yield b


@functools.lru_cache(maxsize=512)
def best(d: GradientDims, machine: Machine, gather: float = 1.0) -> tuple[float, Blocks]:
    """The least estimated seconds, and how to cut for that; ``gather``: the time to gather, as part of what is usual."""

    def seconds(b: Blocks) -> float:
        return costs.own_gradient_seconds(
            machine,
            pixels=d.pixels,
            run=d.out_width,
            band=b.rows * d.out_width,
            gathered=gather * b.gathered(d) / (b.rows * d.out_width),
            taps=d.taps,
            channels=d.channels,
            out_channels=d.out_channels,
            outer=b.outer,
            inner=b.inner,
            tasks=b.tasks(d),
            scratch=b.scratch(d),
        )

    return min(((seconds(b), b) for b in _cuts(d, machine)), key=lambda pair: pair[0])


class WeightsGradient:
    """Proposes our own gradients of the weights of dense convolutions."""

    def __init__(self, scope: Scope) -> None:
        self.scope = scope
        self.machine = scope.machine

    def propose(self, only: Collection[frozenset[Node]] | None = None) -> list[Candidate]:
        """All candidates; with ``only``, those for one of these sets of nodes."""
        found = []
        for node in self.scope.nodes(("conv_backward_weights",), only):
            if only is None or frozenset((node,)) in only:
                dims = self._dims(node)
                found += [] if dims is None else [self._candidate(node, dims)]
        return found

    def _dims(self, node: Node) -> GradientDims | None:
        """The integers, when the kernel takes this gradient."""
        g, x, dw = (self.scope.static(v) for v in (*node.inputs, node.output))
        a = node.attrs
        if x.rank not in (3, 4) or a["groups"] != 1 or any(p < 0 for pair in a["padding"] for p in pair):
            return None
        if any(t.layout != channels_last(x.rank) for t in (g, x)) or dw.layout != identity(x.rank):
            return None

        kernel, stride, dilation = two(sizes(dw)[2:], 1), two(tuple(a["stride"]), 1), two(tuple(a["dilation"]), 1)
        pad = two(tuple(p[0] for p in a["padding"]), 0)
        size, out = two(sizes(x)[2:], 1), two(sizes(g)[2:], 1)
        if kernel == (1, 1) and stride == (1, 1) and size == out:
            # Pixel by pixel: rows may be joined.
            join = max((j for j in range(1, size[0] + 1) if size[0] % j == 0 and size[1] * j <= LONGEST_ROW), default=1)
            size = out = (size[0] // join, size[1] * join)
        return GradientDims(sizes(x)[0], *size, sizes(x)[1], *out, sizes(g)[1], *kernel, *stride, *dilation, *pad)

    def _candidate(self, node: Node, real: GradientDims) -> Candidate:
        join = real.channels < JOINED_BELOW and real.taps > 1
        d = joined(real) if join else real
        seconds, b = best(d, self.machine, JOINED if join else 1.0)
        kernel, more = ("joined_weights_gradient", joined_from(real)) if join else ("weights_gradient", ())
        dims = (*vars(d).values(), d.out_channels, real.channels, b.outer, b.inner, b.rows, *more)
        return Candidate(
            nodes=(node,),
            inputs=node.inputs,
            outputs=node.outputs,
            seconds=seconds,
            reason=(
                f"own weights gradient{' of joined windows' if join else ''}, {b.tasks(d)} tasks of {b.outer} x {b.inner} "
                f"channels, {b.rows * d.out_width} pixels at a time"
            ),
            impl=BuiltinCall(kernel, dims, b.tasks(d), b.scratch(d), {0: G_STRIDE, 1: X_STRIDE}),
            proposer="x86",
            strided_in=(True, True),
            strided_out=(False,),
        )
