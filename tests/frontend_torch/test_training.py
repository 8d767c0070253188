"""Training through an optimized network: the user's own loop, with torch's own results."""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.utils.checkpoint
from torch import nn
from torch.nn import functional as F

import nnaccel
from nnaccel_core.driver import training


class Residual(nn.Module):
    """Two convolutions with normalization around a shortcut."""

    def __init__(self, channels: int = 8) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(y)) + x)


def network(dropout: float = 0.0) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU6(), Residual(), nn.MaxPool2d(2),
        nn.Dropout(dropout), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5),
    )  # fmt: skip


def data(n: int = 6, seed: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(n, 3, 16, 16, generator=g), torch.randint(0, 5, (n,), generator=g)


def pair(net: nn.Module, **options: Any) -> tuple[nn.Module, nn.Module]:
    """The network in torch, and an optimized copy of it."""
    return net, nnaccel.optimize(copy.deepcopy(net), **options)


def backward(net: nn.Module, x: torch.Tensor, t: torch.Tensor, seed: int = 0) -> torch.Tensor:
    torch.manual_seed(seed)
    loss = F.cross_entropy(net(x), t)
    loss.backward()
    return loss


def same_state(ours: nn.Module, theirs: nn.Module, rtol: float = 1e-5, atol: float = 1e-6) -> None:
    """Parameters, their gradients and buffers are equal within rounding."""
    for (name, p), q in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=rtol, atol=atol, msg=lambda m, name=name: f"{name}: {m}")
        if q.grad is None:
            assert p.grad is None, name
        else:
            assert p.grad is not None, name
            assert p.grad.stride() == q.grad.stride()
            torch.testing.assert_close(p.grad, q.grad, rtol=1e-3, atol=1e-5, msg=lambda m, name=name: f"{name}.grad: {m}")
    for (name, p), q in zip(ours.named_buffers(), theirs.buffers(), strict=True):
        torch.testing.assert_close(p, q, rtol=rtol, atol=atol, msg=lambda m, name=name: f"{name}: {m}")


def compiled(net: nn.Module, calls: int | None = None) -> None:
    """All calls ran compiled."""
    report = net.nnaccel_report()  # type: ignore[operator]
    assert not report["own_calls"], report
    if calls is not None:
        assert report["compiled_calls"] == calls


@pytest.mark.parametrize(
    "optimizer",
    [
        lambda ps: torch.optim.SGD(ps, 0.05, momentum=0.9, weight_decay=1e-4),
        lambda ps: torch.optim.AdamW(ps, 1e-3),
        lambda ps: torch.optim.SGD(ps, 0.05, fused=True),
    ],
    ids=["sgd", "adamw", "fused"],
)
def test_a_training_loop_follows_torch(optimizer: Callable[..., torch.optim.Optimizer]) -> None:
    theirs, ours = pair(network(dropout=0.3))
    a, b = optimizer(theirs.parameters()), optimizer(ours.parameters())
    for step in range(5):
        x, t = data(seed=step)
        losses = []
        for net, o in ((theirs, a), (ours, b)):
            o.zero_grad()
            losses.append(backward(net, x, t, step).item())
            o.step()
        assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    same_state(ours, theirs, rtol=1e-3, atol=1e-4)
    compiled(ours, 5)


def test_running_statistics_and_counters_move_as_torchs_do() -> None:
    theirs, ours = pair(network())
    for k in range(3):
        x, t = data(4 + k, seed=k)
        backward(theirs, x, t)
        backward(ours, x, t)
    same_state(ours, theirs)
    assert int(ours[1].num_batches_tracked) == 3


def test_eval_and_train_by_turns() -> None:
    theirs, ours = pair(network())
    x, t = data()
    for _ in range(3):
        for net in (theirs, ours):
            net.train()
            backward(net, x, t)
            with torch.no_grad():
                for p in net.parameters():
                    p -= 0.1 * p.grad
            net.zero_grad()
            net.eval()
        with torch.no_grad():
            torch.testing.assert_close(ours(x), theirs(x), rtol=1e-4, atol=1e-5)
    compiled(ours)
    assert ours.nnaccel_report()["captures"] == 2, "one for each mode"


def test_train_mode_without_gradients_still_moves_statistics() -> None:
    theirs, ours = pair(network())
    x, _ = data()
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(x), rtol=1e-4, atol=1e-5)
    same_state(ours, theirs)
    with torch.inference_mode():
        ours(x), theirs(x)
    same_state(ours, theirs)
    compiled(ours, 2)


def test_gradients_in_eval_mode() -> None:
    theirs, ours = pair(network().eval())
    x, t = data()
    backward(theirs, x, t)
    backward(ours, x, t)
    same_state(ours, theirs)
    compiled(ours, 1)


