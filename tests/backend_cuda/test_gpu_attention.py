"""Attention on the GPU: cuDNN's graphs against float64, in prediction and training, and in whole networks."""

from __future__ import annotations

import copy
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="needs torch")

import nnaccel  # noqa: E402

nn = torch.nn
sdpa = nn.functional.scaled_dot_product_attention
pytestmark = pytest.mark.gpu

#: Batch, heads of queries, heads of keys, queries, keys, elements of a row.
SIZES = [(2, 4, 4, 128, 128, 64), (3, 4, 4, 197, 197, 64), (2, 8, 2, 33, 65, 32), (1, 2, 2, 1, 77, 128), (2, 3, 3, 5, 5, 8)]


class Attention(nn.Module):  # type: ignore[misc,name-defined]
    """Heads behind positions in memory, as projections leave them."""

    def __init__(self, causal: bool = False, grouped: bool = False) -> None:
        super().__init__()
        self.causal, self.grouped = causal, grouped

    def forward(self, q: Any, k: Any, v: Any, mask: Any = None) -> Any:
        q, k, v = (t.transpose(1, 2) for t in (q, k, v))
        return sdpa(q, k, v, mask, is_causal=self.causal, enable_gqa=self.grouped).transpose(1, 2)


def draw(size: tuple[int, ...], dtype: Any) -> list[Any]:
    b, h, g, rows, keys, wide = size
    torch.manual_seed(0)
    return [torch.randn(b, n, m, wide, device="cuda").to(dtype) for n, m in ((rows, h), (keys, g), (keys, g))]


def error(got: Any, want: Any) -> float:
    return float((got.double() - want).norm() / want.norm().clamp_min(1e-12))


def bound(dtype: Any) -> float:
    return 2e-3 if dtype is torch.float16 else 1.6e-2


def runs_whole(fast: Any, *inputs: Any) -> bool:
    return "cuDNN sdpa" in str(nnaccel.explain(fast, *inputs))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_prediction(size: tuple[int, ...], causal: bool, dtype: Any) -> None:
    net = Attention(causal, size[1] != size[2])
    fast = nnaccel.optimize(net, device="cuda")
    given = draw(size, dtype)
    with torch.no_grad():
        want = net(*(t.double() for t in given))
        for _ in range(3):  # the last one replays a CUDA graph
            assert error(fast(*given), want) < bound(dtype)
        assert runs_whole(fast, *given)


@pytest.mark.parametrize("kind", ["added", "boolean", "a row hidden"])
def test_masks(kind: str) -> None:
    net = Attention()
    fast = nnaccel.optimize(net, device="cuda")
    given = draw((2, 4, 4, 48, 40, 64), torch.float16)
    mask = torch.randn(2, 1, 48, 40, device="cuda").half()
    if kind != "added":
        mask = mask > 0
    if kind == "a row hidden":
        mask[1, 0, 7] = False
    with torch.no_grad():
        want = net(*(t.double() for t in given), mask if mask.dtype is torch.bool else mask.double())
        for _ in range(3):
            got = fast(*given, mask)
            assert torch.isfinite(got).all() and error(got, want.nan_to_num()) < 2e-3
            if kind == "a row hidden":
                assert not got[1, 7].any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("size", SIZES[:3], ids=str)
def test_gradients(size: tuple[int, ...], causal: bool, dtype: Any) -> None:
    net = Attention(causal, size[1] != size[2])
    fast = nnaccel.optimize(net, device="cuda")
    given = [t.requires_grad_() for t in draw(size, dtype)]
    exact = [t.detach().double().requires_grad_() for t in given]
    seed = torch.randn_like(given[0])
    net(*exact).backward(seed.double())
    found = []
    for _ in range(3):
        for t in given:
            t.grad = None
        fast(*given).backward(seed)
        found.append([t.grad.clone() for t in given])
    for grads in found:
        for got, want in zip(grads, exact, strict=True):
            assert error(got, want.grad) < 2 * bound(dtype)
    assert all(torch.equal(a, b) for a, b in zip(found[1], found[2], strict=True)), "runs repeat"


def test_either_pass_alone_knows_what_the_other_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """cuDNN's log-sum-exp is the one of the decomposition: one pass may be cuDNN's and the other generated."""
    from nnaccel_backend_cuda import attention

    given = draw((2, 4, 4, 64, 64, 64), torch.float16)
    seed = torch.randn_like(given[0])
    propose = attention.propose
    exact = [t.double().requires_grad_() for t in given]
    Attention()(*exact).backward(seed.double())
    for left in ("sdpa", "sdpa_backward"):
        with monkeypatch.context() as m:
            m.setattr(attention, "propose", lambda p, node, tuner, left=left: [] if node.op == left else propose(p, node, tuner))
            fast = nnaccel.optimize(Attention(), device="cuda")
            leaves = [t.clone().requires_grad_() for t in given]
            fast(*leaves).backward(seed)
        for got, want in zip(leaves, exact, strict=True):
            assert error(got.grad, want.grad) < 4e-3, left


class Encoder(nn.Module):  # type: ignore[misc,name-defined]
    """Two layers of a transformer, as torch has them."""

    def __init__(self) -> None:
        super().__init__()
        layers = [nn.TransformerEncoderLayer(128, 4, 256, 0.0, batch_first=True, norm_first=True) for _ in range(2)]
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Any) -> Any:
        return self.layers(x)


def test_autocast_training_follows_torch() -> None:
    torch.manual_seed(0)
    theirs = Encoder().cuda().train()
    ours = nnaccel.optimize(copy.deepcopy(theirs), device="cuda")
    exact = copy.deepcopy(theirs).double()
    x = torch.randn(4, 50, 128, device="cuda")
    seed = torch.randn(4, 50, 128, device="cuda")
    exact(x.double()).backward(seed.double())
    grads = {}
    for name, net in (("theirs", theirs), ("ours", ours)):
        for _ in range(3):
            net.zero_grad()
            with torch.autocast("cuda", torch.bfloat16):
                y = net(x)
            y.backward(seed.to(y.dtype))
        grads[name] = [p.grad for p in net.parameters()]
    report = ours.nnaccel_report()
    assert not report["own_calls"], report
    for a, b, p in zip(grads["ours"], grads["theirs"], exact.parameters(), strict=True):
        assert error(a, p.grad) < max(4 * error(b, p.grad), 1e-2)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_networks_of_half_precision(dtype: Any) -> None:
    """Normalizations sum in float32, whatever they are given."""
    torch.manual_seed(0)
    exact = Encoder().double().cuda().eval()
    theirs = copy.deepcopy(exact).to(dtype)
    ours = nnaccel.optimize(copy.deepcopy(theirs), device="cuda")
    x = torch.randn(4, 50, 128, device="cuda").to(dtype)
    with torch.no_grad():
        want = exact(x.double())
        for _ in range(3):
            assert error(ours(x), want) < max(2 * error(theirs(x), want), bound(dtype))
