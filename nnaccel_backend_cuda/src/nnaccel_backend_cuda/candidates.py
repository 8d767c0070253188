"""What the libraries can run of a graph: convolutions and products with epilogues, gradients of convolutions, attention."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nnaccel_backend_cuda import attention, gathers, pools
from nnaccel_backend_cuda.convolutions import BIAS, RESIDUAL, ConvSpec, W, X, Y
from nnaccel_backend_cuda.cudnn_graphs import GraphCall, Operand, Plan
from nnaccel_backend_cuda.kernels import START
from nnaccel_backend_cuda.products import ProductSpec
from nnaccel_backend_cuda.stem_candidates import StemProposer
from nnaccel_backend_cuda.tuning import Tuner
from nnaccel_core.api import Machine
from nnaccel_core.ir import Env, Graph, Node, TensorType, Value, channels_last, identity
from nnaccel_core.options import Options
from nnaccel_core.select.candidate import Candidate, Pack

DTYPES = ("float32", "float16", "bfloat16")
#: A chain longer than this gains nothing more: the rest is a kernel of its own.
MOST_STEPS = 3
#: Name of the one packed form: convolution weights with their input channels innermost.
CHANNELS_LAST = "channels-last"
#: Part of the peak of plain float32 that cuBLASLt reaches; tensor cores are this much faster than that peak.
EFFICIENCY = 0.6
TENSOR_CORES = {"float32": 6.0, "float16": 12.0, "bfloat16": 12.0}


#: Operators that are gradients of a convolution: what they compute, and the names of their operands and result.
_GRADIENTS = {"conv_backward_data": (X, (Y, W, X)), "conv_backward_weights": (W, (Y, X, W))}


@dataclass(frozen=True)
class ProductCall:
    """``Candidate.impl`` of a product: inputs are a, b and, where there is one, the bias."""

    spec: ProductSpec


@dataclass(frozen=True)
class Chain:
    """Single-use element-wise nodes after a product, and what cuDNN is to do for them."""

    nodes: tuple[Node, ...]
    output: Value
    steps: tuple[tuple[Any, ...], ...]
    residuals: tuple[Value, ...]


@dataclass(frozen=True, eq=False)
class Draft:
    """A convolution with its epilogue, or a gradient of one, that has no plan yet."""

    node: Node
    chain: Chain
    spec: ConvSpec

    @property
    def addition(self) -> Node | None:
        """The first addition of the epilogue."""
        return next((n for n in self.chain.nodes if n.op == "add"), None)


def spared(drafts: Sequence[Draft]) -> list[Draft]:
    """Drafts that need no plan as long as another one has: where both operands of an addition are convolutions' results, one
    convolution takes it. Fused additions are compiled, so the one is preferred whose graph other layers need too; else the later.
    """
    by_addition: dict[Node, list[Draft]] = {}
    wanted: dict[ConvSpec, set[Node]] = {}
    for d in drafts:
        if d.addition is not None:
            by_addition.setdefault(d.addition, []).append(d)
            wanted.setdefault(d.spec, set()).add(d.addition)
    spare = []
    for rivals in by_addition.values():
        convolutions = list(dict.fromkeys(d.node for d in rivals))
        if len(convolutions) > 1:
            taker = max(convolutions, key=lambda c: max(len(wanted[d.spec]) for d in rivals if d.node is c))
            if all(len(wanted[d.spec]) == 1 for d in rivals):
                taker = convolutions[-1]
            spare += [d for d in rivals if d.node is not taker]
    return spare


class Proposer:
    """Proposes candidates for one graph at one binding of its symbols."""

    def __init__(
        self,
        graph: Graph,
        env: Env,
        machine: Machine,
        options: Options,
        tuner: Tuner | None,
        only: Collection[frozenset[Node]] | None = None,
    ) -> None:
        """``tuner``: None where cuDNN is missing; ``only``: sets of nodes to look at."""
        self.only = only
        self.graph, self.env, self.machine, self.options, self.tuner = graph, env, machine, options, tuner
        self.uses, self.producers = graph.uses(), graph.producers()
        self.results = set(graph.results())
        self.parametric = set(graph.params)

    def static(self, v: Value) -> TensorType:
        return v.type.concrete(self.env)

    def only_reader(self, v: Value) -> Node | None:
        """The one node that reads ``v``; None where there are others, or the caller gets it."""
        readers = self.uses.get(v, [])
        return readers[0] if len(readers) == 1 and v not in self.results else None

    def is_zero(self, v: Value) -> bool:
        """Whether ``v`` is a constant of zeros, or one in another type."""
        node = self.producers.get(v)
        if node is not None and node.op in ("cast", "expand"):
            return self.is_zero(node.inputs[0])
        return node is not None and node.op == "constant" and not np.any(node.attrs["value"])

    def propose(self) -> list[Candidate]:
        """All usable candidates. Convolutions' plans are tuned here, so that their costs are measured."""
        drafts: list[Draft] = []
        found: list[Candidate] = []
        few = StemProposer(self)
        for node in self.graph.nodes:
            if node.op in ("conv", "conv_backward_weights"):
                found += few.propose(node)
            if node.op in gathers.OPS:
                found += gathers.propose(self, node)
            if node.op == "max_pool_backward":
                found += pools.propose(self, node)
            if any(self.static(v).dtype not in DTYPES or 0 in self.static(v).shape for v in (*node.inputs, *node.outputs)):
                continue
            if node.op in _GRADIENTS and self.tuner is not None:
                if (self.only is None or frozenset((node,)) in self.only) and (spec := self._gradient_spec(node)):
                    drafts.append(Draft(node, Chain((), node.output, (), ()), spec))
            elif node.op in attention.SIDES and self.tuner is not None:
                found += attention.propose(self, node, self.tuner)
            elif node.op == "conv" and self.tuner is not None:
                wanted = [c for c in self._chains(node) if self.only is None or frozenset((node, *c.nodes)) in self.only]
                drafts += [Draft(node, chain, spec) for chain in wanted if (spec := self._conv_spec(node, chain))]
            elif node.op == "matmul":
                found += self._products(node)
        spare = spared(drafts)
        served: set[Node] = set()  # additions that some convolution can take
        for group in ([d for d in drafts if d not in spare], spare):
            left = [d for d in group if d.addition not in served]
            plans = self.tuner.plans([d.spec for d in left], self.options.tuning_seconds) if self.tuner and left else ()
            for d, plan in zip(left, plans, strict=True):
                if isinstance(plan, Plan):
                    found.append(self._conv(d.node, d.chain, d.spec, plan))
                    if group is not spare and d.addition is not None:
                        served.add(d.addition)
        return found

    # --- epilogues -----------------------------------------------------------------------------------------------

    def _chains(self, node: Node) -> list[Chain]:
        """The epilogues worth a plan: none, and the longest; in between, the one before an addition, which its other operand's
        producer may take instead."""
        chains = list(self._all_chains(node))
        kept = {0, len(chains) - 1}
        for i, c in enumerate(chains):
            if c.steps and c.steps[-1][0] == "add":
                kept.add(i - 1)
        return [chains[i] for i in sorted(kept)]

    def _all_chains(self, node: Node) -> Iterator[Chain]:
        chain = Chain((), node.output, (), ())
        yield chain
        while len(chain.nodes) < MOST_STEPS:
            reader = self.only_reader(chain.output)
            if reader is None:
                return
            step = self._step(reader, chain.output)
            if step is None:
                return
            kind, residual = step
            more = (residual,) if residual is not None else ()
            chain = Chain((*chain.nodes, reader), reader.output, (*chain.steps, kind), (*chain.residuals, *more))
            yield chain

    def _step(self, node: Node, value: Value) -> tuple[tuple[Any, ...], Value | None] | None:
        # No clip: cuDNN's own takes twice as long as the convolution alone (seen on an H100: 24 -> 144 channels, 216 to 107 us),
        # while a generated depthwise kernel clips what it reads at no cost.
        strict = self.options.numerics == "strict"
        if node.op == "relu" and not strict:
            return ("relu",), None
        if node.op in ("sigmoid", "tanh", "silu"):
            return (node.op,), None
        if node.op == "add" and len(node.inputs) == 2 and node.inputs[0] is not node.inputs[1]:
            other = node.inputs[1] if node.inputs[0] is value else node.inputs[0]
            a, b = self.static(other), self.static(node.output)
            if a.shape == b.shape == self.static(value).shape and a.layout == b.layout:
                return ("add",), other
        return None

    # --- convolution ---------------------------------------------------------------------------------------------

    def _operand(self, v: Value) -> Operand:
        t = self.static(v)
        if t.rank in (4, 5) and t.same_memory(channels_last(t.rank)):
            t = t.with_layout(channels_last(t.rank))  # cuDNN tells the order of axes by strides, those of extent 1 too
        return Operand(tuple(map(int, t.shape)), tuple(map(int, t.strides())))  # type: ignore[arg-type]

    def _conv_spec(self, node: Node, chain: Chain) -> ConvSpec | None:
        a = node.attrs
        x, w, y = self.static(node.inputs[0]), self.static(node.inputs[1]), self.static(chain.output)
        rank = x.rank
        if rank not in (4, 5) or any(p < 0 for pair in a["padding"] for p in pair):
            return None
        if any(not t.same_memory(channels_last(rank)) for t in (x, y)):
            return None
        if not w.same_memory(channels_last(rank)) and node.inputs[1] not in self.parametric:
            return None  # only what is given once can be packed
        if a["groups"] > 1 and w.shape[1] == 1:
            return None  # depthwise: generated kernels move fewer bytes
        dims = tuple(map(int, w.shape))  # type: ignore[arg-type]
        last = TensorType(dims, w.dtype, channels_last(rank))
        return ConvSpec(
            x=self._operand(node.inputs[0]),
            w=Operand(dims, tuple(map(int, last.strides()))),  # type: ignore[arg-type]
            y=self._operand(chain.output),
            dtype=x.dtype,
            **self._window(node),
            bias=len(node.inputs) == 3,
            steps=chain.steps,
            residuals=tuple(self._operand(r) for r in chain.residuals),
        )

    def _window(self, node: Node) -> dict[str, Any]:
        """What a convolution's specification shares with those of its gradients."""
        a = node.attrs
        return {
            "padding": tuple(tuple(p) for p in a["padding"]),
            "stride": tuple(a["stride"]),
            "dilation": tuple(a["dilation"]),
            "exact": "conv" not in self.options.tf32,
            "strict": self.options.numerics == "strict",
        }

    def _gradient_spec(self, node: Node) -> ConvSpec | None:
        """Of a convolution's gradient."""
        values = (*node.inputs, node.output)
        rank = node.output.type.rank
        if rank not in (4, 5) or any(p < 0 for pair in node.attrs["padding"] for p in pair):
            return None
        if any(not self.static(v).same_memory(channels_last(rank)) for v in values):
            return None
        result, names = _GRADIENTS[node.op]
        by_name = dict(zip(names, map(self._operand, values), strict=True))
        return ConvSpec(
            x=by_name[X], w=by_name[W], y=by_name[Y], dtype=self.static(node.output).dtype, **self._window(node),
            bias=False, steps=(), residuals=(), result=result,
        )  # fmt: skip

    def _conv(self, node: Node, chain: Chain, spec: ConvSpec, plan: Plan) -> Candidate:
        if node.op in _GRADIENTS:
            _, names = _GRADIENTS[node.op]
            return Candidate(
                nodes=(node,),
                inputs=node.inputs,
                outputs=(node.output,),
                seconds=plan.seconds + START,
                reason=f"cuDNN {node.op} ({plan.name})",
                impl=GraphCall(spec, names),
                proposer="cuda",
            )
        uids = (X, W, *((BIAS,) if spec.bias else ()), *(RESIDUAL + i for i in range(len(chain.residuals))))
        weights = self.static(node.inputs[1])
        nbytes = int(np.prod(spec.w.dims)) * weights.itemsize
        pack = Pack(node.inputs[1], CHANNELS_LAST, nbytes)
        fused = " + ".join(("conv", *(n.op for n in chain.nodes)))
        return Candidate(
            nodes=(node, *chain.nodes),
            inputs=(*node.inputs, *chain.residuals),
            outputs=(chain.output,),
            seconds=plan.seconds + START * (2 if chain.residuals else 1),  # see `CudaBackend.fence`
            reason=f"cuDNN {fused} ({plan.name})",
            impl=GraphCall(spec, (*uids, Y)),
            proposer="cuda",
            packs=() if weights.same_memory(channels_last(weights.rank)) else (pack,),
        )

    # --- products ------------------------------------------------------------------------------------------------

    def _products(self, node: Node) -> list[Candidate]:
        found = []
        for chain in self._all_chains(node):
            spec = self._product_spec(node, chain)
            if spec is not None:
                found.append(self._product(node, chain, spec))
        return found

    def _product_spec(self, node: Node, chain: Chain) -> ProductSpec | None:
        a, b, y = self.static(node.inputs[0]), self.static(node.inputs[1]), self.static(chain.output)
        if any(not t.same_memory(identity(t.rank)) for t in (a, b, y)) or min(a.rank, b.rank) < 2 or len(chain.steps) > 1:
            return None
        activation = ""
        if chain.steps:
            if chain.steps[0] != ("relu",):
                return None
            activation = "relu"
        ta, tb = bool(node.attrs.get("transpose_a", False)), bool(node.attrs.get("transpose_b", False))
        sizes = [int(d) for d in y.shape]  # type: ignore[arg-type]
        n, k = sizes[-1], int(a.shape[-2 if ta else -1])  # type: ignore[arg-type]
        bias = len(node.inputs) == 3
        if bias:
            t = self.static(node.inputs[2])
            if t.shape[-1:] != (n,) or t.size != n or t.dtype != y.dtype:
                return None
        if b.rank == 2 and not ta:
            batch, m, stride_a, stride_b = 1, math.prod(sizes[:-1]), 0, 0
        else:
            batch, m = math.prod(sizes[:-2]), sizes[-2]
            outer = [int(np.prod([int(d) for d in t.shape[:-2]])) for t in (a, b)]  # type: ignore[arg-type]
            if any(o not in (1, batch) for o in outer):
                return None  # axes of the batch that are broadcast one by one
            stride_a, stride_b = (m * k if outer[0] > 1 else 0), (n * k if outer[1] > 1 else 0)
        return ProductSpec(y.dtype, batch, m, n, k, ta, tb, stride_a, stride_b, bias, activation, "matmul" in self.options.tf32)

    def _product(self, node: Node, chain: Chain, spec: ProductSpec) -> Candidate:
        nbytes = sum(int(self.static(v).nbytes) for v in (*node.inputs, chain.output))  # type: ignore[arg-type]
        faster = TENSOR_CORES[spec.dtype] if spec.dtype != "float32" or spec.tf32 else 1.0
        flops = 2.0 * spec.batch * spec.m * spec.n * spec.k
        seconds = START + max(flops / (self.machine.flops * EFFICIENCY * faster), nbytes / self.machine.bandwidth / 0.7)
        return Candidate(
            nodes=(node, *chain.nodes),
            inputs=node.inputs,
            outputs=(chain.output,),
            seconds=seconds,
            reason=f"cuBLASLt {' + '.join(('matmul', *(n.op for n in chain.nodes)))}",
            impl=ProductCall(spec),
            proposer="cuda",
        )


def packed_bytes(array: np.ndarray[Any, Any], dtype: str) -> np.ndarray[Any, Any]:
    """The `CHANNELS_LAST` form of convolution weights, as bytes."""
    from nnaccel_backend_cuda.memory import physical

    return physical(TensorType(array.shape, dtype, channels_last(array.ndim)), array).reshape(-1).view(np.uint8)


__all__ = ["CHANNELS_LAST", "ProductCall", "Proposer", "packed_bytes"]
