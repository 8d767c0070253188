"""Each way in which a trace would be wrong is refused with its reason, and the answer is still torch's."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from frontend_torch.nets import Lambda
from frontend_torch.reference import InterpretedSession, close, interpreted
from nnaccel_frontend_torch.call import flatten
from nnaccel_frontend_torch.capture import trace
from nnaccel_frontend_torch.guards import Guard
from nnaccel_frontend_torch.refusal import Refusal


def reason(net: nn.Module, *args: Any) -> str:
    """Why the trace of ``net`` is refused."""
    net.eval()
    call = flatten(args, {})
    guard = Guard(net)
    layouts = [tuple(range(t.dim())) for t in call.tensors]
    with torch.no_grad(), pytest.raises(Refusal) as e:
        trace(net, net.forward, call, layouts, lambda: not guard.state_changed())
    return str(e.value)


def counted(self: Any, x: torch.Tensor) -> torch.Tensor:
    self.calls += 1
    return x * self.calls


def stored(self: Any, x: torch.Tensor) -> torch.Tensor:
    y = x * 2
    self.seen.append(y)
    return y


def enabled(self: Any, x: torch.Tensor) -> torch.Tensor:
    with torch.enable_grad():
        return self.fc(x) * 2


def swallowed(self: Any, x: torch.Tensor) -> torch.Tensor:
    try:
        return x * float(x.sum())
    except Exception:
        return x * 0


REFUSED: list[tuple[str, Callable[..., Any], dict[str, Any]]] = [
    ("rand drew random numbers", lambda s, x: x + torch.rand(3), {}),
    ("ran on real tensors", lambda s, x: x + torch.empty(3).fill_(0), {}),
    ("ran on real tensors", lambda s, x: x + torch.as_tensor([1.0, 2, 3]), {}),
    ("ran on real tensors", lambda s, x: x + torch.from_numpy(np.ones(3, np.float32)), {}),
    ("ran on real tensors", lambda s, x: x + torch.logspace(0, 1, 3), {}),
    ("random numbers were drawn", lambda s, x: x * random.random(), {}),
    ("random numbers were drawn", lambda s, x: x * float(np.random.rand()), {}),
    ("changes its own attributes", counted, {"calls": 0}),
    ("changes its own attributes", stored, {"seen": []}),
    ("modes change", enabled, {"fc": nn.Linear(3, 3)}),
    ("contents of a tensor", lambda s, x: x if x.sum() > 0 else -x, {}),
    ("contents of a tensor", swallowed, {}),
    ("looks into a tensor", lambda s, x: x * x.sum().item(), {}),
    ("looks into a tensor", lambda s, x: torch.from_numpy(x.numpy() * 2), {}),
    ("looks at requires_grad", lambda s, x: x * 2 if x.requires_grad else x, {}),
    ("not part of the network", lambda s, x: nn.ReLU()(x), {}),
    ("returns a", lambda s, x: {x}, {}),
    ("tracing stopped with KeyError", lambda s, x: {}["missing"], {}),
    ("squeeze_ changes", lambda s, x: (x * 1).squeeze_(0), {}),
    ("writes its argument", lambda s, x: (x * 1).erfinv_(), {}),
    ("out= argument", lambda s, x: torch.add(x, x, out=s.buffer), {"buffer": torch.zeros(3)}),
    ("not known before it runs", lambda s, x: torch.masked_select(x, x > 0), {}),
    ("through a view made by expand", lambda s, x: (x + 1).expand(2, 3).mul_(2), {}),
    (
        "torch refuses mixed dtypes too",
        lambda s, x: F.batch_norm(x[None], s.mean, s.mean, training=True),
        {"mean": torch.zeros(3).double()},
    ),
]


@pytest.mark.parametrize(("text", "f", "owned"), REFUSED, ids=[f"{k}-{t}" for k, (t, _, _) in enumerate(REFUSED)])
def test_refused(text: str, f: Callable[..., Any], owned: dict[str, Any]) -> None:
    assert text in reason(Lambda(f, **owned), torch.ones(3))


def test_hooks_of_submodules() -> None:
    net = nn.Sequential(nn.Linear(3, 3), nn.ReLU())
    seen = []
    net[1].register_forward_hook(lambda m, a, out: seen.append(out) or out * 2)
    assert "1 carries hooks" in reason(net, torch.ones(3))
    fast = interpreted(net)
    with torch.no_grad():
        for _ in range(2):
            close(fast(torch.ones(2, 3)), net(torch.ones(2, 3)))
    assert len(seen) == 4


def test_weight_norm_and_parametrizations() -> None:
    net = nn.Sequential(torch.nn.utils.weight_norm(nn.Linear(3, 3)))
    assert "carries hooks" in reason(net, torch.ones(3))
    net = nn.Sequential(torch.nn.utils.parametrizations.weight_norm(nn.Linear(3, 3)))
    assert "carries parametrizations" in reason(net, torch.ones(3))
    fast = interpreted(net)
    with torch.no_grad():
        close(fast(torch.ones(2, 3)), net(torch.ones(2, 3)))
        net[0].parametrizations.weight.original0.mul_(2)
        close(fast(torch.ones(2, 3)), net(torch.ones(2, 3)))


def test_refused_traces_leave_no_mark() -> None:
    def f(self: Any, x: torch.Tensor) -> torch.Tensor:
        return x * random.random() + torch.rand(3) + float(np.random.rand())

    net = Lambda(f).eval()
    fast = interpreted(net)

    def seeded(model: Any) -> torch.Tensor:
        random.seed(3), np.random.seed(3), torch.manual_seed(3)
        return model(torch.ones(3))

    close(seeded(fast), seeded(net))
    close(seeded(fast), seeded(net))


def test_scripted_submodules() -> None:
    net = nn.Sequential(torch.jit.script(nn.ReLU()))
    assert "TorchScript" in reason(net, torch.ones(3))


def test_training_submodule_in_a_network_in_eval() -> None:
    net = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)).eval()
    net[1].train()
    fast = interpreted(net)
    x = torch.randn(4, 3)
    with torch.no_grad():
        import copy

        other = copy.deepcopy(net)
        other.training = False
        close(fast(x), other(x))
        close(net[1].running_mean, other[1].running_mean)  # but for the order of sums
    assert not fast.nnaccel_report()["own_calls"]


def test_active_dropout_draws_the_same_numbers() -> None:
    net = nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.5), nn.Linear(8, 8)).eval()
    net[1].train()
    fast = interpreted(net)
    x = torch.randn(4, 8)
    with torch.no_grad():
        torch.manual_seed(1)
        a = fast(x)
        torch.manual_seed(1)
        close(a, net(x))
    (program,) = fast._nnaccel.session.made.values()
    assert len(program.captured.program.parts) == 1


def test_what_the_importer_can_not_map_runs_between_segments() -> None:
    bessel, gamma = Lambda(lambda s, x: torch.special.i0(x)), Lambda(lambda s, x: torch.lgamma(x.abs() + 1))
    net = nn.Sequential(nn.Linear(8, 8), bessel, nn.Linear(8, 8), gamma, nn.ReLU()).eval()
    fast = interpreted(net)
    with torch.no_grad():
        for n in (2, 3, 2):
            x = torch.randn(n, 8)
            close(fast(x), net(x))
    kinds = [type(p).__name__ for p in next(iter(fast._nnaccel.session.made.values())).captured.program.parts]
    assert kinds == ["Segment", "Foreign", "Segment", "Foreign", "Segment"]


def test_foreign_calls_read_live_parameters() -> None:
    net = Lambda(lambda s, x: torch.cdist(x * 1, s.w) + 1, w=nn.Parameter(torch.randn(4, 3))).eval()
    fast = interpreted(net)
    x = torch.randn(2, 3)
    with torch.no_grad():
        close(fast(x), net(x))
        net.w.data.mul_(3)
        close(fast(x), net(x))


def test_own_forward_runs_are_counted_with_their_reason() -> None:
    net = nn.Linear(3, 3).eval()
    fast = interpreted(net)
    x = torch.randn(2, 3)

    def why(call: Callable[[], Any]) -> str:
        before = dict(fast.nnaccel_report()["own_calls"])
        call()
        after = fast.nnaccel_report()["own_calls"]
        changed = [k for k in after if after[k] != before.get(k, 0)]
        assert len(changed) <= 1
        return changed[0] if changed else ""

    assert why(lambda: fast(x)) == ""
    assert fast(x).requires_grad
    with torch.no_grad():
        assert why(lambda: fast(x)) == ""
        fast.train()
        assert why(lambda: fast(x)) == ""
        fast.eval()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            fast_products = torch.ops.mkldnn._is_mkldnn_bf16_supported()
            assert ("torch has fast products" in why(lambda: fast(x))) == fast_products
            assert fast(x).dtype == torch.bfloat16
        assert "jit" in why(lambda: torch.jit.trace(fast, x, check_trace=False))
        assert "functorch" in why(lambda: torch.func.vmap(fast)(x[None]))
        from torch.utils.flop_counter import FlopCounterMode

        with FlopCounterMode(display=False) as counter:
            assert why(lambda: fast(x)) == "a torch dispatch mode is active"
        assert counter.get_total_flops() > 0

        class Sub(torch.Tensor):
            pass

        assert "Sub" in why(lambda: fast(x.as_subclass(Sub)))

        def complex_argument() -> None:
            with pytest.raises(RuntimeError):
                fast(x.to(torch.complex64))

        assert "complex" in why(complex_argument)
        handle = torch.nn.modules.module.register_module_forward_hook(lambda m, a, o: None)
        assert why(lambda: fast(x)) == "global module hooks are registered"
        handle.remove()
        assert "layout" in why(lambda: fast(x.to_sparse()))
        with torch.device("cpu"):
            assert why(lambda: fast(x)) == ""
        with torch.autograd.forward_ad.dual_level():
            assert "forward-mode" in why(lambda: fast(x))
    net.requires_grad_(False)
    assert why(lambda: fast(x)) == ""
    assert why(lambda: fast(x.requires_grad_())) == ""


def test_symbolic_tracing_and_compile_of_the_optimized_network() -> None:
    net = nn.Sequential(nn.Linear(3, 3), nn.ReLU()).eval()
    fast = interpreted(net)
    x = torch.randn(2, 3)
    with torch.no_grad():
        close(torch.fx.symbolic_trace(fast)(x), net(x))
        close(torch.compile(fast, backend="eager")(x), net(x))


def test_scripted_network_is_an_error() -> None:
    from nnaccel_core.errors import UnsupportedError
    from nnaccel_frontend_torch.module import wrap

    with pytest.raises(UnsupportedError, match="TorchScript"):
        wrap(torch.jit.script(nn.ReLU()), InterpretedSession())
