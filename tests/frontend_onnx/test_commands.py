"""``nnaccel explain net.onnx`` and ``nnaccel bench --onnx net.onnx``."""

from __future__ import annotations

import json
from importlib.metadata import entry_points
from pathlib import Path

import numpy as np
import onnx
import onnx.helper as h
import pytest

from frontend_onnx.test_network import F, mlp, model
from nnaccel_frontend_onnx import explain
from nnaccel_frontend_onnx.arguments import Argument
from nnaccel_frontend_onnx.bench import command, runner
from nnaccel_frontend_onnx.feeds import made_up

pytest.importorskip("nnaccel_backend_x86", reason="needs the x86 backend")


@pytest.fixture
def mlp_file(tmp_path: Path) -> Path:
    path = tmp_path / "mlp.onnx"
    onnx.save(mlp()[0], path)
    return path


def image_file(folder: Path) -> Path:
    """Relu of images of any height and width."""
    kind = (F, ["N", 3, "height", "width"])
    path = folder / "image.onnx"
    onnx.save(model([h.make_node("Relu", ["x"], ["y"], name="act")], {"x": kind}, {"y": kind}), path)
    return path


def test_they_are_commands_of_the_package():
    points = {p.name: p for p in entry_points(group="nnaccel.commands")}
    if "explain.onnx" not in points:
        pytest.skip("the installed package is older than its pyproject.toml; run: make test")
    assert points["explain.onnx"].load() is explain.main and points["bench.onnx"].load() is command.main


def test_explain(mlp_file, tmp_path, capsys):
    assert explain.main([str(mlp_file), "--batch", "5"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("net on cpu") and "N=5" in out and "act" in out and "a call as a whole" in out
    np.save(tmp_path / "x.npy", np.ones((7, 6), "f"))
    assert explain.main([str(mlp_file), "--input", str(tmp_path / "x.npy"), "--html", str(tmp_path / "page.html")]) == 0
    assert "N=7" in (tmp_path / "page.html").read_text()


def test_explain_with_sizes_and_without(tmp_path, capsys):
    path = image_file(tmp_path)
    assert explain.main([str(path), "--size", "height=8"]) == 1
    assert "axis 3 of input 'x' has no fixed size: add --size width=N" in capsys.readouterr().err
    assert explain.main([str(path), "--size", "height=8", "--size", "x.3=9"]) == 0
    out = capsys.readouterr().out
    assert "height=8" in out and "width=9" in out
    for arguments, message in (
        (["--size", "height"], "write NAME=N"),
        (["--batch", "0"], "at least one sample"),
        (["--size", "height=8", "--size", "width=8", "--html", str(tmp_path / "no" / "page.html")], "can be written"),
    ):
        assert explain.main([str(path), *arguments]) == 1
        assert message in capsys.readouterr().err


def test_made_up_inputs():
    wanted = [
        Argument("a", (1, 3), "tensor(float)"), Argument("b", (None, 2), "tensor(int64)"),
        Argument("c", ("N", 1), "tensor(bool)"), Argument("d", (), "tensor(double)"),
    ]  # fmt: skip
    feeds = made_up(wanted, 4, {})
    assert [feeds[k].shape for k in "abcd"] == [(4, 3), (4, 2), (4, 1), ()]
    assert [feeds[k].dtype for k in "abcd"] == [np.float32, np.int64, np.bool_, np.float64]
    assert set(np.unique(feeds["b"])) <= {0, 1} and feeds["c"].all()


def test_bench(mlp_file, tmp_path, capsys):
    pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed")
    records = tmp_path / "records.jsonl"
    arguments = ["--onnx", str(mlp_file), "--batch", "3", "--peers", "onnxruntime,reference", "--json", str(records)]
    arguments += ["--calls", "6"]
    assert command.main(arguments) == 0
    out = capsys.readouterr().out
    assert "| mlp | 3 |" in out and "over onnxruntime: geometric mean" in out
    assert command.main([*arguments, "--calls", "0"]) == 0
    rows = [json.loads(line) for line in records.read_text().splitlines()]
    assert [(r["net"], r["batch"], r["impl"]) for r in rows] == [("mlp", 3, i) for i in ("onnxruntime", "reference", "nnaccel")]
    assert all(r["max_rel_err"] < 1e-5 and r["first_call_s"] > 0 and r["judge"] == "onnxruntime" for r in rows)


def test_results_are_compared_before_anything_is_timed(tmp_path):
    a, b = tmp_path / "a.npz", tmp_path / "b.npz"
    np.savez(b, **{"0": np.array([1.0, 4.0], "f"), "1": np.array([1, 2, 3, 4])})
    for values, want in (
        ((np.array([1, 4.4], "f"), np.array([1, 2, 3, 4])), 0.1),
        ((np.array([1, 4], "f"), np.array([1, 2, 3, 5])), 0.25),
        ((np.array([1, np.nan], "f"), np.array([1, 2, 3, 4])), np.inf),
        ((np.array([[1, 4]], "f"), np.array([1, 2, 3, 4])), np.inf),
        ((np.array([1, 4], "f"),), np.inf),
    ):
        np.savez(a, **{str(k): v for k, v in enumerate(values)})
        assert runner.largest_error(a, b) == pytest.approx(want, rel=1e-5)


def test_wrong_usage_of_bench(mlp_file, tmp_path, capsys):
    for arguments, message in (
        (["--onnx", str(mlp_file), "--peers", "fast"], "unknown fast; known: onnxruntime"),
        (["--onnx", str(tmp_path / "no.onnx")], "no.onnx"),
        (["--onnx", str(mlp_file), "--threads", "0"], "at least 1"),
        (["--onnx", str(mlp_file), "--json", str(mlp_file.with_name("other.jsonl"))], "holds no records"),
    ):
        mlp_file.with_name("other.jsonl").write_text('{"mine": 1}\n')
        assert command.main(arguments) == 2
        assert message in capsys.readouterr().err
