# SPDX-License-Identifier: Apache-2.0
"""python -m research.temporal: measure a video, or write the page and its charts from the result files.

python -m research.temporal camvid.onnx --video camvid:DIR -o research/temporal/results/camvid.json
python -m research.temporal scenes.onnx --video streets -o research/temporal/results/streets.json
python -m research.temporal --page docs/temporal.md
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from imp_trt.data.files import write_atomically
from research.temporal.measure import CONFIGURATIONS, measure
from research.temporal.page import page
from research.temporal.videos import VIDEOS, open_video

RESULTS = Path(__file__).parent / "results"


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(
        prog="python -m research.temporal",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("artifact", type=Path, nargs="?", help="made by imp-export --parts")
    parser.add_argument("--video", help=f"camvid:DIR or one of {', '.join(VIDEOS)}")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("-o", "--output", type=Path)
    parser.add_argument(
        "--page", type=Path, help="write the page from the files in research/temporal/results"
    )
    options = parser.parse_args()
    if options.page is not None:
        results = [json.loads(path.read_text()) for path in sorted(RESULTS.glob("*.json"))]
        text, images = page(results)
        write_atomically(options.page, text.encode())
        for path, svg in images.items():
            write_atomically(options.page.parent / path, svg.encode())
        return
    if options.artifact is None or options.video is None or options.output is None:
        parser.error("ARTIFACT, --video and -o are needed")
    name, classes, frames = open_video(options.video)
    result = measure(options.artifact, name, classes, frames, options.threads, CONFIGURATIONS)
    write_atomically(options.output, (json.dumps(result, indent=1) + "\n").encode())


main()
