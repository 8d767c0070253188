"""Concats without copies: what lies in a slice of a concat's output, what copies cost, and how that changes the cover."""

from __future__ import annotations

from dataclasses import replace

from core.graphs import Builder
from core.test_select_place import cand
from nnaccel_core.place import place
from nnaccel_core.plan import LibraryStep
from nnaccel_core.select.cover import select
from nnaccel_core.select.slices import Slice, find_slices


def generated(c):
    return replace(c, proposer="core")


def image(b, channels, batch=2):
    return b.input(batch, 5, channels)


def concat(b, *parts, axis=2):
    return b("concat", *parts, axis=axis)


def units(g, strided=lambda node: True):
    """One candidate for each node; concats leave out what is in place."""
    found = []
    for n in g.nodes:
        if n.op == "reshape":
            continue  # a view
        able = bool(strided(n))
        more = {"gathers": (0.1,) * len(n.inputs)} if n.op == "concat" else {}
        found.append(cand([n], 1.0, g, strided_in=(able,) * len(n.inputs), strided_out=(able,), **more))
    return select(g, found)


def slices(g, chosen):
    return find_slices(chosen.units, lambda v: v.type, {*g.inputs, *g.outputs}).of


def steps(g, chosen):
    found = {}
    for s in place(g, chosen, {}).plan.steps:
        assert isinstance(s, LibraryStep)
        found[s.candidate.outputs[0]] = s
    return found


def test_parts_follow_one_another_in_the_output():
    b = Builder()
    x, y = image(b, 3), image(b, 4)
    p, q = b("relu", x), b("neg", y)
    whole = concat(b, p, q)
    g = b.done(b("relu", whole))
    chosen = units(g)
    assert slices(g, chosen) == {p: Slice(whole, 2, 0), q: Slice(whole, 2, 3)}
    found = steps(g, chosen)
    at = found[whole].outputs[0]
    assert found[p].outputs[0].offset == at.offset and found[q].outputs[0].offset == at.offset + 4 * 3
    assert found[q].outputs[0].strides == (35, 7, 1)
    assert found[whole].inputs == (found[p].outputs[0], found[q].outputs[0])


def test_memory_of_a_slice_is_not_reused_before_the_concat():
    b = Builder()
    x = image(b, 4)
    p = b("relu", x)
    between = b("neg", b("relu", x))
    for _ in range(3):
        between = b("neg", between)
    whole = concat(b, p, between)
    g = b.done(b("relu", whole))
    found = steps(g, units(g))
    at = found[whole].outputs[0]
    inside = range(at.offset, at.offset + at.type.nbytes)
    for v, s in found.items():
        out = s.outputs[0]
        if out.space == "arena" and v not in (p, between, whole):
            assert out.offset not in inside and out.offset + out.type.nbytes - 1 not in inside


def test_a_growing_concat_is_a_slice_of_the_last_one():
    b = Builder()
    f = [image(b, 3)]
    for _ in range(3):
        f.append(b("relu", concat(b, *f) if len(f) > 1 else f[0]))
    whole = concat(b, *f)
    g = b.done(b("neg", whole))
    chosen = units(g)
    found = slices(g, chosen)
    inner = [n.output for n in g.nodes if n.op == "concat" and n.output is not whole]
    assert [found[v] for v in inner] == [Slice(whole, 2, 0)] * 2
    assert f[0] not in found  # an input of the graph: copied, by the first concat only
    placed = steps(g, chosen)
    first, second = (placed[v] for v in inner)
    assert first.inputs[0].space == "input" and second.inputs[0].space == "arena"
    assert second.inputs[0].offset == second.outputs[0].offset


def test_what_cannot_be_a_slice():
    b = Builder()
    x = image(b, 4)
    result, unread, viewed, twice = (b("relu", x) for _ in range(4))
    unwritten = b("neg", x)
    other = b("abs", unread)
    flat = b("reshape", viewed, shape=(40,))
    whole = concat(b, result, unwritten, unread, viewed, twice, twice)
    g = b.done(b("relu", whole), result, other, b("relu", flat))
    found = slices(g, units(g, strided=lambda n: n.op not in ("neg", "abs")))
    assert found == {twice: Slice(whole, 2, 16)}


def test_slices_along_the_outermost_axis_are_dense_memory_for_anybody():
    b = Builder()
    p, q = b("relu", image(b, 4)), b("neg", image(b, 4))
    whole = concat(b, p, q, axis=0)
    g = b.done(b("relu", whole))
    chosen = units(g, strided=lambda n: False)
    assert set(slices(g, chosen)) == {p, q}
    assert all(steps(g, chosen)[v].outputs[0].strides is None for v in (p, q))


def test_a_copy_is_charged_to_what_cannot_write_a_slice():
    b = Builder()
    p = b("relu", image(b, 4))
    g = b.done(b("relu", concat(b, p, b("neg", image(b, 4)))))
    relu, neg, joined, last = g.nodes
    others = [cand([n], 1.0, g, strided_in=(True,), strided_out=(True,)) for n in (neg, last)]
    gather = cand([joined], 0.0, g, gathers=(0.5, 0.5), strided_in=(True, True), strided_out=(True,))
    dense, strided = cand([relu], 1.0, g, "dense"), cand([relu], 1.3, g, "strided", strided_out=(True,))
    reasons = [u.candidate.reason for u in select(g, [*others, gather, dense, strided]).units]
    assert "strided" in reasons and "dense" not in reasons
    slow = cand([relu], 1.6, g, "slow", strided_out=(True,))
    assert "dense" in [u.candidate.reason for u in select(g, [*others, gather, dense, slow]).units]


def test_a_generated_group_gives_way_to_several_libraries_calls_around_it():
    """conv, conv, relu, relu, concat: the group of both activations and the concat saves more than either conv + relu."""
    b = Builder()
    a, c = b("neg", image(b, 4)), b("neg", image(b, 4))
    p, q = b("relu", a), b("relu", c)
    g = b.done(b("relu", concat(b, p, q)))
    na, nc, np_, nq, joined, last = g.nodes
    singles = [cand([n], 1.0, g) for n in (na, nc, np_, nq, last)] + [cand([joined], 0.1, g)]
    group = generated(cand([np_, nq, joined], 1.0, g, "group"))
    fused = [cand([na, np_], 1.05, g, "first"), cand([nc, nq], 1.05, g, "second")]
    chosen = select(g, [*singles, group, *fused])
    assert {u.candidate.reason for u in chosen.units} == {"c", "first", "second"}
    assert any(x is group and "take its layers along" in why for x, why in chosen.rejected)
    cheap = generated(cand([np_, nq, joined], 0.05, g, "group"))
    slow = [cand([na, np_], 1.05, g, "first"), cand([nc, nq], 1.05, g, "second")]
    assert "group" in {u.candidate.reason for u in select(g, [*singles, cheap, *slow]).units}
