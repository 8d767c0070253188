"""What a wrapped network runs on: a session compiles programs per signature and runs them on framework tensors."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Hashable, Sequence
from dataclasses import replace
from typing import Any

from nnaccel_core.api import Backend, Bridge, Captured, Signature
from nnaccel_core.driver.released import Released
from nnaccel_core.driver.segment import Built, CompiledSegment
from nnaccel_core.driver.training import Record, TrainedSegment
from nnaccel_core.errors import InputError
from nnaccel_core.ir import Foreign, If, Loop, Program, Segment
from nnaccel_core.ir.types import TensorType, common_env
from nnaccel_core.options import VERIFIED_CALLS, Options


class Compiled:
    """A captured program, compiled segment by segment. Safe to call from several threads."""

    def __init__(
        self, captured: Captured, backend: Backend, bridge: Bridge, options: Options, grad: bool = False,
        released: Released | None = None,
    ) -> None:  # fmt: skip
        """``grad``: the first call takes gradients, so that nothing is compiled for prediction before that is asked for.
        ``released``: what the session's programs have in common."""
        self.captured = captured
        self.released = released or Released()
        self.bridge = bridge
        self.backend = backend
        self.options = options = replace(options, tf32=bridge.precision())
        program = captured.program
        #: segments compiled for prediction, by identity
        self.segments: dict[int, CompiledSegment] = {}
        self._training: dict[tuple[int, tuple[bool, ...]], TrainedSegment] = {}
        self._lock = threading.RLock()
        if not grad:
            for s in program.segments():
                self._segment(s)
        self._single = self._whole(program)
        self._hot: dict[tuple[Any, ...], Built] = {}
        #: calls that the frontend still has to compare with the framework's own result (driver/verify.py)
        self.to_verify = VERIFIED_CALLS if options.verify else 0

    @staticmethod
    def _whole(program: Program) -> Segment | None:
        """The only segment, when it is the whole program."""
        if len(program.parts) == 1 and isinstance(program.parts[0], Segment) and not program.aliases:
            part = program.parts[0]
            if part.inputs == program.inputs and part.outputs == program.outputs:
                return part
        return None

    def __call__(self, tensors: Sequence[Any], record: Record | None = None) -> list[Any]:
        """Run on framework tensors in ``program.inputs`` order; returns new tensors of the framework.

        Args:
            record: puts a segment that needs gradients on the framework's tape; None runs without gradients.

        Raises:
            InputError: shapes or dtypes that do not fit (layouts are the caller's to ensure: `matches`);
            GuardError: sizes that contradict capture.
        """
        if self._single is not None:
            return self._run_segment(self._single, tensors, record)
        program = self.captured.program
        if len(tensors) != len(program.inputs):
            raise InputError(f"the network takes {len(program.inputs)} tensors, got {len(tensors)}")
        env = dict(zip(program.inputs, tensors, strict=True))
        self._run_parts(program, env, record)
        return [env[name] for name in program.outputs]

    def _run_parts(self, program: Program, env: dict[str, Any], record: Record | None) -> None:
        for part in program.parts:
            if isinstance(part, Segment):
                outputs: Sequence[Any] = self._run_segment(part, [env[n] for n in part.inputs], record)
                env.update(zip(part.outputs, outputs, strict=True))
            elif isinstance(part, Foreign):
                env.update(zip(part.outputs, part.call(*(env[n] for n in part.inputs)), strict=True))
            elif isinstance(part, If):
                branch = part.then if bool(env[part.condition]) else part.other
                inner = {n: env[n] for n in branch.inputs}
                self._run_parts(branch, inner, record)
                env.update((n, inner[n]) for n in branch.outputs)
            else:
                self._run_loop(part, env, record)

    def _run_loop(self, loop: Loop, env: dict[str, Any], record: Record | None) -> None:
        trips = int(env[loop.trip_count]) if loop.trip_count is not None else None
        done = 0
        while (trips is None or done < trips) and (loop.condition is None or bool(env[loop.condition])):
            inner = {n: env[n] for n in loop.body.inputs}
            self._run_parts(loop.body, inner, record)
            env.update((before, inner[after]) for before, after in loop.carried)
            done += 1

    def _run_segment(self, part: Segment, tensors: Sequence[Any], record: Record | None) -> list[Any]:
        if record is not None:
            tracked = [self.captured.tracked[v.name]() for v in part.graph.params if v.name in self.captured.tracked]
            trained = self._trained(part, tensors, tracked)
            if trained is not None:
                results = record(trained, tensors, tracked)
                self._update(part, tensors, results)
                return results
        # Whole shapes and dtypes, not the symbols' sizes alone: a tensor that does not fit must never reach compiled code.
        hot = (id(part), *[t.shape for t in tensors], *[t.dtype for t in tensors])
        built = self._hot.get(hot)
        segment = self.segments.get(id(part)) or self._segment(part)
        if built is None:
            built = segment.built(segment.sizes(tensors))
            if len(self._hot) > 256:  # sizes come and go: forget the shortcuts, keep what is built
                self._hot = {}
            self._hot[hot] = built
        results = segment.run(built, tensors)
        if part.graph.updates:
            self._update(part, tensors, results)
        return results

    def _segment(self, part: Segment) -> CompiledSegment:
        """The segment compiled for prediction."""
        with self._lock:
            found = self.segments.get(id(part))
            if found is None:
                found = CompiledSegment(
                    part.graph, self.backend, self.bridge, self.options, self.captured.parameters,
                    released=self.released, tracked=self.captured.tracked,
                )  # fmt: skip
                self.segments[id(part)] = found
            return found

    def _update(self, part: Segment, tensors: Sequence[Any], results: list[Any]) -> None:
        """Write what the segment updates, and take those values off ``results``."""
        graph = part.graph
        n = len(graph.outputs)
        place = {v: k for k, v in enumerate(graph.inputs)}
        getters = self.captured.parameters
        targets = [tensors[place[u.target]] if u.target in place else getters[u.target.name]() for u in graph.updates]
        self.bridge.copy_all(targets, results[n:])
        del results[n:]

    def _trained(self, part: Segment, tensors: Sequence[Any], tracked: Sequence[Any]) -> TrainedSegment | None:
        """The segment with gradients of what the framework wants gradients of now, of its inputs and ``tracked`` parameters; None
        when that is nothing."""
        flags = tuple(map(self.bridge.tracks, (*tensors, *tracked)))
        if not any(flags):
            return None
        found = self._training.get((id(part), flags))
        if found is None:
            with self._lock:
                found = self._training.get((id(part), flags))
                if found is None:
                    captured = self.captured
                    detached = [k for k, name in enumerate(part.outputs) if name in captured.detached]
                    found = TrainedSegment(part.graph, flags, detached, self.backend, self.bridge, self.options, captured)
                    self._training[id(part), flags] = found
        return found

    def matches(self, tensors: Sequence[Any]) -> bool:
        """Whether shapes, dtypes and layouts of ``tensors`` are what this program was compiled for."""
        program = self.captured.program
        wanted: dict[str, TensorType] = {}
        for part in program.parts:
            if isinstance(part, Segment):
                for name, v in zip(part.inputs, part.graph.inputs, strict=True):
                    wanted.setdefault(name, v.type)
        env: dict[str, int] = {}
        for name, t in zip(program.inputs, tensors, strict=True):
            expected = wanted.get(name)
            if expected is None:
                continue
            found = self.bridge.type_of(t)
            if found is None or found.dtype != expected.dtype or not found.same_memory(expected.layout):
                return False
            if not common_env(expected.shape, tuple(t.shape), env):
                return False
        return True

    def refresh(self) -> None:
        """Parameters changed: drop everything derived from them."""
        for segment in tuple(self.segments.values()):
            segment.refresh()

    def release(self) -> None:
        """Leave memory that waits for the next training pass to the framework."""
        for trained in tuple(self._training.values()):
            trained.release()

    def parameter_use(self) -> tuple[set[int], set[int]]:
        """`PreparedMemory.use` of all segments that predict; what is read beside segments is needed."""
        tracked = self.captured.tracked
        ready, needed = set[int](), {id(tracked[name]()) for name in self.captured.outside if name in tracked}
        for part in self.captured.program.segments():
            segment = self.segments.get(id(part))
            if segment is not None:
                for found, more in zip((ready, needed), segment.parameter_use(), strict=True):
                    found |= more
        return ready, needed

    def prepared_bytes(self) -> int:
        """Bytes of derived and packed parameters held beside the framework's own."""
        segments = (*self.segments.values(), *(s for t in self._training.values() for s in t.segments()))
        return sum(s.prepared_bytes() for s in segments)


