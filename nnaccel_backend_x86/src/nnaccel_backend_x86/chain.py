"""A chain of kernels as one call of kernel ``chain``: ``native/chain.cpp``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from nnaccel_backend_x86 import builtin
from nnaccel_backend_x86.builtin import BoundCall, BuiltinCall, generated
from nnaccel_backend_x86.onednn import sizes
from nnaccel_core.errors import NnaccelError
from nnaccel_core.plan import BufferRef, ChainStep, KernelStep, LibraryStep
from nnaccel_core.select.schedule import row_bytes_of

#: ``MOST_BUFFERS`` of ``native/chain.cpp``.
MOST_BUFFERS = 64
#: Most integers that a generated member takes; the same as there.
MOST_DIMS = 128
#: Entries of ``Head``, ``Member`` and ``Local`` there.
HEAD, MEMBER, LOCAL = 8, 8, 4


@dataclass(frozen=True)
class Member:
    """A kernel of a chain: its address, what it is given, how many tasks a row of its output is, and its height.

    ``rows``: the entry of ``dims`` for the rows of a tile, where one call computes all of a band (`KernelCall.rows`); else -1.
    """

    address: int
    buffers: Sequence[BufferRef]
    dims: Sequence[int]
    tasks: int
    height: int
    scratch: int
    rows: int = -1


def member(step: KernelStep | LibraryStep, images: int, kernel: int) -> Member:
    """``step``, whose generated kernel is at ``kernel``.

    Raises:
        NnaccelError: the step is none of this backend's own kernels.
    """
    if isinstance(step, KernelStep):
        out, address, bound = step.buffers[-1], kernel, generated(step)
    else:
        call = step.candidate.impl
        found = call.bound(step) if isinstance(call, BuiltinCall) else None
        if found is None:
            raise NnaccelError(f"{step.origin}: {step.candidate.reason!r} cannot run on some rows at a time")
        (out,), address, bound = step.outputs, builtin.address(found.name), found
    if len(bound.buffers) > MOST_BUFFERS:
        raise NnaccelError(f"{step.origin}: a member of a chain takes at most {MOST_BUFFERS} tensors, not {len(bound.buffers)}")
    height = sizes(out.type)[2]
    rows = step.rows if isinstance(step, KernelStep) and step.rows is not None and len(bound.dims) <= MOST_DIMS else -1
    return Member(address, bound.buffers, bound.dims, bound.tasks // (images * height), height, bound.scratch, rows)


def align(n: int) -> int:
    """Rounded up to whole pages, and one cache line more: tiles do not begin at equal offsets of a page (4K aliasing)."""
    return -(-n // 4096) * 4096 + 64


def chain_call(step: ChainStep, members: Sequence[Member]) -> BoundCall:
    """The call that runs ``members`` of ``step``."""
    plan = step.schedule
    number = {m: k for k, m in enumerate(step.locals)}
    locals_at = HEAD + MEMBER * len(members)
    rows_at = locals_at + LOCAL * len(number)
    record = len(number) + 2 * len(members)
    end = rows_at + plan.strips * plan.bands * record
    given: list[BufferRef] = []
    tail: list[int] = []
    table: list[int] = []
    for kernel in members:
        which = []
        for ref in kernel.buffers:
            if ref.space == "local":
                which.append(-1 - number[ref.index])
                continue
            if ref not in given:
                given.append(ref)
            which.append(given.index(ref))
        buffers_at = end + len(tail)
        table += [kernel.address, len(which), buffers_at, buffers_at + len(which), kernel.height, kernel.tasks]
        table += [kernel.rows, len(kernel.dims)]
        tail += [*which, *kernel.dims]
    offset = 0
    for m, t in step.locals.items():
        table += [offset, row_bytes_of(t), members[m].height, m]
        offset += align(plan.held[m] * row_bytes_of(t))
    for strip_rows, strip_first in zip(plan.rows, plan.first, strict=True):
        for rows, first in zip(strip_rows, strip_first, strict=True):
            table += [*(first[m] for m in step.locals), *(n for pair in rows for n in pair)]
    head = (len(members), len(number), plan.strips, plan.bands, HEAD, locals_at, rows_at, offset)
    scratch = offset + max(kernel.scratch for kernel in members)
    return BoundCall("chain", tuple(given), (*head, *table, *tail), step.images * plan.strips, scratch)


__all__ = ["Member", "chain_call", "member"]
