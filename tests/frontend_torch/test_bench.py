"""``nnaccel bench``: records, resuming, memory, plots."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from nnaccel_frontend_torch.bench import command, report, runner
from nnaccel_frontend_torch.bench.runner import Record, Settings, turns

NET = """
import torch
from torch import nn

def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(8), nn.Flatten(), nn.Linear(512, 10)), (3, 64, 64)
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "bench_user_net.py").write_text(NET)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def test_records_memory_and_resuming(folder, capsys, monkeypatch):
    out = folder / "r.jsonl"
    args = ["--nets", "bench_user_net:net", "--batch", "16", "--calls", "5", "--memory", "--json", str(out)]
    assert command.main([*args, "--peers", "eager"]) == 0
    eager, ours = records = [json.loads(line) for line in out.read_text().splitlines()]
    assert [r["impl"] for r in records] == ["eager", "nnaccel"]
    for r in records:
        assert r["net"] == "bench_user_net:net" and r["batch"] == 16 and r["calls"] >= 5 and r["mode"] == "predict"
        assert 0 < r["ms_low"] <= r["ms"] <= r["ms_high"] and r["first_call_s"] > 0
        assert r["max_rel_err"] < 1e-5 and not r["error"]
        assert r["parameter_bytes"] == 4 * (8 * 27 + 8 + 5130)
    assert eager["peak_bytes"] >= 2 * 4 * 16 * 8 * 64 * 64 > ours["peak_bytes"] > 0
    text = capsys.readouterr().out
    assert "over eager: geometric mean" in text
    # A second run leaves out what is there, and keeps it.
    monkeypatch.setattr(runner, "run_case", lambda *a: pytest.fail("ran again"))
    assert command.main([*args, "--peers", "eager", "--resume"]) == 0
    assert out.read_text().splitlines() == [json.dumps(r) for r in records]


def test_without_calls_only_memory(folder, capsys):
    out = folder / "m.jsonl"
    args = ["--nets", "bench_user_net:net", "--batch", "64", "--calls", "0", "--memory", "--json", str(out)]
    assert command.main([*args, "--peers", "eager,nnaccel-whole"]) == 0
    found = {r.impl: r for r in runner.read_records(out)}
    assert all(r.ms is None and r.peak_bytes for r in found.values())
    text = capsys.readouterr().out
    assert "peak / eager's" in text and "over eager" not in text
    assert found["nnaccel"].peak_bytes <= found["nnaccel-whole"].peak_bytes < found["eager"].peak_bytes


def test_a_failing_network_is_reported(folder, capsys):
    assert command.main(["--nets", "bench_user_net:missing", "--batch", "1", "--peers", "eager"]) == 2
    assert "missing" in capsys.readouterr().err
    assert command.main(["--peers", "tensorrt"]) == 2
    assert "unknown peers tensorrt; known: eager" in capsys.readouterr().err


def test_several_runs_give_an_interval(folder, capsys):
    out = folder / "runs.jsonl"
    args = ["--nets", "bench_user_net:net", "--batch", "2", "--calls", "4", "--runs", "3", "--peers", "eager", "--json", str(out)]
    assert command.main(args) == 0
    for r in runner.read_records(out):
        assert len(r.run_ms) == 3 and r.ms == sorted(r.run_ms)[1] and r.calls >= 12
    assert "over the best peer, batch 2: geometric mean" in capsys.readouterr().out
    base = {"device": "cpu", "dtype": "float32", "mode": "predict", "threads": 2}
    records = [
        Record("a", 1, impl="eager", ms=8.0, run_ms=[8.0, 7.0, 9.0], **base),
        Record("a", 1, impl="openvino", ms=6.0, run_ms=[6.0, 8.0, 5.0], **base),
        Record("a", 1, impl="nnaccel", ms=4.0, run_ms=[4.0, 4.0, 5.0], **base),
    ]
    assert str(report.over_best(records)["a", 1]) == "1.50 [1.00, 1.75]"
    assert "| 1.50 [1.00, 1.75] |" in report.markdown(records)
    assert "batch 1: geometric mean 1.50, least 1.50 [1.00, 1.75] (a)" in report.markdown(records)


def test_turns_by_duration():
    s = Settings(threads=2)
    assert turns(s, [1.0, 20.0]) == (6, 2)
    assert turns(s, [1.0, 900.0]) == (4, 1)
    assert turns(s, [6000.0]) == (3, 1)
    assert turns(Settings(threads=2, rounds=1), [6000.0]) == (1, 1)


def test_tables_and_plots(tmp_path):
    base = {"device": "cpu", "dtype": "float32", "mode": "predict", "threads": 2}
    records = [
        Record("a", 1, impl="eager", ms=8.0, max_rel_err=1e-6, peak_bytes=1 << 20, parameter_bytes=1 << 20, **base),
        Record("a", 1, impl="nnaccel", ms=2.0, max_rel_err=2e-6, peak_bytes=1 << 18, parameter_bytes=1 << 20, **base),
        Record("b", 1, impl="eager", ms=1.0, max_rel_err=1e-6, **base),
        Record("b", 1, impl="nnaccel", ms=2.0, max_rel_err=1e-6, **base),
        Record("b", 1, impl="openvino", error="no", **base),
    ]
    table = report.markdown(records)
    assert "| a | 1 | 8.00 | 2.00 | - | 4.00 | 4.00 | 2.00 |" in table
    assert "| b | 1 | 1.00 | 2.00 | failed | 0.50 | 0.50 | 1.00 |" in table
    assert "over eager: geometric mean 1.41, least 0.50 (b, batch 1)" in table
    assert "failed: openvino on b batch 1: no" in table
    memory = report.memory_table([replace(r, ms=None, prepared_bytes=1 << 19) for r in records[:2]])
    assert memory.splitlines()[2] == "| a | 1 | 1.0 | 0.2 | 0.25 | 0.50 |"
    pytest.importorskip("matplotlib", reason="plots need matplotlib")
    for name, draw in (("t.png", report.plot), ("m.png", report.plot_memory)):
        draw(records, tmp_path / name)
        assert (tmp_path / name).stat().st_size > 5000
