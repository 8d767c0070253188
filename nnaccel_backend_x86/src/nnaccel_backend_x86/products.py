"""Products and convolutions of our own, with any stride in and out, prologue and epilogue: ``native/product.cpp``.

They beat oneDNN where its layers around a product cost passes over memory of their own: a BatchNorm and ReLU in front, a
slice of a wider tensor to read, a slice of a concat's buffer to write; and at 1x1 convolutions as such.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from nnaccel_backend_x86 import costs
from nnaccel_backend_x86.builtin import BoundCall, BuiltinCall, row_stride
from nnaccel_backend_x86.convolution import PANEL, convolution, panels_pack
from nnaccel_backend_x86.onednn import sizes
from nnaccel_backend_x86.scope import Scope
from nnaccel_core.api import Machine
from nnaccel_core.ir import Node, Value, identity
from nnaccel_core.plan import BufferRef, LibraryStep
from nnaccel_core.select.candidate import ByRows, Candidate
from nnaccel_core.select.schedule import Window

#: What a library or we compute as products, with an epilogue.
PRODUCTS = ("conv", "conv_backward_data", "matmul")
#: Most rows of `rows_product`: beyond these, dot products along k repeat too many loads of the weights.
MOST_ROWS = 32
#: ``MOST_DOTS`` and ``GROUP`` of ``native/product.cpp``.
DOTS_ROWS, DOTS_GROUP = 8, 24
#: Up to this many rows are read whole, not in chunks that stay in the first-level cache: weights are then read in long runs.
WHOLE_ROWS = 2
#: Products are added up in chunks of at most this many terms, so that rounding errors stay near those of other libraries.
SUM_CHUNK = 256
#: ``SPAN`` and ``MOST_TILE_ROWS`` of ``native/product.cpp``.
SPAN, MOST_TILE_ROWS = 2 * PANEL, 14
#: Up to this many channels, a row of a window is one tap: its pixels lie side by side.
FEW_CHANNELS = 8
#: A task of fewer rows reads its weights for too little arithmetic.
SHORT_BLOCK = 24

#: ``(number, alpha, beta)`` of an activation in ``native/epilogue.h``.
ACTIVATIONS: Mapping[str, Callable[[Node], tuple[int, float, float]]] = {
    "relu": lambda n: (1, 0.0, 0.0),
    "leaky_relu": lambda n: (2, float(n.attrs["alpha"]), 0.0),
    "clip": lambda n: (3, float(n.attrs["min"]), float(n.attrs["max"])),
    "hardswish": lambda n: (4, 0.0, 0.0),
    "hardsigmoid": lambda n: (5, 1.0 / 6.0, 0.5),
    "sigmoid": lambda n: (6, 0.0, 0.0),
    "silu": lambda n: (7, 0.0, 0.0),
}


@dataclass(frozen=True)
class ProductDims:
    """The integers of kernel ``product``, in the order of the C++ structure of this name."""

    images: int
    in_height: int
    in_width: int
    channels: int
    out_height: int
    out_width: int
    columns: int
    kernel_height: int = 1
    kernel_width: int = 1
    stride_y: int = 1
    stride_x: int = 1
    dilation_y: int = 1
    dilation_x: int = 1
    pad_y: int = 0
    pad_x: int = 0
    in_stride: int = 0
    out_stride: int = 0
    residual_stride: int = 0
    row_blocks: int = 1
    column_blocks: int = 1
    chunk: int = 1
    has_scale: int = 0
    has_shift: int = 0
    prologue_relu: int = 0
    has_bias: int = 0
    has_residual: int = 0
    activation: int = 0
    alpha: int = 0
    beta: int = 0
    joined: int = 0

    def numbers(self) -> tuple[int, ...]:
        """All of them, in order."""
        return tuple(vars(self).values())

    @property
    def pixels(self) -> int:
        return self.images * self.out_height * self.out_width

    @property
    def taps(self) -> int:
        return self.kernel_height * (1 if self.joined else self.kernel_width)

    @property
    def depth(self) -> int:
        """Terms of a tap."""
        return self.channels * (self.kernel_width if self.joined else 1)

    def scratch(self) -> int:
        """Bytes a thread needs: see the kernel's comment."""
        most = -(-self.pixels // self.row_blocks) + MOST_TILE_ROWS
        zeros = -(-self.depth // PANEL) * PANEL
        prepared = most * (self.channels + PANEL) if self.has_scale or self.has_shift or self.prologue_relu else 0
        if self.joined:
            across = -(-self.kernel_width // self.stride_x)
            prepared = min(most, (most // self.out_width + 2) * 2 * across) * self.taps * self.depth
        return -(-most * self.taps * 8 // 64) * 64 + 4 * (zeros + most * SPAN + prepared)


#: Entries of `ProductDims` that take an operand's distance between pixels.
IN_STRIDE, OUT_STRIDE, RESIDUAL_STRIDE = 15, 16, 17


@dataclass(frozen=True)
class Prologue:
    """``relu(x * scale + shift)`` per channel in front of a 1x1 convolution; each part may be absent."""

    nodes: tuple[Node, ...]
    source: Value
    scale: Value | None = None
    shift: Value | None = None
    relu: bool = False


@dataclass(frozen=True)
class Finish:
    """What follows a product: a residual of the same type, then an activation; each may be absent."""

    nodes: tuple[Node, ...]
    output: Value
    residual: Value | None = None
    activation: tuple[int, float, float] = (0, 0.0, 0.0)


def blocks(machine: Machine, pixels: int, columns: int, channels: int, taps: int, prologue: bool) -> tuple[int, int]:
    """How many blocks of rows and of columns a product runs in: rows of a block stay in the second-level cache while all
    panels pass by, and there are tasks for all cores.

    Cores that share rows read all weights each, which come while they compute. Cores that share columns read all of the input
    each, half of it from another core's cache, and so does the layer behind, which goes by rows: only for many weights.
    """
    if costs.is_small_product(machine, 2.0 * pixels * columns * channels * taps, 4.0 * columns * channels * taps):
        return 1, 1
    most = max(SHORT_BLOCK, machine.l2 // 2 // (4 * channels))
    span = SPAN if machine.isa == "avx512" else PANEL
    rows, spans, wanted = -(-pixels // most), -(-columns // span), 4 * machine.cores
    if rows >= wanted:
        return -(-rows // machine.cores) * machine.cores, 1
    if columns * channels * taps > 2 * pixels * (channels + columns):
        # The prologue of a block of rows is repeated by each thread that works on it.
        return rows, min(spans, -(-(machine.cores if prologue else wanted) // rows))
    rows = max(rows, min(wanted, -(-pixels // SHORT_BLOCK)))
    return rows, 1 if rows >= machine.cores else min(spans, -(-machine.cores // rows))


def float_bits(x: float) -> int:
    (found,) = struct.unpack("<i", struct.pack("<f", x))
    return int(found)


@dataclass(frozen=True)
class ConcatCall(BuiltinCall):
    """Copies those parts of a concat that do not lie in their slice of its output.

    ``axis``: the logical axis. Parts and output may have strided rows where that axis is the innermost in memory.
    """

    axis: int = 0

    def bound(self, step: LibraryStep) -> BoundCall | None:
        (out,) = step.outputs
        order = out.type.layout
        at = order.index(self.axis)
        shape = sizes(out.type)
        rows = math.prod(shape[a] for a in order[:at])
        inner = math.prod(shape[a] for a in order[at + 1 :])

        def distance(ref: BufferRef) -> int:
            return row_stride(ref) if at == len(order) - 1 else sizes(ref.type)[self.axis] * inner

        buffers: list[BufferRef] = []
        parts: list[int] = []
        column = 0
        for ref in step.inputs:
            width = sizes(ref.type)[self.axis] * inner
            there = (out.space, out.index, out.offset + 4 * column) == (ref.space, ref.index, ref.offset)
            if width and not (there and (rows <= 1 or distance(ref) == distance(out))):
                buffers.append(ref)
                parts += (distance(ref), width, column)
            column += width
        if not buffers or not rows:
            return None
        count = min(rows, self.tasks)
        return BoundCall(self.name, (*buffers, out), (rows, count, distance(out), len(buffers), *parts), count, 0)


class Products:
    """Proposes our own products."""

    def __init__(self, scope: Scope) -> None:
        self.scope = scope
        self.machine = scope.machine
        self.producers = scope.producers
        self.params = scope.params
        self.static = scope.static

    def propose(self, only: Collection[frozenset[Node]] | None = None) -> list[Candidate]:
        """All candidates; with ``only``, those for one of these sets of nodes."""
        make = {"conv": self._conv, "conv_backward_data": self._conv, "matmul": self._matmul}
        found = [c for node in self.scope.nodes(make, only) for c in make[node.op](node)]
        return [c for c in found if only is None or frozenset(c.nodes) in only]

    # --- what surrounds a product ------------------------------------------------------------------------------

    def _only_reader(self, v: Value) -> Node | None:
        readers = self.scope.uses.get(v, [])
        return readers[0] if len(readers) == 1 and v not in self.scope.results else None

    def finishes(self, node: Node) -> list[Finish]:
        """All that can follow, from nothing to the most."""
        found = [Finish((), node.output)]
        reader = self._only_reader(node.output)
        whole = self.static(node.output)
        if reader is not None and reader.op == "add" and len(reader.inputs) == 2 and reader.inputs[0] is not reader.inputs[1]:
            other = reader.inputs[1] if reader.inputs[0] is node.output else reader.inputs[0]
            if self.static(other) == whole == self.static(reader.output):
                found.append(Finish((reader,), reader.output, other))
        for f in list(found):
            reader = self._only_reader(f.output)
            if reader is not None and reader.op in ACTIVATIONS and self.static(reader.output) == whole:
                found.append(Finish((*f.nodes, reader), reader.output, f.residual, ACTIVATIONS[reader.op](reader)))
        return found

    def _per_channel(self, v: Value, channels: int, rank: int) -> bool:
        """Whether ``v`` is one number per channel, dense in memory."""
        t = self.static(v)
        shape = (1,) * (rank - t.rank) + t.shape
        return v in self.params and len(shape) == rank and shape[1] == t.size == channels

    def _prologues(self, x: Value) -> list[Prologue]:
        """All that can be taken along in front of a reader of ``x``, from nothing to the most."""
        found = [Prologue((), x)]
        rank, channels = x.type.rank, sizes(self.static(x))[1]
        wanted = ["relu", "add", "mul"]  # from the product backwards
        at = x
        while wanted:
            node = self.producers.get(at)
            if node is None or self._only_reader(at) is None or node.op not in wanted:
                break
            del wanted[: wanted.index(node.op) + 1]
            last = found[-1]
            if node.op == "relu":
                (source,) = node.inputs
                made = Prologue((node,), source, relu=True)
            else:
                constants = [v for v in node.inputs if self._per_channel(v, channels, rank)]
                if len(node.inputs) != 2 or len(constants) != 1:
                    break
                source = node.inputs[0] if node.inputs[1] is constants[0] else node.inputs[1]
                if node.op == "add":
                    made = Prologue((node, *last.nodes), source, None, constants[0], last.relu)
                else:
                    made = Prologue((node, *last.nodes), source, constants[0], last.shift, last.relu)
            if self.static(source) != self.static(at) or source in self.params:
                break
            found.append(made)
            at = source
        return [p for p in found if not p.nodes or not self._behind_product(p.source)]

    def _behind_product(self, v: Value) -> bool:
        """Whether a product computes ``v`` for one reader, residual included: its epilogue takes that along for nothing."""
        node = self.producers.get(v) if self._only_reader(v) is not None else None
        if node is not None and node.op == "add":
            behind = (self.producers.get(x) for x in node.inputs)
            return any(n is not None and n.op in PRODUCTS for n in behind)
        return node is not None and node.op in PRODUCTS

    # --- products ----------------------------------------------------------------------------------------------

    def _conv(self, node: Node) -> list[Candidate]:
        c = convolution(self.scope, node)
        if c is None:
            return []
        dims = ProductDims(
            *(c.images, *c.size, c.channels, *c.out, c.columns),
            *(*c.window, *c.stride, *c.dilation, *c.pad),
            joined=int(c.channels <= FEW_CHANNELS and c.window[1] > 1 and c.dilation[1] == 1),
        )
        prologues = self._prologues(node.inputs[0]) if c.taps == 1 and not c.padded else [Prologue((), node.inputs[0])]
        bias = node.inputs[2] if len(node.inputs) == 3 else None
        return [self._candidate(node, p, f, dims, bias, c.panels()) for p in prologues for f in self.finishes(node)]

    def _matmul(self, node: Node) -> list[Candidate]:
        a, b, out = self.static(node.inputs[0]), self.static(node.inputs[1]), self.static(node.output)
        if b.rank != 2 or node.attrs.get("transpose_a", False) or any(t.layout != identity(t.rank) for t in (a, b, out)):
            return []
        if node.inputs[1] not in self.params:
            return []
        bias = node.inputs[2] if len(node.inputs) == 3 else None
        n, k, m = sizes(out)[-1], sizes(a)[-1], math.prod(sizes(out)[:-1])
        if bias is not None:
            shape = sizes(self.static(bias))
            if bias not in self.params or not math.prod(shape) == math.prod(shape[-1:]) == n:
                return []
        transposed = bool(node.attrs.get("transpose_b", False))
        found = []
        for f in self.finishes(node):
            if m <= MOST_ROWS and transposed:
                found.append(self._few_rows(node, f, bias, m, n, k))
            if m > 1:
                dims = ProductDims(m, 1, 1, k, 1, 1, n)
                found.append(self._candidate(node, Prologue((), node.inputs[0]), f, dims, bias, (n, k, 1, int(not transposed))))
        return found

    def _candidate(
        self, node: Node, p: Prologue, f: Finish, d: ProductDims, bias: Value | None, packed: tuple[int, int, int, int]
    ) -> Candidate:
        w = node.inputs[1]
        has_prologue = bool(p.nodes)
        row_blocks, column_blocks = blocks(self.machine, d.pixels, d.columns, d.depth, d.taps, has_prologue)
        number, alpha, beta = f.activation
        inputs = [p.source, w, *(v for v in (bias, p.scale, p.shift, f.residual) if v is not None)]
        dims = ProductDims(
            *d.numbers()[:15],
            row_blocks=row_blocks,
            column_blocks=column_blocks,
            chunk=max(PANEL, min(SUM_CHUNK, self.machine.l1 // (4 * PANEL))),
            has_scale=int(p.scale is not None),
            has_shift=int(p.shift is not None),
            prologue_relu=int(p.relu),
            has_bias=int(bias is not None),
            has_residual=int(f.residual is not None),
            activation=number,
            alpha=float_bits(alpha),
            beta=float_bits(beta),
            joined=d.joined,
            in_stride=d.channels,
        )
        rows = {0: IN_STRIDE, len(inputs): OUT_STRIDE}
        if d.joined:
            del rows[0]
        if f.residual is not None:
            rows[len(inputs) - 1] = RESIDUAL_STRIDE
        call = BuiltinCall("product", dims.numbers(), row_blocks * column_blocks, dims.scratch(), rows)
        nodes = (*p.nodes, node, *f.nodes)
        strided = tuple(i in rows for i in range(len(inputs)))

        def seconds(kept: Collection[Value], repeated: int) -> float:
            return costs.own_product_seconds(
                self.machine,
                pixels=d.pixels,
                columns=d.columns,
                channels=d.depth,
                taps=d.taps,
                tasks=row_blocks * column_blocks,
                read=0 if p.source in kept else 4 * math.prod(sizes(self.static(p.source))),
                written=0 if f.output in kept else 4 * d.pixels * d.columns,
                residual=0 if f.residual is None or f.residual in kept else 4 * d.pixels * d.columns,
                prepared=d.pixels * d.channels * repeated if has_prologue else 0,
            )

        return Candidate(
            nodes=nodes,
            inputs=tuple(inputs),
            outputs=(f.output,),
            seconds=seconds((), min(column_blocks, self.machine.cores)),
            reason=f"own product {' + '.join(n.op for n in nodes)}, {row_blocks} x {column_blocks} tasks",
            impl=call,
            proposer="x86",
            strided_in=strided,
            strided_out=(True,),
            packs=(panels_pack(w, packed),),
            inplace=((0, len(inputs) - 1),) if f.residual is not None else (),
            by_rows=self._by_rows(dims, inputs, f, call, lambda kept: seconds(kept, 1)) if d.out_height > 1 else None,
        )

    def _by_rows(
        self, d: ProductDims, inputs: Sequence[Value], f: Finish, call: BuiltinCall, seconds: Callable[[Collection[Value]], float]
    ) -> ByRows:
        """The same by rows of images; a task is a pixel."""
        windows: list[Window | None] = [None] * len(inputs)
        windows[0] = Window(d.stride_y, -d.pad_y, d.dilation_y * (d.kernel_height - 1) - d.pad_y)
        if f.residual is not None:
            windows[-1] = Window()

        def made(rows: int) -> BuiltinCall:
            # A block's share of the pixels is what a call may compute at most.
            sized = replace(d, row_blocks=max(1, d.pixels // (rows * d.out_width)), column_blocks=1)
            return BuiltinCall("product_pixels", sized.numbers(), d.pixels, sized.scratch(), call.rows)

        weights = 4 * d.taps * d.depth * d.columns
        return ByRows(tuple(windows), d.out_width, weights, lambda kept: seconds(kept) - costs.OWN_LAUNCH, made)

    def _few_rows(self, node: Node, f: Finish, bias: Value | None, m: int, n: int, k: int) -> Candidate:
        """Few rows: weights come from memory once and no copy of them is made."""
        tasks, seconds = costs.own_rows(self.machine, m, n, k)
        number, alpha, beta = f.activation
        inputs = [node.inputs[0], node.inputs[1], *(v for v in (bias, f.residual) if v is not None)]
        chunk = k if m <= WHOLE_ROWS else min(k, max(PANEL, self.machine.l1 // 2 // (4 * min(m, DOTS_ROWS)) // PANEL * PANEL))
        given = (int(bias is not None), int(f.residual is not None), number, float_bits(alpha), float_bits(beta))
        sums = -(-m // DOTS_ROWS) * DOTS_ROWS * DOTS_GROUP * self.machine.simd_bytes
        nodes = (node, *f.nodes)
        return Candidate(
            nodes=nodes,
            inputs=tuple(inputs),
            outputs=(f.output,),
            seconds=seconds,
            reason=f"own dot products {' + '.join(n.op for n in nodes)}",
            impl=BuiltinCall("rows_product", (m, n, k, k, n, n, tasks, chunk, *given), tasks, 4 * -(-m * k // 16) * 16 + sums),
            proposer="x86",
            strided_in=(False,) * len(inputs),
            strided_out=(False,),
            inplace=((0, len(inputs) - 1),) if f.residual is not None else (),
        )


def concats(scope: Scope, only: Collection[frozenset[Node]] | None = None) -> list[Candidate]:
    """A copy of each concat's parts into its output, without those that their producers write there.

    ``only``: sets of nodes that are wanted, instead of all.
    """
    found = []
    machine = scope.machine
    for node in scope.graph.nodes:
        if node.op != "concat" or (only is not None and frozenset((node,)) not in only):
            continue
        types = [scope.static(v) for v in (*node.inputs, node.output)]
        layout = types[-1].layout
        if any(t.dtype != "float32" or t.layout != layout or 0 in t.shape for t in types):
            continue
        copies = [costs.concat_seconds(machine, 4.0 * math.prod(sizes(t))) for t in types[:-1]]
        innermost = layout[-1] == node.attrs["axis"]
        found.append(
            Candidate(
                nodes=(node,),
                inputs=node.inputs,
                outputs=node.outputs,
                seconds=costs.IN_PLACE + sum(s for v, s in zip(node.inputs, copies, strict=True) if v not in scope.producers),
                reason="own concat: copies what is not written in place",
                impl=ConcatCall("concat", (), 4 * machine.cores, axis=node.attrs["axis"]),
                proposer="x86",
                strided_in=(innermost,) * len(node.inputs),
                strided_out=(innermost,),
                gathers=tuple(copies),
            )
        )
    return found
