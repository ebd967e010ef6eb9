# SPDX-License-Identifier: Apache-2.0
"""Golden frames in a file: what was written comes back, and nothing else is accepted."""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from imp_trt.artifacts import golden as module
from imp_trt.artifacts.artifact import golden_path
from imp_trt.artifacts.golden import MAX_FRAMES, Golden, pack_golden, read_golden, unpack_golden
from imp_trt.artifacts.reading import read_artifact, read_manifest
from imp_trt.artifacts.writing import write_artifact
from imp_trt.errors import ArtifactError, OutputError
from tests.support import engines, tiny
from tests.support.golden import golden

MANIFEST = tiny.manifest()


def written(folder: Path, data: bytes) -> Path:
    return write_artifact(folder / "tiny.fp32.onnx", b"graph", MANIFEST, data)


def changed(change: Callable[[dict[str, np.ndarray]], None]) -> bytes:
    """A file whose arrays were changed, with everything else as it should be."""
    with np.load(io.BytesIO(pack_golden(golden()))) as arrays:
        content = dict(arrays)
    change(content)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **content)
    return buffer.getvalue()


def test_what_was_written_comes_back(tmp_path: Path) -> None:
    path = written(tmp_path, pack_golden(golden()))
    assert golden_path(path) == tmp_path / "tiny.fp32.golden.npz"
    manifest = read_artifact(path).manifest
    back = unpack_golden(read_golden(path, manifest), manifest)
    assert len(back) == 2
    np.testing.assert_array_equal(back.frames, golden().frames)
    np.testing.assert_array_equal(back.sizes, golden().sizes)
    for name, array in golden().outputs.items():
        np.testing.assert_array_equal(back.outputs[name], array)
        assert back.outputs[name].dtype == array.dtype
    assert pack_golden(golden()) == pack_golden(golden())


def test_a_manifest_without_golden_frames_is_as_before(tmp_path: Path) -> None:
    path = write_artifact(tmp_path / "tiny.fp32.onnx", b"graph", MANIFEST)
    assert "golden_sha256" not in (tmp_path / "tiny.fp32.onnx.json").read_text()
    with pytest.raises(ArtifactError, match=r"field 'golden_sha256'.*export again .* without --no-verify"):
        read_golden(path, read_manifest(path))


@pytest.mark.parametrize("what", ["missing", "damaged", "another", "too large", "fifo"])
def test_a_file_that_is_not_the_artifacts(tmp_path: Path, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path, pack_golden(golden()))
    place = golden_path(path)
    data = place.read_bytes()
    if what == "missing":
        place.unlink()
    elif what == "damaged":
        place.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    elif what == "another":
        place.write_bytes(pack_golden(golden(1)))
    elif what == "too large":
        monkeypatch.setattr(module, "MAX_FILE_BYTES", len(data) - 1)
    else:
        place.unlink()
        os.mkfifo(place)
    with pytest.raises(ArtifactError, match=r"golden frames .*tiny\.fp32\.golden\.npz"):
        read_golden(path, read_manifest(path))


def test_no_more_is_read_than_a_golden_file_may_have(tmp_path: Path) -> None:
    path = written(tmp_path, pack_golden(golden()))
    with golden_path(path).open("r+b") as file:
        file.truncate(1 << 40)  # a sparse file
    with pytest.raises(ArtifactError, match="more than"):
        read_golden(path, read_manifest(path))


def remove_one(arrays: dict[str, np.ndarray]) -> None:
    del arrays["boxes"]


def add_one(arrays: dict[str, np.ndarray]) -> None:
    arrays["extra"] = arrays["boxes"]


def pickle_one(arrays: dict[str, np.ndarray]) -> None:
    arrays["labels"] = np.array([print, print], object)


def retype(arrays: dict[str, np.ndarray]) -> None:
    arrays["scores"] = arrays["scores"].astype(np.float64)


def reshape(arrays: dict[str, np.ndarray]) -> None:
    arrays["semantic"] = arrays["semantic"].transpose(0, 2, 1)


def fortran(arrays: dict[str, np.ndarray]) -> None:
    arrays["frames"] = np.asfortranarray(arrays["frames"])


def lose_a_frame(arrays: dict[str, np.ndarray]) -> None:
    arrays["masks"] = arrays["masks"][:1]


def no_frames(arrays: dict[str, np.ndarray]) -> None:
    arrays["sizes"] = arrays["sizes"][:0]


def many_frames(arrays: dict[str, np.ndarray]) -> None:
    for name, array in arrays.items():
        arrays[name] = np.repeat(array, MAX_FRAMES, axis=0)


