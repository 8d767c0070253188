"""The native operations that a compiled segment is in TensorFlow's graphs (``native/segment_op.cc``), and their Python side.

They are compiled once per TensorFlow, by the system's C++ compiler, and kept in the disk cache. Where that is not possible, or
with ``NNACCEL_TF_NATIVE=0``, segments are `tf.numpy_function`, which cost more per call: one numpy array for each variable.
"""

from __future__ import annotations

import ctypes
import functools
import itertools
import os
import shutil
import struct
import subprocess
import tempfile
import threading
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import tensorflow as tf

from nnaccel_core import debug
from nnaccel_core.cache import DiskCache, make_key
from nnaccel_core.ir import TensorType
from nnaccel_frontend_tf.bridge import Borrowed

SOURCE = Path(__file__).parent / "native" / "segment_op.cc"
FLAGS = ("-std=c++17", "-O2", "-shared", "-fPIC")
_CALLBACK = ctypes.CFUNCTYPE(
    None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_void_p, ctypes.c_int64, ctypes.c_void_p, ctypes.c_int64
)
_numbers = itertools.count()
_nodes: weakref.WeakValueDictionary[int, Runs] = weakref.WeakValueDictionary()


#: What forward passes keep for their backward passes, by the number in the tensor that stands for it.
_kept: dict[int, Any] = {}


class Runs(Protocol):
    """What an operation calls.

    Attributes:
        nnaccel_key: its number, negative until it first enters a graph.
        nnaccel_keeps: whether its last output stands for what it keeps (`Call.keep`).
    """

    nnaccel_key: int
    nnaccel_keeps: bool

    def run(self, call: Call) -> None:
        """Compute a call's outputs."""


class Unavailable(Exception):
    """Why there is no native operation here."""


