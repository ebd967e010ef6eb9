# SPDX-License-Identifier: Apache-2.0
"""Engines built by the export over NVIDIA's bindings of TensorRT 11: the process of one cell of the matrix.

``python -m tests.support.bindings_build VERSION RESULTS MODEL_FOLDER...`` writes lines as bindings_cell does,
for each model and form; the folders are those of `write_model`. The libraries below the bindings are those of
tests.support.bindings_stub.build_forward: parser and builder are TensorRT-RTX's.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

FORMS = ("plugin", "function")
PRECISIONS = ("fp32", "fp16", "bf16", "int8", "fp8")
SYSTEMS = ("panoptic-fpn-imp", "mask-rcnn-imp")
STEP = "build"


def write_model(folder: Path, system: str, precision: str) -> Path:
    """A network of the tests in a precision, as `main` reads it."""
    from imp_trt.export.onnx.class_map import without_argmax
    from tests.support.typed_models import typed

    model = without_argmax(typed(precision, system).model)  # as the export builds it
    return write(folder / f"{system}_{precision}", model, precision)


def write(folder: Path, model: Any, precision: str, **options: object) -> Path:
    """Any model, with fields of BuildJob."""
    from imp_trt.export.tensorrt.engine import custom_nodes

    folder.mkdir(parents=True)
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    about = {"precision": precision, "operators": custom_nodes(model), "options": options}
    (folder / "about.json").write_text(json.dumps(about))
    return folder


def cases(folder: Path) -> list[str]:
    """Names of the results for a folder."""
    return [f"{folder.name}_{form}" for form in FORMS]


def _build(folder: Path, form: str, version: str) -> None:
    from imp_trt.artifacts.plan_header import read_plan_header
    from imp_trt.export.tensorrt import builder
    from imp_trt.export.tensorrt.build_job import BuildJob
    from imp_trt.export.tensorrt.layer_types import REQUIRED

    builder.WORKER = "tests.support.uninspected_worker"
    about: dict[str, Any] = json.loads((folder / "about.json").read_text())
    operators = {name: tuple(nodes) for name, nodes in about["operators"].items()}
    job = BuildJob("tensorrt", about["precision"], plugins=form, operators=operators, **about["options"])
    built = builder.build_engine((folder / "model.onnx").read_bytes(), job)
    assert built.version == version, built.version
    assert built.plugins == ("python" if form == "plugin" and operators else None), built.plugins
    assert built.network_types.get(REQUIRED[about["precision"]], 0) > 0, built.network_types
    assert read_plan_header(built.plan).backend == "tensorrt-rtx", "not built by the core below the bindings"


def main(arguments: list[str]) -> None:
    version, results, *folders = arguments
    with Path(results).open("a") as file:
        for folder in map(Path, folders):
            for case, form in zip(cases(folder), FORMS, strict=True):
                error = None
                try:
                    _build(folder, form, version)
                except Exception as failure:
                    error = f"{type(failure).__name__}: {failure}"
                file.write(json.dumps({"step": STEP, "case": case, "error": error, "note": ""}) + "\n")
                file.flush()


if __name__ == "__main__":
    main(sys.argv[1:])
