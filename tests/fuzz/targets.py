# SPDX-License-Identifier: Apache-2.0
"""What is fuzzed: each target reads bytes from outside and raises nothing but errors of this package."""

from __future__ import annotations

import hashlib
import io
import json
import random
import struct
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import cv2
import numpy as np

from imp_trt.artifacts.canvas_part import CanvasPart
from imp_trt.artifacts.manifest import TensorSpec, parse_manifest
from imp_trt.artifacts.network_manifest import parse_network_manifest
from imp_trt.artifacts.npz import read_arrays
from imp_trt.artifacts.plan_header import read_plan_header
from imp_trt.backends.onnx_bounds import check_bounds
from imp_trt.data.images import read_image
from imp_trt.errors import DatasetError, ImpTrtError
from imp_trt.export.onnx.float16 import to_float16
from imp_trt.export.onnx.foreign import read_foreign
from imp_trt.models.checkpoint import read_checkpoint, save_checkpoint
from imp_trt.models.network import ImpNetwork
from imp_trt.train.datasets.coco import CocoDataset
from imp_trt.train.datasets.index_png import IndexPngDataset, folder_spec
from imp_trt.train.datasets.layouts import recognize
from imp_trt.train.datasets.reading import read_label_map
from imp_trt.video.sources import open_source, redacted
from research.ablation.cells import Cell
from research.ablation.results import read_result
from tests.fuzz.mutator import mutate, mutate_json
from tests.research.ablation import made
from tests.support import av_clips, engines, fake_tensorrt, foreign, tiny
from tests.support.label_layouts import LAYOUTS
from tests.support.label_layouts import NAMES as NAMES_OF_SCENE
from tests.support.networks import small_config

Mutator = Callable[[bytes, random.Random], bytes]


@dataclass(frozen=True)
class Target:
    """A reader of untrusted bytes.

    Attributes:
        run: reads the bytes; ImpTrtError is an answer, any other exception a finding.
        seeds: valid inputs.
        mutators: one is chosen for each input.
    """

    run: Callable[[bytes], object]
    seeds: Sequence[bytes]
    mutators: Sequence[Mutator] = (mutate,)


_JSON: Sequence[Mutator] = (mutate_json, mutate_json, mutate)
_HIDDEN = "S3CRET"


def make(name: str, folder: Path) -> Target:
    """A target by its name, with its files in a folder."""
    return _TARGETS[name](folder)


def _manifest(folder: Path) -> Target:
    part = CanvasPart((1, 2, 16, 24), "1" * 64)
    seeds = [
        tiny.manifest(sha256="0" * 64).to_json(),
        tiny.manifest(sha256="0" * 64, canvas_part=part).to_json(),
        engines.manifest(sha256="a" * 64).to_json(),
    ]

    def run(data: bytes) -> None:
        # What is accepted can be shown and written again.
        parse_manifest(data, Path("x.json")).to_json()

    return Target(run, [seed.encode() for seed in seeds], _JSON)


def _network(folder: Path) -> Target:
    onnx = foreign.manifest(foreign.plain(), sha256="0" * 64)
    engine = foreign.manifest(foreign.plain(), kind="engine", engine=engines.info(), sha256="a" * 64)

    def run(data: bytes) -> None:
        parse_network_manifest(data, Path("x.json")).to_json()

    return Target(run, [onnx.to_json().encode(), engine.to_json().encode()], _JSON)


def _arrays(folder: Path) -> Target:
    inputs = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.zeros((0, 4), bool)}
    specs = {name: TensorSpec(name, array.dtype.name, array.shape) for name, array in inputs.items()}
    seeds = []
    for save in (np.savez, np.savez_compressed):
        buffer = io.BytesIO()
        save(buffer, **inputs)
        seeds.append(buffer.getvalue())
    return Target(lambda data: read_arrays(data, specs, "x.npz"), seeds)


