"""Peak memory of intermediates: eager torch, our plan run whole and layer by layer, whole and depth-first, and in slices.

python benchmarks/peak_memory.py [--nets a,b] [--batch 128] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nets", default="benchmarks.nets:efficientnet_lite0,resnet18")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    prelude = os.environ.get("NNACCEL_BENCH_PRELUDE")
    if prelude:
        exec(compile(Path(prelude).read_text(), prelude, "exec"), {"__name__": "prelude"})
    import torch

    import nnaccel_core
    from nnaccel_frontend_torch.bench import memory, nets

    rows = []
    for name in args.nets.split(","):
        network = nets.load(name)
        x = nets.sample(network, args.batch)
        parameters = sum(p.numel() * p.element_size() for p in network.module.parameters())
        row: dict[str, object] = {"net": name, "batch": args.batch, "parameter_bytes": parameters}
        row["eager"] = memory.eager_peak_bytes(network.module, x)
        for label, options in (
            ("whole, layer by layer", {"slicing": False, "dfp": False}),
            ("whole, depth first", {"slicing": False}),
            ("default", {}),
        ):
            fast = nnaccel_core.optimize(network.module, **options)
            with torch.no_grad():
                fast(x)
            row[label], prepared = memory.plan_bytes(fast)
            row["prepared_over_parameters"] = round(prepared / parameters, 3)
        rows.append(row)
        print(json.dumps(row), flush=True)
    if args.json:
        args.json.write_text("".join(json.dumps(r) + "\n" for r in rows))


if __name__ == "__main__":
    main()
