"""Which convolutions of a graph `stems` runs: with what lies between them and the network's input, and with their epilogues."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from nnaccel_backend_cuda import stems
from nnaccel_backend_cuda.kernels import START
from nnaccel_backend_cuda.stems import StemSpec
from nnaccel_core.ir import Node, Value, channels_last
from nnaccel_core.select.candidate import Candidate

if TYPE_CHECKING:
    from nnaccel_backend_cuda.candidates import Proposer


class StemProposer:
    """Candidates for one graph, at the sizes of ``proposer``."""

    def __init__(self, proposer: Proposer) -> None:
        self._p = proposer

    def propose(self, node: Node) -> Iterator[Candidate]:
        """Ways to run ``node``, a convolution or the gradient of its weights."""
        p, a = self._p, node.attrs
        gradient = node.op == "conv_backward_weights"
        image = node.inputs[1] if gradient else node.inputs[0]
        if node.output.type.rank != 4 or a["groups"] != 1 or any(n < 0 for pair in a["padding"] for n in pair):
            return
        if p.static(image).dtype == "float32" and "conv" not in p.options.tf32:
            return
        before, source = self._source(image)
        if gradient:
            dy = node.inputs[0]
            if p.static(dy).same_memory(channels_last(4)):
                yield from self._candidate(node, (*before, node), (dy, source), node.output, source, node.output, dy, ())
            return
        w_before, weights = self._source(node.inputs[1])
        w_before = [n for n in w_before if n not in before]
        rest = node.inputs[2:]
        if rest and p.static(rest[0]).dtype != p.static(weights).dtype:
            w_before, weights = [], node.inputs[1]  # a kernel reads both alike
            if p.static(rest[0]).dtype != p.static(weights).dtype:
                return
        for nodes, output, steps in self._epilogues(node):
            if p.static(output).same_memory(channels_last(4)):
                whole = (*before, *w_before, node, *nodes)
                yield from self._candidate(node, whole, (source, weights, *rest), output, source, weights, output, steps)

    def _source(self, v: Value) -> tuple[list[Node], Value]:
        """What ``v`` is made of by changes of layout, or rounding, that nobody else wants: the kernel does these as it reads."""
        p = self._p
        nodes: list[Node] = []
        while (node := self._p.producers.get(v)) is not None and node.op in ("reorder", "cast"):
            given = p.static(node.inputs[0])
            if p.only_reader(v) is None or given.dtype not in stems.KINDS:
                break
            if node.op == "cast" and given.dtype != "float32":
                break  # rounded once is not rounded twice
            nodes.insert(0, node)
            v = node.inputs[0]
        return nodes, v

    def _epilogues(self, node: Node) -> Iterator[tuple[tuple[Node, ...], Value, tuple[tuple[Any, ...], ...]]]:
        """None, and the longest chain of element-wise layers behind ``node``."""
        yield (), node.output, ()
        nodes: list[Node] = []
        steps: list[tuple[Any, ...]] = []
        value = node.output
        while (reader := self._p.only_reader(value)) is not None and (step := self._step(reader)) is not None:
            nodes.append(reader)
            steps.append(step)
            value = reader.output
        if nodes:
            yield tuple(nodes), value, tuple(steps)

    @staticmethod
    def _step(reader: Node) -> tuple[Any, ...] | None:
        """What the kernel is to do for ``reader``; None where it cannot."""
        if reader.op == "clip":
            low, high = reader.attrs.get("min"), reader.attrs.get("max")
            finite = all(isinstance(x, (int, float)) and abs(x) < 1e30 for x in (low, high))
            return ("clip", float(low), float(high)) if finite and len(reader.inputs) == 1 else None
        return (reader.op,) if reader.op in stems.STEPS else None

    def _candidate(
        self, node: Node, nodes: Sequence[Node], inputs: Sequence[Value], output: Value, image: Value, weights: Value,
        result: Value, steps: tuple[tuple[Any, ...], ...],
    ) -> Iterator[Candidate]:  # fmt: skip
        p, a = self._p, node.attrs
        if p.only is not None and frozenset(nodes) not in p.only:
            return
        x, w, y = p.static(image), p.static(weights), p.static(result)
        if any(t.dtype not in stems.KINDS or 0 in t.shape for t in (x, w, y)):
            return
        n, c, h, width = map(int, x.shape)  # type: ignore[arg-type]
        o, _, kh, kw = map(int, w.shape)  # type: ignore[arg-type]
        if c > stems.CHANNELS:
            return
        oh, ow = map(int, y.shape[2:])  # type: ignore[arg-type]
        gradient = node.op == "conv_backward_weights"
        (top, _), (left, _) = a["padding"]
        spec = StemSpec(
            image=(n, c, h, width), window=(o, oh, ow, kh, kw),
            image_strides=tuple(map(int, x.strides())), weights_strides=tuple(map(int, w.strides())),  # type: ignore[arg-type]
            math=p.static(node.output).dtype, image_dtype=x.dtype, weights_dtype=w.dtype, result_dtype=y.dtype,
            padding=(int(top), int(left)), stride=tuple(a["stride"]), dilation=tuple(a["dilation"]),
            bias=len(inputs) == 3, steps=steps, gradient=gradient,
        )  # fmt: skip
        if not stems.usable(spec, p.machine):
            return
        yield Candidate(
            nodes=tuple(nodes),
            inputs=tuple(inputs),
            outputs=(output,),
            seconds=stems.seconds(spec, p.machine) + START * (2 if gradient else 1),
            reason=f"{' + '.join(n.op for n in nodes)} for few channels",
            impl=spec,
            proposer="cuda",
        )


__all__ = ["StemProposer"]
