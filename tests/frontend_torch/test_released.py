"""``release_parameters=True``: memory comes back, results stay, and what needs the originals says so."""

from __future__ import annotations

import copy
import io
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import nnaccel_core
from frontend_torch.nets import settled
from nnaccel_core.errors import ReleasedError, UnsupportedError
from nnaccel_frontend_torch.released import SMALLEST, is_released

pytest.importorskip("nnaccel_backend_x86", reason="needs the x86 backend")

X = torch.randn(2, 3, 12, 12, generator=torch.Generator().manual_seed(0))


def make() -> Any:
    torch.manual_seed(0)
    return settled(
        nn.Sequential(
            nn.Conv2d(3, 64, 3), nn.BatchNorm2d(64), nn.ReLU(), nn.Conv2d(64, 80, 3), nn.BatchNorm2d(80), nn.ReLU(),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(80, 16),
        )
    )  # fmt: skip


def released() -> tuple[Any, Any]:
    """A network whose large convolution was released, and an optimized one of the same values."""
    net = make()
    kept = nnaccel_core.optimize(copy.deepcopy(net))
    fast = nnaccel_core.optimize(net, release_parameters=True)
    with torch.no_grad():
        torch.testing.assert_close(fast(X), kept(X), rtol=0, atol=0)
    assert is_released(net[3].weight)
    return fast, kept


def test_results_are_the_same_bits_and_what_is_visible_stays() -> None:
    net = make()
    before = {name: (p.shape, p.dtype, p.device, p.stride()) for name, p in net.named_parameters()}
    large = {name for name, p in net.named_parameters() if p.nbytes >= SMALLEST}
    fast = nnaccel_core.optimize(net, release_parameters=True)
    first = fast(X)
    assert not first.requires_grad, "the network is for prediction only"
    assert {name: (p.shape, p.dtype, p.device, p.stride()) for name, p in fast.named_parameters()} == before
    assert {name for name, p in fast.named_parameters() if is_released(p)} == large == {"3.weight"}
    assert fast.nnaccel_report()["released_bytes"] == net[3].weight.nbytes == 64 * 80 * 9 * 4
    for _ in range(3):
        torch.testing.assert_close(fast(X), first, rtol=0, atol=0)
    assert isinstance(net[3].weight, nn.Parameter)
    assert "Released parameter '3.weight' of shape [80, 64, 3, 3], torch.float32" in repr(net[3].weight)
    assert sum(p.numel() for p in fast.parameters()) == sum(p.numel() for p in make().parameters())


COMES_BACK = """
from pathlib import Path
import nnaccel_core, torch
from torch import nn

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

net = nn.Sequential(*(nn.Conv2d(512, 512, 3, padding=1) for _ in range(4))).eval()
fast = nnaccel_core.optimize(net)
x = torch.randn(1, 512, 8, 8)
with torch.no_grad():
    want = fast(x)
    before = resident()
    freed = fast.nnaccel_release()
    assert freed == 4 * 512 * 512 * 9 * 4
    assert before - resident() > 0.9 * freed
    torch.testing.assert_close(fast(x), want, rtol=0, atol=0)
    assert fast.nnaccel_release() == 0
"""


