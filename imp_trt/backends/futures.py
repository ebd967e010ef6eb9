# SPDX-License-Identifier: Apache-2.0
"""The future of Segmenter.submit."""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING, Any

from imp_trt.results.result import SegmentationResult

if TYPE_CHECKING:
    from imp_trt.backends.device_outputs import DeviceOutputs


class ResultFuture:
    """A result that is ready, or that a GPU is working on. Segmenter.submit returns it.

    Its methods may be called in any thread, any number of times, also after the segmenter was closed. In a
    coroutine, ``await future`` waits in a thread; it is no :class:`concurrent.futures.Future`, which
    asyncio.wrap_future needs, since nothing tells it when the GPU is done.
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
        """Whether result() would return immediately.

        Raises:
            DeviceError: the GPU failed.
        """
        return self._outputs is None or self._outputs.done()

    def result(self, timeout: float | None = None) -> SegmentationResult:
        """The result; waits until the network is done.

        Args:
            timeout: seconds to wait; None waits without limit.

        Raises:
            TimeoutError: it was not done in time; call again to wait longer.
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

    def __await__(self) -> Generator[Any, None, SegmentationResult]:
        """As :meth:`result` without a timeout; the event loop goes on meanwhile.

        Raises:
            DeviceError: the GPU failed.
        """
        if not self.done():
            from asyncio import to_thread

            return (yield from to_thread(self.result).__await__())
        return self.result()

    def __repr__(self) -> str:
        h, w = self._result.size
        return f"ResultFuture({w}x{h})"
