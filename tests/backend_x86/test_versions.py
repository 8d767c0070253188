"""A native library of another version is refused before anything of it is used; the number that says so is kept up to date."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from nnaccel_backend_x86 import native

NATIVE = Path(__file__).parents[2] / "nnaccel_backend_x86" / "native"
#: The number of the interface, and a digest of what it stands for.
INTERFACE = (4, "f1a6199e30e5aae2")


def interface() -> str:
    """What Python and the native library must agree on: the C ABI, descriptions, and the integers and buffers of kernels."""
    parts = [(NATIVE / "nnaccel_x86.h").read_text()]
    parts.append(re.split(r"^#pragma", (NATIVE / "descriptor.h").read_text(), flags=re.MULTILINE)[0])
    for source in sorted(NATIVE.glob("*.cpp")):
        text = source.read_text()
        parts += re.findall(r"^struct (?:Product)?Dims \{.*?^\};", text, re.MULTILINE | re.DOTALL)
        parts += re.findall(r"(?:^//[^\n]*\n)*^void \w+\(void \*\*buffers", text, re.MULTILINE)
    return "\n".join(parts)


def test_the_number_changes_with_the_interface() -> None:
    (number,) = re.findall(r"^#define NNX_ABI (\d+)", (NATIVE / "nnaccel_x86.h").read_text(), re.MULTILINE)
    digest = hashlib.sha256(interface().encode()).hexdigest()[:16]
    assert int(number) == native.ABI
    assert (native.ABI, digest) == INTERFACE, (
        "what Python and the native library agree on has changed: raise NNX_ABI and native.ABI if an old library would now be "
        "called with a wrong meaning (leave them for changed comments), and write both here"
    )


def load(library: Path) -> str:
    """The error of loading ``library`` in a new process."""
    code = """
from nnaccel_backend_x86 import native
from nnaccel_core.errors import ToolchainError
try:
    native.library()
except ToolchainError as e:
    print(e)
"""
    environment = {**os.environ, native.LIBRARY_VARIABLE: str(library)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60, check=True)
    return done.stdout.strip()


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")
@pytest.mark.parametrize("number", [native.ABI - 1, native.ABI + 1])
def test_a_library_of_another_version_is_refused(tmp_path: Path, number: int) -> None:
    source, library = tmp_path / "other.c", tmp_path / "other.so"
    source.write_text(f"int nnx_abi(void) {{ return {number}; }}\n")
    subprocess.run(["cc", "-shared", "-fPIC", "-o", str(library), str(source)], check=True)
    text = load(library)
    assert f"version {number} of the interface, not {native.ABI}" in text
    assert str(library) in text and native.LIBRARY_VARIABLE in text


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")
def test_a_library_without_a_version_is_refused(tmp_path: Path) -> None:
    source, library = tmp_path / "other.c", tmp_path / "other.so"
    source.write_text("int something(void) { return 1; }\n")
    subprocess.run(["cc", "-shared", "-fPIC", "-o", str(library), str(source)], check=True)
    assert "has no nnx_abi" in load(library)