def test_memory_comes_back() -> None:
    """The resident memory of a process falls by what was released (weights of 38 MiB); in one of its own, where no earlier test
    has left holes that the allocator fills."""
    done = subprocess.run([sys.executable, "-c", COMES_BACK], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("shape", [(1, 3, 12, 12), (5, 3, 12, 12), (2, 3, 20, 16)])
def test_other_sizes_work_with_the_forms_that_there_are(shape: tuple[int, ...]) -> None:
    fast, kept = released()
    x = torch.randn(shape)
    with torch.no_grad():
        torch.testing.assert_close(fast(x), kept(x), rtol=1e-5, atol=1e-5)


def test_nan_of_the_input_is_kept() -> None:
    """It runs a plan of its own, made after the release."""
    fast, kept = released()
    x = X.clone()
    x[0, 0, 0, 0] = torch.nan
    with torch.no_grad():
        torch.testing.assert_close(fast(x), kept(x), equal_nan=True, rtol=1e-5, atol=1e-5)


NEEDS: dict[str, Callable[[Any], Any]] = {
    "state_dict": lambda f: f.state_dict(),
    "load_state_dict": lambda f: f.load_state_dict(make().state_dict()),
    "to": lambda f: f.to(torch.float64),
    "half": lambda f: f.half(),
    "train": lambda f: f.train(),
    "deepcopy": copy.deepcopy,
    "copy": copy.copy,
    "pickle": pickle.dumps,
    "save": lambda f: torch.save(f._nnaccel.user, io.BytesIO()),
    "refresh": lambda f: f.nnaccel_refresh(),
    "gradients of the input": lambda f: f(X.clone().requires_grad_()),
    "gradients": lambda f: f[3].weight.requires_grad_(True),
    "the user's own network": lambda f: f._nnaccel.user(X),
    "its state": lambda f: f._nnaccel.user.state_dict(),
    "a layer": lambda f: f[3](torch.randn(1, 64, 8, 8)),
    "values": lambda f: f[3].weight.sum(),
    "numpy": lambda f: f[3].weight.detach().numpy(),
    "address": lambda f: f[3].weight.data_ptr(),
    "data": lambda f: f[3].weight.data,
    "iteration": lambda f: list(f[3].weight),
    "write": lambda f: nn.init.zeros_(f[3].weight),
    "optimized again": lambda f: nnaccel_core.optimize(f._nnaccel.user),
    "a torch function mode": lambda f: _under_mode(f),
}


def _under_mode(fast: Any) -> Any:
    class Mode(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            return func(*args, **(kwargs or {}))

    with Mode():
        return fast(X)


@pytest.mark.parametrize("what", NEEDS)
def test_what_needs_the_originals_says_so(what: str) -> None:
    fast, kept = released()
    with pytest.raises(ReleasedError, match="was given back"):
        NEEDS[what](fast)
    if what != "gradients":
        with torch.no_grad():
            torch.testing.assert_close(fast(X), kept(X), rtol=0, atol=0)


CHANGES: dict[str, Callable[[Any], Any]] = {
    "a bias": lambda f: f[3].bias.data.add_(1),
    "a replaced layer": lambda f: f.__setitem__(8, nn.Linear(80, 16)),
    "a hook": lambda f: f[0].register_forward_hook(lambda m, a, y: None),
    "a layer's mode": lambda f: f[1].train(),
    "the network's mode": lambda f: setattr(f, "training", True),
}


@pytest.mark.parametrize("what", CHANGES)
def test_changes_are_never_ignored(what: str) -> None:
    fast, _ = released()
    CHANGES[what](fast)
    for _ in range(2):
        with torch.no_grad(), pytest.raises(ReleasedError, match="was given back"):
            fast(X)


def test_eval_of_a_network_in_evaluation_mode_changes_nothing() -> None:
    fast, kept = released()
    assert fast.eval() is fast
    with torch.no_grad():
        torch.testing.assert_close(fast(X), kept(X), rtol=0, atol=0)


def test_another_optimized_network_of_the_same_parameters_says_so() -> None:
    net = make()
    first, second = nnaccel_core.optimize(net), nnaccel_core.optimize(net, release_parameters=True)
    with torch.no_grad():
        first(X)
        second(X)
        with pytest.raises(ReleasedError, match=r"'3\.weight', whose memory was given back"):
            first(X)


def test_views_of_others_stay_readable() -> None:
    net = make()
    view, want = net[3].weight.detach()[0], net[3].weight.detach()[0].clone()
    fast = nnaccel_core.optimize(net, release_parameters=True)
    with torch.no_grad():
        fast(X)
    assert is_released(net[3].weight)
    torch.testing.assert_close(view, want, rtol=0, atol=0)


def test_a_backward_pass_over_released_parameters_is_an_error() -> None:
    """torch's own graph saved the weight before it was released."""
    net = make()
    own = net(X.clone().requires_grad_())
    fast = nnaccel_core.optimize(net, release_parameters=True)
    with torch.no_grad():
        fast(X)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        own.sum().backward()


def test_what_torch_runs_itself_keeps_its_parameters() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(64, 64, 3)
            self.basis = nn.Parameter(torch.eye(160) + 0.01 * torch.randn(160, 160))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.conv(x).flatten(1)[:, :160]
            return y @ self.basis + torch.linalg.inv(self.basis).sum()

    net = Net().eval()
    x = torch.randn(2, 64, 6, 6)
    want = net(x).detach()
    fast = nnaccel_core.optimize(net, release_parameters=True)
    for _ in range(2):
        torch.testing.assert_close(fast(x), want, rtol=1e-3, atol=1e-3)
    assert is_released(net.conv.weight)
    assert not is_released(net.basis)


def test_nothing_is_released_in_training_mode() -> None:
    net = make().train()
    fast = nnaccel_core.optimize(net, release_parameters=True)
    with pytest.warns(UserWarning, match=r"no parameter of Sequential is released: it is in training mode; call net\.eval\(\)"):
        fast(X)
    assert not any(map(is_released, net.parameters()))


def test_nothing_is_released_of_what_only_dynamo_captures() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(160, 160)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.linear(x) if x.sum() > 0 else x

    net = Net().eval()
    x = torch.ones(2, 160)
    want = net(x).detach()
    fast = nnaccel_core.optimize(net, release_parameters=True)
    fast(x)
    with pytest.warns(UserWarning, match="no parameter of Net is released: only Dynamo captures it"):
        torch.testing.assert_close(fast(x), want, rtol=1e-5, atol=1e-5)
    assert not is_released(net.linear.weight)


def test_threads_that_meet_a_new_size_meanwhile() -> None:
    """Whoever plans while parameters are released has what it began with."""
    kept = nnaccel_core.optimize(make())
    fast = nnaccel_core.optimize(make())
    inputs = [torch.randn(n, 3, 12, 12) for n in range(1, 9)]
    with torch.no_grad():
        fast(X)
    found: dict[int, Any] = {}

    def call(n: int) -> None:
        with torch.no_grad():
            try:
                found[n] = fast(inputs[n])
            except Exception as e:
                found[n] = e

    threads = [threading.Thread(target=call, args=(n,)) for n in range(len(inputs))]
    for k, t in enumerate(threads):
        t.start()
        if k == 2:
            assert fast.nnaccel_release()
    for t in threads:
        t.join()
    with torch.no_grad():
        for n, x in enumerate(inputs):
            torch.testing.assert_close(found[n], kept(x), rtol=1e-5, atol=1e-5)


def test_values_that_changed_since_the_last_call_are_not_lost() -> None:
    net = make()
    fast = nnaccel_core.optimize(net)
    with torch.no_grad():
        fast(X)
        net[3].weight.mul_(2)
        want = net(X)
        assert fast.nnaccel_release() == 0
        torch.testing.assert_close(fast(X), want, rtol=1e-4, atol=1e-4)
        assert fast.nnaccel_release() == net[3].weight.nbytes
        torch.testing.assert_close(fast(X), want, rtol=1e-4, atol=1e-4)


def test_a_network_in_training_mode_keeps_its_parameters() -> None:
    fast = nnaccel_core.optimize(make())
    with torch.no_grad():
        fast(X)
        fast.train()
        with pytest.warns(UserWarning, match="training mode"):
            assert fast.nnaccel_release() == 0
    assert not any(map(is_released, fast.parameters()))


def test_verify_and_release_exclude_each_other() -> None:
    with pytest.raises(UnsupportedError, match="verify compares"):
        nnaccel_core.optimize(make(), verify=True, release_parameters=True)
    with pytest.raises(UnsupportedError, match="verify compares"):
        nnaccel_core.optimize(make(), verify=True).nnaccel_release()


def test_a_pickle_made_before_releases_again() -> None:
    fast = nnaccel_core.optimize(make(), release_parameters=True)
    twin = pickle.loads(pickle.dumps(fast))
    with torch.no_grad():
        torch.testing.assert_close(twin(X), fast(X), rtol=0, atol=0)
    assert is_released(fast[3].weight)
    assert is_released(twin[3].weight)
