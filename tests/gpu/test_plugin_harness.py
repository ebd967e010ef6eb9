# SPDX-License-Identifier: Apache-2.0
"""The C++ plugins on a GPU through their own interface, without TensorRT: in a graph, on two streams."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.support.plugin_build import Built, build_with_cmake, own_architecture, run
from tests.support.plugin_cases import write_cases

pytestmark = [pytest.mark.gpu, pytest.mark.slow]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    return build_with_cmake(tmp_path_factory.mktemp("build"), architectures=own_architecture())


def test_results_are_those_of_the_float64_reference(built: Built, tmp_path: Path) -> None:
    cases = write_cases(tmp_path / "cases")
    output = run(built.harness, built.plugin, *cases)
    assert f"{len(cases)} cases passed" in output
    assert output.count("from a graph") == 2 * len(cases)
    assert output.count("on two streams, same bits") == len(cases)


def test_a_wrong_result_would_be_found(built: Built, tmp_path: Path) -> None:
    (case, *_) = write_cases(tmp_path / "cases")
    expected = np.fromfile(case / "expected.bin")
    expected[-1] += 0.01
    expected.tofile(case / "expected.bin")
    with pytest.raises(AssertionError, match="from a graph: element"):
        run(built.harness, built.plugin, case)
