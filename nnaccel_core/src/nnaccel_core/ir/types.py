"""Tensor types: shape, dtype and physical layout."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from nnaccel_core.ir.dims import Dim, Env, evaluate, product, substitute

#: Element types of the IR and their size in bytes.
ITEMSIZE: Mapping[str, int] = {
    "bool": 1, "uint8": 1, "int8": 1, "int16": 2, "int32": 4, "int64": 8,
    "float16": 2, "bfloat16": 2, "float32": 4, "float64": 8,
}  # fmt: skip
FLOATS = frozenset({"float16", "bfloat16", "float32", "float64"})

Layout = tuple[int, ...]


def numpy_dtype(dtype: str) -> np.dtype[np.generic]:
    """The numpy dtype of the IR dtype. ``bfloat16`` has none: references compute it in float32."""
    return np.dtype("float32" if dtype == "bfloat16" else dtype)


def identity(rank: int) -> Layout:
    """Row-major: physical order is the logical order."""
    return tuple(range(rank))


def channels_last(rank: int) -> Layout:
    """N, spatial..., C: physical order of a logical (N, C, spatial...) tensor."""
    return (0, *range(2, rank), 1) if rank >= 3 else identity(rank)


@dataclass(frozen=True)
class TensorType:
    """A dense tensor.

    Attributes:
        shape: logical shape; images are (N, C, spatial...).
        dtype: one of `ITEMSIZE`.
        layout: logical axes from outermost to innermost in memory; None in the constructor means row-major.
    """

    shape: tuple[Dim, ...]
    dtype: str
    layout: Layout = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", tuple(self.shape))
        if self.layout is None:
            object.__setattr__(self, "layout", identity(len(self.shape)))
        if self.dtype not in ITEMSIZE:
            raise ValueError(f"unknown dtype {self.dtype!r}; known: {', '.join(ITEMSIZE)}")
        if sorted(self.layout) != list(range(len(self.shape))):
            raise ValueError(f"layout {self.layout} is no permutation of the {len(self.shape)} axes")

    @property
    def rank(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> Dim:
        return product(self.shape)

    @property
    def itemsize(self) -> int:
        return ITEMSIZE[self.dtype]

    @property
    def nbytes(self) -> Dim:
        return self.size * self.itemsize

    @property
    def is_static(self) -> bool:
        return all(isinstance(d, int) for d in self.shape)

    @property
    def is_float(self) -> bool:
        return self.dtype in FLOATS

    @property
    def physical_shape(self) -> tuple[Dim, ...]:
        return tuple(self.shape[a] for a in self.layout)

    def strides(self) -> tuple[Dim, ...]:
        """Element strides per logical axis of the dense tensor in this layout."""
        out: list[Dim] = [1] * self.rank
        step: Dim = 1
        for axis in reversed(self.layout):
            out[axis] = step
            step = step * self.shape[axis]
        return tuple(out)

    def with_shape(self, shape: Sequence[Dim]) -> TensorType:
        return TensorType(tuple(shape), self.dtype, self.layout if len(shape) == self.rank else None)  # type: ignore[arg-type]

    def with_layout(self, layout: Layout | None) -> TensorType:
        return TensorType(self.shape, self.dtype, layout)  # type: ignore[arg-type]

    def with_dtype(self, dtype: str) -> TensorType:
        return TensorType(self.shape, dtype, self.layout)

    def substitute(self, env: Mapping[str, Dim]) -> TensorType:
        return TensorType(tuple(substitute(d, env) for d in self.shape), self.dtype, self.layout)

    def concrete(self, env: Env) -> TensorType:
        """This type with every dimension evaluated under ``env``."""
        return self if self.is_static else TensorType(tuple(evaluate(d, env) for d in self.shape), self.dtype, self.layout)

    def same_memory(self, layout: Layout) -> bool:
        """Whether the dense tensor in ``layout`` has the same bytes in the same order (axes of extent 1 are free)."""
        mine = [a for a in self.layout if self.shape[a] != 1]
        theirs = [a for a in layout if self.shape[a] != 1]
        return mine == theirs

    def __str__(self) -> str:
        dims = ", ".join(map(str, self.shape))
        order = "" if self.layout == identity(self.rank) else "@" + "".join(map(str, self.layout))
        return f"{self.dtype}[{dims}]{order}"


def common_env(pattern: Sequence[Dim], shape: Sequence[int], env: dict[str, int]) -> bool:
    """Match ``shape`` against ``pattern``, binding bare symbols in ``env``; False on a contradiction.

    Only bare symbols are solved for; other expressions are checked once their symbols are bound.
    """
    if len(pattern) != len(shape):
        return False
    later: list[tuple[Dim, int]] = []
    for dim, size in zip(pattern, shape, strict=True):
        if isinstance(dim, int):
            if dim != size:
                return False
        elif dim.op == "sym":
            if env.setdefault(str(dim.args[0]), size) != size:
                return False
        else:
            later.append((dim, size))
    return all(evaluate(dim, env) == size for dim, size in later)
