"""imp-doctor: what is installed, what can run here, and what to install for the rest.

Uses the standard library only, guards every probe, and always exits with 0: it has to work exactly
where other things do not.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from importlib import metadata
from typing import Any

from imp_trt.cli.common import command_parser, print_json, run_command

# Distribution names, in the order they are shown.
_PACKAGES = (
    "imp-trt",
    "numpy",
    "opencv-python",
    "opencv-python-headless",
    "opencv-contrib-python",
    "torch",
    "torchvision",
    "safetensors",
    "onnx",
    "onnxscript",
    "onnxruntime",
    "tensorrt",
    "tensorrt-rtx",
    "cuda-python",
    "pillow",
    "tqdm",
)

# What a user wants to do -> modules it imports, and the command that brings them.
_ABILITIES = (
    ("run ONNX artifacts", ("cv2", "onnxruntime"), "pip install 'imp-trt[onnx]'"),
    (
        "run checkpoints in PyTorch",
        ("cv2", "torch", "torchvision", "safetensors"),
        "pip install 'imp-trt[torch]'",
    ),
    (
        "export to ONNX",
        ("torch", "torchvision", "onnx", "onnxscript", "onnxruntime"),
        "pip install 'imp-trt[export]'",
    ),
    ("train", ("cv2", "torch", "torchvision", "safetensors", "tqdm"), "pip install 'imp-trt[train]'"),
)

_IMPORT_LIMIT_S = 120


def main(argv: list[str] | None = None) -> int:
    """Entry point; returns 0."""
    args = parser().parse_args(argv)
    return run_command(lambda: _run(args), verbose=args.verbose, quiet=args.quiet)


def parser() -> argparse.ArgumentParser:
    """The command's options: the common ones."""
    return command_parser("imp-doctor", "Report what is installed and what can run here.")


def report() -> dict[str, Any]:
    """The whole report as plain data; a probe that fails leaves its error text in place of its answer."""
    packages = _guarded(_packages)
    return {
        "system": _guarded(_system),
        "packages": packages,
        "gpu": _guarded(_gpu),
        "abilities": _guarded(_abilities),
        "advice": _guarded(lambda: _advice(packages)),
    }


def _run(args: argparse.Namespace) -> int:
    data = report()
    if args.json:
        print_json(data)
    else:
        _print(data)
    return 0


def _guarded(probe: Callable[[], Any]) -> Any:
    try:
        return probe()
    except Exception as error:  # a report with a gap is worth more than none
        return {"error": f"{type(error).__name__}: {error}"}


def _system() -> dict[str, Any]:
    return {
        "python": platform.python_version(),
        "executable": sys.executable,
        "os": platform.platform(),
        "machine": platform.machine(),
        "libc": " ".join(platform.libc_ver()),
        "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gib": _memory_gib(),
        "display": bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")),
    }


def _memory_gib() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (ValueError, OSError):
        return None


def _packages() -> dict[str, str | None]:
    found: dict[str, str | None] = {}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    return found


def _gpu() -> dict[str, Any]:
    """Asks the CUDA driver itself, which needs no package."""
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


def _abilities() -> list[dict[str, Any]]:
    modules = sorted({module for _, needed, _ in _ABILITIES for module in needed})
    failures = {module: _guarded(partial(_import_failure, module)) for module in modules}
    return [
        {
            "what": what,
            "works": not any(failures[m] for m in needed),
            "missing": {m: str(failures[m]) for m in needed if failures[m]},
            "fix": fix if any(failures[m] for m in needed) else None,
        }
        for what, needed, fix in _ABILITIES
    ]


def _import_failure(module: str) -> str | None:
    """Why a module cannot be imported; tried in a child, which a broken library may crash."""
    try:
        child = subprocess.run(
            [sys.executable, "-c", f"import {module}"],
            capture_output=True,
            text=True,
            timeout=_IMPORT_LIMIT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"no answer within {_IMPORT_LIMIT_S} s"
    if child.returncode == 0:
        return None
    lines = child.stderr.strip().splitlines()
    return lines[-1] if lines else f"the import ended with code {child.returncode}"


def _advice(packages: dict[str, Any]) -> list[str]:
    flavours = [name for name, version in packages.items() if name.startswith("opencv-") and version]
    advice = []
    if len(flavours) > 1:
        advice.append(
            f"{' and '.join(flavours)} overwrite each other's files: keep one, pip uninstall the rest"
        )
    return advice


def _print(data: dict[str, Any]) -> None:
    for key, value in data["system"].items():
        print(f"{key:<24} {value}")
    print("\npackages")
    for name, version in data["packages"].items():
        print(f"  {name:<22} {version or '-'}")
    gpu = data["gpu"]
    print(f"\nGPU driver               {gpu.get('driver') or gpu.get('note') or gpu.get('error')}")
    for device in gpu.get("devices", []):
        print(
            f"  {device['name']}, compute capability {device['compute_capability']}, "
            f"{device['memory_gib']} GiB"
        )
    print("\ncan")
    abilities = data["abilities"] if isinstance(data["abilities"], list) else []
    for ability in abilities:
        print(f"  {'yes' if ability['works'] else 'no ':<4} {ability['what']}")
        for module, reason in ability["missing"].items():
            print(f"       {module}: {reason}")
        if ability["fix"]:
            print(f"       fix: {ability['fix']}")
    for line in data["advice"] if isinstance(data["advice"], list) else []:
        print(f"\nadvice: {line}")


if __name__ == "__main__":
    raise SystemExit(main())
