"""Compiled segments on torch's tape."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch

from nnaccel_frontend_torch.dtypes import dense_layout, format_of

if TYPE_CHECKING:
    from nnaccel_core.autodiff import Kept
    from nnaccel_core.driver.training import TrainedSegment
    from nnaccel_core.ir.types import Layout

_keeps_graph = torch._C._autograd._get_current_graph_task_keep_graph
_saved_tensors_hooks = torch._C._autograd._top_saved_tensors_default_hooks


def on_tape(segment: TrainedSegment, inputs: Sequence[torch.Tensor], tracked: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Run ``segment`` forward; torch will ask for its gradients."""
    return list(_Segment.apply(segment, len(inputs), *inputs, *tracked))  # type: ignore[no-untyped-call]


class _Segment(torch.autograd.Function):
    """One compiled segment: its inputs, then its parameters."""

    @staticmethod
    def forward(ctx: Any, segment: TrainedSegment, count: int, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:  # type: ignore[override]
        # What nobody else can see is ours to free while gradients are taken, and to lay into a block; but hooks on saved tensors
        # (offloading, checkpoints) are to see it.
        own = _saved_tensors_hooks(True) is None
        given = tensors[:count], _off_tape(tensors[count:])
        if own:
            results, kept, ctx.block = segment.forward_in_block(*given)
        else:
            (results, kept), ctx.block = segment.forward(*given), None
        if ctx.block is not None:  # values of updates lie in the block too, and torch wants results of its own
            results[segment.outputs :] = [t.detach() for t in results[segment.outputs :]]
        ctx.segment, ctx.count, ctx.tensors = segment, count, tensors
        ctx.of_results = [(t.shape, t.dtype, t.device) for t in results]
        n = segment.outputs
        places = {"input": tensors, "output": [*results[:n], *kept]}
        ctx.own = [own and s.place == "output" and s.index >= n for s in segment.sources]
        ctx.kept = [kept[s.index - n] for s, mine in zip(segment.sources, ctx.own, strict=True) if mine]
        others = [s for s, mine in zip(segment.sources, ctx.own, strict=True) if s.place != "grad" and not mine]
        saved = [places[s.place][s.index] for s in others]
        # Parameters are read where they are when gradients are taken; saving them has torch notice writes in between.
        ctx.save_for_backward(*saved, *tensors[count:])
        ctx.set_materialize_grads(False)
        seeded = set(segment.seeded)
        ctx.mark_non_differentiable(*(t for k, t in enumerate(results) if k not in seeded))
        return tuple(results)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor | None) -> tuple[torch.Tensor | None, ...]:  # type: ignore[override]
        segment = ctx.segment
        seeds = {k: _seed(grads[k], *ctx.of_results[k]) for k in segment.seeded}
        saved, kept = ctx.saved_tensors, ctx.kept
        if kept is None:
            raise RuntimeError(
                "Trying to backward through the graph a second time: what was kept for it is freed. "
                "Specify retain_graph=True in the first backward if there is to be another."
            )
        found = _differentiable(ctx, list(seeds.values())) if torch.is_grad_enabled() else None
        if found is None:
            kept = list(kept)
            if not _keeps_graph():
                ctx.kept = ctx.tensors = None
            count = len(segment.parameters)
            rest = iter(saved[: len(saved) - count])
            parameters = _off_tape(saved[len(saved) - count :])
            layouts = segment.layouts()
            given = _given(segment.sources, ctx.own, seeds, kept, rest, layouts)
            del kept, seeds
            found = segment.backward(given, parameters)
            if ctx.kept is None:
                ctx.block = None
        given_of = {k for k, g in enumerate(grads) if g is not None}
        there = [not given_of.isdisjoint(of) for of in segment.depends]
        return (None, None, *(found[k] if k is not None and there[k] else None for k in segment.gradient_of))


def _given(
    sources: Sequence[Kept], own: Sequence[bool], seeds: dict[int, torch.Tensor], kept: list[torch.Tensor],
    saved: Iterator[torch.Tensor], layouts: Sequence[Layout | None],
) -> Iterator[torch.Tensor]:  # fmt: skip
    """What the backward pass reads, in its order. Holds nothing that was handed on: ``kept`` is emptied."""
    kept.reverse()
    for s, mine, layout in zip(sources, own, layouts, strict=True):
        yield _laid(seeds[s.index] if s.place == "grad" else kept.pop() if mine else next(saved), layout)


def _differentiable(ctx: Any, seeds: Sequence[torch.Tensor]) -> list[torch.Tensor] | None:
    """The gradients on the tape themselves, for ``create_graph=True``; None when nothing they depend on is tracked."""
    inputs, tracked = ctx.tensors[: ctx.count], ctx.tensors[ctx.count :]
    second = ctx.segment.second(inputs, seeds, tracked)
    if second is None:
        return None
    by_name = dict(zip(ctx.segment.parameters, tracked, strict=True))
    seeds = [_laid(s, layout) for s, layout in zip(seeds, ctx.segment.seed_layouts, strict=True)]
    return on_tape(second, [*inputs, *seeds], [by_name[name] for name in second.parameters])


def _off_tape(parameters: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    return [_laid(p.detach(), None) for p in parameters]


def _seed(grad: torch.Tensor | None, shape: torch.Size, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """The gradient of a result; zeros for one that the loss does not depend on."""
    return torch.zeros(shape, dtype=dtype, device=device) if grad is None else grad


def _laid(t: torch.Tensor, layout: Layout | None) -> torch.Tensor:
    """``t`` dense in memory, as ``layout`` where one is given."""
    memory_format = torch.contiguous_format if layout is None else format_of(layout)
    if memory_format is not None and not t.is_neg() and t.is_contiguous(memory_format=memory_format):
        return t
    found = None if t.is_neg() else dense_layout(t.shape, t.stride())
    if found is not None and (layout is None or _same(t, found, layout)):
        return t
    if layout is None:
        return t.resolve_neg().contiguous()
    order = list(layout)
    back = [order.index(a) for a in range(len(order))]
    return t.resolve_neg().permute(order).contiguous().permute(back)


def _same(t: torch.Tensor, a: Layout, b: Layout) -> bool:
    """Whether two layouts are the same order in memory: axes of extent 1 are free."""
    return [k for k in a if t.shape[k] != 1] == [k for k in b if t.shape[k] != 1]


__all__ = ["on_tape"]
