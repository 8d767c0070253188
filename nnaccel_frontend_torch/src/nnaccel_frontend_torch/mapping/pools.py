"""Pooling: windows of fixed and of adaptive size, positions of maxima, and back from them."""

from __future__ import annotations

import math
from typing import Any

from nnaccel_core.ir import Dim, Value, product
from nnaccel_core.ops.pool import pooled_extent
from nnaccel_frontend_torch.alias import Ref
from nnaccel_frontend_torch.importer import Importer
from nnaccel_frontend_torch.mapping.args import Handler, expanded, floating, ints, static, value_of
from nnaccel_frontend_torch.mapping.indexing import index_value
from nnaccel_frontend_torch.mapping.layers import batched, unbatched
from nnaccel_frontend_torch.refusal import Refusal, Unmapped


def _steps(stride: Any, kernel: tuple[int, ...]) -> tuple[int, ...]:
    return ints(stride, len(kernel), "stride") if stride not in (None, [], ()) else kernel


def max_pool(spatial: int, indices: bool = False) -> Handler:
    """max_pool1d / 2d / 3d; with ``indices`` together with the positions of the maxima."""

    def run(
        b: Importer,
        input: Any,
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 0,
        dilation: Any = 1,
        ceil_mode: bool = False,
        return_indices: bool = False,
    ) -> Any:
        x, added = batched(b, floating(b, input), spatial + 2)
        kernel = ints(kernel_size, spatial, "kernel_size")
        attrs: dict[str, Any] = {
            "kernel": kernel,
            "stride": _steps(stride, kernel),
            "padding": tuple((p, p) for p in ints(padding, spatial, "padding")),
            "dilation": ints(dilation, spatial, "dilation"),
            "ceil_mode": bool(ceil_mode),
        }
        out = b.emit("max_pool", [x], **attrs)
        if not (indices or return_indices):
            return unbatched(b, out, added)
        return unbatched(b, out, added), unbatched(b, b.emit("max_pool_positions", [x, out], **attrs), added)

    return run


def max_unpool(spatial: int) -> Handler:
    """max_unpool1d / 2d / 3d: elements back at their positions, zeros elsewhere."""

    def run(
        b: Importer, input: Any, indices: Any, kernel_size: Any, stride: Any = None, padding: Any = 0, output_size: Any = None
    ) -> Ref:
        x, added = batched(b, value_of(b, input), spatial + 2)
        at, _ = batched(b, index_value(b, indices), spatial + 2)
        kernel = ints(kernel_size, spatial, "kernel_size")
        if output_size is None:
            pads = ints(padding, spatial, "padding")
            steps = _steps(stride, kernel)
            out = tuple(
                (static(n, "unpooling") - 1) * steps[k] - 2 * pads[k] + kernel[k] for k, n in enumerate(x.shape[2:])
            )
        else:
            out = tuple(static(n, "unpooling") for n in tuple(output_size)[-spatial:])
        lines = (*x.shape[:2], product(x.shape[2:]))
        zeros = expanded(b, b.constant(0, x.dtype), (*x.shape[:2], math.prod(out)))
        operands = [zeros, b.emit("reshape", [at], shape=lines), b.emit("reshape", [x], shape=lines)]
        flat = b.emit("scatter_elements", operands, axis=2, reduction="none", negative=False)
        return unbatched(b, b.emit("reshape", [flat], shape=(*x.shape[:2], *out)), added)

    return run


def _overhang(size: Dim, k: int, s: int, pad: tuple[int, int]) -> tuple[int, int]:
    """Padding with which ceil mode's windows lie inside."""
    n = static(size, "average pooling in ceil mode with a divisor")
    windows = static(pooled_extent(n, k, s, pad, 1, True), "a window")
    return pad[0], max((windows - 1) * s + k - n - pad[0], 0)


def avg_pool(spatial: int) -> Handler:
    """avg_pool1d / 2d / 3d."""

    def run(
        b: Importer,
        input: Any,
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
    ) -> Ref:
        if divisor_override == 0:
            raise Refusal("average pooling with a divisor of 0: torch refuses it too")
        x, added = batched(b, floating(b, input), spatial + 2)
        kernel = ints(kernel_size, spatial, "kernel_size")
        steps = _steps(stride, kernel)
        pads = tuple((p, p) for p in ints(padding, spatial, "padding"))
        if divisor_override is not None and ceil_mode:
            # Every window counts as whole, so what the last ones lack becomes padding.
            pads = tuple(_overhang(x.shape[2 + k], kernel[k], steps[k], pads[k]) for k in range(spatial))
            ceil_mode = False
        out = b.emit(
            "avg_pool",
            [x],
            kernel=kernel,
            stride=steps,
            padding=pads,
            ceil_mode=bool(ceil_mode),
            count_include_pad=bool(count_include_pad) or divisor_override is not None,
        )
        if divisor_override is not None:
            out = b.emit("mul", [out, b.constant(math.prod(kernel) / divisor_override, out.dtype)])
        return unbatched(b, out, added)

    return run


def _output_size(x: Value, output_size: Any, spatial: int) -> tuple[int, ...]:
    given = (output_size,) * spatial if isinstance(output_size, int) or output_size is None else tuple(output_size)
    given = given * spatial if len(given) == 1 else given
    return tuple(
        static(x.shape[2 + k], "adaptive pooling") if s is None else static(s, "adaptive pooling") for k, s in enumerate(given)
    )


def adaptive_avg_pool(spatial: int) -> Handler:
    """adaptive_avg_pool1d / 2d / 3d."""

    def run(b: Importer, input: Any, output_size: Any) -> Ref:
        x, added = batched(b, floating(b, input), spatial + 2)
        return unbatched(b, b.emit("adaptive_avg_pool", [x], output_size=_output_size(x, output_size, spatial)), added)

    return run


def adaptive_max_pool(spatial: int, indices: bool = False) -> Handler:
    """adaptive_max_pool1d / 2d / 3d; with ``indices`` together with the positions of the maxima."""

    def run(b: Importer, input: Any, output_size: Any, return_indices: bool = False) -> Any:
        x, added = batched(b, floating(b, input), spatial + 2)
        size = _output_size(x, output_size, spatial)
        wanted = indices or return_indices
        extents = x.shape[2:]
        if not wanted and all(isinstance(n, int) and s and not n % s for n, s in zip(extents, size, strict=True)):
            kernel = tuple(static(n, "a window") // s for n, s in zip(extents, size, strict=True))
            more = {"padding": ((0, 0),) * spatial, "dilation": (1,) * spatial, "ceil_mode": False}
            return unbatched(b, b.emit("max_pool", [x], kernel=kernel, stride=kernel, **more), added)
        if not all(size):
            raise Unmapped("adaptive max pooling to nothing")
        out = b.emit("adaptive_max_pool", [x], output_size=size)
        if not wanted:
            return unbatched(b, out, added)
        return unbatched(b, out, added), unbatched(b, b.emit("adaptive_max_pool_positions", [x, out], output_size=size), added)

    return run


TABLE: dict[str, Handler] = {
    f"{name}{d}d{more}": handler
    for d in (1, 2, 3)
    for name, more, handler in (
        ("max_pool", "", max_pool(d)),
        ("max_pool", "_with_indices", max_pool(d, True)),
        ("max_unpool", "", max_unpool(d)),
        ("avg_pool", "", avg_pool(d)),
        ("adaptive_avg_pool", "", adaptive_avg_pool(d)),
        ("adaptive_max_pool", "", adaptive_max_pool(d)),
        ("adaptive_max_pool", "_with_indices", adaptive_max_pool(d, True)),
    )
}
