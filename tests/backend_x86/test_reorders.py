"""Images between (N, C, H, W) and channels-last memory."""

from __future__ import annotations

import numpy as np
import pytest

from backend_x86.harness import Net, backend, longest, lower, propose_own, run_plan

B = backend()
LAST, FIRST = (0, 2, 3, 1), (0, 1, 2, 3)


@pytest.mark.parametrize("channels", [2, 3, 4, 5, 8, 19, 64])
@pytest.mark.parametrize("images,height,width", [(1, 1, 7), (1, 13, 17), (3, 8, 16)])
@pytest.mark.parametrize("to", [LAST, FIRST], ids=["to channels last", "back"])
def test_every_element_is_where_it_belongs(channels: int, images: int, height: int, width: int, to: tuple[int, ...]) -> None:
    net = Net()
    x = net.input(images, channels, height, width, layout=FIRST if to == LAST else LAST)
    y = net.op("reorder", x, layout=to)
    c = longest(propose_own(B, net, y, kernel="reorder_images"))
    for threads in (1, 2, 5):
        plan, inputs, _ = lower(B, net, c)
        (got,) = run_plan(B, plan, inputs, [], threads)
        np.testing.assert_array_equal(got, net.data[x])


def test_others_are_not_offered() -> None:
    net = Net()
    x = net.input(2, 3, 5, 7)
    assert not propose_own(B, net, net.op("reorder", x, layout=(0, 2, 1, 3)), kernel="reorder_images")
