"""Descriptions of oneDNN primitives, in the flat encoding of ``native/descriptor.cpp``."""

from __future__ import annotations

import array
import ctypes
import os
import re
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from nnaccel_backend_x86 import native
from nnaccel_core.errors import ToolchainError, VerifyError
from nnaccel_core.ir import Dim, Node, TensorType

#: ``DNNL_ARG_*``.
SRC, WEIGHTS, DST, BIAS = 1, 33, 17, 41
DIFF_SRC, DIFF_WEIGHTS, DIFF_DST = 129, 161, 145
#: Kinds of primitives, as in ``native/descriptor.cpp``.
CONVOLUTION, MATMUL, INNER_PRODUCT, REORDER, DATA_GRADIENT, WEIGHTS_GRADIENT = 1, 2, 3, 4, 5, 6

#: oneDNN's numbers of element-wise algorithms (``dnnl_alg_kind_t``).
RELU, TANH, LOGISTIC, GELU_TANH, SWISH, CLIP, GELU_ERF, HARDSWISH = 32, 33, 41, 43, 44, 47, 49, 52


def sizes(t: TensorType) -> tuple[int, ...]:
    """The shape of a static type."""
    return tuple(_known(d) for d in t.shape)


def steps(t: TensorType) -> tuple[int, ...]:
    """Element strides, per logical axis, of a dense tensor of static type ``t``."""
    return tuple(_known(d) for d in t.strides())


def _known(d: Dim) -> int:
    if not isinstance(d, int):
        raise VerifyError(f"the size {d} should have been evaluated before a backend sees it")
    return d


def post_op_argument(index: int) -> int:
    """``DNNL_ARG_ATTR_MULTIPLE_POST_OP(index) | DNNL_ARG_SRC_1``: the operand of post-op ``index``."""
    return 32768 * (index + 1) | 2


@dataclass(frozen=True)
class Md:
    """A float32 memory descriptor: ``strides`` in elements, or a format ``tag``, or neither: oneDNN chooses."""

    dims: tuple[int, ...]
    strides: tuple[int, ...] | None = None
    tag: int = 0

    def encode(self) -> tuple[int, ...]:
        if self.strides is not None:
            return (len(self.dims), *self.dims, 0, *self.strides)
        return (len(self.dims), *self.dims, 2, self.tag) if self.tag else (len(self.dims), *self.dims, 1)

    @staticmethod
    def of(t: TensorType) -> Md:
        """A tensor of static type ``t`` where it lies."""
        return Md(sizes(t), steps(t))


@dataclass(frozen=True)
class Eltwise:
    algorithm: int
    alpha: float = 0.0
    beta: float = 0.0

    @property
    def drops_nan(self) -> bool:
        """Whether oneDNN makes a number of NaN, where frameworks keep NaN: it takes these with one maximum or minimum, which
        returns its second operand. All its other algorithms keep NaN and infinity as frameworks do."""
        return self.algorithm == CLIP or (self.algorithm == RELU and self.alpha == 0.0)

    def encode(self) -> tuple[int, ...]:
        return (1, self.algorithm, *struct.unpack("=2q", struct.pack("=2d", self.alpha, self.beta)))


@dataclass(frozen=True)
class BinaryAdd:
    operand: Md

    def encode(self) -> tuple[int, ...]:
        return (2, *self.operand.encode())


@dataclass(frozen=True)
class Sum:
    """Adds what the destination held before: a residual whose memory the result takes over."""

    def encode(self) -> tuple[int, ...]:
        return (3,)


PostOp = Eltwise | BinaryAdd | Sum


@dataclass(frozen=True)
class Primitive:
    """A description. ``window`` is (strides, dilations, paddings before, paddings after) of a convolution.

    That of a gradient names the convolution's ``src``, ``weights`` and ``dst``, of which one is computed."""

    kind: int
    threads: int
    src: Md
    dst: Md
    weights: Md | None = None
    bias: Md | None = None
    window: tuple[tuple[int, ...], ...] = ()
    post: tuple[PostOp, ...] = ()

    def encode(self) -> tuple[int, ...]:
        out = [self.kind, self.threads, *self.src.encode()]
        for md in (self.weights, self.bias):
            out += md.encode() if md else (0,)
        out += self.dst.encode()
        if self.kind == REORDER:
            return tuple(out)
        if self.kind in (CONVOLUTION, DATA_GRADIENT, WEIGHTS_GRADIENT):
            out.append(len(self.window[0]))
            for part in self.window:
                out += part
        out.append(len(self.post))
        for p in self.post:
            out += p.encode()
        return tuple(out)


