# SPDX-License-Identifier: Apache-2.0
"""Segment an image and write overlay, class map and JSON next to it.

python samples/image/segment_image.py street.fp32.onnx photo.jpg
"""

from __future__ import annotations

import sys
from pathlib import Path

import cv2

import imp_trt
from imp_trt.data import read_image, write_atomically

MIN_SCORE = 0.3  # minimum score of listed instances, the same as in the overlay


def segment(artifact: str, image: str) -> None:
    """Write <image>.overlay.png, .classes.png and .json, and list the instances.

    Raises:
        imp_trt.ImpTrtError: the image cannot be read, the network not opened, or a file not written.
    """
    frame = read_image(Path(image))  # [h, w, 3] uint8 BGR
    stem = Path(image).with_suffix("")
    with imp_trt.Segmenter(artifact) as segmenter:
        result = segmenter.run(frame)
    _, overlay = cv2.imencode(".png", result.plot(frame, legend=True))
    write_atomically(f"{stem}.overlay.png", overlay.tobytes())
    result.save(f"{stem}.classes.png")  # 8 bits, one channel, pixel = class index
    result.save(f"{stem}.json")
    instances = result.instances.filter(min_score=MIN_SCORE)
    for box, label, score in zip(instances.boxes, instances.labels, instances.scores, strict=True):
        print(f"{result.classes.names[label]:<12} {score:.2f}  {[round(float(side), 1) for side in box]}")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    try:
        segment(*sys.argv[1:])
    except imp_trt.ImpTrtError as error:
        sys.exit(str(error))  # the message contains expected and actual values, and a fix
