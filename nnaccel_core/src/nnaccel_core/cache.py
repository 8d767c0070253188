"""The disk cache: what is expensive to make and safe to keep between processes (compiled kernels, measurements).

Files lie at ``ROOT/v1/KIND/KK/KEY.CHECKSUM``. The checksum is in the name, so that an entry appears whole by one
rename and needs no second file; a read that does not match it is dropped. Nothing is ever changed in place, so
any number of processes and threads may share a cache, over any file system with atomic renames.
"""

from __future__ import annotations

import atexit
import contextlib
import hashlib
import os
import re
import shutil
import tempfile
import threading
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from nnaccel_core.errors import NnaccelError

#: Bump when the layout of the folder or the meaning of entries changes; other versions are left alone.
VERSION = "v1"
DEFAULT_LIMIT = 2 << 30
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_NAME = re.compile(r"[A-Za-z0-9_-]{1,128}")
_TMP_PREFIX = ".tmp-"
_STALE_SECONDS = 3600.0
#: Folders that stand in for roots that cannot be written.
_privates: dict[Path, Path] = {}
#: Bytes in each folder as far as this process knows: caches on one folder share it, and scan it once.
_held: dict[Path, int] = {}
_private_lock = threading.Lock()


def make_key(*parts: str | bytes) -> str:
    """A key (64 hex digits) of everything that affects an entry; ``("ab", "c")`` and ``("a", "bc")`` differ."""
    digest = hashlib.sha256()
    for part in parts:
        raw = part.encode() if isinstance(part, str) else part
        digest.update(len(raw).to_bytes(8, "little"))
        digest.update(raw)
    return digest.hexdigest()


def default_root() -> Path:
    """``$NNACCEL_CACHE_DIR``, else ``$XDG_CACHE_HOME/nnaccel``, else ``~/.cache/nnaccel``."""
    own = os.environ.get("NNACCEL_CACHE_DIR")
    if own:
        return Path(own).expanduser()
    base = os.environ.get("XDG_CACHE_HOME", "")
    # The XDG specification has relative paths ignored.
    return (Path(base) if os.path.isabs(base) else Path(os.path.expanduser("~/.cache"))) / "nnaccel"


def size_limit() -> int:
    """Bytes the cache may hold: ``$NNACCEL_CACHE_SIZE`` ("500M", "2G", plain bytes), else 2 GiB.

    Raises:
        NnaccelError: it is not a size.
    """
    raw = os.environ.get("NNACCEL_CACHE_SIZE", "")
    if not raw:
        return DEFAULT_LIMIT
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:I?B)?", raw.strip().upper())
    if match is None:
        raise NnaccelError(f"NNACCEL_CACHE_SIZE={raw!r} is not a size; write bytes, or a number with K, M, G or T")
    return int(float(match[1]) * _UNITS[match[2]])


@dataclass(frozen=True)
class Entry:
    """One file of the cache: ``used`` is the time (seconds since the epoch) of its last use."""

    path: Path
    nbytes: int
    used: float


