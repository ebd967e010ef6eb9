# SPDX-License-Identifier: Apache-2.0
"""The grammar of --assert, and what a missed gate says."""

from __future__ import annotations

import pytest

from imp_trt.benchmark.gates import enforce, evaluate, frames_for, parse_gate
from imp_trt.errors import LatencyError, UsageError


@pytest.mark.parametrize(
    ("text", "metric", "comparison", "limit"),
    [
        ("p99<30ms", "end-to-end.p99", "<", 30.0),
        (" p99.9 <= 1.5s ", "end-to-end.p99.9", "<=", 1500.0),
        ("infer.p50<10ms", "infer.p50", "<", 10.0),
        ("end-to-end.mean<25", "end-to-end.mean", "<", 25.0),
        ("draw.max<=500us", "draw.max", "<=", 0.5),
        ("infer.p99.90<8", "infer.p99.9", "<", 8.0),
        ("decode.min>=.5ms", "decode.min", ">=", 0.5),
        ("fps>25", "fps", ">", 25.0),
        ("load<5s", "load", "<", 5000.0),
        ("first<2s", "first", "<", 2000.0),
        ("pytorch.ratio>1.3", "pytorch.ratio", ">", 1.3),
    ],
)
def test_gates(text: str, metric: str, comparison: str, limit: float) -> None:
    gate = parse_gate(text)
    assert (gate.metric, gate.comparison, gate.limit) == (metric, comparison, limit)
    assert gate.text == text.strip()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "p99",
        "p99<",
        "p99=30ms",
        "p99<30 minutes",
        "p99<-3ms",
        "p100<3ms",
        "p0<3ms",
        "p<3ms",
        "median<3ms",
        "network.p50<3ms",
        "infer.<3ms",
        ".p50<3ms",
        "infer.fps>3",
        "fps>25ms",
        "pytorch.ratio>2ms",
        "ratio>2",
        "p99<30ms p50<20ms",
        "p99<nan",
    ],
)
def test_what_is_no_gate(text: str) -> None:
    with pytest.raises(UsageError, match="--assert") as caught:
        parse_gate(text)
    assert caught.value.exit_code == 2


def test_stages_and_frames_that_gates_need() -> None:
    gates = [parse_gate(text) for text in ("infer.p90<1s", "p99.9<1s", "max<1s", "fps>1", "maskrcnn.ratio>1")]
    assert [gate.stage for gate in gates] == ["infer", "end-to-end", "end-to-end", None, None]
    assert frames_for(gates[:1]) == 10
    assert frames_for(gates) == 1000
    assert frames_for(gates[2:]) == 0


def test_judging() -> None:
    gates = [parse_gate(text) for text in ("p50<30ms", "fps>25", "max<=40ms", "mean<40ms")]
    values = {"end-to-end.p50": 31.0, "fps": 26.0, "end-to-end.max": 40.0, "end-to-end.mean": 40.0}
    verdicts = evaluate(gates, values)
    assert [verdict["held"] for verdict in verdicts] == [False, True, True, False]
    with pytest.raises(LatencyError) as caught:
        enforce(verdicts)
    assert caught.value.exit_code == 6
    text = str(caught.value)
    assert "2 latency gates missed" in text
    assert "expected p50<30ms, mean<40ms" in text
    assert "got end-to-end.p50 31.00 ms, end-to-end.mean 40.00 ms" in text
    enforce(verdicts[1:3])


def test_what_was_not_measured_is_not_passed() -> None:
    for values in ({}, {"upload.p50": float("nan")}):
        with pytest.raises(UsageError, match=r"upload\.p50"):
            evaluate([parse_gate("upload.p50<1ms")], values)
