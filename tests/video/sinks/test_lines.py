# SPDX-License-Identifier: Apache-2.0
"""JSON lines into files, pipes and devices."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from imp_trt.errors import OutputError
from imp_trt.video.sinks import JsonLines, lines, text_file
from tests.video.sinks.conftest import MakeItem


def test_json_lines(tmp_path: Path, item: MakeItem) -> None:
    path = tmp_path / "out.jsonl"
    with JsonLines(path, min_score=0.7) as sink:
        for i in range(3):
            sink.write(item(i))
            assert len(path.read_text().splitlines()) == i + 1
    found = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(line["index"], line["name"], line["time_s"]) for line in found] == [
        (0, "name0", 0.0),
        (1, "name1", 0.1),
        (2, "name2", 0.2),
    ]
    assert all(len(line["instances"]) == 1 for line in found)
    assert not {"source", "age_ms"} & set(found[0])
    assert os.listdir(tmp_path) == ["out.jsonl"]


def test_an_earlier_file_is_replaced_after_two_seconds_or_by_the_end(
    tmp_path: Path, item: MakeItem, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr(text_file.time, "monotonic", lambda: now[0])
    path = tmp_path / "out.jsonl"
    path.write_text("earlier")
    with JsonLines(path) as sink:
        for i, moment in enumerate([100.0, 101.9, 102.0]):
            assert path.read_text() == "earlier"
            now[0] = moment
            sink.write(item(i))
        assert len(path.read_text().splitlines()) == 3
    path.write_text("earlier")
    with JsonLines(path) as sink:
        sink.write(item(0))
        assert path.read_text() == "earlier"
    assert json.loads(path.read_text())["index"] == 0
    assert os.listdir(tmp_path) == ["out.jsonl"]


@pytest.mark.parametrize("move", [os.remove, lambda path: os.rename(path, f"{path}.1")])
def test_a_file_that_is_gone_at_the_end_is_an_error(
    tmp_path: Path, item: MakeItem, move: Callable[[Path], None]
) -> None:
    sink = JsonLines(tmp_path / "r.jsonl")
    sink.write(item())
    move(tmp_path / "r.jsonl")
    with pytest.raises(OutputError, match="replaced, moved or removed"):
        sink.close()
    sink.close()


@pytest.mark.parametrize(("time_s", "wanted"), [(np.float32(0.5), 0.5), (np.nan, None), (None, None)])
def test_numbers_of_numpy_and_unknown_times(
    tmp_path: Path, item: MakeItem, time_s: float | None, wanted: float | None
) -> None:
    first = item(0)
    with JsonLines(tmp_path / "r.jsonl") as sink:
        sink.write(replace(first, frame=replace(first.frame, index=np.int64(3), time_s=time_s)))
    line = json.loads((tmp_path / "r.jsonl").read_text())
    assert (line["index"], line["time_s"]) == (3, wanted)


def test_source_and_age_where_they_are_known(tmp_path: Path, item: MakeItem) -> None:
    with JsonLines(tmp_path / "x") as sink:
        sink.write(item(source="front", age_s=0.01234567))
    line = json.loads((tmp_path / "x").read_text())
    assert (line["source"], line["age_ms"]) == ("front", 12.346)


@pytest.mark.parametrize("name", ["r.jsonl.gz", "r.ZST"])
def test_a_compressed_file_is_not_written_as_text(tmp_path: Path, item: MakeItem, name: str) -> None:
    with pytest.raises(OutputError, match="gzip"):
        JsonLines(tmp_path / name)
    assert os.listdir(tmp_path) == []
    os.mkfifo(tmp_path / name)  # whose reader may compress
    reader = os.open(tmp_path / name, os.O_RDONLY | os.O_NONBLOCK)
    with JsonLines(tmp_path / name) as sink:
        sink.write(item(0))
    assert os.read(reader, 9).startswith(b"{")
    os.close(reader)


def test_json_in_place_of_a_folder(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="folder"):
        JsonLines(tmp_path)


@contextmanager
def pipe(folder: Path) -> Iterator[tuple[Path, int]]:
    """A named pipe and the descriptor to read it by."""
    path = folder / "pipe"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        yield path, reader
    finally:
        try:
            os.close(reader)
        except OSError:
            pass


def test_a_pipe_gets_each_line_at_once(tmp_path: Path, item: MakeItem) -> None:
    with pipe(tmp_path) as (path, reader), JsonLines(path) as sink:
        for i in range(2):
            sink.write(item(i))
            assert json.loads(os.read(reader, 1 << 16))["index"] == i
    assert path.is_fifo()


def test_a_slow_reader_gets_every_line(tmp_path: Path, item: MakeItem) -> None:
    """More than a pipe holds: the writer waits for the reader."""
    got: list[bytes] = []
    count = 400
    with pipe(tmp_path) as (path, reader):

        def read() -> None:
            os.set_blocking(reader, True)
            while part := os.read(reader, 1 << 12):
                got.append(part)

        sink = JsonLines(path)
        thread = threading.Thread(target=read)
        thread.start()
        for i in range(count):
            sink.write(item(i))
        sink.close()
        thread.join(5)
        assert not thread.is_alive()
    text = b"".join(got)
    assert len(text) > 1 << 16
    assert [json.loads(line)["index"] for line in text.splitlines()] == list(range(count))


def test_a_reader_that_stalls_is_an_error_and_does_not_hang_the_run(
    tmp_path: Path, item: MakeItem, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lines, "READER_TIMEOUT_S", 0.05)
    with pipe(tmp_path) as (path, _), JsonLines(path) as sink:
        with pytest.raises(OutputError, match="read nothing"):
            all(sink.write(item(i)) for i in range(1000))


@pytest.mark.slow
def test_a_reader_that_was_stopped_along_with_the_writer() -> None:
    """By Ctrl-Z: the time until both go on is not the reader's."""
    code = (
        "import sys; from pathlib import Path; from imp_trt.video.sinks import lines\n"
        "pipe = lines._Pipe(Path('/dev/stdout'))\n"
        "print('ready', file=sys.stderr, flush=True)\n"
        "for _ in range(100): pipe.write('x' * 4095 + '\\n')\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as child:
        assert child.stderr is not None
        child.stderr.readline()
        time.sleep(0.2)  # the pipe is full now
        child.send_signal(signal.SIGSTOP)
        time.sleep(lines.READER_TIMEOUT_S + 0.1)
        child.send_signal(signal.SIGCONT)
        time.sleep(0.2)
        out, error = child.communicate(timeout=60)
    assert (child.returncode, error, len(out)) == (0, "", 100 * 4096)


def test_a_reader_that_went_is_an_error(tmp_path: Path, item: MakeItem) -> None:
    with pipe(tmp_path) as (path, reader), JsonLines(path) as sink:
        os.close(reader)
        with pytest.raises(OutputError, match="Broken pipe"):
            sink.write(item())


def test_a_pipe_that_is_not_read_is_an_error_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OutputError, match="pipe"):
        JsonLines(tmp_path / "pipe")


@pytest.mark.skipif(not Path("/dev/full").is_char_device(), reason="needs /dev/full")
def test_a_full_device_is_an_error(item: MakeItem) -> None:
    with JsonLines("/dev/full") as sink, pytest.raises(OutputError, match="No space left"):
        sink.write(item())


def test_standard_output_goes_on_where_it_was(tmp_path: Path) -> None:
    """Redirected to a file, /dev/stdout must be neither replaced nor written over."""
    code = (
        "from imp_trt.video.sinks.lines import _Pipe, _is_stream\n"
        "from pathlib import Path\n"
        "print('before', flush=True)\n"
        "path = Path('/dev/stdout')\n"
        "assert _is_stream(path)\n"
        "pipe = _Pipe(path); pipe.write('line\\n'); pipe.commit()\n"
        "print('after')\n"
    )
    out = tmp_path / "out.txt"
    with out.open("wb") as file:
        subprocess.run([sys.executable, "-c", code], stdout=file, check=True, timeout=60)
    assert out.read_text() == "before\nline\nafter\n"