def _foreign(folder: Path) -> Target:
    path = folder / "yours.onnx"

    def run(data: bytes) -> None:
        path.write_bytes(data)
        to_float16(read_foreign(path, {"images": (1, 3, 16, 24)}).model)

    open_sizes = foreign.plain(("B", 3, "H", "W"))
    return Target(run, [foreign.plain().SerializeToString(), open_sizes.SerializeToString()])


def _onnx(folder: Path) -> Target:
    return Target(lambda data: check_bounds(data, "x.onnx"), [tiny.graph().SerializeToString()])


def _header_only(data: bytes, rng: random.Random) -> bytes:
    """Changes of the JSON header alone; its length stays right."""
    size = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + size])
    if rng.random() < 0.5:
        config = mutate_json(header["__metadata__"]["config"].encode(), rng)
        header["__metadata__"]["config"] = config.decode("utf-8", "replace")
        text = json.dumps(header).encode()
    else:
        text = mutate_json(data[8 : 8 + size], rng)
    return struct.pack("<Q", len(text)) + text + data[8 + size :]


def _safetensors(folder: Path) -> Target:
    config = small_config("semantic-fpn", fpn_channels=8, semantic_channels=8, head_norm="none")
    path = save_checkpoint(folder / "x.safetensors", ImpNetwork(config), {})
    seed = path.read_bytes()

    def run(data: bytes) -> None:
        path.write_bytes(data)
        read_checkpoint(path)

    return Target(run, [seed], (_header_only, _header_only, mutate))


def _photo(path: Path) -> None:
    path.parent.mkdir(exist_ok=True)
    cv2.imwrite(str(path), np.zeros((12, 16, 3), np.uint8))


def _image(folder: Path) -> Target:
    """Images of each format, as frames and as label maps; OpenCV decodes most damaged ones."""
    rng = np.random.default_rng(0)
    frame = rng.integers(0, 256, (24, 32, 3), dtype=np.uint8)
    seeds = [cv2.imencode(suffix, frame)[1].tobytes() for suffix in (".png", ".jpg", ".bmp", ".webp", ".ppm")]
    for compression in (1, 5, 8, 32773):  # none, LZW, Deflate, PackBits
        settings = [cv2.IMWRITE_TIFF_COMPRESSION, compression]
        seeds += [cv2.imencode(".tif", image, settings)[1].tobytes() for image in (frame, frame[..., 0])]
    path = folder / "image"

    def run(data: bytes) -> None:
        path.write_bytes(data)
        with suppress(DatasetError):  # a photo is no label map
            read_label_map(path, np.uint8)
        assert read_image(path).dtype == np.uint8

    return Target(run, seeds, (mutate, _header_bytes))


def _video(folder: Path) -> Target:
    """Videos of several containers, with sound and titles; the decoder is PyAV where it is installed."""
    clip = av_clips.write(folder / "clip.mp4", frames=6, size=(32, 48), metadata={"title": "a title"})
    seeds = [clip.read_bytes()]
    for suffix, codec in ((".mkv", "libx264"), (".avi", "mpeg4"), (".wmv", "wmv2"), (".ts", "libx264")):
        made = folder / f"clip{suffix}"
        av_clips.write(made, codec, frames=6, size=(32, 48), metadata={"title": "a title"})
        seeds.append(made.read_bytes())
    seeds.append(av_clips.with_sound(clip, folder / "sound.mkv", seconds=1).read_bytes())
    path = folder / "video.mkv"  # FFmpeg looks at the content

    def run(data: bytes) -> None:
        path.write_bytes(data)
        with open_source(path) as source:
            for frame in islice(source, 20):
                assert frame.image.dtype == np.uint8

    return Target(run, seeds, (mutate, _header_bytes))


def _header_bytes(data: bytes, rng: random.Random) -> bytes:
    """One to three bytes of the first or last 200 changed: where sizes, offsets and tags are."""
    changed = bytearray(data)
    for _ in range(rng.randint(1, 3)):
        place = rng.randrange(min(len(data), 200))
        changed[place if rng.random() < 0.5 else -1 - place] = rng.randrange(256)
    return bytes(changed)


