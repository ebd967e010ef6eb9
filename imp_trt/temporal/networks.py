# SPDX-License-Identifier: Apache-2.0
"""Both parts of a network on one frame: the whole, and the part that takes the canvas as an input."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from imp_trt.artifacts.manifest import Manifest
from imp_trt.backends import CanvasBackend, DeviceCanvasBackend
from imp_trt.backends.canvas import CanvasShape
from imp_trt.backends.decoding import HostOutputs
from imp_trt.backends.runners import check_kept, size_of, transform_of
from imp_trt.backends.uploads import Frame
from imp_trt.preprocessing.batch import preprocess_batch
from imp_trt.preprocessing.device_arrays import DeviceFrame, on_device
from imp_trt.preprocessing.frame_like import FrameLike
from imp_trt.preprocessing.frames import ColorOrder, check_color
from imp_trt.preprocessing.letterbox import LetterboxTransform
from imp_trt.temporal.motion import Luma, luma_of


@dataclass(frozen=True, eq=False)
class LoadedFrame:
    """A frame that the network can run on.

    Attributes:
        frame: its pixels and the order of their channels.
        transform: to the network's size.
        luma: at the size of the canvas, without padding.
    """

    frame: Frame
    transform: LetterboxTransform
    luma: Luma

    @property
    def size(self) -> tuple[int, int]:
        """(h, w) of the frame."""
        return self.transform.frame


class FrameNetwork(Protocol):
    """A network that runs on one frame at a time; the rest of its batch is gray.

    Attributes:
        manifest: of the network.
        shape: [B, T, h, w] of the canvas.
    """

    manifest: Manifest
    shape: CanvasShape

    def load(self, frame: FrameLike, color: ColorOrder | None, keep: bool) -> LoadedFrame:
        """Check a frame; with keep, in BGR order if it is in host memory."""
        ...

    def detect(self, loaded: LoadedFrame) -> HostOutputs:
        """The outputs [1, ...] of the whole network."""
        ...

    def segment(self, loaded: LoadedFrame, canvas: NDArray[np.float32]) -> NDArray[np.uint8]:
        """The class map [H, W] on a canvas [T, h, w]."""
        ...


class HostNetwork:
    """For backends that take and return arrays in host memory. See :class:`FrameNetwork`."""

    def __init__(self, backend: CanvasBackend) -> None:
        self._backend = backend
        self.manifest = backend.manifest
        self.shape = backend.open_canvas()
        contract = self.manifest.input
        self._batch = np.full(
            (contract.batch, contract.height, contract.width, 3), contract.pad_value, np.uint8
        )
        self._canvas = np.zeros(self.shape, np.float32)

    def load(self, frame: FrameLike, color: ColorOrder | None, keep: bool) -> LoadedFrame:
        """See :meth:`FrameNetwork.load`."""
        pixels, order = check_kept(frame, color, keep)
        transform = transform_of(size_of(pixels), self.manifest.input)
        preprocess_batch(self._batch[:1], [(pixels, order)], [transform], self.manifest.input.pad_value)
        return LoadedFrame((pixels, order), transform, _host_luma(pixels, order, transform, self.shape))

    def detect(self, loaded: LoadedFrame) -> HostOutputs:
        """See :meth:`FrameNetwork.detect`."""
        return {name: array[:1] for name, array in self._backend.infer(self._batch).items()}

    def segment(self, loaded: LoadedFrame, canvas: NDArray[np.float32]) -> NDArray[np.uint8]:
        """See :meth:`FrameNetwork.segment`."""
        self._canvas[0] = canvas
        return np.asarray(self._backend.infer_canvas(self._batch, self._canvas)[0], np.uint8)


class DeviceNetwork:
    """For engines. See :class:`FrameNetwork`.

    Frames on the GPU stay there. What is copied to the host: each frame at the size of the canvas, for its
    luma; the class map; and on frames with the detector its outputs. To the GPU: the canvas.
    """

    def __init__(self, backend: DeviceCanvasBackend) -> None:
        self._backend = backend
        self.manifest = backend.manifest
        self.shape = backend.open_canvas()
        self._canvas = np.zeros(self.shape, np.float32)

    def load(self, frame: FrameLike, color: ColorOrder | None, keep: bool) -> LoadedFrame:
        """See :meth:`FrameNetwork.load`."""
        if not isinstance(frame, np.ndarray) and on_device(frame):
            check_color(color, frame)
            pixels, order = self._backend.accept(frame), color or "bgr"
            transform = transform_of(pixels.size, self.manifest.input)
            small = _to_canvas(transform, self.shape)
            h, w = small.resized
            thumbnail = self._backend.thumbnail((pixels, order), small)
            return LoadedFrame((pixels, order), transform, luma_of(thumbnail[:h, :w]))
        host, order = check_kept(frame, color, keep)
        transform = transform_of(size_of(host), self.manifest.input)
        return LoadedFrame((host, order), transform, _host_luma(host, order, transform, self.shape))

    def detect(self, loaded: LoadedFrame) -> HostOutputs:
        """See :meth:`FrameNetwork.detect`."""
        contract = self.manifest.input
        whole = transform_of((contract.height, contract.width), contract)
        outputs = self._backend.start([loaded.frame], [loaded.transform], wait=True)
        semantic = outputs.semantic(0, whole, False, {})
        arrays = {"semantic": semantic[None], **outputs.detections({})}
        return {name: array[:1] for name, array in arrays.items()}

    def segment(self, loaded: LoadedFrame, canvas: NDArray[np.float32]) -> NDArray[np.uint8]:
        """See :meth:`FrameNetwork.segment`."""
        self._canvas[0] = canvas
        return np.asarray(
            self._backend.run_canvas([loaded.frame], [loaded.transform], self._canvas)[0], np.uint8
        )


def kept_pixels(loaded: LoadedFrame) -> NDArray[np.uint8] | None:
    """The frame for a result that keeps it; None for one on the GPU."""
    pixels, _ = loaded.frame
    return None if isinstance(pixels, DeviceFrame) else pixels


def _host_luma(
    pixels: NDArray[np.uint8], order: ColorOrder, transform: LetterboxTransform, shape: CanvasShape
) -> Luma:
    small = _to_canvas(transform, shape)
    h, w = small.resized
    return luma_of(np.ascontiguousarray(small.apply(pixels)[:h, :w]), order)


def _to_canvas(transform: LetterboxTransform, shape: CanvasShape) -> LetterboxTransform:
    """To the size of the canvas instead of the network's."""
    height, width = shape[2:]
    (rh, rw), (h, w) = transform.resized, transform.network
    resized = max(1, round(rh * height / h)), max(1, round(rw * width / w))
    return LetterboxTransform(transform.frame, (height, width), resized, transform.pad_value)
