"""Gathers by kernels written by hand: what is offered for them, and that the compiler takes the text. The numbers need a GPU."""

from __future__ import annotations

from typing import Any

import pytest

from backend_cuda.test_executable import Gpu, gpu
from backend_cuda.test_stems import MACHINE, compiles
from nnaccel_backend_cuda import gathers
from nnaccel_backend_cuda.candidates import Proposer
from nnaccel_backend_cuda.gathers import GatherSpec
from nnaccel_core.ir import Graph, Node, TensorType, Value, sym
from nnaccel_core.ops.registry import infer
from nnaccel_core.options import Options

__all__ = ["gpu"]


def offered(op: str, types: list[TensorType], **attrs: Any) -> list[GatherSpec]:
    inputs = tuple(Value(t, f"x{i}") for i, t in enumerate(types))
    outputs = tuple(Value(t, "y") for t in infer(op, types, attrs))
    graph = Graph(inputs, (), (Node(op, inputs, outputs, attrs, "net.embedding"),), outputs)
    found = Proposer(graph, {"n": 3}, MACHINE, Options(), None).propose()
    return [c.impl for c in found if isinstance(c.impl, GatherSpec)]


def test_a_table_of_embeddings_and_its_gradient(gpu: Gpu) -> None:
    table, tokens = TensorType((100, 24), "bfloat16"), TensorType((sym("n"), 7), "int64")
    assert offered("gather", [table, tokens], axis=0) == [GatherSpec(1, 1, 100, 21, 24, "bfloat16", "int64", True, False)]
    g = TensorType((sym("n"), 7, 24), "float32")
    (found,) = offered("gather_backward", [g, tokens], axis=0, extent=100)
    assert found == GatherSpec(1, 1, 100, 21, 24, "float32", "int64", True, True)


def test_batches_of_indices_along_an_inner_axis(gpu: Gpu) -> None:
    x, index = TensorType((sym("n"), 5, 8, 2), "int64"), TensorType((sym("n"), 4), "int32")
    assert offered("gather", [x, index], axis=2, batch=1) == [GatherSpec(3, 5, 8, 4, 2, "int64", "int32", True, False)]
    assert not offered("gather_backward", [TensorType((2, 4), "float64"), TensorType((4,), "int64")], axis=1, extent=5)


CASES = [
    GatherSpec(1, 1, 9, 5, tail, dtype, index, negative, backward)
    for tail, dtype, index, negative, backward in (
        (8, "bfloat16", "int64", True, False), (3, "bool", "int32", False, False), (2, "float32", "int64", True, False),
        (5, "float16", "int32", True, True), (300, "bfloat16", "int64", True, True), (64, "float32", "int64", False, True),
    )
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_compiler_takes_the_kernels(case: GatherSpec) -> None:
    text, unit, group = gathers.source(case)
    assert unit in (1, 2, 4, 8, 16) and 1 <= group <= 32
    compiles(text, "gather.cu")
