"""``nnaccel explain``: text and HTML from one data structure, and its refusals."""

from __future__ import annotations

import os
from html.parser import HTMLParser
from importlib.metadata import entry_points
from pathlib import Path

import pytest

import nnaccel_core
from nnaccel_core.cli.main import COMMANDS
from nnaccel_core.hooks import manager
from nnaccel_frontend_torch.explain import main

NET = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3)
        self.second = nn.Conv2d(8, 4, 3)
    def forward(self, x):
        x = torch.erfinv(self.first(x).sigmoid() * 0.5)  # "<left & to torch>"
        return self.second(x).relu()

def net():
    return Net(), (3, 12, 12)
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    try:
        manager.backend_for("cpu")
    except (nnaccel_core.DeviceError, nnaccel_core.ToolchainError, nnaccel_core.PluginError) as e:
        pytest.skip(f"no CPU backend here: {e}")
    (tmp_path / "explained_net.py").write_text(NET)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delenv("NNACCEL_BENCH_PRELUDE", raising=False)
    return tmp_path


class Page(HTMLParser):
    """Checks that elements are closed in order, and collects what a page shows and refers to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.shown: list[str] = []
        self.attributes: set[str] = set()
        self.tags: set[str] = set()
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.shown.append(data)


def test_it_is_a_command_of_the_package() -> None:
    (point,) = entry_points(group=COMMANDS, name="explain")
    assert point.load() is main


def test_text(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explained_net:net", "--batch", "3"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("Net on cpu")
    assert "first [conv" in out or "first, " in out
    assert "second" in out
    assert "left to the framework" in out
    assert "erfinv" in out
    assert "N=3" in out or "in all:" in out


def test_html_tells_the_same_and_loads_nothing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = folder / "page.html"
    assert main(["explained_net:net", "--html", str(target)]) == 0
    assert str(target) in capsys.readouterr().out
    text = target.read_text()
    page = Page(text)
    shown = " ".join(page.shown)
    for part in ("Net on cpu", "in all:", "first", "second", "erfinv", "left to the framework", "compute"):
        assert part in shown
    assert not page.tags & {"script", "link", "img", "iframe"}
    assert not page.attributes & {"src", "href", "onclick"}
    assert "url(" not in text and "@import" not in text
    assert len(text) < 50_000


def test_names_are_escaped() -> None:
    from nnaccel_core.api import Machine
    from nnaccel_core.driver.report import Explanation, GroupReport, ProgramReport, SegmentReport

    machine = Machine("x86", "<b>", "avx2", 2, 32, 1 << 15, 1 << 19, 1 << 22, 1e11, 1e10)
    chosen, lost = 'x86: "fast" & good', ("core: <slow>",)
    group = GroupReport(("a<script>",), ("conv", "relu"), "compute", chosen, lost, 1e-3, None, 1 << 20, 1)
    segment = SegmentReport("main", {"N": 2}, False, (group,), 10, 10, 10)
    program = ProgramReport("traced", (segment,), (("layer<1>", "no & mapping"),), 0)
    made = Explanation("Net", "cpu", machine, ("a <note>",), (program,))
    page = Page(made.html())
    assert page.tags.isdisjoint({"script", "slow", "note"})
    shown = "".join(page.shown)
    for part in ("a<script>", 'x86: "fast" & good', "core: <slow>", "layer<1>", "a <note>", "1.00 ms", "1.00 MiB"):
        assert part in shown
        assert part in made.text()


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["explained_net:missing"], "network explained_net:missing"),
        (["explained_net:net", "--batch", "0"], "at least one sample"),
        (["explained_net:net", "--device", "abacus"], "abacus"),
        (["explained_net:net", "--html", "no/such/folder/page.html"], "can be written"),
    ],
)
def test_refusals_say_what_to_do(folder: Path, args: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(args) == 1
    assert said in capsys.readouterr().err


def test_a_prelude_that_is_not_there(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("NNACCEL_BENCH_PRELUDE", os.fspath(folder / "none.py"))
    assert main(["explained_net:net"]) == 1
    assert "NNACCEL_BENCH_PRELUDE" in capsys.readouterr().err
