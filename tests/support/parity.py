# SPDX-License-Identifier: Apache-2.0
"""Comparing the outputs of two forms of one network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from imp_trt.export.verification.gates import GATES, Agreement, FrameDetections


def assert_same(reference: Mapping[str, Any], candidate: Mapping[str, Any], least: int = 1) -> None:
    """Both hold the six outputs of one batch; equal up to float32 rounding.

    Args:
        reference, candidate: outputs by name, tensors or arrays.
        least: detections with score >= 0.3 that the reference must have for the comparison to mean much.
    """
    a, b = ({name: np.asarray(value) for name, value in form.items()} for form in (reference, candidate))
    assert {n: (v.dtype, v.shape) for n, v in a.items()} == {n: (v.dtype, v.shape) for n, v in b.items()}
    agreement = Agreement()
    for i in range(len(a["semantic"])):
        found = tuple(_detected(form, i) for form in (a, b))
        agreement.add((a["semantic"][i], b["semantic"][i]), found)
    assert not agreement.failures(GATES["fp32"]), agreement
    assert agreement.reference >= least, "the reference finds too little for this test to mean anything"
    assert np.array_equal(a["num_detections"], b["num_detections"])
    same = np.abs(a["boxes"] - b["boxes"]).max(axis=2, initial=0) < 0.01  # rows in the same place
    assert same.mean() > 0.95 if same.size else True
    np.testing.assert_allclose(a["scores"], b["scores"], atol=1e-4)
    np.testing.assert_array_equal(a["labels"][same], b["labels"][same])
    np.testing.assert_allclose(a["masks"][same], b["masks"][same], atol=2e-3)
    for i, count in enumerate(b["num_detections"]):
        assert (b["scores"][i, :count] > 0).all()
        for name in ("boxes", "scores", "labels", "masks"):
            assert not b[name][i, count:].any(), f"padding of {name}"


def _detected(outputs: Mapping[str, Any], i: int) -> FrameDetections:
    n = int(outputs["num_detections"][i])
    return FrameDetections(outputs["boxes"][i, :n], outputs["labels"][i, :n], outputs["scores"][i, :n])
