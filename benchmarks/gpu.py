"""Prediction on an NVIDIA GPU against PyTorch's own ways: one process a network, all sides in one run.

    python3 benchmarks/gpu.py OUT --nets resnet50 ... --batches 1 128 [--peers eager last graphed inductor] [--dtype bfloat16]

Every side is warmed up, then timed call by call with CUDA events, in blocks that take turns; the figure is the median of at least
20 calls. Errors are relative to float64 on the same GPU, in the 2-norm. TF32 is on for convolutions and products alike.
``--prewarm`` first fills Inductor's own disk cache, several networks at a time; the seconds until a side is ready are then not
those of a cold start.
Writes ``gpu.jsonl`` (a line for each network, batch and side) and ``gpu.md`` (a table) into OUT.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

NETS = (
    "alexnet", "densenet121", "inception_v3", "mobilenet_v2", "resnet18", "resnet50", "squeezenet1_1", "vgg16", "vgg16_bn",
)  # fmt: skip
# Inductor before our own CUDA graph: it drops the workspaces of cuBLAS, which a graph captured earlier goes on using.
PEERS = ("eager", "last", "inductor", "graphed")
BLOCKS, CALLS = 6, 5


def make(name: str) -> Any:
    """The network of torchvision, in evaluation mode, with batch-norm statistics as a trained network's might be."""
    import torch
    import torchvision

    torch.manual_seed(0)
    kwargs = {"init_weights": True} if name == "inception_v3" else {}
    net = getattr(torchvision.models, name)(weights=None, **kwargs).eval()
    if name == "inception_v3":
        net.aux_logits, net.AuxLogits = False, None
    for m in net.modules():
        if isinstance(m, torch.nn.BatchNorm2d):
            m.running_mean.normal_(0, 0.1)
            m.running_var.uniform_(0.5, 1.5)
    return net


def sides(net: Any, x: Any, peers: list[str]) -> dict[str, Callable[[Any], Any]]:
    """The ways to run ``net``, made ready for ``x``; each with its first calls behind it."""
    import torch

    import nnaccel

    found: dict[str, Callable[[Any], Any]] = {}
    for name in [*peers, "nnaccel"]:
        started = time.perf_counter()
        mine = copy.deepcopy(net)
        if name == "nnaccel":
            fast = nnaccel.optimize(mine, device="cuda")
            found[name] = fast
            run = fast
        elif name == "eager":
            run = found[name] = mine
        elif name == "last":
            last = mine.to(memory_format=torch.channels_last)
            run = found[name] = lambda t, last=last: last(t.to(memory_format=torch.channels_last))
        elif name == "graphed":
            run = found[name] = graphed(mine.to(memory_format=torch.channels_last), x)
        else:
            run = found[name] = torch.compile(mine.to(memory_format=torch.channels_last), mode="reduce-overhead")
        for _ in range(4):
            run(x)
        torch.cuda.synchronize()
        seconds = time.perf_counter() - started
        print(f"  {name}: ready after {seconds:.1f} s", flush=True)
        ready[name] = seconds
    return found


ready: dict[str, float] = {}


def graphed(net: Any, x: Any) -> Callable[[Any], Any]:
    """A CUDA graph of the channels-last network with its input copied in and its result copied out."""
    import torch

    static = x.to(memory_format=torch.channels_last).clone(memory_format=torch.channels_last)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            net(static)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = net(static)

    def run(t: Any) -> Any:
        static.copy_(t)
        graph.replay()
        return out.clone()

    return run


def times(found: dict[str, Callable[[Any], Any]], x: Any) -> dict[str, list[float]]:
    """Milliseconds of each call, sides taking turns in blocks."""
    import torch

    out: dict[str, list[float]] = {name: [] for name in found}
    for _ in range(BLOCKS):
        for name, run in found.items():
            torch.cuda.synchronize()
            for _ in range(3):
                run(x)
            events = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(CALLS)]
            for begin, end in events:
                begin.record()
                run(x)
                end.record()
            torch.cuda.synchronize()
            out[name] += [begin.elapsed_time(end) for begin, end in events]
    return out


def walls(found: dict[str, Callable[[Any], Any]], x: Any) -> dict[str, float]:
    """Milliseconds of a call by the clock, waiting for each result: what a caller that needs it sees."""
    import torch

    out = {}
    for name, run in found.items():
        seen = []
        for _ in range(20):
            torch.cuda.synchronize()
            started = time.perf_counter()
            run(x)
            torch.cuda.synchronize()
            seen.append((time.perf_counter() - started) * 1e3)
        out[name] = statistics.median(seen)
    return out


def relative(got: Any, want: Any) -> float:
    return float((got.double() - want).norm() / want.norm())


def settings() -> None:
    """What all sides run under."""
    import torch

    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True
    torch.set_grad_enabled(False)
    torch._dynamo.config.automatic_dynamic_shapes = False


def prewarm(name: str, batches: list[int], dtype: str) -> None:
    """Compile ``name`` with Inductor, for its disk cache."""
    import torch

    settings()
    size = 299 if name == "inception_v3" else 224
    for batch in batches:
        torch._dynamo.reset()
        x = torch.randn(batch, 3, size, size, device="cuda", dtype=getattr(torch, dtype))
        net = make(name).cuda().to(x.dtype).to(memory_format=torch.channels_last)
        torch.compile(net, mode="reduce-overhead")(x)
        torch.cuda.synchronize()


