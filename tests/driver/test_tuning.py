"""Choosing by measurement: what wins, what is tried, when it ends, and what later processes find."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import nnaccel_core
from core.graphs import Builder
from nnaccel_core.api import Captured
from nnaccel_core.driver import trials, tuning
from nnaccel_core.driver.segment import CompiledSegment
from nnaccel_core.driver.session import Compiled
from nnaccel_core.errors import UnsupportedError
from nnaccel_core.interp import run_graph
from nnaccel_core.ir import Env, Graph, Node, Program, Segment, sym
from nnaccel_core.ops.registry import lookup
from nnaccel_core.options import Options
from nnaccel_core.select.candidate import Candidate
from nnaccel_core.select.cover import Selection, Unit
from nnaccel_core.testing.interpreter import InterpreterBackend
from nnaccel_core.testing.memory import NumpyBridge

#: Reason of a candidate -> its estimate, and what it really takes, in seconds.
WAYS = {"hasty": (1e-10, 6e-3), "steady": (1.5e-10, 0.0), "far": (1e-9, 0.0)}


class Sleepy(InterpreterBackend):
    """Runs each layer by its reference, one of `WAYS` after a sleep; counts the runs of each."""

    name = "sleepy"
    autotune = "driver"
    runs: dict[str, int] = {}

    def candidates(
        self, graph: Graph, env: Env, options: Options, only: Collection[frozenset[Node]] | None = None
    ) -> list[Candidate]:
        return [
            Candidate((n,), n.inputs, n.outputs, estimate, reason, self._slow(n, reason, real), self.name)
            for n in graph.nodes
            if lookup(n.op).limit != "view"
            for reason, (estimate, real) in WAYS.items()
        ]

    def choices_key(self) -> str:
        return "one version"

    @classmethod
    def _slow(cls, node: Node, reason: str, real: float) -> Callable[[Sequence[Any]], list[Any]]:
        def run(arrays: Sequence[Any]) -> list[Any]:
            cls.runs[reason] = cls.runs.get(reason, 0) + 1
            time.sleep(real)
            return list(lookup(node.op).ref(list(arrays), node.attrs))

        return run


@pytest.fixture(autouse=True)
def _counted(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("NNACCEL_CACHE_DIR", str(tmp_path))
    Sleepy.runs = {}
    yield


def network() -> tuple[Graph, list[Any]]:
    b = Builder()
    x = b.input(4, 8)
    graph = b.done(b("exp", b("relu", x)))
    return graph, [np.random.default_rng(0).standard_normal((4, 8)).astype(np.float32)]


def compiled(graph: Graph, autotune: bool | float) -> Compiled:
    machine = Sleepy.probe()
    assert machine is not None
    names = tuple(v.name for v in graph.inputs)
    program = Program(names, (Segment(graph, names, ("y",)),), ("y",))
    return Compiled(Captured(program, {}), Sleepy(machine, "interp"), NumpyBridge(), Options(dfp=False, autotune=autotune))


def chosen(c: Compiled) -> set[str]:
    (segment,) = c.segments.values()
    (built,) = segment._built.values()
    return {u.candidate.reason for u in built.selection.units if u.candidate is not None}


def test_what_is_faster_wins_whatever_was_estimated() -> None:
    graph, inputs = network()
    estimated, tuned = compiled(graph, False), compiled(graph, True)
    for c in (estimated, tuned):
        np.testing.assert_allclose(c(inputs)[0], run_graph(graph, inputs, {})[0], rtol=1e-5)
    assert chosen(estimated) == {"hasty"}
    assert chosen(tuned) == {"steady"}
    assert "far" not in Sleepy.runs, "no estimate is off by so much that it is worth a trial"


def test_no_time_keeps_the_estimates() -> None:
    graph, inputs = network()
    c = compiled(graph, 1e-9)
    c(inputs)
    assert chosen(c) == {"hasty"}
    assert set(Sleepy.runs) == {"hasty"}


def test_a_later_process_measures_nothing() -> None:
    graph, inputs = network()
    compiled(graph, True)(inputs)
    Sleepy.runs = {}
    later = compiled(graph, True)
    later(inputs)
    assert chosen(later) == {"steady"}
    assert Sleepy.runs == {"steady": 2}, "two layers, one call"


def test_a_record_that_does_not_fit_is_measured_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    graph, inputs = network()
    compiled(graph, True)(inputs)
    Sleepy.runs = {}
    monkeypatch.setitem(WAYS, "better", (1.8e-10, 0.0))
    monkeypatch.delitem(WAYS, "steady")
    later = compiled(graph, True)
    later(inputs)
    assert chosen(later) == {"better"}


def trial_of(selection: Selection, profile: dict[str, float], whole: dict[str, float]) -> tuning.Trial:
    """A trial whose steps claim to take ``profile`` by reason, and which really takes ``whole``."""
    (unit,) = selection.units
    assert unit.candidate is not None
    c = unit.candidate
    built: Any = None
    return tuning.Trial(selection, lambda: time.sleep(whole[c.reason]), lambda: [(c, profile[c.reason])], built)


def candidates_of(*estimates: tuple[str, float]) -> list[Candidate]:
    b = Builder()
    x = b.input(4)
    (node,) = b.done(b("relu", x)).nodes
    return [Candidate((node,), node.inputs, node.outputs, s, reason, None, "library") for reason, s in estimates]


def least(candidates: Sequence[Candidate]) -> Selection:
    best = min(candidates, key=lambda c: c.seconds)
    return Selection((Unit(best.nodes, best),), ())


@pytest.mark.parametrize(("really", "wins"), [(4e-3, "a"), (1e-4, "b")])
def test_steps_that_look_faster_have_to_win_as_a_whole(really: float, wins: str) -> None:
    profile, whole = {"a": 2e-3, "b": 1e-3}, {"a": 2e-3, "b": really}
    found = tuning.tune(
        "net", candidates_of(("a", 1e-3), ("b", 1.2e-3)), least, lambda s: trial_of(s, profile, whole), lambda c: 0.0, 10.0
    )
    (unit,) = found.selection.units
    assert unit.candidate is not None
    assert unit.candidate.reason == wins


def test_what_a_candidate_costs_beside_its_step_counts() -> None:
    times = {"a": 2e-3, "b": 1e-3}
    found = tuning.tune(
        "net", candidates_of(("a", 1e-3), ("b", 1.2e-3)), least, lambda s: trial_of(s, times, times),
        lambda c: 5e-3 if c.reason == "b" else 0.0, 10.0,
    )  # fmt: skip
    assert found.selection.units[0].candidate is not None
    assert found.selection.units[0].candidate.reason == "a"


def test_trials_end_where_nothing_is_left_to_measure() -> None:
    tried: list[str] = []

    def attempt(s: Selection) -> tuning.Trial:
        assert s.units[0].candidate is not None
        tried.append(s.units[0].candidate.reason)
        return trial_of(s, {"a": 1e-3, "b": 1e-3, "c": 1e-3}, {"a": 1e-3, "b": 1e-3, "c": 1e-3})

    offered = candidates_of(("a", 1e-3), ("b", 1.1e-3), ("c", 5e-3))
    tuning.tune("net", offered, least, attempt, lambda c: 0.0, 60.0)
    assert tried[:2] == ["a", "b"]
    assert "c" not in tried, "five times the estimate"
    assert len(tried) <= 3


def test_a_backend_without_timers_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    x86 = pytest.importorskip("nnaccel_backend_x86.backend")
    monkeypatch.setattr(x86.X86Backend, "autotune", "")
    with pytest.raises(UnsupportedError, match="no timers to tune by"):
        nnaccel_core.optimize(torch.nn.ReLU(), autotune=True)


@pytest.mark.parametrize("wrong", [-1, float("inf"), float("nan")])
def test_other_values_are_refused(wrong: float) -> None:
    with pytest.raises(ValueError, match="autotune must be"):
        Options(autotune=wrong)


def test_networks_of_torch_stay_right() -> None:
    """On the CPU, in prediction and in training, whatever is chosen."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("nnaccel_backend_x86")
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 16, 3, padding=1), torch.nn.BatchNorm2d(16), torch.nn.ReLU(),
        torch.nn.Conv2d(16, 16, 3, padding=1), torch.nn.ReLU(), torch.nn.MaxPool2d(2),
        torch.nn.Flatten(), torch.nn.Linear(16 * 64, 10),
    )  # fmt: skip
    x = torch.randn(4, 3, 16, 16)
    fast = nnaccel_core.optimize(net, autotune=5)
    y = net(x)
    y.square().sum().backward()
    want = [p.grad.clone() for p in net.parameters()]
    net.zero_grad()
    found = fast(x)
    found.square().sum().backward()
    torch.testing.assert_close(found, y, rtol=1e-4, atol=1e-4)
    for p, g in zip(net.parameters(), want, strict=True):
        torch.testing.assert_close(p.grad, g, rtol=1e-3, atol=1e-3)
    net.eval()
    with torch.no_grad():
        torch.testing.assert_close(fast(x), net(x), rtol=1e-4, atol=1e-4)


