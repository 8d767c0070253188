"""nnaccel's core: the IR, the passes, depth-first parallelism, plug-ins. Users call `optimize`."""

from nnaccel_core.driver.explain import explain
from nnaccel_core.driver.optimize import optimize
from nnaccel_core.driver.report import Explanation
from nnaccel_core.errors import (
    DeviceError,
    GuardError,
    InputError,
    MismatchError,
    NnaccelError,
    OutOfMemoryError,
    PluginError,
    ReleasedError,
    ShapeError,
    ToolchainError,
    UnsupportedError,
    VerifyError,
)
from nnaccel_core.options import Options

__version__ = "0.1.0"

__all__ = [
    "DeviceError", "Explanation", "GuardError", "InputError", "MismatchError", "NnaccelError", "Options", "OutOfMemoryError",
    "PluginError", "ReleasedError", "ShapeError", "ToolchainError", "UnsupportedError", "VerifyError", "__version__", "explain",
    "optimize",
]  # fmt: skip
