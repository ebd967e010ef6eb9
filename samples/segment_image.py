"""Segment one picture and write three files beside it: overlay, class map, JSON.

python samples/segment_image.py street.fp32.onnx photo.jpg
"""

from __future__ import annotations

import sys
from pathlib import Path

import cv2

import imp_trt


def main(artifact: str, picture: str) -> None:
    frame = cv2.imread(picture)  # BGR; None if the file is not an image
    if frame is None:
        sys.exit(f"{picture} is not a readable image")
    stem = Path(picture).with_suffix("")
    with imp_trt.Segmenter(artifact) as segmenter:
        result = segmenter.run(frame)
    cv2.imwrite(f"{stem}.overlay.png", result.plot(frame, legend=True))
    cv2.imwrite(f"{stem}.classes.png", result.semantic)
    Path(f"{stem}.json").write_text(result.to_json())
    for box, label, score in zip(
        result.instances.boxes, result.instances.labels, result.instances.scores, strict=True
    ):
        print(f"{result.classes.names[label]:<12} {score:.2f}  {box.round(1).tolist()}")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
