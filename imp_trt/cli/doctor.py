# SPDX-License-Identifier: Apache-2.0
"""imp-doctor: report installed packages, supported features, and how to install missing dependencies.

Imports only the standard library at start, catches the errors of all checks, and always exits with 0, so
that it works on incomplete installations.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import platform
import sys
from collections.abc import Callable
from importlib import metadata
from importlib.util import find_spec
from time import monotonic
from typing import Any

from imp_trt.cli.common import command_parser, run_command
from imp_trt.cli.import_checks import ImportCheck
from imp_trt.cli.import_fixes import fix_for
from imp_trt.cli.mismatches import LIBRARIES, mismatches
from imp_trt.cli.printing import print_json, print_lines
from imp_trt.cuda.cpus import usable_cpus

# Distribution names, in the order they are shown.
_PACKAGES = (
    "imp-trt",
    "numpy",
    "opencv-python",
    "opencv-python-headless",
    "opencv-contrib-python",
    "opencv-contrib-python-headless",
    "torch",
    "torchvision",
    "safetensors",
    "onnx",
    "onnxscript",
    "onnxruntime",
    "onnxruntime-gpu",
    "openvino",
    "tensorrt",
    "tensorrt-rtx",
    "torch-tensorrt",
    "cuda-bindings",
    "av",
    "pillow",
    "tqdm",
)

# Feature, modules that it imports, whether it needs a GPU, and how to install the modules.
_ABILITIES = (
    ("run ONNX artifacts", ("cv2", "onnxruntime"), False, "pip install 'imp-trt[onnx]'"),
    ("run ONNX artifacts in OpenVINO", ("cv2", "openvino"), False, "pip install 'imp-trt[openvino]'"),
    (
        "run checkpoints in PyTorch",
        ("cv2", "torch", "torchvision", "safetensors"),
        False,
        "pip install 'imp-trt[torch]'",
    ),
    (
        "export to ONNX",
        ("torch", "torchvision", "onnx", "onnxscript", "onnxruntime"),
        False,
        "pip install 'imp-trt[export]'",
    ),
    ("train", ("cv2", "torch", "torchvision", "safetensors", "tqdm"), False, "pip install 'imp-trt[train]'"),
    (
        "build and run TensorRT engines",
        ("cv2", "cuda.bindings", "tensorrt"),
        True,
        "pip install 'imp-trt[tensorrt]'; on Jetson and DRIVE 'imp-trt[cuda]' with the system's TensorRT",
    ),
    ("build TensorRT-RTX engines", ("tensorrt_rtx",), False, "pip install 'imp-trt[tensorrt-rtx]'"),
    (
        "run TensorRT-RTX engines",
        ("cv2", "cuda.bindings", "tensorrt_rtx"),
        True,
        "pip install 'imp-trt[tensorrt-rtx]'",
    ),
)

# These take seconds to import, and are given up after a while unless --full waits for them.
_HEAVY = ("openvino", "torch", "torchvision", "onnxscript")
_HEAVY_BUDGET_S = 1.2
_FULL_TIMEOUT_S = 120.0


def main(argv: list[str] | None = None) -> int:
    """Entry point; returns 0."""
    args = parser().parse_args(argv)
    return run_command(lambda: _run(args), verbose=args.verbose, quiet=args.quiet)


def parser() -> argparse.ArgumentParser:
    """The command's options: the common ones."""
    p = command_parser(
        "imp-doctor", "Report installed packages, GPUs, and the features supported on this machine."
    )
    p.add_argument(
        "--full", action="store_true", help="also import PyTorch and other packages that take seconds"
    )
    return p


