"""Every operator's samples on every backend that is present, with and without libraries."""

from __future__ import annotations

import pytest

from nnaccel_core.api import Backend
from nnaccel_core.options import Options
from nnaccel_core.testing import conformance
from nnaccel_core.testing.interpreter import InterpreterBackend


@pytest.fixture(scope="session")
def x86() -> Backend:
    module = pytest.importorskip("nnaccel_backend_x86.backend", reason="needs the x86 backend")
    machine = module.X86Backend.probe()
    if machine is None:
        pytest.skip("the x86 backend does not run on this machine")
    backend = module.X86Backend(machine, "cpu")
    toolchain = pytest.importorskip("nnaccel_backend_x86.toolchain")
    kernels = []
    for libraries in (True, False):
        kernels += conformance.kernels_of(conformance.op_cases(), backend, Options(libraries=libraries))
    toolchain.KernelCompiler(machine).load(kernels)  # one compiler run for all, instead of one for each case
    return backend


@pytest.mark.parametrize("case", conformance.op_cases(), ids=str)
def test_operator_on_the_interpreter(case):
    machine = InterpreterBackend.probe()
    assert machine is not None
    conformance.check_op(InterpreterBackend(machine, "interp"), case)


@pytest.mark.slow
@pytest.mark.parametrize("case", conformance.op_cases(), ids=str)
@pytest.mark.parametrize("libraries", [True, False], ids=["libraries", "generated"])
def test_operator_on_x86(x86, case, libraries):
    conformance.check_op(x86, case, Options(libraries=libraries), rtol=2e-5)
