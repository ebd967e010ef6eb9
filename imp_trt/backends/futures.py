"""A result that has been asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from imp_trt.results.result import SegmentationResult

if TYPE_CHECKING:
    from imp_trt.backends.device_outputs import DeviceOutputs


class Pending:
    """What Segmenter.submit gives: a result that is there, or that a GPU is working on.

    It may be asked in any thread, any number of times, also after the segmenter was closed.
    """

    def __init__(
        self,
        result: SegmentationResult,
        outputs: DeviceOutputs | None = None,
        timing: dict[str, float] | None = None,
    ) -> None:
        self._result = result
        self._outputs = outputs
        self._timing = timing if timing is not None else {}

    def done(self) -> bool:
        """Whether result() would return at once.

        Raises:
            DeviceError: the GPU failed.
        """
        return self._outputs is None or self._outputs.done()

    def result(self, timeout: float | None = None) -> SegmentationResult:
        """The result; waits until the network is done.

        Args:
            timeout: seconds to wait; None waits for ever.

        Raises:
            TimeoutError: it was not done in time; it can be asked for again.
            DeviceError: the GPU failed.
        """
        outputs = self._outputs
        if outputs is not None:
            outputs.wait(timeout)
            self._timing["upload"], self._timing["infer"] = outputs.gpu_ms()
            # The time between the steps is not this frame's: the GPU may have worked on earlier ones.
            self._timing["total"] = sum(self._timing[name] for name in ("pre", "upload", "infer"))
            self._outputs = None
        return self._result

    def __repr__(self) -> str:
        h, w = self._result.size
        return f"Pending({w}x{h})"
