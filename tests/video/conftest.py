# SPDX-License-Identifier: Apache-2.0
"""A segmenter for the tests of one file."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from imp_trt.segmenter import Segmenter
from tests.support import tiny


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Segmenter]:
    with Segmenter(tiny.artifact(tmp_path_factory.mktemp("artifact")), threads=1) as opened:
        yield opened
