# SPDX-License-Identifier: Apache-2.0
"""An engine on a fake GPU, of TensorRT and of TensorRT-RTX; nothing here writes to the user's cache."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.fake_tensorrt import VERSIONS, engine_file, fake_gpu, varying_graph
from tests.support.segmenters import Machine


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("IMP_TRT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(params=tuple(VERSIONS))
def machine(request: pytest.FixtureRequest) -> Iterator[Machine]:
    with fake_gpu(request.param) as both:
        yield both


@pytest.fixture
def path(machine: Machine, tmp_path: Path) -> Path:
    return engine_file(tmp_path, machine[0].__name__, varying_graph())
