# SPDX-License-Identifier: Apache-2.0
"""How often the class map is wrong, by what SegmentationResult.disagreement says of the pixel.

python -m tests.bench.bench_disagreement MODEL.onnx --data camvid:DIR [--split val] [--every 1]
"""

from __future__ import annotations

import argparse

import numpy as np
from numpy.typing import NDArray

from imp_trt.classes import IGNORE_INDEX
from imp_trt.segmenter import Segmenter
from imp_trt.train.datasets import open_dataset

STEPS = 20


def tally(
    disagreement: NDArray[np.float32],  # [h, w]
    wrong: NDArray[np.bool_],  # [h, w]
    among: NDArray[np.bool_],  # [h, w]
) -> NDArray[np.int64]:
    """[STEPS, 2] int64: pixels among those asked for, by disagreement in equal steps, right and wrong."""
    step = np.minimum((disagreement[among] * STEPS).astype(np.int64), STEPS - 1)
    return np.bincount(step * 2 + wrong[among], minlength=STEPS * 2).reshape(STEPS, 2)


def separation(counts: NDArray[np.int64]) -> float:
    """Chance that a wrong pixel has more disagreement than a right one (ties count half): area under ROC."""
    right, wrong = counts[:, 0] / counts[:, 0].sum(), counts[:, 1] / counts[:, 1].sum()
    below = np.cumsum(right) - right
    return float((wrong * (below + right / 2)).sum())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model")
    parser.add_argument("--data", required=True)
    parser.add_argument("--split", default="val")
    parser.add_argument("--every", type=int, default=1)
    options = parser.parse_args()
    segmenter, data = Segmenter(options.model, threads=1), open_dataset(options.data, options.split)
    counts = {"thing": np.zeros((STEPS, 2), np.int64), "stuff": np.zeros((STEPS, 2), np.int64)}
    for index in range(0, len(data), options.every):
        sample = data[index]
        result = segmenter.run(sample.image)
        known, wrong = sample.semantic != IGNORE_INDEX, result.semantic != sample.semantic
        thing = np.isin(result.semantic, result.classes.things)
        counts["thing"] += tally(result.disagreement, wrong, known & thing)
        counts["stuff"] += tally(result.disagreement, wrong, known & ~thing)
    total = counts["thing"] + counts["stuff"]
    for name, part in (*counts.items(), ("all", total)):
        print(f"where the map says {name}: {part.sum() / total.sum():.1%} of the pixels, ", end="")
        print(f"{part[:, 1].sum() / part.sum():.1%} wrong, area under ROC {separation(part):.3f}")
        for low, high in ((0, 0.1), (0.1, 0.25), (0.25, 0.5), (0.5, 0.75), (0.75, 1), (0, 0.5), (0.5, 1)):
            right, wrong_ones = part[round(low * STEPS) : round(high * STEPS)].sum(axis=0)
            count = right + wrong_ones
            print(f"  {low:4.2f} to {high:4.2f}: {count / total.sum():7.2%}, {wrong_ones / count:6.1%} wrong")


if __name__ == "__main__":
    main()
