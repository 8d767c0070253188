"""The command line of ``nnaccel bench``."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from nnaccel_core.errors import InputError, NnaccelError
from nnaccel_frontend_torch.bench import nets, report, runner
from nnaccel_frontend_torch.bench.peers import PEERS, PREDICT_ONLY

DEFAULT_PEERS = "eager,channels_last,inductor,onnxruntime,openvino"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``nnaccel bench``."""
    parser.add_argument(
        "--nets", default="resnet18", help="torchvision names or module:callable, comma separated; 'all' for the 24"
    )
    parser.add_argument("--batch", default="1,16", help="batch sizes, comma separated")
    parser.add_argument("--peers", default=DEFAULT_PEERS, help=f"of {', '.join(PEERS)}; '' for none")
    parser.add_argument("--device", default="cpu", choices=["cpu"], help="where to run")
    parser.add_argument("--dtype", default="float32", choices=["float32"], help="element type")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="threads of every implementation")
    parser.add_argument("--calls", type=int, default=24, help="timed calls of every implementation; 0 times nothing")
    parser.add_argument("--runs", type=int, default=1, help="how many times to do so; ratios are then given with an interval")
    parser.add_argument("--train", action="store_true", help="time training steps: forward, backward and the optimizer's")
    parser.add_argument("--memory", action="store_true", help="also measure peak memory of intermediates")
    parser.add_argument("--json", type=Path, help="write one JSON record per line here (appended to an existing file's records)")
    parser.add_argument("--resume", action="store_true", help="leave out the cases that --json's file holds already")
    parser.add_argument("--plot", type=Path, help="draw times and speed-ups into this file (.png, .svg, .pdf)")
    parser.add_argument("--log", type=Path, help="keep what the workers print here")


def _names(text: str) -> list[str]:
    return [t.strip() for t in text.split(",") if t.strip()]


def _result(r: runner.Record) -> str:
    if r.error:
        return "failed"
    return f"{r.ms:.2f} ms" if r.ms else f"{(r.peak_bytes or 0) / 2**20:.1f} MiB"


def run(args: argparse.Namespace) -> int:
    """Run the benchmark; returns the exit code (1 when an implementation of ours failed)."""
    chosen = list(nets.VARIANTS) if args.nets == "all" else _names(args.nets)
    impls = [*_names(args.peers)]
    if report.OURS not in impls:
        impls.append(report.OURS)
    unknown = [i for i in impls if i not in PEERS]
    if unknown:
        raise InputError(f"unknown peers {', '.join(unknown)}; known: {', '.join(PEERS)}")
    try:
        batches = [int(b) for b in _names(args.batch)]
    except ValueError as e:
        raise InputError(f"--batch {args.batch}: {e}") from e
    if args.train:
        refused = [i for i in impls if i in PREDICT_ONLY]
        if refused and args.peers != DEFAULT_PEERS:
            raise InputError(f"{', '.join(refused)} cannot train; leave them out of --peers")
        impls = [i for i in impls if i not in PREDICT_ONLY]
    settings = runner.Settings(args.threads, args.calls, runs=args.runs, memory=args.memory, train=args.train, log=args.log)
    records = runner.read_records(args.json) if args.json and args.json.exists() else []
    shown = sys.stderr.isatty()

    def say(text: str) -> None:
        if shown:
            print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)

    for net in chosen:
        for batch in batches:
            if args.resume and set(impls) <= {r.impl for r in records if (r.net, r.batch, r.mode) == (net, batch, settings.mode)}:
                continue
            new = runner.run_case(net, batch, impls, settings, say)
            ours = {(r.net, r.batch, r.impl, r.mode) for r in new}
            records = [r for r in records if (r.net, r.batch, r.impl, r.mode) not in ours] + new
            if args.json:
                runner.write_records(records, args.json)
            line = ", ".join(f"{r.impl} {_result(r)}" for r in new)
            say("")
            print(f"{net} batch {batch}: {line}", flush=True)
    timed = any(r.ms or r.error for r in records)
    if timed:
        print(report.markdown(records))
    if args.memory:
        print(report.memory_table(records))
    if args.plot:
        if timed:
            report.plot(records, args.plot)
        if args.memory:
            report.plot_memory(records, args.plot.with_stem(args.plot.stem + "-memory"))
    return 1 if any(r.error for r in records if r.impl.startswith(report.OURS)) else 0


def main(argv: Sequence[str] | None = None) -> int:
    """``python -m nnaccel_frontend_torch.bench``."""
    parser = argparse.ArgumentParser(prog="nnaccel bench", description="time networks against the framework and its peers")
    add_arguments(parser)
    try:
        return run(parser.parse_args(argv))
    except NnaccelError as e:
        print(f"nnaccel bench: {e}", file=sys.stderr)
        return 2