def _coco(folder: Path) -> Target:
    _photo(folder / "a.png")
    size = {"height": 12, "width": 16}
    regions = [[[1, 1, 8, 1, 8, 8]], {"counts": [10, 20, 162], "size": [12, 16]}]
    seed = {
        "images": [{"id": 1, "file_name": "a.png", **size}],
        "categories": [{"id": 1, "name": "car"}, {"id": 2, "name": "dog"}],
        "annotations": [
            {"id": k, "image_id": 1, "category_id": 1 + k % 2, "iscrowd": k % 2, "segmentation": region}
            for k, region in enumerate(regions)
        ],
        "licenses": [{"name": "CC0"}],
    }
    path = folder / "x.json"

    def run(data: bytes) -> None:
        path.write_bytes(data)
        dataset = CocoDataset(path, folder, "x/val")
        for index in range(min(len(dataset), 2)):
            dataset[index]

    return Target(run, [json.dumps(seed).encode()], _JSON)


def _dataset(folder: Path) -> Target:
    _photo(folder / "images/a.png")
    (folder / "labels").mkdir(exist_ok=True)
    cv2.imwrite(str(folder / "labels/a.png"), np.zeros((12, 16), np.uint8))
    (folder / "train.txt").write_text("images/a.png labels/a.png\n")
    seed = {
        "classes": ["sky", "road", "car"], "things": ["car"], "palette": [[1, 2, 3], [4, 5, 6], [7, 8, 9]],
        "ignore_index": [255], "groups": [0, 1, 1, 2], "exclude": ["images/b.png"], "name": "mine",
        "terms": "CC",
    }  # fmt: skip

    def run(data: bytes) -> None:
        (folder / "dataset.json").write_bytes(data)
        dataset = IndexPngDataset(folder, "train", folder_spec(folder))
        dataset[0]

    return Target(run, [json.dumps(seed).encode()], _JSON)


def _described(folder: Path) -> Target:
    """dataset.json of a folder in another layout, which may lie elsewhere."""
    LAYOUTS["coco-cvat"](folder)
    seed = {
        "layout": "coco", "root": ".", "classes": NAMES_OF_SCENE, "things": ["car"],
        "palette": [[1, 2, 3]] * len(NAMES_OF_SCENE), "name": "mine", "terms": "CC",
    }  # fmt: skip

    def run(data: bytes) -> None:
        (folder / "dataset.json").write_bytes(data)
        recognize(folder).open("train")

    return Target(run, [json.dumps(seed).encode()], _JSON)


def _yaml(folder: Path) -> Target:
    LAYOUTS["yolo"](folder)
    path = folder / "data.yaml"
    seeds = [path.read_bytes(), b"train: ../train/images\nval: ../valid/images\nnc: 1\nnames: ['a', \"b\"]\n"]

    def run(data: bytes) -> None:
        if b"/" in data.replace(b"images/", b"").replace(b"../", b""):
            return  # other folders of the machine would be read
        path.write_bytes(data)
        recognize(folder).open("train")[0]

    return Target(run, seeds)


def _polygons(folder: Path) -> Target:
    written = LAYOUTS["yolo"](folder)
    seeds = [written.labels[0].read_bytes(), b"0 0.5 0.5 0.1 0.1\n1 0 0 1 0 1 1 nan inf\n"]

    def run(data: bytes) -> None:
        written.labels[0].write_bytes(data)
        recognize(folder).open("train")[0]

    return Target(run, seeds)


def _list(folder: Path) -> Target:
    dataset = _dataset(folder)
    dataset.run(dataset.seeds[0])

    def run(data: bytes) -> None:
        (folder / "train.txt").write_bytes(data)
        IndexPngDataset(folder, "train", folder_spec(folder))

    return Target(run, [b"images/a.png labels/a.png\n# x\n"])


