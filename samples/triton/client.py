# SPDX-License-Identifier: Apache-2.0
"""Segment a video on a Triton server.

python samples/triton/client.py localhost:8001 street drive.mp4 -o out.mp4

The server's configuration contains the manifest (see make_repository.py), so that this program needs neither
the artifact nor a GPU: pip install 'tritonclient[grpc]'.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import tritonclient.grpc as triton
from numpy.typing import NDArray
from tritonclient.utils import InferenceServerException

from imp_trt import ImpTrtError
from imp_trt.artifacts import parse_manifest
from imp_trt.backends import decode_instances
from imp_trt.preprocessing import LetterboxTransform
from imp_trt.results import SegmentationResult
from imp_trt.video import DrawOptions, Frame, SegmentedFrame, open_source, overlay_sink

TIMEOUT_S = 10.0  # per request


class TritonSegmenter:
    """Runs Segmenter.run on a Triton server.

    Args:
        server: host and port of the gRPC service.
        model: name of the model in the server's repository.

    Raises:
        tritonclient.utils.InferenceServerException: no server, or no such model.
    """

    def __init__(self, server: str, model: str) -> None:
        self._client: Any = triton.InferenceServerClient(server)
        self._model = model
        described = self._client.get_model_config(model, client_timeout=TIMEOUT_S).config
        text = described.parameters["imp_trt.manifest"].string_value
        self.manifest = parse_manifest(text.encode(), Path(f"{server}/{model}"))
        self._served = {output.name for output in described.output}

    def run(self, image: NDArray[np.uint8]) -> SegmentationResult:
        """The result for one [h, w, 3] uint8 BGR frame, in that frame's pixels."""
        contract = self.manifest.input
        fit = LetterboxTransform.of((image.shape[0], image.shape[1]), contract)
        batch = np.zeros(contract.spec.shape, np.uint8)  # the other images of the batch, if any, stay blank
        fit.apply(np.ascontiguousarray(image), out=batch[0])
        tensor = triton.InferInput(contract.spec.name, list(batch.shape), "UINT8")
        tensor.set_data_from_numpy(batch)
        response = self._client.infer(self._model, [tensor], client_timeout=TIMEOUT_S)
        outputs: dict[str, NDArray[Any]] = {
            spec.name: response.as_numpy(spec.name)
            if spec.name in self._served
            else np.zeros(spec.shape, spec.dtype)
            for spec in self.manifest.outputs
        }
        instances = decode_instances(outputs, 0, fit, self.manifest)
        return SegmentationResult(fit.invert_mask(outputs["semantic"][0]), instances, self.manifest.classes)

    def __enter__(self) -> TritonSegmenter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()


def segment(segmenter: TritonSegmenter, frames: Iterable[Frame]) -> Iterator[SegmentedFrame]:
    """Yield each frame with its result."""
    for frame in frames:
        yield SegmentedFrame(frame, segmenter.run(frame.image), DrawOptions(legend=True))


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("server", help="host:port of the gRPC service, usually port 8001")
    parser.add_argument("model")
    parser.add_argument("source", help="video, image or folder of images")
    parser.add_argument("-o", "--output", default="segmented.mp4", help="overlay (default: segmented.mp4)")
    options = parser.parse_args(arguments)
    count = 0
    with TritonSegmenter(options.server, options.model) as segmenter, open_source(options.source) as source:
        with overlay_sink(options.output, source.fps) as sink:
            for item in segment(segmenter, source):
                sink.write(item)
                count += 1
    print(f"{count} frames -> {options.output}")
    return count


if __name__ == "__main__":
    try:
        main()
    except (ImpTrtError, InferenceServerException) as error:
        sys.exit(str(error))
