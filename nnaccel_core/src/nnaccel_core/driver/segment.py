"""One segment from graph to executables: passes once, then a plan per binding of its symbols."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from nnaccel_core import debug, dfp
from nnaccel_core.api import Backend, Bridge, Executable, Pass
from nnaccel_core.cache import DiskCache
from nnaccel_core.driver import slicing
from nnaccel_core.driver.covers import Cover, Covers, cover_of
from nnaccel_core.driver.prepared import Prepared, PreparedMemory
from nnaccel_core.driver.quiet import no_collections
from nnaccel_core.driver.released import Released
from nnaccel_core.driver.stages import Stage, StagedExecutable, connect, parts_of
from nnaccel_core.driver.trials import tuned, tuned_slice
from nnaccel_core.errors import GuardError, InputError, OutOfMemoryError, ReleasedError, UnsupportedError
from nnaccel_core.hooks import manager
from nnaccel_core.ir import Dim, Env, Graph, Node, TensorType, Value, evaluate
from nnaccel_core.ir.types import Layout, common_env
from nnaccel_core.ir.verify import verify
from nnaccel_core.ops.registry import infer, lookup
from nnaccel_core.options import Options
from nnaccel_core.passes.fold import decompose
from nnaccel_core.passes.layout import assign_layouts, materialize_outputs, view_root
from nnaccel_core.passes.pipeline import graph_passes, run_passes
from nnaccel_core.passes.prepare import split_prepare, unsplit
from nnaccel_core.place import Placed, place
from nnaccel_core.select.candidate import Candidate, Pack
from nnaccel_core.select.chains import form_chains
from nnaccel_core.select.cover import Selection, select
from nnaccel_core.select.known import sizes_as_constants
from nnaccel_core.select.reading import after_reading


@dataclass
class Built:
    """An executable for one binding of the symbols.

    A batch that runs in slices has the ``selection`` and ``placed.plan`` of its largest slice; ``placed.prepared`` and
    ``output_types`` are of the whole. One that runs in ``stages`` has those of the first.
    """

    env: Env
    selection: Selection
    placed: Placed
    executable: Executable
    output_types: tuple[TensorType, ...]
    prepared: Prepared | None = None
    #: The same with ``numerics="strict"``, once NaN or infinity was met.
    strict: Built | None = None
    #: What it runs, and in which stages where there are several.
    stage: Stage | None = None
    stages: tuple[Built, ...] = ()


def runs_whole(backend: Backend, options: Options) -> Callable[[Node], bool]:
    """Which fused operators stay as they are."""
    return backend.whole if options.libraries and options.numerics != "strict" else lambda node: False


class CompiledSegment:
    """A segment, optimized for one backend. Thread-safe."""

    @no_collections()
    def __init__(
        self,
        graph: Graph,
        backend: Backend,
        bridge: Bridge,
        options: Options,
        parameters: Mapping[str, Callable[[], Any]],
        layouts: Sequence[Layout | None] | None = None,
        released: Released | None = None,
        tracked: Mapping[str, Callable[[], Any]] | None = None,
    ) -> None:
        """``layouts`` of the outputs, where they are not as typed; None for one lets it lie as it comes. ``released``,
        ``tracked``: see `PreparedMemory`."""
        self.backend = backend
        self.bridge = bridge
        self.options = options
        self.parameters = parameters
        self.source = graph
        started = time.perf_counter()
        if layouts is None:
            layouts = [v.type.layout for v in graph.outputs]
        optimized = run_passes(graph, [(p.name, p.run) for p in self.passes()], self._observe)
        on_device = self._weights_last = options.live and backend.derives_live
        laid_out = verify(assign_layouts(optimized, layouts, weights_last=on_device), infer, "assign_layouts")
        self._observe("assign_layouts", optimized, laid_out)
        split = unsplit(laid_out) if on_device else split_prepare(laid_out, options.live)
        self.prepare = verify(split.prepare, infer, "split_prepare")
        # After the split: a result that depends on parameters only is copied out of prepared memory at each call.
        self.main = verify(materialize_outputs(split.main), infer, "materialize_outputs")
        debug.dump("graph", f"{graph.name}.main", lambda: str(self.main))
        debug.dump("graph", f"{graph.name}.prepare", lambda: str(self.prepare))
        debug.log(debug.TIMES, f"{graph.name}: graph passes took {time.perf_counter() - started:.3f} s")
        #: inputs that give the graph's symbols their values
        self._binding = _binding(graph)
        # Guards were checked for the whole batch, not for a slice of it.
        self.batch = None if graph.guards else slicing.batch_symbol(self.main)
        self.slice = 1
        starts: tuple[tuple[int, int], ...] = ()
        if self.batch is not None:
            self.slice, starts = slicing.choose(self.main, self.batch, backend)
        self._wholes: dict[tuple[Stage, Options, tuple[tuple[str, int], ...]], Built] = {}
        self._built: dict[tuple[tuple[str, int], ...], Built] = {}
        self.prepared = PreparedMemory(self.prepare, backend, bridge, options, parameters, released, tracked)
        self._cache = DiskCache()
        self._whole = Stage(self.main, self.slice, Covers(self._cache, self.main, backend))
        graphs = parts_of(self.main, [at for at, _ in starts]) if starts else []
        #: What larger batches run in instead, where that is better.
        self.stages = tuple(Stage(g, size, Covers(self._cache, g, backend)) for g, (_, size) in zip(graphs, starts, strict=True))
        self._lock = threading.RLock()

    def passes(self) -> list[Pass]:
        """The graph passes, in order."""
        strict = self.options.numerics == "strict"
        found = graph_passes(runs_whole(self.backend, self.options), self.options.live, strict)
        own = [Pass(name, run) for name, run in found]
        return manager.passes("graph", self.backend.device, own=own)

    @staticmethod
    def _observe(name: str, before: Graph, after: Graph) -> None:
        if debug.enabled(debug.GRAPHS):
            debug.dump_pass(name, str(before), str(after))

    def built(self, env: Env) -> Built:
        """The executable for the sizes in ``env``, with prepared memory ready.

        Raises:
            GuardError: the sizes contradict what capture assumed.
        """
        key = tuple(sorted(env.items()))
        found = self._built.get(key)
        if found is None:
            with self._lock:
                found = self._built.get(key)
                if found is None:
                    found = self._build(dict(env), self.options)
                    self._built[key] = found
        if found.prepared is None or found.prepared.generation != self.prepared.generation:
            with self._lock:
                found.prepared = self.prepared.of(found.placed, found.executable)
        return found

    def sizes(self, tensors: Sequence[Any]) -> Env:
        """The values of the graph's symbols for these inputs.

        Raises:
            InputError: wrong number, shape or dtype of tensors.
        """
        if len(tensors) != len(self.source.inputs):
            raise InputError(f"the network takes {len(self.source.inputs)} tensors, got {len(tensors)}")
        env: dict[str, int] = {}
        dtype_of = self.bridge.dtype_of
        for i, (v, t) in enumerate(zip(self.source.inputs, tensors, strict=True)):
            shape = tuple(t.shape)
            if shape != v.shape and not common_env(v.shape, shape, env):
                raise InputError(f"input {i} (%{v.name}) has shape {list(t.shape)}; the network was compiled for {v.type}")
            found = dtype_of(t)
            if found is not None and found != v.dtype:
                raise InputError(f"input {i} (%{v.name}) has dtype {found}; the network was compiled for {v.type}")
        return env

    def sizes_of_own(self, tensors: Sequence[Any]) -> Env:
        """`sizes` of tensors that other segments made: they are as they should be, so that only symbols are read off."""
        env: dict[str, int] = {}
        for i in self._binding:
            common_env(self.source.inputs[i].shape, tuple(tensors[i].shape), env)
        return env

    def run(
        self, built: Built, tensors: Sequence[Any], allocate: Callable[[Sequence[TensorType]], list[Any]] | None = None
    ) -> list[Any]:
        """Outputs, then values of updates, as new tensors of the framework, or those of ``allocate``; ``built`` is for the sizes
        of ``tensors``."""
        bridge = self.bridge
        prepared = built.prepared
        if prepared is None or prepared.generation != self.prepared.generation:
            built = self.built(built.env)
            prepared = built.prepared
            assert prepared is not None
        address = bridge.address
        threads = bridge.threads()
        given = [address(t) for t in tensors]
        if not (prepared.exact and built.executable.exact("input", given, threads)):
            built = self.strict(built)
            prepared = built.prepared
            assert prepared is not None
        results = [bridge.allocate(t) for t in built.output_types] if allocate is None else allocate(built.output_types)
        built.executable.run(given, prepared.addresses, [address(t) for t in results], threads, bridge.stream())
        return results

    def strict(self, built: Built) -> Built:
        """What to run instead of ``built`` for values that it would not treat as the framework does (`Executable.exact`)."""
        with self._lock:
            if built.strict is None:
                built.strict = self._build(built.env, replace(self.options, numerics="strict", autotune=False))
            found = built.strict
            if found.prepared is None or found.prepared.generation != self.prepared.generation:
                found.prepared = self.prepared.of(found.placed, found.executable)
        return found

    def refresh(self) -> None:
        """Parameters changed: everything derived from them is computed again before the next run."""
        with self._lock:
            self.prepared.forget()
            for built in self._built.values():  # nothing keeps the memory of old ones while new ones are derived
                built.prepared = None
                if built.strict is not None:
                    built.strict.prepared = None

    @no_collections()
    def plan(self, env: Env, options: Options | None = None, stage: Stage | None = None) -> tuple[Selection, Placed]:
        """What would run for the sizes in ``env``: the chosen candidates and their placed steps. Builds nothing.

        ``options`` default to the segment's own, ``stage`` to the whole segment.

        Raises:
            GuardError: the sizes contradict what capture assumed.
        """
        self.check_guards(env)
        options, stage = options or self.options, stage or self._whole
        graph, known = stage.graph, stage.covers.get(options, env)
        selection = self._select_again(graph, env, options, known) if known is not None else None
        if selection is None:
            graph, selection = self._choose(graph, env, options)
            if graph is stage.graph and not self.restricted:
                stage.covers.add(options, env, cover_of(selection))
        return self.placed(graph, selection, env)

    def placed(self, graph: Graph, selection: Selection, env: Env, chained: bool = True) -> tuple[Selection, Placed]:
        """``selection`` of ``graph`` as it runs at the sizes in ``env``, in chains where these are worth it, and its plan."""
        selection = sizes_as_constants(graph, selection, env)
        if chained and self.backend.chains and self.options.dfp:
            selection = form_chains(graph, selection, lambda v: v.type.concrete(env), self.backend.machine)
        debug.dump("select", self.source.name, lambda: format_selection(selection))
        return selection, place(graph, selection, env)

    def check_guards(self, env: Env) -> None:
        """Raises GuardError where the sizes contradict what capture assumed."""
        for a, b in self.source.guards:
            if evaluate(a, env) != evaluate(b, env):
                raise GuardError(
                    f"{self.source.name}: captured under the assumption {a} == {b}, which does not hold for {dict(env)}"
                )

    def weigh(self, env: Env, stage: Stage | None = None) -> Selection:
        """The selection among all candidates, whatever was remembered: what lost at these sizes, and why."""
        return self._choose((stage or self._whole).graph, env, self.options)[1]

    def _choose(self, graph: Graph, env: Env, options: Options) -> tuple[Graph, Selection]:
        """The selection among all candidates, and what it is of (`offered`)."""
        graph, candidates = self.offered(graph, env, options)
        return graph, self.selected(graph, candidates, env)

    def selected(self, graph: Graph, candidates: Sequence[Candidate], env: Env) -> Selection:
        """The best selection among ``candidates``.

        Raises:
            UnsupportedError: nothing runs some layer; ReleasedError: because of what was released.
        """
        try:
            return select(graph, candidates)
        except UnsupportedError as e:
            if not self.restricted:
                raise
            raise ReleasedError(
                f"{self.source.name} cannot be planned for sizes {dict(env)}: this takes other forms of parameters than were "
                f"kept when their memory was given back ({e}). Call every size that is needed before that: optimize without "
                f"release_parameters, call the network, then nnaccel_release()"
            ) from e

    @property
    def restricted(self) -> bool:
        """Whether parameters were released, so that not all candidates can be had."""
        return bool(self.prepared.released.tensors)

    def offered(self, graph: Graph, env: Env, options: Options) -> tuple[Graph, list[Candidate]]:
        """All candidates, and what they are of: ``graph``, or that with fused operators decomposed that nothing runs whole at
        this size."""
        candidates = self.candidates(graph, env, options, None)
        covered = {id(n) for c in candidates for n in c.nodes}
        left = [n for n in graph.nodes if id(n) not in covered and lookup(n.op).fused]
        if left:
            debug.log(debug.PLUGINS, lambda: f"{graph.name}: run in parts at {dict(env)}: {', '.join(n.where() for n in left)}")
            parts = decompose(graph, lambda n: n in left)
            laid_out = assign_layouts(parts, [v.type.layout for v in graph.outputs], weights_last=self._weights_last)
            graph = verify(materialize_outputs(laid_out), infer, "decompose")
            candidates = self.candidates(graph, env, options, None)
        return graph, candidates

    def candidates(self, graph: Graph, env: Env, options: Options, cover: Cover | None) -> list[Candidate]:
        """All candidates, or those for the groups of ``cover``."""
        printer = self.backend.printer().name if debug.enabled(debug.NESTS) else ""
        ours = None if cover is None else [nodes for core, nodes in cover if core]
        found = list(dfp.propose(graph, env, self.backend.machine, options, printer, self._cache, ours))
        if options.libraries:
            theirs = None if cover is None else {nodes for core, nodes in cover if not core}
            offered = self.backend.candidates(graph, env, options, theirs)
            found += [c for c in offered if theirs is None or frozenset(c.nodes) in theirs]
        weights = sum(evaluate(p.type.nbytes, env) for p in self.main.params)
        found = after_reading(graph, env, self.backend.machine, weights, found)
        if self.restricted:
            found = self._available(graph, found)
        return [self._with_packing(c) for c in found] if options.live else found

    def _available(self, graph: Graph, candidates: Sequence[Candidate]) -> list[Candidate]:
        """Those of ``candidates`` that need nothing of released parameters but what was kept."""
        params, producers = set(graph.params), graph.producers()

        def ready(c: Candidate) -> bool:
            packs = {p.value: p for p in c.packs}
            forms = [(v, packs[v]) if v in packs else (view_root(v, producers), None) for v in c.inputs]
            return all(v not in params or self.prepared.available(v, pack) for v, pack in forms)

        return [c for c in candidates if ready(c)]

    def _with_packing(self, c: Candidate) -> Candidate:
        """``c`` with the time of packing its parameters."""
        return replace(c, seconds=c.seconds + self.packing(c)) if c.packs else c

    def packing(self, c: Candidate) -> float:
        """Seconds to pack the parameters of ``c``, which are read and written once for each run."""
        return 2 * sum(p.nbytes for p in c.packs) / self.backend.machine.bandwidth

    def _select_again(self, graph: Graph, env: Env, options: Options, cover: Cover) -> Selection | None:
        """The first size decides which layers run together; later sizes keep that, so that they need no new kernels and are
        planned in a fraction of the time. None where a chosen group is not offered at this size."""
        with contextlib.suppress(UnsupportedError):
            return select(graph, self.candidates(graph, env, options, cover))
        return None

    def _build(self, env: Env, options: Options) -> Built:
        total = env[self.batch] if self.batch is not None else 0
        if options.slicing is not True:
            return self.build_stage(self._whole, env, total, int(options.slicing), options)
        if self.stages and any(total > stage.slice for stage in self.stages):
            return self._build_staged(env, total, options)
        largest = self.slice
        if total > 1 and options.autotune and self.backend.autotune == "driver" and not options.live:
            largest = tuned_slice(self, env, total, options, self._whole)
        return self.build_stage(self._whole, env, total, largest, options)

    def _build_staged(self, env: Env, total: int, options: Options) -> Built:
        stages = tuple(self.build_stage(stage, env, total, stage.slice, options) for stage in self.stages)
        prepared = tuple(p for b in stages for p in b.placed.prepared)
        graphs, executables = [stage.graph for stage in self.stages], [b.executable for b in stages]
        parts, held = connect(graphs, executables, self.main, [len(b.placed.prepared) for b in stages])

        def allocate(kind: TensorType) -> tuple[int, Any]:
            try:
                tensor = self.bridge.allocate(kind)
            except Exception as e:
                if "OutOfMemory" not in type(e).__name__ and not isinstance(e, MemoryError):
                    raise
                nbytes = evaluate(kind.nbytes, {})
                raise OutOfMemoryError(
                    f"{self.source.name} needs {nbytes} bytes ({nbytes / 2**20:.1f} MiB) to hold activations between two stages; "
                    f"use a smaller batch, or free other tensors"
                ) from e
            return self.bridge.address(tensor), tensor

        executable = StagedExecutable(parts, [v.type.concrete(env) for v in held], allocate)
        placed = Placed(stages[0].placed.plan, prepared)
        return Built(env, stages[0].selection, placed, executable, stages[-1].output_types, stages=stages)

    def build_stage(self, stage: Stage, env: Env, total: int, largest: int, options: Options) -> Built:
        """At most ``largest`` samples at a time; 0: whole."""
        order = slicing.slices(total, largest) if largest and total else [total]
        return self._build_sliced(stage, env, order, options) if len(order) > 1 else self._build_whole(env, options, stage)

    def _build_sliced(self, stage: Stage, env: Env, order: Sequence[int], options: Options) -> Built:
        """One plan for each size of slice; they are shared by all batch sizes."""
        assert self.batch is not None
        parts: list[slicing.Part] = []
        prepared: list[tuple[Value, Pack | None]] = []
        wholes = []
        for size in dict.fromkeys(order):
            whole = self._build_whole({**env, self.batch: size}, options, stage)
            wholes.append(whole)
            begin = len(prepared)
            prepared += whole.placed.prepared
            parts.append(slicing.Part(size, whole.executable, begin, len(prepared)))
        inputs = [v.type.concrete(env) for v in stage.graph.inputs]
        outputs = tuple(v.type.concrete(env) for v in stage.graph.results())
        executable = slicing.SlicedExecutable(parts, order, inputs, outputs)
        placed = Placed(wholes[0].placed.plan, tuple(prepared))
        return Built(env, wholes[0].selection, placed, executable, outputs, stage=stage)

    def _build_whole(self, env: Env, options: Options, stage: Stage | None = None) -> Built:
        stage = stage or self._whole
        key = (stage, options, tuple(sorted(env.items())))
        found = self._wholes.get(key)
        if found is None:
            found = self._wholes[key] = self._plan_and_build(env, options, stage)
        return found

    def _plan_and_build(self, env: Env, options: Options, stage: Stage) -> Built:
        if options.autotune and self.backend.autotune == "driver":
            return tuned(self, env, options, stage)
        started = time.perf_counter()
        selection, placed = self.plan(env, options, stage)
        debug.log(debug.TIMES, lambda: f"{stage.graph.name} {dict(env)}: planned in {time.perf_counter() - started:.3f} s")
        return self.build_plan(selection, placed, env, options, stage)

    def build_plan(self, selection: Selection, placed: Placed, env: Env, options: Options, stage: Stage) -> Built:
        """An executable of a plan."""
        started = time.perf_counter()
        executable = self.backend.build(placed.plan, options)
        debug.log(
            debug.TIMES,
            lambda: (
                f"{stage.graph.name} {dict(env)}: built in {time.perf_counter() - started:.3f} s, "
                f"{len(placed.plan.steps)} steps, arena {placed.plan.arena / 2**20:.1f} MiB"
            ),
        )
        return Built(env, selection, placed, executable, placed.plan.outputs, stage=stage)

    def forget_plans(self, options: Options) -> None:
        """Let go of what was built with ``options``, and of prepared memory that nothing else reads."""
        self._wholes = {key: built for key, built in self._wholes.items() if key[1] != options}
        self.prepared.keep(b.placed for b in self.wholes())

    def wholes(self) -> list[Built]:
        """What was built so far, stage by stage and size by size of slices."""
        return list(self._wholes.values())

    def parameter_use(self) -> tuple[set[int], set[int]]:
        """`PreparedMemory.use`; before the first run, every parameter is needed."""
        with self._lock:
            ready, needed = self.prepared.use()
        return (ready, needed) if self._built else (set(), ready | needed)

    def release(self, tensors: Collection[int]) -> None:
        """`PreparedMemory.release`, between two plans."""
        with self._lock:
            self.prepared.release(tensors)

    def prepared_bytes(self) -> int:
        """Bytes of derived and packed parameters held beside the framework's own."""
        return self.prepared.nbytes()