@dataclass(frozen=True)
class Description:
    """What oneDNN answers: the implementation's name, or why there is none.

    Attributes:
        impl: as ``onednn_verbose`` prints it ("brgconv:avx2"); tag, tag_name, weights_bytes: the format of the weights.
        scratch: bytes of its scratch memory; message: its refusal.
    """

    ok: bool
    impl: str
    tag: int
    tag_name: str
    weights_bytes: int
    scratch: int
    message: str

    @property
    def is_reference(self) -> bool:
        """oneDNN's reference code: 300 to 500 times slower than its others."""
        return "ref" in self.impl

    @property
    def usable(self) -> bool:
        return self.ok and not self.is_reference


def describe(primitives: Sequence[Primitive]) -> list[Description]:
    """What oneDNN makes of each, asked in parallel (0.1 to 0.9 ms each) and remembered by the runtime."""
    if not primitives:
        return []
    distinct = {p: i for i, p in enumerate(dict.fromkeys(primitives))}  # repeated blocks ask the same thing
    n = len(distinct)
    specs = [array.array("q", p.encode()) for p in distinct]
    pointers = (ctypes.c_void_p * n)(*(s.buffer_info()[0] for s in specs))
    lengths = array.array("q", map(len, specs))
    infos = (native.Info * n)()
    threads = len(os.sched_getaffinity(0))
    status = native.library().nnx_describe(n, pointers, lengths.buffer_info()[0], threads, infos)
    native.check(status, "asking oneDNN for implementations")
    answers = [
        Description(
            bool(i.ok), i.impl.decode(), i.weights_tag, i.tag_name.decode(), i.weights_bytes, i.scratch_bytes, i.message.decode()
        )
        for i in infos
    ]
    return [answers[distinct[p]] for p in primitives]


@dataclass(frozen=True)
class PrimitiveCall:
    """How to run a candidate: `Candidate.impl` of this backend.

    Attributes:
        inputs, outputs: the ``DNNL_ARG_*`` of each of the candidate's inputs and outputs.
        repeat: the primitive runs this often, for a part of the batch each time.
        strides: bytes from one repetition's memory to the next, by ``DNNL_ARG_*``; absent means 0.
        over: ``(i, primitive)``: what to run where the output was placed over input ``i``, which is then no argument.
    """

    primitive: Primitive
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    repeat: int = 1
    strides: Mapping[int, int] = field(default_factory=dict)
    over: tuple[int, Primitive] | None = None


def pack_key(dims: Sequence[int], description: Description, transposed: bool) -> str:
    """The key of a weight format: dims as the primitive sees them, the format's name in oneDNN, and whether the parameter
    has its two axes the other way round."""
    return f"onednn f32 {'x'.join(map(str, dims))} {description.tag_name}" + (" transposed" if transposed else "")


def pack_primitive(node: Node, threads: int) -> Primitive:
    """The reorder that makes the packed form that ``node`` (op ``pack``) asks for, from row-major memory, or from weights whose
    axes lie in the order of its attribute ``layout``.

    Raises:
        ToolchainError: the key is of another version of this package or oneDNN.
    """
    key = str(node.attrs["key"])
    found = re.fullmatch(r"onednn f32 ([\dx]+) (\w+)( transposed)?", key)
    tag = native.library().nnx_tag(found[2].encode()) if found else 0
    if found is None or tag == 0:
        raise ToolchainError(f"{node.where()}: unknown weight format {key!r}; it was made by another version of oneDNN")
    dims = tuple(map(int, found[1].split("x")))
    layout = node.attrs.get("layout")
    plain = TensorType(dims, "float32", layout if layout is not None and len(layout) == len(dims) else None)
    strides = (1, dims[0]) if found[3] else steps(plain)
    return Primitive(REORDER, threads, Md(dims, strides), Md(dims, tag=tag))
