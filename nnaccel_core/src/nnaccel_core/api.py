"""What plug-ins implement: `Frontend`, `Backend`, `Bridge`, `Pass`; and what they get: `Machine`, `Session`."""

from __future__ import annotations

import abc
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from nnaccel_core.errors import UnsupportedError
from nnaccel_core.ir import Env, Graph, Node, Program, TensorType
from nnaccel_core.options import Options
from nnaccel_core.plan import Plan
from nnaccel_core.select.candidate import Candidate, Pack

if TYPE_CHECKING:
    from nnaccel_core.driver.session import Session
    from nnaccel_core.loopir.printer import Printer

#: Version of these classes' contract; a plug-in states the version it was written for.
API = 0


@dataclass(frozen=True)
class Machine:
    """What the cost model and the kernel generator know of a device.

    Attributes:
        kind: ``"x86"`` or ``"cuda"``; name: for people; isa: ``"avx2"``, ``"avx512"``, ``"sm_90"``.
        cores: hardware threads or multiprocessors; simd_bytes: width of a vector register.
        l1, l2, l3: bytes of data cache (per core; l3 whole); on GPUs l1 is shared memory.
        flops: fp32 operations a second, all cores; bandwidth: bytes a second from memory.
    """

    kind: str
    name: str
    isa: str
    cores: int
    simd_bytes: int
    l1: int
    l2: int
    l3: int
    flops: float
    bandwidth: float

    def key(self) -> str:
        """What of this machine affects generated code, for cache keys."""
        return f"{self.kind}-{self.isa}-{self.simd_bytes}-{self.l1}-{self.l2}"


@dataclass(frozen=True)
class Layer:
    """What a layer asks of a device, for `Backend.largest_slice` and `Backend.stages`. All but ``weights`` is for one sample.

    Attributes:
        node: its number in the graph; flops: operations; nbytes: of activations, read and written; outputs: elements written.
        weights: bytes of parameters, read once however many samples there are.
        held: bytes of activations, of this layer and of others, that exist while it runs.
        enters: bytes of activations that it and later layers need of earlier ones; None where no stage can begin with it.
    """

    node: int
    flops: float
    nbytes: int
    outputs: int
    weights: int
    held: int
    enters: int | None


@dataclass(frozen=True)
class Signature:
    """What a compiled program is specific to.

    Attributes:
        inputs: types of the tensor inputs; dims are ints, or symbols where any size will do.
        training: the module is in train mode; grad: gradients are needed.
        extra: further hashable state of the framework that changes the program (autocast, flags).
    """

    inputs: tuple[TensorType, ...]
    training: bool = False
    grad: bool = False
    extra: tuple[Any, ...] = ()


@dataclass
class Captured:
    """What a frontend's capture returns.

    Attributes:
        program: segments over named values; ``program.inputs`` are the tensor arguments in order.
        parameters: every graph parameter's name to a function that returns the live framework tensor.
        reason: how it was captured and what was refused on the way, for explain().
        tracked: those parameters that the framework can take gradients of, to functions that return the tensor on its tape.
        detached: names of program outputs that nobody takes gradients of (values that only update a buffer).
        outside: names of parameters that are also read beside the segments: by foreign calls, or as results.
    """

    program: Program
    parameters: Mapping[str, Callable[[], Any]]
    reason: str = ""
    tracked: Mapping[str, Callable[[], Any]] = field(default_factory=dict)
    detached: Collection[str] = ()
    outside: Collection[str] = ()


