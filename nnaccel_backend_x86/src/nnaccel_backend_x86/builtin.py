"""Kernels that come with the native library: how a candidate or a weight format names one.

They have the ABI of generated kernels, so a plan runs them alike; what they do is set by integers, ``dims``, that
each kernel documents in its own C++ file.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from nnaccel_backend_x86 import native
from nnaccel_core.errors import NnaccelError, ToolchainError
from nnaccel_core.ir import Node, channels_last, identity
from nnaccel_core.ir.types import Layout
from nnaccel_core.plan import BufferRef, KernelStep, LibraryStep

#: Kernels that make the same packed form of weights in the order `outputs_last`.
LAST = {"pack_panels": "pack_panels_last"}


@dataclass(frozen=True)
class BuiltinCall:
    """How to run a candidate by a kernel of the native library: `Candidate.impl` of this backend.

    The kernel's buffers are the candidate's inputs, its outputs, and its workspace if it has one, in this order.

    Attributes:
        name: the kernel; dims: its integers; tasks: how many independent pieces it runs in.
        scratch: bytes of memory it wants per thread.
        rows: the entry of ``dims`` that takes the distance of an operand's rows, by operand (inputs first, then outputs), for
            operands that may be slices of a wider buffer (`row_stride`).
    """

    name: str
    dims: tuple[int, ...]
    tasks: int
    scratch: int = 0
    rows: Mapping[int, int] = field(default_factory=dict)

    def bound(self, step: LibraryStep) -> BoundCall | None:
        """The call on the placed operands of ``step``; None when nothing is left to do.

        Raises:
            NnaccelError: an operand is strided, and the kernel does not take that.
        """
        refs = (*step.inputs, *step.outputs)
        dims = list(self.dims)
        for i, ref in enumerate(refs):
            if i in self.rows:
                dims[self.rows[i]] = row_stride(ref)
            elif ref.strides is not None and ref.strides != ref.type.strides():
                raise NnaccelError(f"{step.origin}: {step.candidate.reason} got a strided operand {i}, which it does not take")
        buffers = refs if step.workspace is None else (*refs, step.workspace)
        return BoundCall(self.name, buffers, tuple(dims), self.tasks, self.scratch)


@dataclass(frozen=True)
class BoundCall:
    """A kernel, of the native library where it has a ``name``, with everything it is given."""

    name: str
    buffers: tuple[BufferRef, ...]
    dims: tuple[int, ...]
    tasks: int
    scratch: int


def generated(step: KernelStep) -> BoundCall:
    """The call of a generated kernel, which has no name in the library."""
    return BoundCall("", step.buffers, step.dims, step.tasks, step.scratch)


def row_stride(ref: BufferRef) -> int:
    """Elements from one row to the next, a row being the innermost axis in memory.

    Raises:
        NnaccelError: the rows do not lie at one distance (only a slice along the innermost axis has such rows).
    """
    order, shape, strides = ref.type.layout, ref.type.shape, ref.element_strides()
    if order != identity(len(order)) and ref.type.same_memory(channels_last(len(order))):
        order = channels_last(len(order))  # as `Scope.static` has it: the innermost axis may be one of extent 1
    if len(order) < 2:
        return int(strides[order[-1]]) if order else 1
    step = at = 0
    for axis in reversed(order[:-1]):
        extent, stride = int(shape[axis]), int(strides[axis])  # type: ignore[arg-type]
        if extent == 1:  # its stride says nothing
            continue
        if step == 0:
            step = at = stride
        if stride != at:
            raise NnaccelError(f"a tensor of type {ref.type} with strides {tuple(strides)} has no rows at one distance")
        at *= extent
    return step or int(strides[order[-2]])


def address(name: str) -> int:
    """The kernel of this name.

    Raises:
        ToolchainError: the native library has none: it is of another version.
    """
    found = native.library().nnx_builtin(name.encode())
    if not found:
        where = native.find_runtime()
        raise ToolchainError(f"{where} has no kernel {name!r}: it is of another version; reinstall nnaccel_backend_x86")
    return int(found)


def pack_key(name: str, dims: Sequence[int], tasks: int) -> str:
    """The key of a weight format that kernel ``name`` makes of a row-major parameter; its buffers are these two."""
    return f"builtin {name} {tasks} {'x'.join(map(str, dims))}"


def is_pack_key(key: str) -> bool:
    """Whether `pack_key` made ``key``."""
    return key.startswith("builtin ")


def packing_order(key: str, array: np.ndarray[Any, Any]) -> Layout | None:
    """The axes of weights from outermost to innermost in memory, where they can be packed as they lie; None where they have to be
    copied to row-major memory first."""
    if array.flags.c_contiguous:
        return identity(array.ndim)
    shape = array.shape
    order = tuple(sorted(range(array.ndim), key=lambda a: (-array.strides[a], a)))
    if not array.transpose(order).flags.c_contiguous:
        return None
    if is_pack_key(key):
        last = outputs_last(array.ndim)
        same = [a for a in order if shape[a] != 1] == [a for a in last if shape[a] != 1]
        kernel = LAST.get(key.split()[1])
        return last if same and kernel is not None and native.library().nnx_builtin(kernel.encode()) else None
    dims = tuple(map(int, key.split()[2].split("x")))
    return order if dims == shape and not key.endswith(" transposed") else None


def outputs_last(rank: int) -> Layout:
    """The order of weights (output, input channels, window...) as TensorFlow has them: window, input, output channels."""
    return (*range(2, rank), 1, 0)


def pack_call(node: Node) -> BuiltinCall:
    """The call that makes the packed form that ``node`` (op ``pack``) asks for, of weights in the order ``layout`` if it has one.

    Raises:
        ToolchainError: the key is of another version of this package.
    """
    key = str(node.attrs["key"])
    found = re.fullmatch(r"builtin (\w+) (\d+) ([-\dx]+)", key)
    if found is None:
        raise ToolchainError(f"{node.where()}: unknown weight format {key!r}; another version of this package made it")
    layout = node.attrs.get("layout", ())
    name = LAST[found[1]] if layout != identity(len(layout)) else found[1]
    address(name)
    return BuiltinCall(name, tuple(map(int, found[3].split("x"))), int(found[2]))
