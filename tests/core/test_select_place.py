"""Covering a graph with candidates, and memory placement."""

from __future__ import annotations

import itertools
from dataclasses import replace

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


@st.composite
def _programs(draw):
    """A graph of additions, products and views, with candidates that offer to write over random inputs."""
    b = Builder()
    values = [b.input(4, 8), b.input(2, 16)]
    for _ in range(draw(st.integers(1, 14))):
        x = draw(st.sampled_from(values))
        kind = draw(st.sampled_from(["relu", "add", "reshape"]))
        if kind == "add":
            y = draw(st.sampled_from([v for v in values if v.shape == x.shape]))
            values.append(b("add", x, y))
        elif kind == "reshape":
            values.append(b("reshape", x, shape=(2, 16) if x.shape == (4, 8) else (4, 8)))
        else:
            values.append(b("relu", x))
    last = b("relu", values[-1])
    also = b("neg", draw(st.sampled_from(values)))
    g = b.done(last, also)
    pairs = {
        id(n): tuple((0, i) for i in range(len(dict.fromkeys(n.inputs))) if draw(st.booleans()))
        for n in g.nodes
        if n.op != "reshape"
    }
    # Values that nothing reads are written all the same.
    return g, [replace(cand([n], 1.0, g), outputs=n.outputs, inplace=pairs[id(n)]) for n in g.nodes if n.op != "reshape"]


def _overlap(a, b):
    return a.offset < b.offset + b.type.nbytes and b.offset < a.offset + a.type.nbytes


@settings(max_examples=300, deadline=None)
@given(_programs())
def test_every_value_is_intact_when_it_is_read(program):
    graph, candidates = program
    selection = select(graph, candidates)
    plan = place(graph, selection, {}).plan
    root = {v: v for v in (*graph.inputs, *(o for n in graph.nodes for o in n.outputs))}
    for n in graph.nodes:
        if n.op == "reshape":
            root[n.output] = root[n.inputs[0]]
    held = {}  # arena memory -> the value that was written there last
    for step in plan.steps:
        for v, ref in zip(step.candidate.inputs, step.inputs, strict=True):
            if ref.space == "arena":
                assert held[ref.offset][0] is root[v], f"%{v.name} was overwritten before {step.origin} read it"
        (v,), (out,) = step.candidate.outputs, step.outputs
        if out.space == "arena":
            shared = [i for i, ref in enumerate(step.inputs) if ref.space == "arena" and _overlap(ref, out)]
            assert all((0, i) in step.candidate.inplace and step.inputs[i].offset == out.offset for i in shared)
            assert len(shared) <= 1
            for offset in [o for o, (_, ref) in held.items() if _overlap(ref, out)]:
                del held[offset]
            held[out.offset] = (v, out)


def test_a_chain_that_writes_over_its_input_needs_one_buffer():
    g = chain(6)
    placed = place(g, select(g, [cand([n], 1.0, g, inplace=((0, 0),)) for n in g.nodes]), {})
    assert placed.plan.arena == 8 * 16 * 4
    assert [s.inputs[0] == s.outputs[0] for s in placed.plan.steps] == [False, True, True, True, True, False]


def test_memory_of_another_type_is_not_taken_over():
    b = Builder()
    v = b("relu", b("cast", b("relu", b.input(8)), dtype="int32"))
    g = b.done(b("neg", v))
    placed = place(g, select(g, [cand([n], 1.0, g, inplace=((0, 0),)) for n in g.nodes]), {})
    cast = placed.plan.steps[1]
    assert cast.inputs[0].offset != cast.outputs[0].offset


def test_an_activation_goes_to_the_library_where_that_costs_no_more():
    g = chain(3)
    conv, act, window = g.nodes
    library = replace(cand([conv, act], 5.0, g, "library conv + act"), proposer="library")
    group = replace(cand([act, window], 2.0, g, "act + window"), proposer="core")
    alone = [cand([conv], 5.0, g, "conv"), cand([act], 2.5, g, "act"), cand([window], 2.0, g, "window")]
    chosen = select(g, [library, group, *alone])
    assert [u.candidate.reason for u in chosen.units] == ["library conv + act", "window"]
    dearer = replace(library, seconds=5.1)
    chosen = select(g, [dearer, group, *alone])
    assert [u.candidate.reason for u in chosen.units] == ["conv", "act + window"]
