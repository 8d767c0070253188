"""The disk cache: whole entries only, damage, several writers, no room, eviction."""

from __future__ import annotations

import multiprocessing
import os
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from nnaccel_core import cache as cache_module
from nnaccel_core.cache import DiskCache, default_root, make_key, size_limit
from nnaccel_core.errors import NnaccelError

KEY = make_key("a", "kernel")


def test_put_then_get(tmp_path):
    cache = DiskCache(tmp_path)
    assert cache.get("kernel", KEY) is None
    put = cache.put("kernel", KEY, b"code")
    got = DiskCache(tmp_path).get("kernel", KEY)
    assert got == put and got.read_bytes() == b"code"
    assert cache.get("other", KEY) is None
    assert put.is_relative_to(tmp_path / cache_module.VERSION)


def test_put_file_and_replace(tmp_path):
    cache = DiskCache(tmp_path / "cache")
    source = tmp_path / "lib.so"
    source.write_bytes(b"one")
    cache.put("library", KEY, source)
    cache.put("library", KEY, b"two")
    assert cache.get("library", KEY).read_bytes() == b"two"
    assert len(cache.entries()) == 1
    assert source.read_bytes() == b"one"


@pytest.mark.parametrize("damage", [lambda b: b[:-1], lambda b: b"X" + b[1:], lambda b: b""])
def test_damaged_entry_is_dropped_with_a_warning_and_can_be_rebuilt(tmp_path, damage):
    cache = DiskCache(tmp_path)
    path = cache.put("kernel", KEY, b"some code")
    path.write_bytes(damage(b"some code"))
    with pytest.warns(RuntimeWarning, match="damaged"):
        assert cache.get("kernel", KEY) is None
    assert not path.exists()
    assert cache.put("kernel", KEY, b"some code").read_bytes() == b"some code"


def test_names_that_could_leave_the_folder_are_refused(tmp_path):
    for kind, key in (("..", KEY), ("kernel", "../../x"), ("kernel", ""), ("a/b", KEY)):
        with pytest.raises(ValueError, match="letters, digits"):
            DiskCache(tmp_path).put(kind, key, b"")


def test_keys_depend_on_where_parts_end():
    assert make_key("ab", "c") != make_key("a", "bc") and make_key("a") == make_key(b"a")


