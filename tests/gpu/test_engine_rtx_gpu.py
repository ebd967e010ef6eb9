# SPDX-License-Identifier: Apache-2.0
"""imp_trt.Engine on a real GPU: third-party networks, built by TensorRT-RTX, against ONNX Runtime."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto

from imp_trt import Engine
from imp_trt.artifacts.reading import read_network
from imp_trt.backends import preflight
from imp_trt.cuda.platform import Platform
from imp_trt.errors import ImpTrtError
from imp_trt.export import ExportOptions, export_network
from tests.gpu.conftest import missing, need_torch_cuda
from tests.support import foreign

pytestmark = pytest.mark.gpu

NETWORKS = {"plain": foreign.plain, "projecting": foreign.projecting}
LARGEST = {"fp32": 1e-3, "fp16": 1e-2}


@pytest.fixture(
    scope="module", params=[(name, precision) for name in NETWORKS for precision in LARGEST], ids="-".join
)
def exported(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[ModelProto, str, Path]:
    if (reason := missing()) is not None:
        pytest.skip(reason)
    if find_spec("tensorrt_rtx") is None:
        pytest.skip("tensorrt_rtx is not installed: pip install 'imp-trt[tensorrt-rtx]'")
    name, precision = request.param
    folder = tmp_path_factory.mktemp("yours")
    model = NETWORKS[name]()
    path = foreign.save(folder, model)
    report = export_network(path, folder, ExportOptions(precision=precision, target="tensorrt-rtx"))
    try:
        preflight.check(read_network(report.path), Platform.detect())
    except ImpTrtError as error:
        pytest.skip(f"TensorRT-RTX does not run here: {error}")
    assert report.manifest.verification["verified_on"] == "engine"
    return model, precision, Path(report.path)


@pytest.fixture
def engine(exported: tuple[ModelProto, str, Path]) -> Iterator[Engine]:
    with Engine(exported[2]) as opened:
        yield opened


def expected(model: ModelProto, seed: int) -> dict[str, Any]:
    import onnxruntime as ort

    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, foreign.images(seed)), strict=True))


def agree(found: dict[str, Any], answers: dict[str, Any], precision: str) -> bool:
    for name, answer in answers.items():
        array = np.asarray(found[name])
        if answer.dtype.kind == "f":
            good = np.abs(array - answer) <= LARGEST[precision] * np.abs(answer).max()
        else:
            good = array == answer
        if good.mean() < 0.998:
            return False
    return True


def test_it_answers_as_onnxruntime_does(exported: tuple[ModelProto, str, Path], engine: Engine) -> None:
    model, precision, _ = exported
    found = [engine.run(foreign.images(seed)) for seed in range(4)]
    for seed, outputs in enumerate(found):
        assert agree(outputs, expected(model, seed), precision)


def test_the_graph_changes_no_answer(exported: tuple[ModelProto, str, Path], engine: Engine) -> None:
    inputs = foreign.images()
    with Engine(exported[2], graph=False) as plain:
        outputs = plain.run(inputs)
        for name, array in engine.run(inputs).items():
            assert np.array_equal(array, outputs[name])


def test_tensors_on_the_gpu(exported: tuple[ModelProto, str, Path], engine: Engine) -> None:
    """PyTorch's tensors go in and come out without a copy through the host; later calls change none."""
    need_torch_cuda()
    import torch

    tensors = [torch.from_numpy(foreign.images(seed)["images"]).cuda() for seed in range(8)]
    kept = [engine.run_on_device({"images": tensor}) for tensor in tensors]
    seen = [{name: torch.as_tensor(array, device="cuda") for name, array in each.items()} for each in kept]
    torch.cuda.synchronize()
    for seed, each in enumerate(seen):
        host = engine.run(foreign.images(seed))
        for name, tensor in each.items():
            assert tensor.is_cuda
            assert tensor.data_ptr() == kept[seed][name].pointer
            assert np.array_equal(tensor.cpu().numpy(), host[name])
            assert np.array_equal(kept[seed][name].numpy(), host[name])
