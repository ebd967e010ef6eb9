# SPDX-License-Identifier: Apache-2.0
"""Run samples/pycuda_interop on synthetic frames: check_pycuda.py [--engine FILE]

Without an engine for this GPU only the sample's kernel and its context are checked.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from tests.gpu.steps.on_gpu import need_gpu, report, skip

ROOT = Path(__file__).parents[3]
SAMPLE = ROOT / "samples/pycuda_interop/pycuda_interop.py"
FRAMES, GAMMA = 8, 0.7


def tone_curve(image: np.ndarray) -> bool:
    """Whether the sample's kernel changes a frame on the GPU as NumPy does."""
    sys.path.insert(0, str(SAMPLE.parent))
    sample = importlib.import_module(SAMPLE.stem)
    frame = sample.ToneCurve(GAMMA).upload(image)
    frame.stream.synchronize()
    levels = (255 * (np.arange(256) / 255) ** GAMMA).round().astype(np.uint8)
    return bool(np.array_equal(frame.array.get(), levels[image]))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engine", type=Path, help="for this GPU")
    options = parser.parse_args()
    need_gpu()
    if importlib.util.find_spec("pycuda") is None:
        skip("the package pycuda")
    import cv2

    from imp_trt.synthetic import StreetScenes

    scenes = StreetScenes(seed=5, length=FRAMES)
    images = [scenes[i].image for i in range(FRAMES)]
    right = tone_curve(images[0])
    report(
        pycuda={"kernel_right": right},
        verdict=f"the sample's kernel {'works' if right else 'is wrong'}; no engine",
    )
    if options.engine is None or not right:
        return 0 if right else 1
    with tempfile.TemporaryDirectory() as folder:
        for i, image in enumerate(images):
            cv2.imwrite(str(Path(folder) / f"{i}.png"), image)
        command = [sys.executable, str(SAMPLE), str(options.engine), folder, "--gamma", str(GAMMA)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    print(done.stdout, done.stderr, sep="\n", file=sys.stderr)
    last = (done.stdout.strip().splitlines() or ["no output"])[-1]
    report(pycuda={"engine": str(options.engine), "exit_code": done.returncode}, verdict=last)
    return 0 if done.returncode == 0 and last.startswith(f"{FRAMES} frames") else 1


if __name__ == "__main__":
    sys.exit(main())
