"""Under autocast: torch's own lists, torch's dtypes, and results as close as torch's, or closer."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F
from torch.utils._pytree import tree_leaves

import nnaccel_core
from frontend_torch.reference import interpreted
from frontend_torch.test_operator_list import FAMILIES, network
from nnaccel_core.ir import Graph, TensorType, Value, sym
from nnaccel_core.ir.verify import verify
from nnaccel_core.ops.registry import infer, rewriter
from nnaccel_core.passes.widen import widen
from nnaccel_frontend_torch import autocast, mapping
from nnaccel_frontend_torch.call import flatten
from nnaccel_frontend_torch.capture import trace
from nnaccel_frontend_torch.dtypes import TO_IR
from nnaccel_frontend_torch.place import at

BF16 = torch.bfloat16
Tensors = dict[str, torch.Tensor]

#: What the mapping table calls by another name than torch's dispatcher.
NAMES = {
    "grid_sampler": "grid_sample", "grid_sampler_2d": "grid_sample", "grid_sampler_3d": "grid_sample",
    "reflection_pad1d": "pad", "reflection_pad2d": "pad", "replication_pad1d": "pad", "replication_pad2d": "pad",
    "replication_pad3d": "pad", "upsample_nearest1d": "interpolate", "upsample_nearest2d": "interpolate",
    "upsample_nearest3d": "interpolate", "upsample_linear1d": "interpolate", "upsample_bilinear2d": "interpolate",
    "upsample_trilinear3d": "interpolate", "upsample_bicubic2d": "interpolate", "tensordot": "inner",
}  # fmt: skip
#: Calls that torch makes of listed ones.
COMPOSED = {
    "cpu": {"affine_grid", "lp_pool3d", "adaptive_max_pool3d_with_indices", "concat", "concatenate", "hstack", "vstack"},
    "cuda": {
        "affine_grid", "rpow", "linalg_norm", "normalize", "pairwise_distance", "special_logsumexp", "square", "softmin",
        "local_response_norm", "lp_pool1d", "lp_pool2d", "lp_pool3d", "special_softmax", "softmax2d", "special_log_softmax",
    },
}  # fmt: skip


#: Rows whose result jumps where an argument is rounded.
JUMPS = {"remainder"}


@contextmanager
def lowered(device: str = "cpu", dtype: torch.dtype = BF16) -> Iterator[None]:
    """Autocast; for a device that is not there too."""
    before = torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)
    torch.set_autocast_enabled(device, True)
    torch.set_autocast_dtype(device, dtype)
    try:
        yield
    finally:
        torch.set_autocast_enabled(device, before[0])
        torch.set_autocast_dtype(device, before[1])
        torch.clear_autocast_cache()


@pytest.fixture(autouse=True)
def slow_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls are compiled whatever this machine's torch can do."""
    monkeypatch.setattr(autocast, "native", lambda device, lower: False)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_the_lists_are_those_of_torchs_dispatcher(device: str) -> None:
    key = {"cpu": "AutocastCPU", "cuda": "AutocastCUDA"}[device]
    registered = {n.removeprefix("aten::").split(".")[0] for n in torch._C._dispatch_get_registrations_for_dispatch_key(key)}
    theirs = {NAMES.get(n, n) for n in registered} & set(mapping.TABLE)
    ours = autocast.LOWER[device] | autocast.FLOAT32[device] | autocast.WIDEST[device]
    assert theirs - ours - {"pad", "interpolate"} == set(), "listed by torch"
    assert ours & set(mapping.TABLE) - theirs - COMPOSED[device] == set(), "not listed by torch"


def distance(a: torch.Tensor, b: torch.Tensor) -> float:
    a, b = a.detach().double(), b.detach().double()
    same = (a == b) | (a.isnan() & b.isnan())
    return float(torch.where(same, 0.0, (a - b).abs()).max() / b[b.isfinite()].abs().max().clamp(min=1.0)) if a.numel() else 0.0


def compared(rows: Mapping[str, Any], args: tuple[torch.Tensor, ...], limit: float) -> dict[str, str]:
    """What is wrong with each row, in dtypes or numbers."""
    wrong = {}
    for name, row in rows.items():
        net = network({name: row})
        with torch.no_grad(), lowered():
            try:
                want = tree_leaves(net(*args))
            except (RuntimeError, NotImplementedError):  # torch has no kernel for this dtype
                continue
            got = tree_leaves(interpreted(net)(*args))
        for g, w in zip(got, want, strict=True):
            if isinstance(w, torch.Tensor):
                if g.dtype != w.dtype:
                    wrong[name] = f"{g.dtype} instead of {w.dtype}"
                elif w.is_floating_point() and name not in JUMPS and distance(g, w) > limit:
                    wrong[name] = f"apart by {distance(g, w):.3g}"
    return wrong


