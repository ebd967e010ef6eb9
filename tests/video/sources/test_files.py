# SPDX-License-Identifier: Apache-2.0
"""Sources: what opens, what is rejected, and that no damaged file passes for a short one."""

from __future__ import annotations

import logging
import os
import re
import shutil
import threading
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from imp_trt.data.images import encode_image, read_image
from imp_trt.errors import SourceError
from imp_trt.video.containers import missing_bytes
from imp_trt.video.sources import ImageSource, VideoSource, files, open_source
from imp_trt.video.writer import VideoWriter
from tests.support import clips, tiny


def test_an_image(tmp_path: Path) -> None:
    path = tmp_path / "street.PNG"
    path.write_bytes(encode_image(tiny.frame(), ".png"))
    with open_source(path) as source:
        (frame,) = source
    assert (source.frames, source.fps, source.paths) == (1, None, (path,))
    assert np.array_equal(frame.image, tiny.frame())
    assert (frame.index, frame.name, frame.time_s) == (0, "street", None)


def test_a_folder_in_natural_order(tmp_path: Path) -> None:
    for name in ("f10.png", "f2.png", "f1.jpg", ".hidden.png", "notes.txt"):
        (tmp_path / name).write_bytes(encode_image(tiny.frame(), ".jpg"))
    (tmp_path / "sub.png").mkdir()
    assert [frame.name for frame in open_source(tmp_path)] == ["f1", "f2", "f10"]


def test_images_can_be_read_again(tmp_path: Path) -> None:
    """What cannot be read is skipped each time, and not counted twice."""
    (tmp_path / "a.png").write_bytes(encode_image(tiny.frame(), ".png"))
    (tmp_path / "b.png").write_bytes(b"no image")
    source = open_source(tmp_path)
    assert isinstance(source, ImageSource)
    for _ in range(3):
        assert [frame.name for frame in source] == ["a"]
        assert [path.name for path, _ in source.skipped] == ["b.png"]


@pytest.mark.parametrize("spec", [".", "*.png", "0.png"])
def test_images_are_found_from_another_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spec: str
) -> None:
    (tmp_path / "0.png").write_bytes(encode_image(clips.picture(0), ".png"))
    monkeypatch.chdir(tmp_path)
    source = open_source(spec)
    monkeypatch.chdir("/")
    assert len(list(source)) == 1


