"""Parameters whose memory was given back: what is left of them, and when that happens.

The tensor stays the object that it was, in the network's own tables, with its shape, dtype and device. Its memory is
exchanged for one NaN that all elements share, and its class for one that raises `ReleasedError` wherever torch wants
its values: nothing can read freed memory, not even code that asks torch for an address. Views that others made before
keep the old memory, and it is given back when they go.
"""

from __future__ import annotations

import ctypes
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn

import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from nnaccel_core.errors import ReleasedError

if TYPE_CHECKING:
    from nnaccel_core.driver.session import Session

#: Smaller parameters stay: they are no memory to speak of, and plans for other sizes may want them in another form.
SMALLEST = 1 << 16

_REMEDY = "load the network again, or optimize a copy of it that keeps its parameters"

#: What can be asked of a released tensor: everything but its values.
_GETTERS = (
    "shape", "dtype", "device", "layout", "requires_grad", "is_leaf", "ndim", "grad", "grad_fn", "is_sparse", "is_sparse_csr",
    "is_quantized", "is_mkldnn", "is_meta", "is_cuda", "is_cpu", "is_nested", "itemsize", "nbytes", "names",
)  # fmt: skip
_METHODS = (
    "size", "dim", "ndimension", "numel", "nelement", "element_size", "is_floating_point", "is_complex", "is_signed", "is_neg",
    "is_conj", "is_inference", "get_device", "__len__", "__hash__",
)  # fmt: skip


def _allowed() -> dict[Any, Callable[..., Any] | None]:
    """Functions that released tensors obey, and those that stand in for torch's own."""
    kind = torch.Tensor  # some of these are not in every version
    found: dict[Any, Callable[..., Any] | None] = {getattr(kind, name): None for name in _METHODS if hasattr(kind, name)}
    found |= {getattr(kind, name).__get__: None for name in _GETTERS if hasattr(kind, name)}
    found |= {torch.numel: None, torch.is_floating_point: None, torch.is_complex: None, torch.is_neg: None, torch.is_conj: None}
    found[torch.Tensor.stride] = _stride
    found[torch.Tensor.__repr__] = _text
    found[torch.Tensor.requires_grad_] = _requires_grad
    found[torch.Tensor.requires_grad.__set__] = _requires_grad  # type: ignore[attr-defined]
    return found


def _stride(tensor: Any, dim: int | None = None) -> Any:
    return tensor._nnaccel_stride if dim is None else tensor._nnaccel_stride[dim]


def _text(tensor: Any, **_: Any) -> str:
    return f"Released parameter {tensor._nnaccel_name!r} of shape {list(tensor.shape)}, {tensor.dtype}"


def _requires_grad(tensor: Any, wanted: bool = True) -> Any:
    if wanted:
        _refuse(tensor, "requires_grad")
    return tensor


def _refuse(tensor: Any, what: str) -> NoReturn:
    """``tensor`` is None where torch did not say which one it is."""
    which = "a parameter" if tensor is None else f"parameter {tensor._nnaccel_name!r}"
    raise ReleasedError(
        f"{what} needs the values of {which}, whose memory was given back (release_parameters): what is "
        f"left of it serves the optimized network's predictions only; {_REMEDY}"
    )


class _Obeying:
    """A tensor without values."""

    _nnaccel_name: str
    _nnaccel_stride: tuple[int, ...]

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in _ALLOWED:
            own = _ALLOWED[func]
            if own is not None:
                return own(*args, **kwargs)
            with torch._C.DisableTorchFunctionSubclass():
                return func(*args, **kwargs)
        name = getattr(func, "__name__", str(func))
        if name in ("__get__", "__set__"):
            name = func.__self__.__name__
        leaves = tree_leaves((args, kwargs))
        _refuse(next((t for t in leaves if isinstance(t, _Obeying)), None), name)

    def __deepcopy__(self, memo: Any) -> Any:
        _refuse(self, "a copy")

    def __reduce_ex__(self, protocol: Any) -> Any:
        _refuse(self, "a pickle")


class ReleasedParameter(_Obeying, nn.Parameter):
    """An ``nn.Parameter`` without values."""


class ReleasedTensor(_Obeying, torch.Tensor):
    """A buffer, or another tensor of a network, without values."""


_ALLOWED = _allowed()


def is_released(tensor: Any) -> bool:
    """Whether the memory of ``tensor`` was given back."""
    return isinstance(tensor, _Obeying)


def check_values(tensor: Any) -> None:
    """Raise ReleasedError for a tensor whose memory was given back."""
    if is_released(tensor):
        _refuse(tensor, "optimize()")


def empty(tensor: torch.Tensor, name: str) -> int:
    """Give back the memory of ``tensor``, a plain tensor or parameter; returns its bytes."""
    nbytes, stride, was_parameter = tensor.nbytes, tensor.stride(), type(tensor) is nn.Parameter
    with torch.inference_mode(False), torch.no_grad():
        tensor.requires_grad_(False)
        torch.autograd.graph.increment_version(tensor)  # a backward pass that saved it must not take NaN for its values
        tensor.data = torch.full((1,), float("nan"), dtype=tensor.dtype, device=tensor.device).expand(tensor.shape)
    tensor._nnaccel_name, tensor._nnaccel_stride = name, tuple(stride)  # type: ignore[attr-defined]
    tensor.__class__ = ReleasedParameter if was_parameter else ReleasedTensor
    return nbytes


class Releasing:
    """Releases the parameters of one network.

    Attributes:
        tensors: what was released, by identity; nbytes: how much that was.
        seen: `Released.derived` when that was last looked at.
    """

    def __init__(self, user: nn.Module, session: Session) -> None:
        self._user, self._session = user, session
        self.tensors: dict[int, torch.Tensor] = {}
        self.nbytes = 0
        self.seen = -1
        self._told = False

    def run(self) -> int:
        """Release what every program reads in derived forms only; returns how many bytes."""
        from nnaccel_frontend_torch.capture import network_tensors

        self.seen = self._session.released.derived
        ready = self._session.releasable()
        found: dict[int, tuple[torch.Tensor, str]] = {}
        for key, (name, get) in network_tensors(self._user).items():
            tensor = get()
            plain = type(tensor) in (torch.Tensor, nn.Parameter) and tensor.is_leaf and not tensor.is_inference()
            if key in ready and plain and tensor.nbytes >= SMALLEST:
                found[key] = tensor, name
        if not found:
            return 0
        self._session.release_parameters(found)
        freed = 0
        for key, (tensor, name) in found.items():
            freed += empty(tensor, name)
            self.tensors[key] = tensor
        self._user.requires_grad_(False)
        self.nbytes += freed
        trim()
        return freed

    def refuse(self, doing: str, remedy: str = _REMEDY) -> None:
        """Raise ReleasedError for what needs parameters, once some were released."""
        if self.tensors:
            raise ReleasedError(
                f"{type(self._user).__name__}: the memory of {len(self.tensors)} parameters was given back (release_parameters), "
                f"but {doing}; {remedy}"
            )

    def keep(self, why: str) -> None:
        """Say once that nothing is released."""
        if not self._told:
            self._told = True
            warnings.warn(f"nnaccel: no parameter of {type(self._user).__name__} is released: {why}", stacklevel=4)


def trim() -> None:
    """Have the C library give freed memory back to the system."""
    release = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if release is not None:
        release(0)
