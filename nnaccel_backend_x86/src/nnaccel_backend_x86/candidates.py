"""oneDNN implementations of convolutions, products and layout copies, with their epilogues.

A weight format must not depend on the batch size, or every new size would pack all weights again. It is therefore
asked for once, at a nominal batch, and pinned. oneDNN's blocked kernels accept only the format they would have chosen
themselves, and fall to reference code otherwise; at batch sizes that refuse the pinned format a convolution runs in
slices of the batch that accept it, at worst image by image. Measured at batch 16 on two cores, slices of one image reach
124 and 164 GFLOP/s (1x1 64->256 at 56x56, 3x3 128->128 at 28x28) where the whole batch in its own format reaches 129 and 153.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from nnaccel_backend_x86 import costs
from nnaccel_backend_x86.epilogue import Epilogue, chains
from nnaccel_backend_x86.onednn import (
    BIAS,
    CONVOLUTION,
    DST,
    INNER_PRODUCT,
    MATMUL,
    REORDER,
    SRC,
    WEIGHTS,
    BinaryAdd,
    Description,
    Md,
    Primitive,
    PrimitiveCall,
    Sum,
    describe,
    pack_key,
    post_op_argument,
    sizes,
    steps,
)
from nnaccel_backend_x86.scope import Scope
from nnaccel_core.ir import Node, TensorType, Value, identity
from nnaccel_core.select.candidate import Candidate, Pack

#: Rows for which the packed format of a fully connected layer is chosen; one row reads weights as fast where they lie.
NOMINAL_ROWS = 16
#: oneDNN's code for packed weights adds up all products of an output one after another: its error was 1.7 times PyTorch's, which
#: adds up parts, over 512 inputs, 2.5 over 1280, 2.0 to 4.4 over 4096. A classifier's error is the network's: MobileNet v2, with
#: 1280 inputs, came to 4.1 times PyTorch's at 16 images.
LONG_SUM = 384
#: A slice of the batch shorter than this spends too much of its time on starting.
SHORT_SLICE = 50e-6


@dataclass(frozen=True)
class Draft:
    """A possible candidate, before oneDNN was asked.

    Attributes:
        make: the primitive for a number of images (or rows) and a weight format.
        batch: images; nominal: the number for which the weight format is chosen; 0 when weights are not packed.
        weights: the weights where they lie, for a draft that does not pack.
        slices: bytes per image of each argument; None when the batch cannot be cut.
        seconds: of the whole batch with the implementation of that name.
        residual: index into ``inputs`` of an added operand that the output may be written over; make_over: `make` for that case.
        packed_dims: dims of the packed weights; packed_transposed: the parameter has its two axes the other way round.
        result: the ``DNNL_ARG_*`` of the output.
    """

    nodes: tuple[Node, ...]
    inputs: tuple[Value, ...]
    arguments: tuple[int, ...]
    output: Value
    make: Callable[[int, Md], Primitive]
    batch: int
    seconds: Callable[[str], float]
    nominal: int = 0
    weights: Md | None = None
    slices: Mapping[int, int] | None = None
    residual: int | None = None
    make_over: Callable[[int, Md], Primitive] | None = None
    packed_dims: tuple[int, ...] = ()
    packed_transposed: bool = False
    result: int = DST


class Proposer:
    """Proposes oneDNN's candidates."""

    def __init__(self, scope: Scope, strict: bool) -> None:
        self.scope = scope
        self.machine = scope.machine
        self.producers = scope.producers
        self.static = scope.static
        self.strict = strict
        self.constant = set(scope.params)
        for node in scope.graph.nodes:
            if node.inputs and all(v in self.constant for v in node.inputs):
                self.constant.update(node.outputs)

    def propose(self, only: Collection[frozenset[Node]] | None = None) -> list[Candidate]:
        """All usable candidates; with ``only``, those for one of these sets of nodes."""
        drafts: list[Draft] = []
        make = {"conv": self._conv, "matmul": self._matmul, "reorder": self._reorder}
        for node in self.scope.nodes(make, only):
            drafts += make[node.op](node)
        return settle([d for d in drafts if only is None or frozenset(d.nodes) in only])

    def _chains(self, node: Node, view: Callable[[TensorType], Md | None]) -> list[Epilogue]:
        scope = self.scope
        return chains(node, scope.uses, scope.results, scope.env, view, self.strict)

    # --- convolution -------------------------------------------------------------------------------------------

    def _conv(self, node: Node) -> list[Draft]:
        x, w = node.inputs[0], node.inputs[1]
        if any(p < 0 for pair in node.attrs["padding"] for p in pair) or w.type.layout != identity(w.type.rank):
            return []
        sources: list[tuple[tuple[Node, ...], Value]] = [((), x)]
        copy = self.producers.get(x)
        if copy is not None and copy.op == "reorder" and len(self.scope.uses[x]) == 1 and x not in self.scope.results:
            sources.append(((copy,), copy.inputs[0]))  # read the original layout, if oneDNN can
        # oneDNN computes several pixels of a row at a time: a column of pixels is given to it as a row (with 256 to 512 channels
        # and a window of 5 pixels 3.7 to 4.2 ms instead of 9.2).
        column = x.type.rank == 4 and all(self.static(v).shape[3] == 1 for v in (x, w, node.output))
        view = _lying if column else _as_it_is
        found = []
        for before, source in sources:
            for e in self._chains(node, lambda t: Md.of(view(t))):
                found.append(self._conv_draft(node, before, source, e, view))
        return found

    def _conv_draft(
        self, node: Node, before: tuple[Node, ...], source: Value, e: Epilogue, view: Callable[[TensorType], TensorType]
    ) -> Draft:
        a, machine = node.attrs, self.machine
        x, out, w = view(self.static(source)), view(self.static(e.output)), sizes(view(self.static(node.inputs[1])))
        groups = a["groups"]
        dims = (groups, w[0] // groups, *w[1:]) if groups > 1 else w
        spatial = (tuple(a["stride"]), tuple(a["dilation"]), *(tuple(p[side] for p in a["padding"]) for side in (0, 1)))
        window = tuple(v[::-1] for v in spatial) if view is _lying else spatial
        bias = Md(w[:1], (1,)) if len(node.inputs) == 3 else None

        def cut(md: Md, images: int) -> Md:
            return md if md.dims[0] == 1 else replace(md, dims=(images, *md.dims[1:]))

        def make(images: int, weights: Md, over: int | None = None) -> Primitive:
            post = tuple(BinaryAdd(cut(p.operand, images)) if isinstance(p, BinaryAdd) else p for p in e.post)
            if over is not None:
                post = (*post[:over], Sum(), *post[over + 1 :])
            src, dst = cut(Md.of(x), images), cut(Md.of(out), images)
            return Primitive(CONVOLUTION, machine.cores, src, dst, replace(weights, dims=dims), bias, window, post)

        operands = [(post_op_argument(k), v) for k, v in e.operands]
        residual = next((i for i, (_, v) in enumerate(e.operands) if self.static(v) == self.static(e.output)), None)
        extra = sum(self._nbytes(v) for _, v in operands)
        batched = [(SRC, x), (DST, out)]
        batched += [(arg, t) for arg, v in operands if (t := self.static(v)).rank == out.rank and t.shape[0] != 1]
        packable = node.inputs[1] in self.constant
        return Draft(
            nodes=(*before, node, *e.nodes),
            inputs=(source, *node.inputs[1:], *(v for _, v in operands)),
            arguments=(SRC, WEIGHTS, *((BIAS,) if bias else ()), *(arg for arg, _ in operands)),
            output=e.output,
            make=make,
            batch=sizes(x)[0],
            seconds=lambda impl: costs.conv_seconds(machine, impl, sizes(x), w, sizes(out), groups, extra),
            nominal=1 if packable else 0,
            weights=None if packable else Md(dims, steps(TensorType(dims, "float32"))),
            slices={arg: 4 * steps(t)[0] for arg, t in batched} if all(t.layout[0] == 0 for _, t in batched) else None,
            residual=None if residual is None else len(node.inputs) + residual,
            make_over=None if residual is None else partial(make, over=e.operands[residual][0]),
            packed_dims=dims,
        )

    def _nbytes(self, v: Value) -> int:
        return 4 * math.prod(sizes(self.static(v)))

    # --- products ----------------------------------------------------------------------------------------------

    def _matmul(self, node: Node) -> list[Draft]:
        a, b, out = self.static(node.inputs[0]), self.static(node.inputs[1]), self.static(node.output)
        if any(t.layout != identity(t.rank) for t in (a, b, out)):
            return []
        if b.rank == 2 and not node.attrs.get("transpose_a", False):
            bias = self.static(node.inputs[2]) if len(node.inputs) == 3 else None
            if bias is None or bias.size == math.prod(bias.shape[-1:]) == out.shape[-1]:
                return self._fully_connected(node)
        return self._general(node)

    def _fully_connected(self, node: Node) -> list[Draft]:
        """One weight matrix for all rows: oneDNN's inner product, all leading axes of ``a`` as one."""
        whole = sizes(self.static(node.output))
        n, m = whole[-1], math.prod(whole[:-1])

        def view(t: TensorType) -> Md | None:
            """An operand as a matrix: whole, or one row for all."""
            if t.layout != identity(t.rank):
                return None
            if t.shape == whole:
                return Md((m, n), (n, 1))
            return Md((1, n), (n, 1)) if t.size == n == t.shape[-1] else None

        found = []
        for e in self._chains(node, view):
            if self.static(e.output).layout == identity(len(whole)):
                draft = self._fully_connected_draft(node, e, packed=False)
                found.append(draft)
                if m > 1 and sizes(self.static(node.inputs[0]))[-1] <= LONG_SUM and node.inputs[1] in self.constant:
                    found.append(self._fully_connected_draft(node, e, packed=True))
        return found

    def _fully_connected_draft(self, node: Node, e: Epilogue, packed: bool) -> Draft:
        machine = self.machine
        whole = sizes(self.static(node.output))
        n, m, k = whole[-1], math.prod(whole[:-1]), sizes(self.static(node.inputs[0]))[-1]
        bias = Md((n,), (1,)) if len(node.inputs) == 3 else None
        transposed = node.attrs.get("transpose_b", False)

        def make(rows: int, weights: Md) -> Primitive:
            def cut(md: Md) -> Md:
                return Md((rows, n), (n, 1)) if md.dims[0] == m > 1 else md

            post = tuple(BinaryAdd(cut(p.operand)) if isinstance(p, BinaryAdd) else p for p in e.post)
            src, dst = Md((rows, k), (k, 1)), Md((rows, n), (n, 1))
            return Primitive(INNER_PRODUCT, machine.cores, src, dst, replace(weights, dims=(n, k)), bias, (), post)

        operands = [(post_op_argument(i), v) for i, v in e.operands]
        nbytes = 4.0 * (m * k + k * n + m * n) + sum(self._nbytes(v) for _, v in operands)
        return Draft(
            nodes=(node, *e.nodes),
            inputs=(*node.inputs, *(v for _, v in operands)),
            arguments=(SRC, WEIGHTS, *((BIAS,) if bias else ()), *(arg for arg, _ in operands)),
            output=e.output,
            make=make,
            batch=m,
            seconds=lambda impl: costs.product_seconds(machine, packed, 1, m, n, k, nbytes),
            nominal=NOMINAL_ROWS if packed else 0,
            weights=None if packed else Md((n, k), (k, 1) if transposed else (1, n)),
            packed_dims=(n, k),
            packed_transposed=not transposed,
        )

    def _general(self, node: Node) -> list[Draft]:
        """Any product, batch axes broadcast, read where it lies."""
        return [self._general_draft(node, e) for e in self._chains(node, Md.of)]

    def _general_draft(self, node: Node, e: Epilogue) -> Draft:
        machine, out = self.machine, self.static(e.output)

        def operand(v: Value, transpose: bool) -> Md:
            t = self.static(v)
            md = Md.of(TensorType((1,) * (out.rank - t.rank) + t.shape, t.dtype))
            if not transpose:
                return md
            assert md.strides is not None
            return Md((*md.dims[:-2], md.dims[-1], md.dims[-2]), (*md.strides[:-2], md.strides[-1], md.strides[-2]))

        src = operand(node.inputs[0], node.attrs.get("transpose_a", False))
        weights = operand(node.inputs[1], node.attrs.get("transpose_b", False))
        bias = operand(node.inputs[2], False) if len(node.inputs) == 3 else None
        m, n, k = src.dims[-2], weights.dims[-1], src.dims[-1]
        operands = [(post_op_argument(i), v) for i, v in e.operands]
        nbytes = float(sum(self._nbytes(v) for v in (*node.inputs, e.output, *(v for _, v in operands))))
        count = math.prod(sizes(out)) // (m * n)
        return Draft(
            nodes=(node, *e.nodes),
            inputs=(*node.inputs, *(v for _, v in operands)),
            arguments=(SRC, WEIGHTS, *((BIAS,) if bias else ()), *(arg for arg, _ in operands)),
            output=e.output,
            make=lambda _, w: Primitive(MATMUL, machine.cores, src, Md.of(out), w, bias, (), e.post),
            batch=1,
            seconds=lambda impl: costs.product_seconds(machine, False, count, m, n, k, nbytes),
            weights=weights,
        )

    # --- layout copies -----------------------------------------------------------------------------------------

    def _reorder(self, node: Node) -> list[Draft]:
        src, dst = Md.of(self.static(node.inputs[0])), Md.of(self.static(node.output))
        return [
            Draft(
                nodes=(node,),
                inputs=node.inputs,
                arguments=(SRC,),
                output=node.output,
                make=lambda _, __: Primitive(REORDER, self.machine.cores, src, dst),
                batch=1,
                seconds=lambda impl: costs.reorder_seconds(self.machine, self._nbytes(node.output)),
                weights=Md(()),
            )
        ]


def _as_it_is(t: TensorType) -> TensorType:
    return t


def _lying(t: TensorType) -> TensorType:
    """A column of pixels as a row, in the same memory; also a window of one column."""
    return TensorType((*t.shape[:2], t.shape[3], t.shape[2]), t.dtype, t.layout)


def settle(drafts: Sequence[Draft]) -> list[Candidate]:
    """Ask oneDNN about all drafts and keep those that it runs without its reference code."""
    nominal = [d for d in drafts if d.nominal]
    pinned = dict(zip(map(id, nominal), describe([d.make(d.nominal, Md(())) for d in nominal]), strict=True))

    def weights(d: Draft) -> Md | None:
        if d.weights is not None:
            return d.weights
        info = pinned[id(d)]
        return Md(d.packed_dims, tag=info.tag) if info.usable and info.tag else None

    asked = [(d, w) for d in drafts if (w := weights(d)) is not None]
    whole = describe([d.make(d.batch, w) for d, w in asked])
    found: list[tuple[Draft, Md, int, Candidate]] = []
    refused: list[tuple[Draft, Md]] = []
    for (d, w), info in zip(asked, whole, strict=True):
        if info.usable and not info.impl.startswith("simple"):
            found.append((d, w, d.batch, _candidate(d, w, d.batch, info, pinned.get(id(d), info))))
        elif d.slices is not None and d.nominal and d.batch > d.nominal:
            refused.append((d, w))
    return _in_place(found + _sliced(refused, pinned))


def _in_place(found: Sequence[tuple[Draft, Md, int, Candidate]]) -> list[Candidate]:
    """The candidates, with the form that adds the residual to what its output's memory holds, where the same code runs that.

    Measured on two cores, one image, 1x1 convolutions of ResNet-50: up to 15 % faster than reading the residual elsewhere.
    """
    asked = {i: d.make_over(images, w) for i, (d, w, images, _) in enumerate(found) if d.make_over is not None}
    infos = dict(zip(asked, describe(list(asked.values())), strict=True))
    candidates = []
    for i, (d, _, _, c) in enumerate(found):
        info = infos.get(i)
        if info is not None and info.usable and d.residual is not None and f" {info.impl} " in c.reason:
            c = replace(c, impl=replace(c.impl, over=(d.residual, asked[i])), inplace=((0, d.residual),))
        candidates.append(c)
    return candidates


def _sliced(refused: Sequence[tuple[Draft, Md]], pinned: Mapping[int, Description]) -> list[tuple[Draft, Md, int, Candidate]]:
    """Candidates that run part of the batch at a time, in the largest part that takes the pinned weights."""
    trials: list[tuple[Draft, Md, int]] = []
    for d, w in refused:
        image = d.seconds(pinned[id(d)].impl) / d.batch
        trials += [(d, w, s) for s in range(d.batch // 2, 0, -1) if d.batch % s == 0 and (s == 1 or image * s < 2 * SHORT_SLICE)]
    infos = describe([d.make(s, w) for d, w, s in trials])
    found: dict[int, tuple[Draft, Md, int, Candidate]] = {}
    for (d, w, s), info in zip(trials, infos, strict=True):
        if info.usable and id(d) not in found:
            found[id(d)] = (d, w, s, _candidate(d, w, s, info, pinned[id(d)]))
    return list(found.values())


def _candidate(d: Draft, weights: Md, images: int, info: Description, pinned: Description) -> Candidate:
    repeat = d.batch // images if d.slices is not None else 1
    strides = {arg: step * images for arg, step in (d.slices or {}).items()} if repeat > 1 else {}
    call = PrimitiveCall(d.make(images if d.slices is not None else d.batch, weights), d.arguments, (d.result,), repeat, strides)
    packs: tuple[Pack, ...] = ()
    if d.nominal:
        packs = (Pack(d.inputs[1], pack_key(d.packed_dims, pinned, d.packed_transposed), pinned.weights_bytes),)
    pieces = f", {repeat} slices of {images}" if repeat > 1 else ""
    return Candidate(
        nodes=d.nodes,
        inputs=d.inputs,
        outputs=(d.output,),
        seconds=d.seconds(info.impl) + (repeat - 1) * costs.START,
        reason=f"oneDNN {info.impl} {' + '.join(n.op for n in d.nodes)}{pieces}",
        impl=call,
        proposer="x86",
        strided_in=(False,) * len(d.inputs),
        strided_out=(False,),
        packs=packs,
    )
