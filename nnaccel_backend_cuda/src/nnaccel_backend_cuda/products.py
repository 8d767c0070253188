"""Matrix products with bias and activation by cuBLASLt, through its C interface.

cuBLASLt sees row-major matrices as column-major ones of the transposed, so ``y = a b`` is asked for as ``y' = b' a'``.
"""

from __future__ import annotations

import ctypes
import functools
import glob
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass

from nnaccel_core.errors import NnaccelError, ToolchainError

INSTALL = "pip install nvidia-cublas (or nvidia-cublas-cu12)"
#: Bytes of workspace that products may take.
WORKSPACE = 32 << 20

# Values of cublasLt.h and library_types.h.
_TYPES = {"float32": 0, "float16": 2, "bfloat16": 14}
_COMPUTE_32F, _COMPUTE_TF32 = 68, 77
_TRANSA, _TRANSB, _EPILOGUE, _BIAS_POINTER = 3, 4, 7, 8
_BATCH_COUNT, _BATCH_OFFSET = 5, 6
_MAX_WORKSPACE = 1
_MIN_ALIGNMENTS = (5, 6, 7, 8)
#: Addresses that operands may have; algorithms are else chosen for multiples of 256.
ALIGNMENT = 16
_EPILOGUES = {
    (False, ""): 1, (False, "relu"): 2, (True, ""): 4, (True, "relu"): 6, (False, "gelu_tanh"): 32, (True, "gelu_tanh"): 36,
}  # fmt: skip
_STATUS = {
    1: "not initialized", 3: "out of memory", 7: "invalid value", 8: "GPU too old", 13: "execution failed", 15: "not supported",
}  # fmt: skip


def _candidates() -> Iterator[str]:
    try:
        with open("/proc/self/maps", encoding="utf-8") as maps:
            loaded = [line.split(maxsplit=5)[5].strip() for line in maps if "/libcublasLt.so" in line]
    except OSError:
        loaded = []
    yield from dict.fromkeys(loaded)
    for folder in sys.path:
        yield from sorted(glob.glob(os.path.join(folder, "nvidia", "c*", "lib", "libcublasLt.so.1[0-9]")), reverse=True)
    yield from ("libcublasLt.so.13", "libcublasLt.so.12")


@functools.lru_cache(maxsize=1)
def library() -> ctypes.CDLL:
    """The library.

    Raises:
        ToolchainError: it was not found.
    """
    for path in _candidates():
        try:
            return ctypes.CDLL(path)
        except OSError:
            continue
    raise ToolchainError(f"cuBLASLt was not found; install it with: {INSTALL}")


def _check(status: int, what: str) -> None:
    if status:
        raise NnaccelError(f"cuBLASLt failed in {what}: {_STATUS.get(status, 'status')} ({status})")


@dataclass(frozen=True)
class ProductSpec:
    """``y[i] = activation(a[i] b[i] + bias)`` for ``i`` in a batch, all row-major.

    Attributes:
        m, n, k: y is (m, n); transpose_a, transpose_b: the operand lies transposed in memory.
        stride_a, stride_b: elements from one matrix to the next, 0 when all products share it.
        activation: "", "relu" or "gelu_tanh"; tf32: float32 operands may be rounded to TF32.
    """

    dtype: str
    batch: int
    m: int
    n: int
    k: int
    transpose_a: bool
    transpose_b: bool
    stride_a: int
    stride_b: int
    bias: bool
    activation: str
    tf32: bool


class _Algorithm(ctypes.Structure):
    _fields_ = [
        ("algo", ctypes.c_uint64 * 8),
        ("workspace", ctypes.c_size_t),
        ("state", ctypes.c_int),
        ("waves", ctypes.c_float),
        ("reserved", ctypes.c_int * 4),
    ]


@functools.lru_cache(maxsize=16)
def handle(device: int) -> ctypes.c_void_p:
    """cuBLASLt's handle of the current device, which is number ``device``."""
    found = ctypes.c_void_p()
    _check(library().cublasLtCreate(ctypes.byref(found)), "starting")
    return found


