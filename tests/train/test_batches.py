# SPDX-License-Identifier: Apache-2.0
"""Batches that cannot fit into memory are rejected before the first step."""

from __future__ import annotations

from dataclasses import replace

import pytest

from imp_trt.data import memory
from imp_trt.errors import UsageError
from imp_trt.synthetic import StreetScenes
from imp_trt.train.batches import check_batch
from imp_trt.train.recipes import recipe


@pytest.mark.parametrize(
    "fields", [{"batch": 65536}, {"batch": 4, "crop": (8192, 8192)}, {"crop": None, "scale": (1.0, 300.0)}]
)
def test_the_crops_of_a_step_are_compared_with_the_free_memory(fields, monkeypatch):
    monkeypatch.setattr(memory, "free_memory", lambda: 4 << 30)
    data = StreetScenes(0)
    check_batch(data, recipe("smoke"))
    with pytest.raises(UsageError, match="expected ones that fit into memory, got too little memory"):
        check_batch(data, replace(recipe("smoke"), **fields))
