"""An operator: what lies within ``bound`` of zero becomes zero, the rest moves towards zero by ``bound``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from nnaccel_core.errors import ShapeError
from nnaccel_core.ir import Node, TensorType, sym
from nnaccel_core.loopir.grammar import Binary, Const, Load, Nest
from nnaccel_core.ops.registry import Array, Attrs, OpDef, Sample


def infer(types: Sequence[TensorType], attrs: Attrs) -> Sequence[TensorType]:
    if not types[0].is_float:
        raise ShapeError(f"needs a floating-point input, not {types[0].dtype}")
    return [TensorType(types[0].shape, types[0].dtype)]


def reference(arrays: Sequence[Array], attrs: Attrs) -> Sequence[Array]:
    (x,) = arrays
    return [x - np.clip(x, -attrs["bound"], attrs["bound"]).astype(x.dtype)]


def loop(node: Node) -> Sequence[Nest]:
    """One loop per axis, over all elements of the output."""
    names = tuple(f"i{k}" for k in range(node.output.type.rank))
    x = Load(node.inputs[0], tuple(sym(n) for n in names))
    low, high = (Const(sign * node.attrs["bound"], node.output.dtype) for sign in (-1.0, 1.0))
    return [Nest(node.output, names, Binary("sub", x, Binary("min", Binary("max", x, low), high)))]


def samples() -> Iterable[Sample]:
    rng = np.random.default_rng(0)
    for shape in ((2, 3, 5, 4), (7,), ()):
        yield Sample((rng.normal(size=shape).astype(np.float32),), {"bound": 0.5})


SOFT_THRESHOLD = OpDef("soft_threshold", infer, reference, limit="any", loop=loop, samples=samples)
