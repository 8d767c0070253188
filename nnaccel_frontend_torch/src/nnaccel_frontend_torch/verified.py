"""``verify=True``: the first calls of a program run twice, compiled and in torch, and must agree."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch.utils._pytree import tree_leaves

if TYPE_CHECKING:
    from nnaccel_core.driver.session import Compiled


def verified(
    compiled: Compiled,
    inputs: Sequence[torch.Tensor],
    written: Sequence[torch.Tensor],
    run: Callable[[], Any],
    own: Callable[[], Any],
) -> Any:
    """What ``run`` returns, once it was found to be what ``own`` returns.

    Args:
        inputs: the program's inputs, in order; written: arguments and buffers among which the network writes some.

    Raises:
        MismatchError: the results differ; or whatever the user's own network raises.
    """
    from nnaccel_core.driver.verify import check

    before = [t.detach().clone() for t in inputs] if written else list(inputs)
    kept = [t.detach().clone() for t in written]
    with torch.random.fork_rng(devices=[]):
        want = [t.detach().clone() for t in tree_leaves(own()) if isinstance(t, torch.Tensor)]
    want += [t.detach().clone() for t in written]
    with torch.no_grad():
        for t, value in zip(written, kept, strict=True):
            t.copy_(value)
    result = run()
    got = [t.detach() for t in [*tree_leaves(result), *written] if isinstance(t, torch.Tensor)]
    check(compiled, before, got, want)
    return result
