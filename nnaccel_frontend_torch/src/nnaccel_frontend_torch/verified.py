"""``verify=True``: the first calls of a program run twice, compiled and in torch, and must agree; so must their gradients."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

from nnaccel_core.errors import MismatchError

if TYPE_CHECKING:
    from nnaccel_core.driver.session import Compiled

#: How far gradients may be apart, in the 2-norm of each: where an activation lies within rounding of a kink of ReLU they jump, in
#: torch between two numbers of threads as well, while a wrong rule is far off.
GRADIENTS_APART = 0.05


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
    result, _ = _both(compiled, inputs, written, run, own)
    return result


def verified_with_gradients(
    compiled: Compiled,
    inputs: Sequence[torch.Tensor],
    written: Sequence[torch.Tensor],
    run: Callable[[], Any],
    own: Callable[[], Any],
    wanted: Mapping[str, torch.Tensor],
    buffers: Sequence[tuple[torch.Tensor, torch.Tensor]],
) -> Any:
    """As `verified`; the result's gradients with respect to ``wanted`` are compared too, once they are asked for.

    ``own`` works on copies of the network's buffers, of which torch's graph may have saved some: ``buffers`` are pairs of the
    network's own and these copies.

    Raises:
        MismatchError: as `verified`; out of ``backward()``, naming the first parameter whose gradient differs.
    """
    result, theirs = _both(compiled, inputs, written, run, own, buffers)
    leaves, spec = tree_flatten(result)
    places = [k for k, t in enumerate(leaves) if isinstance(t, torch.Tensor) and t.requires_grad and t.grad_fn is not None]
    there = tree_leaves(theirs)
    if not places:
        return result
    pairs = ([leaves[k] for k in places], [there[k] for k in places])
    checked = _Compared.apply(pairs, wanted, *pairs[0])  # type: ignore[no-untyped-call]
    for k, t in zip(places, checked, strict=True):
        leaves[k] = t
    return tree_unflatten(leaves, spec)


def _both(
    compiled: Compiled,
    inputs: Sequence[torch.Tensor],
    written: Sequence[torch.Tensor],
    run: Callable[[], Any],
    own: Callable[[], Any],
    buffers: Sequence[tuple[torch.Tensor, torch.Tensor]] = (),
) -> tuple[Any, Any]:
    """The compiled result and torch's, compared."""
    from nnaccel_core.driver.verify import check

    before = [t.detach().clone() for t in inputs] if written else list(inputs)
    kept = [t.detach().clone() for t in written]
    with torch.random.fork_rng(devices=[]):
        theirs = own()
    copies = [b for _, b in buffers]
    want = [t.detach().clone() for t in [*tree_leaves(theirs), *written, *copies] if isinstance(t, torch.Tensor)]
    with torch.no_grad():
        for t, value in zip(written, kept, strict=True):
            t.copy_(value)
    result = run()
    live = [b for b, _ in buffers]
    got = [t.detach() for t in [*tree_leaves(result), *written, *live] if isinstance(t, torch.Tensor)]
    check(compiled, before, got, want)
    return result, theirs


class _Compared(torch.autograd.Function):
    """Hands results on; in the backward pass takes both networks' gradients and compares them."""

    @staticmethod
    def forward(ctx: Any, pairs: Any, wanted: Any, *results: torch.Tensor) -> tuple[torch.Tensor, ...]:  # type: ignore[override]
        ctx.pairs, ctx.wanted = pairs, wanted
        ctx.set_materialize_grads(False)
        return tuple(t.view_as(t) for t in results)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor | None) -> tuple[torch.Tensor | None, ...]:  # type: ignore[override]
        there = [k for k, g in enumerate(grads) if g is not None]
        tensors = list(ctx.wanted.values())
        found = [
            torch.autograd.grad(
                [side[k] for k in there], tensors, [grads[k] for k in there], retain_graph=True, allow_unused=True
            )
            for side in ctx.pairs
        ]
        ctx.pairs = None
        for name, ours, theirs in zip(ctx.wanted, *found, strict=True):
            _compare(name, ours, theirs, found[1])
        return (None, None, *grads)


def _compare(name: str, ours: torch.Tensor | None, theirs: torch.Tensor | None, all_theirs: Sequence[Any]) -> None:
    if ours is None or theirs is None:
        if ours is theirs:
            return
        side = "no gradient, torch has one" if ours is None else "a gradient, torch has none"
        raise MismatchError(f"verify: {name} has {side}. Please report this; until it is mended, train without nnaccel.")
    largest = max(float(g.norm()) for g in all_theirs if g is not None)
    apart, size = float((ours - theirs).norm()), float(theirs.norm())
    if not apart <= GRADIENTS_APART * max(size, 1e-4 * largest):
        raise MismatchError(
            f"verify: the gradient of {name} is not torch's: they are {apart:.3g} apart in the 2-norm, torch's is {size:.3g} "
            f"long. Please report this; until it is mended, train without nnaccel."
        )
