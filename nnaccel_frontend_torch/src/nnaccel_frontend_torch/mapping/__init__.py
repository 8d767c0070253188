"""The mapping table: torch's names to functions that emit IR. One line per call in each part's ``TABLE``."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from nnaccel_frontend_torch.alias import Ref
from nnaccel_frontend_torch.autocast import casted
from nnaccel_frontend_torch.importer import Importer
from nnaccel_frontend_torch.mapping import (
    activations,
    einsum,
    images,
    indexing,
    layers,
    logic,
    made,
    norms,
    parts,
    pointwise,
    pools,
    reductions,
    scatter,
    shapes,
)
from nnaccel_frontend_torch.mapping.args import Handler, is_tensor, tensor
from nnaccel_frontend_torch.refusal import Refusal, Unmapped

TABLE: dict[str, Handler] = {
    name: handler
    for part in (
        pointwise, logic, activations, shapes, parts, indexing, scatter, made, layers, pools, images, norms, reductions, einsum,
    )
    for name, handler in part.TABLE.items()
}  # fmt: skip

#: Functions whose name means something else elsewhere.
EXACT: dict[Any, Handler] = {
    torch.batch_norm: norms.torch_batch_norm,
    torch.instance_norm: norms.torch_instance_norm,
    torch.embedding: indexing.torch_embedding,
    torch.Tensor.where: logic.method_where,
}
#: Methods, given by name, that take their arguments in another order than the function of that name.
METHODS: dict[str, Handler] = {"where": logic.method_where}

#: In-place calls that change a tensor's own shape or memory, which no value can express.
_RESHAPING = frozenset(
    {"squeeze_", "unsqueeze_", "t_", "transpose_", "swapaxes_", "swapdims_", "resize_", "resize_as_", "set_", "data"}
)
_PURE_PYTHON = {"__iadd__": "add", "__isub__": "sub", "__imul__": "mul", "__itruediv__": "div", "__ipow__": "pow"}
_INPLACE_OPERATORS = {"iadd": "add", "isub": "sub", "imul": "mul", "itruediv": "div", "ipow": "pow", "iand": "and", "ior": "or"}


def name_of(func: Any) -> tuple[str, bool]:
    """The table's name of a torch function, method or operator, and whether it writes its first argument.

    Raises:
        Unmapped: it is not torch's.
    """
    if isinstance(func, str):
        name = func
    else:
        module = getattr(func, "__module__", None) or getattr(getattr(func, "__objclass__", None), "__module__", None) or "torch"
        name = getattr(func, "__name__", "")
        if module.split(".")[0] not in ("torch", "_operator", "builtins", "math") or not name:
            raise Unmapped(f"{getattr(func, '__qualname__', func)!s} is not torch's own")
    if name in _PURE_PYTHON:
        return _PURE_PYTHON[name], True
    if name.startswith("__") and name.endswith("__"):
        name = name[2:-2]
    if name in _INPLACE_OPERATORS:
        return _INPLACE_OPERATORS[name], True
    if name in _RESHAPING:
        raise Refusal(f"{name} changes a tensor's own shape or memory")
    if name.endswith("_") and name not in TABLE:
        return name[:-1], True
    return name, False


def call(b: Importer, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """Import one call: map it, or record it as a foreign one. Arguments hold `Ref`s for tensors and dims for sizes.

    Raises:
        Refusal: it can be neither mapped nor left to torch.
    """
    name, inplace = name_of(func)
    kwargs = dict(kwargs)
    if kwargs.pop("inplace", False):
        inplace = True
    if kwargs.get("out") is not None:
        raise Refusal(f"{name} writes its out= argument")
    kwargs.pop("out", None)
    if name == "setitem":
        return shapes.setitem(b, *args)
    handler = METHODS.get(name) if isinstance(func, str) else EXACT.get(func)
    handler = handler or TABLE.get(name)
    special = _SPECIAL_INPLACE.get(name) if inplace else None
    try:
        if special is not None:
            return special(b, *args, **kwargs)
        if handler is None:
            raise Unmapped(f"{name} has no mapping")
        positional, rest = (args, kwargs) if inplace else casted(b, name, func, args, kwargs)
        positional, rest = _self_first(positional, dict(rest))
        try:
            inspect.signature(handler).bind(b, *positional, **rest)
        except TypeError as e:
            raise Unmapped(f"{name} with arguments it is not mapped for ({e})") from None
        result = handler(b, *positional, **rest)
    except Unmapped as e:
        if inplace:
            raise Refusal(f"{name} writes its argument and is not mapped ({e})") from None
        where = f"{name}: {e}" if name not in str(e) else str(e)
        return b.foreign(_callable(func), args, kwargs, where)
    if not inplace:
        return result
    target = tensor(b, args[0] if args else kwargs["input"])
    return target if result is target else shapes.store(b, target, result)


def _self_first(args: Sequence[Any], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """torch's ``self`` and ``input`` are both the first argument."""
    if not args:
        for key in ("input", "self", "tensor", "tensors", "x1", "query"):
            if key in kwargs:
                rest = dict(kwargs)
                return (rest.pop(key),), rest
    return tuple(args), kwargs


def _callable(func: Any) -> Any:
    if not isinstance(func, str):
        return func
    method = getattr(torch.Tensor, func, None) or getattr(torch.Tensor, f"__{func}__", None)
    if method is None:
        raise Refusal(f"tensors have no method {func!r}")
    return method


def _copy(b: Importer, input: Any, src: Any, non_blocking: bool = False) -> Ref:
    return shapes.store(b, tensor(b, input), src)


def _fill(b: Importer, input: Any, value: Any) -> Ref:
    return shapes.store(b, tensor(b, input), value)


def _zero(b: Importer, input: Any) -> Ref:
    return shapes.store(b, tensor(b, input), 0)


def _requires_grad(b: Importer, input: Any, requires_grad: bool = True) -> Ref:
    raise Refusal("requires_grad_ inside the network")


_SPECIAL_INPLACE: dict[str, Handler] = {"copy": _copy, "fill": _fill, "zero": _zero, "requires_grad": _requires_grad}

__all__ = ["TABLE", "call", "is_tensor", "name_of"]
