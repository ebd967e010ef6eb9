# SPDX-License-Identifier: Apache-2.0
"""Three results of a tiny network, and sink items made of them."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from imp_trt.results.result import SegmentationResult
from imp_trt.segmenter import Segmenter
from imp_trt.video.sinks import DrawOptions, SegmentedFrame
from imp_trt.video.sources.frame import Frame
from tests.support import tiny

MakeItem = Callable[..., SegmentedFrame]


@pytest.fixture(scope="session")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[SegmentationResult]:
    with Segmenter(tiny.artifact(tmp_path_factory.mktemp("artifact"))) as segmenter:
        return [segmenter.run(tiny.frame(seed=i)) for i in range(3)]


@pytest.fixture(scope="session")
def item(results: list[SegmentationResult]) -> MakeItem:
    """item(i, draw=, source=, captured_s=, age_s=): the i-th of endless frames."""

    def make(
        i: int = 0,
        draw: DrawOptions | None = None,
        source: str = "",
        captured_s: float | None = None,
        age_s: float | None = None,
    ) -> SegmentedFrame:
        frame = Frame(tiny.frame(seed=i % 3), i, f"name{i}", i / 10, captured_s)
        return SegmentedFrame(frame, results[i % 3], draw or DrawOptions(), age_s, source)

    return make
