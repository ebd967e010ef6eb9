# SPDX-License-Identifier: Apache-2.0
"""python -m research.oracle MODEL --data SPEC: the canvas corrected step by step to the ground truth.

Prints a table: the mIoU of all classes and of things with the canvas of the network's own detections, then
without false detections, with the true class, and so on until the canvas is that of the ground truth.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from imp_trt.data.dataset import Dataset
from imp_trt.metrics.semantic import SemanticScores
from imp_trt.train.datasets import open_dataset
from research.ablation.measure import evaluate_changed
from research.oracle.corrections import CORRECTIONS


def table(model: Path, dataset: Dataset, limit: int | None, threads: int) -> str:
    """The Markdown table of a checkpoint with IMP on a dataset."""
    lines = ["| canvas | mIoU | things | gain on things |", "|---|---|---|---|"]
    before: SemanticScores | None = None
    for name, change in CORRECTIONS.items():
        scores = evaluate_changed(model, change, dataset, ("semantic",), limit, threads, "cpu").semantic
        gain = "" if before is None else f"{100 * (scores.thing_iou - before.thing_iou):+.1f}"
        lines.append(f"| {name} | {100 * scores.mean_iou:.1f} | {100 * scores.thing_iou:.1f} | {gain} |")
        before = scores
    return "\n".join(lines)


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(
        prog="python -m research.oracle",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", type=Path, help="checkpoint of a network with IMP")
    parser.add_argument("--data", required=True, help="as in imp-train")
    parser.add_argument("--split", default="val")
    parser.add_argument("--limit", type=int, help="number of images")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    print(table(options.model, open_dataset(options.data, options.split), options.limit, options.threads))


if __name__ == "__main__":
    main()
