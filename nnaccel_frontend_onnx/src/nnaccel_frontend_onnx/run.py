"""The command ``nnaccel run``: an ONNX network on arrays from files."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nnaccel_core.errors import InputError, NnaccelError
from nnaccel_frontend_onnx.feeds import add_input, read_feeds


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``nnaccel run``."""
    parser.add_argument("model", type=Path, help="an ONNX file")
    add_input(parser)
    parser.add_argument("--output", type=Path, metavar="FILE", help="where results go: .npz by name, or .npy for a single one")
    parser.add_argument("--device", default="cpu", help="where to run (default cpu)")
    parser.add_argument("--repeat", type=int, default=1, metavar="N", help="call N times and print the shortest time")


def write_results(path: Path, names: Sequence[str], results: Sequence[Any]) -> None:
    """Save the results.

    Raises:
        InputError: the file's ending does not fit, or it cannot be written.
    """
    if path.suffix not in (".npz", ".npy") or (path.suffix == ".npy" and len(results) != 1):
        kinds = "an .npz or .npy file" if len(results) == 1 else "an .npz file"
        raise InputError(f"--output {path}: {len(results)} results go into {kinds}")
    for name, result in zip(names, results, strict=True):
        if not isinstance(result, np.ndarray):
            raise InputError(f"--output {path}: {name!r} is a {type(result).__name__}, which such files do not hold")
    try:
        if path.suffix == ".npy":
            np.save(path, results[0])
        else:
            np.savez(path, **dict(zip(names, results, strict=True)))
    except OSError as e:
        raise InputError(f"--output {path}: {e.strerror or e}; give a file in a folder that can be written") from e


def run(args: argparse.Namespace) -> int:
    """Run one network; returns the exit status.

    Raises:
        NnaccelError: the model, an input, the device or the output is at fault; says which.
    """
    import nnaccel_core

    if args.repeat < 1:
        raise InputError(f"--repeat {args.repeat}: at least one call is needed")
    network = nnaccel_core.optimize(str(args.model), device=args.device)
    feeds = read_feeds(network.inputs, network.name, args.input)
    started = time.perf_counter()
    results = network.run(None, feeds)
    first = time.perf_counter() - started
    shortest = first
    for _ in range(args.repeat - 1):
        started = time.perf_counter()
        results = network.run(None, feeds)
        shortest = min(shortest, time.perf_counter() - started)
    names = [a.name for a in network.outputs]
    for name, result in zip(names, results, strict=True):
        kind = f"{result.dtype}{list(result.shape)}" if isinstance(result, np.ndarray) else type(result).__name__
        print(f"{name}: {kind}")
    more = f", shortest of {args.repeat} {shortest * 1e3:.2f} ms" if args.repeat > 1 else ""
    print(f"first call {first * 1e3:.1f} ms{more}")
    if args.output is not None:
        write_results(args.output, names, results)
        print(f"wrote {args.output}")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """``nnaccel run MODEL``; returns the exit status (0 success, 1 something is wrong, 2 wrong usage)."""
    parser = argparse.ArgumentParser(prog="nnaccel run", description="run an ONNX network on arrays from files")
    add_arguments(parser)
    try:
        return run(parser.parse_args(argv))
    except NnaccelError as e:
        print(f"nnaccel run: {e}", file=sys.stderr)
        return 1