def report(full: bool = False) -> dict[str, Any]:
    """Return the report as data for JSON. A check that fails is replaced by its error message.

    Args:
        full: wait for imports that take seconds.
    """
    failures: Any = _guarded(lambda: _start_imports(full))  # they run while the rest is looked up
    packages, gpu = _guarded(_packages), _guarded(_gpu)
    system, engines = _guarded(_system), _guarded(lambda: _engines(gpu))
    found = _guarded(lambda: _mismatches(packages, gpu))
    abilities = failures
    if not isinstance(failures, dict):  # else the error of starting them
        abilities = _guarded(lambda: _abilities(gpu, packages, failures()))
    return {
        "system": system,
        "packages": packages,
        "gpu": gpu,
        "engines": engines,
        "abilities": abilities,
        "mismatches": found,
        "advice": _guarded(lambda: _advice(found)),
    }


def _run(args: argparse.Namespace) -> int:
    data = report(args.full)
    if args.json:
        print_json(data)
    else:
        _print(data)
    return 0


def _guarded(probe: Callable[[], Any]) -> Any:
    try:
        return probe()
    except Exception as error:  # an incomplete report is better than none
        return {"error": f"{type(error).__name__}: {error}"}


def _system() -> dict[str, Any]:
    return {
        "python": platform.python_version(),
        "executable": sys.executable,
        "os": platform.platform(),
        "machine": platform.machine(),
        "libc": " ".join(platform.libc_ver()),
        "cpus": usable_cpus(),
        "memory_gib": _memory_gib(),
        "display": bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")),
    }


def _memory_gib() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (ValueError, OSError):
        return None


def _packages() -> dict[str, str | None]:
    return {name: _version_of(name) for name in _PACKAGES}


def _gpu() -> dict[str, Any]:
    """Query the CUDA driver directly, which needs no package."""
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return {"driver": None, "devices": [], "note": "no NVIDIA driver (libcuda.so.1)"}
    code = cuda.cuInit(0)
    version = ctypes.c_int()
    cuda.cuDriverGetVersion(ctypes.byref(version))
    driver = f"CUDA {version.value // 1000}.{version.value % 1000 // 10}"
    if code:
        return {"driver": driver, "devices": [], "note": f"cuInit failed with code {code}"}
    count = ctypes.c_int()
    cuda.cuDeviceGetCount(ctypes.byref(count))
    return {"driver": driver, "devices": [_device(cuda, i) for i in range(count.value)], "note": None}


def _device(cuda: ctypes.CDLL, index: int) -> dict[str, Any]:
    device, value, memory = ctypes.c_int(), ctypes.c_int(), ctypes.c_size_t()
    name = ctypes.create_string_buffer(256)
    cuda.cuDeviceGet(ctypes.byref(device), index)
    cuda.cuDeviceGetName(name, len(name), device)
    cuda.cuDeviceTotalMem_v2(ctypes.byref(memory), device)
    capability = []
    for attribute in (75, 76):  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, _MINOR
        cuda.cuDeviceGetAttribute(ctypes.byref(value), attribute, device)
        capability.append(str(value.value))
    return {
        "name": name.value.decode(errors="replace"),
        "compute_capability": ".".join(capability),
        "memory_gib": round(memory.value / 2**30, 1),
    }


def _engines(gpu: dict[str, Any]) -> list[dict[str, Any]]:
    """Check the dependencies for building and running engines; one row each, with a fix if it is missing."""
    driver = gpu.get("driver")
    rows = [
        _row("CUDA driver", lambda: driver, "install the NVIDIA driver"),
        _row("GPU", lambda: _gpu_names(gpu), "check that nvidia-smi lists a GPU, and CUDA_VISIBLE_DEVICES"),
        _row("cuda-bindings", lambda: _version_of("cuda-bindings"), "pip install 'imp-trt[cuda]'"),
        _row("NVRTC", lambda: _nvrtc(driver), "pip install 'imp-trt[cuda]'"),
        _row(
            "TensorRT", lambda: _installed("tensorrt"), "pip install 'imp-trt[tensorrt]'; JetPack has its own"
        ),
        _row("TensorRT-RTX", lambda: _installed("tensorrt_rtx"), "pip install 'imp-trt[tensorrt-rtx]'"),
        _row(
            "torch-tensorrt", lambda: _version_of("torch-tensorrt"), "pip install 'imp-trt[torch-tensorrt]'"
        ),
        _row("plugins", _plugins, "pip install 'imp-trt[cuda]', or build the C++ library"),
        _row("kernel cache", _kernel_cache, "set IMP_TRT_CACHE to a writable folder"),
    ]
    return [row | {"fix": _for_driver(row["fix"], driver)} for row in rows]


