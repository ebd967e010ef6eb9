# SPDX-License-Identifier: Apache-2.0
"""Importing a package must not import what only some of its functions need."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

HEAVY = (
    "torch",
    "torchvision",
    "onnx",
    "onnxruntime",
    "onnxscript",
    "tensorrt",
    "tensorrt_rtx",
    "torch_tensorrt",
    "cuda",
    "cv2",
    "tqdm",
    "safetensors",
)

PACKAGES = [
    "imp_trt",
    "imp_trt.backends",
    "imp_trt.cli",
    "imp_trt.cli.common",
    "imp_trt.cli.doctor",
    "imp_trt.cli.inspect",
    "imp_trt.cli.segment",
    "imp_trt.cuda",
    "imp_trt.errors",
    "imp_trt.export",
    "imp_trt.graph",
    "imp_trt.models",
    "imp_trt.ops",
    "imp_trt.cuda.platform",
    "imp_trt.plugins",
    "imp_trt.backends.preflight",
    "imp_trt.synthetic",
    "imp_trt.plugins.torch_tensorrt",
    "imp_trt.train",
    "imp_trt.video",
    "imp_trt.weights",
]


def _loaded(code: str) -> set[str]:
    script = f"import json, sys\n{code}\nprint(json.dumps(sorted(sys.modules)))"
    child = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(json.loads(child.stdout.splitlines()[-1]))


def test_no_package_loads_a_heavy_module() -> None:
    # One process after the other in one child: the first that loads something is named.
    script = "\n".join(
        f"import {name}\nheavy = [m for m in {HEAVY!r} if m in sys.modules]\n"
        f"assert not heavy, ('{name}', heavy)"
        for name in PACKAGES
    )
    _loaded(script)


def test_the_root_package_loads_numpy_only_when_asked() -> None:
    assert "numpy" not in _loaded("import imp_trt")


def test_running_an_artifact_needs_neither_torch_nor_onnx() -> None:
    loaded = _loaded("from imp_trt import Segmenter, SegmentationResult, Manifest, video\nvideo.open_source")
    assert not loaded & {"torch", "torchvision", "onnx", "onnxscript", "tensorrt", "safetensors"}


def test_public_names_resolve() -> None:
    import imp_trt

    for name in imp_trt.__all__:
        assert getattr(imp_trt, name) is not None
    assert set(imp_trt.__all__) <= set(dir(imp_trt))
    with pytest.raises(AttributeError, match="no attribute"):
        imp_trt.nothing_of_this_name  # noqa: B018
