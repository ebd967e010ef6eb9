# SPDX-License-Identifier: Apache-2.0
"""The options of an export: checked once, and in the form of version 0.1 still taken."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from imp_trt.errors import UsageError
from imp_trt.export.options import EngineOptions, ExportOptions, options_of


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("precision", "fp64"),
        ("batch", 0),
        ("batch", True),
        ("nms_iterations", 0),
        ("nms_iterations", 10**8),
        ("frame_count", 2.0),
    ],
)
def test_values_out_of_range_are_rejected(field, value):
    with pytest.raises(UsageError, match=field):
        ExportOptions(**{field: value})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("optimization_level", -1),
        ("optimization_level", 6),
        ("optimization_level", True),
        ("workspace", 0),
        ("workspace", 0.5),
    ],
)
def test_engine_options_that_tensorrt_would_ignore_are_rejected(field, value):
    with pytest.raises(UsageError, match=field):
        EngineOptions(**{field: value})


def test_engine_options_take_texts_as_paths_and_lists_as_tuples():
    options = EngineOptions(
        timing_cache="timing.cache", plugin_library="lib.so", compute_capabilities=["8.9", "8.6", "8.9"]
    )
    assert options == EngineOptions(
        timing_cache=Path("timing.cache"), plugin_library=Path("lib.so"), compute_capabilities=("8.9", "8.6")
    )
    with pytest.raises(UsageError, match=r"compute_capabilities.*\('8\.9',\)"):
        EngineOptions(compute_capabilities="8.9")


def test_options_are_frozen_and_named():
    with pytest.raises(TypeError):
        ExportOptions("fp16")
    with pytest.raises(dataclasses.FrozenInstanceError):
        ExportOptions().batch = 2


def test_options_are_taken_as_they_are(recwarn):
    options = ExportOptions(precision="fp16")
    assert options_of([options], {}) is options
    assert options_of([], {"options": options}) is options
    assert options_of([], {}) == options_of([None], {}) == ExportOptions()
    assert not recwarn


@pytest.mark.parametrize(
    ("given", "keywords", "expected"),
    [
        (["fp16"], {}, {"precision": "fp16"}),
        (
            ["fp16", "rtx", "images", 2],
            {"passes": 8, "options": EngineOptions(plugin=True)},
            {
                "precision": "fp16",
                "target": "rtx",
                "frames": "images",
                "batch": 2,
                "nms_iterations": 8,
                "engine": EngineOptions(plugin=True),
            },
        ),
        ([], {"verify": False, "frames": None}, {"verify": False}),
    ],
)
def test_the_form_of_version_0_1_warns(given, keywords, expected):
    with pytest.warns(DeprecationWarning, match="ExportOptions"):
        assert options_of(given, keywords) == ExportOptions(**expected)


@pytest.mark.parametrize(
    ("given", "keywords"),
    [([ExportOptions()], {"batch": 2}), ([], {"precison": "fp16"}), ([ExportOptions(), "rtx"], {})],
)
def test_other_arguments_are_rejected(given, keywords):
    with pytest.raises(TypeError, match="ExportOptions"):
        options_of(given, keywords)


def test_the_former_name_of_the_reason_works_and_warns() -> None:
    from imp_trt.export.pipeline import ExportReport

    report = ExportReport(Path("a.engine"), manifest=None, seconds=1.0, not_run_reason="no GPU")
    with pytest.warns(DeprecationWarning, match="use ExportReport.not_run_reason") as record:
        assert report.not_here == "no GPU"
    assert record[0].filename == __file__