def test_the_order_is_not_that_of_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names that differ in leading zeros alone are equal as numbers."""
    names = ("f7.png", "f007.png", "f07.png", "f6.png")
    for name in names:
        (tmp_path / name).write_bytes(encode_image(tiny.frame(), ".png"))
    for order in (names, names[::-1]):
        listed = [tmp_path / name for name in order]
        monkeypatch.setattr(Path, "iterdir", lambda _, listed=listed: iter(listed))
        monkeypatch.setattr("glob.glob", lambda *_, listed=listed, **__: list(map(str, listed)))
        for spec in (tmp_path, tmp_path / "*.png"):
            assert [path.stem for path in open_source(spec).paths] == ["f6", "f007", "f07", "f7"]


UNREAD = [
    (
        ["b.gif", "c.JP2", "d.avif", "e.jfif"],
        "4 images of other formats than .png .jpg",
        "(b.gif, c.JP2, d.avif, ...)",
    ),
    (["b.mp4", "c.3gp"], "2 videos", "(b.mp4, c.3gp)"),
    (["sub/x.png", "deep/er/x.JPG", "empty/notes.txt"], "2 sub-folders with images", "(deep, sub)"),
]


@pytest.mark.parametrize(("names", "count", "some"), UNREAD)
def test_what_a_folder_has_besides_the_images_that_are_read_is_reported_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, names: list[str], count: str, some: str
) -> None:
    for name in (*names, "notes.txt", ".hidden.gif", "labels/a.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(SourceError, match=re.escape(count)):
        open_source(tmp_path)
    (tmp_path / "a.png").write_bytes(encode_image(tiny.frame(), ".png"))
    with caplog.at_level(logging.WARNING, "imp_trt"):
        for _ in range(2):
            assert len(list(open_source(tmp_path))) == 1
    (message,) = caplog.messages
    assert count in message
    assert some in message


def test_links_without_a_target_and_fifos_of_a_folder_are_skipped_and_named(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encode_image(tiny.frame(), ".png"))
    (tmp_path / "b.png").symlink_to("nowhere.png")
    os.mkfifo(tmp_path / "c.png")
    source = open_source(tmp_path)
    assert isinstance(source, ImageSource)
    assert len(list(source)) == 1
    assert [path.name for path, _ in source.skipped] == ["b.png", "c.png"]


def test_a_pattern_and_equal_names(tmp_path: Path) -> None:
    for folder in ("cam0", "cam1"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "7.png").write_bytes(encode_image(tiny.frame(), ".png"))
    source = open_source(f"{tmp_path}/*/7.png")
    assert source.frames == 2
    assert [frame.name for frame in source] == ["000000_7", "000001_7"]


def test_a_file_whose_name_looks_like_a_pattern(tmp_path: Path) -> None:
    path = tmp_path / "a[1]*.png"
    path.write_bytes(encode_image(tiny.frame(), ".png"))
    assert len(list(open_source(path))) == 1


@pytest.mark.parametrize("suffix", clips.CODECS)
def test_a_video(tmp_path: Path, suffix: str, caplog: pytest.LogCaptureFixture) -> None:
    path = clips.write_clip(tmp_path / f"clip{suffix}", frames=10, fps=30000 / 1001)
    with open_source(path) as source:
        frames = list(source)
        assert "open it again" not in caplog.text
        assert list(source) == []  # single pass
        assert f"{path} was read to its end and gives no more frames; open it again" in caplog.text
    assert source.fps == pytest.approx(30000 / 1001, rel=1e-4)
    assert source.frames == len(frames) == 10
    for i, frame in enumerate(frames):
        assert (frame.index, frame.name) == (i, f"{i:06d}")
        assert abs(int(frame.image.mean()) - (20 + 8 * i)) <= 5
        assert frame.time_s == pytest.approx(i * 1001 / 30000, abs=2e-3)
    assert len({frame.image.__array_interface__["data"][0] for frame in frames}) == 10  # no shared buffer
    source.close()
    assert list(source) == []
    assert f"{path} is closed and gives no more frames" in caplog.text


@pytest.mark.parametrize("name", ["clip_%03d.mp4", "clip 1.mp4", "clip_0001.mp4", "ünïcode.mp4"])
def test_awkward_video_names(tmp_path: Path, name: str) -> None:
    clips.write_clip(tmp_path / "clip.mp4", frames=3).rename(tmp_path / name)
    assert len(list(open_source(tmp_path / name))) == 3


def test_one_frame(tmp_path: Path) -> None:
    assert len(list(open_source(clips.write_clip(tmp_path / "one.mp4", frames=1)))) == 1


def test_another_container_than_the_name_says(tmp_path: Path) -> None:
    path = clips.write_clip(tmp_path / "clip.mp4", frames=4)
    shutil.copy(path, tmp_path / "clip.avi")
    assert len(list(open_source(tmp_path / "clip.avi"))) == 4


@pytest.mark.parametrize("suffix", clips.CODECS)
@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.5, 0.9, 0.99])
def test_a_truncated_video_is_rejected(tmp_path: Path, suffix: str, share: float) -> None:
    path = clips.write_clip(tmp_path / f"clip{suffix}", frames=30)
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(SourceError, match=r"empty file|truncated|none: audio only"):
        list(open_source(path))


@pytest.mark.parametrize(
    ("name", "head", "box"),
    [
        ("a.mp4", b"\0\0\0\x10ftypisom\0\0\0\0", b"\0\0\0\x08free"),
        ("a.avi", b"", b"RIFF\4\0\0\0AVI "),
    ],
)
def test_a_video_of_empty_boxes_is_rejected_before_the_decoder_reads_it(
    tmp_path: Path, name: str, head: bytes, box: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("imp_trt.video.sources.files.pyav_decodes", lambda: pytest.fail("it is decoded"))
    (tmp_path / name).write_bytes(head + box * 300_000)
    with pytest.raises(SourceError, match=r"262,144 boxes of .* bytes: no video"):
        open_source(tmp_path / name)


def test_an_mp4_truncated_after_its_index_is_rejected_on_opening(tmp_path: Path) -> None:
    path = clips.write_clip(tmp_path / "clip.mp4", frames=30)
    data = clips.moved_to_front(path.read_bytes())
    path.write_bytes(data)
    assert missing_bytes(path) == 0
    assert len(list(open_source(path))) == 30
    path.write_bytes(data[:-50])
    capture = cv2.VideoCapture(str(path))
    assert capture.isOpened()  # OpenCV has no objection
    capture.release()
    with pytest.raises(SourceError, match="truncated by 50 bytes"):
        open_source(path)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_frames_that_are_listed_but_not_there(
    tmp_path: Path, suffix: str, caplog: pytest.LogCaptureFixture
) -> None:
    """At the end of hours of work it is a warning."""
    path = clips.write_clip(tmp_path / f"clip{suffix}", frames=10)
    for listed in (10, 15, 30):
        caplog.clear()
        source = VideoSource(path)
        source.frames = listed
        with caplog.at_level(logging.WARNING, "imp_trt"):
            assert len(list(source)) == 10  # nothing that was decoded is lost
        assert bool(caplog.records) == (listed > 10)


@pytest.mark.parametrize("suffix", [".mkv", ".mp4", ".mov"])
def test_a_recording_that_gave_fewer_frames_than_its_rate(
    tmp_path: Path, suffix: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Of Matroska, OpenCV's number of frames is only its length times its nominal rate."""
    times = [0, 0.04, 0.3, 0.31, 2.0, 2.033]
    writer = VideoWriter(tmp_path / f"x{suffix}", 25)
    for i, time_s in enumerate(times):
        writer.write(clips.picture(i), time_s)
    writer.close()
    with caplog.at_level(logging.WARNING, "imp_trt"), open_source(tmp_path / f"x{suffix}") as source:
        assert len(list(source)) == len(times)
    assert not caplog.records


