"""Debug levels and dumps."""

from __future__ import annotations

import pytest

from nnaccel_core import debug
from nnaccel_core.errors import NnaccelError


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    monkeypatch.delenv("NNACCEL_DEBUG", raising=False)
    monkeypatch.delenv("NNACCEL_DUMP", raising=False)


def never() -> str:
    raise AssertionError("text made though nobody sees it")


def test_off(capsys, tmp_path):
    assert debug.level() == 0 and not debug.enabled(1)
    debug.log(1, never)
    assert debug.dump("graph", "g", never) is None
    debug.dump_pass("p", Unprintable(), Unprintable())
    assert capsys.readouterr().err == ""


class Unprintable:
    def __str__(self) -> str:
        return never()


def test_levels(monkeypatch, capsys):
    monkeypatch.setenv("NNACCEL_DEBUG", "3")
    debug.log(3, "shown")
    debug.log(4, never)
    debug.dump("graph", "fold", lambda: "graph text")
    debug.dump("code", "kernel.ispc", never)
    debug.dump("nest", "conv", never)
    err = capsys.readouterr().err
    assert err == "nnaccel[3] shown\nnnaccel[3] graph fold: \ngraph text\n"


@pytest.mark.parametrize("text", ["6", "-1", "yes", "1.5"])
def test_wrong_level(monkeypatch, text):
    monkeypatch.setenv("NNACCEL_DEBUG", text)
    with pytest.raises(NnaccelError, match="is not a debug level"):
        debug.level()


def test_dump_files_are_numbered_whatever_the_level(monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("NNACCEL_DUMP", str(tmp_path / "new" / "folder"))
    one = debug.dump("graph", "before", "text one")
    two = debug.dump("code", "conv 3x3/relu.ispc", lambda: "text two\n")
    debug.log(5, "a refusal")
    assert [one.name, two.name] == ["0001-graph-before.txt", "0002-code-conv_3x3_relu.ispc"]
    assert one.read_text() == "text one\n" and two.read_text() == "text two\n"
    assert (one.parent / "log.txt").read_text() == "[5] a refusal\n"
    assert capsys.readouterr().err == ""


def test_dump_is_named_on_stderr_at_its_level(monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("NNACCEL_DUMP", str(tmp_path))
    monkeypatch.setenv("NNACCEL_DEBUG", "4")
    path = debug.dump("code", "k.c", "int x;")
    assert capsys.readouterr().err == f"nnaccel[4] code k.c: wrote {path}\n"


def test_dump_pass(monkeypatch, tmp_path):
    monkeypatch.setenv("NNACCEL_DUMP", str(tmp_path))
    debug.dump_pass("fold", "a\nb", "a\nc")
    debug.dump_pass("same_object", tmp_path, tmp_path)
    debug.dump_pass("same_text", "x", "x")
    texts = [p.read_text() for p in sorted(tmp_path.glob("0*"))]
    assert texts[0].startswith("a\nc\n") and "\n-b\n+c\n" in texts[0]
    assert texts[1:] == ["(unchanged)\n", "(unchanged)\n"]


def test_unwritable_folder_is_told_once(monkeypatch, capsys, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("NNACCEL_DUMP", str(tmp_path / "file" / "sub"))
    assert debug.dump("graph", "a", "x") is None and debug.dump("graph", "b", "x") is None
    assert capsys.readouterr().err.count("dumps are lost") == 1
