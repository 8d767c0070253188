"""Convolutions with their epilogues, and gradients of convolutions, as cuDNN graphs, through the cuDNN frontend. Their plans
are chosen in `tuning`.

Fused graphs are mostly faster than separate calls, but not always, and cuDNN's first plan is not always its fastest (seen on an
H200: one float32 1x1 case), so plans are timed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from nnaccel_backend_cuda.cudnn_graphs import Operand, data_type
from nnaccel_core.ir.types import ITEMSIZE

#: Uids of a graph's tensors; residuals count up from the last.
X, W, BIAS, Y, RESIDUAL = 1, 2, 3, 4, 5


@dataclass(frozen=True)
class ConvSpec:
    """A convolution and its epilogue, or a gradient of a convolution.

    Attributes:
        x, w, y: the convolution's input, weights and result, or their gradients; which of them is computed, ``result`` says.
        result: the uid of what is computed: `Y` for the convolution itself, `X` and `W` for the gradients of its operands.
        bias: whether a float32 bias per output channel is added first.
        steps: ``("add",)`` (the next of ``residuals``), ``("relu",)``, ``("silu",)`` and the like.
        padding: (before, after) per spatial axis.
        exact: float32 products in full float32, not TF32; no Winograd under ``strict``.
    """

    x: Operand
    w: Operand
    y: Operand
    dtype: str
    padding: tuple[tuple[int, int], ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    bias: bool
    steps: tuple[tuple[Any, ...], ...]
    residuals: tuple[Operand, ...]
    exact: bool
    strict: bool
    result: int = Y

    @property
    def flops(self) -> float:
        """Operations, a multiply-add counted as two."""
        return 2.0 * math.prod(self.y.dims) * math.prod(self.w.dims[1:])

    @property
    def fenced(self) -> bool:
        return bool(self.residuals)

    def forbidden(self, notes: Any) -> list[str]:
        names = ["REDUCED_PRECISION_REDUCTION"]
        if self.exact and self.dtype == "float32":
            names += ["TENSOR_CORE", "DOWN_CONVERT_INPUTS"]
        if self.strict:
            names += [n for n in dir(notes) if n.startswith("WINOGRAD")]
        if self.result != Y:
            names.append("NONDETERMINISTIC")  # sums in whatever order threads arrive: no two training runs would be alike
        return names

    def nbytes(self) -> dict[int, int]:
        found = {X: self.x, W: self.w, Y: self.y} | {RESIDUAL + i: r for i, r in enumerate(self.residuals)}
        sizes = {uid: ITEMSIZE[self.dtype] * operand.span() for uid, operand in found.items()}
        return sizes | ({BIAS: 4 * self.w.dims[0]} if self.bias else {})

    def build(self, cudnn: Any, handle: Any) -> Any:
        kind, real = data_type(cudnn, self.dtype), cudnn.data_type.FLOAT
        graph = cudnn.pygraph(io_data_type=kind, intermediate_data_type=real, compute_data_type=real, handle=handle)

        def tensor(name: str, uid: int, operand: Operand) -> Any:
            found = graph.tensor(name=name, dim=list(operand.dims), stride=list(operand.strides), data_type=kind)
            found.set_uid(uid)
            return found

        window = {
            "pre_padding": [a for a, _ in self.padding],
            "post_padding": [b for _, b in self.padding],
            "stride": list(self.stride),
            "dilation": list(self.dilation),
            "compute_data_type": real,
        }
        if self.result == X:
            y = graph.conv_dgrad(loss=tensor("dy", Y, self.y), filter=tensor("w", W, self.w), **window)
        elif self.result == W:
            y = graph.conv_wgrad(image=tensor("x", X, self.x), loss=tensor("dy", Y, self.y), **window)
        else:
            y = graph.conv_fprop(image=tensor("x", X, self.x), weight=tensor("w", W, self.w), **window)
        if self.bias:
            channels = self.w.dims[0]
            ones = (1,) * len(self.stride)
            bias = Operand((1, channels, *ones), (channels, 1, *(channels for _ in ones)))
            y = graph.bias(input=y, bias=tensor("bias", BIAS, bias))
        residual = 0
        for step in self.steps:
            if step[0] == "add":
                y = graph.add(a=y, b=tensor(f"residual{residual}", RESIDUAL + residual, self.residuals[residual]))
                residual += 1
            elif step[0] == "relu":
                y = graph.relu(input=y)
            else:
                y = {"sigmoid": graph.sigmoid, "tanh": graph.tanh, "silu": graph.swish}[step[0]](input=y)
        computed = {X: self.x, W: self.w, Y: self.y}[self.result]
        y.set_output(True).set_data_type(kind).set_dim(list(computed.dims)).set_stride(list(computed.strides))
        y.set_uid(self.result)
        return graph
