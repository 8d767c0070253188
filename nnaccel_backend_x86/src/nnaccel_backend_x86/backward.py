"""oneDNN's gradients of convolutions, with respect to their input and to their weights.

Both read and write channels-last images. The weights stay as the framework has them, row-major: the native runtime brings them
into the form that oneDNN chose inside the step, and the weights' gradient out of it (``Copy`` in ``native/descriptor.h``). They
change with every training step, so that a packed form that is kept would have to be made as often, and would take memory as well.
"""

from __future__ import annotations

import math
from collections.abc import Collection

from nnaccel_backend_x86 import costs
from nnaccel_backend_x86.candidates import Draft, settle
from nnaccel_backend_x86.onednn import (
    DATA_GRADIENT,
    DIFF_DST,
    DIFF_SRC,
    DIFF_WEIGHTS,
    SRC,
    WEIGHTS,
    WEIGHTS_GRADIENT,
    Md,
    Primitive,
    sizes,
    steps,
)
from nnaccel_backend_x86.scope import Scope
from nnaccel_core.ir import Node, TensorType
from nnaccel_core.select.candidate import Candidate


class Backward:
    """Proposes oneDNN's gradients of convolutions."""

    def __init__(self, scope: Scope) -> None:
        self.scope = scope
        self.machine = scope.machine

    def propose(self, only: Collection[frozenset[Node]] | None = None) -> list[Candidate]:
        """All that oneDNN runs without its reference code; with ``only``, those for one of these sets of nodes."""
        make = {"conv_backward_data": self._data, "conv_backward_weights": self._weights}
        nodes = (n for n in self.scope.nodes(make, only) if only is None or frozenset((n,)) in only)
        return settle([make[n.op](n) for n in nodes if all(p >= 0 for pair in n.attrs["padding"] for p in pair)])

    def _data(self, node: Node) -> Draft:
        g, w, dx = (self.scope.static(v) for v in (*node.inputs, node.output))
        return self._draft(node, DATA_GRADIENT, dx, w, g, (DIFF_DST, WEIGHTS), DIFF_SRC)

    def _weights(self, node: Node) -> Draft:
        g, x, dw = (self.scope.static(v) for v in (*node.inputs, node.output))
        return self._draft(node, WEIGHTS_GRADIENT, x, dw, g, (DIFF_DST, SRC), DIFF_WEIGHTS)

    def _draft(
        self, node: Node, kind: int, x: TensorType, w: TensorType, g: TensorType, arguments: tuple[int, int], result: int
    ) -> Draft:
        """A gradient of the convolution of ``x`` with ``w``; ``arguments`` are oneDNN's names of the operands."""
        copied = costs.reorder_seconds(self.machine, 4.0 * math.prod(sizes(w)))
        return Draft(
            nodes=(node,),
            inputs=node.inputs,
            arguments=arguments,
            output=node.output,
            make=lambda _, md: Primitive(kind, self.machine.cores, Md.of(x), Md.of(g), md, None, window(node)),
            batch=1,
            seconds=lambda impl: copied + self._seconds(node, x, w, g),
            weights=grouped(w, node.attrs["groups"]),
            result=result,
        )

    def _seconds(self, node: Node, x: TensorType, w: TensorType, g: TensorType) -> float:
        a = node.attrs
        return costs.gradient_seconds(self.machine, node.op, sizes(x), sizes(w), sizes(g), a["groups"])


def window(node: Node) -> tuple[tuple[int, ...], ...]:
    """`Primitive.window` of a convolution or one of its gradients."""
    a = node.attrs
    return (tuple(a["stride"]), tuple(a["dilation"]), *(tuple(p[side] for p in a["padding"]) for side in (0, 1)))


def grouped(w: TensorType, groups: int) -> Md:
    """Weights (O, C/groups, window...) where they lie, with an axis of groups in front where there are some."""
    dims, strides = sizes(w), steps(w)
    if groups == 1:
        return Md(dims, strides)
    of_group = dims[0] // groups
    return Md((groups, of_group, *dims[1:]), (strides[0] * of_group, *strides))
