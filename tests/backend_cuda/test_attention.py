"""Attention through cuDNN, on stand-ins for it and for the GPU: who runs it, what is kept for gradients, what happens without."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from backend_cuda.test_convolutions import use
from backend_cuda.test_executable import Gpu, gpu
from backend_cuda.test_training import laid, library
from nnaccel_core.api import Captured
from nnaccel_core.driver.segment import CompiledSegment
from nnaccel_core.driver.training import TrainedSegment
from nnaccel_core.ir import Graph, Node, TensorType, Value, sym
from nnaccel_core.ir.program import Program
from nnaccel_core.ops.registry import infer
from nnaccel_core.options import Options
from nnaccel_core.plan import LibraryStep

__all__ = ["gpu", "library"]

Tensor = torch.Tensor
HEADS, ROWS, WIDE = 4, 6, 8


def attention(dtype: str = "float16", causal: bool = False, mask: bool = False, heads: int = HEADS, wide: int = WIDE) -> Graph:
    """Heads stand behind positions in memory, as a projection leaves them; the result goes back there."""
    n, nodes = sym("n"), []

    def apply(op: str, inputs: list[Value], **attrs: Any) -> Value:
        outputs = tuple(Value(t, f"{op}{len(nodes)}_{i}") for i, t in enumerate(infer(op, [v.type for v in inputs], attrs)))
        nodes.append(Node(op, tuple(inputs), outputs, attrs, "net.attention"))
        return outputs[0]

    inputs = [Value(TensorType((n, ROWS, h, wide), dtype), name) for name, h in (("q", HEADS), ("k", heads), ("v", heads))]
    turned = [apply("transpose", [v], perm=(0, 2, 1, 3)) for v in inputs]
    if mask:
        inputs.append(Value(TensorType((n, 1, ROWS, ROWS), dtype), "mask"))
        turned.append(inputs[-1])
    out = apply("transpose", [apply("sdpa", turned, scale=0.25, causal=causal)], perm=(0, 2, 1, 3))
    return Graph(tuple(inputs), (), tuple(nodes), (out,))


def draw(graph: Graph, n: int = 2) -> list[Tensor]:
    torch.manual_seed(0)
    kinds = {"float16": torch.float16, "float32": torch.float32}
    return [torch.randn([n if not isinstance(d, int) else d for d in v.shape]).to(kinds[v.dtype]) for v in graph.inputs]


def judge(tensors: list[Tensor], causal: bool) -> Tensor:
    q, k, v = (t.float().transpose(1, 2) for t in tensors[:3])
    k, v = (t.repeat_interleave(HEADS // t.shape[1], 1) for t in (k, v))
    mask = tensors[3].float() if len(tensors) == 4 else None
    return torch.nn.functional.scaled_dot_product_attention(q, k, v, mask, is_causal=causal, scale=0.25).transpose(1, 2)


def reasons(segment: CompiledSegment, n: int = 2) -> list[str]:
    return [s.candidate.reason for s in segment.built({"n": n}).placed.plan.steps if isinstance(s, LibraryStep)]


def predict(gpu: Gpu, graph: Graph, causal: bool, options: Options | None = None) -> CompiledSegment:
    segment = CompiledSegment(graph, gpu.open(), gpu.bridge, options or Options(tf32=("matmul",)), {})
    tensors = draw(graph)
    for _ in range(3):
        (got,) = gpu.call(segment, {"n": 2}, tensors)
        torch.testing.assert_close(got.float(), judge(tensors, causal), rtol=2e-2, atol=5e-3)
    return segment


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("heads", [HEADS, 2])
def test_one_step_without_copies(library: Gpu, causal: bool, heads: int) -> None:
    segment = predict(library, attention(causal=causal, heads=heads), causal)
    steps = segment.built({"n": 2}).placed.plan.steps
    assert [r.split(" (")[0] for r in reasons(segment)] == ["cuDNN sdpa"] and len(steps) == 1
    assert segment.batch == "n", "samples stay apart in it"


def test_masks_are_added(library: Gpu) -> None:
    assert reasons(predict(library, attention(mask=True), False))[0].startswith("cuDNN sdpa")


@pytest.mark.parametrize(
    ("more", "options"),
    [({"dtype": "float32"}, None), ({"wide": 12}, None), ({}, Options(numerics="strict")), ({}, Options(libraries=False))],
    ids=["float32", "odd rows", "strict", "no libraries"],
)
def test_others_are_decomposed(library: Gpu, monkeypatch: pytest.MonkeyPatch, more: dict[str, Any], options: Any) -> None:
    no_products(monkeypatch)
    segment = predict(library, attention(**more), False, options)
    assert not reasons(segment)
    assert not any(n.op == "sdpa" for n in segment.main.nodes)


def no_products(monkeypatch: pytest.MonkeyPatch) -> None:
    """cuBLASLt has no stand-in."""
    monkeypatch.setattr("nnaccel_backend_cuda.candidates.Proposer._products", lambda self, node: [])


def test_what_no_plan_runs_is_decomposed_for_that_size(
    library: Gpu, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    no_products(monkeypatch)
    use(library, monkeypatch, ("sdpa",))
    monkeypatch.setenv("NNACCEL_DEBUG", "1")
    segment = predict(library, attention(causal=True), True)
    assert any(n.op == "sdpa" for n in segment.main.nodes) and not reasons(segment)
    assert "run in parts" in capfd.readouterr().err


@pytest.mark.parametrize(("causal", "heads"), [(False, HEADS), (True, 2)])
@pytest.mark.parametrize("refuses", [(), ("sdpa",), ("sdpa_backward",)], ids=["both", "gradients alone", "forward alone"])
def test_gradients(
    library: Gpu, monkeypatch: pytest.MonkeyPatch, causal: bool, heads: int, refuses: tuple[str, ...]
) -> None:
    """Either pass may be the library's: what the other one needs of it is the log-sum-exp, and that is one number."""
    no_products(monkeypatch)
    use(library, monkeypatch, refuses)
    graph = attention(causal=causal, heads=heads)
    segment = TrainedSegment(
        graph, [True] * 3, (), library.open(), library.bridge, Options(), Captured(Program((), (), ()), {})
    )
    tensors = draw(graph)
    leaves = [t.float().requires_grad_() for t in tensors]
    want = judge(leaves, causal)
    seed = torch.randn(want.shape).half()
    want.backward(seed.float())
    for _ in range(3):
        results, kept = segment.forward(tensors, [])
        assert sum(t.numel() for t in kept) == want.numel() + want.numel() // WIDE, "the result, and a number for each row"
        places = {"input": tensors, "output": [*results, *kept], "grad": [seed]}
        found = segment.backward(laid(segment, [places[s.place][s.index] for s in segment.sources]), [])
        torch.testing.assert_close(results[0].float(), want, rtol=2e-2, atol=5e-3)
        for leaf, at in zip(leaves, segment.gradient_of, strict=True):
            assert at is not None and leaf.grad is not None
            torch.testing.assert_close(found[at].float(), leaf.grad, rtol=3e-2, atol=1e-2)
    ran = [r.split()[1] for s in segment.segments() for r in reasons(s)]
    assert ran == [op for op in ("sdpa", "sdpa_backward") if op not in refuses]
