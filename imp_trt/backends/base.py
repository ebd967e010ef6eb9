# SPDX-License-Identifier: Apache-2.0
"""The protocols that every backend implements."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from imp_trt.artifacts.manifest import Manifest
    from imp_trt.backends.canvas import CanvasShape
    from imp_trt.backends.decoding import HostOutputs
    from imp_trt.backends.device_outputs import DeviceOutputs
    from imp_trt.backends.uploads import Frame
    from imp_trt.preprocessing.device_arrays import DeviceFrame
    from imp_trt.preprocessing.frame_like import FrameLike
    from imp_trt.preprocessing.frames import ColorOrder
    from imp_trt.preprocessing.letterbox import LetterboxTransform


class Backend(Protocol):
    """A loaded network.

    Attributes:
        manifest: the network's inputs and outputs, and its origin.
    """

    manifest: Manifest

    def infer(self, frames: NDArray[np.uint8]) -> HostOutputs:
        """Run the network on one full batch.

        Args:
            frames: [B, H, W, 3] uint8 BGR, contiguous, at the network's size; not changed.

        Returns:
            semantic [B, H, W] uint8; boxes [B, N, 4] float32, xyxy, network pixels; scores [B, N]
            float32, in descending order, padded with 0; labels [B, N] int32 class indices; masks
            [B, N, P, P] float32 probabilities; num_detections [B] int32. Every call returns new arrays.
        """
        ...

    def close(self) -> None:
        """Release the network; idempotent."""
        ...


@runtime_checkable
class CanvasBackend(Backend, Protocol):
    """A network that can also run from a given canvas on, without its detector."""

    def open_canvas(self) -> CanvasShape:
        """Load the canvas part; idempotent.

        Returns:
            shape [B, T, h, w] of the canvas.

        Raises:
            ArtifactError: the artifact has no canvas part, or it is missing or damaged.
            InvalidInput: closed, or a network without a canvas.
        """
        ...

    def infer_canvas(self, frames: NDArray[np.uint8], canvas: NDArray[np.float32]) -> NDArray[np.uint8]:
        """Class maps of one full batch on a given canvas.

        Args:
            frames: as for infer.
            canvas: [B, T, h, w] float32, contiguous; not changed.

        Returns:
            [B, H, W] uint8, a new array.
        """
        ...


@runtime_checkable
class DeviceBackend(Backend, Protocol):
    """A network on a GPU. It takes frames of any size, and its outputs stay on the GPU until they are read.

    Only the first thread that runs it may run it again. Outputs may be read, and the backend closed, in any
    thread.
    """

    def check_caller(self) -> None:
        """Check that this thread may run the network.

        Raises:
            InvalidInput: closed, or another thread or process than before.
        """
        ...

    def accept(self, frame: FrameLike) -> DeviceFrame:
        """A checked frame on the GPU. Nothing is copied; the GPU waits for the work of the frame's producer.

        Raises:
            InvalidInput: it is neither a uint8 [h, w, 3] array with packed pixels on this GPU nor an
                Nv12Frame with its planes there.
        """
        ...

    def start(
        self, frames: Sequence[Frame], transforms: Sequence[LetterboxTransform], wait: bool = False
    ) -> DeviceOutputs:
        """Enqueue one call on at most B frames.

        Args:
            frames: of any size. Those in host memory may be changed when this returns, those on the GPU
                when the outputs are done.
            transforms: one for each frame.
            wait: return when the network is done; otherwise return at once.

        Raises:
            InvalidInput: see check_caller.
            DeviceError: the GPU failed, or is out of memory.
        """
        ...


@runtime_checkable
class DeviceCanvasBackend(CanvasBackend, DeviceBackend, Protocol):
    """A network on a GPU that can also run from a given canvas on."""

    def run_canvas(
        self,
        frames: Sequence[Frame],
        transforms: Sequence[LetterboxTransform],
        canvas: NDArray[np.float32],
    ) -> NDArray[np.uint8]:
        """Class maps of at most B frames on a given canvas; waits for the GPU.

        Args:
            frames, transforms: as for start.
            canvas: [B, T, h, w] float32, contiguous; not changed.

        Returns:
            [B, H, W] uint8, a new array in host memory.
        """
        ...

    def thumbnail(
        self, frame: tuple[DeviceFrame, ColorOrder], small: LetterboxTransform
    ) -> NDArray[np.uint8]:
        """A frame on the GPU at another size than the network's.

        Args:
            frame: its pixels, and the order of their channels.
            small: to that size.

        Returns:
            [h, w, 3] uint8 BGR, a new array in host memory; nothing else of the frame is copied.
        """
        ...