class Product:
    """A product ready to run. Descriptors live with it."""

    def __init__(self, spec: ProductSpec, device: int) -> None:
        """
        Raises:
            ToolchainError: cuBLASLt is missing; NnaccelError: it has no algorithm for this product.
        """
        self.spec = spec
        lib = library()
        self._handle = handle(device)
        self._matmul = lib.cublasLtMatmul
        kind = _TYPES[spec.dtype]
        self._operation = ctypes.c_void_p()
        compute = _COMPUTE_TF32 if spec.tf32 and spec.dtype == "float32" else _COMPUTE_32F
        _check(lib.cublasLtMatmulDescCreate(ctypes.byref(self._operation), compute, 0), "describing a product")
        # The first operand of the transposed product is b.
        self._set(_TRANSA, ctypes.c_int32(int(spec.transpose_b)))
        self._set(_TRANSB, ctypes.c_int32(int(spec.transpose_a)))
        self._set(_EPILOGUE, ctypes.c_uint32(_EPILOGUES[spec.bias, spec.activation]))
        if spec.bias:
            self._set(_BIAS_POINTER, ctypes.c_void_p(256))  # aligned; the real one comes with each run
        b = (spec.k, spec.n) if spec.transpose_b else (spec.n, spec.k)
        a = (spec.m, spec.k) if spec.transpose_a else (spec.k, spec.m)
        self._b = self._layout(kind, *b, spec.stride_b)
        self._a = self._layout(kind, *a, spec.stride_a)
        self._y = self._layout(kind, spec.n, spec.m, spec.m * spec.n)
        preference = ctypes.c_void_p()
        _check(lib.cublasLtMatmulPreferenceCreate(ctypes.byref(preference)), "describing a product")
        limit = ctypes.c_size_t(WORKSPACE)
        _check(
            lib.cublasLtMatmulPreferenceSetAttribute(preference, _MAX_WORKSPACE, ctypes.byref(limit), ctypes.sizeof(limit)),
            "describing a product",
        )
        for attribute in _MIN_ALIGNMENTS:
            least = ctypes.c_uint32(ALIGNMENT)
            status = lib.cublasLtMatmulPreferenceSetAttribute(preference, attribute, ctypes.byref(least), ctypes.sizeof(least))
            _check(status, "describing a product")
        self._algorithm = _Algorithm()
        count = ctypes.c_int()
        status = lib.cublasLtMatmulAlgoGetHeuristic(
            self._handle, self._operation, self._b, self._a, self._y, self._y, preference, 1,
            ctypes.byref(self._algorithm), ctypes.byref(count),
        )  # fmt: skip
        lib.cublasLtMatmulPreferenceDestroy(preference)
        _check(status, f"choosing an algorithm for {spec}")
        if not count.value:
            raise NnaccelError(f"cuBLASLt has no algorithm for {spec}")
        self.workspace = int(self._algorithm.workspace)
        self._one, self._zero = ctypes.c_float(1.0), ctypes.c_float(0.0)

    def _set(self, attribute: int, value: ctypes._SimpleCData) -> None:  # type: ignore[type-arg]
        status = library().cublasLtMatmulDescSetAttribute(
            self._operation, attribute, ctypes.byref(value), ctypes.sizeof(value)
        )
        _check(status, "describing a product")

    def _layout(self, kind: int, rows: int, columns: int, stride: int) -> ctypes.c_void_p:
        lib = library()
        found = ctypes.c_void_p()
        status = lib.cublasLtMatrixLayoutCreate(
            ctypes.byref(found), kind, ctypes.c_uint64(rows), ctypes.c_uint64(columns), ctypes.c_int64(rows)
        )
        _check(status, "describing a matrix")
        if self.spec.batch > 1:
            count, offset = ctypes.c_int32(self.spec.batch), ctypes.c_int64(stride)
            _check(lib.cublasLtMatrixLayoutSetAttribute(found, _BATCH_COUNT, ctypes.byref(count), 4), "describing a matrix")
            _check(lib.cublasLtMatrixLayoutSetAttribute(found, _BATCH_OFFSET, ctypes.byref(offset), 8), "describing a matrix")
        return found

    def run(self, a: int, b: int, bias: int, y: int, workspace: int, stream: int) -> None:
        """Enqueue on ``stream``; addresses of the operands. Under the device's lock: the bias goes through the descriptor."""
        if self.spec.bias:
            self._set(_BIAS_POINTER, ctypes.c_void_p(bias))
        pointer = ctypes.c_void_p
        status = self._matmul(
            self._handle, self._operation, ctypes.byref(self._one), pointer(b), self._b, pointer(a), self._a,
            ctypes.byref(self._zero), pointer(y), self._y, pointer(y), self._y, ctypes.byref(self._algorithm),
            pointer(workspace), ctypes.c_size_t(self.workspace), pointer(stream),
        )  # fmt: skip
        _check(status, f"running {self.spec}")

    def __del__(self) -> None:
        try:
            lib = library()
        except ToolchainError:
            return
        for name in ("_a", "_b", "_y"):
            if getattr(self, name, None):
                lib.cublasLtMatrixLayoutDestroy(getattr(self, name))
        if getattr(self, "_operation", None):
            lib.cublasLtMatmulDescDestroy(self._operation)
