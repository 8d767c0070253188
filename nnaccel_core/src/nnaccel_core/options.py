"""Options of `optimize`, shared by all stages."""

from __future__ import annotations

from dataclasses import dataclass

#: Seconds that ``autotune=True`` gives each size.
TUNING_SECONDS = 30.0
#: Calls of each program that are compared with the framework's own result under `Options.verify`.
VERIFIED_CALLS = 2


@dataclass(frozen=True)
class Options:
    """How a network is optimized.

    Attributes:
        dfp: False runs every layer of a depth-first group as a kernel of its own, to measure what DFP gains.
        numerics: ``"fast"`` may reorder sums and use Winograd; ``"strict"`` may not. Both keep NaN and infinity of inputs and
            parameters; ``"strict"`` also NaN that arises inside the network where finite values overflow (`Executable.exact`).
        autotune: choose between candidates by measurement; a number: trials begin for at most so many seconds for each size, and
            trials of slices for a quarter of that beside it.
        verify: compare the first `VERIFIED_CALLS` calls of each program with the framework's own result.
        slicing: run large batches some samples at a time, where samples do not meet; less memory, fewer plans. A number: at most
            that many; True leaves it to the device, False runs batches whole.
        libraries: False forbids vendor libraries, so that every op runs on generated kernels.
        remat: what training computes again instead of keeping it between forward and backward: ``"auto"`` what costs no extra
            pass over memory, ``"memory"`` also results of element-wise layers, for less memory and more time; a number in 0..1
            whole parts of the network, until that part of the bytes that ``"auto"`` keeps suffices, or as few as can be. All but
            ``"auto"`` run the backward pass in parts too, and free between these what was kept.
        tf32: operators (``"conv"``, ``"matmul"``) that may round float32 operands to TF32; set from `Bridge.precision`.
        live: parameters change at every call (set for training), so that packing them counts.
        train: give a network that can be trained, where the framework has no training of its own (ONNX files).
        release_parameters: for prediction alone: give back the memory of parameters that plans read in packed or derived forms
            only.
    """

    dfp: bool = True
    numerics: str = "fast"
    autotune: bool | float = False
    verify: bool = False
    libraries: bool = True
    slicing: bool | int = True
    remat: str | float = "auto"
    tf32: tuple[str, ...] = ()
    live: bool = False
    train: bool = False
    release_parameters: bool = False

    @property
    def tuning_seconds(self) -> float | None:
        """How long ``autotune`` may take; None without it."""
        if not self.autotune:
            return None
        return TUNING_SECONDS if self.autotune is True else float(self.autotune)

    def __post_init__(self) -> None:
        if self.numerics not in ("fast", "strict"):
            raise ValueError(f"numerics must be 'fast' or 'strict', not {self.numerics!r}")
        if self.remat not in ("auto", "memory") if isinstance(self.remat, str) else not 0 <= self.remat <= 1:
            raise ValueError(f"remat must be 'auto', 'memory' or a number from 0 to 1, not {self.remat!r}")
        if not 0 <= self.autotune < float("inf"):
            raise ValueError(f"autotune must be True, False or a number of seconds, not {self.autotune!r}")
        if self.slicing < 0:
            raise ValueError(f"slicing must be True, False or a number of samples, not {self.slicing!r}")
