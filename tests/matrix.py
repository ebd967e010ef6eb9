# SPDX-License-Identifier: Apache-2.0
"""The tests in fresh virtual environments: lowest and newest dependencies, on each Python.

    python -m tests.matrix [--python 3.10 ...] [--deps lowest newest] [--extra NAME] [--folder DIR] [--plan]
                           [TEST ...]

"newest" installs the extra dev as pip resolves it. "lowest" holds every requirement of the extra test (dev
without trackers, which requires newer packages) to the release series of its lower bound in pyproject.toml
(numpy>=1.26: 1.26.*; pytest>=8: 8.0.*), on the oldest and the newest Python. TEST is what pytest runs
(default: the whole suite). A version of Python that is not installed is reported as not run. Exit code 1: an
environment failed, or none ran.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]


def project() -> dict[str, Any]:
    """The table [project] of pyproject.toml."""
    try:
        import tomllib
    except ImportError:  # Python 3.10
        from pip._vendor import tomli as tomllib
    return dict(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"])


def requirements(table: dict[str, Any], extra: str) -> Iterator[Requirement]:
    """What an extra needs, the project's own extras resolved; "" is what every installation needs."""
    for text in table["optional-dependencies"][extra] if extra else table["dependencies"]:
        requirement = Requirement(text)
        if requirement.name == table["name"]:
            for other in sorted(requirement.extras):
                yield from requirements(table, other)
        else:
            yield requirement


def lowest(table: dict[str, Any], extra: str, python: str) -> list[str]:
    """Constraints, such as "numpy==1.26.*", of what an extra needs on a version of Python, such as "3.10".

    Of two lower bounds the higher one counts.

    Raises:
        ValueError: a requirement has no lower bound.
    """
    bounds: dict[str, Version] = {}
    for requirement in [*requirements(table, ""), *requirements(table, extra)]:
        if requirement.marker and not requirement.marker.evaluate({"python_version": python}):
            continue
        bound = next((s.version for s in requirement.specifier if s.operator == ">="), None)
        if bound is None:
            raise ValueError(f"pyproject.toml: '{requirement}' has no lower bound")
        name = requirement.name
        bounds[name] = max(bounds.get(name, Version("0")), Version(bound))
    pins = ((name, str(bound)) for name, bound in bounds.items())
    return sorted(f"{name}=={text}.*" if "." in text else f"{name}=={text}.0.*" for name, text in pins)


def pythons(table: dict[str, Any]) -> list[str]:
    """The versions that the project's classifiers name, ascending: 3.10, 3.11, ..."""
    found = [re.fullmatch(r"Programming Language :: Python :: (3\.\d+)", c) for c in table["classifiers"]]
    return sorted((match[1] for match in found if match), key=lambda v: int(v.partition(".")[2]))


def interpreter(version: str) -> str | None:
    """A program that is this version of Python, or None."""
    # pyenv keeps versions that are not on PATH, and puts programs there that only say so.
    homes = Path.home() / ".pyenv" / "versions"
    candidates = [shutil.which(f"python{version}"), *sorted(map(str, homes.glob(f"{version}.*/bin/python")))]
    code = "import sys; print('%d.%d' % sys.version_info[:2])"
    for program in candidates:
        if program:
            done = subprocess.run([program, "-c", code], capture_output=True, text=True, check=False)
            if done.stdout.strip() == version:
                return program
    return None


def run(program: str, folder: Path, extra: str, constraints: Sequence[str], tests: Sequence[str]) -> str:
    """Makes an environment and runs the tests in it: "passed", or what failed."""
    python = str(folder / "bin" / "python")
    options: list[str] = []
    if constraints:
        (folder.parent / f"{folder.name}.txt").write_text("\n".join(constraints) + "\n")
        options = ["-c", str(folder.parent / f"{folder.name}.txt")]
    # Linters and the types of packages are those of the newest versions.
    choice = ["-m", "not lint" if constraints else ""]
    what = ["-e", f"{ROOT}[{extra}]" if extra else str(ROOT), "pytest", "pytest-xdist"]
    for name, command in {
        "making the environment": [program, "-m", "venv", "--clear", str(folder)],
        "installing": [python, "-m", "pip", "install", "-q", *options, *what],
        "what fits together": [python, "-m", "pip", "check"],
        "the tests": [python, "-m", "pytest", *choice, *tests],
    }.items():
        print("+", *command, flush=True)
        done = subprocess.run(command, cwd=ROOT, check=False)
        if done.returncode:
            return f"FAILED: {name}, exit code {done.returncode}"
    return "passed"


def main(argv: Sequence[str] | None = None) -> int:
    table = project()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--python", nargs="+", default=pythons(table), metavar="VERSION")
    parser.add_argument("--deps", nargs="+", choices=("lowest", "newest"), default=("lowest", "newest"))
    parser.add_argument("--extra", help='of pyproject.toml; "" for none; default: dev, and test for lowest')
    parser.add_argument("--folder", type=Path, help="where the environments are made and kept")
    parser.add_argument("--plan", action="store_true", help="say what would run, and stop")
    parser.add_argument("tests", nargs="*", metavar="TEST", help="arguments of pytest")
    options = parser.parse_args(argv)
    results: dict[str, str] = {}
    with tempfile.TemporaryDirectory(prefix="imp_trt_matrix_") as scratch:
        for deps in options.deps:
            extra = options.extra if options.extra is not None else {"lowest": "test", "newest": "dev"}[deps]
            every = pythons(table)
            ends = [version for version in options.python if version in (every[0], every[-1])]
            for version in ends if deps == "lowest" else options.python:
                pins = lowest(table, extra, version) if deps == "lowest" else []
                name = f"python{version}-{deps}"
                program = interpreter(version)
                if program is None:
                    results[name] = f"NOT RUN: Python {version} is not installed"
                elif options.plan:
                    results[name] = " ".join([f"would run on {program}", *pins])
                else:
                    folder = (options.folder or Path(scratch)).resolve() / name
                    folder.parent.mkdir(parents=True, exist_ok=True)
                    results[name] = run(program, folder, extra, pins, options.tests)
    for name, result in results.items():
        print(f"{name}: {result}")
    failed = any(result.startswith("FAILED") for result in results.values())
    return int(failed or all(result.startswith("NOT RUN") for result in results.values()))


if __name__ == "__main__":
    sys.exit(main())
