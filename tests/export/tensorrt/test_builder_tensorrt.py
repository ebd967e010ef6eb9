# SPDX-License-Identifier: Apache-2.0
"""The part of the builder that is for TensorRT alone, which cannot be installed everywhere.

TensorRT-RTX has the same object model: here it stands in for TensorRT in the building process. The names that
are used are looked up in TensorRT's own bindings by tests/bindings, where those of TensorRT 11 build as well.
"""

from __future__ import annotations

import json
import os
import tempfile

import pytest

from imp_trt.errors import BuildError, OutputError, PrecisionError
from imp_trt.export.tensorrt import builder
from imp_trt.export.tensorrt.build_job import BuildJob
from imp_trt.export.tensorrt.builder import _prepare, build_engine
from imp_trt.export.tensorrt.engine import custom_nodes
from imp_trt.export.tensorrt.layer_types import check_engine, check_network, engine_types
from tests.support.small_graphs import convolution
from tests.support.stub_packages import needs_rtx, stub_package
from tests.support.tensorrt_on_rtx import SOURCE
from tests.support.typed_models import typed


def inspected(*types: str) -> str:
    layers = [{"Name": t, "Inputs": [], "Outputs": [{"Name": "o", "Format/Datatype": t}]} for t in types]
    return json.dumps({"Layers": layers, "I/O Tensors": []})


@pytest.fixture
def tensorrt(monkeypatch, tmp_path):
    """A TensorRT 10.3 in the building process; returns the settings that it received."""
    stub_package(monkeypatch, tmp_path, "tensorrt", SOURCE)
    monkeypatch.setenv("RECORD", str(tmp_path / "record"))
    monkeypatch.setenv("INSPECTED", inspected("Half", "Float"))
    monkeypatch.setattr(builder, "require_builder", lambda backend: None)
    links = tmp_path / "links"
    links.mkdir()
    monkeypatch.setenv("LD_LIBRARY_PATH", builder.rtx_environment(links).get("LD_LIBRARY_PATH", ""))
    return lambda: json.loads((tmp_path / "record").read_text())


def build(model=None, **job):
    model = convolution("fp16") if model is None else model
    job = BuildJob("tensorrt", "fp16", operators=custom_nodes(model), **job)
    return build_engine(model.SerializeToString(), job)


@pytest.mark.slow
@needs_rtx
def test_a_build_with_every_option(tensorrt, tmp_path):
    cache = tmp_path / "timing.cache"
    engine = build(
        typed("fp16").model,
        plugins="plugin",
        workspace=3 << 30,
        timing_cache=str(cache),
        optimization_level=1,
        hardware_compatibility="ampere_plus",
        version_compatible=True,
    )
    assert engine.version == "10.3.0"
    assert engine.plugins == "python"
    assert engine.engine_types == {"Half": 1, "Float": 1}
    settings = tensorrt()
    assert settings["deserialized"] == len(engine.plan)
    assert settings["format"] == "JSON"
    assert settings["tf32"] is False
    assert settings["pool"] == ["WORKSPACE", 3 << 30]
    assert settings["flag"] == "VERSION_COMPATIBLE"
    assert settings["hardware_compatibility_level"] == "ampere plus"
    assert settings["builder_optimization_level"] == "1"
    assert settings["profiling_verbosity"].endswith("DETAILED")
    assert settings["network_flags"] != 0, "strongly typed"
    assert cache.read_bytes() == b"+measured"


@pytest.mark.slow
@needs_rtx
@pytest.mark.parametrize(
    ("before", "used"),
    [(b"known", b"known"), (b"damaged", b""), (b"of another version", b"")],
)
def test_a_timing_cache_saves_time_or_does_nothing(tensorrt, tmp_path, before, used, caplog):
    cache = tmp_path / "timing.cache"
    cache.write_bytes(before)
    build(timing_cache=str(cache))
    assert tensorrt()["timing_cache"].encode() == used
    assert cache.read_bytes() == used + b"+measured"
    assert ("timing.cache is not of this TensorRT and GPU" in caplog.text) == (before != used)


@needs_rtx
def test_a_timing_cache_that_cannot_be_written_costs_no_engine(tensorrt, tmp_path, caplog):
    (tmp_path / "file").write_bytes(b"")
    engine = build(timing_cache=str(tmp_path / "file" / "timing.cache"))
    assert engine.plan
    assert "timing.cache cannot be written" in caplog.text


@needs_rtx
def test_the_child_never_writes_the_users_timing_cache(tensorrt, tmp_path):
    """It may be killed at any moment, and would leave half a file next to it."""
    seen = []

    def look(stage, done, total):
        seen.extend(path.read_text() for path in tmp_path.glob("scratch/imp_trt_build_*/job.json"))

    (tmp_path / "scratch").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(tmp_path / "scratch"))
        model = convolution("fp16")
        job = BuildJob("tensorrt", "fp16", timing_cache=str(tmp_path / "kept" / "timing.cache"))
        build_engine(model.SerializeToString(), job, look)
    assert seen
    assert not any("kept" in text for text in seen)
    assert (tmp_path / "kept" / "timing.cache").read_bytes() == b"+measured"


