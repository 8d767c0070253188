"""The repository's own rules: import contracts, entry points, metadata, files that must not say certain things."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = sorted(p.parent.name for p in ROOT.glob("nnaccel_*/pyproject.toml"))
PLUGINS = [p for p in PACKAGES if p != "nnaccel_core"]


def load_toml(path: Path) -> dict:
    if sys.version_info >= (3, 11):
        import tomllib

        return tomllib.loads(path.read_text())
    return pytest.importorskip("tomli").loads(path.read_text())


def project(package: str) -> dict:
    return load_toml(ROOT / package / "pyproject.toml")["project"]


def sources(package: str) -> list[Path]:
    return sorted((ROOT / package / "src").rglob("*.py"))


def test_import_contracts_hold():
    """The contracts are in pyproject.toml; `make lint` runs the same command."""
    program = Path(sys.executable).with_name("lint-imports")
    if not program.exists():
        pytest.skip("import-linter is not installed in this environment")
    done = subprocess.run([str(program), "--no-cache"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_import_contracts_can_fail(tmp_path):
    """A core that imports torch breaks the contract: the check above is alive."""
    program = Path(sys.executable).with_name("lint-imports")
    if not program.exists():
        pytest.skip("import-linter is not installed in this environment")
    package = tmp_path / "nnaccel_core"
    package.mkdir()
    (package / "__init__.py").write_text("import torch\n")
    (tmp_path / ".importlinter").write_text(
        "[importlinter]\nroot_package = nnaccel_core\ninclude_external_packages = True\n"
        "[importlinter:contract:1]\nname = core\ntype = forbidden\nsource_modules = nnaccel_core\nforbidden_modules = torch\n"
    )
    env = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run([str(program), "--no-cache"], cwd=tmp_path, capture_output=True, text=True, env=env)
    assert done.returncode == 1 and "BROKEN" in done.stdout


@pytest.mark.parametrize("package", ["nnaccel_core", *PLUGINS])
def test_package_is_a_real_one(package):
    """Run from the repository root, the package folder there must not shadow the package as an empty namespace."""
    code = f"import {package}; print({package}.__file__)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()).name == "__init__.py"


def test_metapackage_holds_no_logic():
    import nnaccel
    import nnaccel_core

    assert nnaccel.__all__ == nnaccel_core.__all__
    assert all(getattr(nnaccel, n) is getattr(nnaccel_core, n) for n in nnaccel.__all__)
    body = ast.parse((ROOT / "nnaccel/__init__.py").read_text()).body
    assert all(isinstance(s, (ast.ImportFrom, ast.Expr)) for s in body)
    assert [p.name for p in (ROOT / "nnaccel").glob("*.py")] == ["__init__.py"]


def test_extras_name_packages_that_exist():
    extras = project(".")["optional-dependencies"]
    named = {re.match(r"[\w-]+", r)[0].replace("-", "_") for rs in extras.values() for r in rs}
    assert named == set(PLUGINS)
    from nnaccel_core.hooks.manager import EXTRAS

    assert set(EXTRAS.values()) == set(extras)


@pytest.mark.parametrize("package", PACKAGES)
def test_metadata(package):
    meta = project(package)
    assert meta["name"].replace("-", "_") == package
    assert meta["requires-python"] == ">=3.10"
    names = {re.match(r"[\w-]+", r)[0] for r in meta["dependencies"]}
    if package == "nnaccel_core":
        assert names == {"numpy", "pluggy", "rich"}
    else:
        assert "nnaccel-core" in names
        assert not {p.replace("_", "-") for p in PLUGINS} & names, "no plug-in depends on another"


@pytest.mark.parametrize("package", PLUGINS)
def test_plugins_register_through_entry_points_alone(package):
    declared = project(package)["entry-points"]["nnaccel"]
    name = project(package)["name"]
    installed = {p.name: p.value for p in metadata.entry_points(group="nnaccel") if p.dist.metadata["Name"] == name}
    assert installed == declared, "the installed package is out of date; run: make test"
    plugin = importlib.import_module(next(iter(declared.values())))
    assert any(name.startswith("nnaccel_register_") for name in vars(plugin))
    for path in sources("nnaccel_core"):
        assert package not in path.read_text(), f"{path} names a plug-in"


@pytest.mark.parametrize("package", PACKAGES)
def test_importing_a_package_imports_no_framework(package):
    modules = [package] + ([f"{package}.plugin"] if package in PLUGINS else [])
    heavy = ("torch", "tensorflow", "onnx", "cupy", "rich")
    code = f"import sys, {', '.join(modules)}\nprint([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


@pytest.mark.parametrize("package", PACKAGES)
def test_typed_marker(package):
    assert (ROOT / package / "src" / package / "py.typed").exists()


def text_files() -> list[Path]:
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    command = ["git", "ls-files", "-co", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return [ROOT / n for n in listed.stdout.splitlines() if (ROOT / n).is_file()]


def test_no_registry_is_named():
    """Packages come from whatever the machine is set up to use."""
    # Put together here, so that this file does not name them either.
    parts = (("pypi", "org"), ("pythonhosted", "org"), ("deb", "debian", "org"), ("download", "pytorch", "org"))
    hosts = re.compile("|".join(re.escape(".".join(p)) for p in parts))
    for path in text_files():
        try:
            text = path.read_text()
        except UnicodeDecodeError:
            continue
        assert not hosts.search(text), f"{path} names a registry"


def test_source_files_stay_readable():
    """Long files are split; long lines are the linter's business."""
    for package in PACKAGES:
        for path in sources(package):
            lines = len(path.read_text().splitlines())
            assert lines <= 700, f"{path} has {lines} lines"