def outside(arrays: dict[str, np.ndarray]) -> None:
    arrays["sizes"] = arrays["sizes"] + np.int32(1)


CHANGES = [
    remove_one,
    add_one,
    pickle_one,
    retype,
    reshape,
    fortran,
    lose_a_frame,
    no_frames,
    many_frames,
    outside,
]


@pytest.mark.parametrize("change", CHANGES)
def test_other_arrays_are_rejected(change: Callable[[dict[str, np.ndarray]], None]) -> None:
    with pytest.raises(ArtifactError, match="golden frames: expected"):
        unpack_golden(changed(change), MANIFEST)


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04", b"no zip file at all", pack_golden(golden())[:-40]])
def test_other_files_are_rejected(data: bytes) -> None:
    with pytest.raises(ArtifactError, match="golden frames"):
        unpack_golden(data, MANIFEST)


def bomb(shape: str, content: bytes) -> bytes:
    """A file whose array of masks has this shape by its header, and this content."""
    buffer = io.BytesIO(pack_golden(golden()))
    packed = io.BytesIO()
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    array = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode() + content
    with zipfile.ZipFile(buffer) as source, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as target:
        for info in source.infolist():
            target.writestr(info.filename, array if info.filename == "masks.npy" else source.read(info))
    return packed.getvalue()


@pytest.mark.parametrize(
    ("shape", "content"),
    [("(1000000, 1000000, 1000, 1000)", b""), ("(2, 4, 8, 8)", bytes(1 << 27)), ("(2, 4, 8, 8)", bytes(7))],
    ids=["a large shape", "a large content", "too little content"],
)
def test_a_bomb_is_not_unpacked(shape: str, content: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    real = zipfile.ZipExtFile.read

    def watched(self: zipfile.ZipExtFile, n: int | None = -1) -> bytes:
        data = real(self, n)
        read.append(len(data))
        return data

    data = bomb(shape, content)
    monkeypatch.setattr(zipfile.ZipExtFile, "read", watched)
    with pytest.raises(ArtifactError, match="masks"):
        unpack_golden(data, MANIFEST)
    assert max(read) < 1 << 17


def test_a_manifest_that_asks_for_much_is_rejected_first() -> None:
    large = replace(tiny.manifest(detections=1 << 8, mask_size=1 << 10), outputs=())
    with pytest.raises(ArtifactError, match="at most"):
        unpack_golden(pack_golden(golden()), large)


@pytest.mark.parametrize("there_before", [False, True])
def test_all_three_files_or_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there_before: bool) -> None:
    first = pack_golden(golden(1))
    if there_before:
        written(tmp_path, first)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    real = os.replace
    moved: list[object] = []

    def fails_at_the_graph(source: object, target: object) -> None:
        if str(target).endswith(".onnx") and not moved.append(target) and len(moved) == 1:
            raise OSError(28, "No space left on device")
        real(source, target)  # type: ignore[type-var]

    monkeypatch.setattr(os, "replace", fails_at_the_graph)
    with pytest.raises(OutputError, match="No space left"):
        written(tmp_path, pack_golden(golden(2)))
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before
    if there_before:
        manifest = read_artifact(tmp_path / "tiny.fp32.onnx").manifest
        assert read_golden(tmp_path / "tiny.fp32.onnx", manifest) == first


def test_artifacts_of_one_name_keep_their_own_golden_frames(tmp_path: Path) -> None:
    one, other = pack_golden(golden(1)), pack_golden(golden(2))
    graph = write_artifact(tmp_path / "model.onnx", b"graph", MANIFEST, one)
    for frames, names in ((one, 1), (other, 2), (other, 2)):
        engine = write_artifact(tmp_path / "model.engine", b"engine", engines.manifest(), frames)
        assert read_golden(graph, read_manifest(graph)) == one
        assert read_golden(engine, read_manifest(engine)) == frames
        assert len(list(tmp_path.glob("*.golden.npz"))) == names


def test_a_network_without_a_detector_has_golden_frames_too() -> None:
    manifest = replace(tiny.manifest(ops={}), detections=0, outputs=())
    right = golden()
    outputs = {name: array[:, :0] for name, array in right.outputs.items() if array.ndim > 1}
    outputs |= {"semantic": right.outputs["semantic"], "num_detections": np.zeros(2, np.int32)}
    back = unpack_golden(pack_golden(Golden(right.frames, right.sizes, outputs)), manifest)
    assert back.outputs["masks"].shape == (2, 0, 8, 8)
