"""The meaning of an op's naive loop nests, vectorized over numpy index grids so that tests of ops are quick."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from nnaccel_core.errors import VerifyError
from nnaccel_core.ir.dims import Dim, Env, evaluate
from nnaccel_core.ir.graph import Value
from nnaccel_core.ir.types import numpy_dtype
from nnaccel_core.loopir import grammar as g
from nnaccel_core.loopir.numeric import BINARY, COMBINE_OP, UNARY, compile_dim, compute_dtype, convert, identity

Array = np.ndarray[Any, Any]

#: Points of one index grid evaluated at a time; larger nests loop over their outer reduced axes.
GRID = 1 << 22


def run_nests(nests: Sequence[g.Nest], arrays: Mapping[Value, Array], env: Env) -> Mapping[Value, Array]:
    """Run ``nests`` in order.

    Args:
        arrays: the op's inputs, in logical axis order.
        env: values of the dimension symbols.

    Returns:
        what every nest wrote, temporaries included; bfloat16 values are float32 arrays of rounded numbers.

    Raises:
        VerifyError: an index outside an array at a point where the nest's bounds and selects let it count.
    """
    known = dict(arrays)
    done: dict[Value, Array] = {}
    with np.errstate(all="ignore"):
        for nest in nests:
            known[nest.out] = done[nest.out] = _run_nest(nest, known, env)
    return done


def acc_dtype(nest: g.Nest) -> str:
    """The dtype ``nest`` accumulates in."""
    return nest.acc_dtype or compute_dtype(nest.out.dtype)


def _run_nest(nest: g.Nest, known: Mapping[Value, Array], env: Env) -> Array:
    shape = tuple(evaluate(d, env) for d in nest.out.shape)
    if len(nest.axes) != len(shape):
        raise VerifyError(f"nest of {nest.out.name!r} names {len(nest.axes)} axes for an output of rank {len(shape)}")
    if nest.combine is None:
        if nest.reduce:
            raise VerifyError(f"nest of {nest.out.name!r} has reduced axes but no combine")
        grid = _Grid(nest, known, env, _mesh(nest.axes, shape, 0), None)
        inside = grid.inside()
        value = grid.scalar(nest.body, inside)
        out = np.broadcast_to(value if inside is None else np.where(inside, value, np.zeros_like(value)), shape)
    else:
        out = _reduce(nest, known, env, shape)
    if nest.final is not None:
        out = _Grid(nest, known, env, _mesh(nest.axes, shape, 0), out).scalar(nest.final, None)
    return np.broadcast_to(convert(out, nest.out.dtype), shape).astype(numpy_dtype(nest.out.dtype))


def _reduce(nest: g.Nest, known: Mapping[Value, Array], env: Env, shape: tuple[int, ...]) -> Array:
    dtype = acc_dtype(nest)
    combine = BINARY[COMBINE_OP[str(nest.combine)]]
    neutral = np.dtype(dtype).type(identity(str(nest.combine), dtype))
    acc = np.full(shape, neutral)
    for ranges in _chunks(nest, env, shape):
        count = len(ranges)
        mesh = _mesh(nest.axes, shape, count)
        for k, (name, values) in enumerate(ranges):
            mesh[name] = values.reshape((-1, *([1] * (count - k - 1))))
        grid = _Grid(nest, known, env, mesh, None)
        inside = grid.inside()
        term = grid.scalar(nest.body, inside)
        if inside is not None:
            term = np.where(inside, term, neutral)
        full = np.broadcast_to(term, shape + tuple(len(v) for _, v in ranges)).astype(dtype)
        axes = tuple(range(len(shape), full.ndim))
        acc = combine(acc, combine.reduce(full, axis=axes, dtype=dtype, initial=neutral))  # type: ignore[attr-defined]
    return acc


def _chunks(nest: g.Nest, env: Env, shape: tuple[int, ...]) -> Iterator[list[tuple[str, Array]]]:
    """Index ranges of the reduced axes; the outer ones are split to single points while the grid is too large."""
    extents = [(name, evaluate(extent, env)) for name, extent in nest.reduce]
    size, split = int(np.prod(shape, dtype=np.int64)) * int(np.prod([n for _, n in extents], dtype=np.int64)), 0
    while size > GRID and split < len(extents):
        size //= max(1, extents[split][1])
        split += 1
    for point in np.ndindex(*[n for _, n in extents[:split]]):
        fixed = [(name, np.array([i])) for (name, _), i in zip(extents, point, strict=False)]
        yield fixed + [(name, np.arange(n)) for name, n in extents[split:]]


def _mesh(axes: Sequence[str], shape: Sequence[int], extra: int) -> dict[str, Array]:
    """One broadcastable index array per axis, followed by ``extra`` axes of extent 1."""
    rank = len(axes)
    tails = [[1] * (rank - k - 1 + extra) for k in range(rank)]
    return {a: np.arange(n).reshape((-1, *tail)) for a, n, tail in zip(axes, shape, tails, strict=True)}


class _Grid:
    """Evaluates scalars over a mesh. ``inside`` masks say which points count; others may index out of range."""

    def __init__(
        self, nest: g.Nest, known: Mapping[Value, Array], env: Env, mesh: Mapping[str, Array], acc: Array | None
    ) -> None:
        self.nest, self.known, self.acc = nest, known, acc
        self.env: dict[str, Any] = {**env, **mesh}

    def dim(self, dim: Dim) -> Array:
        return np.asarray(compile_dim(dim)(self.env))

    def inside(self) -> Array | None:
        out: Array | None = None
        for bound in self.nest.where:
            index = self.dim(bound.index)
            ok = (index >= 0) & (index < self.dim(bound.extent))
            out = ok if out is None else out & ok
        return out

    def load(self, s: g.Load, mask: Array | None) -> Array:
        assert isinstance(s.buffer, Value), "a nest loads graph values"
        if s.buffer not in self.known:
            raise VerifyError(f"nest of {self.nest.out.name!r} reads {s.buffer.name!r}, which nothing wrote")
        array = self.known[s.buffer]
        if len(s.index) != array.ndim:
            where = f"{s.buffer.name!r} of rank {array.ndim}"
            raise VerifyError(f"nest of {self.nest.out.name!r}: {len(s.index)} indices into {where}")
        at = []
        for dim, extent in zip(s.index, array.shape, strict=True):
            index = self.dim(dim)
            bad = (index < 0) | (index >= extent)
            if np.any(bad if mask is None else bad & mask):
                low, high = int(index.min()), int(index.max())
                where = f"{s.buffer.name!r} of shape {list(array.shape)}"
                raise VerifyError(f"nest of {self.nest.out.name!r}: index {dim} in [{low}, {high}] leaves {where}")
            at.append(np.where(bad, 0, index))
        if 0 in array.shape:
            return np.zeros(np.broadcast_shapes(*(a.shape for a in at)), array.dtype)
        value = array[tuple(at)]
        return value.astype(np.float32) if s.buffer.dtype == "float16" else value

    def scalar(self, s: g.Scalar, mask: Array | None) -> Array:
        if isinstance(s, g.Const):
            return np.asarray(convert(s.value, s.dtype))
        if isinstance(s, g.Index):
            return self.dim(s.dim).astype(s.dtype)
        if isinstance(s, g.Acc):
            if self.acc is None:
                raise VerifyError(f"nest of {self.nest.out.name!r} uses its accumulator outside `final`")
            return self.acc
        if isinstance(s, g.Load):
            return self.load(s, mask)
        if isinstance(s, g.Unary):
            return np.asarray(UNARY[s.op](self.scalar(s.a, mask)))
        if isinstance(s, g.Cast):
            return np.asarray(convert(self.scalar(s.a, mask), s.dtype))
        if isinstance(s, g.Binary):
            return np.asarray(BINARY[s.op](self.scalar(s.a, mask), self.scalar(s.b, mask)))
        cond = self.scalar(s.cond, mask)
        a = self.scalar(s.a, cond if mask is None else mask & cond)
        b = self.scalar(s.b, ~cond if mask is None else mask & ~cond)
        return np.where(cond, a, b)