@pytest.mark.parametrize("dtype", [torch.float32, BF16], ids=["from-float32", "from-bfloat16"])
@pytest.mark.parametrize("family", FAMILIES)
def test_dtypes_are_torchs(family: str, dtype: torch.dtype) -> None:
    args, rows = FAMILIES[family]
    given = tuple(t.to(dtype) if t.is_floating_point() else t for t in args)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wrong = compared(rows, given, 0.1)
    assert not wrong, "\n".join(f"{k}: {v}" for k, v in wrong.items())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=["from-float32", "from-float16"])
def test_dtypes_on_a_gpu_are_torchs(dtype: torch.dtype) -> None:
    """By tensors without data, for which no GPU is needed."""
    seen, wrong = 0, []
    for family, (args, rows) in FAMILIES.items():
        given = [t.to(dtype) if t.is_floating_point() else t for t in args]
        for name, row in rows.items():
            net = network({name: row})
            if list(net.parameters()) or list(net.buffers()):
                continue
            try:
                with FakeTensorMode(), lowered("cuda", torch.float16):
                    want = tree_leaves(net(*[torch.empty(t.shape, dtype=t.dtype, device="cuda") for t in given]))
            except Exception:  # a row of the CPU's own
                continue
            with lowered("cuda", torch.float16), at(torch.device("cuda")), torch.no_grad():
                layouts = [tuple(range(t.dim())) for t in given]
                record = trace(net, net.forward, flatten(given, {}), layouts, lambda: True)
            segments = record.captured.program.segments()
            types = {n: v.dtype for s in segments for n, v in zip(s.outputs, s.graph.outputs, strict=True)}
            got = [types.get(n) for n in record.captured.program.outputs]
            theirs = [TO_IR[t.dtype] for t in want if isinstance(t, torch.Tensor)]
            if len(got) == len(theirs) and None not in got:
                seen += 1
                wrong += [f"{family}, {name}: {g} instead of {w}" for g, w in zip(got, theirs, strict=True) if g != w]
    assert not wrong, "\n".join(wrong)
    assert seen > 150


# --- calls that are compiled ----------------------------------------------------------------------------------------


class Net(nn.Module):
    """Convolutions, normalization, attention, a part in full precision and a call that stays in torch."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.conv2, self.norm = nn.Conv2d(8, 8, 3, padding=1), nn.LayerNorm(8)
        self.a, self.b, self.c = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        h = F.relu(self.bn(self.conv1(x)))
        h = self.conv2(h) + h
        rows = self.norm(h.flatten(2).transpose(1, 2))
        rows = F.scaled_dot_product_attention(self.a(rows), self.a(rows), rows)
        with torch.autocast("cpu", enabled=False):
            exact = self.b(rows.to(self.b.weight.dtype))
        left = torch.special.i0(rows)
        dots = torch.einsum("bij,bkj->bik", rows, rows)
        return {"y": self.c(exact.mean(1)), "h": h, "exact": exact, "left": left, "dots": dots}


def trained(net: nn.Module, x: torch.Tensor, dtype: torch.dtype | None) -> tuple[Tensors, Tensors]:
    """Results and gradients of one step."""
    net.zero_grad()
    x = x.clone().requires_grad_()
    with torch.autocast("cpu", dtype=dtype or BF16, enabled=dtype is not None):
        out = net(x)
    sum(v.float().square().mean() for v in out.values()).backward()  # type: ignore[union-attr]
    return out, {"x": x.grad, **{n: p.grad for n, p in net.named_parameters()}}  # type: ignore[dict-item]


def optimized(net: nn.Module, **options: Any) -> nn.Module:
    try:
        return nnaccel_core.optimize(net, "cpu", **options)
    except (nnaccel_core.DeviceError, nnaccel_core.ToolchainError, nnaccel_core.PluginError) as e:
        pytest.skip(f"no CPU backend here: {e}")


@pytest.mark.parametrize("dtype", [BF16, torch.float16], ids=["bfloat16", "float16"])
def test_a_training_step_is_as_close_as_torchs(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    theirs = Net()
    ours, exact = optimized(copy.deepcopy(theirs)), copy.deepcopy(theirs).double()
    x = torch.randn(4, 3, 6, 7)
    results = [trained(net, x, dtype) for net in (ours, theirs)]
    judge = trained(exact, x.double(), None)
    for found, by_torch, true in zip(*results, judge, strict=True):
        for name, mine in found.items():
            assert mine.dtype == by_torch[name].dtype, name
            assert distance(mine, true[name]) <= 2 * distance(by_torch[name], true[name]) + torch.finfo(mine.dtype).eps, name
    torch.testing.assert_close(ours.bn.running_var, theirs.bn.running_var, rtol=0.02, atol=1e-3)
    report = ours.nnaccel_report()
    assert not report["own_calls"] and not report["trace_refused"], report
    (how,) = report["programs"]
    assert "computed in float32: there are no fast products of it here" in how and "i0" in how


def test_each_mode_has_a_program_of_its_own() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 3)).eval()
    fast = optimized(copy.deepcopy(net))
    x = torch.randn(4, 6)
    for _ in range(2):
        for dtype in (None, BF16, torch.float16):
            with torch.no_grad(), torch.autocast("cpu", dtype=dtype or BF16, enabled=dtype is not None):
                got, want = fast(x), net(x)
            assert got.dtype == want.dtype
            assert distance(got, want) < (1e-6 if dtype is None else 0.02)
        with torch.no_grad(), lowered("cuda"):
            assert fast(x).dtype == torch.float32, "another device's autocast"
    report = fast.nnaccel_report()
    assert report["captures"] == 3 and not report["own_calls"]


def test_a_scaler_of_gradients_works() -> None:
    torch.manual_seed(0)
    net = nn.Linear(6, 3)
    fast = optimized(copy.deepcopy(net))
    x = torch.randn(4, 6)
    for each in (net, fast):
        scaler = torch.amp.GradScaler("cpu", init_scale=64.0)
        optimizer = torch.optim.SGD(each.parameters(), 0.1)
        with torch.autocast("cpu", dtype=torch.float16):
            loss = each(x).float().square().mean()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
    torch.testing.assert_close(fast.weight, net.weight, rtol=1e-3, atol=1e-4)


def test_calls_stay_in_torch_where_that_has_fast_products(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(autocast, "native", lambda device, lower: lower == BF16)
    fast = interpreted(nn.Linear(3, 3).eval())
    with torch.no_grad(), torch.autocast("cpu", dtype=BF16):
        fast(torch.ones(2, 3))
    (reason,) = fast.nnaccel_report()["own_calls"]
    assert reason == "autocast to bfloat16 is on, of which torch has fast products on this processor and references has none"


class Untraceable(nn.Module):
    """Goes to Dynamo, with a part in full precision."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        h = self.a(x) + torch.as_tensor([1.0])
        with torch.autocast("cpu", enabled=False):
            exact = self.b(h)
        return exact, self.b(h)


