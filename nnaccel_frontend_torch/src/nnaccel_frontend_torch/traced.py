"""Stand-ins for tensors and sizes while the network's own Python code runs once under the tracer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn
from unittest import mock

import torch
import torch.nn.functional as F

from nnaccel_core.ir import Expr
from nnaccel_frontend_torch.alias import Ref
from nnaccel_frontend_torch.dtypes import TO_TORCH
from nnaccel_frontend_torch.importer import paused
from nnaccel_frontend_torch.place import here
from nnaccel_frontend_torch.refusal import NeedStatic, Refusal

if TYPE_CHECKING:
    from nnaccel_frontend_torch.tracer import Tracer

#: What needs the numbers inside a tensor.
_DATA = frozenset(
    {
        "item",
        "tolist",
        "numpy",
        "data_ptr",
        "storage",
        "untyped_storage",
        "is_nonzero",
        "__array__",
        "__dlpack__",
        "grad",
        "grad_fn",
        "data",
        "backward",
        "register_hook",
        "retain_grad",
        "share_memory_",
        "pin_memory",
        "is_pinned",
        "apply_",
        "map_",
        "_version",
        "storage_offset",
        "stride",
        "is_contiguous",
        "requires_grad_",
        "names",
        "nonzero",
        "unique",
        "is_shared",
        "__contains__",
    }
)
_CONSTANT = {
    "is_sparse": False,
    "is_quantized": False,
    "is_mkldnn": False,
    "is_nested": False,
    "is_meta": False,
    "is_mps": False,
    "is_xpu": False,
    "is_sparse_csr": False,
    "is_vulkan": False,
    "is_ipu": False,
    "is_xla": False,
    "is_mtia": False,
    "is_maia": False,
    "layout": torch.strided,
    "is_leaf": True,
    "is_inference": False,
}


class TracedInt:
    """A size that differs between calls. It computes with integers; whatever needs its value asks for a static capture."""

    __slots__ = ("dim", "tracer")
    __class__ = int  # type: ignore[assignment]  # isinstance(size, int) must hold, as it does for the real one

    def __init__(self, tracer: Tracer, dim: Expr) -> None:
        self.tracer, self.dim = tracer, dim

    def _needed(self, *_: Any) -> NoReturn:
        self.tracer.refuse(NeedStatic(f"Python code looks at the size {self.dim}"))

    __bool__ = __index__ = __int__ = __float__ = __hash__ = __lt__ = __le__ = __gt__ = __ge__ = __truediv__ = __rtruediv__ = (
        _needed  # type: ignore[assignment]
    )
    __pow__ = __rpow__ = __divmod__ = __round__ = __trunc__ = __ceil__ = __floor__ = __repr__ = __str__ = __abs__ = _needed  # type: ignore[assignment]

    def __format__(self, spec: str) -> str:
        self._needed()

    def __eq__(self, other: object) -> bool:
        if type(other) is TracedInt and other.dim is self.dim:
            return True
        self._needed()

    def __ne__(self, other: object) -> bool:
        return not self == other

    def _make(self, other: Any, op: str, swap: bool) -> Any:
        right = other.dim if type(other) is TracedInt else other
        if isinstance(right, (bool, float)) or not isinstance(right, (int, Expr)):
            if type(right) is TracedTensor:
                return NotImplemented
            self._needed()
        left: Any = self.dim
        if swap:
            left, right = right, left
        return self.tracer.wrap(getattr(_OPS, op)(left, right))

    def __add__(self, o: Any) -> Any:
        return self._make(o, "add", False)

    def __radd__(self, o: Any) -> Any:
        return self._make(o, "add", True)

    def __sub__(self, o: Any) -> Any:
        return self._make(o, "sub", False)

    def __rsub__(self, o: Any) -> Any:
        return self._make(o, "sub", True)

    def __mul__(self, o: Any) -> Any:
        return self._make(o, "mul", False)

    def __rmul__(self, o: Any) -> Any:
        return self._make(o, "mul", True)

    def __floordiv__(self, o: Any) -> Any:
        return self._make(o, "floordiv", False)

    def __rfloordiv__(self, o: Any) -> Any:
        return self._make(o, "floordiv", True)

    def __mod__(self, o: Any) -> Any:
        return self._make(o, "mod", False)

    def __rmod__(self, o: Any) -> Any:
        return self._make(o, "mod", True)

    def __neg__(self) -> Any:
        return self.tracer.wrap(0 - self.dim)


class _OPS:
    add = staticmethod(lambda a, b: a + b)
    sub = staticmethod(lambda a, b: a - b)
    mul = staticmethod(lambda a, b: a * b)
    floordiv = staticmethod(lambda a, b: a // b)
    mod = staticmethod(lambda a, b: a % b)


class TracedSize(tuple):  # type: ignore[type-arg]
    """A shape with symbolic sizes; stands for `torch.Size`."""

    def numel(self) -> Any:
        """The number of elements."""
        out: Any = 1
        for d in self:
            out = out * d
        return out

    def __getitem__(self, i: Any) -> Any:
        got = tuple.__getitem__(self, i)
        return TracedSize(got) if isinstance(i, slice) else got

    def __add__(self, other: Any) -> Any:
        return TracedSize(tuple.__add__(self, tuple(other)))


class TracedTensor(torch.Tensor):
    """A tensor of the traced program. Torch functions called with it, its methods and operators go to the importer.

    It is a real tensor object on the meta device, so that torch's own C++ code may handle it safely; operations
    that reach it there are noticed by the tracer's watch.
    """

    ref: Ref
    tracer: Tracer
    _is_param: bool

    @staticmethod
    def make(tracer: Tracer, ref: Ref, is_param: bool = False) -> TracedTensor:
        """The stand-in of ``ref``."""
        with paused(), torch._C.DisableTorchFunctionSubclass():
            shape = [d if isinstance(d, int) else tracer.extent for d in ref.type.shape]
            memory = torch.empty(shape, dtype=TO_TORCH[ref.type.dtype], device="meta")
            out: TracedTensor = torch.Tensor._make_subclass(TracedTensor, memory)  # type: ignore[assignment]
        out.ref, out.tracer, out._is_param = ref, tracer, is_param
        return out

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        tracer = _tracer_of(args, kwargs)
        name = getattr(func, "__name__", "")
        if name in ("__get__", "__set__", "__delete__"):
            attribute = getattr(getattr(func, "__self__", None), "__name__", "")
            if name != "__get__":
                tracer.refuse(Refusal(f"the network sets the attribute {attribute!r} of a tensor"))
            return attribute_of(args[0], attribute)
        if func is F.multi_head_attention_forward:
            # Its Python code decides by sizes and masks only: it runs as it is, on stand-ins.
            with mock.patch.object(F, "has_torch_function", lambda tensors: False):
                return func(*args, **kwargs)
        if name in _DATA:
            tracer.refuse(Refusal(f"the network looks into a tensor with {name}"))
        return tracer.call(func, args, kwargs)

    @property
    def shape(self) -> Any:
        """The shape, with `TracedInt` where it is symbolic."""
        return self.tracer.wrap(self.ref.type.shape)

    @property
    def dtype(self) -> torch.dtype:
        """The element type."""
        return TO_TORCH[self.ref.type.dtype]

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return self.ref.type.rank

    @property
    def device(self) -> torch.device:
        """The network's own."""
        return here()

    @property
    def requires_grad(self) -> bool:
        """No gradients are needed where traces are used, but the user's own tensor may say True."""
        self.tracer.refuse(Refusal("the network looks at requires_grad"))

    def size(self, dim: int | None = None) -> Any:
        """The shape or one of its entries."""
        shape = self.shape
        return shape if dim is None else shape[dim]

    def dim(self) -> int:
        """The number of axes."""
        return self.ref.type.rank

    def numel(self) -> Any:
        """The number of elements."""
        return self.tracer.call("numel", (self,), {})

    def get_device(self) -> int:
        """The device's number; -1: CPU memory."""
        return -1 if here().index is None else here().index  # type: ignore[return-value]

    def element_size(self) -> int:
        """Bytes per element."""
        return self.ref.type.itemsize

    def type(self, dtype: Any = None, non_blocking: bool = False) -> Any:
        """A conversion, or the tensor type's name."""
        if isinstance(dtype, torch.dtype):
            return self.tracer.call("to", (self, dtype), {})
        self.tracer.refuse(Refusal("the network uses tensor type names"))

    def __len__(self) -> int:
        if not self.ndim:
            raise TypeError("len() of a 0-d tensor")
        return self.shape[0].__index__()  # type: ignore[no-any-return]

    def __iter__(self) -> Any:
        if not self.ndim:
            raise TypeError("iteration over a 0-d tensor")
        return iter(self.tracer.call("unbind", (self, 0), {}))

    def __setitem__(self, index: Any, value: Any) -> None:
        self.tracer.call("setitem", (self, index, value), {})

    def __hash__(self) -> int:
        return id(self)

    def _data(self, *_: Any) -> NoReturn:
        self.tracer.refuse(Refusal("Python control flow or numbers depend on the contents of a tensor"))

    __bool__ = __int__ = __float__ = __index__ = __complex__ = __contains__ = __format__ = _data  # type: ignore[assignment]

    def __repr__(self, **_: Any) -> str:
        return f"TracedTensor({self.ref.type})"

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        self.tracer.refuse(Refusal("the network copies or pickles a tensor through Python"))

    def __deepcopy__(self, memo: Any) -> NoReturn:
        self.tracer.refuse(Refusal("the network copies a tensor through Python"))


