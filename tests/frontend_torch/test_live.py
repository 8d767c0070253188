"""Live parameters: every way in which weights or modules change is seen by the next call."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import nn

from frontend_torch.nets import Lambda, settled
from frontend_torch.reference import close, interpreted
from nnaccel_frontend_torch import call, guards


@pytest.fixture(params=["native", "python"], autouse=True)
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    if request.param == "native":
        if not guards.native_available():
            pytest.skip(f"native guards are absent: {guards.native_reason}")
    else:
        monkeypatch.setattr(guards, "_native", None)
    yield request.param


def make() -> nn.Sequential:
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 16, 40), nn.Linear(40, 40))
    return settled(net)  # type: ignore[return-value]


X = torch.randn(2, 3, 6, 6)


def same(fast: Any, net: nn.Module, x: torch.Tensor = X) -> None:
    with torch.no_grad():
        close(fast(x), net(x))


def stepped(make_optimizer: Callable[..., torch.optim.Optimizer]) -> Callable[[nn.Module], None]:
    def change(net: nn.Module) -> None:
        optimizer = make_optimizer(net.parameters())
        net(X).sum().backward()
        optimizer.step()

    return change


def in_train_mode(net: nn.Module) -> None:
    net.train()
    net(X * 3 + 1)
    net.eval()


def numpy_write(net: nn.Module) -> None:
    net[4].weight.detach().numpy()[...] *= 1.5


def numpy_first_element(net: nn.Module) -> None:
    net[0].bias.detach().numpy()[0] += 1.0


def set_data(net: nn.Module) -> None:
    net[4].weight.data = torch.randn_like(net[4].weight)


def set_data_transposed(net: nn.Module) -> None:
    net[5].weight.data = net[5].weight.data.t()


def set_data_double(net: nn.Module) -> None:
    for p in [*net.parameters(), *net.buffers()]:
        if p.dtype.is_floating_point:
            p.data = p.data.double()


def loaded(assign: bool) -> Callable[[nn.Module], None]:
    def change(net: nn.Module) -> None:
        net.load_state_dict({k: v * 1.25 for k, v in make().state_dict().items()}, assign=assign)

    return change


def in_place(net: nn.Module) -> None:
    with torch.no_grad():
        net[4].weight.add_(0.5)


def replace_parameter(net: nn.Module) -> None:
    net[4].bias = nn.Parameter(torch.randn(40))


def replace_module(net: nn.Module) -> None:
    net[2] = nn.Tanh()


def append_module(net: nn.Module) -> None:
    net.append(nn.ReLU())


def delete_bias(net: nn.Module) -> None:
    net[5].bias = None


def swap(net: nn.Module) -> None:
    torch.utils.swap_tensors(net[4].weight, nn.Parameter(torch.randn(40, 128)))


def grown(net: nn.Module) -> None:
    net[5].weight.data = torch.randn(7, 40)
    net[5].bias.data = torch.randn(7)


def tied(net: nn.Module) -> None:
    net[5].weight = nn.Parameter(torch.eye(40))
    net.append(nn.Linear(40, 40))
    net[6].weight = net[5].weight


OPTIMIZERS = {
    f"{cls.__name__}-{kind}": stepped(lambda ps, cls=cls, kind=kind: cls(ps, lr=0.05, **({kind: True} if kind else {})))
    for cls in (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW)
    for kind in ("fused", "foreach", "")
}
CHANGES: dict[str, Callable[[nn.Module], None]] = {
    **OPTIMIZERS,
    "data_mul": lambda net: net[4].weight.data.mul_(2),
    "data_mul_of_a_statistic": lambda net: net[1].running_var.data.mul_(3),
    "set_data": set_data,
    "set_data_transposed": set_data_transposed,
    "set_data_double": set_data_double,
    "numpy_write": numpy_write,
    "numpy_first_element": numpy_first_element,
    "load": loaded(False),
    "load_assign": loaded(True),
    "in_place": in_place,
    "train_mode": in_train_mode,
    "replace_parameter": replace_parameter,
    "replace_module": replace_module,
    "append": append_module,
    "delete_bias": delete_bias,
    "swap": swap,
    "grown": grown,
    "tied": tied,
    "to_double_and_back": lambda net: net.double().float(),
    "eps": lambda net: setattr(net[1], "eps", 0.5),
    "stride": lambda net: setattr(net[4], "out_features", 40),
    "init": lambda net: nn.init.normal_(net[4].weight),
    "copy": lambda net: net[4].weight.data.copy_(torch.randn(40, 128)),
    "fill_small": lambda net: net[1].bias.data.fill_(0.25),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_change_is_seen(change: Callable[[nn.Module], None]) -> None:
    net = make()
    fast = interpreted(net)
    same(fast, net)
    same(fast, net)
    change(net)
    x = X.double() if net[0].weight.dtype == torch.float64 else X
    same(fast, net, x)
    same(fast, net, x)
    change(net)
    same(fast, net, X.double() if net[0].weight.dtype == torch.float64 else X)
    assert not fast.nnaccel_report()["trace_refused"]


def test_changed_values_refresh_and_do_not_recapture() -> None:
    net = make()
    fast = interpreted(net)
    same(fast, net)
    for name in ("SGD-fused", "data_mul", "numpy_write", "load", "train_mode", "set_data"):
        CHANGES[name](net)
        same(fast, net)
    report = fast.nnaccel_report()
    assert report["captures"] == 1 and report["refreshes"] == 6, report


def test_nothing_changed_refreshes_nothing() -> None:
    net = make()
    fast = interpreted(net)
    for n in (1, 2, 3, 2, 1):
        same(fast, net, torch.randn(n, 3, 6, 6))
    report = fast.nnaccel_report()
    assert (report["captures"], report["recaptures"], report["refreshes"], report["compiled_calls"]) == (1, 0, 0, 5)


def test_the_hook_marks_only_networks_that_own_the_parameters() -> None:
    net, other = make(), nn.Linear(2, 2)
    fast = interpreted(net)
    same(fast, net)
    other(torch.ones(2)).sum().backward()
    torch.optim.SGD(other.parameters(), lr=0.1).step()
    assert not fast._nnaccel.dirty
    stepped(lambda ps: torch.optim.SGD(ps, lr=0.1))(net)
    assert fast._nnaccel.dirty


def test_train_and_eval_drop_prepared_weights() -> None:
    net = make()
    fast = interpreted(net)
    same(fast, net)
    fast.train().eval()
    same(fast, net)
    assert fast.nnaccel_report()["refreshes"] == 1 and fast.nnaccel_report()["captures"] == 1


def test_training_the_optimized_network_itself() -> None:
    torch.manual_seed(0)
    net = make()
    fast = interpreted(net)
    optimizer = torch.optim.AdamW(fast.parameters(), lr=0.01, fused=True)
    losses = []
    for _ in range(3):
        fast.train()
        loss = fast(X).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        fast.eval()
        same(fast, net)
        losses.append(loss.item())
    assert losses[2] < losses[0]


def test_explicit_refresh() -> None:
    net = make()
    fast = interpreted(net)
    same(fast, net)
    fast.nnaccel_refresh()
    same(fast, net)
    assert fast.nnaccel_report()["refreshes"] == 1


@pytest.mark.parametrize(
    ("owned", "change"),
    [
        ({"scale": 2.0}, lambda n: setattr(n, "scale", 3.0)),
        ({"flag": True}, lambda n: setattr(n, "flag", False)),
        ({"scale": [2.0]}, lambda n: n.scale.__setitem__(0, 5.0)),
        ({"scale": {"a": 2.0}}, lambda n: n.scale.update(a=7.0)),
        ({"scale": ({"a": [2.0]},)}, lambda n: n.scale[0]["a"].__setitem__(0, 7.0)),
        ({"names": {"x"}}, lambda n: n.names.add("y")),
    ],
)
def test_plain_attributes(owned: dict[str, Any], change: Callable[[Any], None]) -> None:
    def f(self: Any, x: torch.Tensor) -> torch.Tensor:
        if hasattr(self, "flag"):
            return x if self.flag else -x
        if hasattr(self, "names"):
            return x * len(self.names)
        s = self.scale
        while not isinstance(s, float):
            s = s[0] if isinstance(s, (list, tuple)) else s["a"]
        return x * s

    net = Lambda(f, **copy.deepcopy(owned)).eval()
    fast = interpreted(net)
    same(fast, net)
    change(net)
    same(fast, net)
    assert fast.nnaccel_report()["recaptures"] == 1


def test_configuration_objects() -> None:
    class Config:
        scale = 1.0

        def __init__(self) -> None:
            self.scale = 2.0

    net = Lambda(lambda s, x: x * s.config.scale, config=Config()).eval()
    fast = interpreted(net)
    same(fast, net)
    net.config.scale = 9.0
    same(fast, net)


def test_hooks_added_after_capture() -> None:
    net = make()
    fast = interpreted(net)
    same(fast, net)
    handle = net[2].register_forward_hook(lambda m, a, out: out * 2)
    same(fast, net)
    handle.remove()
    same(fast, net)


def test_forward_replaced_on_the_instance() -> None:
    net = make()
    fast = interpreted(net)
    same(fast, net)
    net[2].forward = lambda x: x.relu() * 2
    same(fast, net)
    net.forward = lambda x: nn.Sequential.forward(net, x) + 1
    same(fast, net)
    del net.forward
    fast.forward = lambda x: nn.Sequential.forward(net, x) + 2
    same(fast, net)
    with torch.no_grad():
        close(fast(X), nn.Sequential.forward(net, X) + 2)


def test_buffers_that_the_network_writes() -> None:
    def f(self: Any, x: torch.Tensor) -> torch.Tensor:
        self.count.add_(1)
        self.mean.mul_(0.9).add_(x.mean(0), alpha=0.1)
        return x * self.count + self.mean

    net = Lambda(f)
    net.register_buffer("count", torch.zeros(()))
    net.register_buffer("mean", torch.zeros(6))
    net.eval()
    other = copy.deepcopy(net)
    fast = interpreted(net)
    for n in (2, 2, 3):
        x = torch.randn(n, 6)
        close(fast(x), other(x))
        close(dict(net.state_dict()), dict(other.state_dict()))
    report = fast.nnaccel_report()
    assert report["captures"] == 1 and report["refreshes"] == 0, report


def test_frozen_state_after_many_changes_goes_to_dynamo() -> None:
    net = Lambda(lambda s, x: x * s.k, k=0).eval()
    fast = interpreted(net)
    for k in range(call._MAX_RECAPTURES + 3):
        net.k = k + 2
        close(fast(X), net(X))
    assert "change between calls" in fast.nnaccel_report()["trace_refused"]
