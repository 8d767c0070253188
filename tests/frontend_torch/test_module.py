"""The optimized object is the user's network in everything but speed."""

from __future__ import annotations

import copy
import inspect
import io
import pickle
import threading
from typing import Any

import pytest
import torch
from torch import nn

from frontend_torch import reference
from frontend_torch.nets import Lambda, ResNet, mlp, settled
from frontend_torch.reference import InterpretedSession, close, interpreted
from nnaccel_frontend_torch import module as module_file
from nnaccel_frontend_torch.frontend import TorchFrontend


@pytest.fixture
def net() -> nn.Module:
    return settled(mlp())


@pytest.fixture(autouse=True)
def _rebuild_onto_the_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    import nnaccel_core

    monkeypatch.setattr(nnaccel_core, "optimize", lambda net, device=None, **kw: reference.interpreted(net))


X = torch.randn(3, 2, 12)


def test_it_is_the_users_class_and_shares_everything(net: nn.Module) -> None:
    fast = interpreted(net)
    assert isinstance(fast, nn.Sequential) and isinstance(fast, type(net))
    assert fast.__dict__ is net.__dict__
    assert list(fast.state_dict()) == list(net.state_dict())
    assert [n for n, _ in fast.named_parameters()] == [n for n, _ in net.named_parameters()]
    assert all(a is b for a, b in zip(fast.parameters(), net.parameters(), strict=True))
    assert fast[1] is net[1] and len(fast) == len(net)
    assert repr(fast) == repr(net)
    fast.label = "mine"
    assert net.label == "mine"
    assert type(interpreted(net)) is type(fast)


def test_signature_is_the_users() -> None:
    net = ResNet(8, 10)
    fast = interpreted(net)
    assert inspect.signature(fast.forward) == inspect.signature(net.forward)
    assert fast.forward.__doc__ == net.forward.__doc__


def test_optimizing_twice_is_optimizing_once(net: nn.Module) -> None:
    fast = interpreted(interpreted(net))
    assert fast._nnaccel.user is net


def test_copies(net: nn.Module) -> None:
    fast = interpreted(net)
    with torch.no_grad():
        want = fast(X)
        for twin in (copy.deepcopy(fast), copy.deepcopy([fast, fast])[1], pickle.loads(pickle.dumps(fast))):
            assert hasattr(twin, "nnaccel_report") and type(twin) is type(fast)
            assert twin[1].weight is not net[1].weight
            close(twin(X), want)
            twin[1].weight.zero_()
            close(fast(X), want)
        shallow = copy.copy(fast)
        assert shallow[1].weight is net[1].weight and shallow.__dict__ is not net.__dict__
        close(shallow(X), want)


def test_torch_save(net: nn.Module) -> None:
    fast = interpreted(net)
    file = io.BytesIO()
    torch.save(fast, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=False)
    with torch.no_grad():
        close(loaded(X), fast(X))
    file = io.BytesIO()
    torch.save(fast.state_dict(), file)
    file.seek(0)
    assert mlp().load_state_dict(torch.load(file)).missing_keys == []


def test_deepcopy_with_shared_parts() -> None:
    net = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    net[1].weight = net[0].weight
    twin = copy.deepcopy(interpreted(net))
    assert twin[1].weight is twin[0].weight


def test_hooks_of_the_root_run(net: nn.Module) -> None:
    fast = interpreted(net)
    seen: list[str] = []
    fast.register_forward_pre_hook(lambda m, a: seen.append("pre") or (a[0] * 2,))
    net.register_forward_hook(lambda m, a, out: seen.append("post") or out + 1)
    with torch.no_grad():
        close(fast(X), net(X))
    assert seen == ["pre", "post"] * 2
    assert fast.nnaccel_report()["compiled_calls"] == 1


def test_to_half_double_and_back(net: nn.Module) -> None:
    fast = interpreted(net)
    with torch.no_grad():
        close(fast(X), net(X))
        assert fast.double() is fast
        close(fast(X.double()), net(X.double()))
        fast.to(torch.float32)
        close(fast(X), net(X))
        assert fast.requires_grad_(False) is fast
        assert fast.to(memory_format=torch.channels_last) is fast
    close(fast(X), net(X))


def test_apply_and_children(net: nn.Module) -> None:
    fast = interpreted(net)
    with torch.no_grad():
        close(fast(X), net(X))
        fast.apply(lambda m: m.weight.data.mul_(0.5) if isinstance(m, nn.Linear) else None)
        close(fast(X), net(X))
    assert {n for n, _ in fast.named_modules()} == {n for n, _ in net.named_modules()}


def test_as_a_submodule(net: nn.Module) -> None:
    outer = nn.Sequential(interpreted(net), nn.Softmax(-1)).eval()
    with torch.no_grad():
        close(outer(X), nn.Softmax(-1)(net(X)))
        again = interpreted(outer)
        close(again(X), outer(X))


