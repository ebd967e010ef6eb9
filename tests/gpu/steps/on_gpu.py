# SPDX-License-Identifier: Apache-2.0
"""For the steps of a run: the GPU or exit code 5, and results as lines of JSON.

``python -m tests.gpu.steps.on_gpu MODULE_OR_SCRIPT [ARGUMENTS]`` runs it if there is a GPU. PyTorch is not
imported before that is known.
"""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path
from typing import Any, NoReturn

from imp_trt.cuda.driver import DeviceInfo, device_info
from imp_trt.errors import ImpTrtError

SKIPPED_EXIT = 5


def need_gpu() -> DeviceInfo:
    """The GPU; ends the process with exit code 5 if there is none."""
    try:
        return device_info()
    except ImpTrtError as error:
        skip(f"no CUDA device: {' '.join(str(error).split())}")


def need_torch() -> None:
    """Exit code 5 unless PyTorch can use the GPU."""
    try:
        import torch
    except ImportError as error:
        skip(f"PyTorch: {error}")
    if not torch.cuda.is_available():
        skip(f"PyTorch {torch.__version__} for CUDA {torch.version.cuda} cannot use the GPU")


def skip(missing: str) -> NoReturn:
    """End the process: something is missing."""
    print(missing, file=sys.stderr)
    sys.exit(SKIPPED_EXIT)


def report(**values: Any) -> None:
    """One line of results; "verdict" is text for the table."""
    print(json.dumps(values), flush=True)


if __name__ == "__main__":
    need_gpu()
    del sys.argv[0]
    if sys.argv[0].endswith(".py"):
        sys.path.insert(0, str(Path(sys.argv[0]).parent))  # as for a script
        runpy.run_path(sys.argv[0], run_name="__main__")
    else:
        runpy.run_module(sys.argv[0], run_name="__main__")
