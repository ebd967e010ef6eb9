# SPDX-License-Identifier: Apache-2.0
"""Files of class names: the position of a name is its meaning."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from imp_trt.errors import InvalidInput

pytest.importorskip("torchvision", reason="needs torchvision")
from imp_trt.models.importing.classes import read_class_names


@pytest.mark.parametrize(
    "content",
    [b"cat\ndog\n", b"\xef\xbb\xbfcat\r\ndog\r\n\r\n", b"cat\rdog", b" cat \n dog", b"cat\ndog\n\n"],
)
def test_names_by_line(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_bytes(content)
    assert read_class_names(tmp_path / "names.txt") == ("cat", "dog")


def test_empty_lines_between_names_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "names.txt").write_text("\ncat\n\ndog\n\n")
    assert read_class_names(tmp_path / "names.txt") == ("cat", "dog")
    assert "2 empty ones before the last are left out" in caplog.text


def test_a_name_may_contain_what_other_standards_take_for_a_line_break(tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("cat\u2028big\ndog\n", encoding="utf-8")
    assert read_class_names(tmp_path / "names.txt") == ("cat\u2028big", "dog")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"c\0at\ndog\n", "control characters"),
        (b"cat\ncat\n", "each name once"),
        (b"cat\n" + b"x" * 1001, "at most 1000 characters"),
        (b"\n".join(b"%x" % i for i in range(256)), "at most 255 names.*256"),
        (b"\n".join(b"%x" % i for i in range(180_000)), "at most 255 names"),
        (b"\n\n", "at least one name"),
        (b"caf\xe9\n", "a text file"),
        (b"cat\n" * (1 << 19), "a text file"),
    ],
)
def test_files_of_other_content_are_rejected(content: bytes, told: str, tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_bytes(content)
    with pytest.raises(InvalidInput, match=told):
        read_class_names(tmp_path / "names.txt")


def test_names_in_json_with_a_lone_surrogate(tmp_path: Path) -> None:
    (tmp_path / "names.json").write_text(r'["cat", "\ud800x"]')
    with pytest.raises(InvalidInput, match="lone surrogates"):
        read_class_names(tmp_path / "names.json")


@pytest.mark.parametrize("kind", ["pipe", "endless", "loop", "folder"])
def test_what_is_no_file_is_neither_waited_for_nor_read(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "names.txt"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to("/dev/zero" if kind == "endless" else path)
    with pytest.raises(InvalidInput, match="a text file"):
        read_class_names(path)