def test_dynamos_graphs_follow_the_lists_too() -> None:
    torch.manual_seed(0)
    net = Untraceable().eval()
    fast = interpreted(net)
    x = torch.randn(4, 6)
    with torch.no_grad():
        for on in (True, False, True):
            with torch.autocast("cpu", dtype=BF16, enabled=on):
                got, want = fast(x), net(x)
            for g, w in zip(got, want, strict=True):
                assert g.dtype == w.dtype
                assert distance(g, w) < 0.02
    report = fast.nnaccel_report()
    assert report["trace_refused"] and not report["own_calls"], report
    assert sum("autocast" in p for p in report["programs"]) == 1, report


# --- the pass -------------------------------------------------------------------------------------------------------


def built(make: Callable[[Any, Value, Value], Value]) -> tuple[Graph, Value]:
    """A graph of a float32 input, and of a bfloat16 parameter."""
    x, w = Value(TensorType((sym("N"), 4), "float32"), "x"), Value(TensorType((4, 4), "bfloat16"), "w")
    r = rewriter(Graph((x,), (w,), (), ()))
    out = make(r, x, w)
    return Graph((x,), (w,), tuple(r.nodes), (out,)), out


def test_widening_leaves_out_only_free_roundings() -> None:
    def make(r: Any, x: Value, w: Value) -> Value:
        low = r.add("cast", [x], {"dtype": "bfloat16"})
        y = r.add("matmul", [low, w], {"transpose_a": False, "transpose_b": False})
        return r.add("relu", [y])

    graph, out = built(make)
    low = graph.nodes[0].output
    kept = verify(widen(graph, {"bfloat16"}), infer, "widen")
    freed = verify(widen(graph, {"bfloat16"}, {low}), infer, "widen")
    # x to bfloat16 and back, w, and the result; without the first two where they are free
    assert [n.op for n in kept.nodes] == ["cast", "cast", "cast", "matmul", "relu", "cast"]
    assert [n.op for n in freed.nodes] == ["cast", "matmul", "relu", "cast"]
    for g in (kept, freed):
        assert g.outputs == (out,) and all(n.inputs[0].dtype == "float32" for n in g.nodes if n.op in ("matmul", "relu"))


def test_widening_changes_nothing_else() -> None:
    graph, _ = built(lambda r, x, w: r.add("relu", [x]))
    assert widen(graph, {"bfloat16", "float16"}).nodes == graph.nodes
