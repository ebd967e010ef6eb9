# SPDX-License-Identifier: Apache-2.0
"""The model repository, against Triton's own schema; the client, against Triton's own protocol."""

from __future__ import annotations

import hashlib

import cv2
import numpy as np
import onnxruntime
import pytest

import imp_trt
from imp_trt.artifacts.manifest import parse_manifest
from imp_trt.artifacts.reading import read_artifact
from imp_trt.artifacts.writing import write_artifact
from imp_trt.classes import ClassTable
from tests.samples.conftest import CLIP_FRAMES, CLIP_SIZE
from tests.support import engines, tiny

pytest.importorskip("tritonclient.grpc", reason="needs tritonclient[grpc], which has Triton's schema")
triton_server = pytest.importorskip("tests.support.triton_server")


@pytest.fixture
def repository(sample):
    return sample("triton/make_repository.py")


def _written(repository, folder, path, *options):
    assert repository.main([str(path), "-o", str(folder / "models"), *options]) == 0
    (home,) = (folder / "models").iterdir()
    return home, triton_server.read_config(home / "config.pbtxt")


@pytest.mark.parametrize("batch", [1, 3])
def test_the_configuration_is_the_graph_that_it_describes(repository, tmp_path, batch):
    home, config = _written(repository, tmp_path, tiny.artifact(tmp_path, batch))
    assert (home.name, config.name, config.backend) == ("tiny", "tiny", "onnxruntime")
    session = onnxruntime.InferenceSession(
        str(home / "1" / config.default_model_filename), providers=["CPUExecutionProvider"]
    )
    types = {"tensor(uint8)": "UINT8", "tensor(int32)": "INT32", "tensor(float)": "FP32"}
    for described, real in ((config.input, session.get_inputs()), (config.output, session.get_outputs())):
        said = [(tensor.name, triton_server.datatype(tensor), list(tensor.dims)) for tensor in described]
        assert said == [(tensor.name, types[tensor.type], tensor.shape) for tensor in real]
    assert config.max_batch_size == 0, "the batch is written in the shapes"
    assert list(config.model_warmup[0].inputs["frame"].dims) == list(config.input[0].dims)


def test_the_manifest_is_complete(repository, tmp_path):
    odd = ClassTable(
        ('a "quoted" one', "back\\slash", "größe", "line\nbreak"),
        (2, 3),
        tiny.CLASSES.palette,
    )
    path = tiny.artifact(tmp_path, classes=odd, terms="50 % 'of' \t all")
    _, config = _written(repository, tmp_path, path)
    text = config.parameters["imp_trt.manifest"].string_value
    assert parse_manifest(text.encode(), path) == read_artifact(path).manifest


def test_an_engine_is_served_byte_for_byte_with_its_plugins(repository, tmp_path, capsys):
    path = engines.artifact(tmp_path)
    home, config = _written(repository, tmp_path, path, "--name", "street")
    assert (home.name, config.name, config.backend) == ("street", "street", "tensorrt")
    assert (home / "1" / config.default_model_filename).read_bytes() == engines.plan()
    assert config.instance_group[0].Kind.Name(config.instance_group[0].kind) == "KIND_GPU"
    said = capsys.readouterr().out
    assert "IMP_TRT_REGISTER_ON_LOAD=1 tritonserver" in said
    assert "version-compatible" not in said


def test_an_engine_for_later_versions_needs_an_option_of_triton(repository, tmp_path, capsys):
    path = tmp_path / "tiny.fp16.x.engine"
    write_artifact(path, engines.plan(), engines.manifest(engine=engines.info(version_compatible=True)))
    assert repository.main([str(path), "-o", str(tmp_path / "models")]) == 0
    assert " --backend-config=tensorrt,version-compatible=true" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("payload", "changes"),
    [
        (engines.rtx_plan(), {"engine": engines.info(backend="tensorrt-rtx", version="1.7.1.116")}),
        (engines.plan(), {"engine": engines.info(), "detections": 0}),
    ],
    ids=["TensorRT-RTX", "no detector"],
)
def test_engines_that_triton_cannot_load_are_rejected(repository, tmp_path, capsys, payload, changes):
    path = tmp_path / "tiny.fp16.x.engine"
    repository_files = tmp_path / "models"
    write_artifact(path, payload, engines.manifest(**changes))
    assert repository.main([str(path), "-o", str(repository_files)]) == 4
    assert "cannot be served by Triton" in capsys.readouterr().err
    assert not repository_files.exists()


def test_outputs_without_values_are_left_out_of_an_onnx_model(repository, tmp_path):
    _, config = _written(repository, tmp_path, tiny.artifact(tmp_path, detections=0))
    assert [output.name for output in config.output] == ["semantic", "num_detections"]


@pytest.mark.parametrize("name", ["../up", "", ".hidden", "a b"])
def test_a_name_that_is_no_folder_is_rejected(repository, tmp_path, name):
    with pytest.raises(imp_trt.ImpTrtError, match="model name"):
        repository.write_repository(read_artifact(tiny.artifact(tmp_path)), tmp_path / "models", name)
    assert not (tmp_path / "models").exists()


@pytest.mark.parametrize("batch", [1, 2])
def test_the_client_gives_what_a_segmenter_gives(repository, sample, tmp_path, batch):
    path = tiny.artifact(tmp_path, batch)
    home, _ = _written(repository, tmp_path, path)
    client = sample("triton/client.py")
    frame = tiny.frame(77, 200)
    before = hashlib.sha256(frame.tobytes()).digest()
    with triton_server.serving(home) as address, client.TritonSegmenter(address, "tiny") as far:
        there = far.run(frame)
    with imp_trt.Segmenter(path) as near:
        here = near.run(frame)
    assert hashlib.sha256(frame.tobytes()).digest() == before
    assert np.array_equal(there.semantic, here.semantic)
    assert np.array_equal(there.instances.boxes, here.instances.boxes)
    assert np.array_equal(there.instances.masks, here.instances.masks)
    assert there.classes == here.classes


@pytest.mark.slow
def test_the_client_segments_a_video(repository, sample, tmp_path, artifact, clip):
    home, _ = _written(repository, tmp_path, artifact)
    client = sample("triton/client.py")
    output = tmp_path / "out.mp4"
    with triton_server.serving(home) as address:
        assert client.main([address, "tiny", str(clip), "-o", str(output)]) == CLIP_FRAMES
    capture = cv2.VideoCapture(str(output))
    shown, picture = capture.read()
    assert shown
    assert picture.shape == (*CLIP_SIZE, 3)
    assert int(capture.get(cv2.CAP_PROP_FRAME_COUNT)) == CLIP_FRAMES


def test_the_client_names_a_model_that_is_not_there(repository, sample, tmp_path, artifact):
    from tritonclient.utils import InferenceServerException

    home, _ = _written(repository, tmp_path, artifact)
    with triton_server.serving(home) as address, pytest.raises(InferenceServerException, match="other"):
        sample("triton/client.py").TritonSegmenter(address, "other")
