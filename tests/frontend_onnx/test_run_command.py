"""``nnaccel run MODEL``: arrays from files, results into files, errors that say which file and why."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="the ONNX frontend's tests need onnx")
pytest.importorskip("nnaccel_backend_x86", reason="needs the x86 backend")

from onnx import TensorProto, helper  # noqa: E402

from nnaccel_frontend_onnx.run import main  # noqa: E402


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """``sum = a + b``, ``product = a * b`` on float32[N, 3]."""
    a, b = (helper.make_tensor_value_info(n, TensorProto.FLOAT, ["N", 3]) for n in "ab")
    outs = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["N", 3]) for n in ("sum", "product")]
    nodes = [helper.make_node("Add", ["a", "b"], ["sum"]), helper.make_node("Mul", ["a", "b"], ["product"])]
    path = tmp_path / "net.onnx"
    onnx.save(helper.make_model(helper.make_graph(nodes, "net", [a, b], outs)), path)
    return path


A, B = np.arange(6, dtype=np.float32).reshape(2, 3), np.full((2, 3), 2, np.float32)


def test_arrays_by_order_by_name_and_from_one_file(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b, both, out = (tmp_path / n for n in ("a.npy", "b.npy", "both.npz", "y.npz"))
    np.save(a, A)
    np.save(b, B)
    np.savez(both, b=B, a=A)
    for given in ([a, b], [f"b={b}", a], [both]):
        arguments = [str(model), *(x for g in given for x in ("--input", str(g))), "--output", str(out), "--repeat", "3"]
        assert main(arguments) == 0
        with np.load(out) as found:
            np.testing.assert_array_equal(found["sum"], A + B)
            np.testing.assert_array_equal(found["product"], A * B)
        out.unlink()
    text = capsys.readouterr().out
    assert "sum: float32[2, 3]" in text and "shortest of 3" in text


def test_errors_name_the_file_and_what_is_wanted(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, text = tmp_path / "a.npy", tmp_path / "text.npy"
    np.save(a, A)
    text.write_text("no array")
    cases = {
        (str(model),): "needs a (tensor(float) ['N', 3]), b (tensor(float) ['N', 3])",
        (str(model), "--input", str(tmp_path / "none.npy")): "none.npy: No such file",
        (str(model), "--input", str(text)): "is no .npy or .npz file",
        (str(model), "--input", f"a={a}", "--input", f"a={a}"): "input 'a' is given twice",
        (str(model), *("--input", str(a)) * 3): "takes 2 inputs (a, b)",
        (str(model), *("--input", str(a)) * 2, "--output", str(tmp_path / "y.npy")): "2 results go into an .npz file",
        (str(model), *("--input", str(a)) * 2, "--output", str(tmp_path / "no" / "y.npz")): "folder that can be written",
        (str(model), *("--input", str(a)) * 2, "--repeat", "0"): "at least one call",
        (str(tmp_path / "no.onnx"),): "no.onnx",
    }
    for arguments, wanted in cases.items():
        assert main(arguments) == 1, arguments
        assert wanted in capsys.readouterr().err, arguments


def test_names_that_the_network_does_not_have(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a = tmp_path / "a.npy"
    np.save(a, A)
    assert main([str(model), "--input", f"a={a}", "--input", f"b={a}", "--input", f"c={a}"]) == 1
    assert "'c'" in capsys.readouterr().err
