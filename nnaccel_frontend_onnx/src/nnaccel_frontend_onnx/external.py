"""Weights that lie in files beside the model. They are read from the model's own folder only."""

from __future__ import annotations

from pathlib import Path

import onnx

from nnaccel_frontend_onnx.errors import ModelError


def read_external(t: onnx.TensorProto, folder: Path | None, what: str) -> onnx.TensorProto:
    """The tensor with its bytes inside.

    Raises:
        ModelError: there is no folder (the model came as bytes), the file is outside of it, also through a link, or too short.
    """
    fields = {e.key: e.value for e in t.external_data}
    location = fields.get("location", "")
    if folder is None:
        raise ModelError(f"{what} lies in the file {location!r} beside the model: give optimize() its path, not its bytes")
    root = folder.resolve()
    path = (root / location).resolve()
    if not location or Path(location).is_absolute() or not path.is_relative_to(root):
        raise ModelError(f"{what} lies in {location!r}, outside of the model's folder; that is refused")
    try:
        offset, length = int(fields.get("offset", 0)), int(fields.get("length", -1))
    except ValueError as e:
        raise ModelError(f"{what}: offset and length of its external data are no numbers") from e
    if not path.is_file():
        raise ModelError(f"{what} lies in {location!r}, which does not exist in the model's folder")
    size = path.stat().st_size
    if length < 0:
        length = size - offset
    if offset < 0 or length < 0 or offset + length > size:
        raise ModelError(f"{what} is bytes {offset} to {offset + length} of {location!r}, which has {size}")
    with path.open("rb") as f:
        f.seek(offset)
        raw = f.read(length)
    whole = onnx.TensorProto()
    whole.CopyFrom(t)
    whole.ClearField("external_data")
    whole.ClearField("data_location")
    whole.raw_data = raw
    return whole
