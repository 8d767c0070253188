"""Each package installs by itself next to the core, in any order, with the others absent. Minutes: `make test-install`."""

from __future__ import annotations

import itertools
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from frontend_tf.test_together import TENSORFLOW, TORCH

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.install

#: Our plug-ins' packages and the names they register.
EXPECTED = {
    "nnaccel_backend_cuda": "cuda", "nnaccel_backend_x86": "x86",
    "nnaccel_frontend_onnx": "onnx", "nnaccel_frontend_tf": "tf", "nnaccel_frontend_torch": "torch",
}  # fmt: skip

PROBE = """
import json, sys
import nnaccel_core
from nnaccel_core.hooks import manager
assert nnaccel_core.__file__, "an empty namespace package"
print(json.dumps(sorted(p.name for p in manager.list_plugins())))
"""


def pip(python: Path, *arguments: str) -> None:
    command = [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check", *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="session")
def wheels(tmp_path_factory) -> dict[str, Path]:
    """A wheel of every package, built as a user's pip would."""
    folder = tmp_path_factory.mktemp("wheels")
    found = {}
    for source in (".", "nnaccel_core", *EXPECTED):
        before = set(folder.iterdir())
        command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(folder), str(ROOT / source)]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        (found[source],) = set(folder.iterdir()) - before
    return found


@pytest.fixture
def fresh(tmp_path) -> Path:
    """The Python of a new environment that holds what the core needs, but none of our packages."""
    venv.create(tmp_path / "env", with_pip=True)
    python = tmp_path / "env/bin/python"
    pip(python, "numpy", "pluggy", "rich")
    return python


ORDERS = [
    *itertools.permutations(["nnaccel_core", "nnaccel_backend_x86", "nnaccel_frontend_torch"]),
    ("nnaccel_core",), ("nnaccel_core", "nnaccel_backend_x86"), ("nnaccel_core", "nnaccel_frontend_torch"),
    ("nnaccel_core", "nnaccel_backend_cuda"), ("nnaccel_core", "nnaccel_frontend_onnx"),
    ("nnaccel_core", "nnaccel_frontend_tf"),
    ("nnaccel_backend_cuda", "nnaccel_frontend_onnx", "nnaccel_core", "nnaccel_frontend_torch", "nnaccel_backend_x86"),
    ("nnaccel_core", "."), (".", "nnaccel_core", "nnaccel_backend_x86"),
]  # fmt: skip


@pytest.mark.parametrize("order", ORDERS, ids="-".join)
def test_subset_in_this_order(fresh, wheels, order, tmp_path):
    for package in order:
        pip(fresh, "--no-deps", str(wheels[package]))
    done = subprocess.run([str(fresh), "-c", PROBE], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(sorted(EXPECTED[p] for p in order if p in EXPECTED)).replace("'", '"')
    doctor = subprocess.run([str(fresh.with_name("nnaccel")), "doctor"], capture_output=True, text=True, cwd=tmp_path)
    assert "Traceback" not in doctor.stderr + doctor.stdout and "nnaccel-core" in doctor.stdout
    if len(order) < 3:
        assert doctor.returncode == 1, "something is missing, and doctor must say so"


def test_wheels_hold_what_they_should(wheels):
    import zipfile

    names = {source: zipfile.ZipFile(wheel).namelist() for source, wheel in wheels.items()}
    assert [n for n in names["."] if not n.startswith("nnaccel-")] == ["nnaccel/__init__.py"]
    assert any(n.endswith("libnnaccel_x86.so") for n in names["nnaccel_backend_x86"])
    for source, listing in names.items():
        tops = {n.split("/")[0] for n in listing if ".dist-info" not in n}
        assert tops == {source if source != "." else "nnaccel"}, tops


#: What each framework is installed as, our package for it, and a program that uses both.
FRAMEWORKS = {
    "torch": ("torch==2.13.0", "nnaccel_frontend_torch", TORCH),
    "tensorflow": ("tensorflow-cpu==2.21.0", "nnaccel_frontend_tf", TENSORFLOW),
}


@pytest.mark.parametrize("names", [("torch",), ("tensorflow",), ("torch", "tensorflow")], ids="+".join)
def test_frameworks_in_environments_of_their_own(fresh, wheels, names, tmp_path):
    """One framework without the other, and both in either order; using one never imports the other."""
    ours = ["nnaccel_core", "nnaccel_backend_x86", ".", *(FRAMEWORKS[n][1] for n in names)]
    pip(fresh, *(FRAMEWORKS[n][0] for n in names), *(str(wheels[p]) for p in ours))
    for order in itertools.permutations(names):
        parts = ["import nnaccel, sys\n"]
        for i, name in enumerate(order):
            parts.append(FRAMEWORKS[name][2])
            parts += [f"assert {other!r} not in sys.modules\n" for other in FRAMEWORKS if other not in order[: i + 1]]
        done = subprocess.run([str(fresh), "-c", "".join(parts)], capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode == 0, done.stderr[-3000:]
