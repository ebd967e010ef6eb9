# SPDX-License-Identifier: Apache-2.0
"""imp_trt.Engine: third-party networks in ONNX Runtime, and as engines on a fake GPU."""

from __future__ import annotations

import gc
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from imp_trt import Engine, Segmenter
from imp_trt.artifacts.writing import write_artifact
from imp_trt.cuda import driver
from imp_trt.errors import ArtifactError, DeviceError, InvalidInput
from tests.support import foreign, tiny
from tests.support.fake_tensorrt import engine_file, network_engine_file
from tests.support.gpu_arrays import Dlpack, Interface, on_gpu
from tests.support.segmenters import Machine, nothing_left


@pytest.fixture
def onnx_path(tmp_path: Path) -> Path:
    return foreign.artifact(tmp_path, foreign.plain())


@pytest.fixture
def network(machine: Machine, tmp_path: Path) -> Path:
    return network_engine_file(tmp_path, machine[0].__name__, foreign.plain())


@pytest.fixture
def expected(onnx_path: Path) -> Iterator[Engine]:
    with Engine(onnx_path) as engine:
        yield engine


def equal(a: dict[str, Any], b: dict[str, Any]) -> bool:
    return list(a) == list(b) and all(np.array_equal(np.asarray(a[n]), b[n]) for n in a)


# ---- ONNX Runtime ----


def test_arrays_by_name(onnx_path: Path) -> None:
    inputs = foreign.images()
    kept = inputs["images"].copy()
    with Engine(onnx_path, threads=1) as engine:
        assert [str(spec) for spec in engine.inputs] == ["images: float32[1, 3, 16, 24]"]
        outputs = engine.run(inputs)
        assert list(outputs) == ["logits", "classes", "pooled"]
        for spec in engine.outputs:
            assert (outputs[spec.name].dtype.name, outputs[spec.name].shape) == (spec.dtype, spec.shape)
        assert np.array_equal(outputs["classes"], outputs["logits"].argmax(1))
        assert equal(engine.run({"images": torch.from_numpy(inputs["images"])}), outputs)
        assert "images: float32[1, 3, 16, 24] -> logits" in repr(engine)
        engine.warmup()
    assert np.array_equal(inputs["images"], kept)
    with pytest.raises(InvalidInput, match="closed"):
        engine.run(inputs)
    engine.close()


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (None, "a dictionary"),
        ({}, "no 'images'"),
        (foreign.images() | {"more": np.zeros(1)}, "an unknown 'more'"),
        ({"images": np.zeros((1, 3, 16, 24))}, r"float64\[1, 3, 16, 24\].*astype\('float32'\)"),
        ({"images": np.zeros((1, 3, 16, 25), np.float32)}, r"\[1, 3, 16, 25\].*--shape"),
        ({"images": [[1.0], [1.0, 2.0]]}, "ValueError"),
        ({"images": torch.zeros(1, 3, 16, 24, requires_grad=True)}, "RuntimeError"),
    ],
)
def test_wrong_inputs_are_named(onnx_path: Path, inputs: Any, message: str) -> None:
    with Engine(onnx_path) as engine, pytest.raises(InvalidInput, match=message):
        engine.run(inputs)


def test_arrays_in_another_order_of_memory(onnx_path: Path) -> None:
    inputs = foreign.images()
    with Engine(onnx_path) as engine:
        other = np.asfortranarray(inputs["images"])
        assert equal(engine.run({"images": other}), engine.run(inputs))
        with pytest.raises(InvalidInput, match="in host memory"):
            engine.run_on_device(inputs)


def test_a_forked_process_opens_it_again(onnx_path: Path) -> None:
    with Engine(onnx_path) as engine:
        outputs = engine.run(foreign.images())
        child = os.fork()
        if child == 0:
            os._exit(0 if equal(engine.run(foreign.images()), outputs) else 1)
        assert os.waitpid(child, 0)[1] == 0


def test_each_class_names_the_other(tmp_path: Path, onnx_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"contract.*imp_trt\.Engine"):
        Segmenter(onnx_path)
    with pytest.raises(ArtifactError, match=r"imp_trt\.Segmenter"):
        Engine(tiny.artifact(tmp_path))
    with pytest.raises(InvalidInput, match=r"\.onnx or \.engine"):
        Engine(tmp_path / "model.safetensors")
    with pytest.raises(ArtifactError, match=r"imp-export FILE\.onnx"):
        Engine(foreign.save(tmp_path, foreign.plain(), "bare.onnx"))


def test_a_graph_with_other_tensors_than_the_manifest(tmp_path: Path) -> None:
    path = foreign.artifact(tmp_path, foreign.plain(classes=4))
    other = foreign.plain(classes=5).SerializeToString()
    write_artifact(path, other, foreign.manifest(foreign.plain(classes=4)))
    with pytest.raises(ArtifactError, match="outputs of the graph differ"):
        Engine(path)


