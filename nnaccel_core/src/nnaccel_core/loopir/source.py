"""A kernel that is made only when somebody needs its text: compiled kernels are found again without it."""

from __future__ import annotations

from collections.abc import Callable

from nnaccel_core.loopir.grammar import Kernel


class KernelSource:
    """Makes a kernel once, when first asked for.

    Attributes:
        name: of the kernel.
        identity: equal for sources that make kernels of equal text, in any process of this version of the code; "" when
            that is not known.
    """

    def __init__(self, name: str, identity: str, make: Callable[[], Kernel]) -> None:
        self.name = name
        self.identity = identity
        self._make: Callable[[], Kernel] | None = make
        self._kernel: Kernel | None = None

    @property
    def kernel(self) -> Kernel:
        """The kernel. Asked by two threads at once, both get an equal one."""
        found = self._kernel
        if found is None:
            make = self._make
            if make is None:  # another thread was faster
                assert self._kernel is not None
                return self._kernel
            found = self._kernel = make()
            self._make = None
        return found
