"""torch's automatic mixed precision: of which calls autocast casts the arguments, and to what.

The lists are torch's own (its documentation, "Autocast Op Reference"), by the names of the mapping table; a call that torch makes
of listed ones stands where these lead. A test holds them against torch's dispatcher and against the dtypes of its results.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch.utils._pytree import tree_map

from nnaccel_core.ir import evaluate, free_symbols
from nnaccel_frontend_torch.alias import Ref
from nnaccel_frontend_torch.dtypes import TO_IR, TO_TORCH
from nnaccel_frontend_torch.place import here

if TYPE_CHECKING:
    from nnaccel_core.api import Backend
    from nnaccel_frontend_torch.importer import Importer

_PRODUCTS = frozenset({
    "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d", "linear", "matmul", "mm", "bmm",
    "addmm", "baddbmm", "prelu", "scaled_dot_product_attention",
})  # fmt: skip

#: By type of device: calls that run in the lower precision.
LOWER: Mapping[str, frozenset[str]] = {
    "cpu": _PRODUCTS | {"affine_grid"},
    "cuda": _PRODUCTS | {"addmv", "mv", "einsum", "affine_grid"},
}

#: Calls that run in float32.
FLOAT32: Mapping[str, frozenset[str]] = {
    "cpu": frozenset({
        "max_pool3d", "avg_pool3d", "adaptive_avg_pool3d", "adaptive_max_pool3d", "adaptive_max_pool3d_with_indices",
        "max_unpool2d", "max_unpool3d", "grid_sample", "prod", "lp_pool3d",
    }),
    "cuda": frozenset({
        "exp", "expm1", "log", "log10", "log2", "log1p", "reciprocal", "rsqrt", "tan", "pow", "rpow", "softplus", "layer_norm",
        "rms_norm", "group_norm", "norm", "linalg_vector_norm", "linalg_norm", "normalize", "cosine_similarity",
        "pairwise_distance", "logsumexp", "special_logsumexp", "local_response_norm", "square", "lp_pool1d", "lp_pool2d",
        "lp_pool3d", "prod", "cumsum", "sum", "softmax", "special_softmax", "softmin", "softmax2d", "log_softmax",
        "special_log_softmax",
    }),
}  # fmt: skip

#: Those of the above that run in the dtype that they are asked for, where there is one.
_WITH_DTYPE = frozenset({
    "prod", "cumsum", "sum", "softmax", "special_softmax", "softmin", "log_softmax", "special_log_softmax",
})  # fmt: skip

#: Calls that run in the widest dtype among their arguments.
WIDEST: Mapping[str, frozenset[str]] = {
    "cpu": frozenset({"cat", "concat", "concatenate", "hstack", "vstack", "stack", "index_copy"}),
    "cuda": frozenset({"addcdiv", "addcmul", "bilinear", "dot", "vdot", "inner", "grid_sample", "index_put", "scatter_add"}),
}

#: Calls that torch makes of others, listed or not as their arguments go: it is asked what comes out.
_ASKED: Mapping[str, frozenset[str]] = {"cpu": frozenset({"einsum", "inner"}), "cuda": frozenset()}


def lower_dtype(device: str) -> torch.dtype | None:
    """The dtype that autocast lowers to on this type of device now; None where it is off."""
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None


def native(device: str, lower: torch.dtype) -> bool:
    """Whether torch multiplies in ``lower`` by instructions or libraries made for it."""
    if device != "cpu":
        return True
    supported = {torch.bfloat16: "_is_mkldnn_bf16_supported", torch.float16: "_is_mkldnn_fp16_supported"}
    return lower in supported and bool(getattr(torch.ops.mkldnn, supported[lower])())


def left_to_torch(backend: Backend, device: str) -> str | None:
    """Why torch runs calls in the state that autocast is in now; None where they are compiled."""
    lower = lower_dtype(device)
    if lower is None or TO_IR[lower] not in backend.widened or not native(device, lower):
        return None
    return f"autocast to {TO_IR[lower]} is on, of which torch has fast products on this processor and {backend.name} has none"


def held(func: Callable[..., Any], device: str) -> Callable[..., Any]:
    """``func`` in the state that autocast is in now, whatever it will be in at the call."""
    lower = lower_dtype(device)

    def run(*args: Any, **kwargs: Any) -> Any:
        with torch.autocast(device, dtype=lower, enabled=lower is not None):
            return func(*args, **kwargs)

    return run


def casted(
    b: Importer, name: str, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> tuple[Sequence[Any], Mapping[str, Any]]:
    """The arguments of the call ``name`` as autocast hands them on, in the state that it is in now."""
    device = here().type
    lower = lower_dtype(device)
    if lower is None:
        return args, kwargs
    b.autocast = lower
    wanted = _wanted(b, device, lower, name, func, args, kwargs)
    if wanted is None:
        return args, kwargs

    def cast(x: Any) -> Any:
        ref = b.param(x) if isinstance(x, torch.Tensor) else x
        if not isinstance(ref, Ref) or not _eligible(ref) or TO_TORCH[ref.type.dtype] == wanted:
            return x
        return b.temp(b.rounded(ref.read(b), TO_IR[wanted]))

    return tree_map(cast, tuple(args)), tree_map(cast, dict(kwargs))


def _eligible(ref: Ref) -> bool:
    """Autocast leaves integers and float64 alone."""
    return ref.type.is_float and ref.type.dtype != "float64"


def _wanted(
    b: Importer, device: str, lower: torch.dtype, name: str, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> torch.dtype | None:
    """What the floating-point arguments become; None leaves them."""
    if name in LOWER.get(device, ()):
        return lower
    if name in _WITH_DTYPE and kwargs.get("dtype") is not None:
        return None
    if name in FLOAT32.get(device, ()) or _float32_by_arguments(b, device, name, args, kwargs):
        return torch.float32
    if name in WIDEST.get(device, ()):
        return torch.float32 if "float32" in _floats(b, args, kwargs) else lower
    if name in _ASKED.get(device, ()) and "float64" not in _floats(b, args, kwargs):
        return lower if _asked(func, args, kwargs) == lower else None
    return None


def _asked(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> torch.dtype | None:
    """The dtype of torch's own result, found on tensors without data; None where there is none."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    from nnaccel_frontend_torch.importer import paused

    def fake(x: Any) -> Any:
        if not isinstance(x, (Ref, torch.Tensor)):
            return x
        shape, dtype = (x.type.shape, TO_TORCH[x.type.dtype]) if isinstance(x, Ref) else (tuple(x.shape), x.dtype)
        return torch.empty([evaluate(d, dict.fromkeys(free_symbols(d), 2)) for d in shape], dtype=dtype)

    with paused(), FakeTensorMode():
        try:
            out = func(*tree_map(fake, tuple(args)), **tree_map(fake, dict(kwargs)))
        except Exception:  # it refuses these arguments: so will the call itself
            return None
    return out.dtype if isinstance(out, torch.Tensor) else None


