# SPDX-License-Identifier: Apache-2.0
"""Engines as the preflight sees them: bytes with a header, and a manifest; none can be run."""

from __future__ import annotations

import struct
from pathlib import Path

from imp_trt.artifacts.engine_info import EngineInfo
from imp_trt.artifacts.manifest import Manifest
from imp_trt.artifacts.writing import write_artifact
from imp_trt.cuda.platform import Gpu, Platform
from tests.support import tiny


def plan(version: str = "10.3.0.26", tag: bytes = b"ftrt", serialization: int = 0, body: int = 100) -> bytes:
    """Bytes that start like a TensorRT plan."""
    numbers = bytes(int(part) for part in version.split("."))
    return tag + struct.pack("<I", serialization) + bytes(16) + numbers + bytes(body)


def rtx_plan(version: str = "1.7.1.116", bits: int = 0b100, body: int = 100) -> bytes:
    """Bytes that start like a TensorRT-RTX engine; bit 2 is compute capability 8.6."""
    numbers = bytes(int(part) for part in version.split("."))
    size = 64 + body
    head = b"vtrt" + struct.pack("<IIIQ", 0, 2, 0, size) + numbers + b"vtrt" + struct.pack("<I", bits)
    return head.ljust(64, b"\0") + bytes(body)


def info(**changes: object) -> EngineInfo:
    """An engine that TensorRT 10.3 built on Orin."""
    values: dict[str, object] = {
        "backend": "tensorrt",
        "version": "10.3.0.26",
        "compute_capabilities": ("8.7",),
        "platform": "linux-aarch64",
        "onnx_sha256": "1" * 64,
        "operators": {"InstanceMaskProjection": "plugin", "ImpMultilevelRoiAlign": "function"},
        "layer_precisions": {"Half": 41, "Float": 7},
    }
    return EngineInfo(**(values | changes))  # type: ignore[arg-type]


def manifest(engine: EngineInfo | None = None, **changes: object) -> Manifest:
    """A manifest of kind "engine"."""
    values: dict[str, object] = {"kind": "engine", "precision": "fp16", "target": "drive-orin", "opset": None}
    return tiny.manifest(**(values | {"engine": engine or info()} | changes))


def artifact(
    folder: Path,
    payload: bytes | None = None,
    engine: EngineInfo | None = None,
    name: str = "tiny.fp16.tensorrt.engine",
) -> Path:
    """An engine file with its manifest."""
    return write_artifact(folder / name, plan() if payload is None else payload, manifest(engine))


def orin(**changes: object) -> Platform:
    """The machine that :func:`info` was built on."""
    values: dict[str, object] = {
        "name": "linux-aarch64",
        "tensorrt": "10.3.0",
        "tensorrt_rtx": None,
        "gpu": Gpu("Orin", "8.7", (12, 6)),
        "plugins": "Python, NVRTC 12.6",
    }
    return Platform(**(values | changes))  # type: ignore[arg-type]
