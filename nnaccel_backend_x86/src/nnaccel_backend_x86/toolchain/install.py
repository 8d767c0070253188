"""Installing ISPC into nnaccel's own toolchain folder, from Debian 13's packages, without root.

apt downloads the packages with private state, so that the machine's own packages are untouched; its signature check
against Debian's archive keys covers all of them, and the two that matter are pinned by checksum besides. The mirror is
the one the machine already uses. They are unpacked, never installed, and run through their own loader.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from nnaccel_backend_x86.toolchain.find import (
    INSTALL_COMMAND,
    Ispc,
    ask_version,
    compiler_environment,
    examine,
    find_private,
    private_command,
    toolchain_dir,
)
from nnaccel_core.errors import ToolchainError

RELEASE = "trixie"
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
VERSION = "1.26.0"

#: Package, version and SHA-256 of what was examined and is trusted; the rest rests on apt's signature check alone.
PINNED = {
    "ispc": ("1.26.0-1", "c2df9b2e94e0cc0dc7a30aee3157cfdbdd37ffbcfa9c098969b4dd77898e6bf8"),
    "libllvm19": ("1:19.1.7-3+b1", "db0d614d61345ca710fb73e75105f1ec6e38898fa7b3aa99fa7eb7d8b0a11d57"),
}
_OTHERWISE = "otherwise install ISPC 1.25 or newer yourself and set NNACCEL_ISPC to it"

Progress = Callable[[str], None]


def install_ispc(progress: Progress = lambda text: None, any_version: bool = False) -> Ispc:
    """Install ISPC into `toolchain_dir` unless it is there, and return it. About 45 MB are downloaded.

    Safe to run in several processes at once and to interrupt: the folder appears whole by one rename.

    Args:
        progress: called with a line for people at each step.
        any_version: accept other versions of the pinned packages, on the archive's signature alone.

    Raises:
        ToolchainError: the machine is not a Debian with apt, nothing could be downloaded, or a checksum does not match.
    """
    root = toolchain_dir()
    with _locked(root):
        found = find_private(root)
        if found is not None:
            progress(f"ISPC {found.version} is already in {root}")
            return found
        _check_machine()
        with tempfile.TemporaryDirectory(prefix=".install-", dir=root) as name:
            work = Path(name)
            debs = _download(work, progress, any_version)
            progress(f"unpacking {len(debs)} packages")
            unpacked = work / "unpacked"
            for deb in debs:
                _run(["dpkg-deb", "-x", str(deb), str(unpacked)], f"unpacking {deb.name}")
            shutil.rmtree(unpacked / "usr/share", ignore_errors=True)  # documentation, translations
            version = ask_version(private_command(unpacked))
            final = root / f"ispc-{VERSION}"
            if final.exists():  # find_private refused it: a damaged installation
                shutil.rmtree(final)
            os.rename(unpacked, final)
        progress(f"installed {version.strip()} in {final}")
        return examine(private_command(final), f"toolchain folder {root}")


@contextmanager
def _locked(root: Path) -> Iterator[None]:
    try:
        root.mkdir(parents=True, exist_ok=True)
        lock = open(root / ".lock", "w")  # noqa: SIM115
    except OSError as e:
        raise ToolchainError(f"cannot write the toolchain folder {root}: {e}; set NNACCEL_TOOLCHAIN_DIR to a writable one") from e
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _check_machine() -> None:
    if platform.machine() != "x86_64":
        raise ToolchainError(f"Debian's ISPC package used here is for x86-64, this machine is {platform.machine()}; {_OTHERWISE}")
    for tool in ("apt-get", "apt-config", "dpkg-deb"):
        if shutil.which(tool) is None:
            raise ToolchainError(f"{tool} is not on this machine, so Debian's ISPC package cannot be downloaded; {_OTHERWISE}")
    if not os.path.isfile(KEYRING):
        raise ToolchainError(f"{KEYRING} is missing, so Debian's packages cannot be checked; "
                             f"run: apt-get install debian-archive-keyring")  # fmt: skip


def mirrors() -> list[str]:
    """Archives with Debian's main section, from the machine's own apt settings, likeliest first.

    Raises:
        ToolchainError: the settings name none.
    """
    listing = _run(["apt-get", "indextargets", "--format", "$(REPO_URI) $(RELEASE) $(COMPONENT)"], "reading apt's settings")
    found: list[str] = []
    for line in listing.splitlines():
        uri, _, rest = line.partition(" ")
        release, _, component = rest.partition(" ")
        # "bookworm", not "bookworm-security": those archives hold other packages.
        if component == "main" and "-" not in release and "/" not in release and uri not in found:
            found.append(uri)
    found.sort(key=lambda uri: not uri.rstrip("/").endswith("/debian"))
    if not found:
        raise ToolchainError(f"this machine's apt settings name no Debian archive to download ISPC from; {_OTHERWISE}")
    return found


def _download(work: Path, progress: Progress, any_version: bool) -> list[Path]:
    refused = []
    for number, uri in enumerate(mirrors()):
        apt = _private_apt(work / f"apt{number}", uri)
        try:
            progress(f"reading the package list of Debian {RELEASE}")
            _run(["apt-get", "update"], "reading Debian's package list", apt)
            wanted = ["ispc"] if any_version else [f"{name}={version}" for name, (version, _) in PINNED.items()]
            progress("downloading ISPC and its libraries (about 45 MB)")
            _run(["apt-get", "install", "--yes", "--no-install-recommends", "--download-only", *wanted], "downloading ISPC", apt)
        except ToolchainError as e:
            refused.append(f"{uri}: {e}")
            continue
        debs = sorted((work / f"apt{number}" / "cache/archives").glob("*.deb"))
        _check_pins(debs, any_version)
        return debs
    reasons = "\n  ".join(refused)
    raise ToolchainError(f"ISPC could not be downloaded from the archives of this machine's apt settings:\n  {reasons}\n"
                         f"check the network and retry with: {INSTALL_COMMAND}; {_OTHERWISE}")  # fmt: skip


def _private_apt(base: Path, uri: str) -> dict[str, str]:
    """An environment in which apt knows only ``uri``, no installed package, and keeps its files under ``base``."""
    for sub in ("state/lists/partial", "cache/archives/partial", "etc"):
        (base / sub).mkdir(parents=True)
    (base / "status").touch()
    (base / "etc/sources.list").write_text(f"deb [arch=amd64 signed-by={KEYRING}] {uri} {RELEASE} main\n")
    # The machine's proxies and the like stay in force; its other settings (hooks, folders, pins) do not concern us.
    settings = _run(["apt-config", "dump", "Acquire"], "reading apt's settings")
    none = "/dev/null"
    settings += "".join(f'{key} "{value}";\n' for key, value in {
        "Dir::State": base / "state",
        "Dir::State::lists": base / "state/lists",
        "Dir::State::status": base / "status",
        "Dir::State::extended_states": base / "state/extended_states",
        "Dir::Cache": base / "cache",
        "Dir::Cache::archives": base / "cache/archives",
        "Dir::Etc::main": none,
        "Dir::Etc::parts": none,
        "Dir::Etc::sourcelist": base / "etc/sources.list",
        "Dir::Etc::sourceparts": none,
        "Dir::Etc::preferences": none,
        "Dir::Etc::preferencesparts": none,
        "Dir::Log": base / "etc",
        "APT::Architecture": "amd64",
        "APT::Architectures": "amd64",
        "APT::Sandbox::User": "",  # as root, apt's own user could not write here
        "APT::Get::AllowUnauthenticated": "false",
        "Acquire::AllowInsecureRepositories": "false",
        "Acquire::Languages": "none",
        "Acquire::Retries": "3",
    }.items())  # fmt: skip
    (base / "etc/apt.conf").write_text(settings)
    return {"APT_CONFIG": str(base / "etc/apt.conf"), "DEBIAN_FRONTEND": "noninteractive"}


def _check_pins(debs: Sequence[Path], any_version: bool) -> None:
    for name, (version, expected) in PINNED.items():
        files = [d for d in debs if d.name.startswith(f"{name}_")]
        if not files and not any_version:
            raise ToolchainError(f"apt downloaded no package {name}; {_OTHERWISE}")
        for deb in files:
            if any_version and not deb.name.startswith(f"{name}_{version.replace(':', '%3a')}_"):
                continue
            got = hashlib.sha256(deb.read_bytes()).hexdigest()
            if got != expected:
                raise ToolchainError(f"{deb.name} has SHA-256 {got}, but {expected} is pinned; it is not used. "
                                     f"The archive or the way to it may be tampered with; {_OTHERWISE}")  # fmt: skip


def _run(command: Sequence[str], what: str, extra: dict[str, str] | None = None) -> str:
    env = compiler_environment() | (extra or {})
    try:
        done = subprocess.run(command, capture_output=True, text=True, env=env, stdin=subprocess.DEVNULL)
    except OSError as e:
        raise ToolchainError(f"{what} failed: {e}") from e
    if done.returncode != 0:
        said = "\n".join((done.stderr or done.stdout).strip().splitlines()[-8:])
        raise ToolchainError(f"{what} failed ({' '.join(command[:2])}, exit status {done.returncode}): {said}")
    return done.stdout
