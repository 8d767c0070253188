"""Arguments and dispatch of the ``nnaccel`` command."""

from __future__ import annotations

import argparse
import importlib.util
import runpy
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import EntryPoint, entry_points

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from nnaccel_core.cache import DiskCache
from nnaccel_core.cli import doctor
from nnaccel_core.errors import NnaccelError
from nnaccel_core.hooks.manager import Manager, manager
from nnaccel_core.hooks.plugins import core_version

#: Entry-point group of commands that other packages add.
COMMANDS = "nnaccel.commands"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status (0 success, 1 something is wrong, 2 wrong usage)."""
    parser = argparse.ArgumentParser(prog="nnaccel", description="Make an existing network faster on the hardware at hand.")
    parser.add_argument("--version", action="version", version=f"nnaccel-core {core_version()}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    plugins = commands.add_parser("plugins", help="list the installed plug-ins")
    plugins.add_argument("--load", action="store_true", help="load each, to find the broken ones")
    check = commands.add_parser("doctor", help="what was found, what is missing, the command that mends it")
    check.add_argument("--fix", action="store_true", help="install what is missing, where nnaccel can do it")
    cache = commands.add_parser("cache", help="the disk cache of compiled kernels")
    cache.add_argument("action", choices=("path", "size", "clear"), help="print its folder, print its size, empty it")
    commands.add_parser("demo", help="classify photos before and after optimize", add_help=False)
    added = added_commands()
    for name, ways in sorted(added.items()):
        commands.add_parser(name, help=_help_of(name, ways), add_help=False)
    args, rest = parser.parse_known_args(argv)
    if rest and args.command != "demo" and args.command not in added:  # these have arguments of their own
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    console = Console(highlight=False)
    try:
        if args.command == "plugins":
            return show_plugins(console, manager(), args.load)
        if args.command == "doctor":
            return doctor.run(console, manager(), args.fix)
        if args.command == "cache":
            return manage_cache(args.action)
        if args.command in added:
            return run_added(chosen(args.command, added[args.command], rest), rest)
        return run_demo(rest)
    except NnaccelError as e:
        print(f"nnaccel: {e}", file=sys.stderr)
        return 1


def added_commands() -> dict[str, dict[str, EntryPoint]]:
    """Commands that installed packages add: entry points ``name = "module:main"`` of group `COMMANDS`, not yet loaded.

    ``main(argv) -> int`` gets the arguments behind the command's name and returns the exit status. Several packages may offer a
    command: one as ``name``, others as ``name.kind``, for arguments that say so (`chosen`).

    Returns:
        by command, then by kind ("" where there is none).
    """
    found: dict[str, dict[str, EntryPoint]] = {}
    for point in entry_points(group=COMMANDS):
        command, _, kind = point.name.partition(".")
        found.setdefault(command, {})[kind] = point
    return found


def chosen(command: str, ways: Mapping[str, EntryPoint], arguments: Sequence[str]) -> EntryPoint:
    """Which package's ``command`` runs: that of a kind that an argument names, as the ending of a file (``net.onnx``) or as an
    option (``--onnx``); else the one of no kind.

    Raises:
        NnaccelError: there is none of no kind, and the arguments name no kind.
    """
    for kind, point in ways.items():
        if kind and any(a.endswith(f".{kind}") or a.partition("=")[0] == f"--{kind}" for a in arguments):
            return point
    if "" in ways:
        return ways[""]
    if len(ways) == 1:
        return next(iter(ways.values()))
    kinds = ", ".join(f".{kind}" for kind in sorted(ways))
    raise NnaccelError(f"{command}: name a file that ends in one of {kinds}")


def _help_of(name: str, ways: Mapping[str, EntryPoint]) -> str:
    packages = {kind: point.dist.name if point.dist else "an unknown package" for kind, point in ways.items()}
    parts = [packages[""]] if "" in packages else []
    parts += [f"{package} for .{kind} (or with --{kind})" for kind, package in sorted(packages.items()) if kind]
    return f"from {', '.join(parts)}; 'nnaccel {name} --help' describes it"


def run_added(point: EntryPoint, arguments: Sequence[str]) -> int:
    """Load and run a package's command.

    Raises:
        NnaccelError: it does not load; names the package and the cause.
    """
    try:
        run = point.load()
    except Exception as e:
        package = f"{point.dist.name} {point.dist.version}" if point.dist else "an unknown package"
        raise NnaccelError(f"command {point.name!r} of {package} does not load: {type(e).__name__}: {e}") from e
    status: int = run(list(arguments))
    return status


def show_plugins(console: Console, plugins: Manager, load: bool) -> int:
    """The table of plug-ins; with ``load`` each is loaded first. Status 1 when one is broken."""
    if load:
        for name in plugins.plugins.names():
            try:
                plugins.plugins.load(name)
            except NnaccelError:
                continue  # the table shows it
    infos = plugins.list_plugins()
    if not infos:
        print("no plug-ins are installed; for PyTorch on x86 CPUs: pip install 'nnaccel[torch,x86]'")
        return 0
    table = Table("plug-in", "package", "version", "state", box=None, pad_edge=False)
    for info in infos:
        table.add_row(*map(escape, (info.name, info.package, info.version, info.state)))
    console.print(table)
    for error in dict.fromkeys(info.error for info in infos if info.error):
        console.print(f"\n{escape(error)}", soft_wrap=True)
    return 1 if any(info.state == "broken" for info in infos) else 0


def manage_cache(action: str) -> int:
    """``nnaccel cache``: machine-readable on purpose, one value on a line."""
    cache = DiskCache()
    if action == "path":
        print(cache.root)
    elif action == "size":
        print(f"{cache.size()} bytes of {cache.limit} in {len(cache.entries())} entries")
    else:
        print(f"{cache.clear()} bytes freed")
    return 0


def run_demo(arguments: Sequence[str]) -> int:
    """Run the demo program, a package of its own: the core knows no framework."""
    if importlib.util.find_spec("nnaccel_demo") is None:
        raise NnaccelError("the demo is not installed; in a clone of nnaccel's repository run: make demo")
    saved = sys.argv
    sys.argv = ["nnaccel demo", *arguments]
    try:
        runpy.run_module("nnaccel_demo", run_name="__main__")
    except SystemExit as e:
        return e.code if isinstance(e.code, int) else int(e.code is not None)
    finally:
        sys.argv = saved
    return 0
