"""The tape of a training step: the segments that ran forward, and the gradients of what they read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from nnaccel_core.ir import Foreign, Segment, Value
from nnaccel_frontend_onnx.assembly import Imported
from nnaccel_frontend_onnx.bridge import Tracked
from nnaccel_frontend_onnx.items import Array

if TYPE_CHECKING:
    from nnaccel_core.driver.training import TrainedSegment


@dataclass(frozen=True)
class _Step:
    """A segment that ran. ``saved`` are the tensors its backward pass takes, by their place among `TrainedSegment.sources`; it
    takes them out."""

    segment: TrainedSegment
    inputs: Sequence[Any]
    parameters: Sequence[Any]
    outputs: Sequence[Any]
    saved: dict[int, Any]


class Tape:
    """Records one forward pass, and is run backwards once.

    Arrays are known by identity: a tracked array between two segments is the same object at both.
    """

    def __init__(self) -> None:
        self._steps: list[_Step] = []

    def record(self, segment: TrainedSegment, inputs: Sequence[Any], parameters: Sequence[Any]) -> list[Any]:
        """Run ``segment`` forward; results that carry gradients come back tracked."""
        results, kept = segment.forward(inputs, parameters)
        given = {"input": inputs, "output": [*results[: segment.outputs], *kept]}
        saved = {k: given[s.place][s.index] for k, s in enumerate(segment.sources) if s.place != "grad"}
        for k in segment.seeded:
            results[k] = results[k].view(Tracked)
        self._steps.append(_Step(segment, inputs, parameters, results[: segment.outputs], saved))
        return results

    def backward(self, found: dict[int, Array]) -> None:
        """Extend ``found``, gradients of results by the result's id, to everything that the recorded segments read."""
        while self._steps:
            step = self._steps.pop()  # what it keeps is released as soon as it has run
            segment = step.segment
            seeds = {k: found.get(id(step.outputs[k])) for k in segment.seeded}
            there = {k for k, g in seeds.items() if g is not None}
            if not there:
                continue
            shapes = [(r.shape, r.dtype) for r in step.outputs]
            given = (
                _seed(seeds[s.index], *shapes[s.index]) if s.place == "grad" else step.saved.pop(k)
                for k, s in enumerate(segment.sources)
            )
            grads = segment.backward(given, step.parameters)
            for tensor, k in zip((*step.inputs, *step.parameters), segment.gradient_of, strict=True):
                if k is not None and not there.isdisjoint(segment.depends[k]):
                    before = found.get(id(tensor))
                    found[id(tensor)] = grads[k] if before is None else before + grads[k]


def _seed(grad: Array | None, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """The gradient of a result, row-major; zeros for one that nothing asked for."""
    return np.zeros(shape, dtype) if grad is None else np.ascontiguousarray(grad)


def reached(imported: Imported, watched: Sequence[str]) -> dict[str, str]:
    """The program's values that depend on parameters or on the inputs ``watched``, through floating-point numbers.

    Returns:
        for each its name and "" where gradients can be taken of it; else what stands in the way.
    """
    program, tracked = imported.captured.program, imported.captured.tracked
    state = dict.fromkeys(watched, "")
    for part in program.parts:
        if isinstance(part, Foreign):
            before = [state[n] for n in part.inputs if n in state]
            for name in part.outputs:
                if name in imported.stops and (before or name in imported.reads_parameters):
                    state[name] = max(before, default="") or imported.stops[name]
        elif isinstance(part, Segment):
            inner: dict[Value, str] = {v: "" for v in part.graph.params if v.name in tracked}
            inner.update((v, state[n]) for n, v in zip(part.inputs, part.graph.inputs, strict=True) if n in state)
            for node in part.graph.nodes:
                found = [inner[v] for v in node.inputs if v in inner]
                if found:
                    inner.update((v, max(found)) for v in node.outputs if v.type.is_float)
            state.update((n, inner[v]) for n, v in zip(part.outputs, part.graph.outputs, strict=True) if v in inner)
    return state


__all__ = ["Tape", "reached"]