def _row(what: str, probe: Callable[[], str | None], fix: str) -> dict[str, Any]:
    try:
        found, note = probe(), None
    except Exception as error:
        found, note = None, " ".join(f"{getattr(error, 'what', '')} {getattr(error, 'got', error)}".split())
        fix = getattr(error, "fix", None) or fix
    return {"what": what, "found": found or None, "note": note, "fix": None if found else fix}


def _for_driver(fix: str | None, driver: str | None) -> str | None:
    """Adapt the extras in an install command to the CUDA version of the driver, such as "CUDA 12.8"."""
    from imp_trt.cuda.extras import extra_for

    if fix and driver:
        for extra in ("cuda", "tensorrt", "tensorrt-rtx"):
            fix = fix.replace(f"[{extra}]", f"[{extra_for(extra, _known(driver))}]")
    return fix


def _known(driver: str) -> tuple[int, int]:
    major, minor = driver.removeprefix("CUDA ").split(".")
    return int(major), int(minor)


def _gpu_names(gpu: dict[str, Any]) -> str:
    devices = gpu.get("devices")
    if not devices:
        raise OSError(gpu.get("note") or gpu.get("error") or "the driver finds no GPU")
    return ", ".join(f"{d['name']} ({d['compute_capability']})" for d in devices)


