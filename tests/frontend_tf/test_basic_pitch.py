"""A SavedModel with trained weights: Spotify's basic-pitch (Bittner et al. 2022) writes down a melody as TensorFlow does.

Of that package only the folder of the model is read: pip install --no-deps basic-pitch
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

tf = pytest.importorskip("tensorflow")

import nnaccel  # noqa: E402
from frontend_tf.devices import has_x86, optimized  # noqa: E402
from nnaccel_frontend_tf.function import load  # noqa: E402

#: What the network takes: about two seconds of sound, and what it tells: 88 piano keys from A0 (MIDI 21) on, 86 times a second.
RATE, SAMPLES, LOWEST = 22050, 43844, 21
#: MIDI numbers, half a second each.
MELODIES = ((60, 64, 67), (69, 62, 76))


def folder() -> Path:
    found = importlib.util.find_spec("basic_pitch")
    if found is None or not found.submodule_search_locations:
        pytest.skip("basic-pitch is not installed (pip install --no-deps basic-pitch)")
    return Path(found.submodule_search_locations[0]) / "saved_models" / "icassp_2022" / "nmp"


def sound(melody) -> np.ndarray:
    """Each note with six harmonics that die away, one after the other."""
    length = RATE // 2
    t = np.arange(length) / RATE
    out = np.zeros(SAMPLES)
    for k, midi in enumerate(melody):
        pitch = 440.0 * 2 ** ((midi - 69) / 12)
        tone = sum(np.sin(2 * np.pi * h * pitch * t) * 0.6**h for h in range(1, 7))
        out[2000 + k * length :][:length] = tone * np.exp(-3 * t) * np.minimum(1, t / 0.01) * 0.4
    return out.astype("f")[:, None]


def notes(posterior) -> list[tuple[int, int, int]]:
    """(key, first frame, last frame) of each run of six frames or more in which a key is more likely pressed than not."""
    found = []
    for key, likely in enumerate((np.asarray(posterior) > 0.5).T):
        edges = np.flatnonzero(np.diff(np.concatenate(([False], likely, [False])).astype(int)))
        found += [(key + LOWEST, int(a), int(b) - 1) for a, b in edges.reshape(-1, 2) if b - a >= 6]
    return sorted(found, key=lambda n: n[1])


@pytest.mark.parametrize("device", ["references", "cpu"])
def test_the_same_notes(device):
    path = folder()
    if device == "cpu" and not has_x86():
        pytest.skip("the x86 backend is not installed or can't run here")
    own = load(str(path))
    fast = nnaccel.optimize(str(path)) if device == "cpu" else optimized(str(path))
    batch = tf.constant(np.stack([sound(m) for m in MELODIES]))
    for given in (batch, batch[1:]):
        wanted = own.signatures["serving_default"](given)
        got = fast.signatures["serving_default"](given)
        assert set(got) == set(wanted)
        for name in wanted:
            np.testing.assert_allclose(got[name], wanted[name], rtol=1e-3, atol=1e-4)
        key = next(k for k in wanted if wanted[k].shape[-1] == 88 and notes(wanted[k][0]))
        for k in range(len(given)):
            assert notes(got[key][k]) == notes(wanted[key][k])
    heard = [{n for n, _, _ in notes(got_k)} for got_k in fast.signatures["serving_default"](batch)[key]]
    assert heard == [set(m) for m in MELODIES]
    report = next(iter(fast.signatures.values())).nnaccel_report()
    assert not report["own_calls"] and report["compiled_calls"] == 3, report