class _Taken:
    """An input that is kept beyond its call, and given back with the last array over it."""

    def __init__(self, library: Any, tensor: int, address: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self._library = library
        self._tensor = tensor
        # Any bytes of that size: numpy's array interface has no name for TensorFlow's bfloat16.
        self.__array_interface__ = {"data": (address, True), "shape": shape, "typestr": f"|V{dtype.itemsize}", "version": 3}

    def __del__(self) -> None:
        self._library.nnaccel_tf_release(self._tensor)


class Call:
    """A running call of the operation.

    Attributes:
        addresses: of the inputs, 8 bytes each; header: rank and sizes (int64) of the inputs that are no variables.
    """

    __slots__ = ("_library", "_pointer", "addresses", "header")

    def __init__(self, library: Any, pointer: int, addresses: bytes, header: bytes) -> None:
        self._library = library
        self._pointer = pointer
        self.addresses = addresses
        self.header = header

    def shapes(self) -> list[tuple[int, ...]]:
        """What ``header`` says."""
        words = struct.unpack(f"={len(self.header) // 8}q", self.header)
        found, at = [], 0
        while at < len(words):
            found.append(words[at + 1 : at + 1 + words[at]])
            at += 1 + words[at]
        return found

    def allocate(self, types: Sequence[TensorType], dtypes: Sequence[np.dtype[Any]]) -> list[Borrowed]:
        """Memory of TensorFlow's for the first outputs, of these static types.

        Raises:
            MemoryError: TensorFlow has none left.
        """
        found = []
        for k, (t, dtype) in enumerate(zip(types, dtypes, strict=True)):
            dims, nbytes = _dims(t, dtype)
            address = self._library.nnaccel_tf_allocate(self._pointer, k, len(t.shape), dims, nbytes)
            if not address and nbytes:
                raise MemoryError(f"TensorFlow could not allocate {nbytes} bytes for result {k}")
            found.append(Borrowed(address or 0, t.shape, dtype))  # type: ignore[arg-type]
        return found

    def take(self, index: int, address: int, shape: tuple[Any, ...], dtype: np.dtype[Any]) -> Any:
        """Input ``index`` as an array that stays valid: TensorFlow writes a variable's next value elsewhere meanwhile."""
        tensor = self._library.nnaccel_tf_take(self._pointer, index)
        return np.asarray(_Taken(self._library, tensor, address, shape, dtype)).view(dtype)


    def keep(self, index: int, what: Any) -> None:
        """Make output ``index`` a tensor that stands for ``what``, which is kept (`kept`) as long as that tensor exists.

        Raises:
            MemoryError: TensorFlow has no memory left.
        """
        number = next(_numbers)
        _kept[number] = what
        if not self._library.nnaccel_tf_keep(self._pointer, index, number):
            del _kept[number]
            raise MemoryError("TensorFlow could not allocate a tensor of 8 bytes")


def kept(tensor: Borrowed) -> Any:
    """What the tensor that `Call.keep` made stands for.

    Raises:
        RuntimeError: it is gone, since something copied the tensor and dropped the original.
    """
    number = ctypes.c_int64.from_address(tensor.address).value
    if number not in _kept:
        raise RuntimeError(
            "what the forward pass kept for its gradients is gone: the tensor that stands for it was copied, and the original "
            "dropped; with NNACCEL_TF_NATIVE=0 it is kept in tensors of TensorFlow's"
        )
    return _kept[number]


@functools.lru_cache(maxsize=1024)
def _dims(kind: TensorType, dtype: np.dtype[Any]) -> tuple[Any, int]:
    """Sizes as the library takes them, and bytes."""
    sizes = [int(d) for d in kind.shape]  # type: ignore[arg-type]
    nbytes = dtype.itemsize
    for d in sizes:
        nbytes *= d
    return (ctypes.c_int64 * max(1, len(sizes)))(*sizes), nbytes


class Operation:
    """The loaded operations."""

    def __init__(self, path: Path) -> None:
        """Load the library at ``path`` and start the thread that calls run on.

        Raises:
            Unavailable: TensorFlow refuses the library.
        """
        try:
            loaded = tf.load_op_library(str(path))
        except Exception as e:
            raise Unavailable(f"TensorFlow does not load it: {e}") from e
        self._make, self._make_forward = loaded.nnaccel_segment, loaded.nnaccel_forward
        self._library = ctypes.CDLL(str(path))
        # Short functions: letting go of the interpreter's lock around them would cost more than they do.
        self._inside = ctypes.PyDLL(str(path))
        self._inside.nnaccel_tf_allocate.restype = ctypes.c_void_p
        self._inside.nnaccel_tf_allocate.argtypes = [
            ctypes.c_void_p, ctypes.c_int, ctypes.c_int, ctypes.c_void_p, ctypes.c_uint64
        ]  # fmt: skip
        self._inside.nnaccel_tf_take.restype = ctypes.c_void_p
        self._inside.nnaccel_tf_take.argtypes = [ctypes.c_void_p, ctypes.c_int]
        self._inside.nnaccel_tf_release.argtypes = [ctypes.c_void_p]
        self._inside.nnaccel_tf_keep.restype = ctypes.c_bool
        self._inside.nnaccel_tf_keep.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_int64]
        self._inside.nnaccel_tf_dropped.restype = ctypes.c_int64
        self._inside.nnaccel_tf_dropped.argtypes = [ctypes.c_void_p, ctypes.c_int64]
        self._inside.nnaccel_tf_fail.argtypes = [ctypes.c_void_p, ctypes.c_int64, ctypes.c_char_p]
        self._callback = _CALLBACK(self._called)
        self._library.nnaccel_tf_set_callback(self._callback)
        self._serve()
        os.register_at_fork(after_in_child=self._forked)

    def _serve(self) -> None:
        threading.Thread(target=self._library.nnaccel_tf_serve, name="nnaccel-op", daemon=True).start()

    def _forked(self) -> None:
        self._library.nnaccel_tf_forked()
        self._serve()

    def _called(self, pointer: int, key: int, data: int, inputs: int, header: int, words: int) -> None:
        try:
            node = _nodes.get(key)
            if node is None:
                raise RuntimeError("the optimized network that this graph was made of is gone")
            addresses = ctypes.string_at(data, 8 * inputs)
            node.run(Call(self._inside, pointer, addresses, ctypes.string_at(header, 8 * words)))
        except BaseException as e:
            self._inside.nnaccel_tf_fail(pointer, _code(e), f"{type(e).__name__}: {e}".encode())

    def let_go(self) -> None:
        """Let go of what was kept for gradients that nobody can ask for any more."""
        numbers = (ctypes.c_int64 * 64)()
        while count := self._inside.nnaccel_tf_dropped(numbers, len(numbers)):
            for number in numbers[:count]:
                _kept.pop(number, None)

    def __call__(self, node: Runs, tensors: Sequence[Any], count: int, dtypes: Sequence[Any], name: str) -> list[Any]:
        """A node of the current graph that runs ``node``; ``count`` tensors are its inputs, the others values of variables.

        The results have these ``dtypes``; where ``node`` keeps something for gradients, a tensor that stands for it follows."""
        if node.nnaccel_key < 0:
            node.nnaccel_key = next(_numbers)
        _nodes[node.nnaccel_key] = node
        graph = tf.compat.v1.get_default_graph()
        while graph is not None:  # whichever of them is kept, `node` must be
            if not hasattr(graph, "nnaccel_nodes"):
                graph.nnaccel_nodes = []
            graph.nnaccel_nodes.append(node)
            above = getattr(graph, "outer_graph", None)
            # The default graph outside of all functions never goes.
            graph = above if getattr(above, "outer_graph", None) is not None else None
        make, kinds = (self._make_forward, [*dtypes, tf.int64]) if node.nnaccel_keeps else (self._make, list(dtypes))
        return list(make(given=list(tensors), key=node.nnaccel_key, count=count, Tout=kinds, name=name))


