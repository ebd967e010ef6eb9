# SPDX-License-Identifier: Apache-2.0
"""Text that grows: complete pieces only, whatever the disk does."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from pathlib import Path

import pytest

from imp_trt.errors import OutputError
from imp_trt.video.sinks.text_file import TextFile
from tests.support.full_disk import full_disk

PIECE = "é" * 999 + "\n"


def test_lines_come_back(tmp_path: Path) -> None:
    file = TextFile(tmp_path / "new" / "t.txt")
    for _ in range(2000):
        file.write(PIECE)
    assert list(file.lines()) == [PIECE[:-1]] * 2000
    assert file.size == len((PIECE * 2000).encode())
    file.write("end\n")
    assert os.listdir(tmp_path / "new") != ["t.txt"]
    file.commit()
    file.commit()
    assert (tmp_path / "new" / "t.txt").read_text(encoding="utf-8") == PIECE * 2000 + "end\n"
    assert os.listdir(tmp_path / "new") == ["t.txt"]
    with pytest.raises(OutputError, match="closed"):
        file.write("more")


def test_a_full_disk_leaves_whole_pieces(tmp_path: Path) -> None:
    """A recording that ends because the disk is full must not end in half a line."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    file = TextFile(tmp_path / "t.txt")
    written = 0
    with full_disk(300_001):
        with suppress(OutputError):
            while True:
                file.write(PIECE)
                written += 1
        file.commit()
    text = (tmp_path / "t.txt").read_text(encoding="utf-8")
    assert text == PIECE * (len(text) // len(PIECE))
    assert written - 100 < len(text) // len(PIECE) <= written