#: Seconds that a batch of so many samples takes in `Paced`.
PACE: dict[int, float] = {}


class Paced(Sleepy):
    """One way to run a layer, whose time depends on how many samples it gets; the rule has slices of 2."""

    name = "paced"
    sizes: list[int] = []

    def candidates(
        self, graph: Graph, env: Env, options: Options, only: Collection[frozenset[Node]] | None = None
    ) -> list[Candidate]:
        return [Candidate((n,), n.inputs, n.outputs, 1e-9, "only", self._paced(n), self.name) for n in graph.nodes]

    def largest_slice(self, layers: Any) -> int | None:
        return 2

    @classmethod
    def _paced(cls, node: Node) -> Callable[[Sequence[Any]], list[Any]]:
        def run(arrays: Sequence[Any]) -> list[Any]:
            cls.sizes.append(len(arrays[0]))
            time.sleep(PACE[len(arrays[0])])
            return list(lookup(node.op).ref(list(arrays), node.attrs))

        return run


def sliced_in(autotune: bool | float, seconds: dict[int, float], monkeypatch: pytest.MonkeyPatch, **options: Any) -> list[int]:
    """The sizes of slices that a batch of 8 runs in, where n samples take ``seconds[n]``."""
    for n, s in seconds.items():
        monkeypatch.setitem(PACE, n, s)
    b = Builder()
    graph = b.done(b("relu", b.input(sym("n"), 16)))
    machine = Paced.probe()
    assert machine is not None
    program = Program(("x0",), (Segment(graph, ("x0",), ("y",)),), ("y",))
    tuned = Options(dfp=False, autotune=autotune, **options)
    c = Compiled(Captured(program, {}), Paced(machine, "interp"), NumpyBridge(), tuned)
    x = np.random.default_rng(0).standard_normal((8, 16)).astype(np.float32)
    c([x])
    Paced.sizes = []
    np.testing.assert_array_equal(c([x])[0], np.maximum(x, 0))
    return Paced.sizes


