# SPDX-License-Identifier: Apache-2.0
"""The reader of machine code, on a listing made by hand and on the kernels where the tools are at hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.bench import sass


def _code(*lines: str) -> sass.Code:
    code = sass.Code("kernel")
    for line in lines:
        if line.endswith(":"):
            code.labels[line[:-1]] = len(code.text)
        else:
            code.text.append(line)
    return code


def test_counts_the_way_that_is_executed() -> None:
    code = _code(
        "MOV R0, RZ",
        ".L_outer:",
        "@P0 BRA `(.L_blended)",  # over corrections: taken
        "FSETP.GTU.AND P1, PT, |R1|, 3.40282346638528859812e+38, PT",
        "@!P1 FMUL R1, R1, R2",
        ".L_blended:",
        "@!P2 BRA `(.L_divided)",  # over the slow path of a division: taken
        "MOV R3, 0x10",
        "CALL.REL.NOINC `(slow)",
        ".L_divided:",
        "@P3 BRA `(.L_short)",  # not taken: the longer way
        ".L_inner:",
        "LDS R4, [R5]",
        "@P4 BRA `(.L_inner)",
        "BRA `(.L_end)",
        ".L_short:",
        "STS [R5], R4",
        ".L_end:",
        "@P5 BRA `(.L_outer)",
        "EXIT",
    )
    outer, inner = code.loops
    assert code.text[inner[0]] == "LDS R4, [R5]"
    assert code.executed(inner, lambda _: 0) == 2
    assert code.executed(outer, lambda _: 5) == 3 + 5 * 2 + 2
    assert code.executed(outer, lambda _: None) == 3 + 1 + 1  # no way through the loop inside


def test_says_what_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sass, "_find", lambda tool: None)
    monkeypatch.setattr(sass.importlib.metadata, "files", lambda name: None)
    with pytest.raises(SystemExit, match="nvdisasm"):
        sass.main([])


@pytest.fixture(scope="module")
def tools() -> None:
    if reason := sass.missing():
        pytest.skip(reason)


@pytest.mark.parametrize("arch", sass.ARCHITECTURES)
def test_roi_align(arch: str, tools: None) -> None:
    rows = sass.measure(["multilevel_roi_align"], [arch])
    assert len(rows) == 5
    for row in rows:
        channels_last = "hwc8" in row.kernel
        assert row.registers <= (128 if channels_last else 80)
        assert row.spills == 0
        assert row.executed["output"] <= (85 if channels_last else 95)


def test_mask_projection(tools: None, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    report = tmp_path / "rows.json"
    sass.main(["--op", "instance_mask_projection", "--arch", "sm_90", "--json", str(report)])
    assert "imp_mask_projection_bilinear_f16" in capsys.readouterr().out
    rows = {row["kernel"]: row for row in json.loads(report.read_text())}
    assert len(rows) == 27
    row = rows["imp_mask_projection_bilinear_f16"]
    assert row["registers"] == 64
    assert row["shared"] < 16500
    assert row["executed"]["draw"] < 70
    assert row["executed"]["all, wide"] < 230