class Session:
    """One optimized network on one device: its compiled programs by key."""

    def __init__(self, backend: Backend, bridge: Bridge, options: Options) -> None:
        self.backend = backend
        self.bridge = bridge
        self.options = options
        backend.use(bridge)
        self.device = backend.device
        self._programs: dict[Hashable, Compiled] = {}
        self._lock = threading.RLock()
        #: what of parameters was released
        self.released = Released()

    def compiled(self, key: Hashable, signature: Signature, capture: Callable[[], Captured]) -> Compiled:
        """The program for ``key``; ``capture`` is called on the first use of a key, by one thread only.

        The caller chooses ``key`` so that it separates whatever would change the program; ``signature`` says what
        was asked for, for messages and explain().
        """
        found = self._programs.get(key)
        if found is None:
            with self._lock:
                found = self._programs.get(key)
                if found is None:
                    found = Compiled(
                        capture(), self.backend, self.bridge, self.options, signature.grad, self.released
                    )
                    self._programs[key] = found
        return found

    def programs(self) -> dict[Hashable, Compiled]:
        """All programs compiled so far."""
        return dict(self._programs)

    def forget(self) -> None:
        """Drop all programs: the network itself changed."""
        with self._lock:
            self._programs = {}

    def refresh(self) -> None:
        """Parameters changed: drop everything derived from them."""
        for compiled in self.programs().values():
            compiled.refresh()

    def release(self) -> None:
        """Leave memory that waits for the next training pass to the framework."""
        for compiled in self.programs().values():
            compiled.release()

    def releasable(self) -> set[int]:
        """Identities of parameters that all programs read in derived forms only."""
        ready, needed = set[int](), set[int]()
        for compiled in self.programs().values():
            for found, more in zip((ready, needed), compiled.parameter_use(), strict=True):
                found |= more
        return ready - needed - self.released.tensors

    def release_parameters(self, tensors: Collection[int]) -> None:
        """``tensors``, of `releasable`, are about to lose their memory: from now on programs work with what they derived."""
        with self._lock:
            segments = [s for compiled in self.programs().values() for s in tuple(compiled.segments.values())]
            for segment in segments:
                segment.release(tensors)
            self.released.tensors.update(tensors)
            for segment in segments:  # waits for plans that other threads began before, and keeps what these derived
                segment.release(tensors)
