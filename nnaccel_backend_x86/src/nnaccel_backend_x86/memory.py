"""Memory of prepared parameters."""

from __future__ import annotations

from typing import Any

import numpy as np

from nnaccel_backend_x86 import native
from nnaccel_backend_x86.executable import view
from nnaccel_core.api import Memory
from nnaccel_core.errors import OutOfMemoryError
from nnaccel_core.ir import TensorType
from nnaccel_core.plan import BufferRef


class X86Memory(Memory):
    """Zeroed host memory, page-aligned, in huge pages where the system has them. Freed with the object."""

    def __init__(self, nbytes: int, recycled: bool = False) -> None:
        """``recycled``: it may hold anything, and serves later memory of its kind and size when it is freed: fresh memory costs a
        page fault for each page (25 ms for 100 MB), which training would pay at each step.

        Raises:
            OutOfMemoryError: there is not enough.
        """
        library = native.library()
        self.nbytes = nbytes
        allocate, self._free = (
            (library.nnx_memory_take, library.nnx_memory_give) if recycled else (library.nnx_memory_new, library.nnx_memory_free)
        )
        self.address = allocate(nbytes) or 0
        if not self.address:
            raise OutOfMemoryError(f"could not allocate {nbytes} bytes ({nbytes / 2**20:.1f} MiB) for prepared parameters")

    def __del__(self) -> None:
        if getattr(self, "address", 0):
            self._free(self.address, self.nbytes)

    def numpy(self, type: TensorType) -> np.ndarray[Any, Any]:
        """A view of the memory as ``type``, in logical axis order; valid while this object lives."""
        return view(self.address, BufferRef("prepared", 0, 0, type))
