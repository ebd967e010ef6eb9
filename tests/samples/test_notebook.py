# SPDX-License-Identifier: Apache-2.0
"""The notebook runs, cell by cell, and ends with an overlay and the right classes."""

from __future__ import annotations

import base64
import re

import cv2
import numpy as np
import pytest

from tests.samples.conftest import SAMPLES

NOTEBOOK = SAMPLES / "notebook" / "checkpoint_to_overlay.ipynb"


def read():
    nbformat = pytest.importorskip("nbformat", reason="needs nbformat (extra dev)")
    return nbformat.read(NOTEBOOK, as_version=4)


def test_it_has_ten_cells_and_no_outputs():
    cells = [cell for cell in read().cells if cell.cell_type == "code"]
    assert len(cells) == 10
    assert not any(cell.outputs or cell.execution_count for cell in cells)


def test_other_weights_are_named_in_one_place():
    """The first cell says where; the export must not take others."""
    code = "".join(cell.source for cell in read().cells if cell.cell_type == "code")
    assert code.count("bundled()") == 1
    third = [cell.source for cell in read().cells if cell.cell_type == "code"][2]
    assert "checkpoint = bundled()" in third


@pytest.mark.slow
def test_it_runs(tmp_path, monkeypatch):
    nbclient = pytest.importorskip("nbclient", reason="needs nbclient (extra dev)")
    pytest.importorskip("ipykernel", reason="needs ipykernel (extra dev)")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    notebook = read()
    client = nbclient.NotebookClient(
        notebook, timeout=240, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    )
    client.execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert "DeprecationWarning" not in str(outputs)
    pictures = [o.data["image/png"] for o in outputs if "image/png" in o.get("data", {})]
    frame, overlay = (
        cv2.imdecode(np.frombuffer(base64.b64decode(p), np.uint8), cv2.IMREAD_COLOR) for p in pictures
    )
    assert frame.shape[0] <= overlay.shape[0]
    assert (tmp_path / "out" / "scenes.fp32.onnx").is_file()
    text = "".join(o.get("text", "") for o in outputs)
    assert float(re.search(r"([\d.]+)% of the pixels have", text)[1]) >= 99.99
    assert float(re.search(r"([\d.]+)% of the pixels are right", text)[1]) > 85
