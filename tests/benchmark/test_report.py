# SPDX-License-Identifier: Apache-2.0
"""The report: what it says, what it leaves out, and how wide it is."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from imp_trt.benchmark.compare import Comparison, Round
from imp_trt.benchmark.gates import evaluate, parse_gate
from imp_trt.benchmark.measure import Latency, Throughput
from imp_trt.benchmark.report import WIDTH, Report, labeled
from imp_trt.benchmark.samples import END_TO_END, PERCENTILES, Samples


def report(frames: int = 40, **changes: Any) -> Report:
    samples = Samples()
    for i in range(frames):
        samples.add({"decode": 1.0, "infer": 10.0 + i, "run": 12.0 + i, "draw": 2.0, END_TO_END: 15.0 + i})
    model = {
        "file": "street.fp32.onnx",
        "sha256": "f" * 64,
        "precision": "fp32",
        "backend": "onnxruntime",
        "backend_version": "1.31.1",
        "network_size": [384, 480],
        "batch": 1,
        "detections": 50,
    }
    machine = {
        "cpu": "A processor with a rather long name of its maker's choice @ 2.00GHz",
        "cpus": 2,
        "threads": 1,
        "platform": "linux-x86_64",
        "gpu": None,
        "load_average": 3.1,
    }
    stages = {"decode": {"p50": 1.5, "p99": 2.5}, "infer": {"p50": 11.5, "p99": 12.5}}
    values: dict[str, Any] = {
        "model": model,
        "frames": {"source": "drive.mp4", "decoder": "OpenCV", "size": [360, 480], "sizes": 1},
        "machine": machine,
        "load_ms": 200.0,
        "latency": Latency(300.0, 5, 800.0, samples, 2.5),
        "throughput": Throughput(frames, 25.5, {"mean": 39.2, "max": 60.0}, stages),
        "percentiles": PERCENTILES,
        "absent": {"upload": "no GPU", "download": "no GPU"},
    }
    return Report(**(values | changes))


def row(text: str, stage: str) -> list[str]:
    return next(line.split() for line in text.splitlines() if line.startswith(f"{stage} "))


def test_the_table_shows_what_was_measured_and_a_dash_for_the_rest() -> None:
    text = report().text()
    # mean, five percentiles, max, and p50 and p99 in the pipeline
    assert row(text, "infer") == [
        "infer",
        "29.50",
        "29.00",
        "45.00",
        "47.00",
        "-",
        "-",
        "49.00",
        "|",
        "11.50",
        "-",
    ]
    assert row(text, "upload") == ["upload", *["-"] * 7, "|", "-", "-"]
    assert "p99 needs 100 frames, there are 40" in text
    assert "no upload and download: no GPU" in text
    assert "first frame 300.00 ms; warm-up 5 frames in 800.00 ms, not counted" in " ".join(text.split())
    assert "25.5 frames/s" in text
    assert max(map(len, text.splitlines())) <= WIDTH
    assert not any(line != line.rstrip() for line in text.splitlines())


def test_many_frames_have_their_high_percentiles() -> None:
    text = report(1000).text()
    assert row(text, "infer")[5:8] == ["999.00", "1,008", "1,009"]
    assert row(text, "infer")[-2:] == ["11.50", "12.50"]
    assert "needs" not in text


def test_the_json_is_plain_and_rounded() -> None:
    data = json.loads(json.dumps(report().to_dict(), allow_nan=False))
    assert data["latency"]["ms"]["infer"]["p99"] is None
    assert "upload" not in data["latency"]["ms"]
    assert data["latency"]["not_measured"]["upload"] == "no GPU"
    assert data["warm_up"] == {"frames": 5, "ms": 800.0}
    assert data["first_frame_ms"] == 300.0
    assert data["throughput"]["frames_per_second"] == 25.5


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("p50<1ms", 34.0),
        ("infer.mean<1ms", 29.5),
        ("infer.max<1ms", 49.0),
        ("infer.min<1ms", 10.0),
        ("p97.5<1ms", 53.0),
        ("fps>1", 25.5),
        ("load<1ms", 200.0),
        ("first<1ms", 300.0),
        ("pytorch.ratio>9", 2.0),
    ],
)
def test_what_gates_are_judged_by(text: str, value: float) -> None:
    found = report(comparisons=[Comparison("pytorch", "PyTorch", [Round(1.0, 2.0)])])
    gate = parse_gate(text)
    assert found.values([gate])[gate.metric] == value


def test_comparisons_verdicts_and_warnings_are_reported() -> None:
    agreement = {"frames": 8, "label_agreement": 0.9999912, "instances_matched": 7, "instances_pytorch": 8}
    close = Comparison("pytorch", "PyTorch", [Round(10.0, 9.0), Round(10.0, 15.0)], agreement, ["a note"])
    found = report(comparisons=[close], warnings=["busy machine: 40%"])
    gates = [parse_gate("p50<30ms"), parse_gate("fps>25")]
    text = replace(found, verdicts=evaluate(gates, found.values(gates))).text()
    flat = " ".join(text.split())
    assert "ratio 1.20 (0.90 to 1.50 over 2 alternating rounds), no significant difference" in flat
    assert "99.9991% of labels equal, 7 of 8 instances matched" in flat
    assert "a note" in text
    assert "busy machine: 40%" in text
    assert "p50<30ms: MISSED, end-to-end.p50 is 34.00 ms" in text
    assert "fps>25: passed, fps is 25.50" in text
    assert found.to_dict()["comparisons"][0]["agreement"]["label_agreement"] == 0.9999912


def test_batches_and_mixed_sizes_are_noted() -> None:
    plain = report()
    model = plain.model | {"batch": 4}
    found = replace(plain, model=model, frames=plain.frames | {"sizes": 3})
    notes = " ".join(found.notes())
    assert "batch size of the network is 4" in notes
    assert "3 different sizes" in notes


def test_long_texts_are_wrapped_next_to_their_name() -> None:
    lines = labeled("note", "word " * 40)
    assert lines[0].startswith("note        word")
    assert all(line.startswith(" " * 12 + "word") for line in lines[1:])
    assert labeled("x", "") == ["x"]