@needs_rtx
def test_without_options_tensorrt_decides(tensorrt):
    build()
    assert not {"pool", "flag", "hardware_compatibility_level", "timing_cache"} & set(tensorrt())


@needs_rtx
def test_an_option_that_the_version_lacks(tensorrt):
    with pytest.raises(BuildError, match=r"same_compute_capability: expected a newer TensorRT, got 10\.3\.0"):
        build(hardware_compatibility="same_compute_capability")


@needs_rtx
def test_an_engine_without_a_half_layer_is_not_float16(tensorrt, monkeypatch):
    monkeypatch.setenv("INSPECTED", inspected("Float", "Int32"))
    with pytest.raises(
        PrecisionError, match=r"engine does not compute in fp16: expected layers in Half, got 1 in"
    ):
        build()


@needs_rtx
def test_an_engine_that_cannot_be_loaded_at_once(tensorrt, monkeypatch):
    monkeypatch.setenv("INSPECTED", "unloadable")
    with pytest.raises(BuildError, match="built engine cannot be loaded"):
        build()


@needs_rtx
def test_an_inspector_that_names_no_types(tensorrt, monkeypatch):
    monkeypatch.setenv("INSPECTED", json.dumps({"Layers": ["conv", "relu"]}))
    engine = build()
    assert engine.engine_types is None
    assert engine.network_types == {"Half": 1}


def test_types_of_an_engine_as_the_inspector_names_them():
    def tensor(text):
        return {"Name": "t", "Dimensions": [1], "Format/Datatype": text}

    layers = [
        {"Name": "a", "Inputs": [tensor("Half")], "Outputs": [tensor("Half")]},
        {"Name": "b", "Inputs": [tensor("Row major linear FP16 format")], "Outputs": [tensor("FP32")]},
        {"Name": "c", "Inputs": [tensor("Two wide channel vectorized row major Int8 format")], "Outputs": []},
        {"Name": "d", "Inputs": [tensor("Int8"), tensor("Half")], "Outputs": [tensor("Half")]},
        {"Name": "e", "Inputs": [tensor("BFloat16")], "Outputs": [tensor("Float")]},
        {"Name": "f", "Inputs": [tensor("FP8")], "Outputs": [tensor("Half")]},
        {"Name": "g", "Inputs": [tensor("Int32")], "Outputs": [tensor("Bool"), tensor("UInt8")]},
        {"Name": "h", "Inputs": [tensor("Float")], "Outputs": [tensor("Int64")]},
    ]
    found = engine_types(json.dumps({"Layers": [*layers, "only a name"], "Bindings": []}))
    assert found == {"Half": 2, "Int8": 2, "BFloat16": 1, "FP8": 1, "Float": 1}
    assert engine_types("{}") == {}


@pytest.mark.parametrize(
    ("precision", "types", "good"),
    [
        ("fp32", {"Float": 9}, True),
        ("fp32", {"Float": 9, "Half": 1}, False),
        ("fp16", {"Half": 1, "Float": 9}, True),
        ("fp16", {"Float": 9}, False),
        ("fp16", {"Half": 5, "Int8": 1}, True),
        ("fp16", {"Half": 5, "BFloat16": 1}, False),
        ("bf16", {"BFloat16": 5, "Float": 1}, True),
        ("bf16", {"Half": 5}, False),
        ("int8", {"Int8": 1, "Half": 3, "Float": 2}, True),
        ("int8", {"Half": 3, "Float": 2}, False),
        ("fp8", {"FP8": 1, "Half": 3}, True),
        ("fp8", {"Int8": 1, "Half": 3}, False),
        ("fp16", {}, False),
    ],
)
def test_which_engines_pass(precision, types, good):
    if good:
        check_engine(precision, types)
        return
    with pytest.raises(PrecisionError):
        check_engine(precision, types)


@pytest.mark.parametrize(
    ("precision", "types", "good"),
    [
        ("fp32", {"Float": 9}, True),
        ("fp16", {"Half": 9}, True),
        ("fp16", {"Half": 9, "Float": 1}, False),
        ("bf16", {"Half": 9}, False),
        ("int8", {"Int8": 3, "Half": 9}, True),
        ("int8", {"Int8": 2, "Half": 9}, False),
        ("int8", {"FP8": 9, "Int8": 9}, False),
        ("fp8", {"FP8": 9, "Float": 3}, True),
        ("fp32", {}, False),
    ],
)
def test_which_networks_pass(precision, types, good):
    if good:
        check_network(precision, types)
        return
    with pytest.raises(PrecisionError, match=f"does not compute in {precision}"):
        check_network(precision, types)


@pytest.mark.parametrize("kind", ["pipe", "endless"])
def test_a_timing_cache_that_never_ends_is_rejected(kind, tmp_path):
    cache = tmp_path / "timing.cache"
    if kind == "pipe":
        os.mkfifo(cache)
    else:
        cache.symlink_to("/dev/zero")
    with pytest.raises(OutputError, match=r"timing cache .*regular file"):
        _prepare(b"", BuildJob("tensorrt", "fp16", timing_cache=str(cache)), tmp_path)
