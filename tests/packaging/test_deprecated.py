# SPDX-License-Identifier: Apache-2.0
"""Old public names, parameters, fields and flags work for one more version and warn."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace

import pytest

from imp_trt import video
from imp_trt._deprecated import renamed_fields, renamed_parameters
from imp_trt.benchmark.gates import parse_gate
from imp_trt.benchmark.run import Settings
from imp_trt.cli.common import add_deprecated
from imp_trt.video import sinks


@renamed_parameters(place="path")
def _write(path: str, count: int = 1) -> tuple[str, int]:
    return path, count


@renamed_fields(shares="percentiles")
@dataclass(frozen=True)
class _Fields:
    percentiles: tuple[int, ...] = (50,)


def test_renamed_parameters() -> None:
    assert _write("a", count=2) == ("a", 2)
    message = "parameter 'place' of _write is deprecated, use 'path'"
    with pytest.warns(DeprecationWarning, match=message) as record:
        assert _write(place="b") == ("b", 1)  # type: ignore[call-arg]
    assert record[0].filename == __file__
    with pytest.raises(TypeError):
        _write(file="c")  # type: ignore[call-arg]


def test_renamed_fields() -> None:
    with pytest.warns(DeprecationWarning, match="shares"):
        fields = _Fields(shares=(99,))  # type: ignore[call-arg]
    assert fields.percentiles == (99,)
    with pytest.warns(DeprecationWarning, match="_Fields.shares is deprecated, use 'percentiles'") as record:
        assert fields.shares == (99,)  # type: ignore[attr-defined]
    assert record[0].filename == __file__
    assert replace(fields, percentiles=(1,)).percentiles == (1,)
    assert fields == _Fields((99,))


@pytest.mark.parametrize(
    ("package", "old", "new"),
    [
        (video, "Segmented", "SegmentedFrame"),
        (video, "interrupt_ends", "stop_on_interrupt"),
        (sinks, "Base", "BaseSink"),
        (sinks, "OverlayPictures", "OverlayImages"),
        (sinks, "Segmented", "SegmentedFrame"),
    ],
)
def test_old_names_of_packages(package: object, old: str, new: str) -> None:
    with pytest.warns(DeprecationWarning, match=f"{old} is deprecated"):
        assert getattr(package, old) is getattr(package, new)


def test_old_names_of_baselines(tmp_path, caplog) -> None:
    with pytest.warns(DeprecationWarning, match="rivals"):
        settings = Settings(tmp_path, rivals=("peer", "pytorch"))  # type: ignore[call-arg]
    assert settings.baselines == ("maskrcnn", "pytorch")
    assert "'peer' is deprecated, use 'maskrcnn'" in caplog.text
    assert parse_gate("peer.ratio>1").metric == "maskrcnn.ratio"


def test_old_flags(capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    group = parser.add_argument_group("group")
    number = group.add_argument("--max-images", dest="limit", type=int, default=7)
    add_deprecated(group, "--limit", number)
    add_deprecated(parser, "--pair", group.add_argument("--with-baseline", dest="pair", action="store_true"))
    assert vars(parser.parse_args([])) == {"limit": 7, "pair": False}
    assert capsys.readouterr().err == ""
    assert vars(parser.parse_args(["--limit", "3", "--pair"])) == {"limit": 3, "pair": True}
    said = capsys.readouterr().err.splitlines()
    assert said == [
        "warning: --limit is deprecated, use --max-images",
        "warning: --pair is deprecated, use --with-baseline",
    ]
    assert "--limit" not in parser.format_help()
