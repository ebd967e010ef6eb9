# SPDX-License-Identifier: Apache-2.0
"""The Python plugins in the real registry of TensorRT-RTX."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from tests.support import rtx_plugins
from tests.support.rtx import run_rtx
from tests.support.stub_packages import needs_rtx

pytestmark = needs_rtx

IMP, ROI = "InstanceMaskProjection", "ImpMultilevelRoiAlign"


def test_registration_is_idempotent() -> None:
    answers, log = run_rtx(rtx_plugins.register, [None, None])
    assert answers == ["python", "python"]
    assert "ERROR" not in log
    assert "[E]" not in log


def test_a_name_that_is_already_registered_is_reported() -> None:
    answer, _ = run_rtx(rtx_plugins.load_another, ROI)
    assert answer.startswith("UsageError")
    assert ROI in answer


def test_a_missing_or_foreign_library_is_rejected(tmp_path: Any) -> None:
    foreign = tmp_path / "libfoo.so"
    foreign.write_bytes(b"\x7fELF")
    other_major = tmp_path / "libimp_trt_plugins.so"
    other_major.write_bytes(b"\x7fELF imp_trt_plugins built for TensorRT 10.3.0;")
    libraries = [str(tmp_path / "none.so"), str(foreign), str(other_major)]
    (missing, unknown, old, still), _ = run_rtx(rtx_plugins.register, [*libraries, None])
    assert missing.startswith("DependencyMissing")
    assert "none.so" in missing
    assert unknown.startswith("DependencyMissing")
    assert "libfoo.so" in unknown
    assert old.startswith("EngineIncompatible")
    assert "10.3.0" in old
    assert "11" in old
    assert still == "python"


def test_a_library_after_the_python_plugins_comes_too_late(tmp_path: Any) -> None:
    library = str(tmp_path / "libimp_trt_plugins.so")
    (first, second), _ = run_rtx(rtx_plugins.register, [None, library])
    assert first == "python"
    assert second.startswith("UsageError")
    assert "already registered" in second
    assert "IMP_TRT_PLUGIN_LIBRARY" in second


def test_the_environment_variable_names_the_library() -> None:
    variable = {"IMP_TRT_PLUGIN_LIBRARY": "/nowhere/libimp_trt_plugins.so"}
    (answer,), _ = run_rtx(rtx_plugins.register, [None], environment=variable)
    assert answer.startswith("DependencyMissing")
    assert "/nowhere/" in answer


@pytest.mark.parametrize(
    ("name", "declared", "written"),
    [
        (
            IMP,
            "num_classes:5:1: canvas_h:5:1: canvas_w:5:1: spatial_scale:1:1: sampling:6:0:",
            "num_classes:5:1:03000000 canvas_h:5:1:10000000 canvas_w:5:1:18000000 "
            "spatial_scale:1:1:9a99993e sampling:6:7:6e656172657374",
        ),
        (
            ROI,
            "output_size:5:1: sampling_ratio:5:1: canonical_level:5:1: canonical_size:5:1: aligned:5:1:",
            "output_size:5:1:07000000 sampling_ratio:5:1:02000000 canonical_level:5:1:04000000 "
            "canonical_size:5:1:e0000000 aligned:5:1:01000000",
        ),
    ],
)
def test_fields_are_declared_parsed_and_written_back(name: str, declared: str, written: str) -> None:
    result, _ = run_rtx(rtx_plugins.fields, None, name, rtx_plugins.FIELDS[name])
    assert result["declared"] == declared
    assert result["core"] == f"imp_trt::{name}, 1"
    assert result["written"] == result["clone"] == result["again"] == written
    assert result["metadata"] == result["timing"]
    first = next(iter(rtx_plugins.FIELDS[name].items()))
    assert result["metadata"].startswith(f"{first[0]}={first[1]} ")


def test_a_sampling_ratio_of_0_is_a_field() -> None:
    result, _ = run_rtx(rtx_plugins.fields, None, ROI, {**rtx_plugins.FIELDS[ROI], "sampling_ratio": 0})
    assert " sampling_ratio:5:1:00000000 " in result["written"]


@pytest.mark.parametrize("name", [IMP, ROI])
def test_every_method_that_tensorrt_asks_for_is_there(name: str) -> None:
    # The bindings take the default for these alone; a call of any other that is missing is a failure.
    optional = ["destroy", "get_valid_tactics", "get_workspace_size"]
    missing, _ = run_rtx(rtx_plugins.left_to_the_bindings, name)
    assert missing == optional


def test_text_may_end_with_zero() -> None:
    given = {**rtx_plugins.FIELDS[IMP], "sampling": "nearest\0"}
    result, _ = run_rtx(rtx_plugins.fields, None, IMP, given)
    assert result["written"].endswith(" sampling:6:7:" + b"nearest".hex())


@pytest.mark.parametrize(
    ("name", "bad"),
    [
        (
            IMP,
            [
                *((field, None) for field in rtx_plugins.FIELDS[IMP]),
                *((field, "twice") for field in rtx_plugins.FIELDS[IMP]),
                ("num_classes", 0),
                ("canvas_h", 0),
                ("canvas_w", 65537),
                ("spatial_scale", 0.0),
                ("sampling", "cubic"),
                ("sampling", ["INT32", [1]]),
                ("spatial_scale", 1),
                ("canvas_h", ["FLOAT32", [16.0]]),
                ("canvas_w", ["INT32", [24, 24]]),
                ("num_classes", ["INT32", []]),
            ],
        ),
        (
            ROI,
            [
                *((field, None) for field in rtx_plugins.FIELDS[ROI] if field != "aligned"),
                ("aligned", 2),
                ("aligned", "twice"),
                ("output_size", 0),
                ("sampling_ratio", -1),
                ("sampling_ratio", 65),
                ("canonical_size", 0),
                ("canonical_level", 4.0),
            ],
        ),
    ],
)
def test_bad_fields_are_rejected_by_name(name: str, bad: list[tuple[str, Any]]) -> None:
    results, _ = run_rtx(rtx_plugins.rejections, None, name, bad)
    for (field, value), result in zip(bad, results, strict=True):
        assert not result["made"], (field, value)
        assert field in result["log"], (field, value, result["log"])
        assert name in result["log"], (field, value, result["log"])


def test_formats_of_instance_mask_projection() -> None:
    floats, labels = ("f32", "f16", "bf16"), ("i32", "i64")
    good = [["f32", "f32", label, mask, mask] for label, mask in itertools.product(labels, floats)]
    bad = {
        0: ["f16", "f32", "i32", "f16", "f16"],
        1: ["f32", "bf16", "i32", "f16", "f16"],
        2: ["f32", "f32", "f32", "f16", "f16"],
        3: ["f32", "f32", "i32", "bool", "f16"],
        4: ["f32", "f32", "i32", "f16", "f32"],
    }
    results, _ = run_rtx(rtx_plugins.formats, IMP, [*good, *bad.values()])
    assert results[: len(good)] == [[True] * 5] * len(good)
    for position, result in zip(bad, results[len(good) :], strict=True):
        assert result.index(False) == position


def test_formats_of_multilevel_roi_align() -> None:
    good = [[t, t, t, t, "f32", t] for t in ("f32", "f16", "bf16")]
    bad = {
        0: ["i32", "f32", "f32", "f32", "f32", "f32"],
        2: ["f16", "f16", "f32", "f16", "f32", "f16"],
        4: ["f16", "f16", "f16", "f16", "f16", "f16"],
        5: ["f16", "f16", "f16", "f16", "f32", "f32"],
    }
    results, _ = run_rtx(rtx_plugins.formats, ROI, [*good, *bad.values()])
    assert results[: len(good)] == [[True] * 6] * len(good)
    for position, result in zip(bad, results[len(good) :], strict=True):
        assert result.index(False) == position


def test_roi_align_takes_channels_last_features() -> None:
    cases = [[t, t, t, t, "f32", t] for t in ("f16", "bf16", "f32")]
    layouts = ["HWC8"] * 4 + ["LINEAR"] * 2
    results, _ = run_rtx(rtx_plugins.formats, ROI, cases, layouts)
    assert results == [[True] * 6, [True] * 6, [False] * 4 + [True] * 2]
    (mixed,), _ = run_rtx(rtx_plugins.formats, ROI, cases[:1], ["HWC8", "LINEAR"] * 3)
    assert mixed == [True, False, True, False, False, True]
    (linear,), _ = run_rtx(
        rtx_plugins.formats, ROI, cases[:1], ["LINEAR", "HWC8", "LINEAR", "LINEAR", "HWC8", "HWC8"]
    )
    assert linear == [True, False, True, True, False, False]
    (other,), _ = run_rtx(rtx_plugins.formats, IMP, [["f32", "f32", "i32", "f16", "f16"]], "HWC8")
    assert other == [False] * 5


def test_only_linear_tensors_are_taken() -> None:
    results, _ = run_rtx(rtx_plugins.formats, ROI, [["f32"] * 6], "CHW32")
    assert results == [[False] * 6]