def test_gradients_of_inputs() -> None:
    theirs, ours = pair(network())
    x, t = data()
    a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
    backward(theirs, a, t)
    backward(ours, b, t)
    torch.testing.assert_close(b.grad, a.grad, rtol=1e-3, atol=1e-6)
    compiled(ours, 1)


def test_inputs_in_other_layouts_get_gradients_too() -> None:
    theirs, ours = pair(network())
    x, t = data()
    for view in (lambda v: v.to(memory_format=torch.channels_last), lambda v: v[:, :, ::2, ::2], lambda v: v.transpose(2, 3)):
        a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
        backward(theirs, view(a), t)
        backward(ours, view(b), t)
        torch.testing.assert_close(b.grad, a.grad, rtol=1e-3, atol=1e-6)


def test_frozen_layers_get_no_gradient() -> None:
    theirs, ours = pair(network())
    x, t = data()
    for net in (theirs, ours):
        net[0].requires_grad_(False)
        net[3].conv1.requires_grad_(False)
        backward(net, x, t)
    same_state(ours, theirs)
    for net in (theirs, ours):
        net.zero_grad()
        net[0].requires_grad_(True)
        backward(net, x, t)
    same_state(ours, theirs)


def test_accumulated_and_clipped_gradients() -> None:
    theirs, ours = pair(network())
    norms = []
    for net in (theirs, ours):
        for k in range(3):
            backward(net, *data(seed=k))
        norms.append(nn.utils.clip_grad_norm_(net.parameters(), 0.1))
    torch.testing.assert_close(norms[1], norms[0], rtol=1e-3, atol=1e-5)
    same_state(ours, theirs)


def test_hooks_on_parameters_run() -> None:
    theirs, ours = pair(network())
    x, t = data()
    seen: list[str] = []
    for net in (theirs, ours):
        net[0].weight.register_hook(lambda g: g * 2)
        net[8].bias.register_post_accumulate_grad_hook(lambda p: seen.append("done"))
        backward(net, x, t)
    same_state(ours, theirs)
    assert seen == ["done", "done"]


class Tied(nn.Module):
    """One weight in two places."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 6), nn.Linear(6, 6)
        self.b.weight = self.a.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(torch.tanh(self.a(x)))


def test_shared_parameters_add_their_gradients() -> None:
    theirs, ours = pair(Tied())
    x = torch.randn(4, 6)
    for net in (theirs, ours):
        net(x).square().sum().backward()
    same_state(ours, theirs)
    compiled(ours, 1)


class Several(nn.Module):
    """Several results, one of integers, one that the loss may leave out, one an input itself."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        h = F.gelu(self.a(x))
        return {"h": h, "y": self.b(h), "best": h.argmax(1), "x": x}


def test_several_results_of_which_some_have_no_gradient() -> None:
    theirs, ours = pair(Several())
    x = torch.randn(4, 6)
    for loss in (lambda r: r["y"].sum(), lambda r: r["h"].square().sum(), lambda r: r["y"].sum() * r["h"].mean()):
        for net in (theirs, ours):
            net.zero_grad()
            out = net(x)
            assert not out["best"].requires_grad
            loss(out).backward()
        same_state(ours, theirs)
    compiled(ours, 3)


def test_backward_twice_with_a_retained_graph() -> None:
    theirs, ours = pair(network())
    x, t = data()
    for net in (theirs, ours):
        loss = F.cross_entropy(net(x), t)
        loss.backward(retain_graph=True)
        loss.backward()
    same_state(ours, theirs)


def test_a_second_backward_without_retaining_is_refused_as_in_torch() -> None:
    _, ours = pair(network())
    loss = backward(ours, *data())
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        loss.backward()


def test_writing_a_parameter_between_forward_and_backward_is_refused_as_in_torch() -> None:
    _, ours = pair(network())
    x, t = data()
    loss = F.cross_entropy(ours(x), t)
    with torch.no_grad():
        ours[8].weight.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.parametrize("training", [True, False])
def test_gradients_of_gradients(training: bool) -> None:
    theirs, ours = pair(network().train(training))
    x, t = data()
    results = []
    for net in (theirs, ours):
        a = x.clone().requires_grad_()
        (g,) = torch.autograd.grad(F.cross_entropy(net(a), t), a, create_graph=True)
        g.square().sum().backward()
        results.append((g.detach(), a.grad))
    for mine, other in zip(results[1], results[0], strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-2, atol=1e-6)
    for (name, p), q in zip(ours.named_parameters(), theirs.named_parameters(), strict=True):
        if q[1].grad is not None and q[1].grad.abs().max() > 1e-9:
            torch.testing.assert_close(p.grad, q[1].grad, rtol=1e-2, atol=1e-6, msg=lambda m, name=name: f"{name}: {m}")


