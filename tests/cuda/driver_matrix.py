# SPDX-License-Identifier: Apache-2.0
"""Which drivers, cuda-bindings and NVRTCs work together: `python -m tests.cuda.driver_matrix`.

Needs no GPU. The driver is tests/support/stub_libcuda.c, which rejects what is newer than the CUDA it is set
to; cuda-bindings and NVRTC are the published packages, installed by pip into folders of their own below
--cache (0.8 GB). Each driver runs with each cuda-bindings: a session that calls every function of the driver
that imp_trt calls; and with each set of NVRTCs, which compile a kernel. Prints a line for each combination;
the exit code is 1 if one ends in anything but a result or an error of imp_trt that says what to install.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import subprocess
import sys
import tempfile
from importlib import import_module
from pathlib import Path
from typing import Any

from imp_trt.cuda import calls, nvrtc, nvrtc_library
from imp_trt.errors import DependencyMissing, ImpTrtError
from tests.support.driver_session import ROOT, build_stub, drive, run_child

DRIVERS = (12020, 12060, 12080, 13000)
BINDINGS = ("cuda-bindings==12.9.3", "cuda-bindings==12.*", "cuda-bindings==13.0.*", "cuda-bindings==13.*")
NVRTCS = ("nvidia-cuda-nvrtc-cu12==12.6.*", "nvidia-cuda-nvrtc-cu12==12.9.*", "nvidia-cuda-nvrtc==13.*")
SETS = ((), (0,), (1,), (2,), (1, 2))  # of NVRTCS, found in one process
GPU = (9, 0)
SOURCES = ("imp_trt", "export", "plugins", "train")


def used_functions() -> set[str]:
    """The driver's functions whose names appear in imp_trt, as texts or as attributes of the bindings."""
    found = set()
    for path in (path for folder in SOURCES for path in (ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            name = node.value if isinstance(node, ast.Constant) else getattr(node, "attr", None)
            if isinstance(name, str) and name[:2] == "cu" and name[2:3].isupper() and name.isalnum():
                found.add(name)
    return {name for name in found if not name.startswith(("CU", "cuDNN"))}


def child() -> dict[str, Any]:
    """What one driver and one cuda-bindings do, and what is compiled with each set of NVRTCs."""
    called: set[str] = set()
    module = calls.bindings()

    class Recorder:
        """The bindings, noting which functions are used."""

        def __getattr__(self, name: str) -> Any:
            called.add(name)
            return getattr(module, name)

    calls.set_bindings(Recorder())
    try:
        session = "ok" if drive()["elapsed"] == 1.5 else "the time between two events is wrong"
    except Exception as error:
        session = _said(error)
    finally:
        calls.set_bindings(None)
    return {
        "bindings": import_module("cuda.bindings").__version__,
        "session": session,
        "called": sorted(called),
        "nvrtc": [_compile(set_) for set_ in json.loads(os.environ.get("MATRIX_NVRTC", "[]"))],
    }


def _compile(folders: list[str]) -> str:
    """What is compiled for the stub's driver where only these packages and no toolkit have NVRTC."""
    nvrtc_library._open_all.cache_clear()
    nvrtc_library._NAMES = ()
    nvrtc_library._folders = lambda: (  # type: ignore[assignment]
        path for folder in folders for wheel in nvrtc_library._WHEELS for path in Path(folder).glob(wheel)
    )
    try:
        version = int(calls.call("cuDriverGetVersion"))
        target = nvrtc.target(GPU, (version // 1000, version % 1000 // 10))
        nvrtc.compile_kernels("frame_fit", target)
    except Exception as error:
        return _said(error)
    return "ok: {} by NVRTC {}.{}".format(target.arch, *target.library.version)


def _said(error: Exception) -> str:
    if isinstance(error, DependencyMissing):
        return f"{error.what}; {error.fix}"
    return f"{'' if isinstance(error, ImpTrtError) else 'UNTYPED '}{type(error).__name__}: {error}"


def _install(requirement: str, cache: Path) -> Path:
    """Folder with a package and what it needs; one that is there is taken as it is."""
    folder = cache / requirement.replace("==", "-").replace(".*", "")
    if not folder.is_dir():
        with tempfile.TemporaryDirectory(dir=cache) as unfinished:
            into = Path(unfinished) / "packages"
            command = [sys.executable, "-m", "pip", "install", "--quiet", "--target", into, requirement]
            subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
            into.rename(folder)
    return folder


def main() -> int:
    """Prints the matrix; 0 if every combination works or says what to install."""
    parser = argparse.ArgumentParser(prog="python -m tests.cuda.driver_matrix")
    parser.add_argument(
        "--cache", type=Path, default=ROOT / "build" / "drivers", help="folder of the packages"
    )
    cache = parser.parse_args().cache
    cache.mkdir(parents=True, exist_ok=True)
    bindings = [_install(requirement, cache) for requirement in BINDINGS]
    libraries = [_install(requirement, cache) for requirement in NVRTCS]
    sets = [[str(libraries[i]) for i in chosen] for chosen in SETS]
    titles = [" and ".join(NVRTCS[i] for i in chosen) or "no NVRTC" for chosen in SETS]
    bad = 0
    with tempfile.TemporaryDirectory() as folder:
        stub = Path(folder)
        build_stub(stub)
        for driver in DRIVERS:
            for packages in bindings:
                saw = run_child(
                    *(stub, os.devnull, driver, "tests.cuda.driver_matrix", [packages]),
                    environment={"MATRIX_CHILD": "1", "MATRIX_NVRTC": json.dumps(sets)},
                )
                head = f"driver {driver // 1000}.{driver % 1000 // 10:<2} cuda-bindings {saw['bindings']:<8}"
                print(f"{head} {len(used_functions() & set(saw['called']))} functions: {saw['session']}")
                for title, said in zip(titles, saw["nvrtc"], strict=True):
                    print(f"    {title}: {said}")
                bad += saw["session"] != "ok" or any("Error: " in said for said in saw["nvrtc"])
    print(f"{bad} of {len(DRIVERS) * len(BINDINGS)} combinations of driver and cuda-bindings are broken")
    return int(bad > 0)


if __name__ == "__main__":
    if os.environ.get("MATRIX_CHILD"):
        print(json.dumps(child()))
    else:
        raise SystemExit(main())
