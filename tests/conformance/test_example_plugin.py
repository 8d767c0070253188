"""The example plug-in: as a third party's package in a fresh environment, and as docs/plugins.md shows it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import textwrap
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "plugin_interpreter"
PAGE = ROOT / "docs" / "plugins.md"

PROGRAM = """
import torch, nnaccel_core
from nnaccel_core.hooks import manager

class Shrink(torch.nn.Module):
    def forward(self, x):
        return x - x.clamp(-0.25, 0.25)

net = torch.nn.Sequential(torch.nn.Linear(4, 3), Shrink()).eval()
fast = nnaccel_core.optimize(net, device="interp", verify=True)
x = torch.randn(2, 4)
with torch.no_grad():
    torch.testing.assert_close(fast(x), net(x))
assert [p.package for p in manager.list_plugins() if p.name == "interpreter"] == ["nnaccel-plugin-interpreter"]
print(nnaccel_core.explain(fast, x))
"""


def check_output(text: str) -> None:
    assert "Sequential on interp (loop interpreter, none" in text
    assert "soft_threshold" in text and "captured: traced" in text


def test_it_is_found_by_entry_point_and_used_by_torch(tmp_path):
    """The package as `pip` would leave it on ``sys.path``, without `pip`."""
    pytest.importorskip("torch")
    info = tmp_path / "nnaccel_plugin_interpreter-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: nnaccel-plugin-interpreter\nVersion: 0.1.0\n")
    declared = re.search(r"\[project\.entry-points\.nnaccel\]\n(.*?)\n\n", (EXAMPLE / "pyproject.toml").read_text(), re.DOTALL)
    (info / "entry_points.txt").write_text("[nnaccel]\n" + declared[1].replace('"', "") + "\n")
    path = os.pathsep.join([str(tmp_path), str(EXAMPLE / "src"), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-W", "error::UserWarning", "-c", PROGRAM]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path}, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    check_output(done.stdout)


@pytest.mark.install
def test_it_installs_into_a_fresh_environment_and_passes_its_own_tests(tmp_path):
    pytest.importorskip("torch")
    source = tmp_path / "source"
    shutil.copytree(EXAMPLE, source, ignore=shutil.ignore_patterns("build", "*.egg-info", "__pycache__"))
    venv.create(tmp_path / "env", with_pip=False)
    python = tmp_path / "env/bin/python"
    # torch and our packages are read from this environment; nothing is downloaded.
    site = tmp_path / "env/lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    (site / "existing.pth").write_text(f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n")

    def run(*arguments: str) -> str:
        done = subprocess.run([str(python), *arguments], capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    before = subprocess.run([str(python), "-c", PROGRAM], capture_output=True, text=True, cwd=tmp_path)
    assert "DeviceError: no backend for device 'interp'" in before.stderr
    run("-m", "pip", "install", "-q", "--disable-pip-version-check", "--no-deps", "--no-build-isolation", str(source))
    assert "nnaccel-plugin-interpreter" in run("-m", "nnaccel_core.cli", "plugins")
    check_output(run("-c", PROGRAM))
    assert " passed" in run("-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(source), str(source / "tests"))


def walkthrough() -> list[str]:
    """The Python blocks of the page's walk through the example."""
    text = PAGE.read_text().split("## A plug-in, step by step", 1)[1].split("\n## ", 1)[0]
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


def test_the_page_shows_the_code_that_is_tested():
    sources = [p.read_text() for p in [*EXAMPLE.rglob("*.py"), EXAMPLE / "README.md"]]
    blocks = walkthrough()
    assert len(blocks) >= 5
    for block in blocks:
        pieces = [piece.rstrip() for piece in re.split(r"^ *\.\.\.\n", block, flags=re.MULTILINE) if piece.strip()]
        for piece in pieces:
            assert any(piece in s or textwrap.indent(piece, "    ") in s for s in sources), f"not in the example:\n{piece}"