def test_results_of_one_call_are_not_overwritten_by_the_next(net: nn.Module) -> None:
    fast = interpreted(net)
    with torch.no_grad():
        a = fast(X)
        kept = a.clone()
        fast(X * 2)
        assert torch.equal(a, kept)


def test_inference_mode(net: nn.Module) -> None:
    fast = interpreted(net)
    with torch.inference_mode():
        out = fast(X)
        assert out.is_inference()
        close(out, net(X))
        close(fast(torch.randn(3, 2, 12)).shape, torch.Size([3, 5]))


def test_loaded_under_inference_mode() -> None:
    with torch.inference_mode():
        net = settled(mlp())
        fast = interpreted(net)
        close(fast(X), net(X))
        net[1].weight.mul_(2)
        close(fast(X), net(X))


# --- aliases and writes -----------------------------------------------------------------------------------------


def pair(f: Any, *args: Any, **owned: Any) -> tuple[Any, Any, Any, Any]:
    """Results and arguments of the optimized and of the plain network."""
    net = Lambda(f, **owned).eval()
    fast = interpreted(net)
    mine, theirs = copy.deepcopy(args), copy.deepcopy(args)
    with torch.no_grad():
        got, want = fast(*mine), net(*theirs)
    close(got, want)
    close(mine, theirs)
    assert not fast.nnaccel_report()["trace_refused"] and not fast.nnaccel_report()["own_calls"], fast.nnaccel_report()
    return got, want, mine, theirs


def test_an_output_that_is_an_input() -> None:
    got, _, mine, _ = pair(lambda s, x, y: (x, y + 1, x), torch.randn(3), torch.randn(3))
    assert got[0] is mine[0] and got[2] is mine[0]
    net = nn.Sequential(nn.Identity(), nn.Dropout()).eval()
    x = torch.randn(3)
    with torch.no_grad():
        assert interpreted(net)(x) is x


def test_an_output_that_views_an_input() -> None:
    got, _, mine, _ = pair(lambda s, x: (x.view(-1), x[:, 1], x.t(), x.detach()), torch.randn(2, 3))
    for out in got:
        assert out.untyped_storage()._cdata == mine[0].untyped_storage()._cdata
    assert got[3] is not mine[0]
    mine[0].zero_()
    assert all(not out.any() for out in got)


def test_outputs_that_share_memory() -> None:
    got, want, _, _ = pair(lambda s, x: (lambda y: (y, y[0], y.view(-1), y))(x * 2), torch.randn(2, 3))
    assert got[0] is got[3]
    for pair_ in (got, want):
        pair_[1].zero_()
    close(got, want)


def test_copies_are_copies() -> None:
    got, _, mine, _ = pair(lambda s, x: (x.clone(), x.clone(), (x * 2).clone()), torch.randn(2, 3))
    assert len({t.data_ptr() for t in (*got, mine[0])}) == 4


def test_a_parameter_as_output() -> None:
    p = nn.Parameter(torch.randn(3))
    net = Lambda(lambda s, x: (x + 1, s.p, s.p[:2], s.p.clone()), p=p).eval()
    with torch.no_grad():
        got = interpreted(net)(torch.randn(3))
    assert got[1] is p and got[2].data_ptr() == p.data_ptr() and got[3].data_ptr() != p.data_ptr()


IN_PLACE = [
    lambda s, x: x.add_(1),
    lambda s, x: (x.relu_(), x * 2),
    lambda s, x: (x * 1).relu_().mul_(3).sub_(1),
    lambda s, x: torch.relu_(x * 2) + x,
    lambda s, x: (lambda y: (y[:, 1].mul_(5), y))(x + 0),
    lambda s, x: (lambda y: (y.view(-1)[2:4].zero_(), y))(x + 0)[1],
    lambda s, x: (lambda y: (y.t()[0].fill_(7), y.t(), y))(x + 0)[1:],
    lambda s, x: (x[0].copy_(x[1]), x.sum())[1],
    lambda s, x: x.clamp_(-0.5, 0.5).view(-1),
    lambda s, x: x.masked_fill_(x > 0, -1.0),
    lambda s, x: torch.nn.functional.relu(x + 1, inplace=True),
    lambda s, x: torch.nn.functional.leaky_relu(x - 1, 0.2, inplace=True),
    lambda s, x: x.div_(2).add_(x),
    lambda s, x: x.zero_(),
    lambda s, x: x.fill_(3).add_(x),
]


@pytest.mark.parametrize("f", IN_PLACE)
def test_in_place(f: Any) -> None:
    _, _, mine, theirs = pair(f, torch.randn(2, 3))
    assert (mine[0]._version > 0) == (theirs[0]._version > 0)


def test_assignment_by_index_and_operators() -> None:
    def f(self: Any, x: torch.Tensor, y: torch.Tensor) -> Any:
        z = x * 1
        z[:, 1] = y[:, 0]
        z[0] = 3
        z[..., 2:] = torch.tanh(y[..., 2:])
        w = z[1]
        z += y
        w *= 2
        z[1:, :1] -= 1
        z /= 2
        return z, w

    pair(f, torch.randn(3, 4), torch.randn(3, 4))