# ---- engines ----


def test_an_engine_answers_as_onnxruntime_does(machine: Machine, network: Path, expected: Engine) -> None:
    with Engine(network) as engine:
        assert repr(engine).startswith("Engine(engine, fp32")
        results = [engine.run(foreign.images(seed)) for seed in range(3)]
        assert all(equal(a, expected.run(foreign.images(seed))) for seed, a in enumerate(results))
        with pytest.raises(InvalidInput, match="no 'images'"):
            engine.run({})
    with pytest.raises(InvalidInput, match="closed"):
        engine.run(foreign.images())
    assert nothing_left(machine)


def test_it_is_captured_once_and_allocates_nothing_later(machine: Machine, network: Path) -> None:
    trt, cuda = machine
    with Engine(network) as engine:
        assert (trt.enqueued, cuda.calls.count("cuStreamBeginCapture")) == (2, 1)
        engine.run(foreign.images())
        allocations = cuda.calls.count("cuMemAlloc") + cuda.calls.count("cuMemHostAlloc")
        before, copies = trt.enqueued, cuda.calls.count("cuMemcpyHtoDAsync")
        for seed in range(4):
            engine.run(foreign.images(seed))
        assert trt.enqueued == before
        assert cuda.calls.count("cuMemcpyHtoDAsync") - copies == 4
        assert cuda.calls.count("cuMemAlloc") + cuda.calls.count("cuMemHostAlloc") == allocations
    with Engine(network, graph=False) as engine:
        engine.run(foreign.images())
        assert engine._backend.graph is None  # type: ignore[union-attr]
    assert nothing_left(machine)


@pytest.mark.parametrize("kind", [Interface, Dlpack])
def test_arrays_on_the_gpu_do_not_pass_through_the_host(
    machine: Machine, network: Path, expected: Engine, kind: Any
) -> None:
    _, cuda = machine
    answers = [expected.run(foreign.images(seed)) for seed in range(3)]
    with Engine(network) as engine:
        arrays = [kind(on_gpu(cuda, foreign.images(seed)["images"])) for seed in range(3)]
        uploads, downloads = (cuda.calls.count(f"cuMemcpy{way}Async") for way in ("HtoD", "DtoH"))
        outputs = [engine.run_on_device({"images": array}) for array in arrays]
        assert cuda.calls.count("cuMemcpyHtoDAsync") == uploads
        assert cuda.calls.count("cuMemcpyDtoHAsync") == downloads
        for answer, output in zip(answers, outputs, strict=True):  # no later call changed an earlier result
            assert equal({name: array.numpy() for name, array in output.items()}, answer)
            for name, array in output.items():
                interface = array.__cuda_array_interface__
                assert interface["stream"] == engine._backend._stream.handle  # type: ignore[union-attr]
                found = cuda.array(interface["data"][0], interface["shape"], np.dtype(interface["typestr"]))
                assert np.array_equal(found, answer[name])
        assert equal(engine.run({"images": arrays[1]}), answers[1])
        assert repr(output["pooled"]) == "DeviceArray(pooled: float32[1, 4, 1, 1])"
    with pytest.raises(InvalidInput, match="has been closed"):
        output["logits"].__cuda_array_interface__  # noqa: B018


def test_memory_of_dropped_outputs_is_used_again(machine: Machine, network: Path) -> None:
    _, cuda = machine
    with Engine(network) as engine:
        first = engine.run_on_device(foreign.images())
        pointer = first["logits"].pointer
        del first["classes"], first["pooled"]
        second = engine.run_on_device(foreign.images())
        assert second["logits"].pointer != pointer
        del first
        gc.collect()
        allocations = cuda.calls.count("cuMemAlloc")
        third = engine.run_on_device(foreign.images(2))
        assert third["logits"].pointer == pointer
        assert cuda.calls.count("cuMemAlloc") == allocations
    assert nothing_left(machine)


@pytest.mark.parametrize(
    ("array", "changes", "message"),
    [
        (np.zeros((1, 3, 16, 24), np.float16), {}, r"float16\[1, 3, 16, 24\] on the GPU"),
        (np.zeros((1, 3, 16, 23), np.float32), {}, r"float32\[1, 3, 16, 23\] on the GPU"),
        (np.zeros((1, 3, 16, 24), np.float32), {"strides": (4608, 1536, 4, 64)}, "C order"),
        (np.zeros((1, 3, 16, 24), np.float32), {"mask": 1}, "without its mask"),
        (np.zeros((1, 3, 16, 24), np.float32), {"typestr": ">f4"}, r">f4\[1, 3, 16, 24\] on the GPU"),
        (np.zeros((1, 3, 16, 24), np.float32), {"data": (123, False)}, "no CUDA memory"),
    ],
)
def test_wrong_arrays_on_the_gpu(
    machine: Machine, network: Path, array: Any, changes: Any, message: str
) -> None:
    _, cuda = machine
    with Engine(network) as engine:
        with pytest.raises(InvalidInput, match=message):
            engine.run({"images": Interface(on_gpu(cuda, array), **changes)})
        assert engine.run(foreign.images())


