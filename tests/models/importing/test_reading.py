# SPDX-License-Identifier: Apache-2.0
"""Reading checkpoints of other code bases: every container, and nothing in them is executed."""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from imp_trt.errors import CheckpointError
from imp_trt.models.importing import reading
from imp_trt.models.importing.reading import read_foreign

WEIGHTS = {"layer.weight": torch.arange(6.0).reshape(2, 3), "layer.bias": torch.ones(2)}


class Call:
    """Pickled as a call of a function."""

    def __init__(self, function: Callable[..., Any], *arguments: object) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


class Settings:
    """A class of the process that wrote the file."""

    def __init__(self) -> None:
        self.depth = 50


def write_zip(content: object, path: Path) -> None:
    torch.save(content, path)


def write_legacy(content: object, path: Path) -> None:
    torch.save(content, path, _use_new_zipfile_serialization=False)


def write_pickle(content: object, path: Path) -> None:
    path.write_bytes(pickle.dumps(content, protocol=2))


WRITERS = {"zip.pth": write_zip, "legacy.pt": write_legacy, "raw.pkl": write_pickle}


def as_arrays(tensors: dict[str, torch.Tensor]) -> dict[str, Any]:
    return {name: value.numpy() for name, value in tensors.items()}


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize(
    "wrap",
    [
        lambda w: w,
        lambda w: {"model": w, "iteration": 90_000},
        lambda w: {"state_dict": w, "meta": {"epoch": 12}, "optimizer": {"state": {}}},
        lambda w: {"model": {"state_dict": w}},
        lambda w: {f"module.{key}": value for key, value in w.items()},
        lambda w: {"model": {f"module.model.{key}": value for key, value in w.items()}},
        lambda w: {"model": w, "config": Settings(), "when": Call(os.getcwd)},
        lambda w: {"best_loss": w["layer.bias"], "model": w},
        lambda w: {"weights": {"decay": 0.1}, **w},
    ],
)
def test_every_container_and_wrapper(name: str, wrap: Callable[[object], object], tmp_path: Path) -> None:
    path = tmp_path / name
    WRITERS[name](wrap(as_arrays(WEIGHTS) if path.suffix == ".pkl" else WEIGHTS), path)
    found = read_foreign(path).tensors
    assert found.keys() == WEIGHTS.keys()
    assert all(torch.equal(found[key], value) for key, value in WEIGHTS.items())


