"""The command ``nnaccel explain``: what becomes of a torch network, as text or as an HTML page."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from nnaccel_core.errors import InputError, NnaccelError
from nnaccel_frontend_torch.bench import nets


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``nnaccel explain``."""
    parser.add_argument("net", help="torchvision's name, or module:callable giving a module or (module, shape of a sample)")
    parser.add_argument("--batch", type=int, default=1, help="samples of the random input (default 1)")
    parser.add_argument("--device", default="cpu", help="where to run (default cpu)")
    parser.add_argument("--numerics", default="fast", choices=["fast", "strict"], help="as of nnaccel.optimize")
    parser.add_argument("--html", type=Path, help="write an HTML page here instead of printing text")


def run(args: argparse.Namespace) -> int:
    """Explain one network; returns the exit status.

    Raises:
        NnaccelError: there is no such network or device, or the page cannot be written.
    """
    import torch

    import nnaccel_core

    if args.batch < 1:
        raise InputError(f"--batch {args.batch}: at least one sample is needed")
    nets.prelude()
    network = nets.load(args.net)
    fast = nnaccel_core.optimize(network.module, device=args.device, numerics=args.numerics)
    x = nets.sample(network, args.batch).to(args.device)
    with torch.no_grad():
        explanation = nnaccel_core.explain(fast, x)
    if args.html is None:
        print(explanation)
        return 0
    try:
        args.html.write_text(explanation.html(), encoding="utf-8")
    except OSError as e:
        raise InputError(f"--html {args.html}: {e.strerror}; give a file in a folder that can be written") from e
    print(f"wrote {args.html}")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """``nnaccel explain NET``; returns the exit status (0 success, 1 something is wrong, 2 wrong usage)."""
    parser = argparse.ArgumentParser(prog="nnaccel explain", description="what becomes of a network and why")
    add_arguments(parser)
    sys.path.insert(0, "")  # module:callable of the folder one stands in, as with python -m
    try:
        return run(parser.parse_args(argv))
    except NnaccelError as e:
        print(f"nnaccel explain: {e}", file=sys.stderr)
        return 1
