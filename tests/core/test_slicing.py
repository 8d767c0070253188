"""Batch slicing: which graphs may be sliced, and into what."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.graphs import CONV, Builder, conv_bn_relu_net
from nnaccel_core.api import Machine
from nnaccel_core.driver.slicing import SliceCost, batch_symbol, largest_slice, slice_cost, slices
from nnaccel_core.ir import Update, sym
from nnaccel_core.passes.pipeline import GRAPH_PASSES, run_passes

MACHINE = Machine("x86", "test", "avx2", 2, 32, 32 << 10, 512 << 10, 32 << 20, 200e9, 25e9)


def test_a_convolutional_network_can_be_sliced():
    assert batch_symbol(run_passes(conv_bn_relu_net(sym("n")), GRAPH_PASSES)) == "n"


def test_a_fixed_batch_cannot():
    assert batch_symbol(run_passes(conv_bn_relu_net(2), GRAPH_PASSES)) is None


def _mixing():
    n = sym("n")
    b = Builder()
    x = b.input(n, 4)
    yield "softmax over the batch", b.done(b("softmax", x, axis=0))
    b = Builder()
    x = b.input(n, 4)
    yield "sum over the batch", b.done(b("add", x, b("reduce_sum", x, axes=(0,), keepdims=True)))
    b = Builder()
    x = b.input(n, 4)
    yield "flip of the batch", b.done(b("flip", x, axes=(0,)))
    b = Builder()
    x = b.input(n, 4)
    yield "roll of the batch", b.done(b("roll", x, shifts=(1,), axes=(0,)))
    b = Builder()
    x = b.input(n, 4)
    yield "concat of batches", b.done(b("concat", x, x, axis=0))
    b = Builder()
    x = b.input(n, 4)
    yield "product of samples", b.done(b("matmul", x, x, transpose_b=True))
    b = Builder()
    x = b.input(n, 4)
    yield "transposed batch", b.done(b("transpose", b("relu", b("transpose", x, perm=(1, 0))), perm=(1, 0)), b("relu", x))
    b = Builder()
    x = b.input(n, 4)
    yield "batch folded into another axis", b.done(b("reshape", x, shape=(n * 2, 2)))
    b = Builder()
    x = b.input(n, 4)
    yield "a host operator", b.done(b("cumsum", x, axis=0))
    b = Builder()
    x, y = b.input(n, 4), b.input(sym("m"), 4)
    yield "two batches", b.done(b("relu", x), b("relu", y))
    b = Builder()
    x, p = b.input(n, 4), b.param(4)
    total = b("reduce_sum", x, axes=(0,), keepdims=False)
    yield "an update", b.done(b("relu", x), updates=(Update(p, total),))
    b = Builder()
    x = b.input(n, 4)
    yield "an output without the batch", b.done(b("relu", x), b("reduce_sum", x, axes=(0,), keepdims=False))


@pytest.mark.parametrize(("what", "graph"), list(_mixing()), ids=[w for w, _ in _mixing()])
def test_what_mixes_samples_is_never_sliced(what, graph):
    assert batch_symbol(graph) is None


def test_parameters_may_broadcast_over_the_batch():
    b = Builder()
    x = b.input(sym("n"), 3, 5, 5)
    y = b("conv", b("add", x, b.param(1, 3, 1, 1)), b.param(4, 3, 3, 3), **CONV)
    assert batch_symbol(b.done(b("matmul", b("reshape", y, shape=(sym("n"), 100)), b.param(100, 7)))) == "n"


@given(st.integers(0, 300), st.sampled_from([1, 2, 4, 8, 16]))
def test_slices_add_up(total, largest):
    found = slices(total, largest)
    assert sum(found) == total
    assert all(s <= largest for s in found)
    assert max(found) - min(found) <= 1
    assert len(found) == max(1, -(-total // largest))
    assert list(found) == sorted(found, reverse=True)


def test_heavy_weights_ask_for_larger_slices():
    light = largest_slice(SliceCost(14_000_000, 0.6e9), MACHINE)
    vgg = largest_slice(SliceCost(553_000_000, 31e9), MACHINE)
    resnet = largest_slice(SliceCost(102_000_000, 8.2e9), MACHINE)
    assert light >= 1
    assert resnet <= vgg
    assert largest_slice(SliceCost(10**12, 1.0), MACHINE) == 64
    assert largest_slice(SliceCost(0, 1e9), MACHINE) == 1
    cost = slice_cost(run_passes(conv_bn_relu_net(sym("n")), GRAPH_PASSES), "n")
    assert cost.weight_bytes > 0
    assert cost.flops > 2 * 8 * 27 * 81
