# SPDX-License-Identifier: Apache-2.0
"""Runs a network on the frames of videos, with the detector on some of them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from imp_trt.backends import CanvasBackend, DeviceCanvasBackend
from imp_trt.backends.canvas import project_detections
from imp_trt.backends.decoding import DETECTION_NAMES, HostOutputs, decode_instances
from imp_trt.preprocessing.frame_like import FrameLike
from imp_trt.preprocessing.frames import ColorOrder
from imp_trt.results.result import SegmentationResult
from imp_trt.temporal.carried import Carried, give_ids
from imp_trt.temporal.networks import (
    DeviceNetwork,
    FrameNetwork,
    HostNetwork,
    LoadedFrame,
    kept_pixels,
)
from imp_trt.temporal.state import TemporalState


class TemporalRunner:
    """A network with its canvas part.

    Args:
        backend: the network.
        min_score: instances with a lower score are left out of the results.

    Raises:
        ArtifactError: the artifact has no canvas part, or it is missing or damaged.
        InvalidInput: a network without a canvas.
    """

    def __init__(self, backend: CanvasBackend, min_score: float = 0.0) -> None:
        self._network: FrameNetwork = (
            DeviceNetwork(backend) if isinstance(backend, DeviceCanvasBackend) else HostNetwork(backend)
        )
        self._min_score = min_score
        self._stride = self._network.manifest.input.height / self._network.shape[2]

    def warmup(self) -> None:
        """One call of the canvas part on a blank frame."""
        contract, shape = self._network.manifest.input, self._network.shape
        blank = np.zeros((contract.height, contract.width, 3), np.uint8)
        self._network.segment(self._network.load(blank, None, False), np.zeros(shape[1:], np.float32))

    def run(
        self,
        frame: FrameLike,
        state: TemporalState,
        color: ColorOrder | None,
        time_s: float | None,
        slack_ms: float | None,
        keep: bool,
    ) -> SegmentationResult:
        """Segment the next frame of a video. See :meth:`imp_trt.Segmenter.run_next`."""
        clock, start = state.clock, state.clock()
        loaded = self._network.load(frame, color, keep)
        filled = clock()
        known = state.arrive(loaded.size, time_s, loaded.luma, self._stride)
        detects = known is None or state.schedule.due(known[0].age + 1, slack_ms)
        carried = None
        if known is not None:
            carried = known[0].moved(known[1], self._stride)
        moved = clock()
        if carried is None or detects:
            semantic, carried = self._detect(loaded, state, carried)
        else:
            semantic = self._network.segment(loaded, carried.canvas)
        inferred = clock()
        state.keep(loaded.size, time_s, loaded.luma, carried)
        instances = decode_instances(
            _with_ages(carried), 0, loaded.transform, self._network.manifest, self._min_score
        )
        class_map = loaded.transform.invert_mask(semantic)
        end = clock()
        state.schedule.add(detects, (end - start) * 1e3)
        steps = {"pre": filled - start, "carry": moved - filled, "infer": inferred - moved}
        steps |= {"post": end - inferred, "total": end - start}
        return SegmentationResult(
            class_map,
            instances,
            self._network.manifest.classes,
            {name: seconds * 1e3 for name, seconds in steps.items()},
            kept_pixels(loaded) if keep else None,
            loaded.transform.resized,
            carried.age,
        )

    def _detect(
        self, loaded: LoadedFrame, state: TemporalState, carried: Carried | None
    ) -> tuple[NDArray[np.uint8], Carried]:
        """The class map [H, W] of a frame with the detector, and what is carried from it."""
        outputs = self._network.detect(loaded)
        shape = self._network.shape
        canvas = project_detections(outputs, self._network.manifest, (1, *shape[1:]))[0]
        detections = {name: outputs[name] for name in DETECTION_NAMES}
        earlier = None if carried is None else carried.detections
        detections["track_ids"] = give_ids(detections, earlier, state.next_id)
        state.next_id = max(state.next_id, int(detections["track_ids"].max(initial=-1)) + 1)
        semantic = outputs["semantic"][0]
        blend = state.options.blend
        if carried is not None and blend:
            canvas = (1 - np.float32(blend)) * canvas + np.float32(blend) * carried.canvas
            semantic = self._network.segment(loaded, canvas)
        return semantic, Carried(canvas, detections, 0)


def _with_ages(carried: Carried) -> HostOutputs:
    """The detections with the age of each."""
    ages = np.full(carried.detections["scores"].shape, carried.age, np.int32)
    return carried.detections | {"ages": ages}
