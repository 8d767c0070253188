"""Inputs of a network for the command line: from files, or made up."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nnaccel_core.errors import InputError

if TYPE_CHECKING:
    from nnaccel_frontend_onnx.arguments import Argument

#: numpy's names of element types that inputs can be made up of.
_ELEMENTS = {
    "tensor(float)": "float32", "tensor(double)": "float64", "tensor(float16)": "float16", "tensor(bool)": "bool",
    "tensor(int8)": "int8", "tensor(uint8)": "uint8", "tensor(int16)": "int16", "tensor(int32)": "int32",
    "tensor(int64)": "int64",
}  # fmt: skip


def add_input(parser: argparse.ArgumentParser) -> None:
    """Declare ``--input``."""
    parser.add_argument(
        "--input", action="append", default=[], metavar="[NAME=]FILE",
        help="an array (.npy), or arrays by name (.npz); without NAME the inputs are taken in the network's order",
    )  # fmt: skip


def add_sizes(parser: argparse.ArgumentParser) -> None:
    """Declare ``--batch`` and ``--size``, for inputs that are made up."""
    parser.add_argument("--batch", type=int, default=1, help="samples of inputs that are made up (default 1)")
    parser.add_argument(
        "--size", action="append", default=[], metavar="NAME=N",
        help="of inputs that are made up: the size that the file calls NAME, or of axis K of input X by X.K=N",
    )  # fmt: skip


def read_feeds(arguments: Sequence[Argument], net: str, given: Sequence[str]) -> dict[str, Any]:
    """The arrays that ``--input`` names, by the input names ``arguments`` of the network called ``net``.

    Raises:
        InputError: a file that cannot be read, an unknown or doubled name, or too many arrays.
    """
    names = [a.name for a in arguments]
    feeds: dict[str, Any] = {}

    def add(name: str, array: Any) -> None:
        if name in feeds:
            raise InputError(f"--input: input {name!r} is given twice")
        feeds[name] = array

    free = iter(names)
    for text in given:
        name, _, path = text.rpartition("=")
        loaded = _load(Path(path))
        if not isinstance(loaded, np.ndarray):
            if name:
                raise InputError(f"--input {text}: an .npz file has names of its own")
            for key, array in loaded.items():
                add(key, array)
            continue
        if not name:
            name = next((n for n in free if n not in feeds), "")
            if not name:
                raise InputError(f"--input {text}: {net} takes {len(names)} inputs ({', '.join(names)})")
        add(name, loaded)
    missing = [n for n in names if n not in feeds]
    if missing:
        types = {a.name: f"{a.type} {list(a.shape) if a.shape is not None else ''}".strip() for a in arguments}
        wanted = ", ".join(f"{n} ({types[n]})" for n in missing)
        raise InputError(f"{net} needs {wanted}; give each with --input NAME=FILE.npy")
    return feeds


def _load(path: Path) -> Any:
    """One array, or a dictionary of several."""
    try:
        found = np.load(path, allow_pickle=False)
    except OSError as e:
        raise InputError(f"--input {path}: {e.strerror or e}") from e
    except ValueError as e:
        raise InputError(f"--input {path} is no .npy or .npz file of plain arrays: {e}") from e
    if isinstance(found, np.ndarray):
        return found
    with found:
        return {name: found[name] for name in found.files}


def sizes_given(given: Sequence[str]) -> dict[str, int]:
    """What ``--size`` says.

    Raises:
        InputError: it is no NAME=N.
    """
    sizes = {}
    for text in given:
        name, _, number = text.rpartition("=")
        if not name or not number.isdecimal():
            raise InputError(f"--size {text}: write NAME=N, as in --size height=224")
        sizes[name] = int(number)
    return sizes


def made_up(arguments: Sequence[Argument], batch: int, sizes: Mapping[str, int], seed: int = 0) -> dict[str, Any]:
    """Arrays for these inputs: normal numbers, integers 0 and 1, True.

    Args:
        batch: the first axis where the file leaves that open or fixes it at 1; sizes: of other axes that it leaves open, by its
            name for them, or as ``INPUT.AXIS``.

    Raises:
        InputError: a size is not told, or an input is no tensor of numbers.
    """
    rng = np.random.default_rng(seed)
    batches = {str(a.shape[0]): batch for a in arguments if a.shape and isinstance(a.shape[0], str)}
    sizes = {**batches, **sizes}
    feeds: dict[str, Any] = {}
    for a in arguments:
        if a.type not in _ELEMENTS or a.shape is None:
            raise InputError(f"input {a.name!r} ({a.type}) can't be made up: give it with --input {a.name}=FILE.npy")
        shape = [_size(a, k, batch, sizes) for k in range(len(a.shape))]
        dtype = np.dtype(_ELEMENTS[a.type])
        if dtype.kind == "f":
            feeds[a.name] = rng.normal(size=shape).astype(dtype)
        else:
            feeds[a.name] = np.ones(shape, dtype) if dtype.kind == "b" else rng.integers(0, 2, shape).astype(dtype)
    return feeds


def _size(a: Argument, k: int, batch: int, sizes: Mapping[str, int]) -> int:
    assert a.shape is not None
    found = a.shape[k]
    for name in (f"{a.name}.{k}", found):
        if name in sizes:
            return sizes[str(name)]
    if isinstance(found, int):
        return batch if k == 0 and found == 1 else found
    if k == 0:
        return batch
    name = found or f"{a.name}.{k}"
    raise InputError(f"axis {k} of input {a.name!r} has no fixed size: add --size {name}=N, or give the input with --input")
