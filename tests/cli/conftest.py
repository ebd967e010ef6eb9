# SPDX-License-Identifier: Apache-2.0
"""Where imp-segment is tried."""

from __future__ import annotations

from pathlib import Path

import pytest

from imp_trt.data.images import encode_image
from tests.support import clips, tiny


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder to work in, with a model, three images and a clip; no display."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    (tmp_path / "in").mkdir()
    (tmp_path / "model").mkdir()
    for i in range(3):
        (tmp_path / "in" / f"f{i}.png").write_bytes(encode_image(tiny.frame(seed=i), ".png"))
    clips.write_clip(tmp_path / "in" / "clip.mp4", frames=5, fps=30000 / 1001)
    tiny.artifact(tmp_path / "model")