#: Slices of 2 are best.
BEST_BY_TWO = {1: 1.5e-3, 2: 2e-3, 4: 4.6e-3, 8: 1e-2}


@pytest.mark.parametrize(
    ("seconds", "sizes"),
    [
        (BEST_BY_TWO, [2] * 4),
        ({**BEST_BY_TWO, 4: 1e-3}, [4] * 2),
        ({**BEST_BY_TWO, 4: 3e-3, 8: 1e-3}, [8]),
        ({**BEST_BY_TWO, 8: 1e-3}, [8]),
        ({**BEST_BY_TWO, 1: 1e-4}, [1] * 8),
    ],
)
def test_slices_are_those_that_were_fastest(
    seconds: dict[int, float], sizes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert sliced_in(False, seconds, monkeypatch) == [2] * 4
    assert sliced_in(True, seconds, monkeypatch) == sizes


def test_a_later_process_repeats_the_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    assert sliced_in(True, {**BEST_BY_TWO, 8: 1e-3}, monkeypatch) == [8]
    monkeypatch.setattr(tuning, "race", None)
    assert sliced_in(True, BEST_BY_TWO, monkeypatch) == [8]


def test_slices_that_the_user_chose_are_not_tuned(monkeypatch: pytest.MonkeyPatch) -> None:
    assert sliced_in(True, {**BEST_BY_TWO, 8: 1e-3}, monkeypatch, slicing=4) == [4] * 2
    assert sliced_in(True, {**BEST_BY_TWO, 1: 1e-4}, monkeypatch, slicing=False) == [8]


def test_larger_slices_need_free_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trials, "_free_memory", lambda: -1)
    assert sliced_in(True, {**BEST_BY_TWO, 4: 1e-3, 8: 1e-3}, monkeypatch) == [2] * 4


def test_no_time_keeps_the_slices_of_the_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    assert sliced_in(1e-9, {**BEST_BY_TWO, 8: 1e-4}, monkeypatch) == [2] * 4


def test_slices_that_win_once_only_do_not_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    """The winner races the rule's size once more."""
    results = iter([(1.0, 2.0), (2.0, 1.0), (2.0, 1.0)])
    monkeypatch.setattr(tuning, "race", lambda *a, **k: next(results))
    assert sliced_in(True, BEST_BY_TWO, monkeypatch) == [2] * 4
    assert next(results, None) is None


def test_trials_of_slices_leave_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    left: list[list[int]] = []
    done = CompiledSegment.forget_plans

    def forget_plans(segment: CompiledSegment, options: Options) -> None:
        done(segment, options)
        left.append([dict(b.env)["n"] for b in segment.wholes()])

    monkeypatch.setattr(CompiledSegment, "forget_plans", forget_plans)
    sliced_in(True, BEST_BY_TWO, monkeypatch)
    assert left == [[]]


def test_replaced_candidates_share_nothing_but_what_runs() -> None:
    """`tune` gives copies to its callers: the caller's own candidates keep their estimates."""
    offered = candidates_of(("a", 1e-3), ("b", 1.2e-3))
    times = {"a": 2e-3, "b": 1e-3}
    before = [replace(c) for c in offered]
    tuning.tune("net", offered, least, lambda s: trial_of(s, times, times), lambda c: 0.0, 10.0)
    assert [c.seconds for c in offered] == [c.seconds for c in before]