def _code(e: BaseException) -> int:
    """The code of TensorFlow's error for ``e``, as `tf.numpy_function` chooses it."""
    if isinstance(e, (TypeError, ValueError)):
        return int(tf.errors.INVALID_ARGUMENT)
    if isinstance(e, MemoryError):
        return int(tf.errors.RESOURCE_EXHAUSTED)
    return int(tf.errors.UNIMPLEMENTED if isinstance(e, NotImplementedError) else tf.errors.UNKNOWN)


def _compiler() -> list[str]:
    found = os.environ.get("CXX") or next((c for c in ("c++", "g++", "clang++") if shutil.which(c)), None)
    if found is None:
        raise Unavailable("no C++ compiler (c++, g++, clang++ or $CXX)")
    return found.split()


def build() -> Path:
    """The compiled library, from the disk cache where it is there.

    Raises:
        Unavailable: there is no compiler, or it fails; says why.
    """
    source = SOURCE.read_bytes()
    key = make_key(source, tf.version.VERSION, tf.version.COMPILER_VERSION, " ".join(FLAGS))
    cache = DiskCache()
    found = cache.get("tensorflow", key)
    if found is not None:
        return found
    library = tf.sysconfig.get_lib()
    abi = [f for f in tf.sysconfig.get_compile_flags() if f.startswith("-D_GLIBCXX_USE_CXX11_ABI")]
    with tempfile.TemporaryDirectory(prefix="nnaccel-tf-") as folder:
        made = Path(folder) / "segment_op.so"
        command = [
            *_compiler(), *FLAGS, *abi, f"-I{tf.sysconfig.get_include()}", str(SOURCE), "-o", str(made),
            *tf.sysconfig.get_link_flags(), f"-Wl,-rpath,{library}", "-pthread",
        ]  # fmt: skip
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        except (OSError, subprocess.SubprocessError) as e:
            raise Unavailable(f"the C++ compiler {command[0]} failed: {e}") from e
        if done.returncode:
            lines = done.stderr.strip().splitlines()
            why = next((x for x in lines if "error" in x), lines[-1] if lines else f"exit status {done.returncode}")
            raise Unavailable(f"the C++ compiler {command[0]} failed: {why}")
        return cache.put("tensorflow", key, made)


class _State:
    """Whether there is an operation, found out once per process."""

    operation: Operation | None = None
    why: str | None = None
    lock = threading.Lock()


def operation() -> Operation | None:
    """The native operation; None where there is none (`why_not`)."""
    if _State.operation is None and _State.why is None:
        with _State.lock:
            if _State.operation is None and _State.why is None:
                try:
                    if os.environ.get("NNACCEL_TF_NATIVE") == "0":
                        raise Unavailable("NNACCEL_TF_NATIVE=0")
                    _State.operation = Operation(build())
                except Unavailable as e:
                    _State.why = str(e)
                    debug.log(debug.PLUGINS, f"TensorFlow: segments are tf.numpy_function, which cost more per call: {e}")
    return _State.operation


def why_not() -> str:
    """Why there is no native operation; "" where there is one, or none was asked for yet."""
    return _State.why or ""
