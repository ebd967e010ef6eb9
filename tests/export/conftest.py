# SPDX-License-Identifier: Apache-2.0
"""One small network, exported once for all tests of this folder, and a machine without a GPU."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import cv2
import pytest

from imp_trt.cuda.platform import Platform, platform_name
from imp_trt.errors import DependencyMissing
from imp_trt.export.quantization import lowering
from imp_trt.models.checkpoint import save_checkpoint
from tests.support import engines
from tests.support.fake_tensorrt import VERSIONS
from tests.support.networks import detecting_network, small_config, smooth_frames
from tests.support.shared_exports import shared
from tests.support.typed_models import typed


@pytest.fixture(scope="session", autouse=True)
def _shared_exports() -> Iterator[None]:
    """One network is exported once; tests of the export itself call it in imp_trt.export.onnx.from_model."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("onnx_from_module", "onnx_from_canvas_module"):
            patch.setattr(lowering, name, shared(getattr(lowering, name)))
        yield


@pytest.fixture(scope="session")
def network():
    return detecting_network(small_config())


@pytest.fixture(scope="session")
def module():
    return typed("fp32").module


@pytest.fixture(scope="session")
def model():
    return typed("fp32").model


@pytest.fixture(scope="session")
def weights(network, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "small.safetensors"
    return save_checkpoint(path, network, {"terms": "for tests only"})


@pytest.fixture(scope="session")
def calibration_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("calibration")
    for index, frame in enumerate(smooth_frames(2, seed=9).numpy()):
        cv2.imwrite(str(folder / f"{index}.png"), frame)
    return folder


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with a TensorRT whose GPU is busy elsewhere; the target's own checks are tested elsewhere."""
    here = engines.orin(gpu=DependencyMissing("the NVIDIA driver", got="no libcuda.so.1"))
    here = replace(here, name=platform_name(), tensorrt=VERSIONS["tensorrt"])
    monkeypatch.setattr(Platform, "detect", classmethod(lambda cls, device=0: here))
    monkeypatch.setattr("imp_trt.export.plan.check_target", lambda *arguments: None)