def _floats(b: Importer, args: Sequence[Any], kwargs: Mapping[str, Any]) -> set[str]:
    """The dtypes of the floating-point arguments."""
    found: set[str] = set()

    def look(x: Any) -> Any:
        ref = b.param(x) if isinstance(x, torch.Tensor) else x
        if isinstance(ref, Ref) and ref.type.is_float:
            found.add(ref.type.dtype)
        return x

    tree_map(look, (tuple(args), dict(kwargs)))
    return found


def _float32_by_arguments(b: Importer, device: str, name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    """Calls that torch makes of others that run in float32, for some arguments only."""

    def argument(at: int, key: str, default: Any) -> Any:
        return args[at] if len(args) > at else kwargs.get(key, default)

    x = argument(0, "input", None)
    rank = x.type.rank if isinstance(x, Ref) else 0
    if name in ("interpolate", "upsample"):
        area = argument(3, "mode", "nearest") == "area"
        return (device == "cuda" and not area) or (device == "cpu" and area and rank == 5)
    if device != "cpu":
        return False
    if name == "local_response_norm":  # with three axes it averages by another pool
        return rank != 3
    if name == "pad":
        mode = argument(2, "mode", "constant")
        return mode == "replicate" or (mode == "reflect" and len(argument(1, "pad", ())) <= 4)
    return False


__all__ = ["FLOAT32", "LOWER", "WIDEST", "casted", "held", "left_to_torch", "lower_dtype", "native"]