class Bridge(abc.ABC):
    """Memory of one framework on one device kind. Methods take and return the framework's own tensors."""

    api: ClassVar[int] = API
    framework: ClassVar[str]
    device: ClassVar[str]
    #: what the framework calls the device its tensors are on; "" where that is the device string itself
    home: ClassVar[str] = ""

    @abc.abstractmethod
    def type_of(self, tensor: Any) -> TensorType | None:
        """The tensor's type with its layout; None when it is not dense in any layout (then `dense` is called)."""

    def lies_as(self, tensor: Any, type: TensorType) -> bool:
        """Whether the tensor, of the shape of static ``type``, lies in memory as that says. Asked for every parameter of every
        training step; a framework that knows faster than `type_of` overrides it."""
        found = self.type_of(tensor)
        return found is not None and found.same_memory(type.layout)

    def dtype_of(self, tensor: Any) -> str | None:
        """The tensor's element type; None when `type_of` says nothing of it."""
        found = self.type_of(tensor)
        return None if found is None else found.dtype

    @abc.abstractmethod
    def dense(self, tensor: Any) -> Any:
        """A dense copy of ``tensor`` in row-major layout."""

    @abc.abstractmethod
    def address(self, tensor: Any) -> int:
        """Address of the first element. The caller keeps ``tensor`` alive."""

    @abc.abstractmethod
    def allocate(self, type: TensorType) -> Any:
        """An uninitialized tensor of the framework, of static ``type``, from the framework's own allocator."""

    def allocate_block(self, types: Sequence[TensorType]) -> list[Any]:
        """Uninitialized tensors of static ``types``, in one piece of memory where the framework can do that."""
        return [self.allocate(t) for t in types]

    def capturing(self) -> bool:
        """Whether the user is recording what is enqueued now, to run it again at any time (``torch.cuda.graph``)."""
        return False

    def numpy(self, tensor: Any) -> np.ndarray[Any, Any]:
        """The tensor's values in logical axis order: a view where the memory is the host's, else a copy."""
        return np.from_dlpack(tensor)

    @abc.abstractmethod
    def copy(self, target: Any, source: Any) -> None:
        """Write ``source`` over ``target`` (same shape and dtype) the way the framework's own assignment would."""

    def copy_all(self, targets: Sequence[Any], sources: Sequence[Any]) -> None:
        """`copy` of many."""
        for target, source in zip(targets, sources, strict=True):
            self.copy(target, source)

    def threads(self) -> int:
        """How many CPU threads the framework would use now."""
        return 1

    def stream(self) -> int:
        """The framework's current stream (0 on CPUs)."""
        return 0

    def precision(self) -> tuple[str, ...]:
        """Operators (of ``"conv"``, ``"matmul"``) that the framework's switches now let round float32 operands to TF32.

        Asked when a program is compiled; a frontend keeps programs of different answers apart.
        """
        return ()

    def tracks(self, tensor: Any) -> bool:
        """Whether the framework takes gradients of ``tensor`` now."""
        return False

    def touched(self, tensor: Any) -> None:  # noqa: B027 - optional
        """Tell the framework that we wrote ``tensor``."""


class Executable(abc.ABC):
    """A built plan. Safe to run from several threads at once.

    Attributes:
        profiling: set by explain() while runs are to be timed step by step, for `profile`.
    """

    profiling: bool = False

    @abc.abstractmethod
    def run(self, inputs: Sequence[int], prepared: Sequence[int], outputs: Sequence[int], threads: int, stream: int) -> Any:
        """Run on memory at these addresses; returns the `Saved` object of a training forward, else None.

        Raises:
            OutOfMemoryError: the arena could not be allocated.
        """

    def exact(self, space: str, addresses: Sequence[int], threads: int) -> bool:
        """Whether `run` keeps NaN and infinity as the framework would, given what lies at these addresses now.

        The driver asks for ``space`` ``"input"`` before every run, and for ``"prepared"`` once when parameters were prepared.
        On False it runs a plan built with ``numerics="strict"``, made when first needed, whose steps all keep them. So a backend
        whose libraries' fused activations turn NaN into a number can still use them, at the price of a look at the inputs.

        What this covers: NaN and infinity in inputs and parameters. What it cannot: activations of finite inputs and parameters
        that overflow inside the network (beyond 3.4e38 in float32) and then cancel to NaN (``inf - inf``, ``0 * inf``) in
        front of such an activation. ``numerics="strict"`` covers that too.
        """
        return True

    def profile(self) -> Sequence[tuple[str, float]]:
        """``(origin, seconds)`` of each step, in plan order, in the last run while `profiling` was set; empty when the
        backend has no timers."""
        return ()


