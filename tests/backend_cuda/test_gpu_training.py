"""Training on the GPU: gradients and steps of small networks against torch's own."""

from __future__ import annotations

import copy

import pytest

torch = pytest.importorskip("torch", reason="needs torch")

import nnaccel  # noqa: E402

pytestmark = pytest.mark.gpu


def network() -> torch.nn.Module:
    nn = torch.nn
    torch.manual_seed(0)
    layers = [
        *(nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU6()),
        *(nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.BatchNorm2d(8), nn.SiLU(), nn.MaxPool2d(2)),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)),
    ]
    return nn.Sequential(*layers).cuda()


def test_a_training_loop_follows_torch() -> None:
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    theirs = network()
    ours = nnaccel.optimize(copy.deepcopy(theirs), device="cuda")
    optimizers = [torch.optim.SGD(net.parameters(), 0.05, momentum=0.9) for net in (theirs, ours)]
    for step in range(4):
        g = torch.Generator().manual_seed(step)
        x, t = torch.randn(6, 3, 16, 16, generator=g).cuda(), torch.randint(0, 5, (6,), generator=g).cuda()
        for net, o in zip((theirs, ours), optimizers, strict=True):
            o.zero_grad()
            torch.nn.functional.cross_entropy(net(x), t).backward()
            o.step()
    for (name, p), q in zip(ours.state_dict().items(), theirs.state_dict().values(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-3, atol=1e-4, msg=lambda m, name=name: f"{name}: {m}")
    report = ours.nnaccel_report()
    assert report["compiled_calls"] == 4 and not report["own_calls"], report


def test_a_forward_whose_gradients_are_still_to_come_is_left_alone_by_the_next() -> None:
    """Saved tensors belong to their call: two forwards, then two backwards in either order."""
    theirs = network().eval()
    ours = nnaccel.optimize(copy.deepcopy(theirs), device="cuda")
    x = torch.randn(2, 4, 3, 16, 16, device="cuda")
    found = []
    for net in (theirs, ours):
        for _ in range(3):  # the third round replays captured graphs
            net.zero_grad()
            losses = [net(x[k]).square().sum() * (k + 1) for k in range(2)]
            for loss in losses:
                loss.backward()
        found.append([p.grad for p in net.parameters()])
    for a, b in zip(found[1], found[0], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16], ids=str)
def test_autocast_with_a_scaled_loss_follows_torch(kind: torch.dtype) -> None:
    """Gradients in 16 bits: both sides round, so that they are judged by how far torch itself is from float64."""
    theirs = network()
    ours = nnaccel.optimize(copy.deepcopy(theirs), device="cuda")
    judge = copy.deepcopy(theirs).double()
    scalers = [torch.amp.GradScaler("cuda", enabled=kind is torch.float16) for _ in range(2)]
    optimizers = [torch.optim.SGD(net.parameters(), 0.05) for net in (theirs, ours, judge)]
    for step in range(4):
        g = torch.Generator().manual_seed(step)
        x, t = torch.randn(6, 3, 16, 16, generator=g).cuda(), torch.randint(0, 5, (6,), generator=g).cuda()
        for net, o, scaler in zip((theirs, ours), optimizers[:2], scalers, strict=True):
            o.zero_grad()
            with torch.autocast("cuda", kind):
                loss = torch.nn.functional.cross_entropy(net(x), t)
            scaler.scale(loss).backward()
            scaler.unscale_(o)
            torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            scaler.step(o)
            scaler.update()
        optimizers[2].zero_grad()
        torch.nn.functional.cross_entropy(judge(x.double()), t).backward()
        torch.nn.utils.clip_grad_norm_(judge.parameters(), 1.0)
        optimizers[2].step()
    assert scalers[0].get_scale() == scalers[1].get_scale()

    def off(net: torch.nn.Module) -> float:
        pairs = list(zip(net.parameters(), judge.parameters(), strict=True))
        return sum(float((a.double() - b).square().sum()) for a, b in pairs) ** 0.5

    assert off(ours) <= 4 * off(theirs) + 1e-6
    assert not ours.nnaccel_report()["own_calls"]


def test_memory_for_the_next_step_is_given_back_for_evaluation() -> None:
    ours = nnaccel.optimize(network(), device="cuda")
    x = torch.randn(64, 3, 64, 64, device="cuda")
    for _ in range(3):
        ours(x).square().sum().backward()
    torch.cuda.synchronize()
    held = torch.cuda.memory_allocated()
    ours.eval()
    assert torch.cuda.memory_allocated() < held - (8 << 20)
    ours.train()
    ours(x).square().sum().backward()


def test_saved_tensors_go_through_the_users_hooks() -> None:
    """Offloading (``torch.autograd.graph.save_on_cpu``) sees what is kept, and gradients come from what it gives back."""
    theirs = network().eval()
    ours = nnaccel.optimize(copy.deepcopy(theirs), device="cuda")
    x = torch.randn(4, 3, 16, 16, device="cuda")
    theirs(x).square().sum().backward()
    for _ in range(2):
        ours.zero_grad()
        with torch.autograd.graph.save_on_cpu():
            loss = ours(x).square().sum()
        loss.backward()
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-2, atol=1e-2)