def one(name: str, batch: int, dtype: str, peers: list[str], out: Path) -> None:
    """Measure one network at one batch size and append the results."""
    import torch

    settings()
    torch._dynamo.reset()
    size = 299 if name == "inception_v3" else 224
    net = make(name).cuda()
    x = torch.randn(batch, 3, size, size, device="cuda")
    want = torch.cat([copy.deepcopy(net).double()(x[i : i + 8].double()) for i in range(0, min(batch, 16), 8)])
    kind = getattr(torch, dtype)
    net, x = net.to(kind), x.to(kind)
    torch.cuda.empty_cache()
    found = sides(net, x, peers)
    errors = {n: relative(run(x)[: len(want)], want) for n, run in found.items()}
    measured, clock = times(found, x), walls(found, x)
    peak = {}
    for n, run in found.items():
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run(x)
        torch.cuda.synchronize()
        peak[n] = torch.cuda.max_memory_allocated() - before
    from nnaccel_core.driver.optimize import backend_for

    scratch = backend_for("cuda").scratch.nbytes
    with (out / "gpu.jsonl").open("a") as f:
        for n in found:
            row = {
                "net": name, "batch": batch, "dtype": dtype, "side": n, "ms": statistics.median(measured[n]),
                "all_ms": measured[n], "wall_ms": clock[n], "error": errors[n], "ready_s": ready[n],
                "peak_bytes": peak[n], "calls": len(measured[n]),
                "gpu": torch.cuda.get_device_name(), "torch": torch.__version__,
            }  # fmt: skip
            if n == "nnaccel":
                row |= {"scratch_bytes": scratch, "report": str(found[n].nnaccel_report())}
            f.write(json.dumps(row) + "\n")
    print(name, batch, {n: round(statistics.median(t), 3) for n, t in measured.items()}, flush=True)
    print("   errors", {n: f"{e:.1e}" for n, e in errors.items()}, found["nnaccel"].nnaccel_report()["own_calls"], flush=True)
    explain(name, batch, found["nnaccel"], x, out)


def explain(name: str, batch: int, fast: Any, x: Any, out: Path) -> None:
    """Keep what runs and how long each step takes."""
    import nnaccel

    try:
        (out / f"explain_{name}_{batch}.txt").write_text(str(nnaccel.explain(fast, x)))
    except Exception as e:
        print("   explain failed:", type(e).__name__, e)


def table(out: Path) -> str:
    """The results as a table: milliseconds, and the best peer's time over ours."""
    rows = [json.loads(line) for line in (out / "gpu.jsonl").read_text().splitlines()]
    lines = ["| net | batch | " + " | ".join(PEERS) + " | nnaccel | best peer / ours | error, ours / eager |"]
    lines.append("| --- " * (len(PEERS) + 5) + "|")
    keys = dict.fromkeys((r["net"], r["batch"], r["dtype"]) for r in rows)
    ratios = []
    for key in keys:
        mine = {r["side"]: r for r in rows if (r["net"], r["batch"], r["dtype"]) == key}
        peers = [mine[p]["ms"] for p in PEERS if p in mine]
        ours = mine["nnaccel"]
        ratio = min(peers) / ours["ms"] if peers else float("nan")
        ratios.append(ratio)
        cells = [f"{mine[p]['ms']:.3f}" if p in mine else "" for p in PEERS]
        errors = f"{ours['error']:.1e} / {mine['eager']['error']:.1e}" if "eager" in mine else f"{ours['error']:.1e}"
        lines.append(f"| {key[0]} | {key[1]} | " + " | ".join(cells) + f" | {ours['ms']:.3f} | {ratio:.2f} | {errors} |")
    if ratios:
        lines.append(f"\nGeometric mean {statistics.geometric_mean(ratios):.2f}, least {min(ratios):.2f}.")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Start one process for each network and batch size."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--nets", nargs="*", default=list(NETS))
    parser.add_argument("--batches", nargs="*", type=int, default=[1, 128])
    parser.add_argument("--peers", nargs="*", default=list(PEERS))
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--one", action="store_true")
    parser.add_argument("--prewarm", type=int, default=0, metavar="N", help="fill Inductor's cache first, N networks at a time")
    parser.add_argument("--seconds", type=float, default=1e9, help="start no further network after so many seconds")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    if given.one and given.prewarm:
        prewarm(given.nets[0], given.batches, given.dtype)
        return
    if given.one:
        for batch in given.batches:
            one(given.nets[0], batch, given.dtype, given.peers, given.out)
        return
    started = time.perf_counter()

    def command(name: str) -> list[str]:
        batches = map(str, given.batches)
        return [
            sys.executable, __file__, str(given.out), "--one", "--nets", name, "--batches", *batches, "--dtype", given.dtype,
            "--peers", *given.peers,
        ]  # fmt: skip

    if given.prewarm and "inductor" in given.peers:
        with ThreadPoolExecutor(given.prewarm) as pool:
            quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "check": False}
            list(pool.map(lambda name: subprocess.run([*command(name), "--prewarm", "1"], **quiet), given.nets))
        print(f"Inductor's cache is filled after {time.perf_counter() - started:.0f} s", flush=True)
    for name in given.nets:
        if time.perf_counter() - started > given.seconds:
            print("out of time before", name)
            continue
        done = subprocess.run(command(name), check=False)
        if done.returncode:
            print(f"{name} failed with status {done.returncode}", flush=True)
    if (given.out / "gpu.jsonl").exists():
        (given.out / "gpu.md").write_text(table(given.out))
        print(table(given.out))


if __name__ == "__main__":
    main()
