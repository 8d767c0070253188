"""Symbolic dims: canonical form, evaluation, substitution."""

from __future__ import annotations

import pickle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nnaccel_core.errors import NnaccelError
from nnaccel_core.ir.dims import Dim, ceil_div, dim_max, dim_min, evaluate, free_symbols, linear, substitute, sym
from nnaccel_core.ir.types import TensorType, channels_last, common_env

NAMES = ("a", "b", "c")


def _exprs() -> st.SearchStrategy[tuple[Dim, object]]:
    """Pairs of a dim and a function of an environment that computes the same with plain integers."""
    leaf = st.one_of(
        st.integers(-5, 9).map(lambda i: (i, lambda env: i)),
        st.sampled_from(NAMES).map(lambda n: (sym(n), lambda env: env[n])),
    )

    def grow(child):
        pair = st.tuples(child, child)
        positive = st.tuples(child, st.integers(1, 7))
        return st.one_of(
            pair.map(lambda p: (p[0][0] + p[1][0], lambda e: p[0][1](e) + p[1][1](e))),
            pair.map(lambda p: (p[0][0] - p[1][0], lambda e: p[0][1](e) - p[1][1](e))),
            pair.map(lambda p: (p[0][0] * p[1][0], lambda e: p[0][1](e) * p[1][1](e))),
            pair.map(lambda p: (dim_min(p[0][0], p[1][0]), lambda e: min(p[0][1](e), p[1][1](e)))),
            pair.map(lambda p: (dim_max(p[0][0], p[1][0]), lambda e: max(p[0][1](e), p[1][1](e)))),
            positive.map(lambda p: (p[0][0] // p[1], lambda e: p[0][1](e) // p[1])),
            positive.map(lambda p: (p[0][0] % p[1], lambda e: p[0][1](e) % p[1])),
        )

    return st.recursive(leaf, grow, max_leaves=8)


@settings(max_examples=300, deadline=None)
@given(_exprs(), st.fixed_dictionaries({n: st.integers(0, 50) for n in NAMES}))
def test_evaluation_agrees_with_integers(pair, env):
    dim, meaning = pair
    assert evaluate(dim, env) == meaning(env)
    assert substitute(dim, env) == meaning(env)
    partial = substitute(dim, {"a": env["a"]})
    assert evaluate(partial, env) == meaning(env)


@settings(max_examples=200, deadline=None)
@given(_exprs(), st.fixed_dictionaries({n: st.integers(0, 50) for n in NAMES}))
def test_linear_splits_off_a_symbol(pair, env):
    split = linear(pair[0], "a")
    if split is not None:
        coefficient, rest = split
        assert "a" not in free_symbols(rest)
        assert coefficient * env["a"] + evaluate(rest, env) == evaluate(pair[0], env)


def test_equal_polynomials_are_one_object():
    a, b = sym("a"), sym("b")
    assert (a + b) * (a - b) is a * a - b * b
    assert (2 * a + 4 * b) // 2 is a + 2 * b
    assert (a + 3) - a == 3
    assert dim_max(a, a + 1, 2) is dim_max(a + 1, 2)
    assert ceil_div(a * 8, 8) is a
    assert pickle.loads(pickle.dumps(a * b + 1)) is a * b + 1


def test_missing_symbol_is_named():
    with pytest.raises(NnaccelError, match="'a' has no value"):
        evaluate(sym("a") + 1, {})


def test_common_env_binds_and_checks():
    n, h = sym("n"), sym("h")
    env: dict[str, int] = {}
    assert common_env((n, 3, h, h // 2), (2, 3, 9, 4), env)
    assert env == {"n": 2, "h": 9}
    assert not common_env((n, n), (2, 3), {})
    assert not common_env((n,), (2, 3), {})
    assert not common_env((h, h // 2), (9, 5), {})


def test_layout_strides_and_equivalence():
    t = TensorType((2, 3, 4, 5), "float32", channels_last(4))
    assert t.strides() == (60, 1, 15, 3)
    assert t.physical_shape == (2, 4, 5, 3)
    assert str(t) == "float32[2, 3, 4, 5]@0231"
    assert not t.same_memory((0, 1, 2, 3))
    assert TensorType((2, 3, 1, 1), "float32").same_memory(channels_last(4))
    with pytest.raises(ValueError, match="no permutation"):
        TensorType((2, 3), "float32", (0, 0))
    with pytest.raises(ValueError, match="unknown dtype"):
        TensorType((2,), "float31")
