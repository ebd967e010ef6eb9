# SPDX-License-Identifier: Apache-2.0
"""The C++ program: compiled against TensorRT's headers, and run on a stand-in for TensorRT's library."""

from __future__ import annotations

import os
import re
import subprocess

import numpy as np
import pytest

from tests.samples.conftest import SAMPLES
from tests.support import tensorrt_on_host, tiny
from tests.support.plugin_build import build_with_cmake, tensorrt_include
from tests.support.stub_packages import need_rtx

SOURCE = SAMPLES / "cpp_app" / "main.cpp"


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    return tensorrt_on_host.build(SOURCE, tensorrt_include(), tmp_path_factory.mktemp("cpp_app"))


def _run(program, tmp_path, engine, given, *arguments, gpus="1"):
    path = tmp_path / "model.engine"
    path.write_bytes(engine)
    return subprocess.run(
        [program, path, *arguments],
        input=given,
        capture_output=True,
        check=False,
        timeout=60,
        # Tensors live as long as the program: the leak checker would only list them.
        env={**os.environ, "ASAN_OPTIONS": "detect_leaks=0", "STAND_IN_GPUS": gpus},
    )


@pytest.mark.parametrize(("batch", "detections"), [(1, 4), (2, 4), (1, 0)])
def test_every_frame_gets_its_class_map(program, tmp_path, batch, detections):
    frames = np.stack([tiny.frame(40, 50, seed=i) for i in range(4)])
    engine = tensorrt_on_host.engine(40, 50, batch, detections)
    done = _run(program, tmp_path, engine, frames.tobytes())
    assert done.returncode == 0, done.stderr
    maps = np.frombuffer(done.stdout, np.uint8).reshape(4, 40, 50)
    assert np.array_equal(maps, frames[..., 0] // 64)
    said = done.stderr.decode()
    assert f"frames of 50x40, {batch} at a time" in said
    assert said.count(f"{2 * batch} instances") == 4 // batch
    assert re.search(r"4 frames, p50 [0-9.]+ ms, p99 [0-9.]+ ms", said)


def test_a_truncated_frame_is_rejected(program, tmp_path):
    """As of a video of another size: all class maps are then those of shifted pixels."""
    done = _run(program, tmp_path, tensorrt_on_host.engine(8, 8), bytes(8 * 8 * 3 + 100))
    assert done.returncode == 1
    assert len(done.stdout) == 64
    assert b"stdin ends within a frame" in done.stderr


def test_the_last_frames_may_be_fewer_than_a_batch(program, tmp_path):
    frames = np.stack([tiny.frame(8, 8, seed=i) for i in range(5)])
    done = _run(program, tmp_path, tensorrt_on_host.engine(8, 8, 4), frames.tobytes())
    assert done.returncode == 0, done.stderr
    assert done.stdout == (frames[..., 0] // 64).tobytes()
    assert b"5: 2 instances" in done.stderr


def test_class_maps_that_cannot_be_written_are_an_error(program, tmp_path):
    path = tmp_path / "model.engine"
    path.write_bytes(tensorrt_on_host.engine(8, 8))
    environment = {**os.environ, "ASAN_OPTIONS": "detect_leaks=0", "STAND_IN_GPUS": "1"}
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [program, path],
            input=bytes(8 * 8 * 3),
            stdout=full,
            stderr=subprocess.PIPE,
            check=False,
            timeout=60,
            env=environment,
        )
    assert done.returncode == 1
    assert b"cannot read the frames, or write the class maps" in done.stderr


def test_the_plugin_library_is_loaded_before_the_engine(program, tmp_path):
    engine, frame = tensorrt_on_host.engine(8, 8, plugin=True), bytes(8 * 8 * 3)
    library = tmp_path / "libimp_trt_plugins.so"
    library.touch()
    assert _run(program, tmp_path, engine, frame, library).returncode == 0
    without = _run(program, tmp_path, engine, frame)
    assert without.returncode == 1
    assert b"TensorRT: Cannot find plugin" in without.stderr
    missing = _run(program, tmp_path, engine, frame, tmp_path / "nowhere.so")
    assert b"cannot load" in missing.stderr


@pytest.mark.parametrize(
    ("engine", "gpus", "said"),
    [(b"garbage", "1", "TensorRT rejects the engine"), (tensorrt_on_host.engine(8, 8), "0", "no CUDA GPU: ")],
)
def test_failures_are_reported(program, tmp_path, engine, gpus, said):
    done = _run(program, tmp_path, engine, b"", gpus=gpus)
    assert done.returncode == 1
    assert said in done.stderr.decode()


def test_the_usage_is_printed_without_arguments(program):
    done = subprocess.run([program], capture_output=True, check=False, timeout=60)
    assert done.returncode == 2
    assert b"usage:" in done.stderr


@pytest.mark.slow
def test_cmake_links_it_with_tensorrt(tmp_path):
    need_rtx()  # the only library with TensorRT's interface that pip alone brings
    import tensorrt_rtx_libs

    library = os.path.join(tensorrt_rtx_libs.__path__[0], "libtensorrt_rtx.so.1")
    build_with_cmake(tmp_path, "-DIMP_TRT_BUILD_SAMPLE=ON", f"-DIMP_TRT_RUNTIME_LIBRARY={library}")
    done = subprocess.run(
        [tmp_path / "imp_trt_app", tmp_path / "missing.engine"], capture_output=True, check=False, timeout=60
    )
    assert done.returncode == 1
    assert re.search(rb"no CUDA GPU|cannot read", done.stderr), done.stderr
