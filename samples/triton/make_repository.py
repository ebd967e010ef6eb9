# SPDX-License-Identifier: Apache-2.0
"""Write a model repository for Triton Inference Server from an artifact.

python samples/triton/make_repository.py street.fp16.drive-orin.engine -o models --name street

The folder holds models/street/config.pbtxt and models/street/1/model.plan (or model.onnx). The manifest
travels inside the configuration as the parameter "imp_trt.manifest": a client needs to know only the server.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path

from imp_trt import ImpTrtError
from imp_trt.artifacts import Artifact, Manifest, TensorSpec, read_artifact
from imp_trt.data import write_atomically
from imp_trt.errors import EngineIncompatible, InvalidInput

# NumPy's name -> Triton's, triton-inference-server/common, protobuf/model_config.proto.
TYPES = {"uint8": "TYPE_UINT8", "int32": "TYPE_INT32", "float32": "TYPE_FP32"}
MANIFEST_PARAMETER = "imp_trt.manifest"


def config(name: str, manifest: Manifest) -> str:
    """The text of config.pbtxt.

    The batch is part of the graph, so max_batch_size is 0 and every shape is written in full. One instance:
    an engine keeps its GPU busy.
    """
    backend, model = (
        ("tensorrt", "model.plan") if manifest.kind == "engine" else ("onnxruntime", "model.onnx")
    )
    given = manifest.input.spec
    # A network without a detector has outputs without values; Triton knows no dimension of 0.
    outputs = [spec for spec in manifest.outputs if 0 not in spec.shape]
    warm_up = f"data_type: {TYPES[given.dtype]} dims: {_dims(given)} zero_data: true"
    lines = [
        f"name: {_text(name)}",
        f"backend: {_text(backend)}",
        f"default_model_filename: {_text(model)}",
        "max_batch_size: 0",
        f"input [ {_tensor(given)} ]",
        "output [",
        *(f"  {_tensor(spec)}{',' if spec is not outputs[-1] else ''}" for spec in outputs),
        "]",
        f"instance_group [ {{ count: 1 kind: {'KIND_GPU' if backend == 'tensorrt' else 'KIND_AUTO'} }} ]",
        f'model_warmup [ {{ name: "blank" batch_size: 1 inputs {{ key: {_text(given.name)} '
        f"value {{ {warm_up} }} }} }} ]",
        f"parameters {{ key: {_text(MANIFEST_PARAMETER)} "
        f"value {{ string_value: {_text(manifest.to_json())} }} }}",
    ]
    return "\n".join(lines) + "\n"


def _tensor(spec: TensorSpec) -> str:
    return f"{{ name: {_text(spec.name)} data_type: {TYPES[spec.dtype]} dims: {_dims(spec)} }}"


def _dims(spec: TensorSpec) -> str:
    return str(list(spec.shape))


def _text(value: str) -> str:
    """Quote a string for protobuf's text format, which accepts JSON's escapes."""
    return json.dumps(value)


def check(artifact: Artifact) -> None:
    """Check that Triton can serve the artifact.

    Raises:
        EngineIncompatible: the file is for a runtime that Triton has no backend for.
    """
    manifest, engine = artifact.manifest, artifact.manifest.engine
    reason = ""
    if engine is not None and engine.backend != "tensorrt":
        reason = f"an engine for {engine.backend}"
    elif engine is not None and manifest.detections == 0:
        reason = "an engine whose detection outputs are empty"
    elif manifest.kind == "onnx" and manifest.precision == "bf16":
        reason = "a bfloat16 graph, which ONNX Runtime's kernels do not cover"
    if reason:
        raise EngineIncompatible(
            f"{artifact.path} cannot be served by Triton",
            expected="a TensorRT engine with a detector, or an ONNX file in fp32, fp16 or int8",
            got=reason,
            fix="export with --target onnxruntime, or --target tensorrt on the machine that serves",
        )


def write_repository(artifact: Artifact, folder: Path, name: str) -> Path:
    """Write the folder of the model; existing files are replaced.

    Raises:
        EngineIncompatible: Triton cannot serve the file.
        InvalidInput: the name is not a valid folder name.
    """
    check(artifact)
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name):
        raise InvalidInput("model name", expected="letters, digits, '_', '-' and '.'", got=repr(name))
    home = folder / name
    model = "model.plan" if artifact.manifest.kind == "engine" else "model.onnx"
    # A plan is the serialized engine, as for trtexec. Written atomically for servers in polling mode.
    write_atomically(home / "1" / model, artifact.payload)
    write_atomically(home / "config.pbtxt", config(name, artifact.manifest).encode())
    return home


def command(artifact: Artifact, folder: Path) -> str:
    """Return the command that starts the server."""
    start = f"tritonserver --model-repository={folder.absolute()}"
    engine = artifact.manifest.engine
    if engine is not None and engine.version_compatible:  # contains code, which Triton rejects by default
        start += " --backend-config=tensorrt,version-compatible=true"
    if engine is not None and engine.plugins:
        library = "--backend-config=tensorrt,plugins=/path/to/libimp_trt_plugins.so"
        return f"IMP_TRT_REGISTER_ON_LOAD=1 {start} {library}"
    return start


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("artifact", type=Path)
    parser.add_argument("-o", "--output", type=Path, default=Path("models"))
    parser.add_argument("--name", help="name of the model (default: file name up to the first dot)")
    options = parser.parse_args(arguments)
    try:
        artifact = read_artifact(options.artifact)
        name = options.name or options.artifact.name.partition(".")[0]
        print(write_repository(artifact, options.output, name))
    except ImpTrtError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    print(command(artifact, options.output))
    return 0


if __name__ == "__main__":
    sys.exit(main())
