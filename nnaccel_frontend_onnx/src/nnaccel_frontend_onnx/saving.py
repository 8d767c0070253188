"""Writing a model with the parameters it has now."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import onnx
import onnx.helper
import onnx.numpy_helper

from nnaccel_core.errors import InputError
from nnaccel_frontend_onnx.items import trainable
from nnaccel_frontend_onnx.loading import Model

#: Bytes of initializers beyond which they go into a file of their own; a protobuf message holds less than 2 GiB.
LARGEST = (1 << 31) - (1 << 24)
#: Where a tensor begins in that file: at multiples of a page, so that readers can map it into memory.
_PAGE = 4096


def with_values(model: Model) -> onnx.ModelProto:
    """The model with its initializers as they are now, all inside of it."""
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    there = {t.name: t for t in proto.graph.initializer}
    for name, array in model.initializers.items():
        t = there.get(name)
        if t is None:  # it was sparse
            t = proto.graph.initializer.add()
        elif not trainable(array) and t.data_location != onnx.TensorProto.EXTERNAL:
            continue
        said = t.doc_string
        t.CopyFrom(onnx.numpy_helper.from_array(array, name))
        if said:
            t.doc_string = said
    del proto.graph.sparse_initializer[:]
    return proto


def save(model: Model, path: Path) -> None:
    """Write the model with its initializers as they are now; whoever reads ``path`` meanwhile finds the old file or the new one.

    Where the initializers are larger than a file of this format holds, they go into a second one, ``NAME.NUMBER.data``, whose
    name is new each time.

    Raises:
        InputError: it cannot be written.
    """
    proto = with_values(model)
    try:
        if sum(a.nbytes for a in model.initializers.values()) > LARGEST:
            _split(proto, path)
        raw = proto.SerializeToString()
        with _replacing(path) as file:
            file.write(raw)
    except OSError as e:
        raise InputError(f"{path} can't be written: {e.strerror or e}; give a file in a folder that can be written") from e
    except ValueError as e:  # protobuf's, of a message that is too large
        raise InputError(f"{path} can't be written: {e}; nodes and constants, parameters apart, take more than 2 GiB") from e


def _split(proto: onnx.ModelProto, path: Path) -> None:
    """Move initializers of a page or more into a file beside ``path``."""
    number = 0
    while (beside := path.with_name(f"{path.name}.{number}.data")).exists():
        number += 1
    with _replacing(beside) as file:
        for t in proto.graph.initializer:
            if not t.HasField("raw_data") or len(t.raw_data) < _PAGE:
                continue
            offset = -(-file.tell() // _PAGE) * _PAGE
            file.seek(offset)
            length = file.write(t.raw_data)
            t.ClearField("raw_data")
            t.data_location = onnx.TensorProto.EXTERNAL
            for key, value in (("location", beside.name), ("offset", offset), ("length", length)):
                t.external_data.add(key=key, value=str(value))


@contextmanager
def _replacing(path: Path) -> Iterator[BinaryIO]:
    """A file that takes the place of ``path`` once it is complete."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.part")
    try:
        with partial.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


__all__ = ["LARGEST", "save", "with_values"]
