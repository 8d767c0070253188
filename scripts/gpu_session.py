"""Runs the GPU tests and benchmarks on a machine with an NVIDIA GPU, from this source tree, without installing anything.

    python3 scripts/gpu_session.py OUT [--tests] [--bench] [--nets resnet50 ...] [--batches 1 128] [--peers ...]
    python3 scripts/gpu_session.py OUT --train [--nets resnet50 ...]            training steps
    python3 scripts/gpu_session.py OUT --sanitize vgg16 128     one network under compute-sanitizer, with --train its training

Needs torch, torchvision, CuPy, NVRTC and pytest; cuDNN's frontend for the library paths. Writes its tables into the folder OUT.
Options that it does not know go to benchmarks/gpu.py, or with --train to benchmarks/gpu_train.py.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("nnaccel_core", "nnaccel_frontend_torch", "nnaccel_frontend_onnx", "nnaccel_backend_cuda")


def metadata(folder: Path) -> None:
    """Write what an installation would: names, versions and entry points, so that plug-ins are found."""
    for package in PACKAGES:
        project = (ROOT / package / "pyproject.toml").read_text()
        version = re.search(r'^version = "(.*)"', project, re.M)
        assert version is not None
        info = folder / f"{package}-{version[1]}.dist-info"
        info.mkdir(parents=True, exist_ok=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package.replace('_', '-')}\nVersion: {version[1]}\n")
        points = re.search(r"^\[project\.entry-points\.nnaccel\]\n((?:\w+ = .*\n)+)", project, re.M)
        if points is not None:
            (info / "entry_points.txt").write_text("[nnaccel]\n" + points[1].replace('"', ""))


def native_guards(folder: Path) -> str:
    """Build the torch frontend's extension beside its sources where there is a compiler."""
    source = ROOT / "nnaccel_frontend_torch/src/nnaccel_frontend_torch/_guards.c"
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None or not source.exists():
        return "no C compiler: parameters are checked in Python"
    target = source.with_name("_guards" + sysconfig.get_config_var("EXT_SUFFIX"))
    command = [compiler, "-O2", "-shared", "-fPIC", f"-I{sysconfig.get_path('include')}", str(source), "-o", str(target)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return "built" if done.returncode == 0 else f"not built: {done.stderr[-500:]}"


def sanitizer() -> str | None:
    """The path of compute-sanitizer: on PATH, or where CUDA's toolkit and its wheels put it."""
    places = [os.environ.get("CUDA_HOME", "/usr/local/cuda") + "/bin", "/usr/local/cuda/compute-sanitizer"]
    places += [f"{p}/nvidia/cu13/bin" for p in sys.path] + [f"{p}/nvidia/cuda_sanitizer_api/bin" for p in sys.path]
    return shutil.which("compute-sanitizer") or shutil.which("compute-sanitizer", path=os.pathsep.join(places))


def sanitize(net: str, batch: str, train: bool, rest: list[str], out: Path, env: dict[str, str]) -> int:
    """Run ``net`` alone (`gpu.alone`: a call step by step, then CUDA graphs; with ``train`` `gpu_train.alone`) under memcheck;
    without the tool, kernel by kernel.

    PyTorch's allocator keeps no memory meanwhile, so that what lies outside a tensor is memory of nobody; the arena is one
    allocation. cuDNN's first plans are taken: timing others would take hours here. Calls by which libraries ask the driver for
    functions that it lacks are not reported.
    """
    script = "benchmarks/gpu_train.py" if train else "benchmarks/gpu.py"
    bench = [sys.executable, str(ROOT / script), str(out), "--alone", "--nets", net, "--batches", batch, *rest]
    cache = str((out / "sanitize_cache").resolve())
    env = {**env, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1", "NNACCEL_CUDA_TUNING": "0", "NNACCEL_CACHE_DIR": cache}
    log = out / f"sanitize_{net}_{batch}{'_train' if train else ''}.log"
    tool = sanitizer()
    if tool is not None:
        steps = [("memcheck", [tool, "--tool", "memcheck", "--error-exitcode", "9", "--report-api-errors", "no", *bench], env)]
    else:
        print("compute-sanitizer was not found (it comes with CUDA's toolkit): launches are waited for one by one instead")
        waiting = {**env, "CUDA_LAUNCH_BLOCKING": "1", "NNACCEL_CUDA_GRAPHS": "0"}
        steps = [("step by step", bench, waiting), ("with graphs", bench, env)]
    status = 0
    with log.open("w") as f:
        for what, command, given in steps:
            f.write(f"--- {what}\n")
            f.flush()
            done = subprocess.run(command, cwd=ROOT, env=given, stdout=f, stderr=subprocess.STDOUT, check=False)
            status = status or done.returncode
            print(f"{net} {batch}, {what}: status {done.returncode}", flush=True)
    print("\n".join(log.read_text().splitlines()[-60:]))
    return status


def main() -> int:
    """Tests first, then benchmarks; the exit status is that of the tests."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--tests", action="store_true")
    parser.add_argument("--bench", action="store_true")
    parser.add_argument("--train", action="store_true")
    parser.add_argument("--select", default="", help="pytest -k")
    parser.add_argument("--workers", default="0", metavar="N", help="run the tests in N processes (needs pytest-xdist)")
    parser.add_argument("--sanitize", nargs=2, metavar=("NET", "BATCH"), help="run nnaccel alone under compute-sanitizer")
    options, rest = parser.parse_known_args()
    options.out.mkdir(parents=True, exist_ok=True)
    folder = ROOT / "build" / "gpu_session"
    metadata(folder)
    print("native guards:", native_guards(folder))
    path = [str(folder), *(str(ROOT / p / "src") for p in PACKAGES), str(ROOT), *filter(None, [os.environ.get("PYTHONPATH", "")])]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(path), "PYTHONUNBUFFERED": "1"}
    env.setdefault("NNACCEL_CACHE_DIR", str(ROOT / "build" / "gpu_cache"))
    status = 0
    if options.sanitize:
        return sanitize(*options.sanitize, options.train, rest, options.out, env)
    if options.tests:
        command = [sys.executable, "-m", "pytest", "tests/backend_cuda", "-m", "gpu", "-q", "-p", "no:cacheprovider"]
        command += ["-k", options.select] if options.select else []
        command += ["-n", options.workers] if options.workers != "0" else []
        with (options.out / "tests.log").open("w") as log:
            status = subprocess.run(command, cwd=ROOT, env=env, stdout=log, stderr=subprocess.STDOUT, check=False).returncode
        print("\n".join((options.out / "tests.log").read_text().splitlines()[-40:]))
    if options.bench:
        subprocess.run([sys.executable, str(ROOT / "benchmarks/gpu.py"), str(options.out), *rest], cwd=ROOT, env=env, check=False)
    if options.train:
        command = [sys.executable, str(ROOT / "benchmarks/gpu_train.py"), str(options.out), *rest]
        subprocess.run(command, cwd=ROOT, env=env, check=False)
    return status


if __name__ == "__main__":
    sys.exit(main())
