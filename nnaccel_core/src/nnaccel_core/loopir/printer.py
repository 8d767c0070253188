"""From loop IR to C-like text: one printer; a dialect overrides the small methods of `Printer`.

Every generated kernel has the same C interface, whatever the dialect::

    void SYMBOL(void** buffers, const int64_t* dims, uint8_t* scratch, int64_t begin, int64_t end)

It runs the flat tasks ``begin .. end - 1`` (row-major over ``kernel.tasks``). ``buffers`` and ``dims`` follow
``kernel.buffers`` and ``kernel.dims``; ``scratch`` is this thread's tile memory, 64-byte aligned and
`interp.scratch_bytes` long. Text depends on the kernel alone, so equal kernels print equally.
"""

from __future__ import annotations

import abc
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from nnaccel_core.errors import UnsupportedError
from nnaccel_core.ir.dims import Dim
from nnaccel_core.loopir import grammar as g
from nnaccel_core.loopir.transforms import unroll
from nnaccel_core.loopir.verify import verify
from nnaccel_core.loopir.writer import OPERATOR, SUFFIX, Text, Writer

__all__ = ["SUFFIX", "Function", "Printer", "Text", "Writer", "decimal"]


@dataclass(frozen=True)
class Function:
    """A printed kernel. ``helpers``: ``(template name, dtype)`` pairs of ``mathlib`` that it calls."""

    text: str
    helpers: frozenset[tuple[str, str]]


class Printer(abc.ABC):
    """Prints kernels. A dialect gives names and the methods below `kernel`."""

    name: ClassVar[str]
    #: file name ending of a module, with the dot
    extension: ClassVar[str]
    reserved: ClassVar[frozenset[str]]
    #: whether ``&&`` of lanes branches: it then loads what its second operand needs lane by lane
    branches: ClassVar[bool] = False

    def module(self, kernels: Sequence[tuple[str, g.Kernel]]) -> str:
        """The source file that defines ``kernels`` under the given symbols.

        Raises:
            VerifyError: a kernel breaks the rules of the loop IR; UnsupportedError: this dialect lacks something.
        """
        return self.join([self.function(symbol, kernel) for symbol, kernel in kernels])

    def kernel(self, symbol: str, kernel: g.Kernel) -> str:
        """The text of one function; the helpers it calls are defined by `module`."""
        return self.function(symbol, kernel).text

    def function(self, symbol: str, kernel: g.Kernel) -> Function:
        """One function, for `join`; raises as `module` does."""
        helpers: set[tuple[str, str]] = set()
        straight = unroll(kernel)
        verify(straight)
        return Function(Writer(self, symbol, straight, helpers).function(), frozenset(helpers))

    def join(self, functions: Sequence[Function]) -> str:
        """The source file that consists of ``functions``."""
        helpers = set().union(*(f.helpers for f in functions))
        return "\n".join([self.prelude(helpers), *(f.text for f in functions)])

    @abc.abstractmethod
    def prelude(self, helpers: set[tuple[str, str]]) -> str:
        """Text before all kernels; ``helpers`` are ``(template name, dtype)`` pairs of ``mathlib``."""

    @abc.abstractmethod
    def signature(self, symbol: str) -> str:
        """The function's head, with the argument names of the module's docstring."""

    @abc.abstractmethod
    def type(self, dtype: str, *, varying: bool = False, stored: bool = False) -> str:
        """A variable's type; ``stored`` means as an element of memory."""

    @abc.abstractmethod
    def pointer(self, buffer: g.Buffer, name: str, source: str) -> str:
        """The declaration of ``buffer``'s base address ``name``, cast from the expression ``source``."""

    @abc.abstractmethod
    def integer(self) -> str:
        """The type of a uniform int64, without ``const``."""

    @abc.abstractmethod
    def simd(self, axis: str, begin: str, end: str, lanes: Sequence[tuple[str, str, str]], writer: Writer) -> list[str]:
        """Lines that open a simd loop; ``lanes`` are ``(variable, combine, dtype)`` registers combined in it."""

    @abc.abstractmethod
    def literal(self, value: float | int | bool, dtype: str) -> str:
        """A constant."""

    @abc.abstractmethod
    def unary(self, op: str, a: Text, writer: Writer) -> str:
        """A unary operator that `Writer` has no common form for."""

    @abc.abstractmethod
    def power(self, a: Text, b: Text, writer: Writer) -> str:
        """A floating-point power."""

    def widen(self, text: str, dtype: str, writer: Writer) -> str:
        """A stored 16-bit float as float32."""
        raise UnsupportedError(f"the {self.name} printer has no {dtype}")

    def narrow(self, text: str, dtype: str, writer: Writer) -> str:
        """A float32 as a stored 16-bit float."""
        raise UnsupportedError(f"the {self.name} printer has no {dtype}")

    def lane_index(self, dim: Dim, writer: Writer) -> str:
        """An index that depends on the simd axis."""
        return writer.dim(dim)

    def compare_lanes(self, op: str, a: Dim, b: Dim, writer: Writer) -> str:
        """A comparison of indices that depend on the simd axis."""
        return f"({self.lane_index(a, writer)} {OPERATOR[op]} {self.lane_index(b, writer)})"


def decimal(value: float, dtype: str) -> str:
    """The shortest decimal text of a finite number that reads back as itself."""
    text = str(np.float32(value)) if dtype == "float32" else repr(float(value))
    return text if any(c in text for c in ".e") else text + ".0"
