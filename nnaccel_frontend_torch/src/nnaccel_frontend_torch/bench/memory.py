"""Peak memory of intermediates: what the framework keeps alive, and what our plan needs."""

from __future__ import annotations

import weakref
from typing import Any

from nnaccel_core.ir import evaluate
from nnaccel_core.plan import ChainStep
from nnaccel_frontend_torch.bench.peers import Call, Job


def eager_peak_bytes(net: Any, x: Any, call: Call) -> int:
    """Largest sum of live intermediate storages over one eager call, inputs and parameters not counted; gradients are.

    Counts what every dispatched operation returns; memory inside an operation (workspaces, reordered copies) is not
    seen, so this errs in the framework's favor.
    """
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves

    live: dict[int, int] = {}
    known = {t.untyped_storage()._cdata for t in (*net.parameters(), *net.buffers(), x)}
    peak = total = 0

    def freed(key: int) -> None:
        nonlocal total
        total -= live.pop(key, 0)

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            nonlocal peak, total
            out = func(*args, **(kwargs or {}))
            for t in tree_leaves(out):
                if isinstance(t, torch.Tensor):
                    storage = t.untyped_storage()
                    key = storage._cdata
                    if key not in known and key not in live:
                        live[key] = storage.nbytes()
                        total += live[key]
                        weakref.finalize(storage, freed, key)
            peak = max(peak, total)
            return out

    for p in net.parameters():
        p.grad = None
    with torch.no_grad(), Watch():
        call()
    return peak


def plan_bytes(fast: Any) -> tuple[int, int]:
    """``(intermediates, derived weights)`` in bytes of an optimized network's largest plan."""
    session = fast._nnaccel.now().session
    intermediates = prepared = 0
    for compiled in session.programs().values():
        prepared += compiled.prepared_bytes()
        for segment in compiled.segments.values():
            intermediates = max(intermediates, *(sum(_bytes(b, session)) for b in segment._built.values()), 0)
        for trained in compiled._training.values():
            intermediates = max(intermediates, _training_bytes(trained, session))
    return intermediates, prepared


def _training_bytes(trained: Any, session: Any) -> int:
    """The peak of a step: what the forward pass returns and keeps, each until the last part that reads it has run; gradients."""

    def largest(segment: Any) -> tuple[Any, int, int]:
        return max(((b, *_bytes(b, session)) for b in segment._built.values()), key=lambda found: sum(found[1:]))

    forward = trained.segments()[0]
    if not forward._built:
        return 0
    _, work, held = largest(forward)
    peak = work + held
    ours = {v for v, s in zip(trained._backward().inputs, trained.sources, strict=True) if s.place == "output"}
    for part in trained.parts:
        if not part.segment._built:
            break
        built, work, results = largest(part.segment)
        held += results
        peak = max(peak, held + work)
        ours.update(part.makes)
        held -= sum(int(evaluate(v.type.nbytes, built.env)) for v in part.frees if v in ours)
    return peak


def _bytes(built: Any, session: Any) -> tuple[int, int]:
    """Bytes that a plan works in, and of its results."""
    plan = built.placed.plan
    scratch = max((_scratch(s) for s in plan.steps), default=0)
    return plan.arena + scratch * session.bridge.threads(), sum(int(t.nbytes) for t in built.output_types)


def _scratch(step: Any) -> int:
    """Bytes of tile memory that each thread needs for ``step``; what libraries allocate themselves is not known."""
    if isinstance(step, ChainStep):
        return step.held_bytes() + max(map(_scratch, step.members))
    own = getattr(getattr(step, "candidate", None), "impl", step)
    return int(getattr(own, "scratch", 0))


def measure(job: Job, call: Call) -> dict[str, int]:
    """Bytes of an implementation that was called: intermediates at the peak, parameters, and what is derived from these.

    ``call`` is eager torch or one of ours.
    """
    network = job.network.module
    parameters = sum(t.numel() * t.element_size() for t in (*network.parameters(), *network.buffers()))
    ours = job.called[-1]
    if ours is network:
        return {"peak_bytes": eager_peak_bytes(network, job.x, call), "parameter_bytes": parameters}
    intermediates, prepared = plan_bytes(ours)
    return {"peak_bytes": intermediates, "parameter_bytes": parameters, "prepared_bytes": prepared}
