"""How fast this machine reads memory, and how near fully connected layers come to it.

    python -m benchmarks.bandwidth [--threads 1,2] [--calls 20] [--layers]

Without ``--layers``: GB/s of reading blocks of several sizes over and over, the best of several loops: streams side by side (rows
of 16 KB), with and without prefetches. The loops are C, compiled for this machine; memory is in huge pages, as the runtime's is.

With ``--layers``: layers of one row, their weights out of the caches: each call takes the next of so many copies that these come
from memory. In turns with it, oneDNN's inner product and two of the loops read other copies. A line has the median of ``--calls``
calls, in microseconds without Python's part of a call, and the speeds of both over the better loop's.
"""

from __future__ import annotations

import argparse
import ctypes
import statistics
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from pathlib import Path

from benchmarks.products import Fc, Runner, SmallPages, rivals
from nnaccel_backend_x86 import native
from nnaccel_backend_x86.backend import X86Backend
from nnaccel_backend_x86.memory import X86Memory
from nnaccel_backend_x86.toolchain.find import find_cc

MB = 1_000_000
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 400)
#: Streams side by side, and bytes that prefetches are ahead (0: none).
LOOPS = ((1, 0), (4, 0), (8, 0), (1, 2048), (4, 1024))
ROW = 4096
#: Bytes of copies of a layer's weights: more than any last-level cache keeps.
COPIES = 640 * MB

LAYERS: Sequence[Fc] = (
    Fc("alexnet", 1, 9216, 4096), Fc("alexnet", 1, 4096, 4096), Fc("alexnet", 1, 4096, 1000), Fc("vgg16", 1, 25088, 4096),
    Fc("resnet50", 1, 2048, 1000), Fc("mobilenet_v2", 1, 1280, 1000), Fc("densenet121", 1, 1024, 1000),
)  # fmt: skip

SOURCE = """
#include <omp.h>
#include <stdint.h>

typedef float vec __attribute__((vector_size(64), aligned(4)));
volatile float sink;

// `streams` rows of 4096 floats side by side; `ahead` bytes.
#define READ(streams, ahead)                                                                 \\
    static float read_##streams##_##ahead(const float *p, int64_t rows) {                    \\
        vec sum[streams][2];                                                                 \\
        for (int s = 0; s < streams; ++s) sum[s][0] = sum[s][1] = (vec){0};                  \\
        for (int64_t r = 0; r + streams <= rows; r += streams)                               \\
            for (int64_t i = 0; i < 4096; i += 32)                                           \\
                _Pragma("GCC unroll 8") for (int s = 0; s < streams; ++s) {                  \\
                    const float *at = p + (r + s) * 4096 + i;                                \\
                    if (ahead) {                                                             \\
                        __builtin_prefetch((const char *)at + ahead);                        \\
                        __builtin_prefetch((const char *)at + ahead + 64);                   \\
                    }                                                                        \\
                    sum[s][0] += *(const vec *)at;                                           \\
                    sum[s][1] += *(const vec *)(at + 16);                                    \\
                }                                                                            \\
        for (int s = 1; s < streams; ++s) sum[0][0] += sum[s][0] + sum[s][1];                \\
        return sum[0][0][0] + sum[0][1][0];                                                  \\
    }
"""


def _source() -> str:
    loops = "".join(f"READ({s}, {ahead})\n" for s, ahead in LOOPS)
    table = ", ".join(f"read_{s}_{ahead}" for s, ahead in LOOPS)
    return f"""{SOURCE}{loops}
static float (*const loops[])(const float *, int64_t) = {{{table}}};

// Seconds of reading `rows` rows on `threads` threads.
double read_memory(int which, const float *p, int64_t rows, int threads) {{
    double started = omp_get_wtime();
    if (threads == 1)
        sink = loops[which](p, rows);
    else
#pragma omp parallel num_threads(threads)
    {{
        int64_t t = omp_get_thread_num(), from = rows * t / threads;
        sink = loops[which](p + from * 4096, rows * (t + 1) / threads - from);
    }}
    return omp_get_wtime() - started;
}}
"""


@cache
def _library() -> Callable[[int, int, int, int], float]:
    """``(loop, address, rows, threads) -> seconds``."""
    cc = find_cc()
    if cc is None:
        raise SystemExit("measuring the read bandwidth takes a C compiler: apt-get install gcc")
    native.load_openmp()
    with tempfile.TemporaryDirectory() as folder:
        source, library = Path(folder, "read.c"), Path(folder, "read.so")
        source.write_text(_source())
        subprocess.run([cc, "-O3", "-march=native", "-fopenmp", "-fPIC", "-shared", "-o", library, source], check=True)
        function = ctypes.CDLL(str(library)).read_memory
    function.restype, function.argtypes = ctypes.c_double, (ctypes.c_int, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int)
    return function  # type: ignore[no-any-return]


