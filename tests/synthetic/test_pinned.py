# SPDX-License-Identifier: Apache-2.0
"""The scenes stay what they are: recipes, bundled weights and results of experiments depend on them."""

from __future__ import annotations

import hashlib

import cv2
import numpy as np
import pytest

from imp_trt.data.dataset import Sample
from imp_trt.synthetic import StreetScenes, street_video

# Nine scenes and three frames of a video: digest of the labels; mean and standard deviation of B, G and R.
PINNED = (
    ("112fc6677b42", (117.86, 110.67, 116.65, 29.61, 28.06, 35.4)),
    ("7124105de871", (83.99, 94.53, 98.27, 32.56, 32.62, 42.6)),
    ("daf6c88b2884", (87.98, 86.09, 93.58, 29.42, 33.98, 46.58)),
    ("9dfdf162c35e", (86.83, 88.31, 89.59, 31.2, 31.71, 44.97)),
    ("f8c4673a566f", (118.29, 118.62, 113.57, 53.12, 50.94, 54.14)),
    ("5efdd241dc71", (111.52, 110.21, 101.25, 51.84, 40.37, 39.65)),
    ("ab6420b1ebcd", (93.19, 97.6, 99.5, 37.65, 34.76, 41.11)),
    ("1c691b8c5433", (115.64, 119.65, 119.88, 42.19, 36.95, 39.07)),
    ("c0219a8ed59d", (68.28, 87.75, 116.51, 30.34, 32.54, 66.66)),
    ("c4634792086d", (106.06, 107.03, 103.26, 45.82, 38.0, 39.31)),
    ("1b4cd07125f7", (105.16, 106.24, 102.3, 45.98, 37.98, 39.07)),
    ("c104d30768f7", (104.18, 105.47, 101.81, 46.25, 37.97, 38.96)),
)


@pytest.fixture(scope="module")
def frames() -> list[Sample]:
    scenes = StreetScenes(0, (96, 160), 9)
    return [*(scenes[k] for k in range(9)), *street_video(3, 3, (96, 160))]


def test_images(frames: list[Sample]) -> None:
    """Up to rounding, which differs between versions of OpenCV."""
    found = [(*sample.image.mean((0, 1)), *sample.image.std((0, 1))) for sample in frames]
    np.testing.assert_allclose(found, [figures for _, figures in PINNED], atol=0.05)


@pytest.mark.skipif(cv2.__version__.partition(".")[0] != "5", reason="the digests need OpenCV 5")
def test_labels(frames: list[Sample]) -> None:
    data = (sample.semantic.tobytes() + sample.instances.astype("<i4").tobytes() for sample in frames)
    assert [hashlib.sha256(one).hexdigest()[:12] for one in data] == [digest for digest, _ in PINNED]
