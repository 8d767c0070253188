"""The native guard and its Python twin see the same."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
import torch
from torch import nn

from frontend_torch.nets import ResNet
from nnaccel_frontend_torch import guards
from nnaccel_frontend_torch.guards import STATE_CHANGED, VALUES_CHANGED, Guard

native = pytest.param(
    True, marks=pytest.mark.skipif(not guards.native_available(), reason=f"no native guards: {guards.native_reason}")
)
both = pytest.mark.parametrize("kind", [native, False], ids=["native", "python"])


@both
def test_unchanged(kind: bool) -> None:
    guard = Guard(ResNet(4, 5), native=kind)
    assert [guard.check() for _ in range(3)] == [0, 0, 0]
    assert not guard.state_changed() and guard.same_shapes()


@both
@pytest.mark.parametrize("size", [1, 7, 64, 65, 1000, 100003])
def test_first_and_last_element_count(kind: bool, size: int) -> None:
    for at in (0, -1):
        net = nn.ParameterList([torch.zeros(size)])
        guard = Guard(net, native=kind)
        net[0].detach().numpy()[at] = 1.0
        assert guard.check() == VALUES_CHANGED
        guard.resample()
        assert guard.check() == 0


@both
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.int64, torch.bool, torch.complex64])
def test_dtypes(kind: bool, dtype: torch.dtype) -> None:
    net = nn.Module()
    net.register_buffer("b", torch.zeros(300, dtype=dtype))
    guard = Guard(net, native=kind)
    assert guard.check() == 0
    net.b.data.fill_(1)
    assert guard.check() == VALUES_CHANGED


@both
def test_layouts_and_ranks(kind: bool) -> None:
    net = nn.Module()
    tensors = [
        torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
        torch.randn(10, 10)[2:, ::2],
        torch.randn(3).expand(4, 3),
        torch.randn(2, 1, 2, 1, 2, 1, 2),
        torch.randn(()),
        torch.empty(0, 3),
        torch.randn(5)[5:],
    ]
    for k, t in enumerate(tensors):
        net.register_buffer(f"b{k}", t)
    guard = Guard(net, native=kind)
    assert guard.check() == 0
    for k, t in enumerate(tensors):
        if t.numel():
            t.data.view(-1)[:1].add_(1) if t.is_contiguous() else t.data.copy_(t.clone() + 1) if k != 2 else t.storage()
            t.detach().numpy() if k != 2 else None
            if k == 2:
                torch.as_strided(t, (3,), (1,)).add_(1)
            assert guard.check() == VALUES_CHANGED, k
            guard.resample()


@both
def test_kinds_of_tensors_that_can_not_be_sampled(kind: bool) -> None:
    net = nn.Module()
    net.register_buffer("sparse", torch.eye(3).to_sparse())
    net.register_buffer("meta", torch.empty(3, device="meta"))
    guard = Guard(net, native=kind)
    assert guard.check() == 0


@both
def test_freed_and_reused_memory(kind: bool) -> None:
    net = nn.Linear(4, 4)
    guard = Guard(net, native=kind)
    for k in range(20):
        net.weight.data = torch.full((4, 4), float(k))
        assert guard.check() == VALUES_CHANGED
        guard.resample()
    net.weight = nn.Parameter(torch.zeros(4, 4))
    assert guard.check() == STATE_CHANGED
    assert guard.what_changed() == "_parameters of Linear"


@both
def test_storage_resized_and_moved(kind: bool) -> None:
    net = nn.Linear(40, 40)
    guard = Guard(net, native=kind)
    net.weight.untyped_storage().resize_(0)
    assert guard.check() == VALUES_CHANGED
    net.weight.untyped_storage().resize_(6400)
    net.weight.data.zero_()
    guard.resample()
    assert guard.check() == 0
    net.share_memory()
    assert guard.check() == VALUES_CHANGED


@both
def test_attributes(kind: bool) -> None:
    net = ResNet(4, 5)
    net.names = ["a", {"b": [1]}]  # type: ignore[assignment]
    net.tags = {1, 2}  # type: ignore[assignment]
    net.ratio = 0.5  # type: ignore[assignment]

    def changed(change: Any, undo: Any) -> None:
        guard = Guard(net, native=kind)
        assert guard.check() == 0
        change()
        assert guard.check() == STATE_CHANGED and guard.what_changed() != "tensors"
        undo()
        assert guard.check() == 0

    changed(lambda: net.names.append("c"), lambda: net.names.pop())
    changed(lambda: net.names[1]["b"].append(2), lambda: net.names[1]["b"].pop())
    changed(lambda: net.tags.add(3), lambda: net.tags.remove(3))
    changed(lambda: setattr(net, "ratio", 0.75), lambda: setattr(net, "ratio", 0.5))
    changed(lambda: setattr(net, "other", 1), lambda: delattr(net, "other"))
    changed(net.train if not net.training else net.eval, lambda: net.train(not net.training))
    module = net.layer1
    changed(lambda: setattr(net, "layer1", nn.Identity()), lambda: setattr(net, "layer1", module))
    handles: list[Any] = []
    changed(lambda: handles.append(net.fc.register_forward_hook(print)), lambda: handles.pop().remove())


@both
def test_equal_values_are_the_same(kind: bool) -> None:
    net = nn.Linear(2, 2)
    net.ratio, net.name = 0.5, "text"  # type: ignore[assignment]
    guard = Guard(net, native=kind)
    net.ratio, net.name = float("0.5"), "".join(["te", "xt"])  # type: ignore[assignment]
    assert guard.check() == 0
    net.ratio = True  # type: ignore[assignment]
    assert guard.check() == STATE_CHANGED


@both
def test_guards_do_not_leak(kind: bool) -> None:
    net = nn.Linear(2, 2)
    net.guard = Guard(net, native=kind)  # type: ignore[assignment]
    weak = weakref.ref(net)
    del net
    gc.collect()
    assert weak() is None


def test_probe_finds_what_torch_says() -> None:
    if not guards.native_available():
        pytest.skip(guards.native_reason)
    from nnaccel_frontend_torch import _guards, layout_probe

    assert layout_probe.verified(_guards)
    assert layout_probe.find(_guards.read) == layout_probe.find(_guards.read)
    assert _guards.read(8, 16) is None
    with pytest.raises(LookupError):
        layout_probe.find(lambda address, n: None)
