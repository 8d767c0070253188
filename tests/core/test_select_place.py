"""Covering a graph with candidates, and memory placement."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.graphs import Builder
from nnaccel_core.errors import UnsupportedError, VerifyError
from nnaccel_core.ir import TensorType, Value
from nnaccel_core.ops.registry import OpDef, register
from nnaccel_core.place import Lifetime, assign_offsets, place
from nnaccel_core.plan import HostStep, LibraryStep
from nnaccel_core.select.candidate import Candidate, Pack
from nnaccel_core.select.cover import needed_outside, select


def cand(nodes, seconds, graph, reason="c", **more) -> Candidate:
    inside = {v for n in nodes for v in n.outputs}
    inputs = tuple(dict.fromkeys(v for n in nodes for v in n.inputs if v not in inside))
    outputs = tuple(needed_outside(nodes, graph.uses(), set(graph.results())))
    return Candidate(tuple(nodes), inputs, outputs, seconds, reason, None, "test", **more)


def chain(n=4):
    b = Builder()
    v = b.input(8, 16)
    for _ in range(n):
        v = b("relu", v)
    return b.done(v)


def test_the_cheapest_cover_wins_and_losers_say_why():
    g = chain(3)
    a, b, c = g.nodes
    slow, fast = cand([a], 3.0, g, "slow"), cand([a], 1.0, g, "fast")
    pair = cand([b, c], 1.0, g, "pair")
    chosen = select(g, [slow, fast, cand([b], 1.0, g), cand([c], 1.0, g), pair])
    assert [u.candidate.reason for u in chosen.units] == ["fast", "pair"]
    assert ("slow", "fast is faster") in [(x.reason, why) for x, why in chosen.rejected]
    assert chosen.seconds() == 2.0


def test_a_group_that_saves_nothing_is_refused():
    g = chain(2)
    a, b = g.nodes
    chosen = select(g, [cand([a], 1.0, g), cand([b], 1.0, g), cand([a, b], 2.5, g, "pair")])
    assert len(chosen.units) == 2
    assert any("not slower" in why for _, why in chosen.rejected)


def test_groups_that_would_wait_for_each_other_are_not_chosen_together():
    b = Builder()
    x, y = b.input(4), b.input(4)
    a1, b1 = b("relu", x), b("relu", y)
    a2, b2 = b("neg", b1), b("neg", a1)
    g = b.done(a2, b2)
    n = g.nodes
    cross1, cross2 = cand([n[0], n[2]], 0.1, g, "cross1"), cand([n[1], n[3]], 0.2, g, "cross2")
    chosen = select(g, [cand([k], 1.0, g) for k in n] + [cross1, cross2])
    assert [u.candidate.reason for u in chosen.units].count("cross1") == 1
    assert any("wait for itself" in why for c, why in chosen.rejected if c.reason == "cross2")


def test_a_group_that_hides_a_needed_value_is_refused():
    b = Builder()
    x = b.input(4)
    y = b("relu", x)
    z = b("neg", y)
    g = b.done(z, y)
    hidden = Candidate(g.nodes, (x,), (z,), 0.1, "hidden", None, "test")
    chosen = select(g, [cand([n], 1.0, g) for n in g.nodes] + [hidden])
    assert any("used outside" in why for _, why in chosen.rejected)


def test_what_nothing_runs_is_named():
    g = chain(1)
    with pytest.raises(UnsupportedError, match="layer0"):
        select(g, [])


def test_host_ops_and_views_need_no_candidate():
    register(
        OpDef("test_host", lambda ts, a: (TensorType(ts[0].shape, ts[0].dtype),), lambda xs, a: (xs[0] + 1,), host=True), "tests"
    )
    b = Builder()
    x = b.input(2, 3)
    y = b("reshape", b("test_host", x), shape=(6,))
    g = b.done(b("test_host", y))
    chosen = select(g, [])
    placed = place(g, chosen, {})
    assert [type(s) for s in placed.plan.steps] == [HostStep, HostStep]
    first, second = placed.plan.steps
    assert first.outputs[0].space == "arena"
    assert second.inputs[0].type.shape == (6,)
    assert second.inputs[0].offset == first.outputs[0].offset
    assert second.outputs[0].space == "output"


def test_results_without_memory_of_their_own_are_a_defect():
    b = Builder()
    x = b.input(2)
    g = b.done(x)
    with pytest.raises(VerifyError, match="materialize_outputs"):
        place(g, select(g, []), {})


def test_packed_parameters_are_placed_once():
    b = Builder()
    x, w = b.input(4, 6), b.param(6, 6)
    y = b("matmul", b("matmul", x, w), w)
    g = b.done(y)
    pack = Pack(w, "blocked", 4096)
    placed = place(g, select(g, [cand([n], 1.0, g, packs=(pack,), workspace=100) for n in g.nodes]), {})
    assert placed.prepared == ((w, pack),)
    assert placed.plan.prepared == (TensorType((4096,), "uint8"),)
    steps = placed.plan.steps
    assert all(isinstance(s, LibraryStep) and s.inputs[1].space == "prepared" and s.workspace is not None for s in steps)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 12), st.integers(0, 6)), max_size=25))
def test_offsets_never_overlap_and_reuse_memory(raw):
    lives = [Lifetime(size, first, first + more) for size, first, more in raw]
    offsets, total = assign_offsets(lives)
    for (a, oa), (b, ob) in itertools.combinations(zip(lives, offsets, strict=True), 2):
        if a.first <= b.last and b.first <= a.last and a.size and b.size:
            assert oa + a.size <= ob or ob + b.size <= oa
    assert all(o % 64 == 0 and o + life.size <= total for life, o in zip(lives, offsets, strict=True))
    if lives:
        peak = max(sum(-(-life.size // 64) * 64 for life in lives if life.first <= t <= life.last) for t in range(20))
        assert total >= peak


def test_a_chain_needs_two_buffers():
    g = chain(6)
    placed = place(g, select(g, [cand([n], 1.0, g) for n in g.nodes]), {})
    assert placed.plan.arena == 2 * 8 * 16 * 4


def test_value_is_identity():
    t = TensorType((1,), "float32")
    assert Value(t, "a") != Value(t, "a")
