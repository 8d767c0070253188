"""What `api.Backend` promises, on every backend that is present."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from nnaccel_core.api import Backend
from nnaccel_core.errors import OutOfMemoryError
from nnaccel_core.testing import contract
from nnaccel_core.testing.interpreter import InterpreterBackend
from nnaccel_core.testing.memory import HostMemory


@pytest.fixture(scope="module")
def x86() -> Backend:
    module = pytest.importorskip("nnaccel_backend_x86.backend", reason="needs the x86 backend")
    machine = module.X86Backend.probe()
    if machine is None:
        pytest.skip("the x86 backend does not run on this machine")
    return module.X86Backend(machine, "cpu")


def interpreter(cls: type[InterpreterBackend] = InterpreterBackend) -> InterpreterBackend:
    machine = cls.probe()
    assert machine is not None
    return cls(machine, "interp")


@pytest.mark.parametrize("check", contract.checks(), ids=str)
def test_interpreter(check):
    check(interpreter())


@pytest.mark.parametrize("check", contract.checks(), ids=str)
def test_x86(x86, check):
    check(x86)


def failing(name: str, backend: Backend, text: str) -> None:
    (check,) = [c for c in contract.checks() if c.name == name]
    with pytest.raises(AssertionError, match=text):
        check(backend)


def test_the_kit_finds_unaligned_memory():
    class Unaligned(HostMemory):
        def __init__(self, nbytes):
            super().__init__(nbytes + 8)
            self.address += 8

    class Wrong(InterpreterBackend):
        def memory(self, nbytes):
            return Unaligned(nbytes)

    failing("memory_is_aligned_and_its_own", interpreter(Wrong), "bytes at 0x")


def test_the_kit_finds_memory_without_an_error_of_its_own():
    class Silent(InterpreterBackend):
        def memory(self, nbytes):
            return HostMemory(min(nbytes, 64))

    class Vague(InterpreterBackend):
        def memory(self, nbytes):
            raise OutOfMemoryError("no")

    failing("too_much_memory_is_an_error_of_its_own", interpreter(Silent), "were given")
    failing("too_much_memory_is_an_error_of_its_own", interpreter(Vague), "names no size")


def test_the_kit_finds_results_that_are_overwritten_and_threads_that_share_scratch():
    class Shared(InterpreterBackend):
        def build(self, plan, options):
            executable = super().build(plan, options)
            run = executable.run

            def spoil(inputs, *rest):
                run(inputs, *rest)
                import ctypes

                ctypes.memset(inputs[0], 0, 4)

            executable.run = spoil
            return executable

    failing("inputs_and_results_are_left_alone", interpreter(Shared), "Arrays are not equal|not equal")


def test_every_check_is_documented():
    page = (Path(__file__).resolve().parents[2] / "docs" / "plugins.md").read_text()
    table = page.split("| check | promise |", 1)[1].split("\n\n", 1)[0]
    documented = [name for line in table.splitlines()[2:] for name in re.findall(r"`(\w+)`", line.split("|")[1])]
    assert documented == [c.name for c in contract.checks()]
