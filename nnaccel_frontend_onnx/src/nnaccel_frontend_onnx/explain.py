"""The command ``nnaccel explain net.onnx``: what becomes of an ONNX network, as text or as an HTML page."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from nnaccel_core.errors import InputError, NnaccelError
from nnaccel_frontend_onnx.feeds import add_input, add_sizes, made_up, read_feeds, sizes_given


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``nnaccel explain``."""
    parser.add_argument("model", type=Path, help="an ONNX file")
    add_input(parser)
    add_sizes(parser)
    parser.add_argument("--device", default="cpu", help="where to run (default cpu)")
    parser.add_argument("--numerics", default="fast", choices=["fast", "strict"], help="as of nnaccel.optimize")
    parser.add_argument("--html", type=Path, help="write an HTML page here instead of printing text")


def run(args: argparse.Namespace) -> int:
    """Explain one network; returns the exit status.

    Raises:
        NnaccelError: the model, an input or the device is at fault, or the page cannot be written.
    """
    import nnaccel_core

    if args.batch < 1:
        raise InputError(f"--batch {args.batch}: at least one sample is needed")
    network = nnaccel_core.optimize(str(args.model), device=args.device, numerics=args.numerics)
    inputs, sizes = network.inputs, sizes_given(args.size)
    feeds = read_feeds(inputs, network.name, args.input) if args.input else made_up(inputs, args.batch, sizes)
    if not feeds:
        network.run(None, feeds)
    first = [feeds.pop(a.name) for a in inputs]
    explanation = nnaccel_core.explain(network, *first, **feeds)
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
    """``nnaccel explain MODEL.onnx``; returns the exit status (0 success, 1 something is wrong, 2 wrong usage)."""
    parser = argparse.ArgumentParser(prog="nnaccel explain", description="what becomes of an ONNX network and why")
    add_arguments(parser)
    try:
        return run(parser.parse_args(argv))
    except NnaccelError as e:
        print(f"nnaccel explain: {e}", file=sys.stderr)
        return 1