def test_written_arguments_that_share_memory_run_in_torch() -> None:
    net = Lambda(lambda s, a, b: a.add_(1) + b).eval()
    fast = interpreted(net)
    a, b = torch.randn(3), torch.randn(3)
    with torch.no_grad():
        close(fast(a.clone(), b.clone()), net(a.clone(), b.clone()))
        x, y = torch.ones(3), torch.ones(3)
        close(fast(x, x), net(y, y))
    assert "arguments share memory and the network writes one of them" in fast.nnaccel_report()["own_calls"]


def test_a_reshape_that_may_be_a_copy() -> None:
    def f(self: Any, x: torch.Tensor) -> Any:
        y = (x * 1).transpose(0, 1)
        z = y.reshape(-1)
        z += 1
        return y, z

    net = Lambda(f).eval()
    fast = interpreted(net)
    x = torch.randn(2, 3)
    close(fast(x), net(x))
    assert "may or may not be a copy" in fast.nnaccel_report()["trace_refused"]


# --- kinds of arguments -----------------------------------------------------------------------------------------


def test_arguments_of_any_strides(net: nn.Module) -> None:
    conv = settled(nn.Sequential(nn.Conv2d(4, 6, 3), nn.ReLU()))
    fast = interpreted(conv)
    base = torch.randn(2, 8, 10, 12)
    with torch.no_grad():
        for x in (
            base[:, ::2],
            base[:, 2:6],
            base[:, :4].flip(3),
            base[:, :4].transpose(2, 3),
            base[:1, :4].expand(3, -1, -1, -1),
            base[:, :4].contiguous(memory_format=torch.channels_last),
            base[:, :4, ::2, ::3],
            base.permute(0, 3, 1, 2)[:, :4],
            torch._neg_view(base[:, :4].contiguous()),
            base.new_zeros(0, 4, 10, 12),
        ):
            close(fast(x), conv(x))


def test_arguments_that_are_no_tensors_are_part_of_the_program() -> None:
    net = Lambda(lambda s, x, k=1.0, mode="a": x * k if mode == "a" else x + k).eval()
    fast = interpreted(net)
    x = torch.randn(3)
    for args, kw in (((x,), {}), ((x, 2), {}), ((x, 2.0), {}), ((x, True), {}), ((x,), {"mode": "b"}), ((x, 2), {"mode": "b"})):
        close(fast(*args, **kw), net(*args, **kw))
    assert fast.nnaccel_report()["captures"] == 6
    net = Lambda(lambda s, x, o: x * o.k).eval()
    fast = interpreted(net)
    close(fast(x, type("O", (), {"k": 3})()), x * 3)
    assert any("argument is a" in r for r in fast.nnaccel_report()["own_calls"])


def test_errors_are_the_networks_own(net: nn.Module) -> None:
    fast = interpreted(net)
    with torch.no_grad():
        with pytest.raises(RuntimeError):
            net(torch.randn(3, 5))
        with pytest.raises(RuntimeError):
            fast(torch.randn(3, 5))
        close(fast(X), net(X))
        with pytest.raises(RuntimeError):
            fast(torch.randn(3, 5))
        close(fast(X), net(X))
    assert not fast.nnaccel_report()["trace_refused"]
    with pytest.raises(TypeError):
        fast()


@torch.no_grad()
def test_default_dtype_is_part_of_the_program() -> None:
    net = Lambda(lambda s, x: x / 2).eval()
    fast = interpreted(net)
    x = torch.tensor([1, 2])
    assert fast(x).dtype == torch.float32
    torch.set_default_dtype(torch.float64)
    try:
        assert fast(x).dtype == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)
    assert fast(x).dtype == torch.float32


def test_threads_share_one_network() -> None:
    net = settled(ResNet(4, 5, (1, 1)))
    fast = interpreted(net)
    errors: list[BaseException] = []

    def work(seed: int) -> None:
        try:
            generator = torch.Generator().manual_seed(seed)
            with torch.no_grad():
                for n in (1, 2, 3):
                    x = torch.randn(n, 3, 24, 24, generator=generator)
                    close(fast(x), net(x))
        except BaseException as e:
            errors.append(e)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not errors, errors
    assert fast.nnaccel_report()["captures"] == 1


def test_frontend_accepts_modules_only() -> None:
    assert TorchFrontend.accepts(nn.ReLU()) and not TorchFrontend.accepts(3)
    assert TorchFrontend.default_device(nn.ReLU()) == "cpu" and TorchFrontend.default_device(nn.Linear(1, 1)) == "cpu"
    wrapped = TorchFrontend().wrap(nn.ReLU(), InterpretedSession())
    assert isinstance(wrapped, module_file.Optimized)
    assert all(d.ok or d.fix for d in TorchFrontend.diagnose())