class Memory(abc.ABC):
    """Device memory owned by nnaccel (prepared parameters)."""

    address: int
    nbytes: int

    @abc.abstractmethod
    def numpy(self, type: TensorType) -> np.ndarray[Any, Any]:
        """A host view (CPU) or copy of the memory as ``type``, in logical axis order."""

    def write(self, type: TensorType, array: np.ndarray[Any, Any]) -> None:
        """Fill the memory as ``type`` with ``array``, given in logical axis order. Devices without host views override this."""
        self.numpy(type)[...] = array


class Backend(abc.ABC):
    """A device kind. Instances are cheap; one per process and device.

    Every op has a loop nest, a decomposition or a host reference: a backend whose `candidates` returns nothing
    is complete as long as it builds `KernelStep` and `HostStep`.
    """

    api: ClassVar[int] = API
    name: ClassVar[str]
    #: device strings it answers to, without index: ``("cpu",)``
    devices: ClassVar[tuple[str, ...]]
    #: parameters are used where the framework has them at addresses that are multiples of this; others are copied
    alignment: ClassVar[int] = 1
    #: Parameters change with every step of training. True: what derives from them is computed by the plan itself, on the device,
    #: and weights of dense convolutions are brought to channels-last there. False: the host derives and packs before each run.
    derives_live: ClassVar[bool] = False
    #: Runs with the same addresses as an earlier one cost less: training passes get memory at addresses that come again.
    replays: ClassVar[bool] = False
    #: `build` takes `ChainStep`: layers that run one after the other on a few rows of images at a time.
    chains: ClassVar[bool] = False
    #: Of ``"float16"`` and ``"bfloat16"``: types that it has no fast products of. Where a framework would lower the precision of
    #: a float32 network to these to gain time (autocast), such products are computed in float32 instead.
    widened: ClassVar[frozenset[str]] = frozenset()
    #: Who chooses by measurement under ``autotune``: ``"driver"``, which needs `Executable.profile` to have timers;
    #: ``"backend"``, which finds the option in `candidates` and `build`; "" refuses it.
    autotune: ClassVar[str] = ""

    @classmethod
    @abc.abstractmethod
    def probe(cls) -> Machine | None:
        """The machine, or None when this device is absent here. Cheap: no compiler runs."""

    @classmethod
    def absent(cls) -> str:
        """Why `probe` found no device, and what mends that; "" when there is no more to say."""
        return ""

    @classmethod
    def count(cls) -> int | None:
        """How many devices of this kind there are here (device indices are less); None leaves that to ``__init__``."""
        return None

    @classmethod
    def diagnose(cls) -> Sequence[Diagnosis]:
        """What `nnaccel doctor` prints for this backend."""
        return ()

    def __init__(self, machine: Machine, device: str) -> None:
        self.machine = machine
        self.device = device

    def candidates(
        self, graph: Graph, env: Env, options: Options, only: Collection[frozenset[Node]] | None = None
    ) -> Sequence[Candidate]:
        """Library implementations for sets of nodes of ``graph`` at the sizes in ``env``.

        ``only``: the sets that an earlier size chose; others are not looked at, so a backend may skip them. A new size is
        ready the sooner for it.
        """
        return ()

    def choices_key(self) -> str:
        """What decides, beside the package's files and the machine, which candidates are offered and what they cost: versions
        of libraries, settings. A later process with the same key repeats what was chosen without weighing it again. "" (the
        default) has every process choose for itself.
        """
        return ""

    def whole(self, node: Node) -> bool:
        """Whether `candidates` runs the fused operator ``node`` as it is, at any size as far as types tell; others are decomposed
        first. Where it has no candidate after all, the node is decomposed for that size.
        """
        return False

    def largest_slice(self, layers: Callable[[], Sequence[Layer]]) -> int | None:
        """How many samples of a batch run at a time at most, in a network of ``layers()``; larger batches run in slices.

        Fewer take less memory; but each slice reads all weights again, and has to keep the device busy. None (the default) leaves
        it to the core, whose rule is for processors with large caches (`driver.slicing`).
        """
        return None

    def stages(self, layers: Callable[[], Sequence[Layer]]) -> Sequence[tuple[int, int]]:
        """Parts of the network that run one after the other, each with slices of its own size: (its first layer's number in
        ``layers()``, most samples at a time). The first begins with layer 0, others with layers whose ``enters`` is a number. ()
        has all layers run in slices of one size, `largest_slice`; so do batches that no stage would slice.
        """
        return ()

    def pack_candidate(self, node: Node) -> Candidate:
        """How to run op ``pack`` for a `Pack` that this backend asked for.

        Raises:
            UnsupportedError: the key is not this backend's.
        """
        raise UnsupportedError(f"backend {self.name!r} packs nothing, but was given {node.where()}")

    def packed(self, pack: Pack, array: np.ndarray[Any, Any]) -> Memory | None:
        """``array`` (a parameter's values on the host) in the form ``pack`` of it; None leaves that to `pack_candidate`."""
        return None

    def use(self, bridge: Bridge) -> None:  # noqa: B027 - optional
        """Told once for each bridge that networks on this device use: a device may take scratch memory from its framework."""

    @abc.abstractmethod
    def printer(self) -> Printer:
        """The printer of generated kernels."""

    @abc.abstractmethod
    def build(self, plan: Plan, options: Options) -> Executable:
        """Compile and load ``plan``.

        Raises:
            ToolchainError: the compiler failed or is missing.
        """

    @abc.abstractmethod
    def memory(self, nbytes: int) -> Memory:
        """Device memory, 64-byte aligned.

        Raises:
            OutOfMemoryError: there is not enough.
        """