def _binding(graph: Graph) -> tuple[int, ...]:
    """Positions of inputs of ``graph`` whose shapes, together, give every symbol that stands alone somewhere its value."""
    found: list[int] = []
    known: set[Dim] = set()
    for i, v in enumerate(graph.inputs):
        alone = {d for d in v.shape if not isinstance(d, int) and d.op == "sym"}
        if not alone <= known:
            known |= alone
            found.append(i)
    return tuple(found)


def format_selection(selection: Selection) -> str:
    """Chosen units with their estimates, then what was refused and why."""
    lines = []
    for u in selection.units:
        if u.candidate is not None:
            ops = "+".join(n.op for n in u.nodes)
            lines.append(
                f"{u.candidate.seconds * 1e6:9.1f} us  {u.origin:40s} {ops:40s} {u.candidate.proposer}: {u.candidate.reason}"
            )
        elif not u.is_view:
            lines.append(f"     host     {u.origin:40s} {u.nodes[0].op}")
    lines.append(f"{selection.seconds() * 1e6:9.1f} us  in all (estimated)")
    for c, why in selection.rejected:
        lines.append(f"refused: {'+'.join(n.op for n in c.nodes)} at {c.nodes[0].where()} ({c.proposer}: {c.reason}): {why}")
    return "\n".join(lines)
