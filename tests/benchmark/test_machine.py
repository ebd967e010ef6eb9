# SPDX-License-Identifier: Apache-2.0
"""What is said about the machine."""

from __future__ import annotations

import pytest

import imp_trt
from imp_trt.benchmark.machine import CpuMonitor, busy_warning, describe, versions


def watch(stats: list[str], own: list[float]) -> CpuMonitor:
    return CpuMonitor(lambda: stats.pop(0), lambda: own.pop(0), clock_ticks=100)


def test_the_share_of_others_is_what_is_busy_without_us() -> None:
    # user nice system idle iowait irq softirq steal: 10 s of all CPUs, 6 of them busy, 4 by us.
    before = "cpu  1000 0 100 5000 200 0 0 0 0 0\ncpu0 1 2 3"
    after = "cpu  1500 0 200 5350 250 0 0 0 0 0\ncpu0 1 2 3"
    assert watch([before, after], [7.0, 11.0]).others() == pytest.approx(0.2)
    assert watch([before, after], [0.0, 9.0]).others() == 0.0
    assert watch([before, before], [0.0, 0.0]).others() is None
    assert watch(["", after], [0.0, 0.0]).others() is None


def test_a_busy_machine_is_reported_in_one_line() -> None:
    assert busy_warning(0.1, 8, 0.05) is None
    assert busy_warning(7.0, 8, 0.05) is None, "the load of before may be our own"
    assert "31%" in str(busy_warning(0.1, 8, 0.31))
    assert "load average 6.0 on 8" in str(busy_warning(6.0, 8, None))
    assert busy_warning(1.0, 8, None) is None
    assert busy_warning(None, 8, None) is None


def test_the_description_names_what_repeats_a_measurement() -> None:
    found = describe("onnxruntime", 2, None)
    assert found["threads"] == 2
    assert found["cpus"] >= 1
    assert found["cpu"]
    assert found["gpu"] is None
    assert found["versions"]["imp-trt"] == imp_trt.__version__
    assert "tensorrt" not in found["versions"]
    assert set(versions()) >= {"python", "numpy"}
