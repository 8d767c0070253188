"""Prediction on an NVIDIA GPU against PyTorch's own ways: one process for a network and batch size, all sides in one run.

    python3 benchmarks/gpu.py OUT --nets resnet50 ... --batches 1 128 [--peers eager last inductor graphed] [--dtype bfloat16]

Every side is warmed up, then timed call by call with CUDA events, in blocks that take turns; the figure is the median of at least
20 calls. Errors are relative to float64 on the same GPU, in the 2-norm. TF32 is on for convolutions and products alike.
``--together N`` sets N networks up at once before they take their turns (`benchmarks/turns.py`). ``--prewarm`` first fills
Inductor's own disk cache, several networks at a time. With either, the seconds until a side is ready are not those of a cold
start. ``--slicing 64`` (or 0: whole) runs nnaccel's batches so many samples at a time; ``--no-nnaccel`` leaves it out, to
see whether the other sides fail by themselves.
Writes ``gpu.jsonl`` (a line for each network, batch and side), ``gpu.md`` (a table) and, with matplotlib, ``gpu.png`` into OUT.

    python3 benchmarks/gpu.py OUT --alone --nets vgg16 --batches 128    a few calls of nnaccel, each compared with PyTorch
    python3 benchmarks/gpu.py OUT --first --nets resnet50 --batches 1   its first call: with an empty cache, then in a new process
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks import turns

NETS = (
    "alexnet", "densenet121", "inception_v3", "mobilenet_v2", "resnet18", "resnet50", "squeezenet1_1", "vgg16", "vgg16_bn",
)  # fmt: skip
# Inductor before our own CUDA graph: it drops the workspaces of cuBLAS, which a graph captured earlier goes on using. PyTorch
# keeps them by stream, and a graph that ends drops those of its stream, whoever else uses them (pytorch/pytorch#193402): hence a
# stream of its own for the graph, too, and a process of its own for each batch size.
PEERS = ("eager", "last", "inductor", "graphed")
BLOCKS, CALLS = 6, 5
#: Calls of nnaccel under --alone: the first runs step by step, later ones as CUDA graphs.
ALONE = 3


def make(name: str) -> Any:
    """The network of torchvision, in evaluation mode, with batch-norm statistics as a trained network's might be; or "bert",
    BERT-base of transformers."""
    import torch
    import torchvision

    torch.manual_seed(0)
    if name == "bert":
        from transformers import BertConfig, BertModel

        class LastState(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.bert = BertModel(BertConfig(), add_pooling_layer=False)

            def forward(self, tokens: Any) -> Any:
                return self.bert(tokens).last_hidden_state

        return LastState().eval()
    kwargs = {"init_weights": True} if name == "inception_v3" else {}
    net = getattr(torchvision.models, name)(weights=None, **kwargs).eval()
    if name == "inception_v3":
        net.aux_logits, net.AuxLogits = False, None
    for m in net.modules():
        if isinstance(m, torch.nn.BatchNorm2d):
            m.running_mean.normal_(0, 0.1)
            m.running_var.uniform_(0.5, 1.5)
        if isinstance(m, torch.nn.Linear) and not m.weight.any():  # ViT's head, whose results would be zeros
            torch.nn.init.normal_(m.weight, 0, 0.02)
    return net


def draw(name: str, batch: int, dtype: str) -> Any:
    """An input on the GPU: an image of ``dtype`` for each of ``batch`` samples, or 128 tokens."""
    import torch

    if name == "bert":
        return torch.randint(0, 30000, (batch, 128), device="cuda")
    size = 299 if name == "inception_v3" else 224
    return torch.randn(batch, 3, size, size, device="cuda").to(getattr(torch, dtype))


def exact(x: Any) -> Any:
    """``x`` in float64 where it is floating-point."""
    return x.double() if x.is_floating_point() else x


def last_channels(x: Any) -> Any:
    """Images channels-last; others as they are."""
    import torch

    return x.to(memory_format=torch.channels_last) if x.dim() == 4 else x


def sides(net: Any, x: Any, names: list[str], slicing: bool | int) -> dict[str, Callable[[Any], Any]]:
    """The ways to run ``net``, made ready for ``x``; each with its first calls behind it."""
    import torch

    import nnaccel

    found: dict[str, Callable[[Any], Any]] = {}
    for name in names:
        if name == "nnaccel":
            turns.wait()
        started = time.perf_counter()
        mine = copy.deepcopy(net)
        if name == "nnaccel":
            fast = nnaccel.optimize(mine, device="cuda", slicing=slicing)
            found[name] = fast
            run = fast
        elif name == "eager":
            run = found[name] = mine
        elif name == "last":
            last = mine.to(memory_format=torch.channels_last)
            run = found[name] = lambda t, last=last: last(last_channels(t))
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

    static = last_channels(x).clone(memory_format=torch.preserve_format)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            net(static)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=torch.cuda.Stream()):
        out = net(static)

    def run(t: Any, net: Any = net) -> Any:  # the graph reads the network's weights, which must live as long
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


def clocked(found: dict[str, Callable[[Any], Any]], x: Any, wait: bool) -> dict[str, float]:
    """Milliseconds of a call by the clock: with ``wait`` until its result is there, what a caller that needs it sees; else until
    it has been enqueued on an idle device, what the host has no time for anything else."""
    import torch

    out = {}
    for name, run in found.items():
        seen = []
        for _ in range(20):
            torch.cuda.synchronize()
            started = time.perf_counter()
            run(x)
            if wait:
                torch.cuda.synchronize()
            seen.append((time.perf_counter() - started) * 1e3)
        out[name] = statistics.median(seen)
    torch.cuda.synchronize()
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
    for batch in batches:
        torch._dynamo.reset()
        x = draw(name, batch, dtype)
        net = make(name).cuda().to(getattr(torch, dtype)).to(memory_format=torch.channels_last)
        torch.compile(net, mode="reduce-overhead")(x)
        torch.cuda.synchronize()


def alone(name: str, batch: int, dtype: str, slicing: bool | int) -> None:
    """A few calls of nnaccel, each waited for and compared with PyTorch; ends the process with an error where they differ."""
    import torch

    import nnaccel

    settings()
    net, x = make(name).cuda().to(getattr(torch, dtype)), draw(name, batch, dtype)
    want = net(x).double()
    torch.cuda.synchronize()
    fast = nnaccel.optimize(net, device="cuda", slicing=slicing)
    for call in range(ALONE):
        got = fast(x)
        torch.cuda.synchronize()
        error = relative(got, want)
        print(f"{name} {batch} call {call + 1}: differs from eager by {error:.1e}", flush=True)
        if not error < (5e-3 if dtype == "float32" else 5e-2):
            raise SystemExit(f"{name} {batch}: wrong result in call {call + 1}")
    print(fast.nnaccel_report(), flush=True)


def first(name: str, batch: int, dtype: str, slicing: bool | int) -> None:
    """Time the first calls in this process, imports and the start of CUDA apart."""
    import cudnn
    import cupy
    import torch

    import nnaccel

    settings()
    net, x = make(name).cuda().to(getattr(torch, dtype)), draw(name, batch, dtype)
    cupy.cuda.Device(0).synchronize()
    cudnn.backend_version()
    net(x)  # torch's own start, cuBLAS and cuDNN among it
    torch.cuda.synchronize()
    fast = nnaccel.optimize(net, device="cuda", slicing=slicing)
    seconds = []
    for _ in range(4):
        started = time.perf_counter()
        fast(x)
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    print(f"{name} {batch}: first calls", ", ".join(f"{s:.3f}" for s in seconds), "s", flush=True)


def one(name: str, batch: int, dtype: str, names: list[str], slicing: bool | int, out: Path) -> None:
    """Measure one network at one batch size and append the results."""
    import torch

    settings()
    torch._dynamo.reset()
    net, x = make(name).cuda(), draw(name, batch, "float32")
    want = torch.cat([copy.deepcopy(net).double()(exact(x[i : i + 8])) for i in range(0, min(batch, 16), 8)])
    kind = getattr(torch, dtype)
    net, x = net.to(kind), x.to(kind) if x.is_floating_point() else x
    torch.cuda.empty_cache()
    found = sides(net, x, names, slicing)
    if "nnaccel" not in names:
        turns.wait()
    errors = {n: relative(run(x)[: len(want)], want) for n, run in found.items()}
    measured, clock, host = times(found, x), clocked(found, x, wait=True), clocked(found, x, wait=False)
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
                "all_ms": measured[n], "wall_ms": clock[n], "host_ms": host[n], "error": errors[n], "ready_s": ready[n],
                "peak_bytes": peak[n], "calls": len(measured[n]),
                "gpu": torch.cuda.get_device_name(), "torch": torch.__version__,
            }  # fmt: skip
            if n == "nnaccel":
                row |= {"scratch_bytes": scratch, "report": str(found[n].nnaccel_report())}
            f.write(json.dumps(row) + "\n")
    print(name, batch, {n: round(statistics.median(t), 3) for n, t in measured.items()}, flush=True)
    print("   errors", {n: f"{e:.1e}" for n, e in errors.items()}, flush=True)
    if "nnaccel" in found:
        print("   ", found["nnaccel"].nnaccel_report()["own_calls"], f"{scratch >> 20} MiB of scratch", flush=True)
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
    head = ["net", "batch", *PEERS, "nnaccel", "best peer / ours", "error, ours / eager", "memory, ours / eager"]
    lines = ["| " + " | ".join(head) + " |", "| --- " * len(head) + "|"]
    keys = dict.fromkeys((r["net"], r["batch"], r["dtype"]) for r in rows)
    ratios = []
    for key in keys:
        mine = {r["side"]: r for r in rows if (r["net"], r["batch"], r["dtype"]) == key}
        peers = [mine[p]["ms"] for p in PEERS if p in mine]
        if "nnaccel" not in mine:
            continue
        ours = mine["nnaccel"]
        ratio = min(peers) / ours["ms"] if peers else float("nan")
        ratios.append(ratio)
        cells = [f"{mine[p]['ms']:.3f}" if p in mine else "" for p in PEERS]
        errors = f"{ours['error']:.1e} / {mine['eager']['error']:.1e}" if "eager" in mine else f"{ours['error']:.1e}"
        memory = f"{(ours['scratch_bytes'] + ours['peak_bytes']) / mine['eager']['peak_bytes']:.2f}" if "eager" in mine else ""
        lines.append(f"| {key[0]} | {key[1]} | {' | '.join(cells)} | {ours['ms']:.3f} | {ratio:.2f} | {errors} | {memory} |")
    if ratios:
        lines.append(f"\nGeometric mean {statistics.geometric_mean(ratios):.2f}, least {min(ratios):.2f}.")
    return "\n".join(lines) + "\n"


def plot(out: Path) -> None:
    """The best peer's time over ours, a bar for each row, into ``gpu.png``."""
    try:
        import matplotlib
    except ImportError:
        print("no plot: matplotlib is not installed")
        return
    matplotlib.use("agg")
    from matplotlib import pyplot

    rows = [json.loads(line) for line in (out / "gpu.jsonl").read_text().splitlines()]
    times = {(r["dtype"], r["batch"], r["net"], r["side"]): r["ms"] for r in rows}
    kinds = sorted({k[:2] for k in times}, key=lambda k: (k[0] != "float32", k[1]))
    nets = sorted({k[2] for k in times})
    figure, axes = pyplot.subplots(figsize=(10, 4))
    for i, (dtype, batch) in enumerate(kinds):
        places, ratios = [], []
        for x, net in enumerate(nets):
            peers = [times[dtype, batch, net, p] for p in PEERS if (dtype, batch, net, p) in times]
            if peers and (dtype, batch, net, "nnaccel") in times:
                places.append(x + (i - (len(kinds) - 1) / 2) * 0.8 / len(kinds))
                ratios.append(min(peers) / times[dtype, batch, net, "nnaccel"])
        axes.bar(places, ratios, 0.8 / len(kinds), label=f"{dtype}, batch {batch}")
    axes.axhline(1.0, color="black", linewidth=0.8)
    axes.set_xticks(range(len(nets)), nets, rotation=20)
    axes.set_ylabel("best peer's time / nnaccel's")
    axes.margins(y=0.25)  # room for the legend
    axes.legend(ncols=2)
    figure.tight_layout()
    figure.savefig(out / "gpu.png", dpi=110)


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
    parser.add_argument("--together", type=int, default=1, metavar="N", help="get N rows ready at once, then time one by one")
    parser.add_argument("--seconds", type=float, default=1e9, help="start no further network after so many seconds")
    parser.add_argument("--slicing", type=int, default=None, metavar="N", help="nnaccel's samples at a time; 0: all")
    parser.add_argument("--no-nnaccel", action="store_true", help="the peers only")
    parser.add_argument("--alone", action="store_true", help="a few calls of nnaccel only, compared with PyTorch")
    parser.add_argument("--first", action="store_true", help="time nnaccel's first call, cold and with what that left on disk")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    slicing: bool | int = True if given.slicing is None else given.slicing or False
    if given.alone:
        for batch in given.batches:
            alone(given.nets[0], batch, given.dtype, slicing)
        return
    if given.first and given.one:
        first(given.nets[0], given.batches[0], given.dtype, slicing)
        return
    if given.one and given.prewarm:
        prewarm(given.nets[0], given.batches, given.dtype)
        return
    if given.one:
        for batch in given.batches:
            one(given.nets[0], batch, given.dtype, [*given.peers, *([] if given.no_nnaccel else ["nnaccel"])], slicing, given.out)
        return
    started = time.perf_counter()

    def command(name: str, *batches: int) -> list[str]:
        return [
            sys.executable, __file__, str(given.out), "--one", "--nets", name, "--batches", *map(str, batches or given.batches),
            "--dtype", given.dtype, "--peers", *given.peers, *(["--no-nnaccel"] if given.no_nnaccel else []),
            *([] if given.slicing is None else ["--slicing", str(given.slicing)]),
        ]  # fmt: skip

    if given.first:
        for name, batch in ((n, b) for n in given.nets for b in given.batches):
            folder = given.out / f"cache_{name}_{batch}"
            shutil.rmtree(folder, ignore_errors=True)
            env = {**os.environ, "NNACCEL_CACHE_DIR": str(folder)}
            for what in ("with an empty cache", "in a new process"):
                print(what, end=": ", flush=True)
                subprocess.run([*command(name, batch), "--first"], env=env, check=False)
            shutil.rmtree(folder, ignore_errors=True)
        return

    if given.prewarm and "inductor" in given.peers:
        with ThreadPoolExecutor(given.prewarm) as pool:
            quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "check": False}
            list(pool.map(lambda name: subprocess.run([*command(name), "--prewarm", "1"], **quiet), given.nets))
        print(f"Inductor's cache is filled after {time.perf_counter() - started:.0f} s", flush=True)
    rows = [(n, b) for b in given.batches for n in given.nets]
    turns.run_rows(rows, command, given.together, started + given.seconds)
    if (given.out / "gpu.jsonl").exists():
        (given.out / "gpu.md").write_text(table(given.out))
        print(table(given.out))
        plot(given.out)


if __name__ == "__main__":
    main()
