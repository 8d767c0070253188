"""What the core asks of this package."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from nnaccel_core.api import Captured, Diagnosis, Frontend, Inspection
from nnaccel_core.errors import UnsupportedError

if TYPE_CHECKING:
    from nnaccel_core.driver.session import Session


class TorchFrontend(Frontend):
    """PyTorch: `torch.nn.Module`."""

    name = "torch"
    releases = True

    @classmethod
    def accepts(cls, model: Any) -> bool:
        """Whether ``model`` is an ``nn.Module``; does not import torch."""
        torch = sys.modules.get("torch")
        return torch is not None and isinstance(model, torch.nn.Module)

    @classmethod
    def default_device(cls, model: Any) -> str:
        """Where the first parameter or buffer is; the CPU when there is none."""
        for tensors in (model.parameters(), model.buffers()):
            for t in tensors:
                return "cpu" if t.device.type in ("cpu", "meta") else str(t.device)
        return "cpu"

    def capture(self, model: Any, call: Any) -> Captured:
        """Trace ``model`` for ``call = (args, kwargs)``.

        Raises:
            UnsupportedError: the trace was refused; carries the reason.
        """
        from nnaccel_frontend_torch.call import flatten
        from nnaccel_frontend_torch.capture import trace
        from nnaccel_frontend_torch.dtypes import dense_layout
        from nnaccel_frontend_torch.guards import Guard
        from nnaccel_frontend_torch.refusal import Refusal

        args, kwargs = call
        flat = flatten(args, kwargs)
        guard = Guard(model)
        layouts = [dense_layout(t.shape, t.stride()) or tuple(range(t.dim())) for t in flat.tensors]
        try:
            return trace(model, model.forward, flat, layouts, lambda: not guard.state_changed()).captured
        except Refusal as e:
            raise UnsupportedError(f"{type(model).__name__} can't be traced: {e}") from e

    def wrap(self, model: Any, session: Session) -> Any:
        """The optimized module: of the user's own class, sharing everything with ``model``."""
        from nnaccel_frontend_torch.module import wrap

        return wrap(model, session)

    @classmethod
    def inspect(cls, optimized: Any) -> Inspection | None:
        """The report of an optimized module; its calls run without gradients."""
        import torch

        from nnaccel_frontend_torch.module import Optimized

        if not isinstance(optimized, Optimized):
            return None
        state = optimized._nnaccel.now()
        report = state.report()
        notes = [f"trace refused, so captured by Dynamo: {report['trace_refused']}"] if report["trace_refused"] else []
        notes += [f"ran in torch ({n} call{'s' if n > 1 else ''}): {why}" for why, n in report["own_calls"].items()]
        if report["recaptures"]:
            notes.append(f"captured again because modules changed: {report['recaptures']} times")
        return Inspection(type(state.user).__name__, state.session, torch.no_grad()(optimized), tuple(notes))

    @classmethod
    def diagnose(cls) -> Sequence[Diagnosis]:
        """torch's presence and version, and whether the native guards are built."""
        import importlib.metadata
        import importlib.util

        try:
            version = importlib.metadata.version("torch")
        except importlib.metadata.PackageNotFoundError:
            return [Diagnosis("torch", False, "not installed", "pip install torch")]
        native = importlib.util.find_spec("nnaccel_frontend_torch._guards") is not None
        return [
            Diagnosis("torch", True, version),
            Diagnosis(
                "native guards of torch modules",
                native,
                "built" if native else "absent: parameters and modules are checked in Python, some 0.1 ms slower a call",
                "" if native else "pip install --force-reinstall --no-binary :all: nnaccel-frontend-torch",
            ),
        ]
