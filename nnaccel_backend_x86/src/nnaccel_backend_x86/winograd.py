"""Winograd convolutions of our own, depth first: ``native/winograd.cpp``.

F(m x m, 3x3) makes m x m pixels of the output from (m + 2) x (m + 2) of the input with (m + 2)^2 products per pair of channels
instead of 9 m^2: 4 times fewer for m = 4, 2.25 times for m = 2 (Lavin and Gray 2015, "Fast Algorithms for Convolutional Neural
Networks"). Each task takes a block of tiles through all of it, while its data stay in the second-level cache of one core. The
weights are transformed as they are needed, so that they take no more memory than those of any other convolution.
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from nnaccel_backend_x86 import costs
from nnaccel_backend_x86.builtin import BuiltinCall
from nnaccel_backend_x86.convolution import PANEL, Convolution, convolution, panels_pack
from nnaccel_backend_x86.products import Finish, Products, float_bits
from nnaccel_core.api import Machine
from nnaccel_core.ir import Node, Value
from nnaccel_core.select.candidate import Candidate

#: Tiles and channels of a block that are weighed against each other. Fewer tiles repeat the transform of the weights too often.
#: Most of the error comes from adding up, and longer sums in one go have more of it: 1.36 times as much in resnet18 with 256.
TILES = (8, 12, 16, 24, 36, 48, 72, 96)
INNER = (32, 64)
OUTER = (16, 32, 64, 128, 256)
#: A task may work on this many times the second-level cache: each piece is used for long before the next one.
MOST_SCRATCH = 4


@dataclass(frozen=True)
class Shape:
    """A 3x3 convolution with stride 1: ``height`` and ``width`` of the images, ``pad_y`` and ``pad_x`` in front of them."""

    images: int
    height: int
    width: int
    channels: int
    out_height: int
    out_width: int
    out_channels: int
    pad_y: int
    pad_x: int

    def tiles(self, m: int) -> int:
        """Tiles of m x m pixels, those at the edges included."""
        return self.images * -(-self.out_height // m) * -(-self.out_width // m)


@dataclass(frozen=True)
class Blocks:
    """How the work is cut: ``tiles`` of m x m pixels and ``outer`` output channels a task, ``inner`` input channels at a time."""

    m: int
    tiles: int
    inner: int
    outer: int

    def tasks(self, s: Shape) -> int:
        return -(-s.tiles(self.m) // self.tiles) * -(-s.out_channels // self.outer)

    def scratch(self) -> int:
        """Bytes a thread needs: see the kernel's comment."""
        positions, row = (self.m + 2) ** 2, -(-self.inner // PANEL) * PANEL
        tiles = self.tiles * row + PANEL + 2 * row * (PANEL + 1)
        return 4 * (positions * tiles + self.tiles * (positions * self.outer + PANEL) + row)


@dataclass(frozen=True)
class WinogradDims:
    """The integers of kernel ``winograd``, in the order of its C++ structure ``Dims``."""

    m: int
    images: int
    height: int
    width: int
    channels: int
    out_height: int
    out_width: int
    out_channels: int
    pad_y: int
    pad_x: int
    tiles: int
    inner: int
    outer: int
    in_stride: int
    out_stride: int
    residual_stride: int
    has_bias: int
    has_residual: int
    activation: int
    alpha: int
    beta: int


#: Entries of `WinogradDims` that take an operand's distance between pixels.
IN_STRIDE, OUT_STRIDE, RESIDUAL_STRIDE = 13, 14, 15


def _cuts(s: Shape, machine: Machine) -> Iterator[Blocks]:
    """The ways to cut that are weighed."""
    outputs = -(-s.out_channels // PANEL) * PANEL
    inners = sorted({min(k, s.channels) for k in INNER})
    outers = sorted({min(k, outputs) for k in OUTER})
    for m in (4, 2):
        tiles = s.tiles(m)
        # Blocks of about these sizes, as many as there are cores for.
        counts = {-(-tiles // t) for t in TILES} | {1}
        counts |= {-(-n // machine.cores) * machine.cores for n in counts if n > 1}
        for t in sorted({-(-tiles // n) for n in counts}):
            for b in (Blocks(m, t, k, o) for k in inners for o in outers):
                if t <= TILES[0] or (t <= TILES[-1] and b.scratch() <= MOST_SCRATCH * machine.l2):
                    yield b


@functools.lru_cache(maxsize=512)
def best(s: Shape, machine: Machine, residual: bool) -> tuple[float, Blocks]:
    """The least estimated seconds, and how to cut for that."""

    def seconds(b: Blocks) -> float:
        return costs.winograd_seconds(
            machine,
            m=b.m,
            tiles=b.tiles,
            inner=b.inner,
            outer=b.outer,
            tasks=b.tasks(s),
            channels=s.channels,
            out_channels=s.out_channels,
            read=4 * s.images * s.height * s.width * s.channels,
            written=4 * s.images * s.out_height * s.out_width * s.out_channels * (2 if residual else 1),
            scratch=b.scratch(),
        )

    return min(((seconds(b), b) for b in _cuts(s, machine)), key=lambda pair: pair[0])


class Winograd(Products):
    """Proposes Winograd convolutions. Not for ``numerics="strict"``."""

    def propose(self, only: Collection[frozenset[Node]] | None = None) -> list[Candidate]:
        """All candidates; with ``only``, those for one of these sets of nodes."""
        found: list[Candidate] = []
        for node in self.scope.nodes(("conv", "conv_backward_data"), only):
            applies = self._shape(node)
            if applies is not None:
                finishes = (f for f in self.finishes(node) if only is None or frozenset((node, *f.nodes)) in only)
                found += [self._winograd(node, *applies, f) for f in finishes]
        return found

    def _shape(self, node: Node) -> tuple[Convolution, Shape] | None:
        """The convolution, when Winograd's algorithm applies to it."""
        c = convolution(self.scope, node)
        if c is None or node.inputs[0].type.rank != 4 or c.window != (3, 3) or c.stride != (1, 1) or c.dilation != (1, 1):
            return None
        return c, Shape(c.images, *c.size, c.channels, *c.out, c.columns, *c.pad)

    def _winograd(self, node: Node, c: Convolution, s: Shape, f: Finish) -> Candidate:
        seconds, b = best(s, self.machine, f.residual is not None)
        bias: Value | None = node.inputs[2] if len(node.inputs) == 3 else None
        number, alpha, beta = f.activation
        dims = WinogradDims(
            b.m, s.images, s.height, s.width, s.channels, s.out_height, s.out_width, s.out_channels, s.pad_y, s.pad_x,
            b.tiles, b.inner, b.outer, s.channels, s.out_channels, s.out_channels,
            int(bias is not None), int(f.residual is not None), number, float_bits(alpha), float_bits(beta),
        )  # fmt: skip
        w = node.inputs[1]
        inputs = (node.inputs[0], w, *(v for v in (bias, f.residual) if v is not None))
        last = len(inputs) - 1
        rows = {0: IN_STRIDE, len(inputs): OUT_STRIDE, **({last: RESIDUAL_STRIDE} if f.residual is not None else {})}
        nodes = (node, *f.nodes)
        return Candidate(
            nodes=nodes,
            inputs=inputs,
            outputs=(f.output,),
            seconds=seconds,
            reason=(
                f"own Winograd F({b.m}x{b.m}, 3x3) {' + '.join(n.op for n in nodes)}, "
                f"{b.tasks(s)} tasks of {b.tiles} tiles, {b.inner} to {b.outer} channels"
            ),
            impl=BuiltinCall("winograd", tuple(vars(dims).values()), b.tasks(s), b.scratch(), rows),
            proposer="x86",
            strided_in=tuple(i in rows for i in range(len(inputs))),
            strided_out=(True,),
            # As the other kernels of our own take them: one packed form whatever is chosen at a size.
            packs=(panels_pack(w, c.panels()),),
            inplace=((0, last),) if f.residual is not None else (),
        )
