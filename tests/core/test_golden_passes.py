"""Every graph pass on a small graph that it changes: before and after as text, in golden files, and the same results."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from core.graphs import CONV, Builder
from core.test_concat_passes import measured
from core.test_passes import check_same
from nnaccel_core.ir import Graph, Value, sym
from nnaccel_core.passes.pipeline import GRAPH_PASSES

N = sym("n")
POINT: dict[str, Any] = {**CONV, "padding": ((0, 0), (0, 0))}
POOL = {"kernel": (2, 2), "stride": (2, 2), "padding": ((0, 0), (0, 0)), "dilation": (1, 1), "ceil_mode": False}


def _batch_norm(b: Builder, x: Value) -> Value:
    return b("batch_norm", x, *(b.param(x.shape[1]) for _ in range(4)), eps=1e-5)


def identities(b: Builder) -> tuple[Value, ...]:
    x = b.input(N, 3, 4, 4)
    same = b("cast", b("reshape", x, shape=x.shape), dtype="float32")
    return (b("relu", b("pad", same, pads=((0, 0),) * 4, mode="constant", value=0.0)),)


def views(b: Builder) -> tuple[Value, ...]:
    x = b.input(N, 3, 4)
    return b("reshape", b("reshape", x, shape=(N, 12)), shape=(N, 4, 3)), b(
        "transpose", b("transpose", x, perm=(0, 2, 1)), perm=(1, 0, 2)
    )


def batch_norms(b: Builder) -> tuple[Value, ...]:
    x = b.input(N, 3, 5, 5)
    image = _batch_norm(b, b("conv", x, b.param(4, 3, 3, 3), b.param(4), **CONV))
    row = b("reduce_mean", image, axes=(2, 3), keepdims=False)
    return (_batch_norm(b, b("matmul", row, b.param(2, 4), transpose_b=True)),)


def biases(b: Builder) -> tuple[Value, ...]:
    x = b.input(N, 3, 5, 5)
    image = b("add", b("conv", x, b.param(4, 3, 1, 1), **POINT), b.param(4, 1, 1))
    row = b("reduce_mean", image, axes=(2, 3), keepdims=False)
    return (b("add", b.param(2), b("matmul", row, b.param(2, 4), transpose_b=True)),)


def written_out(b: Builder) -> tuple[Value, ...]:
    x = b.input(N, 3, 4, 4)
    swish = b("div", b("mul", x, b("clip", b("add", x, b.const(3.0)), min=0.0, max=6.0)), b.const(6.0))
    y = b("mul", b("mul", swish, b("sigmoid", swish)), b.const([1.0]))
    return (b("mul", b("mul", y, b.const(0.5)), b("add", b("erf", b("mul", y, b.const(np.sqrt(0.5)))), b.const(1.0))),)


def scales(b: Builder) -> tuple[Value, ...]:
    x = b.input(N, 3, 5, 5)
    behind = b("add", b("mul", b("conv", x, b.param(4, 3, 3, 3), b.param(4), **CONV), b.param(4, 1, 1)), b.const([0.5]))
    front = b("add", b("mul", b("relu", behind), b.const([2.0])), b.param(1, 4, 1, 1))
    wide = b("conv", front, b.param(6, 4, 1, 1), **POINT)
    row = b("reduce_mean", wide, axes=(2, 3), keepdims=False)
    return (b("add", b("matmul", row, b.param(6, 2)), b.param(2)),)


def activations_behind_views(b: Builder) -> tuple[Value, ...]:
    x = b("conv", b.input(N, 3, 5, 5), b.param(4, 3, 1, 1), **POINT)
    row = b("transpose", b("reshape", x, shape=(N, 4, 25)), perm=(0, 2, 1))
    return (b("sigmoid", b("relu", row)),)


def concats(b: Builder) -> tuple[Value, ...]:
    x, y, z = b.input(N, 3, 4, 4), b.input(N, 2, 4, 4), b.input(N, 1, 4, 4)
    return (b("concat", b("concat", x, y, axis=1), z, axis=1),)


def statistics_of_concats(b: Builder) -> tuple[Value, ...]:
    x, y, z = (b.input(N, c, 4, 4) for c in (3, 2, 1))
    return (*measured(b, b("concat", x, y, axis=1)), *measured(b, b("concat", x, y, z, axis=1)))


def work_behind_a_concat(b: Builder) -> tuple[Value, ...]:
    x = b.input(N, 3, 8, 8)
    parts = (b("conv", x, b.param(c, 3, 1, 1), **POINT) for c in (2, 3))
    return (b("max_pool", b("relu", b("concat", *parts, axis=1)), **POOL),)


def activation_in_front_of_a_pool(b: Builder) -> tuple[Value, ...]:
    return (b("max_pool", b("relu", b.input(N, 3, 8, 8)), **POOL),)


def siblings(b: Builder) -> tuple[Value, ...]:
    x = b.input(N, 6, 5, 5)
    one = b("relu", b("conv", x, b.param(4, 6, 1, 1), b.param(4), **POINT))
    two = b("conv", x, b.param(3, 6, 1, 1), b.param(3), **POINT)
    return (b("concat", one, two, axis=1),)


def pool_in_front_of_a_convolution(b: Builder) -> tuple[Value, ...]:
    same = {"kernel": (3, 3), "stride": (1, 1), "padding": ((1, 1), (1, 1)), "ceil_mode": False, "count_include_pad": True}
    x = b("avg_pool", b.input(N, 6, 5, 5), **same)
    return (b("relu", b("conv", x, b.param(2, 6, 1, 1), b.param(2), **POINT)),)


def composites(b: Builder) -> tuple[Value, ...]:
    return (b("adaptive_avg_pool", b("pixel_shuffle", b.input(N, 8, 3, 3), factor=2), output_size=(1, 1)),)


def constants(b: Builder) -> tuple[Value, ...]:
    half = b("mul", b.const(np.arange(3.0)), b.const(0.5))
    return (b("add", b.input(N, 3), b("exp", half)),)


def twins(b: Builder) -> tuple[Value, ...]:
    x = b.input(N, 3)
    return (b("add", b("exp", b("neg", x)), b("exp", b("neg", x))),)


def halves(b: Builder) -> tuple[Value, ...]:
    x = b("cast", b("relu", b.input(N, 3, 4, dtype="float16")), dtype="float32")
    mean = b("reduce_mean", x, axes=(2,), keepdims=True)
    return (b("mul", b("sub", x, mean), x),)


SAMPLES: dict[str, Callable[[Builder], tuple[Value, ...]]] = {
    "eliminate_identities": identities,
    "merge_views": views,
    "recognize_activations": written_out,
    "fold_affine": scales,
    "fold_batch_norm": batch_norms,
    "fold_affine_behind_batch_norm": scales,
    "fold_bias": biases,
    "merge_concats": concats,
    "measure_before_concat": statistics_of_concats,
    "move_before_concat": work_behind_a_concat,
    "activate_after_max_pool": activation_in_front_of_a_pool,
    "merge_sibling_convolutions": siblings,
    "pool_after_convolution": pool_in_front_of_a_convolution,
    "decompose": composites,
    "activate_before_views": activations_behind_views,
    "merge_decomposed_views": views,
    "fold_constants": constants,
    "eliminate_common_subexpressions": twins,
    "eliminate_dead_identities": identities,
    "widen_for_each_reader": halves,
}


def sample(name: str) -> Graph:
    b = Builder()
    return b.done(*SAMPLES[name](b))


def test_every_pass_has_its_sample() -> None:
    assert list(SAMPLES) == [name for name, _ in GRAPH_PASSES]


@pytest.mark.parametrize(("name", "run"), GRAPH_PASSES, ids=[name for name, _ in GRAPH_PASSES])
def test_before_and_after(name: str, run: Callable[[Graph], Graph], golden: Callable[[str, str], None]) -> None:
    before = sample(name)
    after = run(before)
    assert str(before) != str(after)
    golden(f"{name}.txt", f"--- before {name}\n{before}\n+++ after\n{after}\n")
    check_same(before, after, {"n": 2})
