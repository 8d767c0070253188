"""What a call of compiled code costs in a `tf.function` beyond its kernels: an element-wise layer in place of TensorFlow's own.

    python -m benchmarks.tf_call [--calls 2000]

Both functions are called in turns, in blocks; the medians are of single calls up to the result as an array. What the compiled one
takes more than TensorFlow's own, which is a call with all its parts but the segment's, is the segment: its kernels, whose time is
measured alone, and the cost of calling them.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

BLOCKS = 20
#: Elements of the layer's input.
SIZE = 4096


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=2000, help="timed calls of each function")
    given = parser.parse_args()
    import tensorflow as tf

    import nnaccel

    def layer(x: Any) -> Any:
        return tf.nn.relu(x) * 2.0 + 1.0

    own = tf.function(layer, autograph=False)
    fast = nnaccel.optimize(own)
    inside = tf.function(lambda x: fast(x), autograph=False)
    x = tf.random.normal((SIZE,))
    concrete = [f.get_concrete_function(x) for f in (own, inside)]
    sides: dict[str, Callable[[], Any]] = {
        "tf.function": lambda: concrete[0](x).numpy(),
        "nnaccel": lambda: concrete[1](x).numpy(),
    }
    assert float(abs(sides["nnaccel"]() - sides["tf.function"]()).max()) < 1e-6
    times: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(BLOCKS):
        for name, call in sides.items():
            for _ in range(50):
                call()
            for _ in range(given.calls // BLOCKS):
                started = time.perf_counter()
                call()
                times[name].append(time.perf_counter() - started)
    medians = {name: statistics.median(seconds) * 1e6 for name, seconds in times.items()}
    programs = nnaccel.explain(fast, x).programs
    kernels = sum(s.measured or 0.0 for p in programs for s in p.segments) * 1e6
    more = medians["nnaccel"] - medians["tf.function"]
    print(", ".join(f"{name} {us:.0f} us" for name, us in medians.items()), f"kernels {kernels:.0f} us", sep=", ")
    print(f"a compiled segment costs {more:.0f} us more than TensorFlow's operations, {more - kernels:.0f} us beyond its kernels")


if __name__ == "__main__":
    main()