def test_closing_while_a_read_stalls_releases_when_it_returns() -> None:
    """A recording behind a dead network: what is being read must not be freed."""
    reading, go_on, released = threading.Event(), threading.Event(), threading.Event()

    class Slow:
        reads = 0

        def read(self) -> tuple[bool, NDArray[np.uint8] | None]:
            self.reads += 1
            if self.reads == 2:
                reading.set()
                go_on.wait(5)
            return True, clips.picture(0)

        def get(self, prop: int, /) -> float:
            return 0.0

        def release(self) -> None:
            released.set()

    source = VideoSource("http://host/clip.mp4", Slow())
    thread = threading.Thread(target=lambda: list(source))
    thread.start()
    assert reading.wait(5)
    source.close()
    assert not released.is_set()
    go_on.set()
    thread.join(5)
    assert not thread.is_alive()
    assert released.is_set()
    source.close()


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("text.mp4", b"not a video at all"),
        ("noise.mp4", np.random.default_rng(0).bytes(5000)),
        ("noise.mkv", b"\x1a\x45\xdf\xa3" + np.random.default_rng(0).bytes(500)),
        ("sound.avi", clips.wave_file()),
        ("zeros.mp4", bytes(100)),
        ("box.mp4", b"\x00\x00\x00\x04ftyp" + bytes(50)),
    ],
)
def test_files_without_frames(tmp_path: Path, name: str, data: bytes) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(SourceError, match=r"none: audio only|truncated"):
        open_source(tmp_path / name)


@pytest.mark.parametrize(
    ("spec", "named"),
    [
        ("absent.mp4", "nothing at this path"),
        ("absent_folder/", "nothing at this path"),
        ("*.png", "at least one file"),
        ("empty", "0 files"),
        ("texts", "none of them an image"),
        ("texts/*", "images only"),
        ("texts/a.txt", "ends with"),
        ("noend", "no suffix"),
    ],
)
def test_rejected_specs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spec: str, named: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("x")
    (tmp_path / "noend").write_text("x")
    with pytest.raises(SourceError, match=named) as caught:
        open_source(spec)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".tiff", ".webp"])
@pytest.mark.parametrize("share", [0.0, 0.2, 0.5, 0.95])
def test_a_truncated_image_is_rejected(tmp_path: Path, suffix: str, share: float) -> None:
    data = encode_image(tiny.frame(200, 200), suffix)
    path = tmp_path / f"image{suffix}"
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(SourceError):
        read_image(path)


def test_image_formats_are_converted(tmp_path: Path) -> None:
    frame = tiny.frame()
    variants = {
        "gray.png": frame[..., 0],
        "alpha.png": np.dstack([frame, frame[..., :1]]),
        "deep.png": frame.astype(np.uint16) * 257,
    }
    for name, array in variants.items():
        cv2.imwrite(str(tmp_path / name), array)
        image = read_image(tmp_path / name)
        assert (image.dtype, image.shape) == (np.uint8, frame.shape)
    assert np.array_equal(read_image(tmp_path / "deep.png"), frame)


def test_a_photo_with_a_thumbnail_and_a_video_appended(tmp_path: Path) -> None:
    data = encode_image(tiny.frame(), ".jpg")
    thumbnail = b"Exif\0\0" + encode_image(tiny.frame(8, 8), ".jpg")
    block = b"\xff\xe1" + (len(thumbnail) + 2).to_bytes(2, "big") + thumbnail
    photo = data[:2] + block + data[2:]
    path = tmp_path / "photo.jpg"
    path.write_bytes(photo + b"\x00" * 100_000)
    assert read_image(path).shape == tiny.frame().shape
    path.write_bytes(photo[: len(block) + len(data) // 2])  # the thumbnail's end mark is still there
    with pytest.raises(SourceError, match="truncated file"):
        read_image(path)


def test_unreadable_image_and_folder(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "absent.png"):
        with pytest.raises(SourceError):
            read_image(path)
    os.symlink("loop.png", tmp_path / "loop.png")
    with pytest.raises(SourceError):
        open_source(tmp_path / "loop.png")


@pytest.mark.parametrize("av", [True, False])
def test_names_that_are_not_utf8(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, av: bool) -> None:
    path = clips.write_clip(tmp_path / "x.mp4", 3).rename(tmp_path / os.fsdecode(b"x\xff.mp4"))
    if av and files.pyav_decodes():
        assert len(list(open_source(path))) == 3
        return
    monkeypatch.setattr(files, "pyav_decodes", lambda: False)
    with pytest.raises(SourceError, match=r"x\\xff\.mp4.*UTF-8"):
        open_source(path)
    with pytest.raises(SourceError, match=r"http://127\.0\.0\.1:9/\\xff.*UTF-8"):
        open_source(os.fsdecode(b"http://127.0.0.1:9/\xff"))
