"""Whole networks on the GPU through `nnaccel.optimize`, and what a call may and may not do."""

from __future__ import annotations

import threading
from typing import Any

import pytest

import nnaccel_core as nnaccel

torch = pytest.importorskip("torch")
nn = torch.nn
pytestmark = pytest.mark.gpu


class Block(nn.Module):  # type: ignore[misc,name-defined]
    """A bit of everything: dense and depthwise convolutions, residuals, pools, concat, softmax."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 32, 3, 2, 1, bias=False), nn.BatchNorm2d(32), nn.ReLU())
        self.narrow = nn.Conv2d(32, 64, 1)
        self.depth = nn.Sequential(nn.Conv2d(64, 64, 3, 1, 1, groups=64, bias=False), nn.BatchNorm2d(64), nn.ReLU6())
        self.wide = nn.Conv2d(64, 64, 3, padding=1)
        self.norm = nn.BatchNorm2d(96)
        self.head = nn.Linear(96, 10)

    def forward(self, x: Any) -> Any:
        x = nn.functional.max_pool2d(self.stem(x), 3, 2, 1)
        y = torch.relu(self.narrow(x))
        y = torch.relu(self.wide(self.depth(y)) + y)
        z = torch.relu(self.norm(torch.cat([x, y], 1)))
        return torch.softmax(self.head(z.mean((2, 3))), 1)


def network(seed: int = 0) -> Any:
    torch.manual_seed(seed)
    net = Block().eval()
    for m in net.modules():
        if isinstance(m, nn.BatchNorm2d):
            m.running_mean.normal_()
            m.running_var.uniform_(0.5, 2)
    return net


def reference(net: Any, x: Any) -> Any:
    """In float64, on the CPU."""
    import copy

    with torch.no_grad():
        return copy.deepcopy(net).cpu().double()(x.cpu().double())


def error(got: Any, want: Any) -> float:
    return float((got.cpu().double() - want).norm() / want.norm())


@pytest.mark.parametrize("libraries", [True, False])
@pytest.mark.parametrize("last", [False, True])
def test_numbers(libraries: bool, last: bool) -> None:
    net = network()
    fast = nnaccel.optimize(net, device="cuda", libraries=libraries)
    assert all(p.is_cuda for p in fast.parameters())
    with torch.no_grad():
        for batch in (1, 3, 3, 3, 8):
            x = torch.randn(batch, 3, 64, 64, device="cuda")
            if last:
                x = x.to(memory_format=torch.channels_last)
            got = fast(x)
            assert got.is_cuda
            assert error(got, reference(net, x)) < 2e-3
    report = fast.nnaccel_report()
    assert report["compiled_calls"] == 5, report


def test_full_float32_when_torch_says_so() -> None:
    before = torch.backends.cudnn.allow_tf32
    net, x = network(), torch.randn(4, 3, 64, 64, device="cuda")
    fast = nnaccel.optimize(net, device="cuda")
    want = reference(net, x)
    try:
        torch.backends.cudnn.allow_tf32 = False
        with torch.no_grad():
            exact = error(fast(x), want)
        torch.backends.cudnn.allow_tf32 = True
        with torch.no_grad():
            rounded = error(fast(x), want)
    finally:
        torch.backends.cudnn.allow_tf32 = before
    assert exact < 2e-6
    assert exact < rounded < 2e-3


def test_results_are_never_overwritten_and_inputs_left_alone() -> None:
    net = network()
    fast = nnaccel.optimize(net, device="cuda")
    with torch.no_grad():
        xs = [torch.randn(2, 3, 64, 64, device="cuda") for _ in range(6)]
        kept = [x.clone() for x in xs]
        results = [fast(x) for x in xs]
        for x, before, y in zip(xs, kept, results, strict=True):
            assert torch.equal(x, before)
            assert error(y, reference(net, x)) < 2e-3
        assert len({y.data_ptr() for y in results}) == len(results)


def test_side_streams_and_threads() -> None:
    net = network()
    fast = nnaccel.optimize(net, device="cuda")
    found: dict[int, list[float]] = {}
    xs = [torch.randn(2, 3, 64, 64, device="cuda") for _ in range(4)]
    wants = [reference(net, x) for x in xs]
    with torch.no_grad():
        for _ in range(3):
            fast(xs[0])
    torch.cuda.synchronize()

    def work(k: int) -> None:
        stream = torch.cuda.Stream()
        with torch.no_grad(), torch.cuda.stream(stream):
            results = [fast(xs[k]) for _ in range(20)]
        stream.synchronize()
        found[k] = [error(y, wants[k]) for y in results]

    threads = [threading.Thread(target=work, args=(k,)) for k in range(len(xs))]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert sorted(found) == [0, 1, 2, 3]
    assert max(max(errors) for errors in found.values()) < 2e-3


def test_new_weights_are_used() -> None:
    net = network()
    fast = nnaccel.optimize(net, device="cuda")
    x = torch.randn(2, 3, 64, 64, device="cuda")
    with torch.no_grad():
        for _ in range(3):
            fast(x)
        for change in (lambda: net.head.weight.mul_(1.5), lambda: net.load_state_dict(network(1).state_dict())):
            change()
            for _ in range(3):
                assert error(fast(x), reference(net, x)) < 2e-3
        net.wide.weight.data.mul_(-1.0)  # torch counts no version here, and device memory is not looked at
        fast.nnaccel_refresh()
        assert error(fast(x), reference(net, x)) < 2e-3


def test_a_residual_that_the_kernel_in_front_wrote() -> None:
    """cuDNN's kernels with fused additions need a fence in front (see `CudaBackend.fence`)."""
    torchvision = pytest.importorskip("torchvision")
    torch.manual_seed(0)
    net = torchvision.models.resnet18(weights=None).eval()
    x = torch.randn(128, 3, 224, 224, device="cuda")
    fast = nnaccel.optimize(net, device="cuda")
    with torch.no_grad():
        want = net.double()(x.double())
        net.float()
        fast.nnaccel_refresh()
        results = [fast(x) for _ in range(4)]
    assert max(float((y.double() - want).norm() / want.norm()) for y in results) < 2e-3
    assert all(torch.equal(y, results[0]) for y in results)


