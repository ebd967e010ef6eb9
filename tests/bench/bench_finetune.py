# SPDX-License-Identifier: Apache-2.0
"""Fine-tuning on few images against training from scratch, with as many steps.

    python -m tests.bench.bench_finetune --init samples/weights/camvid_imp.safetensors --iterations 150

The images are synthetic street scenes, written as a dataset of files; as many others give the scores.
From scratch both the recipe of the fine-tuning and that for training from scratch are tried.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import cv2

from imp_trt.cli import train
from imp_trt.data.dataset import Dataset
from imp_trt.synthetic import StreetScenes

SIZE = (256, 512)


def write_pictures(folder: Path, parts: dict[str, Dataset]) -> None:
    """The datasets as index PNGs, one split each."""
    for name in ("images", "labels"):
        (folder / name).mkdir()
    for split, dataset in parts.items():
        lines = []
        for index in range(len(dataset)):
            sample = dataset[index]
            image, label = f"images/{split}{index}.png", f"labels/{split}{index}.png"
            cv2.imwrite(str(folder / image), sample.image)
            cv2.imwrite(str(folder / label), sample.semantic)
            lines.append(f"{image} {label}\n")
        (folder / f"{split}.txt").write_text("".join(lines))
    classes = next(iter(parts.values())).classes
    described = {
        "name": "few scenes",
        "classes": classes.names,
        "things": [classes.names[index] for index in classes.things],
        "ignore_index": 255,
    }
    (folder / "dataset.json").write_text(json.dumps(described))


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--init", required=True)
    p.add_argument("--pictures", type=int, default=24)
    p.add_argument("--iterations", type=int, default=150)
    p.add_argument("--threads", default="1")
    options = p.parse_args()
    n = options.iterations
    starts = {
        "fine-tuned": ["--init", options.init, "--iterations", "0", str(n)],
        "scratch, same recipe": ["--init", "scratch", "--recipe", "fine-tune", "--iterations", "0", str(n)],
        "scratch, recipe scenes": ["--recipe", "scenes", "--iterations", str(n - n // 2), str(n // 2)],
    }
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        parts: dict[str, Dataset] = {
            "train": StreetScenes(seed=0, size=SIZE, length=options.pictures),
            "val": StreetScenes(seed=1, size=SIZE, length=options.pictures),
        }
        write_pictures(root, parts)
        for number, (label, arguments) in enumerate(starts.items()):
            run = root / f"run{number}"
            common = ["--data", str(root), "--input-size", *map(str, SIZE), "--threads", options.threads]
            common += ["--batch-size", "4", "--set", "crop=192,256", "--val", "val", "--val-every", str(n)]
            start = time.monotonic()
            if train.main([*common, *arguments, "-q", "-o", str(run)]):
                raise SystemExit(1)
            scores = json.loads((run / "imp.val.jsonl").read_text().splitlines()[-1])
            means = (f"{name} {100 * scores[name]:.1f} %" for name in ("mean_iou", "thing_iou", "stuff_iou"))
            print(f"{label}: {', '.join(means)}; {time.monotonic() - start:.0f} s", flush=True)


if __name__ == "__main__":
    main()