class DiskCache:
    """A folder of checksummed entries with least-recently-used eviction.

    Args:
        root: the folder; None means `default_root`.
        limit: bytes it may hold; None means `size_limit`.

    When the folder cannot be written (read-only, full disk), one warning says so and what this process makes goes to
    a private temporary folder, removed at exit; what the folder already holds is still read.
    """

    def __init__(self, root: str | os.PathLike[str] | None = None, limit: int | None = None) -> None:
        self.root = Path(root) if root is not None else default_root()
        self.limit = size_limit() if limit is None else limit
        self._private: Path | None = None
        self._lock = threading.Lock()

    @property
    def path(self) -> Path:
        """The folder of this version's entries."""
        return self.root / VERSION

    def get(self, kind: str, key: str) -> Path | None:
        """The entry's file, or None. Its content was checked; another process may evict it at any time.

        A damaged entry is removed with a warning, and counts as absent.
        """
        _check_names(kind, key)
        for base in (self.path, self._private):
            if base is None:
                continue
            for path in _entries_of(base / kind / key[:2], key):
                try:
                    good = _checksum(path.read_bytes()) == path.name.rpartition(".")[2]
                except OSError:
                    continue  # evicted meanwhile
                if good:
                    with contextlib.suppress(OSError):
                        os.utime(path)
                    return path
                warnings.warn(f"nnaccel's cache entry {path} is damaged; it is dropped and will be rebuilt", RuntimeWarning)
                with contextlib.suppress(OSError):
                    path.unlink()
        return None

    def put(self, kind: str, key: str, data: bytes | Path) -> Path:
        """Keep ``data`` (bytes, or a file's content) and return its file. Appears whole or not at all.

        Raises:
            NnaccelError: neither the cache nor a temporary folder can be written.
        """
        _check_names(kind, key)
        content = data.read_bytes() if isinstance(data, Path) else data
        with self._lock:
            if self._private is None:
                try:
                    path = _write(self.path / kind / key[:2], key, content)
                except OSError as e:
                    self._private = self._make_private(e)
                else:
                    self._bound(path, len(content))
                    return path
            try:
                return _write(self._private / kind / key[:2], key, content)
            except OSError as e:
                raise NnaccelError(
                    f"cannot write {len(content)} bytes to the temporary folder {self._private}: {e}; "
                    f"free disk space, or set TMPDIR and NNACCEL_CACHE_DIR to folders with room"
                ) from e

    def entries(self) -> list[Entry]:
        """All entries, least recently used first."""
        found = []
        for path in _walk(self.path):
            if path.name.startswith(_TMP_PREFIX):
                continue
            with contextlib.suppress(OSError):
                stat = path.stat()
                found.append(Entry(path, stat.st_size, stat.st_mtime))
        return sorted(found, key=lambda e: e.used)

    def size(self) -> int:
        """Bytes held by all entries."""
        return sum(e.nbytes for e in self.entries())

    def clear(self) -> int:
        """Remove every entry of every version; returns the bytes freed. Files in use by a process stay usable to it."""
        freed = 0
        if self.root.is_dir():
            # Only what is ours: the user may have pointed NNACCEL_CACHE_DIR at a folder with other things in it.
            for version in self.root.iterdir():
                if re.fullmatch(r"v\d+", version.name) and version.is_dir():
                    freed += sum(p.stat().st_size for p in _walk(version))
                    shutil.rmtree(version)
        _held.pop(self.path, None)
        return freed

    def _bound(self, newest: Path, added: int) -> None:
        """Evict what was used longest ago when the folder outgrew its limit; ``newest`` stays."""
        with _private_lock:
            known = _held.get(self.path)
            if known is not None:
                _held[self.path] = known + added
        if known is not None and known + added <= self.limit:
            return
        self._remove_stale()
        entries = self.entries()
        held = sum(e.nbytes for e in entries)
        if held > self.limit:
            # Down to 90 %, so that a full cache is not scanned at every write.
            for entry in entries:
                if held <= 0.9 * self.limit:
                    break
                if entry.path != newest:
                    with contextlib.suppress(OSError):
                        entry.path.unlink()
                    held -= entry.nbytes
        with _private_lock:
            _held[self.path] = held

    def _remove_stale(self) -> None:
        """Remove what killed writers left behind."""
        for path in _walk(self.path):
            if path.name.startswith(_TMP_PREFIX):
                with contextlib.suppress(OSError):
                    if time.time() - path.stat().st_mtime > _STALE_SECONDS:
                        path.unlink()

    def _make_private(self, cause: OSError) -> Path:
        """The process's folder that stands in for this root, the same for all caches on it; warns when it is made."""
        with _private_lock:
            found = _privates.get(self.root)
            if found is None or not found.is_dir():
                found = _privates[self.root] = self._new_private(cause)
            return found

    def _new_private(self, cause: OSError) -> Path:
        try:
            folder = Path(tempfile.mkdtemp(prefix="nnaccel-"))
        except OSError as e:
            raise NnaccelError(f"cannot write the cache {self.root} ({cause}) nor a temporary folder ({e}); "
                               f"set NNACCEL_CACHE_DIR to a writable folder") from e  # fmt: skip
        owner = os.getpid()

        def remove() -> None:
            if os.getpid() == owner:  # not in a forked child
                shutil.rmtree(folder, ignore_errors=True)

        atexit.register(remove)
        warnings.warn(
            f"nnaccel's cache {self.root} cannot be written ({cause}); what this process compiles is kept in {folder} "
            f"and lost at exit. Set NNACCEL_CACHE_DIR to a writable folder with free space to keep it.",
            RuntimeWarning,
        )
        return folder


def _check_names(kind: str, key: str) -> None:
    for name in (kind, key):
        if not _NAME.fullmatch(name):
            raise ValueError(f"cache kinds and keys are 1 to 128 letters, digits, '_' or '-', not {name!r}; see make_key")


def _checksum(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:32]


def _entries_of(folder: Path, key: str) -> list[Path]:
    try:
        with os.scandir(folder) as it:
            return [Path(e.path) for e in it if e.name.startswith(key + ".")]
    except OSError:
        return []


def _walk(folder: Path) -> Iterator[Path]:
    for base, _, files in os.walk(folder):
        for name in files:
            yield Path(base) / name


def _write(folder: Path, key: str, content: bytes) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=_TMP_PREFIX, dir=folder)
    try:
        with os.fdopen(handle, "wb") as f:
            f.write(content)
            f.flush()
            os.fsync(f.fileno())
        final = folder / f"{key}.{_checksum(content)}"
        os.replace(temporary, final)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    for other in _entries_of(folder, key):
        # An older result under the same key: compilers need not be deterministic to the byte.
        if other != final:
            with contextlib.suppress(OSError):
                other.unlink()
    return final
