# SPDX-License-Identifier: Apache-2.0
"""Size of the graph that TensorRT gets: bytes, nodes, and layers of the typed network, by system and
precision.

    python -m tests.bench.bench_graph [--precisions fp32 fp16 int8] [--build] [--json FILE] [--before FILE]

TensorRT-RTX parses each file on the CPU, with the plugins registered; --build also builds the engine. The
engine inspector needs a GPU, so that layers are those of the typed network, before the builder fuses them.
Weights are random; int8 is calibrated on synthetic scenes. --before takes the --json of another version, for
a table of both.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import cv2
import torch

from imp_trt.artifacts.manifest import QUANTIZED, Precision
from imp_trt.export.onnx.class_map import without_argmax
from imp_trt.export.quantization.calibration import CalibrationFrames
from imp_trt.export.quantization.lowering import lower
from imp_trt.models.config import BACKBONES, Backbone
from imp_trt.models.network import ImpNetwork
from imp_trt.models.presets import SYSTEMS, system
from imp_trt.synthetic import SCENE_CLASSES, StreetScenes
from tests.support.rtx import run_rtx, trt

SIZE = (256, 512)
NETWORKS: list[tuple[str, Backbone]] = [
    *((name, "compact") for name in SYSTEMS),
    ("panoptic-fpn-imp", "resnet50"),
]
COLUMNS = ("bytes", "nodes", "layers")
WARNING = "Empty initializer"


def describe(path: str, build: bool) -> dict[str, Any]:
    """In the child process: what TensorRT-RTX makes of a file, with the plugins."""
    from imp_trt.export.tensorrt.build_worker import _logger
    from imp_trt.plugins.registration import register_plugins

    register_plugins(trt)
    logger = _logger(trt)
    builder = trt.Builder(logger)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(Path(path).read_bytes()):
        raise RuntimeError("; ".join(parser.get_error(i).desc() for i in range(parser.num_errors)))
    layers = [network.get_layer(i) for i in range(network.num_layers)]
    found: dict[str, Any] = {"layers": len(layers), "types": Counter(layer.type.name for layer in layers)}
    if build:
        start = time.perf_counter()
        plan = builder.build_serialized_network(network, builder.create_builder_config())
        if plan is None:
            raise RuntimeError("the graph cannot be built")
        found |= {"engine_bytes": plan.nbytes, "build_s": round(time.perf_counter() - start, 1)}
    return found


def measure(name: str, backbone: Backbone, precision: Precision, folder: Path, build: bool) -> dict[str, Any]:
    """One network in one precision."""
    torch.manual_seed(0)
    network = ImpNetwork(system(name, SCENE_CLASSES, SIZE, backbone)).eval()
    calibration = CalibrationFrames(folder / "scenes") if precision in QUANTIZED else None
    model = without_argmax(lower(network, precision, calibration=calibration).model)
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString(deterministic=True))
    result, log = run_rtx(describe, str(path), build, timeout=600)
    return {
        "system": name,
        "backbone": backbone,
        "precision": precision,
        "bytes": path.stat().st_size,
        "nodes": len(model.graph.node),
        "topk": result["types"].get("TOPK", 0),
        "warnings": log.count(WARNING),
        **result,
    }


def table(rows: list[dict[str, Any]], before: list[dict[str, Any]]) -> str:
    """Markdown; with an earlier version's rows every figure is "before -> after"."""
    earlier = {_key(row): row for row in before}
    lines = [
        "| System | Backbone | Precision | Bytes | Nodes | Layers | TopK layers | Parser warnings |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        old = earlier.get(_key(row))
        cells = [*_key(row)]
        for column in (*COLUMNS, "topk", "warnings"):
            new = f"{row[column]:,}"
            cells.append(new if old is None or old[column] == row[column] else f"{old[column]:,} → {new}")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _key(row: dict[str, Any]) -> tuple[str, str, str]:
    return row["system"], row["backbone"], row["precision"]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--precisions", nargs="+", default=["fp32", "fp16", "int8"])
    parser.add_argument("--systems", nargs="+", metavar="NAME", help="default: all")
    parser.add_argument("--backbones", nargs="+", metavar="NAME", help="default: all")
    parser.add_argument("--build", action="store_true", help="build the engines too")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--before", type=Path, metavar="FILE")
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "scenes").mkdir()
        scenes = StreetScenes(seed=3, size=SIZE, length=2)
        for i in range(len(scenes)):
            cv2.imwrite(str(folder / "scenes" / f"{i}.png"), scenes[i].image)
        for network, backbone in NETWORKS:
            if network not in (options.systems or SYSTEMS) or backbone not in (
                options.backbones or BACKBONES
            ):
                continue
            for precision in options.precisions:
                row = measure(network, backbone, precision, folder, options.build)
                rows.append(row)
                print(json.dumps(row), file=sys.stderr, flush=True)
    before = json.loads(options.before.read_text()) if options.before else []
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")
    print(table(rows, before))
    return 0


if __name__ == "__main__":
    from tests.bench import bench_graph  # so that the child process can import what it calls

    sys.exit(bench_graph.main())
