"""Finds where torch keeps the fields that the native guards read, by looking for known values, and checks the result.

Nothing is assumed of torch's release: if any field is not found, or a check fails, the guards run in Python.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable
from typing import Any

import torch

_REACH = 176  # bytes of a tensor implementation that are searched
_WORD = 8


def _words(raw: bytes) -> list[int]:
    return [v for (v,) in struct.iter_unpack("<Q", raw[: len(raw) // _WORD * _WORD])]


def _common(found: Iterable[set[int]]) -> set[int]:
    sets = list(found)
    return set.intersection(*sets) if sets else set()


def _only(found: set[int], what: str) -> int:
    if not found:
        raise LookupError(f"{what} was not found")
    return min(found)


def _samples() -> list[torch.Tensor]:
    """Tensors whose fields all hold telling values."""
    out: list[torch.Tensor] = []
    for k, bumps in enumerate((41, 77, 133)):
        base = torch.zeros(20000 + k)
        t = base[7001 + 13 * k :][: 3 * 5 * 7].view(3, 5, 7).permute(2, 0, 1)
        for _ in range(bumps):
            t.zero_()
        out.append(t)
    return out


def find(read: Callable[[int, int], bytes | None]) -> tuple[int, ...]:
    """Offsets of implementation, storage, counter, storage offset, sizes, strides, data, version.

    Args:
        read: reads memory safely; None where it can't.

    Raises:
        LookupError: a field was not found.
    """

    def need(address: int, n: int) -> bytes:
        raw = read(address, n)
        if raw is None:
            raise LookupError("memory can't be read")
        return raw

    samples = _samples()
    size = max(torch.Tensor.__basicsize__, 24)
    objects = [_words(need(id(t), size)) for t in samples]
    impl = _only(
        _common({i * _WORD for i, w in enumerate(ws) if w == t._cdata} for ws, t in zip(objects, samples, strict=True)),
        "the implementation",
    )
    raws = [need(t._cdata, _REACH) for t in samples]

    def field(name: str, values: Callable[[torch.Tensor], list[int]]) -> int:
        places = []
        for raw, t in zip(raws, samples, strict=True):
            wanted = struct.pack(f"<{len(values(t))}Q", *values(t))
            places.append({i for i in range(0, _REACH - len(wanted) + 1, _WORD) if raw[i : i + len(wanted)] == wanted})
        return _only(_common(places), name)

    storage = field("the storage", lambda t: [t.untyped_storage()._cdata])
    offset = field("the storage offset", lambda t: [t.storage_offset()])
    sizes = field("the sizes", lambda t: list(t.shape))
    strides = field("the strides", lambda t: list(t.stride()))
    stores = [(t.untyped_storage(), _words(need(t.untyped_storage()._cdata, 96))) for t in samples]
    data = _only(_common({i * _WORD for i, w in enumerate(ws) if w == s.data_ptr()} for s, ws in stores), "the data address")
    known = {storage, offset, *range(sizes, sizes + 24), *range(strides, strides + 24)}
    counter, version = _find_version(samples, raws, known, read)
    return impl, storage, counter, offset, sizes, strides, data, version


def _find_version(
    samples: list[torch.Tensor], raws: list[bytes], known: set[int], read: Callable[[int, int], bytes | None]
) -> tuple[int, int]:
    for place in range(_WORD, _REACH, _WORD):
        if place in known:
            continue
        hits: list[set[int]] = []
        for raw, t in zip(raws, samples, strict=True):
            (address,) = struct.unpack_from("<Q", raw, place)
            body = read(address, 40) if 0x10000 < address < 1 << 47 and address % _WORD == 0 else None
            if body is None:
                break
            hits.append({i for i in range(_WORD, 40, 4) if struct.unpack_from("<I", body, i)[0] == t._version})
        if len(hits) == len(samples) and _common(hits):
            return place, min(_common(hits))
    raise LookupError("the version counter was not found")


def dict_tag(native: Any) -> int:
    """Offset of a version tag that changes with every change of a dict, or -1 when this interpreter has none."""
    offset = 24  # after the object header and the number of entries, in CPython up to 3.12

    class Plain:
        pass

    def changes(d: dict[str, Any], change: Callable[[], None]) -> bool:
        before = native.dict_tag(d, offset)
        if native.dict_tag(d, offset) != before:
            return False
        change()
        return bool(native.dict_tag(d, offset) != before)

    owner = Plain()
    owner.a = 1  # type: ignore[attr-defined]
    attributes = owner.__dict__
    plain: dict[str, Any] = {"a": 1, "b": 2}
    steps: list[tuple[dict[str, Any], Callable[[], None]]] = [
        (plain, lambda: plain.__setitem__("a", 3)),
        (plain, lambda: plain.__setitem__("c", 3)),
        (plain, lambda: plain.__delitem__("b")),
        (plain, lambda: plain.update(a=5)),
        (plain, plain.clear),
        (attributes, lambda: setattr(owner, "a", 2)),
        (attributes, lambda: setattr(owner, "b", 2)),
        (attributes, lambda: object.__setattr__(owner, "b", 3)),
        (attributes, lambda: attributes.__setitem__("b", 4)),
        (attributes, lambda: delattr(owner, "b")),
    ]
    return offset if all(changes(d, change) for d, change in steps) else -1


def verified(native: Any) -> bool:
    """Whether the configured native guards notice each kind of change on fresh tensors, and nothing else."""
    p = torch.nn.Parameter(torch.arange(24.0).reshape(2, 3, 4))
    big = torch.nn.Parameter(torch.arange(5000.0))
    view = torch.arange(100.0)[10:20]
    with torch.inference_mode():
        frozen = torch.arange(6.0)

    def guard() -> Any:
        return native.Guard([], [(t, t.dim(), t.numel() * 4, 4) for t in (p, big, view, frozen)])

    def replace(t: torch.Tensor, new: torch.Tensor) -> None:
        t.data = new

    with torch.no_grad():
        changes: list[Callable[[], Any]] = [
            lambda: p.add_(1),
            lambda: p.data.mul_(2),
            lambda: replace(p, torch.zeros(2, 3, 4)),
            lambda: replace(big, big.data.flip(0)),
            lambda: replace(p, p.data.transpose(0, 1)),
            lambda: big.detach().numpy().__imul__(1.5),
            lambda: view.add_(1),
            lambda: frozen.numpy().__iadd__(1),
        ]
        for change in changes:
            g = guard()
            if g.check() != 0 or g.check() != 0:
                return False
            change()
            if g.check() != 1:
                return False
            g.resample()
            if g.check() != 0:
                return False
    return True
