#!/usr/bin/env python3
"""Makes .venv with everything that ``make demo`` and ``make test`` need; does nothing when that is up to date.

    python3 scripts/bootstrap.py [demo] [test] [onnx-nets] [tf]

Runs on the machine's own Python (3.10 or newer, with its venv module) and needs nothing else but a C++ compiler.
Packages come from whatever index pip is set up to use. The packages of this repository are installed in place
(editable), so that edits need no second run; a changed pyproject or native source makes the next run install again.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
BIN = VENV / "bin"
STAMP = VENV / "nnaccel-bootstrap.txt"

TORCH = "torch==2.13.0"
PACKAGES = ["nnaccel_core", "nnaccel_frontend_onnx", "nnaccel_frontend_torch", "nnaccel_backend_x86", "."]
#: Of no use without a GPU or without TensorFlow, but many of their tests need none.
TESTED = ["nnaccel_backend_cuda", "nnaccel_frontend_tf"]
DEMO = "examples/demo"
#: Definitions of the networks that the tests run, without its requirements: it would bring another torch.
TORCHVISION = ["torchvision==0.28.0", "pillow>=9"]
TEST_TOOLS = ["pytest>=8", "hypothesis>=6", "ruff>=0.14,<0.18", "mypy>=1.18,<3", "import-linter>=2.5,<3", "onnxruntime>=1.20"]
TEST_TOOLS += ["scikit-learn>=1.3"]  # its digits are trained on
#: Their ONNX files are test networks; without what they require, which is no part of that.
ONNX_NETS = ["rapidocr-onnxruntime==1.4.4", "magika==1.0.3", "silero-vad==6.2.3"]
#: Its pictures are these networks' input.
ONNX_INPUTS = ["scikit-image>=0.21"]
#: 600 MB, so that it comes only when asked for; its tests are skipped without it.
TENSORFLOW = "tensorflow-cpu==2.21.0"
#: What the packages are built with; given here since they are built in this environment, not in one each.
BUILD_TOOLS = ["setuptools>=77", "wheel"]
NATIVE_SUFFIXES = {".c", ".cc", ".cpp", ".h", ".hpp", ".ispc", ".cmake", ".S"}


def main(groups: list[str]) -> None:
    unknown = set(groups) - {"demo", "test", "onnx-nets", "tf"}
    if unknown:
        fail(f"unknown group {', '.join(sorted(unknown))}; known: demo, test, onnx-nets, tf")
    if sys.version_info < (3, 10):  # noqa: UP036 - this script runs before anything checks
        fail(f"Python 3.10 or newer is needed, this is {sys.version.split()[0]}; give another with: make PYTHON=python3.11 ...")
    place, stamp = environment(), fingerprint()
    before = STAMP.read_text().split() if STAMP.exists() else [place, ""]
    have = set(before[2:]) if before[:2] == [place, stamp] else set()
    if not have >= {"base", *groups}:
        wanted = sorted({"base", *groups} | set(before[2:]))
        start = time.monotonic()
        install(wanted, renew=before[0] != place)
        STAMP.write_text(" ".join([place, stamp, *wanted]) + "\n")
        say(f"installed in {time.monotonic() - start:.0f} s")
    provide_ispc()


def environment() -> str:
    """Changes with the folder and the Python, of neither of which an environment survives a change."""
    return hashlib.sha256(f"{ROOT} {sys.version}".encode()).hexdigest()[:16]


def fingerprint() -> str:
    """Changes when anything does that an editable installation does not follow by itself."""
    digest = hashlib.sha256()
    files = [Path(__file__)]
    for package in [*PACKAGES[:-1], *TESTED, DEMO]:
        for path in sorted((ROOT / package).rglob("*")):
            if "build" in path.parts or not path.is_file():
                continue
            if path.suffix in NATIVE_SUFFIXES or path.name in ("pyproject.toml", "setup.py", "CMakeLists.txt"):
                files.append(path)
    for path in [*files, ROOT / "pyproject.toml"]:
        digest.update(str(path.relative_to(ROOT)).encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def install(groups: list[str], renew: bool) -> None:
    python = str(BIN / "python")
    usable = (BIN / "python").exists() and subprocess.run([python, "-m", "pip", "--version"], capture_output=True).returncode == 0
    if renew or not usable:
        say("making .venv")
        shutil.rmtree(VENV, ignore_errors=True)
        run([sys.executable, "-m", "venv", str(VENV)], "making .venv", "on Debian: apt-get install python3-venv")
    STAMP.unlink(missing_ok=True)
    pip = [python, "-m", "pip", "install", "--quiet", "--quiet", "--disable-pip-version-check"]  # twice: no warnings
    say("installing torch (the longest step of the first run)")
    tools = BUILD_TOOLS + native_build_tools()
    # torch first and by exact version: any other requirement on it must find this one.
    tools += TEST_TOOLS if "test" in groups else []
    tools += ONNX_INPUTS if "onnx-nets" in groups else []
    run([*pip, TORCH, *tools], "installing torch", "check the network and pip's settings")
    if "test" in groups:
        run([*pip, "--no-deps", *TORCHVISION], "installing torchvision", "check the network and pip's settings")
    if "onnx-nets" in groups:
        run([*pip, "--no-deps", *ONNX_NETS], "installing test networks", "check the network and pip's settings")
    if "tf" in groups:
        run([*pip, TENSORFLOW], "installing TensorFlow", "check the network and pip's settings")
    packages = PACKAGES[:-1] + (TESTED if "test" in groups else []) + ([DEMO] if "demo" in groups else []) + ["."]
    editable: list[str] = []
    for package in packages:
        editable += ["--editable", str(ROOT / package)]
    say("building and installing nnaccel's packages")
    run([*pip, "--no-build-isolation", *editable], "installing nnaccel's packages", "on Debian: apt-get install g++ make")


def native_build_tools() -> list[str]:
    """Build requirements of the x86 package, with CMake and Ninja from packages where the machine has none."""
    text = (ROOT / "nnaccel_backend_x86/pyproject.toml").read_text()
    block = text.split("[build-system]", 1)[1].split("requires", 1)[1].split("[", 1)[1].split("]", 1)[0]
    tools = [item.strip().strip("\"'") for item in block.split(",") if item.strip().strip("\"'")]
    for program in ("cmake", "ninja"):
        if shutil.which(program) is None and not any(t.startswith(program) for t in tools):
            tools.append(program)
    return tools


def provide_ispc() -> None:
    """ISPC makes generated kernels fast; without it the C printer serves, so a failure here is only told."""
    code = (
        "from nnaccel_backend_x86.toolchain import find_ispc, install_ispc\n"
        "found = find_ispc() or install_ispc(lambda text: print('bootstrap: ' + text, flush=True))\n"
    )
    # Run away from the repository root: its package folders must not shadow the installed packages.
    done = subprocess.run([str(BIN / "python"), "-c", code], cwd=VENV, stderr=subprocess.PIPE, text=True)
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or ["unknown error"]
        reason = next((line for line in reversed(lines) if "Error:" in line), lines[-1])
        say(f"ISPC could not be provided, so generated kernels go through the C compiler and run slower: {reason}")


def run(command: list[str], what: str, hint: str) -> None:
    env = {**os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ.get('PATH', '')}"}
    if subprocess.run(command, cwd=ROOT, env=env).returncode != 0:
        fail(f"{what} failed (see above); {hint}")


def say(text: str) -> None:
    print(f"bootstrap: {text}", flush=True)


def fail(text: str) -> None:
    sys.exit(f"bootstrap: {text}")


if __name__ == "__main__":
    main(sys.argv[1:])
