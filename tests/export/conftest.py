"""One small network, exported once for all tests of this folder."""

from __future__ import annotations

import cv2
import pytest

from imp_trt.export.onnx_from_model import onnx_from_module
from imp_trt.models.checkpoint import save_checkpoint
from imp_trt.models.deploy import DeployModule
from tests.support.networks import detecting_network, small_config, smooth_frames


@pytest.fixture(scope="session")
def network():
    return detecting_network(small_config())


@pytest.fixture(scope="session")
def module(network):
    return DeployModule(network)


@pytest.fixture(scope="session")
def model(module):
    return onnx_from_module(module)


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
