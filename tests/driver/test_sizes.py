"""A second size is planned from the groups of the first."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import pytest

from core.graphs import CONV, Builder, random_values
from driver.wrong import WrongBackend
from nnaccel_core.driver.covers import digest
from nnaccel_core.interp import run_graph
from nnaccel_core.ir import Graph, Node, sym
from nnaccel_core.options import Options
from nnaccel_core.testing.conformance import compile_graph


def net() -> Graph:
    b = Builder()
    x = b.input(sym("n"), 2, 6, 6)
    y = b("tanh", b("exp", b("conv", x, b.param(16, 2, 3, 3), **CONV)))
    return b.done(b("sqrt", b("exp", b("tanh", b("conv", y, b.param(16, 16, 3, 3), **CONV)))))


class Watched(WrongBackend):
    """Offers a "library" tanh up to a size, and remembers what it was asked for."""

    error = 0.0
    most = 100

    def choices_key(self) -> str:
        return f"up to {self.most}"

    def candidates(self, graph: Graph, env: Any, options: Options, only: Collection[frozenset[Node]] | None = None) -> Any:
        self.asked.append(only)
        return super().candidates(graph, env, options, only) if env["n"] <= self.most else ()


def run(backend: Any, compiled: Any, graph: Graph, n: int) -> None:
    inputs, _ = random_values(graph, env={"n": n}, seed=n)
    (got,) = compiled(inputs)
    (want,) = run_graph(graph, inputs, compiled.testing_params)
    assert abs(got - want).max() < 1e-5


@pytest.fixture
def watched(tmp_path, monkeypatch) -> Any:
    monkeypatch.setenv("NNACCEL_CACHE_DIR", str(tmp_path))
    graph = net()
    _, params = random_values(graph, env={"n": 1})
    machine = Watched.probe()
    assert machine is not None
    backend = Watched(machine, "interp")
    backend.asked = []  # type: ignore[attr-defined]
    compiled = compile_graph(graph, backend, params, Options(slicing=False))
    compiled.testing_params = params  # type: ignore[attr-defined]
    return graph, backend, compiled


def groups(compiled: Any, n: int) -> list[tuple[str, ...]]:
    (segment,) = compiled.segments.values()
    return [tuple(node.op for node in u.nodes) for u in segment.built({"n": n}).selection.units]


def test_only_the_chosen_groups_are_offered_again(watched, monkeypatch):
    graph, backend, compiled = watched
    run(backend, compiled, graph, 1)
    assert backend.asked == [None]
    from nnaccel_core import dfp

    monkeypatch.setattr(dfp, "merge", lambda ctx: pytest.fail("looked for groups again"))
    run(backend, compiled, graph, 3)
    assert [[sorted(n.op for n in nodes) for nodes in only] for only in backend.asked[1:]] == [[["tanh"], ["tanh"]]]
    assert groups(compiled, 3) == groups(compiled, 1)


def test_a_size_that_a_chosen_group_is_not_offered_at_is_selected_afresh(watched):
    graph, backend, compiled = watched
    run(backend, compiled, graph, 1)
    backend.most = 1
    run(backend, compiled, graph, 4)
    assert [only is None for only in backend.asked] == [True, False, True]
    assert groups(compiled, 4) != groups(compiled, 1)


def test_another_process_begins_with_what_was_chosen_before(watched, monkeypatch):
    graph, backend, compiled = watched
    run(backend, compiled, graph, 2)
    again = compile_graph(net(), backend, compiled.testing_params, Options(slicing=False))
    again.testing_params = compiled.testing_params  # type: ignore[attr-defined]
    backend.asked.clear()
    from nnaccel_core import dfp

    with monkeypatch.context() as patch:
        patch.setattr(dfp, "merge", lambda ctx: pytest.fail("looked for groups again"))
        run(backend, again, graph, 2)
    assert [only is None for only in backend.asked] == [False]
    assert groups(again, 2) == groups(compiled, 2)
    # Another network, other sizes or options ask anew.
    for other, options, n in (
        (again, Options(slicing=False, dfp=False), 2),
        (compile_graph(net(), backend, compiled.testing_params, Options(slicing=False)), None, 5),
    ):
        if options is not None:
            other = compile_graph(net(), backend, compiled.testing_params, options)
        backend.asked.clear()
        other(random_values(graph, env={"n": n})[0])
        assert backend.asked == [None]


def test_a_damaged_record_is_decided_anew(watched, monkeypatch):
    graph, backend, compiled = watched
    from nnaccel_core.cache import DiskCache

    get = DiskCache.get
    for bad in (b"{", b"[[true, [999]]]", b"[1]", b"null"):
        path = DiskCache().put("other", "0" * 64, bad)

        def damaged(self: Any, kind: str, key: str, path: Any = path) -> Any:
            return path if kind == "covers" else get(self, kind, key)

        monkeypatch.setattr(DiskCache, "get", damaged)
        again = compile_graph(net(), backend, compiled.testing_params, Options(slicing=False))
        again.testing_params = compiled.testing_params  # type: ignore[attr-defined]
        backend.asked.clear()
        run(backend, again, graph, 2)
        assert backend.asked == [None]


def test_explain_still_knows_what_lost(watched):
    graph, backend, compiled = watched
    run(backend, compiled, graph, 2)
    (segment,) = compiled.segments.values()
    again = compile_graph(net(), backend, compiled.testing_params, Options(slicing=False))
    (later,) = again.segments.values()
    assert {why for _, why in later.weigh({"n": 2}).rejected} == {why for _, why in segment.weigh({"n": 2}).rejected} != set()


def test_digests_tell_graphs_apart():
    def graph(name: str = "x", batch: Any = 2, first: str = "tanh", swap: bool = False) -> Graph:
        b = Builder()
        x, y = b.input(batch, 3), b.input(batch, 3)
        a, c = (y, x) if swap else (x, y)
        return b.done(b("sub", b(first, a), c))

    same = digest(graph())
    assert same == digest(graph())
    assert len({same, digest(graph(batch=3)), digest(graph(first="exp")), digest(graph(swap=True))}) == 4
