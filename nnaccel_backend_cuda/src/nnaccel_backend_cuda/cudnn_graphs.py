"""What all graphs for cuDNN have in common: the frontend's module, specifications of graphs, and built plans."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from nnaccel_core.errors import ToolchainError

INSTALL = "pip install nvidia-cudnn-frontend nvidia-cudnn-cu13 (or nvidia-cudnn-cu12)"

_lock = threading.Lock()
_module: Any = None


def frontend() -> Any:
    """The module ``cudnn``.

    Raises:
        ToolchainError: it, or cuDNN itself, is missing.
    """
    global _module
    with _lock:
        if _module is None:
            try:
                import cudnn

                cudnn.backend_version()
            except Exception as e:
                raise ToolchainError(f"cuDNN's Python frontend is not usable ({e}); install it with: {INSTALL}") from e
            _module = cudnn
        return _module


def version() -> str:
    """cuDNN's version and the frontend's."""
    found = frontend()
    return f"{found.backend_version()} {getattr(found, '__version__', '')}"


@dataclass(frozen=True)
class Operand:
    """A tensor of a graph: sizes and element strides, in the same order of axes."""

    dims: tuple[int, ...]
    strides: tuple[int, ...]

    def span(self) -> int:
        """Elements from the first to the last one."""
        return 1 + sum((d - 1) * s for d, s in zip(self.dims, self.strides, strict=True))


class Spec(Protocol):
    """What a graph computes: hashable, and its text says everything that tells it from others."""

    @property
    def flops(self) -> float:
        """Operations, a multiply-add counted as two."""

    @property
    def fenced(self) -> bool:
        """Whether a kernel has to stand in front of it (`CudaBackend.fence`)."""

    def build(self, cudnn: Any, handle: Any) -> Any:
        """The unplanned graph; tensors are told apart by uids."""

    def forbidden(self, notes: Any) -> list[str]:
        """Names of numerical notes (``notes``: cuDNN's table of them) of plans that may not be used."""

    def nbytes(self) -> Mapping[int, int]:
        """Bytes that hold each tensor, by uid."""


def data_type(cudnn: Any, dtype: str) -> Any:
    kinds = cudnn.data_type
    return {"float32": kinds.FLOAT, "float16": kinds.HALF, "bfloat16": kinds.BFLOAT16}[dtype]


def plan_modes(cudnn: Any) -> list[Any]:
    """The heuristics that order the plans."""
    return [cudnn.heur_mode.A, cudnn.heur_mode.FALLBACK]


def build_graph(spec: Spec, handle: Any) -> Any:
    """The graph of ``spec`` with its plans listed, none of them built.

    Raises:
        Exception: cuDNN has none.
    """
    cudnn = frontend()
    graph = spec.build(cudnn, handle)
    graph.validate()
    graph.build_operation_graph()
    graph.create_execution_plans(plan_modes(cudnn))
    notes = cudnn.numerical_note
    found = [getattr(notes, n) for n in spec.forbidden(notes) if hasattr(notes, n)]
    if found:
        graph.deselect_numeric_notes(found)
    graph.check_support()
    return graph


class Plan:
    """A built plan, ready to run.

    Attributes:
        seconds: measured, or estimated where not ``timed``; workspace: bytes.
    """

    def __init__(self, spec: Spec, graph: Any, workspace: int, seconds: float, name: str, timed: bool = True) -> None:
        self.spec, self.graph, self.workspace, self.seconds, self.name = spec, graph, workspace, seconds, name
        self.timed = timed

    def run(self, pointers: Mapping[int, int], workspace: int, handle: Any) -> None:
        """Enqueue on the handle's stream; ``pointers`` by uid."""
        self.graph.execute(dict(pointers), workspace, handle=handle)


@dataclass(frozen=True)
class GraphCall:
    """``Candidate.impl`` of a graph, whose plan is found when it is built: ``uids`` of the candidate's inputs, then outputs."""

    spec: Spec
    uids: tuple[int, ...]


def short(e: BaseException) -> str:
    """An error in one line."""
    return " ".join(str(e).split())[:300] or type(e).__name__
