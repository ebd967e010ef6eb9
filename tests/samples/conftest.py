# SPDX-License-Identifier: Apache-2.0
"""The 2 s clip and the small network that the samples run on."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import cv2
import pytest

from imp_trt.synthetic import street_video
from tests.support import tiny

SAMPLES = Path(__file__).resolve().parents[2] / "samples"
CLIP_FRAMES, CLIP_FPS, CLIP_SIZE = 30, 15.0, (96, 160)


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seconds of a synthetic street scene, 160 x 96, 15 frames a second."""
    path = tmp_path_factory.mktemp("clip") / "street.mp4"
    height, width = CLIP_SIZE
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), CLIP_FPS, (width, height))
    for sample in street_video(seed=5, frames=CLIP_FRAMES, size=CLIP_SIZE, fps=CLIP_FPS):
        writer.write(sample.image)
    writer.release()
    return path


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    """An ONNX artifact whose answers are known."""
    return tiny.artifact(tmp_path)


@pytest.fixture
def sample(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    """Loads samples/<path> as a module."""

    def load(path: str) -> ModuleType:
        spec = importlib.util.spec_from_file_location(Path(path).stem, SAMPLES / path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, spec.name, module)  # dataclasses and pickles look there
        spec.loader.exec_module(module)
        return module

    return load
