# SPDX-License-Identifier: Apache-2.0
"""Instance mask projection against torchvision's pasting, on the CPU: first the answer, then the time.

    python -m tests.bench.bench_mask_projection [--json] [--threads 1] [--repeats 10]

Every form draws the same instances. torchvision pastes every mask into a frame of its own, after which the
maximum of each class is taken; it rounds boxes to integer pixels, so its canvas only resembles the others.
The ratio counts.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import torch
from onnx import TensorProto, helper
from torchvision.models.detection.roi_heads import paste_masks_in_image

from imp_trt.export.onnx.function_builder import DOMAIN
from imp_trt.export.onnx.mask_projection import INPUTS, NAME, function_for_model
from imp_trt.ops import instance_mask_projection, instance_mask_projection_numpy

SIZES = ((64, 128, 8, 100), (90, 120, 5, 100), (256, 512, 8, 100))  # height, width, classes, instances
CELLS = 28
SCALE = 0.25


def instances(height: int, width: int, classes: int, count: int) -> list[torch.Tensor]:
    """Boxes with log-uniform sides from 8 cells of the canvas to its height, wholly inside it."""
    rng = np.random.default_rng(0)
    side = np.exp(rng.uniform(np.log(8), np.log(height), (count, 2)))
    corner = rng.uniform(0, 1, (count, 2)) * ([width, height] - side)
    boxes = (np.concatenate([corner, corner + side], 1) / SCALE).astype(np.float32)
    scores = rng.uniform(0.05, 1, count).astype(np.float32)
    labels = rng.integers(0, classes, count)
    masks = rng.uniform(0, 1, (count, CELLS, CELLS)).astype(np.float32)
    return [torch.from_numpy(array)[None] for array in (boxes, scores, labels, masks)]


def torchvision_canvas(data: list[torch.Tensor], classes: int, size: tuple[int, int]) -> torch.Tensor:
    boxes, scores, labels, masks = (tensor[0] for tensor in data)
    pasted = paste_masks_in_image(masks[:, None], boxes * SCALE, size)[:, 0] * scores[:, None, None]
    canvas = pasted.new_zeros(classes, *size)
    for c in range(classes):
        of_class = pasted[labels == c]
        if len(of_class):
            canvas[c] = of_class.amax(0)
    return canvas[None]


def onnx_session(
    data: list[torch.Tensor], classes: int, size: tuple[int, int], threads: int
) -> ort.InferenceSession:
    kinds = [TensorProto.FLOAT, TensorProto.FLOAT, TensorProto.INT64, TensorProto.FLOAT]
    inputs = [
        helper.make_tensor_value_info(name, kind, tensor.shape)
        for name, kind, tensor in zip(INPUTS, kinds, data, strict=True)
    ]
    sizes = {"num_classes": classes, "canvas_h": size[0], "canvas_w": size[1], "spatial_scale": SCALE}
    node = helper.make_node(NAME, INPUTS, ["canvas"], domain=DOMAIN, sampling="bilinear", **sizes)
    output = helper.make_tensor_value_info("canvas", TensorProto.FLOAT, [1, classes, *size])
    graph = helper.make_graph([node], "bench", inputs, [output])
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid(DOMAIN, 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    model.functions.append(function_for_model(model))
    onnx.checker.check_model(model)
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def seconds(forms: dict[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """The best of several rounds in which every form runs once: what a busy machine disturbs least."""
    best = dict.fromkeys(forms, float("inf"))
    for _ in range(repeats):
        for name, run in forms.items():
            begin = time.perf_counter()
            run()
            best[name] = min(best[name], time.perf_counter() - begin)
    return best


def measure(height: int, width: int, classes: int, count: int, threads: int, repeats: int) -> dict[str, Any]:
    size, data = (height, width), instances(height, width, classes, count)
    arrays = [tensor.numpy() for tensor in data]
    session = onnx_session(data, classes, size, threads)
    feed = dict(zip(INPUTS, arrays, strict=True))
    forms: dict[str, Callable[[], Any]] = {
        "torchvision": lambda: torchvision_canvas(data, classes, size),
        "pytorch": lambda: instance_mask_projection(*data, classes, size, SCALE),
        "numpy": lambda: instance_mask_projection_numpy(*arrays, classes, size, SCALE),
        "onnxruntime": lambda: session.run(None, feed)[0],
    }
    answers = {name: np.asarray(run()) for name, run in forms.items()}
    for name in ("numpy", "onnxruntime"):
        difference = float(np.abs(answers[name] - answers["pytorch"]).max())
        if difference > 1e-5:
            raise SystemExit(f"{name} differs from pytorch by {difference:g}: no time is worth taking")
    # Same image up to a pixel's rounding: torchvision must not win by drawing less.
    resemblance = float(np.corrcoef(answers["torchvision"].ravel(), answers["pytorch"].ravel())[0, 1])
    if resemblance < 0.8:
        raise SystemExit(f"torchvision's canvas correlates with ours by {resemblance:.2f} only")
    times = seconds(forms, repeats)
    return {
        "height": height,
        "width": width,
        "classes": classes,
        "instances": count,
        "ms": {name: round(1e3 * value, 3) for name, value in times.items()},
        "times_faster_than_torchvision": {
            name: round(times["torchvision"] / value, 1) for name, value in times.items()
        },
    }


def machine(threads: int) -> str:
    model = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="replace") as lines:
            model = next((line.split(":")[1].strip() for line in lines if "model name" in line), model)
    except OSError:
        pass
    versions = f"torch {torch.__version__}, onnxruntime {ort.__version__}, numpy {np.__version__}"
    return f"{model}, {threads} thread(s), {versions}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="print JSON only")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=10)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with torch.inference_mode():
        rows = [measure(*size, options.threads, options.repeats) for size in SIZES]
    if options.json:
        print(json.dumps({"machine": machine(options.threads), "results": rows}, indent=2))
        return
    print(machine(options.threads))
    print(f"{'canvas':>9} {'C':>3} {'N':>4}   " + "".join(f"{name:>20}" for name in rows[0]["ms"]))
    for row in rows:
        columns = zip(row["ms"].values(), row["times_faster_than_torchvision"].values(), strict=True)
        cells = "".join(f"{ms:10.2f} ms {ratio:5.1f}x" for ms, ratio in columns)
        print(f"{row['height']:>4}x{row['width']:<4} {row['classes']:>3} {row['instances']:>4}   {cells}")


if __name__ == "__main__":
    main()
