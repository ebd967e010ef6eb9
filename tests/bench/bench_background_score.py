# SPDX-License-Identifier: Apache-2.0
"""Which background score suits semantics straight from the canvas, with the detector of a trained checkpoint.

python -m tests.bench.bench_background_score MODEL.safetensors --data camvid:DIR [--split val] [--limit N]

The detector is the model's own; its semantic head is left out, as in mask-rcnn-imp.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from imp_trt.models.checkpoint import load_model, save_checkpoint
from imp_trt.models.network import ImpNetwork
from imp_trt.segmenter import Segmenter
from imp_trt.train.datasets import open_dataset
from imp_trt.train.evaluation import evaluate

SCORES = (0.05, 0.1, 0.2, 0.3, 0.5)


def canvas_only(model: Path, score: float, folder: Path) -> Path:
    """The model's detector with the canvas as class map, as a checkpoint in a folder."""
    trained, metadata = load_model(model)
    network = ImpNetwork(replace(trained.config, semantic_head="none", background_score=score))
    weights = {k: v for k, v in trained.state_dict().items() if not k.startswith("semantic.")}
    network.load_state_dict(weights)
    return save_checkpoint(folder / f"{score}.safetensors", network, metadata)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("--data", required=True)
    parser.add_argument("--split", default="val")
    parser.add_argument("--limit", type=int, help="only the first so many pictures")
    options = parser.parse_args()
    data = open_dataset(options.data, options.split)
    print("background score, mIoU %, mIoU of things %")
    with TemporaryDirectory() as folder:
        for score in SCORES:
            with Segmenter(canvas_only(options.model, score, Path(folder)), threads=1) as segmenter:
                scores = evaluate(segmenter.run, data, limit=options.limit).semantic
            print(f"{score:.2f}  {100 * scores.mean_iou:.2f}  {100 * scores.thing_iou:.2f}")


if __name__ == "__main__":
    main()