def test_root_from_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("NNACCEL_CACHE_DIR", str(tmp_path / "own"))
    assert default_root() == tmp_path / "own"
    monkeypatch.delenv("NNACCEL_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_root() == tmp_path / "nnaccel"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert default_root() == Path.home() / ".cache/nnaccel"


SIZES = [("100", 100), ("2k", 2048), ("1.5M", 3 << 19), ("3GiB", 3 << 30), ("1 TB", 1 << 40), ("", 2 << 30)]


@pytest.mark.parametrize(("text", "value"), SIZES)
def test_size_limit(monkeypatch, text, value):
    monkeypatch.setenv("NNACCEL_CACHE_SIZE", text)
    assert size_limit() == value


def test_size_limit_that_is_none(monkeypatch):
    monkeypatch.setenv("NNACCEL_CACHE_SIZE", "lots")
    with pytest.raises(NnaccelError, match="NNACCEL_CACHE_SIZE='lots' is not a size"):
        DiskCache()


def test_least_recently_used_goes_first(tmp_path):
    cache = DiskCache(tmp_path, limit=1000)
    keys = [make_key(str(i)) for i in range(10)]
    for i, key in enumerate(keys):
        path = cache.put("kernel", key, bytes(100))
        os.utime(path, (i, i))
    cache.get("kernel", keys[0])  # used just now
    cache.put("kernel", make_key("new"), bytes(100))
    left = [key for key in keys if cache.get("kernel", key)]
    assert left == [keys[0], *keys[3:]]  # down to 90 % of the limit
    assert cache.size() <= 1000


def test_newest_entry_stays_even_when_it_alone_is_too_big(tmp_path):
    cache = DiskCache(tmp_path, limit=10)
    assert cache.put("kernel", KEY, bytes(100)).exists()
    assert cache.get("kernel", KEY) is not None
    cache.put("kernel", make_key("next"), bytes(100))
    assert cache.get("kernel", KEY) is None


def test_left_over_temporary_files_go_and_are_never_entries(tmp_path, monkeypatch):
    cache = DiskCache(tmp_path)
    folder = cache.put("kernel", KEY, b"x").parent
    old, fresh = folder / ".tmp-old", folder / ".tmp-new"
    for path in (old, fresh):
        path.write_bytes(b"half")
    os.utime(old, (0, 0))
    assert len(cache.entries()) == 1
    monkeypatch.setattr(cache_module, "_held", {})  # as in a new process
    DiskCache(tmp_path).put("kernel", make_key("b"), b"y")
    assert fresh.exists() and not old.exists()


def test_failed_write_leaves_nothing(tmp_path, monkeypatch):
    cache = DiskCache(tmp_path)
    monkeypatch.setattr(os, "replace", lambda *a: (_ for _ in ()).throw(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        cache.put("kernel", KEY, b"x")
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []


@pytest.mark.parametrize("cause", ["full", "file in the way"])
def test_unwritable_cache_warns_once_and_loses_nothing(tmp_path, monkeypatch, cause):
    root = tmp_path / "cache"
    if cause == "file in the way":
        root.write_text("")
    else:
        DiskCache(root).put("kernel", make_key("before"), b"old")
        real = os.fsync
        inside = {}

        def fsync(handle):
            if str(root) in os.readlink(f"/proc/self/fd/{handle}"):
                inside["met"] = True
                raise OSError(28, "No space left on device")
            real(handle)

        monkeypatch.setattr(os, "fsync", fsync)
    cache = DiskCache(root)
    with pytest.warns(RuntimeWarning, match=r"cannot be written.*NNACCEL_CACHE_DIR") as caught:
        first = cache.put("kernel", KEY, b"code")
        cache.put("kernel", make_key("second"), b"more")
    assert len(caught) == 1
    assert cache.get("kernel", KEY) == first and first.read_bytes() == b"code"
    assert not first.is_relative_to(root)
    if cause == "full":
        assert inside["met"] and cache.get("kernel", make_key("before")).read_bytes() == b"old"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_read_only_folder(tmp_path):
    root = tmp_path / "cache"
    root.mkdir()
    root.chmod(stat.S_IRUSR | stat.S_IXUSR)
    with pytest.warns(RuntimeWarning, match="cannot be written"):
        assert DiskCache(root).put("kernel", KEY, b"x").read_bytes() == b"x"


def test_private_folder_is_removed_at_exit(tmp_path):
    (tmp_path / "file").write_text("")
    code = "import sys\nfrom nnaccel_core.cache import DiskCache\nprint(DiskCache(sys.argv[1]).put('k', 'key', b'x'))"
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code, str(tmp_path / "file")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not Path(done.stdout.strip()).parents[2].exists()


def write_many(root: str, worker: int) -> None:
    cache = DiskCache(root, limit=200_000)
    for i in range(60):
        key = make_key(str(i % 20))
        content = f"{worker}-{i}".encode() * 1000
        cache.put("kernel", key, content)
        found = cache.get("kernel", key)
        if found is not None:
            try:
                text = found.read_bytes()
            except FileNotFoundError:
                continue  # another writer replaced it just now
            assert len(text) % 1000 == 0 and text[: len(text) // 1000] * 1000 == text


def test_concurrent_processes_and_threads(tmp_path):
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=write_many, args=(str(tmp_path), w)) for w in range(3)]
    threads = [threading.Thread(target=write_many, args=(str(tmp_path), 10 + w)) for w in range(3)]
    for p in [*processes, *threads]:
        p.start()
    for p in [*processes, *threads]:
        p.join()
    assert [p.exitcode for p in processes] == [0, 0, 0]
    cache = DiskCache(tmp_path)
    assert all(len(e.path.name.split(".")) == 2 for e in cache.entries())
    assert all(cache.get("kernel", e.path.name.split(".")[0]) for e in cache.entries())


def test_killed_writer_leaves_no_entry(tmp_path):
    code = (
        "import os, sys\nfrom nnaccel_core.cache import DiskCache\n"
        "os.fsync = lambda h: os.kill(os.getpid(), 9)\nDiskCache(sys.argv[1]).put('kernel', 'key', b'half')\n"
    )
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)]).returncode == -9
    assert DiskCache(tmp_path).get("kernel", "key") is None and DiskCache(tmp_path).entries() == []


def test_clear_removes_only_entries(tmp_path):
    cache = DiskCache(tmp_path)
    cache.put("kernel", KEY, b"12345")
    (tmp_path / "v0").mkdir()
    (tmp_path / "v0/old").write_bytes(b"123")
    (tmp_path / "notes.txt").write_text("the user's")
    assert cache.clear() == 8
    assert cache.size() == 0 and cache.get("kernel", KEY) is None
    assert (tmp_path / "notes.txt").exists() and not (tmp_path / "v0").exists()


def test_reading_is_quick(tmp_path):
    cache = DiskCache(tmp_path)
    keys = [make_key(str(i)) for i in range(30)]
    for key in keys:
        cache.put("kernel", key, key.encode())
    best = min(timed(lambda: [cache.get("kernel", key) for key in keys]) for _ in range(5))
    assert best < 0.05  # about 3 ms where nothing else runs


def timed(call) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start
