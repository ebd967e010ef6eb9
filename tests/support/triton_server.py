# SPDX-License-Identifier: Apache-2.0
"""A gRPC service with Triton's own protocol, and ONNX Runtime behind it.

It serves a model repository as tritonserver would: config.pbtxt is read with Triton's schema, and what a
client asks or sends is held against it.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent import futures
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import onnxruntime
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2, service_pb2, service_pb2_grpc

NUMPY = {"UINT8": np.uint8, "INT32": np.int32, "FP32": np.float32}


def read_config(path: Path) -> Any:
    """config.pbtxt as Triton's ModelConfig; google.protobuf.text_format.ParseError if it is none."""
    return text_format.Parse(path.read_text(), model_config_pb2.ModelConfig())


def datatype(tensor: Any) -> str:
    """TYPE_FP32 of the configuration as the protocol's FP32."""
    return model_config_pb2.DataType.Name(tensor.data_type).removeprefix("TYPE_")


class _Service(service_pb2_grpc.GRPCInferenceServiceServicer):
    def __init__(self, home: Path) -> None:
        self.config = read_config(home / "config.pbtxt")
        self.session = onnxruntime.InferenceSession(
            str(home / "1" / self.config.default_model_filename), providers=["CPUExecutionProvider"]
        )

    def ModelConfig(self, request: Any, context: Any) -> Any:
        if request.name != self.config.name:
            context.abort(grpc.StatusCode.NOT_FOUND, f"unknown model {request.name}")
        return service_pb2.ModelConfigResponse(config=self.config)

    def ModelInfer(self, request: Any, context: Any) -> Any:
        (given,), (wanted,) = request.inputs, self.config.input
        said = (given.name, given.datatype, list(given.shape))
        if said != (wanted.name, datatype(wanted), list(wanted.dims)):
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"unexpected input {said}")
        frame = np.frombuffer(request.raw_input_contents[0], NUMPY[given.datatype]).reshape(given.shape)
        names = [output.name for output in self.config.output]
        response = service_pb2.ModelInferResponse(model_name=request.model_name)
        answers = self.session.run(names, {given.name: frame})
        for output, array in zip(self.config.output, answers, strict=True):
            assert array.dtype == NUMPY[datatype(output)]
            assert list(array.shape) == list(output.dims)
            response.outputs.add(name=output.name, datatype=datatype(output), shape=array.shape)
            response.raw_output_contents.append(array.tobytes())
        return response


@contextmanager
def serving(home: Path) -> Iterator[str]:
    """Serves the model of a folder; its address."""
    server = grpc.server(futures.ThreadPoolExecutor(1))
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(_Service(home), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None).wait(2)
