"""Padding with a constant, by reflection, by the outermost element, or around; negative pads of a constant crop."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from nnaccel_core.errors import ShapeError
from nnaccel_core.ir import Dim, Node, TensorType, Value, dim_max, dim_min, sym
from nnaccel_core.loopir.grammar import Binary, Const, Index, Load, Nest, Scalar, Select
from nnaccel_core.ops.elementwise import axis_names, like
from nnaccel_core.ops.registry import Array, Attrs, Emitter, OpDef, Sample, register, unary_vjp
from nnaccel_core.ops.shape import all_of


def _draw(*shape: int) -> Array:
    return np.random.default_rng(13).normal(size=shape).astype(np.float32)


#: Modes, by numpy's names.
PAD_MODES = {"constant": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}


def _pad_infer(types: Sequence[TensorType], attrs: Attrs) -> Sequence[TensorType]:
    x = types[0]
    mode = attrs.get("mode", "constant")
    if len(attrs["pads"]) != x.rank:
        raise ShapeError("pads needs one (before, after) pair per axis")
    if mode not in PAD_MODES:
        raise ShapeError(f"mode {mode!r} is not known; known: {', '.join(PAD_MODES)}")
    for d, pair in zip(x.shape, attrs["pads"], strict=True):
        limit = d - 1 if mode == "reflect" else d
        if mode in ("reflect", "circular") and isinstance(limit, int) and max(pair) > limit:
            raise ShapeError(f"{mode} padding of {max(pair)} needs more than the {d} elements there are")
        if mode != "constant" and min(pair) < 0:
            raise ShapeError(f"{mode} padding cannot crop")
    return (TensorType(tuple(d + lo + hi for d, (lo, hi) in zip(x.shape, attrs["pads"], strict=True)), x.dtype),)


def _pad_ref(xs: Sequence[Array], attrs: Attrs) -> Sequence[Array]:
    mode = PAD_MODES[attrs.get("mode", "constant")]
    if mode != "constant":
        return (np.pad(xs[0], attrs["pads"], mode=mode),)  # type: ignore[call-overload]
    cut = tuple(slice(max(-lo, 0), d - max(-hi, 0)) for d, (lo, hi) in zip(xs[0].shape, attrs["pads"], strict=True))
    grown = [(max(lo, 0), max(hi, 0)) for lo, hi in attrs["pads"]]
    return (np.pad(xs[0][cut], grown, constant_values=attrs.get("value", 0.0)),)


def _padded_index(at: Dim, extent: Dim, mode: str) -> Dim:
    """Where a padded position reads from."""
    if mode == "replicate":
        return dim_min(dim_max(at, 0), extent - 1)
    if mode == "circular":
        return (at + extent) % extent
    inside = dim_max(at, -at)
    return dim_min(inside, 2 * (extent - 1) - inside)


def _pad_loop(node: Node) -> tuple[Nest]:
    x, pads, mode = node.inputs[0], node.attrs["pads"], node.attrs.get("mode", "constant")
    names = axis_names(x.type.rank)
    at: list[Dim] = [sym(s) - pads[k][0] for k, s in enumerate(names)]
    if mode != "constant":
        index = [_padded_index(at[k], x.shape[k], mode) if any(pads[k]) else at[k] for k in range(len(names))]
        return (Nest(node.output, names, Load(x, tuple(index))),)
    tests: list[Scalar] = []
    for k, (lo, hi) in enumerate(pads):
        if lo > 0:
            tests.append(Binary("ge", Index(at[k]), Index(0)))
        if hi > 0:
            tests.append(Binary("lt", Index(at[k]), Index(x.shape[k])))
    load = Load(x, tuple(at))
    if not tests:
        return (Nest(node.output, names, load),)
    value = node.attrs.get("value", 0.0)
    fill: Scalar = like(load, value) if x.dtype != "bool" else Const(bool(value), "bool")
    return (Nest(node.output, names, Select(all_of(tests), load, fill)),)


# --- gradient -----------------------------------------------------------------------------------------------------


def _unpadded(e: Emitter, g: Value, axis: int, extent: Dim, pair: tuple[int, int], mode: str) -> Value:
    """``g`` without the padding of one axis, whose gradients go to the elements that it repeats."""
    (lo, hi), rank = pair, g.type.rank
    steps = (1,) * rank

    def part(first: Dim, count: Dim) -> Value:
        starts = tuple(first if k == axis else 0 for k in range(rank))
        ends = tuple(first + count if k == axis else d for k, d in enumerate(g.shape))
        return e("slice", g, starts=starts, ends=ends, steps=steps)

    def added(v: Value, at: Dim) -> Value:
        starts = tuple(at if k == axis else 0 for k in range(rank))
        ends = tuple(at + v.shape[k] if k == axis else d for k, d in enumerate(out.shape))
        spread = e("slice_update", e.zeros(out.shape, g.dtype), v, starts=starts, ends=ends, steps=steps)
        return e("add", out, spread)

    out = part(lo, extent)
    for count, first, last in ((lo, 0, False), (hi, lo + extent, True)):
        if not count:
            continue
        edge = part(first, count)
        if mode == "replicate":
            out = added(e("reduce_sum", edge, axes=(axis,), keepdims=True), extent - 1 if last else 0)
        elif mode == "reflect":
            out = added(e("flip", edge, axes=(axis,)), extent - 1 - count if last else 1)
        else:
            out = added(edge, 0 if last else extent - count)
    return out


def _pad_vjp(e: Emitter, n: Node, x: Value, y: Value, g: Value) -> Value:
    pads, mode = n.attrs["pads"], n.attrs.get("mode", "constant")
    if mode != "constant":
        for k, pair in enumerate(pads):
            if any(pair):
                g = _unpadded(e, g, k, x.shape[k], pair, mode)
        return g
    if all(min(pair) >= 0 for pair in pads):
        ends = tuple(lo + d for d, (lo, _) in zip(x.shape, pads, strict=True))
        return e("slice", g, starts=tuple(lo for lo, _ in pads), ends=ends, steps=(1,) * len(pads))
    return e("pad", g, pads=tuple((-lo, -hi) for lo, hi in pads), mode="constant", value=0.0)


register(
    OpDef(
        "pad",
        _pad_infer,
        _pad_ref,
        unary_vjp(_pad_vjp),
        "any",
        loop=_pad_loop,
        samples=lambda: [
            Sample((_draw(2, 3, 4),), {"pads": ((0, 0), (1, 2), (0, 3)), "mode": "constant", "value": 0.0}),
            Sample((_draw(2, 3, 4),), {"pads": ((0, 0), (-1, 0), (2, 1)), "mode": "constant", "value": -1.5}),
            *(
                Sample((_draw(2, 4, 5),), {"pads": ((0, 0), (2, 1), (0, 3)), "mode": m})
                for m in ("reflect", "replicate", "circular")
            ),
        ],
    )
)
