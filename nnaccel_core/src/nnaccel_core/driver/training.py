"""A segment in training: its forward pass, what that keeps, and its backward pass."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from nnaccel_core.api import Backend, Bridge, Captured
from nnaccel_core.autodiff import derive, gradient_graph, gradients, relaid, split, with_layouts
from nnaccel_core.driver.blocks import Block, Blocks
from nnaccel_core.driver.segment import CompiledSegment, runs_whole
from nnaccel_core.ir import Env, Graph, TensorType, Value
from nnaccel_core.ir.types import Layout
from nnaccel_core.options import Options
from nnaccel_core.passes.fold import decompose_fused
from nnaccel_core.passes.pooling import pool_after_convolution

#: ``record(segment, inputs, tracked parameters) -> results``: runs a segment on the framework's tape, by `TrainedSegment.forward`
#: now and `TrainedSegment.backward` with the same parameters when gradients are asked for.
Record = Callable[["TrainedSegment", Sequence[Any], Sequence[Any]], list[Any]]

#: ``allocate(types) -> tensors``: memory for results of these static types.
Allocate = Callable[[Sequence[TensorType]], list[Any]]

#: A backward pass is cut where that lets it free so many bytes of what was kept, into at most so many parts.
PART_BYTES = 32 << 20
MOST_PARTS = 6


@dataclass(frozen=True)
class BackwardPart:
    """A part of a backward pass.

    ``reads`` and ``makes`` are the values that ``segment`` takes and gives, in order; ``frees`` those that nothing reads later.
    """

    segment: CompiledSegment
    reads: tuple[Value, ...]
    makes: tuple[Value, ...]
    frees: tuple[Value, ...]


class TrainedSegment:
    """A segment with gradients with respect to some of its inputs and parameters. Safe to call from several threads.

    Both passes are given the tracked parameters: those of the module may be others by the time gradients are taken
    (``torch.func.functional_call``).

    Attributes:
        sources: where each tensor that `backward` takes comes from (`Kept`).
        parameters: names of the tracked parameters, in the order in which both passes take them.
    """

    def __init__(
        self, graph: Graph, flags: Sequence[bool], detached: Collection[int], backend: Backend, bridge: Bridge, options: Options,
        captured: Captured,
    ) -> None:  # fmt: skip
        """
        Args:
            flags: for each input, then each tracked parameter of ``graph``: whether its gradient is wanted.
            detached: positions of outputs that nobody takes gradients of.

        Raises:
            UnsupportedError: an operator on the way has no gradient; names its layer.
        """
        options = replace(options, live=True)
        self._backend, self._bridge, self._options, self._captured = backend, bridge, options, captured
        graph = decompose_fused(graph, runs_whole(backend, options))
        if options.numerics != "strict":  # here, since gradients read what was pooled; the graph passes come behind them
            graph = pool_after_convolution(graph)
        tracked = [v for v in graph.params if v.name in captured.tracked]
        values = (*graph.inputs, *tracked)
        self._wrt = tuple(v for v, wanted in zip(values, flags, strict=True) if wanted and v.type.is_float)
        self._derivative = derive(graph, self._wrt, detached, options.remat)
        forward = self._derivative.forward
        self.outputs = len(graph.outputs)
        self.sources = self._derivative.sources
        self.parameters = tuple(v.name for v in tracked)
        #: for each input, then each tracked parameter: the position of its gradient among those of `backward`, or None
        place = {self._wrt[k]: i for i, k in enumerate(self._derivative.wanted)}
        self.gradient_of = tuple(place.get(v) for v in values)
        #: positions of the outputs that carry gradients
        self.seeded = self._derivative.seeded
        #: for each gradient of `backward`, the outputs whose gradients it depends on: without any of these there is none
        self.depends = self._derivative.depends
        self.seed_layouts = tuple(graph.outputs[k].type.layout for k in self.seeded)
        self._graph, self._detached = graph, tuple(detached)
        self._second: dict[tuple[bool, ...], TrainedSegment] = {}
        self._bound: dict[str, Any] = {}
        self._getters = {**captured.parameters, **{name: self._getter(name) for name in self.parameters}}
        own = [v.type.layout for v in graph.outputs]
        extra = len(forward.outputs) - self.outputs
        self._forward = CompiledSegment(forward, backend, bridge, options, self._getters, [*own, *[None] * extra])
        self._whole: Graph | None = None
        self._asked = 0
        self._blocks = Blocks(bridge)
        #: the backward pass as it runs now, once gradients were asked for
        self.parts: tuple[BackwardPart, ...] = ()
        self._lock = threading.RLock()

    def segments(self) -> list[CompiledSegment]:
        """What is compiled so far."""
        return [self._forward, *(p.segment for p in self.parts)]

    def _getter(self, name: str) -> Callable[[], Any]:
        return lambda: self._bound[name]

    def forward(self, inputs: Sequence[Any], tracked: Sequence[Any]) -> tuple[list[Any], list[Any]]:
        """Results (outputs, then values of updates), and the tensors that are kept beside them.

        ``tracked`` are the parameters, dense, off the tape. They may have changed in any way since the last step, so that nothing
        derived from them is kept.
        """
        results, kept, _ = self._run_forward(inputs, tracked, None, None)
        return results, kept

    def forward_in_block(
        self, inputs: Sequence[Any], tracked: Sequence[Any], allocate: Allocate | None = None
    ) -> tuple[list[Any], list[Any], Block | None]:
        """`forward`, of which the caller hands nothing that is kept to anybody else, and holds the block until `backward` ran:
        what is kept lies in it. None where that has no use. ``allocate`` gives memory for the outputs; by default the bridge."""
        # Memory of the host is worth it, too, where nothing is given back before backward ends: fresh pages cost a fault each.
        again = self._backend.replays or self._options.remat == "auto"
        return self._run_forward(inputs, tracked, self._blocks if again and not self._bridge.capturing() else None, allocate)

    def _run_forward(
        self, inputs: Sequence[Any], tracked: Sequence[Any], blocks: Blocks | None, allocate: Allocate | None
    ) -> tuple[list[Any], list[Any], Block | None]:
        held: list[Block] = []

        def memory(types: Sequence[TensorType]) -> list[Any]:
            own, rest = types[: self.outputs], types[self.outputs :]
            found = [self._bridge.allocate(t) for t in own] if allocate is None else allocate(own)
            if blocks is None:
                return [*found, *(self._bridge.allocate(t) for t in rest)]
            held.append(blocks.take(rest))
            return [*found, *held[0].tensors]

        given = None if blocks is None and allocate is None else memory
        results = self._run(self._forward, self._forward.sizes(inputs), inputs, tracked, given)
        n = len(self._forward.source.outputs)
        return results[: self.outputs] + results[n:], results[self.outputs : n], held[0] if held else None

    def release(self) -> None:
        """Leave memory that waits for the next pass to the framework."""
        self._blocks.clear()

    def backward(self, given: Iterable[Any], tracked: Sequence[Any], allocate: Allocate | None = None) -> list[Any]:
        """Gradients, from tensors in the order of `sources` and the parameters that `forward` was given.

        Each of ``given`` is let go of as soon as it was used: what nobody else holds is freed while this still runs.
        ``allocate`` gives memory for all gradients where one part of the pass makes them; else they are the bridge's.
        """
        backward = self._backward()
        values = dict(zip(backward.inputs, given, strict=True))
        parts = self._parts_for(values)
        if allocate is None or len(parts) > 1:
            allocate = self._bridge.allocate_block if self._backend.replays else None
        for part in parts:
            tensors = [values[v] for v in part.reads]
            for v in part.frees:
                del values[v]
            env = part.segment.sizes_of_own(tensors)
            values.update(zip(part.makes, self._run(part.segment, env, tensors, tracked, allocate), strict=True))
        return [values[v] for v in backward.outputs]

    def _run(
        self, segment: CompiledSegment, env: Env, tensors: Sequence[Any], tracked: Sequence[Any], allocate: Allocate | None
    ) -> list[Any]:
        # One run at a time: what is derived from the parameters belongs to this run.
        with self._lock:
            self._bound = dict(zip(self.parameters, tracked, strict=True))
            segment.refresh()
            try:
                return segment.run(segment.built(env), tensors, allocate)
            finally:
                self._bound = {}

    def second(self, inputs: Sequence[Any], seeds: Sequence[Any], tracked: Sequence[Any]) -> TrainedSegment | None:
        """The gradients as a segment that can itself be differentiated, of ``inputs`` and then ``seeds`` (the gradients of the
        outputs `seeded`); None when nothing of them, nor of the parameters ``tracked``, is on the tape."""
        tracks = self._bridge.tracks
        flags = tuple(tracks(t) for t in (*inputs, *seeds)), tuple(tracks(t) for t in tracked)
        if not any(map(any, flags)):
            return None
        key = (*flags[0], *flags[1])
        with self._lock:
            found = self._second.get(key)
            if found is None:
                graph = gradient_graph(gradients(self._graph, self._wrt, self._detached))
                by_name = dict(zip(self.parameters, flags[1], strict=True))
                all_flags = (*flags[0], *(by_name[v.name] for v in graph.params if v.name in by_name))
                found = TrainedSegment(graph, all_flags, (), self._backend, self._bridge, self._options, self._captured)
                self._second[key] = found
            return found

    def layouts(self) -> list[tuple[int, ...] | None]:
        """How each tensor of `sources` must lie in memory; None where that is as it comes from `forward`."""
        return [v.type.layout for v in self._backward().inputs]

    def _backward(self) -> Graph:
        """The backward graph, for what is kept as it lies in memory."""
        with self._lock:
            if self._whole is None:
                laid = self._forward.main.outputs
                sources = self._derivative.sources
                layouts = [laid[s.index].type.layout if s.place == "output" else None for s in sources]
                self._whole = with_layouts(self._derivative, layouts)
            return self._whole

    def _parts_for(self, values: dict[Value, Any]) -> tuple[BackwardPart, ...]:
        """The parts to run for tensors of these sizes: as many as the largest batch so far was worth.

        One where time comes first, since each cut costs some, and where parameters are derived on the device, since plans are
        launched as a whole there.
        """
        count = 1
        if self._options.remat != "auto" and not self._backend.derives_live:
            nbytes = sum(math.prod(t.shape) * v.type.itemsize for v, t in values.items())
            count = max(1, min(MOST_PARTS, nbytes // PART_BYTES))
        with self._lock:
            if not self.parts or count > 2 * self._asked:
                self.parts, self._asked = self._compiled_parts(self._backward(), count), count
            return self.parts

    def _compiled_parts(self, graph: Graph, count: int) -> tuple[BackwardPart, ...]:
        wanted = {v: self._wrt[k].type.layout for v, k in zip(graph.outputs, self._derivative.wanted, strict=True)}
        lies: dict[Value, Layout] = {}
        parts = []
        for part in split(graph, count):
            own = part.graph
            outputs = [wanted.get(v) for v in own.outputs]
            segment = CompiledSegment(
                relaid(own, [lies.get(v) for v in own.inputs]), self._backend, self._bridge, self._options, self._getters, outputs
            )
            lies.update((v, made.type.layout) for v, made in zip(own.outputs, segment.main.outputs, strict=True))
            parts.append(BackwardPart(segment, own.inputs, own.outputs, part.frees))
        return tuple(parts)