@dataclass(frozen=True)
class Diagnosis:
    """One line of `nnaccel doctor`. ``fix`` is the command that mends it when not ``ok``.

    ``mend``, where given, does so for `nnaccel doctor --fix`; it gets a function to report each step to.
    """

    what: str
    ok: bool
    detail: str
    fix: str = ""
    mend: Callable[[Callable[[str], None]], object] | None = None


@dataclass(frozen=True)
class Inspection:
    """What a frontend tells `explain` about an optimized object of its own.

    Attributes:
        name: the network, for people; session: where its programs are.
        call: runs the object for prediction.
        notes: how it was captured, and why calls ran in the framework instead.
    """

    name: str
    session: Session
    call: Callable[..., Any]
    notes: tuple[str, ...] = ()


class Frontend(abc.ABC):
    """A framework. `wrap` returns the user-facing object; it calls ``session`` methods at run time."""

    api: ClassVar[int] = API
    name: ClassVar[str]
    #: Whether its optimized objects obey `Options.release_parameters`.
    releases: ClassVar[bool] = False

    @classmethod
    @abc.abstractmethod
    def accepts(cls, model: Any) -> bool:
        """Whether ``model`` is this framework's. Must not import the framework when it is not loaded."""

    @classmethod
    @abc.abstractmethod
    def default_device(cls, model: Any) -> str:
        """The device string of the model's parameters ("cpu", "cuda:0")."""

    @abc.abstractmethod
    def capture(self, model: Any, call: Any) -> Captured:
        """Import ``model`` for the arguments ``call`` (a frontend-defined record of one call).

        Raises:
            UnsupportedError: neither way of capture works; carries every refusal's reason.
        """

    @abc.abstractmethod
    def wrap(self, model: Any, session: Session) -> Any:
        """The optimized object, of the same framework."""

    @classmethod
    def inspect(cls, optimized: Any) -> Inspection | None:
        """What `explain` needs of an object that `wrap` made; None when ``optimized`` is no such object."""
        return None

    @classmethod
    def diagnose(cls) -> Sequence[Diagnosis]:
        """What `nnaccel doctor` prints for this frontend."""
        return ()


@dataclass(frozen=True)
class Pass:
    """A named pure function, placed by stage and by other passes' names.

    Stages: ``"graph"``: ``Graph -> Graph``; ``"loop"``: ``Kernel -> Kernel``.
    """

    name: str
    run: Callable[[Any], Any]
    stage: str = "graph"
    before: tuple[str, ...] = field(default=())
    after: tuple[str, ...] = field(default=())
