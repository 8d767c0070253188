"""A segment in training: its forward pass, what that keeps, and its backward pass."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import Any

from nnaccel_core.api import Backend, Bridge, Captured
from nnaccel_core.autodiff import derive, gradient_graph, gradients, with_layouts
from nnaccel_core.driver.segment import CompiledSegment
from nnaccel_core.ir import Graph
from nnaccel_core.options import Options

#: ``record(segment, inputs, tracked parameters) -> results``: runs a segment on the framework's tape, by `TrainedSegment.forward`
#: now and `TrainedSegment.backward` with the same parameters when gradients are asked for.
Record = Callable[["TrainedSegment", Sequence[Any], Sequence[Any]], list[Any]]


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
        self._backward: CompiledSegment | None = None
        self._lock = threading.RLock()

    def segments(self) -> list[CompiledSegment]:
        """What is compiled so far."""
        return [self._forward] if self._backward is None else [self._forward, self._backward]

    def _getter(self, name: str) -> Callable[[], Any]:
        return lambda: self._bound[name]

    def forward(self, inputs: Sequence[Any], tracked: Sequence[Any]) -> tuple[list[Any], list[Any]]:
        """Results (outputs, then values of updates), and the tensors that are kept beside them.

        ``tracked`` are the parameters, dense, off the tape. They may have changed in any way since the last step, so that nothing
        derived from them is kept.
        """
        results = self._run(self._forward, inputs, tracked)
        n = len(self._forward.source.outputs)
        return results[: self.outputs] + results[n:], results[self.outputs : n]

    def backward(self, given: Sequence[Any], tracked: Sequence[Any]) -> list[Any]:
        """Gradients, from tensors in the order of `sources` and the parameters that `forward` was given."""
        return self._run(self._backward_segment(), given, tracked)

    def _run(self, segment: CompiledSegment, tensors: Sequence[Any], tracked: Sequence[Any]) -> list[Any]:
        # One run at a time: what is derived from the parameters belongs to this run.
        with self._lock:
            self._bound = dict(zip(self.parameters, tracked, strict=True))
            segment.refresh()
            try:
                return segment.run(segment.built(segment.sizes(tensors)), tensors)
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
        return [v.type.layout for v in self._backward_segment().source.inputs]

    def _backward_segment(self) -> CompiledSegment:
        with self._lock:
            if self._backward is None:
                d = self._derivative
                laid = self._forward.main.outputs
                layouts = [laid[s.index].type.layout if s.place == "output" else None for s in d.sources]
                wanted = [self._wrt[k].type.layout for k in d.wanted]
                self._backward = CompiledSegment(
                    with_layouts(d, layouts), self._backend, self._bridge, self._options, self._getters, wanted
                )
            return self._backward
