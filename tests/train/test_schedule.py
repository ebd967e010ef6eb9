# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from imp_trt.train.config import Stage
from imp_trt.train.recipes import RECIPES
from imp_trt.train.schedule import learning_rate


def test_learning_rate_warms_up_and_decays():
    plan = Stage(100, 1.0, 0.1, warmup=10)
    rates = [learning_rate(plan, s) for s in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == pytest.approx(rates[10]) == pytest.approx(1.0)
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[-1] == pytest.approx(0.1, abs=0.01)


def test_steps_drop_at_their_milestones():
    plan = Stage(100, 1.0, warmup=0, schedule="step", milestones=(40, 60), gamma=0.1)
    assert [learning_rate(plan, s) for s in (0, 39, 40, 59, 60, 99)] == pytest.approx(
        [1.0, 1.0, 0.1, 0.1, 0.01, 0.01]
    )


def test_the_paper_s_cityscapes_rates():
    plan = RECIPES["cityscapes"].stage_two
    expected = {0: 0.005 / 3, 500: 0.005, 79_999: 0.005, 80_000: 5e-4, 110_000: 5e-5, 129_999: 5e-5}
    assert {step: learning_rate(plan, step) for step in expected} == pytest.approx(expected)
    # Half way through the warm-up: half way from a third to the whole.
    assert learning_rate(plan, 250) == pytest.approx(0.005 * 2 / 3)


def test_the_factor_scales_every_rate():
    plan = Stage(100, 1.0, 0.1, warmup=10)
    for step in (0, 5, 10, 60, 99):
        assert learning_rate(plan, step, 0.25) == pytest.approx(0.25 * learning_rate(plan, step))