def test_new_weights_are_seen_at_once() -> None:
    theirs, ours = pair(network())
    x, t = data()
    backward(ours, x, t)
    state = {k: v + 0.1 if v.is_floating_point() else v.clone() for k, v in theirs.state_dict().items()}
    for net in (theirs, ours):
        net.load_state_dict(state)
        net.zero_grad()
        backward(net, x, t)
    same_state(ours, theirs)
    for net in (theirs, ours):
        net[3].conv2.weight.data.mul_(1.5)  # no version change
        net.zero_grad()
        backward(net, x, t)
    same_state(ours, theirs)


def test_functional_call_uses_the_given_parameters() -> None:
    theirs, ours = pair(Tied())
    x = torch.randn(4, 6)
    results = []
    for net in (theirs, ours):
        given = {k: (v.detach() * 0.5).requires_grad_() for k, v in net.named_parameters()}
        out = torch.func.functional_call(net, given, (x,), tie_weights=True)
        results.append(torch.autograd.grad(out.square().sum(), list(given.values())))
    for a, b in zip(results[1], results[0], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_dropout_repeats_with_the_seed_and_only_with_it() -> None:
    _, ours = pair(network(dropout=0.5))
    x, _ = data()
    torch.manual_seed(3)
    first, second = ours(x), ours(x)
    torch.manual_seed(3)
    assert torch.equal(ours(x), first)
    assert not torch.equal(first, second)


def test_checkpointed_parts_and_mixed_modes() -> None:
    theirs, ours = pair(network())
    x, t = data()
    for net in (theirs, ours):
        net.train()
        net[1].eval()  # frozen statistics of one layer, as in fine-tuning
        backward(net, x, t)
    same_state(ours, theirs)
    assert int(ours[1].num_batches_tracked) == 0
    compiled(ours, 1)


@pytest.mark.parametrize("remat", ["memory", 0.4])
def test_less_memory_gives_the_same_gradients(remat: str | float) -> None:
    theirs, ours = pair(network(), remat=remat)
    x, t = data()
    backward(theirs, x, t)
    backward(ours, x, t)
    same_state(ours, theirs)


class Sorts(nn.Module):
    """An operator without a gradient rule of ours between layers."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(torch.sort(self.a(x), dim=1)[0])


def test_a_layer_without_a_gradient_rule_trains_in_torch_and_says_so() -> None:
    theirs, ours = pair(Sorts())
    x = torch.randn(4, 6)
    for net in (theirs, ours):
        net(x).square().sum().backward()
    same_state(ours, theirs)


def test_batches_of_other_sizes_need_no_new_capture() -> None:
    theirs, ours = pair(network())
    for n in (6, 4, 7):
        for net in (theirs, ours):
            backward(net, *data(n, seed=n))
    same_state(ours, theirs, rtol=1e-4, atol=1e-5)
    assert ours.nnaccel_report()["captures"] == 1


def test_copies_train_apart() -> None:
    _, ours = pair(network())
    x, t = data()
    backward(ours, x, t)
    twin = copy.deepcopy(ours)
    twin.zero_grad()
    backward(twin, x, t)
    for p, q in zip(twin.parameters(), ours.parameters(), strict=True):
        assert p is not q
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-5, atol=1e-7)


class Detached(nn.Module):
    """A target network's value, through which no gradient may flow, by two spellings."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 6), nn.Linear(6, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = torch.tanh(self.a(x))
        return self.b(h) * h.detach() + h.detach().exp()


def test_no_gradient_flows_through_detach() -> None:
    theirs, ours = pair(Detached())
    x = torch.randn(4, 6)
    for net in (theirs, ours):
        net(x).square().sum().backward()
    same_state(ours, theirs)
    compiled(ours, 1)


class NoGrad(nn.Module):
    """Part of the network without gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 6), nn.Linear(6, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            h = self.a(x)
        return self.b(h)


class Straight(torch.autograd.Function):
    """Rounds, and lets gradients through."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return x.round()

    @staticmethod
    def backward(ctx: Any, g: torch.Tensor) -> torch.Tensor:
        return g


class Rounds(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 6), nn.Linear(6, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(Straight.apply(self.a(x) * 3))


@pytest.mark.parametrize("make", [NoGrad, Rounds])
def test_networks_that_steer_gradients_themselves_are_right(make: type[nn.Module]) -> None:
    theirs, ours = pair(make())
    x = torch.randn(4, 6)
    for _ in range(2):
        for net in (theirs, ours):
            net(x).square().sum().backward()
    same_state(ours, theirs)


class Special(nn.Module):
    """An operator that the importer does not know, between layers that it does."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 6), nn.Linear(6, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(torch.special.i0(self.a(x)))


def test_gradients_flow_through_what_stays_in_torch() -> None:
    theirs, ours = pair(Special())
    x = torch.randn(4, 6)
    for net in (theirs, ours):
        net(x).square().sum().backward()
    same_state(ours, theirs)
    compiled(ours, 1)


class Branches(nn.Module):
    """Control flow on values: traced by Dynamo."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.bn, self.b = nn.Linear(6, 6), nn.BatchNorm1d(6), nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = torch.relu(self.bn(self.a(x)))
        return self.b(h) if x.sum() > 0 else self.b(-h)


def test_networks_that_only_dynamo_captures_train() -> None:
    theirs, ours = pair(Branches())
    for k in range(3):
        x = torch.randn(4, 6) + (1 if k % 2 else -1)
        for net in (theirs, ours):
            net(x).square().sum().backward()
    same_state(ours, theirs)
    report = ours.nnaccel_report()
    assert report["compiled_calls"] and not report["own_calls"], report


def test_verify_compares_gradients_too() -> None:
    theirs, ours = pair(network(dropout=0.3), verify=True)
    for k in range(3):  # the third is not compared any more
        x, t = data(seed=k)
        for net in (theirs, ours):
            net.zero_grad()
            backward(net, x, t, seed=k)
        same_state(ours, theirs, rtol=1e-4, atol=1e-5)
    compiled(ours, 3)


def test_verify_names_the_parameter_whose_gradient_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    from nnaccel_core.driver.training import TrainedSegment
    from nnaccel_core.errors import MismatchError

    right = TrainedSegment.backward

    def wrong(self: TrainedSegment, given: Any, tracked: Any) -> list[Any]:
        found = right(self, given, tracked)
        at = self.gradient_of[-len(self.parameters) :][self.parameters.index("3.conv1.weight")]
        assert at is not None
        found[at] = found[at] * 1.5
        return found

    monkeypatch.setattr(TrainedSegment, "backward", wrong)
    _, ours = pair(network(), verify=True)
    with pytest.raises(MismatchError, match=r"the gradient of 3\.conv1\.weight is not torch's"):
        backward(ours, *data())


def test_what_is_kept_is_freed_while_gradients_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Part by part, unless the graph is retained; the gradients are the same."""
    monkeypatch.setattr(training, "PART_BYTES", 1 << 12)
    theirs, ours = pair(network(), remat="memory")
    x, t = data()
    alive: list[int] = []
    run = training.TrainedSegment._run

    def counted(self: Any, segment: Any, *given: Any) -> Any:
        results = run(self, segment, *given)
        if segment is self.segments()[0]:
            kept.extend(weakref.ref(r) for r in results[self.outputs :])
        else:
            alive.append(sum(r() is not None for r in kept))
        return results

    monkeypatch.setattr(training.TrainedSegment, "_run", counted)
    for retain in (True, False):
        kept: list[Any] = []
        alive.clear()
        for net in (theirs, ours):
            net.zero_grad()
            F.cross_entropy(net(x), t).backward(retain_graph=retain)
        same_state(ours, theirs)
        assert len(alive) > 2, "several parts"
        assert retain == (alive[0] == alive[-1]), alive


def test_hooks_on_saved_tensors_see_what_is_kept() -> None:
    theirs, ours = pair(network())
    x, t = data()
    packed: list[torch.Size] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda v: packed.append(v.shape) or v, lambda v: v):
        loss = F.cross_entropy(ours(x), t)
    assert sum(len(s) == 4 and s[0] == len(x) for s in packed) > 3
    loss.backward()
    backward(theirs, x, t)
    same_state(ours, theirs)


def test_checkpoints_around_an_optimized_network() -> None:
    theirs, ours = pair(network())
    x, t = data()
    for net in (theirs, ours):
        a = x.clone().requires_grad_()
        F.cross_entropy(torch.utils.checkpoint.checkpoint(net, a, use_reentrant=False), t).backward()
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-3, atol=1e-5)


def test_two_forwards_before_their_backwards() -> None:
    """What a forward pass keeps lies in memory that the next one gets again, once it is free."""
    ours, theirs = nnaccel.optimize(network()), network()
    for seed in (1, 5):  # the second round finds the memory of the first
        batches = [data(seed=seed), data(seed=seed + 1)]
        losses = [[F.cross_entropy(net(x), t) for x, t in batches] for net in (ours, theirs)]
        for net, found in zip((ours, theirs), losses, strict=True):
            net.zero_grad()
            for loss in reversed(found):
                loss.backward()
        for (name, p), q in zip(ours.named_parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(p.grad, q.grad, rtol=1e-4, atol=1e-6, msg=lambda m, name=name: f"{name}: {m}")
    (program,) = ours._nnaccel.now().session.programs().values()
    segments = list(program._training.values())
    assert segments and all(len(s._blocks._waiting) == 2 for s in segments)
    ours.eval()
    assert not any(s._blocks._waiting for s in segments)