@pytest.mark.parametrize(
    ("beside", "named"),
    [
        ({"model_ema": {f"module.{key}": value for key, value in WEIGHTS.items()}}, "'model_ema'"),
        ({"ema": {"state_dict": WEIGHTS}, "teacher": WEIGHTS}, "'ema', 'teacher'"),
        ({"optimizer": {"state": {0: WEIGHTS}}, "epoch": 3, "loss": WEIGHTS["layer.bias"]}, None),
    ],
)
def test_other_weights_in_a_file_are_named(
    beside: dict[str, object], named: str | None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_zip({"model": WEIGHTS, **beside}, tmp_path / "a.pth")
    assert read_foreign(tmp_path / "a.pth").tensors.keys() == WEIGHTS.keys()
    assert [record.getMessage().count(f"are taken, not those of {named};") for record in caplog.records] == (
        [1] if named else []
    )


def test_a_zip_file_of_torch_with_the_name_pkl(tmp_path: Path) -> None:
    write_zip({"model": WEIGHTS}, tmp_path / "a.pkl")
    assert read_foreign(tmp_path / "a.pkl").tensors.keys() == WEIGHTS.keys()


def test_safetensors(tmp_path: Path) -> None:
    save_file(WEIGHTS, tmp_path / "a.safetensors")
    assert torch.equal(read_foreign(tmp_path / "a.safetensors").tensors["layer.bias"], torch.ones(2))


def test_arrays_of_python_2(tmp_path: Path) -> None:
    """As in the model zoo of Detectron2: protocol 2, old module names, bytes as text."""
    text = pickle.dumps({"model": as_arrays(WEIGHTS), "__author__": "x"}, protocol=2)
    text = text.replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    (tmp_path / "a.pkl").write_bytes(text)
    assert torch.equal(read_foreign(tmp_path / "a.pkl").tensors["layer.weight"], WEIGHTS["layer.weight"])


@pytest.mark.parametrize(
    "meta",
    [
        {"CLASSES": ("cat", "dog")},
        {"CLASSES": ["cat", "dog"]},
        {"dataset_meta": {"classes": ("cat", "dog")}},
        {"dataset_meta": {"CLASSES": ("cat", "dog")}},
    ],
)
def test_class_names_of_mmdetection(meta: dict[str, object], tmp_path: Path) -> None:
    write_zip({"state_dict": WEIGHTS, "meta": meta}, tmp_path / "a.pth")
    assert read_foreign(tmp_path / "a.pth").classes == ("cat", "dog")


@pytest.mark.parametrize("meta", [None, {}, {"CLASSES": None}, {"CLASSES": [1, 2]}, {"CLASSES": "cat"}])
def test_no_class_names(meta: object, tmp_path: Path) -> None:
    write_zip({"state_dict": WEIGHTS, "meta": meta}, tmp_path / "a.pth")
    assert read_foreign(tmp_path / "a.pth").classes == ()


def calls(proof: Path) -> list[Call]:
    """Calls that leave a file if they are executed."""
    command, code = f"touch {proof}", f"open({str(proof)!r}, 'w').close()"
    inner = pickle.dumps(Call(os.system, command))
    return [
        Call(os.system, command),
        Call(os.popen, command),
        Call(eval, code),
        Call(exec, code),
        Call(__import__, "os"),
        Call(getattr, "text", "upper"),
        Call(open, str(proof), "w"),
        Call(os.mkdir, str(proof)),
        Call(torch.hub.load, str(proof.parent), "entry"),
        Call(torch.save, WEIGHTS, str(proof)),
        Call(torch.storage._load_from_bytes, inner),
        Call(np.save, str(proof), np.zeros(1)),
        Call(pickle.loads, inner),
    ]


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("index", range(13))
def test_nothing_is_executed(name: str, index: int, tmp_path: Path) -> None:
    proof, path = tmp_path / "executed", tmp_path / name
    call = calls(proof)[index]
    weights: Any = as_arrays(WEIGHTS) if path.suffix == ".pkl" else WEIGHTS
    WRITERS[name]({"first": call, "model": weights, "last": [call]}, path)
    with contextlib.suppress(CheckpointError):
        assert read_foreign(path).tensors.keys() == WEIGHTS.keys()
    assert sorted(p.name for p in tmp_path.iterdir()) == [name]


def test_torchscript_is_not_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch.load hands such an archive to torch.jit.load, which runs the code in it."""
    loaded: list[object] = []
    monkeypatch.setattr(torch.jit, "load", lambda *arguments, **options: loaded.append(arguments))
    buffer = io.BytesIO()
    torch.save({"weight": torch.zeros(1)}, buffer)
    with zipfile.ZipFile(buffer, "a") as archive:
        root = archive.namelist()[0].partition("/")[0]
        archive.writestr(f"{root}/constants.pkl", b"")
    for name in ("script.pt", "script.pkl"):
        (tmp_path / name).write_bytes(buffer.getvalue())
        with pytest.raises(CheckpointError, match=r"TorchScript.*state_dict\(\)"):
            read_foreign(tmp_path / name)
    assert not loaded


@pytest.mark.parametrize(
    "module", ["builtins", "__builtin__", "os", "posix", "torch", "torch._utils", "numpy"]
)
@pytest.mark.parametrize(
    "target", ["eval", "system", "hub.load", "load", "__import__", "os.system", "memmap"]
)
def test_names_that_are_not_found(module: str, target: str, tmp_path: Path) -> None:
    found = reading._Unpickler(io.BytesIO()).find_class(module, target)
    assert issubclass(found, reading._Inert)


def test_a_pickle_changes_nothing_that_outlives_it(tmp_path: Path) -> None:
    """BUILD with (None, {...}) sets attributes of what is on the stack, a class or function too."""
    before = dict(vars(reading._Inert))
    for module, name in (("somewhere", "Thing"), ("torch._utils", "_rebuild_tensor_v2")):
        state = b"(N}X\x0c\x00\x00\x00__defaults__Nst"
        (tmp_path / "a.pkl").write_bytes(b"\x80\x02c" + f"{module}\n{name}\n".encode() + state + b"b.")
        with pytest.raises(CheckpointError):
            read_foreign(tmp_path / "a.pkl")
    assert dict(vars(reading._Inert)) == before
    assert torch._utils._rebuild_tensor_v2.__defaults__ is not None


def array_pickle(dtype: str, state: bytes = b"", data: bytes = b"A" * 8) -> bytes:
    """A pickle of numpy.ndarray((1,), dtype, data): a call of the class, not what NumPy writes."""
    text = b"X" + len(dtype).to_bytes(4, "little") + dtype.encode()
    values = b"C" + bytes([len(data)]) + data
    return b"cnumpy\nndarray\n(K\x01\x85" + text + values + b"tR" + state


def dtype_pickle(code: str, state: object = None) -> bytes:
    """A pickle of numpy.dtype(code, False, True) with a state, without its frame."""
    built = b"" if state is None else pickle.dumps(state, protocol=2)[2:-1] + b"b"
    return b"cnumpy\ndtype\n(X" + len(code).to_bytes(4, "little") + code.encode() + b"\x89\x88tR" + built


def raw_array(call: str, dtype: bytes, data: bytes = b"C\x08" + b"A" * 8, module: str = "_core") -> bytes:
    """A pickle of one element over bytes of the file, by one of the ways that NumPy uses."""
    if call == "scalar":
        return f"cnumpy.{module}.multiarray\nscalar\n(".encode() + dtype + data + b"tR"
    if call == "_frombuffer":
        start = f"cnumpy.{module}.numeric\n_frombuffer\n(".encode()
        return start + data + dtype + b"K\x01\x85X\x01\x00\x00\x00CtR"
    start = f"cnumpy.{module}.multiarray\n_reconstruct\n(cnumpy\nndarray\n".encode()
    return start + b"K\x00\x85C\x01btR" + b"(K\x01K\x01\x85" + dtype + b"\x89" + data + b"tb"


def write_stream(value: bytes, path: Path) -> None:
    """{"w": list(value)} as a pickle, or as the pickle of a zip archive of PyTorch."""
    stream = b"\x80\x02}X\x01\x00\x00\x00wcbuiltins\nlist\n" + value + b"\x85Rs."
    if path.suffix == ".pkl":
        path.write_bytes(stream)
        return
    buffer = io.BytesIO()
    torch.save({"w": torch.zeros(2)}, buffer)
    with zipfile.ZipFile(buffer) as source, zipfile.ZipFile(path, "w") as archive:
        for item in source.infolist():
            pickled = item.filename.endswith("data.pkl")
            archive.writestr(item.filename, stream if pickled else source.read(item))


RECORD = (3, "<", None, ("a",), {"a": (None, 0)}, 8, 1, 16)
SUBARRAY = (3, "<", ("O", (1,)), None, None, 8, 1, 16)
BAD_DTYPES = {
    "objects": dtype_pickle("O8"),
    "objects without size": dtype_pickle("O"),
    "a record": dtype_pickle("V8", RECORD),
    "a record over a number": dtype_pickle("f8", RECORD),
    "a subarray": dtype_pickle("f8", SUBARRAY),
    "two fields": dtype_pickle("f4,O"),
    "times": dtype_pickle("M8"),
    "an order that is none": dtype_pickle("f8", (3, "O", None, None, None, -1, -1, 0)),
    "text": b"X\x01\x00\x00\x00O",
    "another class": b"cnumpy\nobject_\n",
}


@pytest.mark.parametrize("name", ["a.pkl", "a.pth"])
@pytest.mark.parametrize("call", ["_reconstruct", "_frombuffer", "scalar"])
@pytest.mark.parametrize("dtype", BAD_DTYPES)
def test_arrays_of_objects_and_records(dtype: str, call: str, name: str, tmp_path: Path) -> None:
    """An array of objects takes bytes of the file for addresses: reading an element crashes."""
    module = "core" if name == "a.pkl" else "_core"
    write_stream(raw_array(call, BAD_DTYPES[dtype], module=module), tmp_path / name)
    with pytest.raises(CheckpointError, match="arrays of numbers"):
        read_foreign(tmp_path / name)


@pytest.mark.parametrize("name", ["a.pkl", "a.pth"])
@pytest.mark.parametrize("dtype", ["O", "f8"])
def test_numpy_is_not_called(dtype: str, name: str, tmp_path: Path) -> None:
    write_stream(array_pickle(dtype), tmp_path / name)
    with pytest.raises(CheckpointError, match="TypeError"):
        read_foreign(tmp_path / name)


@pytest.mark.parametrize("call", ["_reconstruct", "_frombuffer", "scalar"])
@pytest.mark.parametrize("size", [0, 4, 7, 16])
def test_arrays_of_another_size_than_their_data(size: int, call: str, tmp_path: Path) -> None:
    data = b"C" + bytes([size]) + bytes(size)
    write_stream(raw_array(call, dtype_pickle("f8"), data), tmp_path / "a.pkl")
    with pytest.raises(CheckpointError, match=f"{size} bytes for an array of 8"):
        read_foreign(tmp_path / "a.pkl")


@pytest.mark.parametrize("shape", [(-1,), (2, -4), (1 << 62, 1 << 62), (8,) + (1,) * 40, (8.0,), 8])
def test_arrays_of_an_impossible_shape(shape: object) -> None:
    dtype = reading._Dtype("u1")
    with pytest.raises(pickle.UnpicklingError):
        reading._Array().__setstate__((1, shape, dtype, False, bytes(8)))


def test_subclasses_of_arrays(tmp_path: Path) -> None:
    write_pickle({"w": np.ones(2).view(np.recarray)}, tmp_path / "a.pkl")
    with pytest.raises(CheckpointError, match="subclass"):
        read_foreign(tmp_path / "a.pkl")


@pytest.mark.parametrize("protocol", [2, 4, 5])
@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "i1", "i4", "i8", "u1", "?", ">f4", ">i8"])
def test_arrays_are_those_of_numpy(dtype: str, protocol: int, tmp_path: Path) -> None:
    values = np.arange(24).reshape(2, 3, 4).astype(dtype)
    arrays = {"c": values, "f": np.asfortranarray(values), "part": values[:, ::2], "zero": values[:0]}
    arrays |= {"one": np.array(values[1, 1, 1])}
    content = {"model": arrays, "other": [np.float32(1.5), np.str_("x"), np.array(["a"]), np.array(1j)]}
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(content, protocol))
    found = read_foreign(tmp_path / "a.pkl").tensors
    for name, array in arrays.items():
        assert np.array_equal(found[name].numpy(), array)
        assert found[name].shape == array.shape
        assert found[name].numpy().dtype == array.dtype.newbyteorder("=")


def test_names_as_scalars_of_numpy(tmp_path: Path) -> None:
    write_pickle({np.str_("layer"): np.ones(2, np.float32)}, tmp_path / "a.pkl")
    assert list(read_foreign(tmp_path / "a.pkl").tensors) == ["layer"]


def test_containers_with_attributes_of_another_meaning(tmp_path: Path) -> None:
    """BUILD sets attributes of a dictionary, which hide its methods."""
    stream = b"\x80\x02ccollections\nOrderedDict\n)R}X\x05\x00\x00\x00itemsK\x01sb."
    (tmp_path / "a.pkl").write_bytes(stream)
    with pytest.raises(CheckpointError):
        read_foreign(tmp_path / "a.pkl")


def test_an_archive_that_unpacks_to_far_more(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", pickle.dumps({"a": 1}))
        archive.writestr("a/data/0", bytes(1 << 26))
    with pytest.raises(CheckpointError, match="unpack to"):
        read_foreign(path)


def test_a_file_beyond_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_zip(WEIGHTS, tmp_path / "a.pth")
    monkeypatch.setattr(reading, "MAX_BYTES", 100)
    with pytest.raises(CheckpointError, match="more than 100"):
        read_foreign(tmp_path / "a.pth")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs FIFOs")
def test_files_that_are_none(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.pth")
    (tmp_path / "folder.pth").mkdir()
    for name in ("fifo.pth", "folder.pth", "missing.pth"):
        with pytest.raises(CheckpointError, match=name):
            read_foreign(tmp_path / name)


@pytest.mark.parametrize("suffix", reading.SUFFIXES)
@pytest.mark.parametrize("data", [b"", b"hello", b"PK\x03\x04", b"\x80\x02", b"\x80\x02K", bytes(200)])
def test_damaged_files(suffix: str, data: bytes, tmp_path: Path) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=r"got:|got") as caught:
        read_foreign(path)
    assert len(str(caught.value).splitlines()) <= 10


@pytest.mark.parametrize("name", WRITERS)
def test_a_file_that_was_cut_short(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    WRITERS[name]({"model": as_arrays(WEIGHTS) if path.suffix == ".pkl" else WEIGHTS}, path)
    data = path.read_bytes()
    for length in range(1, len(data) - 1, max(len(data) // 20, 1)):
        path.write_bytes(data[:length])
        with pytest.raises(CheckpointError):
            read_foreign(path)


@pytest.mark.parametrize("content", [[1, 2], {"a": 1}, {"model": {"a": "b"}}, {"model": Settings()}, None])
def test_files_without_tensors(content: object, tmp_path: Path) -> None:
    write_zip(content, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match="named tensors"):
        read_foreign(tmp_path / "a.pth")


def test_another_suffix(tmp_path: Path) -> None:
    (tmp_path / "a.onnx").write_bytes(b"x")
    with pytest.raises(CheckpointError, match=r"ends with \.pth"):
        read_foreign(tmp_path / "a.onnx")