@pytest.mark.parametrize("slicing", [True, False, 16])
@pytest.mark.parametrize("batch", [128, 37])
def test_large_batches(slicing: bool | int, batch: int) -> None:
    """In stages and slices, with inputs read where they are: of a tensor, of a view at an odd address."""
    net = network()
    fast = nnaccel.optimize(net, device="cuda", slicing=slicing)
    base = torch.randn(batch * 3 * 224 * 224 + 1, device="cuda")
    with torch.no_grad():
        for k in (0, 0, 0, 1, 0, 1):
            x = base[k : k + batch * 3 * 224 * 224].view(batch, 3, 224, 224)
            before = x.clone()
            first, second = fast(x), fast(x)
            assert torch.equal(x, before)
            assert torch.equal(first, second)
            assert error(first[-8:], reference(net, x[-8:])) < 2e-3
            assert error(first[:8], reference(net, x[:8])) < 2e-3
    assert fast.nnaccel_report()["compiled_calls"] == 12, fast.nnaccel_report()


def test_large_results_belong_to_their_call() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(3, 1, 1), nn.Conv2d(16, 64, 3, padding=1)).eval()
    fast = nnaccel.optimize(net, device="cuda")
    with torch.no_grad():
        xs = [torch.randn(16, 8, 128, 128, device="cuda") for _ in range(5)]
        results = [fast(x) for x in xs]
        for x, y in zip(xs, results, strict=True):
            assert error(y, reference(net, x)) < 2e-3


def test_parameters_that_are_views() -> None:
    net = network()
    flat = torch.randn(96 * 10 + 1, device="cuda")
    net.cuda().head.weight = nn.Parameter(flat[1:].view(10, 96))
    assert net.head.weight.data_ptr() % 16
    fast = nnaccel.optimize(net, device="cuda")
    x = torch.randn(2, 3, 64, 64, device="cuda")
    with torch.no_grad():
        for _ in range(3):
            assert error(fast(x), reference(net, x)) < 2e-3


def test_views_and_other_layouts_as_inputs() -> None:
    net = network()
    fast = nnaccel.optimize(net, device="cuda")
    base = torch.randn(2 * 3 * 64 * 64 + 1, device="cuda")
    x = base[1:].view(2, 3, 64, 64)  # not 16-byte aligned
    with torch.no_grad():
        for _ in range(3):
            assert error(fast(x), reference(net, x)) < 2e-3
        y = torch.randn(2, 3, 64, 128, device="cuda")[..., ::2]
        assert error(fast(y), reference(net, y)) < 2e-3


def test_inside_a_capture_of_the_users() -> None:
    net = network()
    fast = nnaccel.optimize(net, device="cuda")
    x = torch.randn(2, 3, 64, 64, device="cuda")
    side = torch.cuda.Stream()
    with torch.no_grad():
        with torch.cuda.stream(side):
            for _ in range(3):
                fast(x)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            y = fast(x)
        x.normal_()
        graph.replay()
        torch.cuda.synchronize()
    assert error(y, reference(net, x)) < 2e-3


def test_out_of_memory_says_how_much_and_leaves_the_process_usable() -> None:
    net = network()
    fast = nnaccel.optimize(net, device="cuda")
    x = torch.randn(2, 3, 64, 64, device="cuda")
    with torch.no_grad():
        fast(x)
        big = torch.empty(64, 3, 1024, 1024, device="cuda")
        torch.cuda.empty_cache()
        _, total = torch.cuda.mem_get_info()
        torch.cuda.set_per_process_memory_fraction(min(1.0, (torch.cuda.memory_reserved() + (64 << 20)) / total))
        try:
            with pytest.raises(nnaccel.errors.OutOfMemoryError, match=r"needs \d+ bytes"):
                fast(big)
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0)
        assert error(fast(x), reference(net, x)) < 2e-3


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision(dtype: str) -> None:
    net = network()
    x = torch.randn(2, 3, 64, 64, device="cuda")
    want = reference(net, x)
    kind = getattr(torch, dtype)
    half = net.to(kind)
    fast = nnaccel.optimize(half, device="cuda")
    with torch.no_grad():
        own = error(half(x.to(kind)), want)
        for _ in range(3):
            got = error(fast(x.to(kind)), want)
    assert got < 2 * own + 1e-3, (got, own)
    assert fast.nnaccel_report()["compiled_calls"] == 3, fast.nnaccel_report()


def test_nan_and_infinity() -> None:
    net = network()
    fast = nnaccel.optimize(net, device="cuda")
    x = torch.randn(2, 3, 64, 64, device="cuda")
    x[0, 1, 5, 7] = float("nan")
    with torch.no_grad():
        want = net(x)
        for _ in range(3):
            got = fast(x)
    assert torch.isnan(want[0]).all()
    assert torch.isnan(got[0]).all()
    assert not torch.isnan(got[1]).any()