def attribute_of(x: TracedTensor, name: str) -> Any:
    """A property of ``torch.Tensor`` that the stand-in does not define itself."""
    if name == "is_cuda":
        return here().type == "cuda"
    if name in _CONSTANT:
        return _CONSTANT[name]
    if name in ("T", "mT", "H", "mH"):
        return x.tracer.call("getattr", (x, name), {})
    x.tracer.refuse(Refusal(f"the network looks at the attribute {name!r} of a tensor"))


def _tracer_of(args: Any, kwargs: Any) -> Tracer:
    from torch.utils._pytree import tree_leaves

    for x in tree_leaves((tuple(args), dict(kwargs))):
        if type(x) is TracedTensor:
            return x.tracer
    raise Refusal("a torch function was called on a tensor inside an object that is not a plain container")


def _operator(name: str) -> Any:
    def method(self: TracedTensor, *args: Any, **kwargs: Any) -> Any:
        return self.tracer.call(name, (self, *args), kwargs)

    return method


for _name in (
    "add",
    "radd",
    "iadd",
    "sub",
    "rsub",
    "isub",
    "mul",
    "rmul",
    "imul",
    "truediv",
    "rtruediv",
    "itruediv",
    "floordiv",
    "rfloordiv",
    "mod",
    "pow",
    "rpow",
    "ipow",
    "matmul",
    "neg",
    "abs",
    "invert",
    "eq",
    "ne",
    "lt",
    "le",
    "gt",
    "ge",
    "getitem",
    "and",
    "or",
    "iand",
    "ior",
    "xor",
    "rmod",
):
    setattr(TracedTensor, f"__{_name}__", _operator(_name))

# Methods that take sizes. Torch's own argument parser would ask a `TracedInt` for its value before it hands over.
for _name in (
    "view",
    "reshape",
    "expand",
    "repeat",
    "tile",
    "broadcast_to",
    "flatten",
    "unflatten",
    "narrow",
    "split",
    "chunk",
    "select",
    "roll",
    "repeat_interleave",
    "unsqueeze",
    "new_zeros",
    "new_ones",
    "new_full",
):
    setattr(TracedTensor, _name, _operator(_name))
