"""Attention and its gradients as cuDNN graphs, which never write the scores to memory: what they take, and their candidates.

cuDNN's user guide, "Scaled Dot-Product Attention", has the graphs, and what the frontend's ``sdpa`` and ``sdpa_backward`` take.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nnaccel_backend_cuda.cudnn_graphs import GraphCall, Operand, Plan, data_type
from nnaccel_backend_cuda.kernels import START
from nnaccel_core.ir import Node, TensorType, Value
from nnaccel_core.ir.types import ITEMSIZE
from nnaccel_core.select.candidate import Candidate

if TYPE_CHECKING:
    from nnaccel_backend_cuda.candidates import Proposer
    from nnaccel_backend_cuda.tuning import Tuner

#: Uids of a graph's tensors: operands of the forward pass, its results, and gradients.
Q, K, V, MASK, OUT, LSE, DO, DQ, DK, DV = range(1, 11)
#: For each operator, the uids of its inputs (but the mask), and of its results.
SIDES = {"sdpa": ((Q, K, V), (OUT, LSE)), "sdpa_backward": ((Q, K, V, OUT, LSE, DO), (DQ, DK, DV))}
#: Elements of a row of queries, keys or values: at most so many, in steps of so many.
WIDEST, STEP = 128, 8
#: Oldest compute capability with such graphs.
OLDEST = 80


@dataclass(frozen=True)
class AttentionSpec:
    """Attention, or its gradients.

    Attributes:
        op: ``"sdpa"`` or ``"sdpa_backward"``.
        operands: every tensor by its uid; each (batch, heads, positions, elements). Without `LSE` the forward pass leaves it out.
        dtype: of all but the log-sum-exp, which is float32. Scores and sums are float32 inside.
        scale: of the scores; causal: query i sees keys up to i.
    """

    op: str
    operands: tuple[tuple[int, Operand], ...]
    dtype: str
    scale: float
    causal: bool

    @property
    def flops(self) -> float:
        """Operations, a multiply-add counted as two."""
        by_uid = dict(self.operands)
        (b, h, rows, wide), keys, out = by_uid[Q].dims, by_uid[K].dims[2], by_uid[V].dims[3]
        return (2.0 if self.op == "sdpa" else 5.0) * b * h * rows * keys * (wide + out)

    @property
    def fenced(self) -> bool:
        return False

    def forbidden(self, notes: Any) -> list[str]:
        return []

    def nbytes(self) -> dict[int, int]:
        return {uid: (4 if uid == LSE else ITEMSIZE[self.dtype]) * o.span() for uid, o in self.operands}

    def build(self, cudnn: Any, handle: Any) -> Any:
        kind, real = data_type(cudnn, self.dtype), cudnn.data_type.FLOAT
        graph = cudnn.pygraph(io_data_type=kind, intermediate_data_type=real, compute_data_type=real, handle=handle)
        by_uid = dict(self.operands)
        given, results = SIDES[self.op]
        tensors: dict[int, Any] = {}
        for uid in (*given, MASK):
            if uid in by_uid:
                o = by_uid[uid]
                found = graph.tensor(
                    name=f"t{uid}", dim=list(o.dims), stride=list(o.strides), data_type=real if uid == LSE else kind
                )
                found.set_uid(uid)
                tensors[uid] = found
        more: dict[str, Any] = {"attn_scale": self.scale, "use_causal_mask": self.causal}
        if MASK in tensors:
            more["bias"] = tensors[MASK]
        if self.op == "sdpa":
            made = graph.sdpa(name="sdpa", q=tensors[Q], k=tensors[K], v=tensors[V], generate_stats=LSE in by_uid, **more)
        else:  # sums in one order, whatever threads do: training runs repeat
            made = graph.sdpa_backward(
                name="sdpa_backward", q=tensors[Q], k=tensors[K], v=tensors[V], o=tensors[OUT], dO=tensors[DO],
                stats=tensors[LSE], use_deterministic_algorithm=True, **more,
            )  # fmt: skip
        for uid, tensor in zip(results, made, strict=True):
            if uid in by_uid:
                o = by_uid[uid]
                tensor.set_output(True).set_data_type(real if uid == LSE else kind)
                tensor.set_dim(list(o.dims)).set_stride(list(o.strides)).set_uid(uid)
        return graph


def usable(node: Node, isa: str) -> bool:
    """Whether cuDNN has graphs for ``node``, as far as types tell: half precision, dense rows of some multiples of elements."""
    q, k, v = (x.type for x in node.inputs[:3])
    if q.dtype not in ("float16", "bfloat16") or q.rank != 4 or int(isa.removeprefix("sm_")) < OLDEST:
        return False
    wide = (q.shape[3], v.shape[3])
    if any(not isinstance(d, int) or d % STEP or not 0 < d <= WIDEST for d in wide):
        return False
    rest = node.inputs[len(SIDES[node.op][0]) :]
    return all(m.type.rank == 4 and m.shape[2:] == (q.shape[2], k.shape[2]) for m in rest)


def _operand(t: TensorType) -> Operand:
    return Operand(tuple(map(int, t.shape)), tuple(map(int, t.strides())))  # type: ignore[arg-type]


def propose(p: Proposer, node: Node, tuner: Tuner) -> list[Candidate]:
    """The candidate for ``node``, if cuDNN has a plan for it."""
    if p.options.numerics == "strict" or not usable(node, p.machine.isa):
        return []
    if p.only is not None and frozenset((node,)) not in p.only:
        return []
    given, results = SIDES[node.op]
    uids = (*given, MASK)[: len(node.inputs)]
    wanted = [(uid, v) for uid, v in zip(results, node.outputs, strict=True) if uid != LSE or p.uses.get(v) or v in p.results]
    named: list[tuple[int, Value]] = [*zip(uids, node.inputs, strict=True), *wanted]
    if any(p.static(v).layout[-1] != 3 for _, v in named):
        return []
    spec = AttentionSpec(
        node.op, tuple((uid, _operand(p.static(v))) for uid, v in named), p.static(node.inputs[0]).dtype,
        float(node.attrs["scale"]), bool(node.attrs["causal"]),
    )  # fmt: skip
    (plan,) = tuner.plans([spec], p.options.tuning_seconds)
    if not isinstance(plan, Plan):
        return []
    return [
        Candidate(
            nodes=(node,),
            inputs=node.inputs,
            outputs=tuple(v for _, v in wanted),
            seconds=plan.seconds + START,
            reason=f"cuDNN {node.op} ({plan.name})",
            impl=GraphCall(spec, (*uids, *(uid for uid, _ in wanted))),
            proposer="cuda",
        )
    ]
