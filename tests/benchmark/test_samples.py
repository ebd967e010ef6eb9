# SPDX-License-Identifier: Apache-2.0
"""Percentiles: exact, and not claimed where there are too few frames."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from imp_trt.benchmark.samples import (
    PERCENTILES,
    Samples,
    figures,
    frames_needed,
    parse_percentiles,
    percentile,
    percentile_name,
    rounded,
)
from imp_trt.errors import UsageError

times = st.lists(st.floats(1e-3, 1e4, allow_nan=False), min_size=1, max_size=400)


@given(values=times, percentage=st.sampled_from([10.0, 25.0, 50.0, 75.0, 90.0]))
def test_percentiles_are_those_of_numpy(values: list[float], percentage: float) -> None:
    found = percentile(sorted(values), percentage)
    if len(values) >= frames_needed(percentage):
        # The last bit of numpy's own rank can be off by one value where percentage * n / 100 is an integer.
        neighbors = [np.percentile(values, percentage + d, method="inverted_cdf") for d in (-1e-9, 1e-9)]
        assert found in values
        assert min(neighbors) <= found <= max(neighbors)
    else:
        assert found is None


@pytest.mark.parametrize(
    ("percentage", "frames"), [(50, 2), (90, 10), (95, 20), (99, 100), (99.9, 1000), (99.99, 10000)]
)
def test_a_percentile_needs_a_value_above_it(percentage: float, frames: int) -> None:
    assert frames_needed(percentage) == frames
    ordered = [float(i) for i in range(frames)]
    assert percentile(ordered, percentage) == frames - 2
    assert percentile(ordered[:-1], percentage) is None


def test_ranks_are_exact_where_binary_numbers_are_not() -> None:
    # 99.9 % of 1000 is 999, not a hair more: the 999th value, not the 1000th.
    assert percentile([float(i) for i in range(1, 1001)], 99.9) == 999.0
    assert percentile([float(i) for i in range(1, 11)], 70.0) == 7.0


def test_figures() -> None:
    found = figures([4.0, 1.0, 3.0, 2.0], (50.0, 90.0))
    assert found == {"mean": 2.5, "min": 1.0, "p50": 2.0, "p90": None, "max": 4.0}
    assert list(found) == ["mean", "min", "p50", "p90", "max"]


def test_samples_keep_the_order_of_stages_and_leave_out_what_was_not_measured() -> None:
    samples = Samples()
    row = {"end-to-end": 9.0, "infer": 3.0, "decode": 1.0}
    samples.add(row)
    samples.add({"infer": 5.0})
    row["infer"] = 100.0
    assert samples.stages == ["decode", "infer", "end-to-end"]
    assert samples.values("infer") == [3.0, 5.0]
    assert samples.to_dict((50.0,))["infer"]["p50"] == 3.0
    assert "upload" not in samples.to_dict(PERCENTILES)


def test_names_and_parsing() -> None:
    assert [percentile_name(s) for s in (50.0, 99.9)] == ["p50", "p99.9"]
    assert parse_percentiles("99, 50,50,99.9") == (50.0, 99.0, 99.9)
    for wrong in ("", "100", "0", "p99", "50;90", "nan", "-5"):
        with pytest.raises(UsageError, match="--percentiles"):
            parse_percentiles(wrong)


def test_rounding_reaches_inside() -> None:
    assert rounded({"a": [1.23456, {"b": 2.0004}], "c": None, "d": "x"}) == {
        "a": [1.235, {"b": 2.0}],
        "c": None,
        "d": "x",
    }
