"""Segment one picture and write three files beside it: overlay, class map, JSON.

python samples/image/segment_image.py street.fp32.onnx photo.jpg
"""

from __future__ import annotations

import sys
from pathlib import Path

import cv2

import imp_trt

SURE = 0.3  # lowest score of an instance that is listed; the overlay has the same


def segment(artifact: str, picture: str) -> None:
    """Write <picture>.overlay.png, .classes.png and .json, and list the instances.

    Raises:
        imp_trt.ImpTrtError: no such network, or a file cannot be written.
    """
    frame = cv2.imread(picture)  # BGR; None if the file is not an image
    if frame is None:
        sys.exit(f"{picture} is not a readable image")
    stem = Path(picture).with_suffix("")
    with imp_trt.Segmenter(artifact) as segmenter:
        result = segmenter.run(frame)
    if not cv2.imwrite(f"{stem}.overlay.png", result.plot(frame, legend=True)):
        sys.exit(f"{stem}.overlay.png cannot be written")
    result.save(f"{stem}.classes.png")  # 8 bits, one channel, pixel = class index
    result.save(f"{stem}.json")
    found = result.instances.above(SURE)
    for box, label, score in zip(found.boxes, found.labels, found.scores, strict=True):
        print(f"{result.classes.names[label]:<12} {score:.2f}  {[round(float(side), 1) for side in box]}")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    try:
        segment(*sys.argv[1:])
    except imp_trt.ImpTrtError as error:
        sys.exit(str(error))  # it says what was expected, what was there, and how to mend it
