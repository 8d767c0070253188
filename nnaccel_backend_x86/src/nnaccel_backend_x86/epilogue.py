"""Which element-wise layers after a product a library primitive can take along as post-ops."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from nnaccel_backend_x86.onednn import (
    CLIP,
    GELU_ERF,
    GELU_TANH,
    HARDSWISH,
    LOGISTIC,
    RELU,
    SWISH,
    TANH,
    BinaryAdd,
    Eltwise,
    Md,
    PostOp,
)
from nnaccel_core.ir import Env, Node, TensorType, Value

#: A chain longer than this gains nothing more: the rest is a kernel of its own.
MOST_POST_OPS = 4

ACTIVATIONS: Mapping[str, Callable[[Node], Eltwise]] = {
    "relu": lambda n: Eltwise(RELU),
    "leaky_relu": lambda n: Eltwise(RELU, float(n.attrs["alpha"])),
    "clip": lambda n: Eltwise(CLIP, float(n.attrs["min"]), float(n.attrs["max"])),
    "sigmoid": lambda n: Eltwise(LOGISTIC),
    "tanh": lambda n: Eltwise(TANH),
    "silu": lambda n: Eltwise(SWISH, 1.0),
    "hardswish": lambda n: Eltwise(HARDSWISH, 1.0 / 6.0, 0.5),
    "gelu": lambda n: Eltwise(GELU_TANH if n.attrs.get("approximate", "none") == "tanh" else GELU_ERF),
}


@dataclass(frozen=True)
class Epilogue:
    """A chain of single-use element-wise nodes after a product.

    Attributes:
        output: what the last of ``nodes`` writes (the product's own output when there is none).
        operands: ``(index of the post-op, added value)`` for each ``add``.
    """

    nodes: tuple[Node, ...]
    output: Value
    post: tuple[PostOp, ...]
    operands: tuple[tuple[int, Value], ...]


def broadcast_type(operand: TensorType, out: TensorType) -> TensorType | None:
    """``operand`` with leading axes of extent 1, when it broadcasts to ``out`` and lies in memory in that order."""
    missing = out.rank - operand.rank
    if missing < 0:
        return None
    shape = (1,) * missing + operand.shape
    if any(d not in (1, o) for d, o in zip(shape, out.shape, strict=True)):
        return None
    layout = (*range(missing), *(a + missing for a in operand.layout))
    return TensorType(shape, operand.dtype, layout)


def chains(
    product: Node,
    uses: Mapping[Value, list[Node]],
    results: set[Value],
    env: Env,
    view: Callable[[TensorType], Md | None],
    strict: bool = False,
) -> list[Epilogue]:
    """All epilogues of ``product`` from none to the longest, each one node longer than the one before.

    ``view`` gives the memory descriptor of an operand (broadcast to the product's rank) as the primitive sees it, or
    None when it cannot. ``strict`` leaves what does not keep NaN (`Eltwise.drops_nan`) to generated kernels.
    """
    found = [Epilogue((), product.output, (), ())]
    while len(found) <= MOST_POST_OPS:
        last = found[-1]
        readers = uses.get(last.output, [])
        if len(readers) != 1 or last.output in results:
            break
        (node,) = readers
        step: PostOp
        operands = last.operands
        if node.op in ACTIVATIONS:
            step = activation = ACTIVATIONS[node.op](node)
            if strict and activation.drops_nan:
                break
        elif node.op == "add" and len(node.inputs) == 2 and node.inputs[0] is not node.inputs[1]:
            other = node.inputs[1] if node.inputs[0] is last.output else node.inputs[0]
            whole = last.output.type.concrete(env)
            fitted = broadcast_type(other.type.concrete(env), whole)
            if fitted is None or fitted.dtype != "float32" or node.output.type.concrete(env).shape != whole.shape:
                break
            md = view(fitted)
            if md is None:
                break
            step = BinaryAdd(md)
            operands = (*operands, (len(last.post), other))
        else:
            break
        found.append(Epilogue((*last.nodes, node), node.output, (*last.post, step), operands))
    return found
