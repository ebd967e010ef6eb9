# SPDX-License-Identifier: Apache-2.0
"""What a failed import means, and how to fix it. Imports the standard library only."""

from __future__ import annotations

import re
from collections.abc import Mapping

OPENCV = (
    "opencv-python",
    "opencv-python-headless",
    "opencv-contrib-python",
    "opencv-contrib-python-headless",
)
"""Distributions of OpenCV; all install the module cv2."""

OPENCV_FOR_NUMPY_2 = "4.10"

_DISTRIBUTIONS = {
    "cuda": "cuda-bindings",
    "cuda.bindings": "cuda-bindings",
    "tensorrt_rtx": "tensorrt-rtx",
    "cv2": "opencv-python",
}

_NUMPY_ABI = re.compile(
    r"compiled using NumPy 1\.x|_ARRAY_API not found|numpy\.core\.multiarray failed to import"
    r"|numpy\.dtype size changed|compiled against (ABI|API) version"
)
_MISSING_LIBRARY = re.compile(r"(lib[\w.+-]+\.so[\w.]*): cannot open shared object file")
# Library -> package of Debian and Ubuntu that OpenCV's wheels with a window need.
_APT = {
    "libGL.so": "libgl1",
    "libgthread": "libglib2.0-0",
    "libglib": "libglib2.0-0",
    "libSM": "libsm6",
    "libXext": "libxext6",
    "libXrender": "libxrender1",
    "libxcb": "libxcb1",
}


def fix_for(module: str, failure: str, versions: Mapping[str, str | None]) -> str | None:
    """How to fix an import that failed although the module is installed; None if it is not installed.

    Args:
        module: that was imported.
        failure: type and text of the exception, or how the process ended.
        versions: distribution -> installed version or None.
    """
    missing = re.search(r"ModuleNotFoundError: No module named '([\w.]+)'", failure)
    if missing and _same(missing[1], module):
        return None
    if missing and not missing[1].startswith("numpy."):
        name = missing[1].split(".")[0]
        return f"pip install {_DISTRIBUTIONS.get(name, name.replace('_', '-'))}"
    distribution = _distribution(module, versions)
    if "No module named 'numpy._core" in failure:
        return "pip install --upgrade 'numpy>=2'"
    if module == "numpy":
        return "pip install --force-reinstall 'numpy>=1.26'"
    if _NUMPY_ABI.search(failure):
        # Such wheels are from before NumPy 2; older NumPy is no way out on newer versions of Python.
        bound = OPENCV_FOR_NUMPY_2 if module == "cv2" else {"onnxruntime": "1.20"}.get(module)
        return f"pip install --upgrade '{distribution}{f'>={bound}' if bound else ''}'"
    library = _MISSING_LIBRARY.search(failure)
    if library:
        return _for_library(module, library[1], distribution)
    if "GLIBC" in failure:
        return (
            f"the installed {distribution} is for a newer Linux: update the system, or install an older "
            f"release of {distribution}"
        )
    if "signal SIGILL" in failure:
        return f"the installed {distribution} needs a newer CPU: install an older release of it"
    if module == "cv2" and ("circular import" in failure or "has no attribute" in failure):
        return f"pip uninstall -y {' '.join(OPENCV)}; pip install {distribution}"
    return f"pip install --force-reinstall {distribution}"


def _for_library(module: str, library: str, distribution: str) -> str:
    if module == "cv2":
        package = next((apt for name, apt in _APT.items() if library.startswith(name)), None)
        headless = (
            f"pip uninstall -y {distribution} && pip install "
            f"{distribution if distribution.endswith('-headless') else f'{distribution}-headless'}"
        )
        if package is None:
            return f"install the system's package with {library}, or {headless}"
        return f"apt install {package}, or without windows: {headless}"
    if library.startswith("libcuda.so"):
        return "install the NVIDIA driver"
    if library.startswith(("libnvinfer", "libnvonnxparser")):
        return (
            f"pip install --force-reinstall {distribution}; on JetPack and DriveOS: apt install "
            "python3-libnvinfer, in a venv with --system-site-packages"
        )
    return f"pip install --force-reinstall {distribution}, which should bring {library}"


def _distribution(module: str, versions: Mapping[str, str | None]) -> str:
    if module == "cv2":
        return next((name for name in OPENCV if versions.get(name)), OPENCV[0])
    return _DISTRIBUTIONS.get(module, module.replace("_", "-"))


def _same(missing: str, module: str) -> bool:
    """Whether the missing module is the module itself or a package around it."""
    return module == missing or module.startswith(f"{missing}.")
