"""The gradient of max pooling by a kernel written by hand (`pool.cu`), which finds the maxima and hands on their gradients in one
pass over the image. The operators keep positions in between: a pass that writes them, and one that looks through them.

What lies around it comes along: the sum of the gradients of two readers in front, and behind it the mask of a ReLU whose result
was pooled.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass
from typing import TYPE_CHECKING

import numpy as np

from nnaccel_backend_cuda.kernels import START, written
from nnaccel_backend_cuda.stems import KINDS, OLDEST
from nnaccel_core.ir import Node, Value, channels_last
from nnaccel_core.ir.types import ITEMSIZE
from nnaccel_core.select.candidate import Candidate

if TYPE_CHECKING:
    from nnaccel_backend_cuda.candidates import Proposer
    from nnaccel_backend_cuda.kernels import KernelLoader
    from nnaccel_core.api import Machine

THREADS = 256
#: Taps of a window, all of which are read at once; shared memory of a block, so that several are on a multiprocessor.
MOST_TAPS, SHARED = 25, 40 << 10
#: Measured on an H200 in float32 and bfloat16: seconds of a byte over those at full speed, and taps of 16 bytes that a
#: multiprocessor looks at in a second.
MOVED, LOOKS = 0.75, 4e9


@dataclass(frozen=True)
class Windows:
    """Attributes of the pooling, by axis: height, width."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    dilation: tuple[int, int]
    padding: tuple[int, int]

    def reach(self) -> list[int]:
        """Of each axis: how many windows a cell of ``stride`` pixels is in at most."""
        return [d * (k - 1) // s + 1 for k, s, d in zip(self.kernel, self.stride, self.dilation, strict=True)]


@dataclass(frozen=True)
class Tiling:
    """Cells of a block by axis, and vectors of 16 bytes of channels."""

    rows: int
    columns: int
    vectors: int

    def slots(self, windows: Windows) -> int:
        """Vectors of windows that reach into the cells."""
        down, across = windows.reach()
        return (self.rows + down - 1) * (self.columns + across - 1) * self.vectors


@dataclass(frozen=True)
class PoolSpec:
    """The gradient of a max pooling over channels-last images.

    Attributes:
        image: N, C, H, W; pooled: OH, OW.
        added: whether the gradient is the sum of two operands; masked: whether it is zero where the image is not positive.
    """

    image: tuple[int, int, int, int]
    pooled: tuple[int, int]
    windows: Windows
    dtype: str
    added: bool
    masked: bool

    def ready(self, machine: Machine, loader: KernelLoader) -> PoolGradient:
        return PoolGradient(self, loader)

    def vectors(self) -> int:
        """Vectors of 16 bytes of a pixel's channels."""
        return self.image[1] * ITEMSIZE[self.dtype] // 16

    def cells(self) -> list[int]:
        """Cells of an image by axis."""
        w = self.windows
        return [-(-(n + p) // s) for n, p, s in zip(self.image[2:], w.padding, w.stride, strict=True)]

    def seconds(self, machine: Machine) -> float:
        """The estimated time of a run."""
        n, c, h, w = self.image
        moved = n * c * ITEMSIZE[self.dtype] * (2 * h * w + math.prod(self.pooled) * (2 if self.added else 1))
        found, cells = tiling(self), self.cells()
        tiles = n * -(-cells[0] // found.rows) * -(-cells[1] // found.columns) * -(-self.vectors() // found.vectors)
        taps = math.prod(self.windows.kernel) * (found.slots(self.windows) + found.rows * found.columns * found.vectors)
        return MOVED * moved / machine.bandwidth + tiles * taps / (LOOKS * machine.cores)


def tiling(spec: PoolSpec) -> Tiling:
    """The tiling that looks at fewest taps, beyond the image's edges, too."""
    w, cells, vectors = spec.windows, spec.cells(), spec.vectors()
    taps, given = math.prod(w.kernel), math.prod(w.reach()) * math.prod(w.stride)

    def work(t: Tiling) -> float:
        tiles = -(-cells[0] // t.rows) * -(-cells[1] // t.columns) * -(-vectors // t.vectors)
        rounds = -(-t.slots(w) // THREADS), -(-t.rows * t.columns * t.vectors // THREADS)
        return tiles * (rounds[0] * taps + rounds[1] * given)

    sizes = (1, 2, 4, 6, 7, 8, 12, 14, 16)
    few = [Tiling(*t) for t in itertools.product(sizes, sizes, (min(vectors, 4), min(vectors, 8)))]
    fitting = [t for t in few if t.slots(w) * 32 <= SHARED]
    return min(fitting or few[:1], key=work)


def source(spec: PoolSpec, found: Tiling) -> str:
    """The kernel's text."""
    names = ("KH", "KW", "SH", "SW", "DH", "DW", "PH", "PW")
    w = spec.windows
    constants = dict(zip(names, itertools.chain(*astuple(w)), strict=True))
    constants |= {
        "X_KIND": KINDS[spec.dtype], "QH": found.rows, "QW": found.columns, "VECS": found.vectors, "ADD": int(spec.added),
        "RELU": int(spec.masked),
    }  # fmt: skip
    return written("pool.cu", constants)


class PoolGradient:
    """Ready to run.

    Attributes:
        workspace: bytes that a run takes.
    """

    workspace = 0

    def __init__(self, spec: PoolSpec, loader: KernelLoader) -> None:
        """
        Raises:
            ToolchainError: NVRTC is missing.
        """
        found = tiling(spec)
        n, c, h, w = spec.image
        down, across = spec.cells()
        blocks = n * -(-down // found.rows) * -(-across // found.columns) * -(-spec.vectors() // found.vectors)
        function = loader.text("nn_max_pool_gradient", source(spec, found))
        dims = [np.int64(k) for k in (h, w, c, *spec.pooled)]
        self._added = spec.added
        self._run = function.bound(blocks, THREADS, found.slots(spec.windows) * 32, 4, dims)

    def run(self, addresses: Sequence[int], workspace: int, stream: int) -> None:
        """Enqueue. ``addresses``: image, gradient, a second one where two are added, result."""
        image, gradient, *more, result = addresses
        self._run((image, gradient, more[0] if self._added else 0, result), stream)


def propose(p: Proposer, node: Node) -> Iterator[Candidate]:
    """Candidates for ``node``, a ``max_pool_backward``, with the search for the maxima and with what lies around both."""
    places = p.producers.get(node.inputs[1])
    if places is None or places.op != "max_pool_positions" or p.only_reader(places.output) is not node:
        return
    windows = _windows(node)
    if windows is None or windows != _windows(places) or int(p.machine.isa.removeprefix("sm_")) < OLDEST:
        return
    image, g = places.inputs[0], node.inputs[0]
    fronts: list[tuple[list[Node], tuple[Value, ...]]] = [([], (g,))]
    add = p.producers.get(g)
    if add is not None and add.op == "add" and p.only_reader(g) is node and _alike(p, (*add.inputs, g)):
        fronts.insert(0, ([add], add.inputs))
    behind = _mask(p, node.output, image)
    backs = [([], node.output), *([(behind, behind[-1].output)] if behind else [])]
    for (before, gradients), (after, result) in itertools.product(fronts, backs):
        found = _candidate(p, (*before, places, node, *after), (image, *gradients), result, windows)
        if found is not None:
            yield found


def _alike(p: Proposer, values: Sequence[Value]) -> bool:
    first, *rest = (p.static(v) for v in values)
    return all(t.shape == first.shape and t.dtype == first.dtype and t.same_memory(first.layout) for t in rest)


def _windows(node: Node) -> Windows | None:
    a = node.attrs
    if len(a["kernel"]) != 2:
        return None
    found = Windows(tuple(a["kernel"]), tuple(a["stride"]), tuple(a["dilation"]), tuple(int(p[0]) for p in a["padding"]))  # type: ignore[arg-type]
    return found if math.prod(found.kernel) <= MOST_TAPS and min(found.padding) >= 0 else None


def _mask(p: Proposer, value: Value, image: Value) -> list[Node]:
    """``where(image <= 0, 0, value)``, the gradient of the ReLU that gave ``image``, where nobody else reads either part."""
    where = p.only_reader(value)
    if where is None or where.op != "where" or where.inputs[2] is not value or not p.is_zero(where.inputs[1]):
        return []
    le = p.producers.get(where.inputs[0])
    if le is None or le.op != "le" or le.inputs[0] is not image or not p.is_zero(le.inputs[1]):
        return []
    return [le, where] if p.only_reader(le.output) is where else []


def _candidate(
    p: Proposer, nodes: tuple[Node, ...], inputs: tuple[Value, ...], result: Value, windows: Windows
) -> Candidate | None:
    if p.only is not None and frozenset(nodes) not in p.only:
        return None
    types = [p.static(v) for v in (*inputs, result)]
    x, g = types[0], types[1]
    if any(t.dtype != x.dtype or t.rank != 4 or not t.same_memory(channels_last(4)) or 0 in t.shape for t in types):
        return None
    n, c, h, w = map(int, x.shape)  # type: ignore[arg-type]
    if x.dtype not in KINDS or c * x.itemsize % 16 or h * w * c >= 1 << 31:
        return None
    masked = nodes[-1].op == "where"
    spec = PoolSpec((n, c, h, w), (int(g.shape[2]), int(g.shape[3])), windows, x.dtype, len(inputs) == 3, masked)  # type: ignore[arg-type]
    return Candidate(
        nodes=nodes,
        inputs=inputs,
        outputs=(result,),
        seconds=spec.seconds(p.machine) + START,
        reason=f"{' + '.join(n.op for n in nodes)} in one pass",
        impl=spec,
        proposer="cuda",
    )


__all__ = ["PoolGradient", "PoolSpec", "propose", "source", "tiling"]
