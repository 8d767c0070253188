"""Compilers of generated kernels: finding and installing ISPC, compiling kernels and keeping them on disk."""

from nnaccel_backend_x86.toolchain.compiler import KernelCompiler
from nnaccel_backend_x86.toolchain.diagnose import diagnose
from nnaccel_backend_x86.toolchain.find import Ispc, find_ispc
from nnaccel_backend_x86.toolchain.install import install_ispc

__all__ = ["Ispc", "KernelCompiler", "diagnose", "find_ispc", "install_ispc"]
