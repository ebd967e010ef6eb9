# SPDX-License-Identifier: Apache-2.0
"""The exported network in ONNX Runtime against the eager one in PyTorch, and what Segmenter.run adds to it.

    python -m tests.bench.bench_export [--weights FILE] [--frame 720x960] [--threads 2] [--json]

Both networks have the same weights, threads, proposals and detections. Their answers are compared by the
fp32 gates before any time counts. Blocks of calls alternate, so that both see the same machine.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch

from imp_trt.errors import CheckpointError
from imp_trt.export import ExportOptions
from imp_trt.export.pipeline import export_onnx
from imp_trt.export.verification.gates import GATES, Agreement, FrameDetections
from imp_trt.models.checkpoint import load_model, save_checkpoint
from imp_trt.models.presets import system
from imp_trt.segmenter import Segmenter
from imp_trt.synthetic import SCENE_CLASSES, StreetScenes
from imp_trt.weights import bundled

GOAL_RATIO = 1.3
GOAL_OUTSIDE = 0.05


def weights_or_random(given, folder):
    """The checkpoint to measure: given, bundled, or one with random weights at the size of the demo's."""
    if given is not None:
        return given
    try:
        return bundled()
    except CheckpointError:
        from tests.support.networks import detecting_network

        config = system("panoptic-fpn-imp", SCENE_CLASSES, (256, 512))
        return save_checkpoint(Path(folder) / "random.safetensors", detecting_network(config), {})


def check(reference, candidate, frames):
    """The agreement of both networks on the frames; exits if a gate fails."""
    agreement = Agreement()
    for frame in frames:
        results = [s.run(frame) for s in (reference, candidate)]
        found = [FrameDetections(r.instances.boxes, r.instances.labels, r.instances.scores) for r in results]
        agreement.add((results[0].semantic, results[1].semantic), (found[0], found[1]))
    failures = agreement.failures(GATES["fp32"])
    if failures:
        sys.exit(f"the answers differ, so no time counts: {failures}")
    return agreement


def block(segmenter, frames, rows):
    time.sleep(0.1)  # the other runtime's threads spin for a while after their last call
    segmenter.run(frames[0])
    rows += [segmenter.run(frame).timing for frame in frames]


def measure(options, folder):
    weights = weights_or_random(options.weights, folder)
    artifact = export_onnx(weights, folder, ExportOptions(verify=False)).path
    config = load_model(weights)[0].config
    height, width = (int(v) for v in options.frame.split("x"))
    scenes = StreetScenes(seed=21, size=(height, width), length=options.frames)
    frames = [scenes[i].image for i in range(len(scenes))]
    rows = {"eager": [], "onnxruntime": []}
    with (
        Segmenter(weights, threads=options.threads, device="cpu") as eager,
        Segmenter(artifact, threads=options.threads) as exported,
    ):
        agreement = check(eager, exported, frames)
        for _ in range(options.rounds):
            block(eager, frames, rows["eager"])
            block(exported, frames, rows["onnxruntime"])
    median = {n: {k: statistics.median(r[k] for r in v) for k in v[0]} for n, v in rows.items()}
    outside = [1 - row["infer"] / row["total"] for row in rows["onnxruntime"]]
    detector = config.detector_config
    return {
        "machine": f"{platform.machine()}, {os.cpu_count()} CPUs, torch {torch.__version__}",
        "weights": Path(weights).name,
        "network": f"{config.backbone} {config.input_size[0]}x{config.input_size[1]}, frames {options.frame}",
        "threads": options.threads,
        "proposals": detector.proposals,
        "detections": detector.detections,
        "label_agreement": agreement.label_agreement,
        "instances_matched": f"{agreement.matched} of {agreement.reference}",
        "eager_ms": round(median["eager"]["infer"], 2),
        "onnxruntime_ms": round(median["onnxruntime"]["infer"], 2),
        "ratio": round(median["eager"]["infer"] / median["onnxruntime"]["infer"], 3),
        "goal_ratio": GOAL_RATIO,
        "outside_network": round(statistics.median(outside), 4),
        "goal_outside": GOAL_OUTSIDE,
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--weights", type=Path, help="checkpoint (default: the bundled one, else random)")
    parser.add_argument("--frame", default="720x960", help="height x width of the frames")
    parser.add_argument("--frames", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = measure(options, folder)
    if options.json:
        print(json.dumps(result))
    else:
        for name, value in result.items():
            print(f"{name:<18} {value}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