def _address(folder: Path) -> Target:
    seeds = [
        b"rtsp://admin:S3CRET@cam:554/live/ch1?channel=1&subtype=0",
        b"http://cam/video.cgi?loginuse=admin&loginpas=S3CRET",
        b"https://cam/a;id=S3CRET/b#S3CRET",
        b"gstreamer:rtspsrc location=rtsp://cam/x user-id=a user-pw=S3CRET ! decodebin ! appsink",
        b"cannot open 'rtsp://u:S3CRET@cam/a', nor http://cam/?t=S3CRET",
    ]

    def run(data: bytes) -> None:
        redacted(data.decode("utf-8", "replace"))

    return Target(run, seeds)


def _credentials(folder: Path) -> Target:
    """Bytes become a password in an address of each form; no part of it behind any character is shown."""
    forms = (
        "rtsp://admin:{}@cam:554/live/ch1",
        "http://cam/video.cgi?user=admin&pwd={}",
        "http://cam/x.m3u8?{}",
        "http://cam/live/#{}",
        "gstreamer:rtspsrc location=rtsp://cam/x user-pw={} ! appsink",
    )
    # What ends a value: the end of an address, a pair of a query, a word of a pipeline.
    ends = set(" \t\n\r\v\f&/\"'\\<>")

    def run(data: bytes) -> None:
        text = "".join(c for c in data.decode("latin-1") if c.isprintable() and c not in ends)
        for form in forms:
            shown = redacted(form.format(text + _HIDDEN))
            if _HIDDEN in shown:
                raise AssertionError(f"{form.format(text + _HIDDEN)!r} is shown as {shown!r}")

    return Target(run, [b"Hun!ter;2", b"p@ss:w/rd#1?", b"a=b,c~d%20"])


def _source(folder: Path) -> Target:
    _photo(folder / "images/a.png")

    def run(data: bytes) -> None:
        text = data.decode("utf-8", "surrogateescape")
        # Devices and addresses would be opened.
        if ":" in text or text.strip().isdecimal() or text.startswith(("/dev", "~")) or "**" in text:
            return
        source = open_source(f"{folder}/{text}")
        source.close()

    return Target(run, [b"images/a.png", b"images/*.png", b"images", b"images/[ab].png"])


def _plan(folder: Path) -> Target:
    plan = fake_tensorrt.plan(tiny.graph())
    return Target(lambda data: read_plan_header(data[:64]), [plan[:64], plan])


def _result(folder: Path) -> Target:
    result = made.made(Cell("panoptic-fpn-imp", "base", 0), 3)
    path = folder / result.data / f"{result.cell.name}.json"
    path.parent.mkdir()

    def run(data: bytes) -> None:
        path.write_bytes(data)
        read_result(path)

    return Target(run, [json.dumps(result.to_dict()).encode()], _JSON)


_TARGETS: dict[str, Callable[[Path], Target]] = {
    "manifest": _manifest,
    "network": _network,
    "arrays": _arrays,
    "foreign": _foreign,
    "onnx": _onnx,
    "safetensors": _safetensors,
    "image": _image,
    "video": _video,
    "coco": _coco,
    "dataset": _dataset,
    "described": _described,
    "yaml": _yaml,
    "polygons": _polygons,
    "list": _list,
    "address": _address,
    "credentials": _credentials,
    "source": _source,
    "plan": _plan,
    "result": _result,
}

NAMES = tuple(_TARGETS)


def accepts(target: Target, data: bytes) -> bool:
    """Whether an input is read; False if it is rejected as documented; any other exception passes through."""
    try:
        target.run(data)
    except ImpTrtError as error:
        if len(str(error)) > 5000:
            raise AssertionError(f"a message of {len(str(error))} characters") from error
        return False
    return True


def digest(data: bytes) -> str:
    """Name of an input that was kept."""
    return hashlib.sha256(data).hexdigest()[:12]
