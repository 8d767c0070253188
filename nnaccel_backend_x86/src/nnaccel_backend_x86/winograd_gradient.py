"""The gradient of the weights of a 3x3 convolution by the transpose of Winograd's F(4x4, 3x3): ``native/winograd_gradient.cpp``.

36 products for each 4 x 4 tile of the result's gradient and pair of channels take the place of 144 (Lavin and Gray 2015, "Fast
Algorithms for Convolutional Neural Networks", section 4; the weights' gradient is the transpose of its bilinear form).
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass

from nnaccel_backend_x86 import costs
from nnaccel_backend_x86.builtin import BuiltinCall
from nnaccel_backend_x86.convolution import PANEL
from nnaccel_backend_x86.weights_gradient import G_STRIDE, INNER, OUTER, X_STRIDE, Blocks, GradientDims, WeightsGradient
from nnaccel_core.api import Machine
from nnaccel_core.ir import Node
from nnaccel_core.select.candidate import Candidate

#: Tiles of a block that are weighed against each other: fewer load and store their sums too often.
TILES = (16, 24, 32, 48, 64, 96)
#: A task may work on this many times the second-level cache: each piece is used for long before the next one.
MOST_SCRATCH = 6
POSITIONS = 36


@dataclass(frozen=True)
class Cut:
    """How the work is cut: ``outer`` output by ``inner`` input channels a task (a multiple of `PANEL`), ``tiles`` at a time."""

    outer: int
    inner: int
    tiles: int


def tiles_of(d: GradientDims) -> int:
    """Tiles of 4 x 4 pixels of the result, those at the edges included."""
    return d.images * -(-d.out_height // 4) * -(-d.out_width // 4)


def exact_blocks(d: GradientDims, c: Cut) -> Blocks:
    """How `weights_gradient` computes a task again: row by row, in the least memory."""
    return Blocks(c.outer, c.inner, 1)


def scratch(d: GradientDims, c: Cut) -> int:
    """Bytes a thread needs: sums, transformed tiles of g and of x, a row of zeros."""
    row = -(-c.outer // PANEL) * PANEL
    floats = POSITIONS * (c.outer * c.inner + c.tiles * (row + c.inner) + 3 * PANEL) + max(row, c.inner)
    return max(4 * floats, exact_blocks(d, c).scratch(d))


def _cuts(d: GradientDims, machine: Machine) -> Iterator[Cut]:
    panels, tiles = -(-d.channels // PANEL) * PANEL, tiles_of(d)
    outers, inners = {min(k, d.out_channels) for k in OUTER}, {min(k, panels) for k in INNER}
    counts = {-(-tiles // -(-tiles // t)) for t in TILES}
    least = Cut(min(outers), min(inners), min(counts))
    for c in (Cut(o, i, t) for o in sorted(outers) for i in sorted(inners) for t in sorted(counts)):
        if c == least or scratch(d, c) <= MOST_SCRATCH * machine.l2:
            yield c


@functools.lru_cache(maxsize=512)
def best(d: GradientDims, machine: Machine) -> tuple[float, Cut]:
    """The least estimated seconds, and how to cut for that."""

    def seconds(c: Cut) -> float:
        return costs.winograd_gradient_seconds(
            machine,
            tiles=tiles_of(d),
            block=c.tiles,
            pixels=d.pixels,
            channels=d.channels,
            out_channels=d.out_channels,
            outer=c.outer,
            inner=c.inner,
            tasks=exact_blocks(d, c).tasks(d),
            scratch=scratch(d, c),
        )

    return min(((seconds(c), c) for c in _cuts(d, machine)), key=lambda pair: pair[0])


class WinogradGradient(WeightsGradient):
    """Proposes these gradients. Not for ``numerics="strict"``."""

    def _dims(self, node: Node) -> GradientDims | None:
        d = super()._dims(node)
        fits = d is not None and (d.kernel_height, d.kernel_width, d.stride_y, d.stride_x) == (3, 3, 1, 1)
        return d if fits and d is not None and d.dilation_y == d.dilation_x == 1 else None

    def _candidate(self, node: Node, d: GradientDims) -> Candidate:
        seconds, c = best(d, self.machine)
        tasks = exact_blocks(d, c).tasks(d)
        dims = (*vars(d).values(), d.out_channels, d.channels, c.outer, c.inner, exact_blocks(d, c).rows, c.tiles)
        return Candidate(
            nodes=(node,),
            inputs=node.inputs,
            outputs=node.outputs,
            seconds=seconds,
            reason=f"own Winograd weights gradient, {tasks} tasks of {c.outer} x {c.inner} channels, {c.tiles} tiles at a time",
            impl=BuiltinCall("winograd_gradient", dims, tasks, scratch(d, c), {0: G_STRIDE, 1: X_STRIDE}),
            proposer="x86",
            strided_in=(True, True),
            strided_out=(False,),
        )
