"""Real networks as graphs, for tests of merging and of planning speed."""

from __future__ import annotations

from typing import Any

from dfp.helpers import Net
from nnaccel_core.ir import Graph, Value

#: EfficientNet-Lite0's stages: repeats, kernel, stride, expansion, channels.
_STAGES = (
    (1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80), (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192), (1, 3, 1, 6, 320),
)  # fmt: skip


def efficientnet_lite0(batch: Any = "n", size: Any = 224) -> Graph:
    """EfficientNet-Lite0 with batch norms folded: 16 depthwise layers among 1x1 convolutions."""
    net = Net()
    x = net.input(batch, 3, size, size)
    x = net.relu6(net.conv(x, 32, 3, 2))
    for repeats, k, s, expand, out in _STAGES:
        for i in range(repeats):
            skip, stride = x, s if i == 0 else 1
            channels = x.shape[1]
            assert isinstance(channels, int)
            y: Value = net.relu6(net.conv(x, channels * expand)) if expand > 1 else x
            y = net.relu6(net.depthwise(y, k, stride))
            x = net.conv(y, out)
            if stride == 1 and channels == out:
                x = net.op("add", x, skip)
    x = net.relu6(net.conv(x, 1280))
    x = net.mean(x, 2, 3, keep=False)
    x = net.op("matmul", x, net.param(1000, 1280), net.param(1000), transpose_b=True)
    return net.graph(net.op("softmax", x, axis=1))
