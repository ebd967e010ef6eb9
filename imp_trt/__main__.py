# SPDX-License-Identifier: Apache-2.0
"""python -m imp_trt: the commands, and completion of their options in a shell."""

from __future__ import annotations

import argparse
from importlib import import_module

import imp_trt
from imp_trt.cli.common import run_command
from imp_trt.cli.printing import print_line
from imp_trt.errors import DependencyMissing

COMMANDS = {
    "imp-demo": "imp_trt.cli.demo",
    "imp-segment": "imp_trt.cli.segment",
    "imp-export": "imp_trt.cli.export",
    "imp-bench": "imp_trt.cli.bench",
    "imp-inspect": "imp_trt.cli.inspect",
    "imp-selftest": "imp_trt.cli.selftest",
    "imp-doctor": "imp_trt.cli.doctor",
    "imp-import": "imp_trt.cli.import_",
    "imp-data": "imp_trt.cli.data",
    "imp-train": "imp_trt.cli.train",
    "imp-eval": "imp_trt.cli.eval",
}
"""Command -> module with ``main`` and ``parser``; the entry points of pyproject.toml."""

SHELLS = ("bash", "zsh", "tcsh")


def main(argv: list[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    options = _parser().parse_args(argv)
    return run_command(lambda: _complete(options.completion) if options.completion else _list())


def _parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        prog="python -m imp_trt", description="List the commands of imp-trt.", allow_abbrev=False
    )
    p.add_argument(
        "--completion",
        choices=SHELLS,
        help="print a script that completes the options of all commands in this shell",
    )
    p.add_argument("--version", action="version", version=f"imp-trt {imp_trt.__version__}")
    return p


def _list() -> int:
    print_line(f"imp-trt {imp_trt.__version__}. Each command has --help.")
    for name, module in COMMANDS.items():
        print_line(f"  {name:<13} {import_module(module).parser().description}")
    return 0


def _complete(shell: str) -> int:
    try:
        import shtab
    except ModuleNotFoundError as error:
        raise DependencyMissing(
            "completion needs shtab", got=error, fix="pip install 'imp-trt[completion]'"
        ) from error
    for module in COMMANDS.values():
        print(shtab.complete(import_module(module).parser(), shell))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
