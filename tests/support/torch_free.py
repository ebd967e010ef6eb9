# SPDX-License-Identifier: Apache-2.0
"""An environment without PyTorch and onnx, as that of a device: child processes cannot import them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

BLOCKED = ("torch", "torchvision", "onnx", "onnxscript", "safetensors", "torch_tensorrt", "modelopt")

_SITECUSTOMIZE = f"""
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {BLOCKED!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Blocked())
"""


def run(folder: Path, module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """``python -m module arguments`` in such an environment; its children have the same.

    Args:
        folder: where the environment's file is written.
        module: name of the module.
        arguments: of the command.
    """
    site = folder / "torch_free"
    site.mkdir(exist_ok=True)
    (site / "sitecustomize.py").write_text(_SITECUSTOMIZE)
    paths = [str(site), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in paths if path)}
    command = [sys.executable, "-m", module, *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
