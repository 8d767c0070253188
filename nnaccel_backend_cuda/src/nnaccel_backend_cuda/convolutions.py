"""Convolutions with their epilogues, and gradients of convolutions, as cuDNN graphs, through the cuDNN frontend. Their plans
are chosen in `tuning`.

Fused graphs are mostly faster than separate calls, but not always, and cuDNN's first plan is not always its fastest (seen on an
H200: one float32 1x1 case), so plans are timed.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nnaccel_core.errors import ToolchainError

INSTALL = "pip install nvidia-cudnn-frontend nvidia-cudnn-cu13 (or nvidia-cudnn-cu12)"
#: Uids of a graph's tensors; residuals count up from the last.
X, W, BIAS, Y, RESIDUAL = 1, 2, 3, 4, 5

_lock = threading.Lock()
_module: Any = None


def frontend() -> Any:
    """The module ``cudnn``.

    Raises:
        ToolchainError: it, or cuDNN itself, is missing.
    """
    global _module
    with _lock:
        if _module is None:
            try:
                import cudnn

                cudnn.backend_version()
            except Exception as e:
                raise ToolchainError(f"cuDNN's Python frontend is not usable ({e}); install it with: {INSTALL}") from e
            _module = cudnn
        return _module


def version() -> str:
    """cuDNN's version and the frontend's."""
    found = frontend()
    return f"{found.backend_version()} {getattr(found, '__version__', '')}"


@dataclass(frozen=True)
class Operand:
    """A tensor of a graph: sizes and element strides, both N, C, spatial."""

    dims: tuple[int, ...]
    strides: tuple[int, ...]


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


def _data_type(cudnn: Any, dtype: str) -> Any:
    kinds = cudnn.data_type
    return {"float32": kinds.FLOAT, "float16": kinds.HALF, "bfloat16": kinds.BFLOAT16}[dtype]


def build_graph(spec: ConvSpec, handle: Any) -> Any:
    """The unplanned cuDNN graph of ``spec``."""
    cudnn = frontend()
    kind, real = _data_type(cudnn, spec.dtype), cudnn.data_type.FLOAT
    graph = cudnn.pygraph(io_data_type=kind, intermediate_data_type=real, compute_data_type=real, handle=handle)

    def tensor(name: str, uid: int, operand: Operand, data_type: Any = kind) -> Any:
        found = graph.tensor(name=name, dim=list(operand.dims), stride=list(operand.strides), data_type=data_type)
        found.set_uid(uid)
        return found

    window = {
        "pre_padding": [a for a, _ in spec.padding],
        "post_padding": [b for _, b in spec.padding],
        "stride": list(spec.stride),
        "dilation": list(spec.dilation),
        "compute_data_type": real,
    }
    if spec.result == X:
        y = graph.conv_dgrad(loss=tensor("dy", Y, spec.y), filter=tensor("w", W, spec.w), **window)
    elif spec.result == W:
        y = graph.conv_wgrad(image=tensor("x", X, spec.x), loss=tensor("dy", Y, spec.y), **window)
    else:
        y = graph.conv_fprop(image=tensor("x", X, spec.x), weight=tensor("w", W, spec.w), **window)
    if spec.bias:
        channels = spec.w.dims[0]
        ones = (1,) * len(spec.stride)
        bias = Operand((1, channels, *ones), (channels, 1, *(channels for _ in ones)))
        y = graph.bias(input=y, bias=tensor("bias", BIAS, bias))
    residual = 0
    for step in spec.steps:
        if step[0] == "add":
            y = graph.add(a=y, b=tensor(f"residual{residual}", RESIDUAL + residual, spec.residuals[residual]))
            residual += 1
        elif step[0] == "relu":
            y = graph.relu(input=y)
        else:
            y = {"sigmoid": graph.sigmoid, "tanh": graph.tanh, "silu": graph.swish}[step[0]](input=y)
    computed = {X: spec.x, W: spec.w, Y: spec.y}[spec.result]
    y.set_output(True).set_data_type(kind).set_dim(list(computed.dims)).set_stride(list(computed.strides))
    y.set_uid(spec.result)
    return graph


def plan_modes(cudnn: Any) -> list[Any]:
    """The heuristics that order the plans."""
    return [cudnn.heur_mode.A, cudnn.heur_mode.FALLBACK]


def restrict(graph: Any, spec: ConvSpec) -> None:
    """Leave out plans whose numbers ``spec`` forbids."""
    notes = frontend().numerical_note
    names = []
    if spec.exact and spec.dtype == "float32":
        names += ["TENSOR_CORE", "DOWN_CONVERT_INPUTS"]
    if spec.strict:
        names += [n for n in dir(notes) if n.startswith("WINOGRAD")]
    names.append("REDUCED_PRECISION_REDUCTION")
    if spec.result != Y:
        names.append("NONDETERMINISTIC")  # sums in whatever order threads arrive: no two training runs would be alike
    found = [getattr(notes, n) for n in names if hasattr(notes, n)]
    if found:
        graph.deselect_numeric_notes(found)


class Plan:
    """A built plan, ready to run.

    Attributes:
        seconds: measured, or estimated where not ``timed``; workspace: bytes.
    """

    def __init__(self, spec: ConvSpec, graph: Any, workspace: int, seconds: float, name: str, timed: bool = True) -> None:
        self.spec, self.graph, self.workspace, self.seconds, self.name = spec, graph, workspace, seconds, name
        self.timed = timed

    def run(self, pointers: Mapping[int, int], workspace: int, handle: Any) -> None:
        """Enqueue on the handle's stream; ``pointers`` by uid."""
        self.graph.execute(dict(pointers), workspace, handle=handle)


def operands(spec: ConvSpec) -> dict[int, Operand]:
    """All tensors of the graph by uid."""
    found = {X: spec.x, W: spec.w, Y: spec.y}
    if spec.bias:
        found[BIAS] = Operand((spec.w.dims[0],), (1,))
    return found | {RESIDUAL + i: r for i, r in enumerate(spec.residuals)}


def short(e: BaseException) -> str:
    """An error in one line."""
    return " ".join(str(e).split())[:300] or type(e).__name__
