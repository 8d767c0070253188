"""Networks that the tests share."""

from __future__ import annotations

import torch
from torch import nn


def settled(net: nn.Module, seed: int = 0) -> nn.Module:
    """``net`` in eval mode with telling batch-norm statistics."""
    generator = torch.Generator().manual_seed(seed)
    for m in net.modules():
        if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.running_mean is not None:
            m.running_mean.copy_(torch.randn(m.running_mean.shape, generator=generator) * 0.1)
            m.running_var.copy_(torch.rand(m.running_var.shape, generator=generator) + 0.5)
            if m.weight is not None:
                m.weight.data.copy_(torch.rand(m.weight.shape, generator=generator) + 0.5)
                m.bias.data.copy_(torch.randn(m.bias.shape, generator=generator) * 0.1)
    return net.eval()


class BasicBlock(nn.Module):
    def __init__(self, c: int, out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(c, out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(out, out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)
        self.downsample = None
        if stride != 1 or c != out:
            self.downsample = nn.Sequential(nn.Conv2d(c, out, 1, stride, bias=False), nn.BatchNorm2d(out))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        identity = x
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        if self.downsample is not None:
            identity = self.downsample(x)
        out += identity
        return self.relu(out)


class ResNet(nn.Module):
    """ResNet-18's structure (He et al., 2016); ``width`` 64 is the real one."""

    def __init__(self, width: int = 64, classes: int = 1000, blocks: tuple[int, ...] = (2, 2, 2, 2)) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        c = width
        for k, n in enumerate(blocks):
            layer = []
            for i in range(n):
                layer.append(BasicBlock(c, width << k, 2 if k and not i else 1))
                c = width << k
            setattr(self, f"layer{k + 1}", nn.Sequential(*layer))
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(c, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        for k in range(4):
            layer = getattr(self, f"layer{k + 1}", None)
            if layer is not None:
                x = layer(x)
        x = torch.flatten(self.avgpool(x), 1)
        return self.fc(x)


class Lambda(nn.Module):
    """A network whose forward is a function; ``owned`` become its parameters and attributes."""

    def __init__(self, f, **owned) -> None:  # type: ignore[no-untyped-def]
        super().__init__()
        self.f = f
        for name, value in owned.items():
            setattr(self, name, value)

    def forward(self, *args, **kwargs):  # type: ignore[no-untyped-def]
        return self.f(self, *args, **kwargs)


def mlp() -> nn.Sequential:
    return nn.Sequential(
        nn.Flatten(), nn.Linear(24, 32), nn.BatchNorm1d(32), nn.GELU(), nn.Dropout(0.5), nn.Linear(32, 32), nn.LayerNorm(32),
        nn.ReLU(inplace=True), nn.Identity(), nn.Linear(32, 5), nn.Softmax(dim=-1),
    )  # fmt: skip
