"""The demo: its photos, its clock, and the whole program."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

pytest.importorskip("nnaccel_demo", reason="the demo is not installed; run: make demo")
pytest.importorskip("efficientnet_lite_pytorch")


def test_photos_are_prepared_as_the_network_expects():
    from nnaccel_demo.photos import photos

    images = photos()
    assert list(images) == ["cat", "coffee", "rocket"]
    for image in images.values():
        assert image.shape == (1, 3, 224, 224) and image.is_contiguous()
        assert -1 <= float(image.min()) < 0 < float(image.max()) <= 1


def test_class_names():
    from nnaccel_demo.photos import class_name

    assert (class_name(0), class_name(967), class_name(999)) == ("tench", "espresso", "toilet tissue")


def test_the_network_knows_the_photos():
    """Weights, preparation and names fit together: wrong ones would not recognize an espresso."""
    import torch

    from nnaccel_demo.__main__ import load_network
    from nnaccel_demo.photos import class_name, photos

    with torch.no_grad():
        scores = torch.softmax(load_network()(photos()["coffee"])[0], 0)
    assert class_name(int(scores.argmax())) == "espresso" and float(scores.max()) > 0.9


def test_interleaved_times_take_turns():
    from nnaccel_demo.timing import interleaved

    order: list[str] = []
    times = interleaved([lambda: order.append("a"), lambda: order.append("b")], calls=4, block=2, warmup=1)
    assert "".join(order) == "aaabbb" * 2 and all(0 <= t < 0.1 for t in times)


@pytest.mark.slow
def test_demo_gives_the_same_top_five():
    done = subprocess.run([sys.executable, "-m", "nnaccel_core.cli", "demo", "--calls", "5"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("same top 5") == 3 and "espresso" in done.stdout
    assert len(re.findall(r"\d\.\d\d x", done.stdout)) == 4
