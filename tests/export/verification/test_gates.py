# SPDX-License-Identifier: Apache-2.0
"""The gates, as arithmetic on arrays."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

from imp_trt.errors import VerificationError
from imp_trt.export.verification.gates import (
    GATES,
    Agreement,
    FrameDetections,
    box_iou,
    enforce,
    mask_iou,
    match_instances,
)


def detected(*rows):
    """rows of (x0, y0, x1, y1, label, score)."""
    table = np.array(rows, np.float32).reshape(-1, 6)
    return FrameDetections(table[:, :4], table[:, 4].astype(np.int32), table[:, 5])


CAR = (10, 10, 50, 30, 2, 0.9)
PERSON = (60, 10, 70, 40, 3, 0.6)


def pooled(equal, pixels=10_000, matched=100, reference=100, candidate=100, **more):
    return Agreement(1, pixels, equal, matched, reference, candidate, **more)


def test_equal_detections_match_in_any_order():
    assert match_instances(detected(CAR, PERSON), detected(PERSON, CAR)) == (2, 2, 2)


@pytest.mark.parametrize(
    ("other", "pairs"),
    [
        ((10, 10, 50, 30, 2, 0.881), 1),
        ((10, 10, 50, 30, 2, 0.879), 0),  # score differs by more than 0.02
        ((10, 10, 50, 30, 3, 0.9), 0),  # another label
        ((12, 10, 50, 30, 2, 0.9), 1),  # IoU 0.95
        ((15, 10, 50, 30, 2, 0.9), 0),  # IoU 0.875
    ],
)
def test_what_makes_a_pair(other, pairs):
    assert match_instances(detected(CAR), detected(other)) == (pairs, 1, 1)


@pytest.mark.parametrize(
    ("kind", "pairs"), [("same", 1), ("near", 1), ("other", 0), ("nan", 0), ("empty", 0)]
)
def test_the_masks_of_a_pair_agree(kind, pairs):
    """Boxes and scores do not tell whether the mask head was exported right."""
    mask = np.zeros((1, 8, 8), np.float32)
    mask[:, 2:6, 2:6] = 0.9
    near = mask.copy()
    near[:, 2, 2:5] = 0.4
    masks = {
        "same": mask,
        "near": near,
        "other": 0.9 - mask,
        "nan": np.full_like(mask, np.nan),
        "empty": 0 * mask,
    }
    reference, candidate = (replace(detected(CAR), masks=m) for m in (mask, masks[kind]))
    assert match_instances(reference, candidate) == (pairs, 1, 1)
    assert match_instances(detected(CAR), candidate) == (1, 1, 1)


def test_mask_iou():
    a = np.zeros((2, 2, 2), np.float32)
    a[0, 0] = 0.6
    b = np.array([[[0.6, 0.5], [0.6, 0]], [[0, 0], [0, 0]]], np.float32)
    np.testing.assert_allclose(mask_iou(a, b), [[1 / 3, 0], [0, 1]])
    assert mask_iou(a, b[:0]).shape == (2, 0)


def test_low_scores_do_not_count():
    weak = (*CAR[:5], 0.299)
    assert match_instances(detected(CAR, weak), detected(weak)) == (0, 1, 0)
    assert match_instances(detected(), detected()) == (0, 0, 0)


def test_two_candidates_do_not_share_a_reference():
    assert match_instances(detected(CAR), detected(CAR, CAR)) == (1, 1, 2)
    near = (11, 10, 50, 30, 2, 0.9)
    assert match_instances(detected(near, CAR), detected(CAR, near)) == (2, 2, 2)


def test_box_iou():
    a = np.array([[0, 0, 10, 10], [5, 5, 5, 5]], np.float32)
    b = np.array([[0, 0, 10, 10], [5, 0, 15, 10], [20, 20, 30, 30], [5, 5, 5, 5]], np.float32)
    np.testing.assert_allclose(box_iou(a, b), [[1, 1 / 3, 0, 0], [0, 0, 0, 0]])


def test_pooling():
    agreement = Agreement()
    same, other = np.zeros((4, 5), np.uint8), np.zeros((4, 5), np.uint8)
    other[0, :2] = 1
    agreement.add((same, same), (detected(CAR), detected(CAR)))
    agreement.add((same, other), (detected(CAR, PERSON), detected(CAR)))
    assert (agreement.frames, agreement.pixels, agreement.equal) == (2, 40, 38)
    assert agreement.label_agreement == 0.95
    assert agreement.instance_f1 == pytest.approx(2 * 2 / 5)
    with pytest.raises(VerificationError, match="class map"):
        agreement.add((same, np.zeros((5, 4), np.uint8)), (detected(), detected()))


@pytest.mark.parametrize(
    ("precision", "equal", "fine"),
    [
        ("fp32", 9_999, True),
        ("fp32", 9_998, False),
        ("fp16", 9_980, True),
        ("fp16", 9_979, False),
        ("bf16", 9_950, True),
        ("bf16", 9_949, False),
        ("int8", 9_800, True),
        ("fp8", 9_799, False),
    ],
)
def test_label_gates(precision, equal, fine):
    assert (pooled(equal).failures(GATES[precision]) == []) == fine


@pytest.mark.parametrize(
    ("precision", "matched", "fine"),
    [
        ("fp32", 99, True),
        ("fp32", 98, False),
        ("fp16", 97, True),
        ("fp16", 96, False),
        ("int8", 90, True),
        ("int8", 89, False),
        ("bf16", 0, True),
    ],
)
def test_instance_gates(precision, matched, fine):
    assert (pooled(10_000, matched=matched).failures(GATES[precision]) == []) == fine


def test_miou_and_nms_gates():
    gate = GATES["fp32"]
    assert pooled(10_000, miou={"reference": 0.7, "candidate": 0.6991}).failures(gate) == []
    assert pooled(10_000, miou={"reference": 0.7, "candidate": 0.75}).failures(gate) == []
    assert "0.20 points" in pooled(10_000, miou={"reference": 0.7, "candidate": 0.698}).failures(gate)[0]
    assert "3 keep flags" in pooled(10_000, unconverged=3).failures(gate)[0]
    assert Agreement().failures(gate), "no frames prove nothing"


def test_enforce_names_what_failed():
    enforce(pooled(10_000), "fp32")
    with pytest.raises(VerificationError, match=r"99\.0000%.*gate 99\.99%.*F1 0\.5000") as caught:
        enforce(pooled(9_900, matched=50), "fp32")
    assert caught.value.exit_code == 3
    with pytest.raises(VerificationError, match="--nms-iterations"):
        enforce(pooled(10_000, unconverged=1), "fp32")


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16", "int8"])
def test_the_fix_of_a_failed_gate_names_options_that_work(precision):
    """--bisect does not run with bf16, and no option for a checkpoint with an exported file."""
    failing = pooled(9_000, matched=50)
    with pytest.raises(VerificationError) as caught:
        enforce(failing, precision)
    assert ("--bisect" in caught.value.fix) == (precision in ("fp32", "fp16"))
    with pytest.raises(VerificationError) as caught:
        enforce(failing, precision, exported=True)
    named = set(re.findall(r"--[a-z-]+", caught.value.fix.partition("where the checkpoint is")[0]))
    assert named == {"--plugin", "--no-plugin"}


def test_figures_for_the_manifest():
    data = pooled(9_999, miou={"reference": 0.5, "candidate": 0.5}).to_dict(GATES["fp32"])
    assert data["label_agreement"] == 0.9999
    assert data["instances"] == {"reference": 100, "candidate": 100, "matched": 100}
    assert data["gates"] == {"label_agreement": 0.9999, "instance_f1": 0.99, "miou_drop_points": 0.1}
    assert data["miou"] == {"reference": 0.5, "candidate": 0.5}
