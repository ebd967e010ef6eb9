# SPDX-License-Identifier: Apache-2.0
"""Names and messages from outside reach no terminal, log or drawing with control characters."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from imp_trt.classes import ClassTable
from imp_trt.cli import inspect
from imp_trt.cli.common import Progress, run_command
from imp_trt.cli.printing import print_lines, say
from imp_trt.errors import ArtifactError, ImpTrtError, printable
from imp_trt.results.text import drawn
from imp_trt.video.sinks.images import file_name
from tests.support import tiny

EVIL = "a\x1b[31m\x1b]0;title\x07b\rc\nd\u202eefg\u2028h\x9bi\ud800j\0k\u200bl"


def clean(text: str) -> bool:
    return all(c.isprintable() for c in text.replace("\n", ""))


def test_printable() -> None:
    assert printable(EVIL) == "a?[31m?]0;title?b c d?efg h?i?j?k?l"
    assert printable("Straße 東京 a\u00a0b") == "Straße 東京 a b"


def test_errors_keep_the_text_and_show_it_clean() -> None:
    error = ArtifactError(f"artifact {EVIL}", expected=EVIL, got=EVIL, fix=EVIL)
    assert clean(str(error))
    assert "\n" not in str(error)
    assert error.got == EVIL


def test_objects_that_cannot_be_shown() -> None:
    class Rude:
        def __str__(self) -> str:
            raise RuntimeError("no")

    assert "Rude (RuntimeError)" in str(ImpTrtError("x", got=Rude()))
    assert "int (ValueError)" in str(ImpTrtError("x", got=10**5000))
    assert len(str(ImpTrtError("x", got="y" * 100_000))) < 2000


def _raise(error: BaseException) -> int:
    raise error


@pytest.mark.parametrize(
    "error", [ImpTrtError(EVIL), RuntimeError(EVIL), ImportError(EVIL), MemoryError(EVIL)]
)
def test_errors_of_a_command(error: Exception, capsys: pytest.CaptureFixture[str]) -> None:
    run_command(lambda: _raise(error))
    err = capsys.readouterr().err
    assert clean(err)
    assert err.count("\n") == 1


def test_logs_and_progress(capsys: pytest.CaptureFixture[str]) -> None:
    def body() -> int:
        logging.getLogger("imp_trt.any").warning("%s", EVIL)
        say(EVIL)
        print_lines(f"{EVIL}\nsecond")
        bar = Progress(EVIL, 2)
        bar._last = -100.0
        bar.update(1, EVIL)
        return 0

    run_command(body)
    out, err = capsys.readouterr()
    assert clean(out)
    assert clean(err)


def test_a_traceback_keeps_its_lines(capsys: pytest.CaptureFixture[str]) -> None:
    def body() -> int:
        try:
            _raise(RuntimeError("\x1b[31m"))
        except RuntimeError:
            logging.getLogger("imp_trt.any").warning("failed", exc_info=True)
        return 0

    run_command(body)
    err = capsys.readouterr().err
    assert clean(err)
    assert err.count("\n") > 3


def test_inspect(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = ("ro\x1b[2Jad", "s\u202eky", "car", "person")
    classes = ClassTable(names, tiny.CLASSES.things, tiny.CLASSES.palette)
    path = tiny.artifact(tmp_path, classes=classes, terms="\x1b]0;pwned\x07")
    assert inspect.main([str(path)]) == 0
    assert clean(capsys.readouterr().out)
    assert inspect.main([str(path), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert tuple(shown["manifest"]["classes"]["names"]) == names  # data stays exact


def test_a_name_of_any_length_is_drawn_short() -> None:
    assert len(drawn("x" * 30_000)) <= 60
    assert clean(drawn(EVIL))


@pytest.mark.parametrize("name", ["../../etc/x", "a/b", "/abs", "a\0b", "..", ""])
def test_frame_names_stay_in_their_folder(tmp_path: Path, name: str) -> None:
    path = (tmp_path / f"{file_name(name)}.png").resolve()
    assert path.parent == tmp_path.resolve()
    path.write_bytes(b"")


def test_an_image_pattern_without_a_suffix(tmp_path: Path) -> None:
    from imp_trt.errors import OutputError
    from imp_trt.video.sinks import OverlayImages

    with pytest.raises(OutputError, match="the suffix of an image"):
        OverlayImages(tmp_path / "out 50%d")
    assert not list(tmp_path.iterdir())
