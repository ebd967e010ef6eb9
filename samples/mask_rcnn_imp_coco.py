# SPDX-License-Identifier: Apache-2.0
"""Segment an image with Mask R-CNN-IMP and torchvision's COCO weights: 80 classes, no training.

    python samples/mask_rcnn_imp_coco.py photo.jpg -o results

Writes the exported network (checkpoint, ONNX file and manifest) and an overlay to the folder. The weights
(170 MB) are downloaded once to the cache of torch.hub. --random-weights works offline: the files have the
same format, but the results are meaningless.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np

from imp_trt import Segmenter
from imp_trt.data import read_image, write_atomically
from imp_trt.errors import SourceError
from imp_trt.export import ExportOptions, export_onnx
from imp_trt.models import ImpNetwork, coco_config, coco_mask_rcnn_imp, save_checkpoint

TERMS = "torchvision's COCO_V1 weights: trained on COCO; the dataset may have its own license terms"


def main(arguments: list[str] | None = None) -> Path:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("image", type=Path)
    parser.add_argument("-o", "--output", type=Path, default=Path())
    parser.add_argument("--input-size", type=int, nargs=2, default=(480, 640), metavar=("H", "W"))
    parser.add_argument("--random-weights", action="store_true", help="do not download anything")
    options = parser.parse_args(arguments)
    try:
        frame = read_image(options.image)  # [h, w, 3] uint8 BGR
    except SourceError as error:
        parser.error(str(error))
    size = (options.input_size[0], options.input_size[1])
    network = ImpNetwork(coco_config(size)) if options.random_weights else coco_mask_rcnn_imp(size)
    terms = "random weights" if options.random_weights else TERMS
    options.output.mkdir(parents=True, exist_ok=True)
    weights = save_checkpoint(
        options.output / "mask_rcnn_imp_coco.safetensors", network.eval(), {"terms": terms}
    )
    # Verified against PyTorch, except with random weights, whose scores are too close for a comparison.
    report = export_onnx(
        weights, options.output, ExportOptions(frame_count=4, verify=not options.random_weights)
    )
    overlay = options.output / f"{options.image.stem}.overlay.png"
    with Segmenter(report.path) as segmenter:
        result = segmenter.run(frame)
    _, data = cv2.imencode(".png", result.plot(frame, legend=True))
    write_atomically(overlay, data.tobytes())
    names = [result.classes.names[c] for c in np.unique(result.semantic)]
    print(f"{len(result.instances)} instances; pixels of {', '.join(names)}; {overlay}")
    return overlay


if __name__ == "__main__":
    main()
