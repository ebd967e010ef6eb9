"""What every way to execute a network has in common."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from imp_trt.artifacts.manifest import Manifest
    from imp_trt.backends.device_outputs import DeviceOutputs
    from imp_trt.backends.uploads import Frame
    from imp_trt.preprocessing.device_arrays import DeviceFrame
    from imp_trt.preprocessing.letterbox import Fit


class Backend(Protocol):
    """A loaded network.

    Attributes:
        manifest: what the network takes and gives, and who made it.
    """

    manifest: Manifest

    def infer(self, frames: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
        """Run the network on one full batch.

        Args:
            frames: [B, H, W, 3] uint8 BGR, contiguous, at the network's size; not changed.

        Returns:
            semantic [B, H, W] uint8; boxes [B, N, 4] float32, xyxy, network pixels; scores [B, N]
            float32, descending, padding 0; labels [B, N] int32 class indices; masks [B, N, P, P]
            float32 probabilities; num_detections [B] int32. The arrays are new with every call.
        """
        ...

    def close(self) -> None:
        """Release the network; idempotent."""
        ...


@runtime_checkable
class DeviceBackend(Backend, Protocol):
    """A network on a GPU, which takes frames of any size and leaves its outputs there until they are read.

    One thread runs it, the first that comes. Outputs may be read, and the backend closed, in any thread.
    """

    def check_caller(self) -> None:
        """Whether this thread may run the network.

        Raises:
            InvalidInput: closed, or another thread or process than before.
        """
        ...

    def accept(self, frame: object) -> DeviceFrame:
        """A frame on the GPU, checked; nothing is copied, and its producer's work is waited for on the GPU.

        Raises:
            InvalidInput: it is no uint8 [h, w, 3] array with packed pixels on this GPU.
        """
        ...

    def start(self, frames: Sequence[Frame], fits: Sequence[Fit], wait: bool = False) -> DeviceOutputs:
        """Enqueue one call on at most B frames.

        Args:
            wait: until the network is done; otherwise nothing is waited for.
            frames: of any size. Those in host memory may be changed when this returns, those on the GPU
                when the outputs are done.
            fits: the geometry of each.

        Raises:
            InvalidInput: as check_caller.
            DeviceError: the GPU failed, or has no memory left.
        """
        ...