def test_an_onnx_file_takes_no_array_on_the_gpu(machine: Machine, onnx_path: Path) -> None:
    array = Interface(on_gpu(machine[1], foreign.images()["images"]))
    with Engine(onnx_path) as engine, pytest.raises(InvalidInput, match=r"tensor\.cpu\(\)"):
        engine.run({"images": array})


def test_one_thread_owns_it(machine: Machine, network: Path) -> None:
    errors = []

    def other() -> None:
        try:
            engine.run(foreign.images())
        except InvalidInput as error:
            errors.append(str(error))

    with Engine(network) as engine:
        engine.run(foreign.images())
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert "one Engine per thread" in errors[0]


@pytest.mark.parametrize(
    ("call", "last"), [("run", "copy_out"), ("run_on_device", "copy_on_device"), ("numpy", "copy_out")]
)
def test_close_in_another_thread_waits_for_a_call(
    machine: Machine, network: Path, monkeypatch: pytest.MonkeyPatch, call: str, last: str
) -> None:
    """It would free the memory that the call still uses."""
    engine = Engine(network)
    inputs = foreign.images()
    kept = engine.run_on_device(inputs) if call == "numpy" else {}
    real = getattr(driver, last)
    closing = threading.Thread(target=engine.close)

    def closed_meanwhile(*arguments: int) -> None:
        if not closing.ident:
            closing.start()
            closing.join(0.2)
            assert closing.is_alive()
        real(*arguments)

    monkeypatch.setattr(driver, last, closed_meanwhile)
    if call == "numpy":
        kept["logits"].numpy()
    else:
        getattr(engine, call)(inputs)
    closing.join(10)
    assert not closing.is_alive()
    with pytest.raises(InvalidInput, match="closed"):
        engine.run(inputs)
    assert nothing_left(machine)


def test_a_failure_leaves_it_usable(machine: Machine, network: Path, expected: Engine) -> None:
    trt, _ = machine
    with Engine(network, graph=False) as engine:
        trt.fails.add("execute")
        with pytest.raises(DeviceError, match="cannot run the network"):
            engine.run(foreign.images())
        trt.fails.clear()
        assert equal(engine.run(foreign.images()), expected.run(foreign.images()))
    assert nothing_left(machine)


def test_engines_name_the_other_class(machine: Machine, network: Path, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"imp_trt\.Engine"):
        Segmenter(network)
    with pytest.raises(ArtifactError, match=r"imp_trt\.Segmenter"):
        Engine(engine_file(tmp_path, machine[0].__name__))
    with pytest.raises(InvalidInput, match="leave the backend out"):
        Engine(network, "onnxruntime")


def test_tensors_that_differ_from_the_manifest(machine: Machine, tmp_path: Path) -> None:
    path = network_engine_file(
        tmp_path, machine[0].__name__, foreign.plain(classes=5), foreign.manifest(foreign.plain())
    )
    with pytest.raises(ArtifactError, match="its tensors differ from the manifest"):
        Engine(path)
    assert nothing_left(machine)


def test_inputs_of_several_types(machine: Machine, tmp_path: Path) -> None:
    """Empty and odd-sized tensors have addresses of their own; flags, integers and float16 pass unchanged."""
    make, info, types = onnx.helper.make_node, onnx.helper.make_tensor_value_info, onnx.TensorProto
    kinds = {
        "a": (types.INT64, [3]),
        "b": (types.UINT8, [1, 7]),
        "c": (types.FLOAT, [0, 4]),
        "d": (types.FLOAT, []),
    }
    graph = onnx.helper.make_graph(
        [make("Identity", [name], [f"{name}_out"]) for name in kinds],
        "types",
        [info(name, *kind) for name, kind in kinds.items()],
        [info(f"{name}_out", *kind) for name, kind in kinds.items()],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=8)
    inputs = {
        "a": np.array([1 << 40, -1, 0]),
        "b": np.arange(7, dtype=np.uint8)[None],
        "c": np.zeros((0, 4), np.float32),
        "d": np.array(2.5, np.float32),
    }
    with Engine(network_engine_file(tmp_path, machine[0].__name__, model)) as engine:
        outputs = engine.run(inputs)
        there = engine.run_on_device(inputs)
        for name, array in inputs.items():
            assert np.array_equal(outputs[f"{name}_out"], array)
            assert np.array_equal(there[f"{name}_out"].numpy(), array)
            assert outputs[f"{name}_out"].shape == array.shape
    assert nothing_left(machine)
