# SPDX-License-Identifier: Apache-2.0
"""Segmenters on the fake GPU and their twins on the CPU, compared bit by bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from imp_trt.artifacts.writing import write_artifact
from imp_trt.results.result import SegmentationResult
from imp_trt.segmenter import Segmenter
from tests.support import tiny
from tests.support.fake_tensorrt import FakeGpu, FakeTensorRt, varying_graph

Machine = tuple[FakeTensorRt, FakeGpu]
NOTHING = {"memory": 0, "pinned": 0, "events": 0, "streams": 0, "graphs": 0, "contexts": 0}


def cpu_twin(folder: Path, batch: int = 1) -> Segmenter:
    """varying_graph in ONNX Runtime."""
    payload = varying_graph(batch).SerializeToString()
    return Segmenter(write_artifact(folder / f"same{batch}.onnx", payload, tiny.manifest(batch)), threads=1)


def same(a: SegmentationResult, b: SegmentationResult) -> bool:
    """Whether two results are equal to the last bit; reads both."""
    x, y = a.instances, b.instances
    names = ("boxes", "labels", "scores", "masks", "mask_boxes")
    return np.array_equal(a.semantic, b.semantic) and all(
        getattr(x, name).tobytes() == getattr(y, name).tobytes() for name in names
    )


def nothing_left(machine: Machine) -> bool:
    """Whether everything was given back, on the GPU and in TensorRT."""
    trt, cuda = machine
    return cuda.alive == NOTHING and trt.alive == []