def _version_of(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _installed(module: str) -> str | None:
    from imp_trt.cuda.platform import installed_version

    return installed_version(module)


def _nvrtc(driver: str | None) -> str:
    from imp_trt.cuda import nvrtc

    return "{}.{}".format(*nvrtc.usable(_known(driver) if driver else None)[0].version)


def _plugins() -> str:
    from imp_trt.cuda.platform import Platform

    plugins = Platform.detect().plugins
    if isinstance(plugins, Exception):
        raise plugins
    return plugins


def _kernel_cache() -> str:
    from imp_trt.cuda import cache

    folder = cache.folder()
    if folder is None:
        raise OSError("no home folder; kernels are compiled at every start")
    # What is not there yet is made when it is needed.
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    if not os.access(existing, os.W_OK | os.X_OK):
        raise OSError(f"{existing} cannot be written; kernels are compiled at every start")
    return f"{folder}, {len(list(folder.glob('*.bin')))} kernels"


def _start_imports(full: bool) -> Callable[[], dict[str, str | None]]:
    """Starts to import what the abilities need; the returned function waits for the results."""
    start = monotonic()
    modules = sorted({module for _, needed, _, _ in _ABILITIES for module in needed} | {"numpy"})
    absent: dict[str, str | None] = {module: _absence(module) for module in modules}
    present = [module for module in modules if absent[module] is None]
    heavy = ImportCheck([m for m in present if m in _HEAVY], _FULL_TIMEOUT_S)
    light = ImportCheck([m for m in present if m not in _HEAVY])

    def failures() -> dict[str, str | None]:
        deadline = None if full else start + _HEAVY_BUDGET_S
        return absent | light.result() | heavy.result(deadline)

    return failures


def _absence(module: str) -> str | None:
    """The error of importing a module that is not installed; None if there is one of this name."""
    package = module.partition(".")[0]
    try:
        found = find_spec(package) is not None
    except (ImportError, ValueError):  # None in sys.modules, or a module without a spec
        found = False
    return None if found else f"ModuleNotFoundError: No module named {package!r}"


def _abilities(
    gpu: dict[str, Any], packages: dict[str, str | None], failures: dict[str, str | None]
) -> list[dict[str, Any]]:
    no_gpu = None if gpu.get("devices") else gpu.get("note") or gpu.get("error") or "the driver sees none"
    found = []
    for what, needed, needs_gpu, install in _ABILITIES:
        missing = {module: str(failures[module]) for module in needed if failures.get(module)}
        fix = _fix(missing, install, packages, failures.get("numpy"))
        if needs_gpu and no_gpu:
            missing["GPU"] = str(no_gpu)
            fix = fix or "run on a machine with an NVIDIA GPU and its driver"
        elif needs_gpu and "tensorrt_rtx" in needed and (unfit := _unfit_for_rtx(gpu)):
            missing["GPU"] = unfit
            fix = "use TensorRT on this GPU, see above"
        fix = _for_driver(fix, gpu.get("driver"))
        found.append({"what": what, "works": not missing, "missing": missing, "fix": fix})
    return found


def _unfit_for_rtx(gpu: dict[str, Any]) -> str | None:
    """Why TensorRT-RTX runs on no GPU here; None if it does on one."""
    from imp_trt.artifacts.plan_header import RTX_CAPABILITIES

    here = [str(device["compute_capability"]) for device in gpu["devices"]]
    if any(capability in RTX_CAPABILITIES for capability in here):
        return None
    return f"TensorRT-RTX runs on compute capability {', '.join(RTX_CAPABILITIES)}, not {', '.join(here)}"


def _fix(
    missing: dict[str, str], install: str, packages: dict[str, str | None], numpy: str | None
) -> str | None:
    """One command for each cause: modules that are not installed, and installed ones that do not load."""
    if not missing:
        return None
    fixes: dict[str, None] = {}
    for module, failure in missing.items():
        # A broken NumPy breaks everything that imports it.
        blamed = ("numpy", numpy) if numpy and "numpy" in failure else (module, failure)
        fixes[fix_for(*blamed, packages) or install] = None
    return "; ".join(fixes)


def _mismatches(packages: dict[str, str | None], gpu: dict[str, Any]) -> list[dict[str, str]]:
    driver = gpu.get("driver")
    versions = packages | {name: _version_of(name) for name in LIBRARIES}
    return [item.to_dict() for item in mismatches(versions, _known(driver) if driver else None)]


def _advice(found: list[dict[str, str]]) -> list[str]:
    return [f"{m['what']}: expected {m['expected']}, got {m['got']}. Fix: {m['fix']}" for m in found]


def _print(data: dict[str, Any]) -> None:
    for key, value in data["system"].items():
        print_lines(f"{key:<24} {value}")
    print_lines("\npackages")
    for name, version in data["packages"].items():
        print_lines(f"  {name:<22} {version or '-'}")
    gpu = data["gpu"]
    print_lines(f"\nGPU driver               {gpu.get('driver') or gpu.get('note') or gpu.get('error')}")
    for device in gpu.get("devices", []):
        print_lines(
            f"  {device['name']}, compute capability {device['compute_capability']}, "
            f"{device['memory_gib']} GiB"
        )
    print_lines("\nengines")
    for row in data["engines"] if isinstance(data["engines"], list) else []:
        print_lines(f"  {row['what']:<22} {row['found'] or row['note'] or '-'}")
        if row["fix"]:
            print_lines(f"  {'':<22} fix: {row['fix']}")
    print_lines("\nfeatures")
    abilities = data["abilities"] if isinstance(data["abilities"], list) else []
    for ability in abilities:
        print_lines(f"  {'yes' if ability['works'] else 'no ':<4} {ability['what']}")
        for module, reason in ability["missing"].items():
            print_lines(f"       {module}: {reason}")
        if ability["fix"]:
            print_lines(f"       fix: {ability['fix']}")
    for line in data["advice"] if isinstance(data["advice"], list) else []:
        print_lines(f"\nadvice: {line}")


if __name__ == "__main__":
    raise SystemExit(main())