def read(which: int, address: int, nbytes: int, threads: int) -> float:
    """Bytes a second of one reading of whole rows of 16 KB."""
    rows = nbytes // (4 * ROW)
    return 4 * ROW * rows / _library()(which, address, rows, threads)


def sweep(threads: int, calls: int) -> Iterator[tuple[int, list[float]]]:
    """For each of `SIZES`, the median GB/s of each of `LOOPS`, in turns."""
    memory = X86Memory(SIZES[-1] * MB)
    ctypes.memset(memory.address, 0, memory.nbytes)
    for size in SIZES:
        repeat = max(1, 4 // size)
        found: list[list[float]] = [[] for _ in LOOPS]
        for _ in range(calls + 1):
            for i, speeds in enumerate(found):
                speeds.append(max(read(i, memory.address, size * MB, threads) for _ in range(repeat + 1)))
        yield size, [statistics.median(speeds[1:]) / 1e9 for speeds in found]


def far_bandwidth(threads: int, calls: int = 10) -> float:
    """Bytes a second of reading 400 MB."""
    memory = X86Memory(SIZES[-1] * MB)
    ctypes.memset(memory.address, 0, memory.nbytes)
    loops = range(len(LOOPS))
    return max(statistics.median(read(i, memory.address, memory.nbytes, threads) for _ in range(calls)) for i in loops)


def cold(
    backend: X86Backend, case: Fc, threads: int, calls: int, kind: type[X86Memory] | type[SmallPages] = X86Memory
) -> tuple[float, float, float]:
    """Median seconds of our layer, of oneDNN's, and of reading as many bytes, all of weights that come from memory."""
    ours, theirs, data = rivals(backend, case)
    copies = -(-COPIES // (4 * case.channels * case.columns))
    runners = [Runner(backend, ours, data, threads, copies, kind), Runner(backend, theirs, data, threads)]
    weights = runners[0].weights
    nbytes = 4 * case.channels * case.columns
    takers: list[Callable[[X86Memory | SmallPages], float]] = [r.timed for r in runners]
    takers += [partial(_read_seconds, which, nbytes, threads) for which in (1, 3)]
    times: list[list[float]] = [[] for _ in takers]
    turn = 0
    for first in range(calls + 2):
        for i in range(len(takers)):
            which = (first + i) % len(takers)
            times[which].append(takers[which](weights[turn % copies]))
            turn += 1
    a, b, *plain = (statistics.median(seconds[2:]) for seconds in times)
    return a, b, min(plain)


def _read_seconds(which: int, nbytes: int, threads: int, weights: X86Memory | SmallPages) -> float:
    return nbytes / read(which, weights.address, nbytes, threads)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--calls", type=int, default=20)
    parser.add_argument("--layers", action="store_true", help="fully connected layers instead of plain reading")
    parser.add_argument("--small-pages", action="store_true", help="of the layers' weights")
    args = parser.parse_args()
    machine = X86Backend.probe()
    assert machine is not None, "not an x86-64 processor"
    backend = X86Backend(machine, "cpu")
    for threads in map(int, args.threads.split(",")):
        if not args.layers:
            print(f"{machine.name}, {threads} threads, GB/s: " + ", ".join(f"{s} streams, {a} ahead" for s, a in LOOPS))
            for size, speeds in sweep(threads, args.calls):
                print(f"{size:5d} MB  " + " ".join(f"{s:7.1f}" for s in speeds) + f"   best {max(speeds):6.1f}", flush=True)
            continue
        print(f"{machine.name}, {threads} threads; us of ours, of oneDNN, of reading; GB/s of ours; over reading")
        for case in LAYERS:
            ours, theirs, plain = cold(backend, case, threads, args.calls, SmallPages if args.small_pages else X86Memory)
            speed = 4e-9 * case.channels * case.columns / ours
            print(
                f"{case!s:44s} {ours * 1e6:8.0f} {theirs * 1e6:8.0f} {plain * 1e6:8.0f} {speed:7.1f} {plain / ours:6.0%}"
                f"   oneDNN {plain / theirs:5.0%}",
                flush=True,
            )


if __name__ == "__main__":
    main()
