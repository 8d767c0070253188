"""torch tensors in CPU memory as the core sees them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nnaccel_core.api import Bridge
from nnaccel_core.ir import TensorType, evaluate, identity

#: Bytes; what wide accesses, and neighbours in one copy, want.
BLOCK_ALIGNMENT = 256


class TorchCpuBridge(Bridge):
    """Memory of torch's own CPU allocator."""

    framework = "torch"
    device = "cpu"

    def __init__(self) -> None:
        import torch

        from nnaccel_frontend_torch import dtypes

        self._torch = torch
        self._dtypes = dtypes
        # Bound once: these run for every tensor of every call.
        self.address = torch.Tensor.data_ptr  # type: ignore[method-assign,assignment]
        self.threads = torch.get_num_threads  # type: ignore[method-assign]
        self._empty = torch.empty
        self._empty_strided = torch.empty_strided
        self._plans: dict[TensorType, tuple[Any, ...]] = {}

    def type_of(self, tensor: Any) -> TensorType | None:
        """The type with its layout, or None when the tensor is not dense, or lazily negated."""
        d = self._dtypes
        if tensor.layout is not self._torch.strided or tensor.dtype not in d.TO_IR or tensor.is_neg():
            return None
        layout = d.dense_layout(tensor.shape, tensor.stride())
        return None if layout is None else d.make_type(tuple(tensor.shape), d.TO_IR[tensor.dtype], layout)

    def lies_as(self, tensor: Any, type: TensorType) -> bool:
        """Whether the tensor lies as ``type`` says."""
        memory_format = self._dtypes.format_of(type.layout)
        if memory_format is not None and not tensor.is_neg() and tensor.is_contiguous(memory_format=memory_format):
            return True
        return super().lies_as(tensor, type)

    def dtype_of(self, tensor: Any) -> str | None:
        """The tensor's element type."""
        return self._dtypes.TO_IR.get(tensor.dtype)

    def dense(self, tensor: Any) -> Any:
        """A dense row-major copy."""
        return tensor.detach().resolve_neg().clone(memory_format=self._torch.contiguous_format)

    def address(self, tensor: Any) -> int:
        """Address of the first element."""
        return tensor.data_ptr()  # type: ignore[no-any-return]

    def allocate(self, type: TensorType) -> Any:
        """A new tensor of static ``type``, uninitialized."""
        shape, strides, dtype = self._plan_of(type)
        # device is given so that torch.set_default_device and torch.device contexts do not redirect it.
        if strides is None:
            return self._empty(shape, dtype=dtype, device="cpu")
        return self._empty_strided(shape, strides, dtype=dtype, device="cpu")

    def numpy(self, tensor: Any) -> Any:
        """The tensor's values: a view, but for bfloat16, which numpy has not: a float32 copy."""
        return tensor.detach().float().numpy() if tensor.dtype is self._torch.bfloat16 else super().numpy(tensor)

    def _plan_of(self, type: TensorType) -> tuple[Any, ...]:
        """``(shape, strides or None, dtype)`` of a new tensor, remembered."""
        plan = self._plans.get(type)
        if plan is None:
            d = self._dtypes
            shape = tuple(int(s) for s in type.shape)  # type: ignore[arg-type]
            strides = None if type.same_memory(identity(type.rank)) else d.torch_strides(type)
            plan = (shape, strides, d.TO_TORCH[type.dtype])
            if len(self._plans) > 1024:
                self._plans = {}
            self._plans[type] = plan
        return plan

    def threads(self) -> int:
        """torch's own number of intra-op threads, now."""
        return self._torch.get_num_threads()

    def tracks(self, tensor: Any) -> bool:
        """Whether autograd takes gradients of ``tensor``."""
        return tensor.requires_grad  # type: ignore[no-any-return]

    def touched(self, tensor: Any) -> None:
        """Raise the tensor's version counter, as torch's own in-place operations do."""
        if not tensor.is_inference():
            self._torch.autograd.graph.increment_version(tensor)

    def copy(self, target: Any, source: Any) -> None:
        """Write ``source`` over ``target``."""
        with self._torch.no_grad():
            target.copy_(source)

    def copy_all(self, targets: Sequence[Any], sources: Sequence[Any]) -> None:
        """Write each of ``sources`` over one of ``targets``; by few kernels where there are many."""
        by_type: dict[Any, tuple[list[Any], list[Any]]] = {}
        for target, source in zip(targets, sources, strict=True):
            pair = by_type.setdefault((target.dtype, source.dtype), ([], []))
            pair[0].append(target)
            pair[1].append(source)
        with self._torch.no_grad():
            for pair in by_type.values():
                self._torch._foreach_copy_(*pair)


class TorchCudaBridge(TorchCpuBridge):
    """Memory of torch's caching allocator on the current NVIDIA GPU."""

    device = "cuda"

    def _place(self) -> Any:
        return self._torch.device("cuda", self._torch.cuda.current_device())

    def allocate(self, type: TensorType) -> Any:
        """A new tensor of static ``type`` on the current GPU, uninitialized, in the order of the current stream."""
        shape, strides, dtype = self._plan_of(type)
        if strides is None:
            return self._empty(shape, dtype=dtype, device=self._place())
        return self._empty_strided(shape, strides, dtype=dtype, device=self._place())

    def allocate_block(self, types: Sequence[TensorType]) -> list[Any]:
        """Uninitialized tensors in one piece of memory, each at a multiple of `BLOCK_ALIGNMENT` from its start."""
        places, total = [], 0
        for t in types:
            places.append(total)
            total += -(-int(evaluate(t.nbytes, {})) // BLOCK_ALIGNMENT) * BLOCK_ALIGNMENT
        block = self._empty((total,), dtype=self._torch.uint8, device=self._place())
        typed: dict[Any, Any] = {}  # the block as numbers of one kind
        found = []
        for t, at in zip(types, places, strict=True):
            shape, strides, dtype = self._plan_of(t)
            whole = typed.get(dtype)
            if whole is None:
                whole = typed[dtype] = block.view(dtype)
            if strides is None:
                strides = self._dtypes.torch_strides(t)
            found.append(whole.as_strided(shape, strides, at // dtype.itemsize))
        return found

    def capturing(self) -> bool:
        """Whether the current stream is being captured into a CUDA graph."""
        return bool(self._torch.cuda.is_current_stream_capturing())

    def numpy(self, tensor: Any) -> Any:
        """A copy of the tensor's values in host memory; waits for the GPU."""
        found = tensor.detach().cpu()
        return found.float().numpy() if found.dtype is self._torch.bfloat16 else found.numpy()

    def stream(self) -> int:
        """torch's current stream."""
        return int(self._torch.cuda.current_stream().cuda_stream)

    def precision(self) -> tuple[str, ...]:
        """Which operators torch's TF32 switches let round float32 operands."""
        backends = self._torch.backends
        conv, matmul = backends.cudnn.allow_tf32, backends.cuda.matmul.allow_tf32
        return tuple(name for name, on in (("conv", conv), ("matmul", matmul)) if on)
