# SPDX-License-Identifier: Apache-2.0
"""Calibration for int8 and fp8: ranges of a network's activations on real frames.

The inputs of convolutions and fully connected layers, and the outputs of the convolutions on the shortcuts of
residual blocks, are counted in histograms during the forward pass, so that memory does not grow with the
number of frames.
"""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from imp_trt.artifacts.manifest import InputContract
from imp_trt.errors import ExportError
from imp_trt.export.quantization.calibration_frames import CalibrationFrames as CalibrationFrames
from imp_trt.models.deploy import DeployModule

ENOUGH_FRAMES = 32
"""Number of different calibration frames below which a warning is logged."""

MIN_UNCLIPPED = 0.99
"""Minimum fraction of the values below a clipping threshold."""

_log = logging.getLogger(__name__)

_SHIFT = 17  # of a float32's bits, which leaves 64 bins for every power of two
_BINS = 1 << (31 - _SHIFT)
_NON_FINITE = 0xFF << (23 - _SHIFT)

Key = tuple[str, int]
"""Name of a layer, and index of its call in one forward pass (the RPN runs on five levels).

For the output of a shortcut's convolution the name of the block's ``downsample``, which holds that
convolution.
"""

SHORTCUT = "downsample"
"""Name of the module on the shortcut of a residual block that changes the shape (torchvision)."""


class Histogram:
    """Counts of magnitudes in logarithmic bins, which need no range in advance.

    Attributes:
        counts: [_BINS] int64.
    """

    def __init__(self) -> None:
        self.counts = np.zeros(_BINS, np.int64)

    def add(self, values: Tensor) -> None:
        """Count float32 values of any shape."""
        bits = values.detach().float().contiguous().view(torch.int32) & 0x7FFFFFFF
        self.counts += torch.bincount((bits >> _SHIFT).flatten(), minlength=_BINS).numpy()

    @property
    def finite(self) -> bool:
        """Whether all counted values are finite."""
        return not self.counts[_NON_FINITE:].any()

    @property
    def max(self) -> float:
        """Upper edge of the highest bin in use; 0 if every value was 0."""
        used = np.flatnonzero(self.counts)
        return float(_edges()[used[-1] + 1]) if len(used) and used[-1] else 0.0

    def clipping_threshold(self, steps: int) -> float:
        """The clipping threshold with the minimum squared error.

        Args:
            steps: positive levels of the uniform quantizer, 127 for int8.

        Returns:
            Threshold; 0 if every value was 0.
        """
        used = np.flatnonzero(self.counts)
        if not len(used) or not used[-1]:
            return 0.0
        counts, edges = self.counts[: used[-1] + 1].astype(np.float64), _edges()[: used[-1] + 2]
        middle = (edges[:-1] + edges[1:]) / 2
        cumulative = np.cumsum(counts) / counts.sum()
        candidates = edges[1:][cumulative >= MIN_UNCLIPPED]
        losses = []
        for threshold in candidates:
            step = threshold / steps
            # Below the threshold the rounding error is uniform, except for values that round to 0.
            inside = np.where(middle < step / 2, middle**2, step**2 / 12)
            loss = np.where(middle <= threshold, inside, (middle - threshold) ** 2)
            losses.append(float(loss @ counts))
        return float(candidates[int(np.argmin(losses))])


def collect_ranges(
    module: DeployModule, frames: CalibrationFrames, progress: Callable[[int, int], None] | None = None
) -> dict[Key, Histogram]:
    """Histograms of the inputs of all convolutions and fully connected layers, and of shortcuts' outputs.

    A warning is logged if fewer than ENOUGH_FRAMES frames differ from each other.

    Args:
        module: float32 module.
        frames: calibration frames.
        progress: called with the number of completed frames and of all frames.

    Raises:
        SourceError: an image cannot be read.
        ExportError: a layer's input or a shortcut is not finite.
    """
    height, width = module.config.input_size
    histograms: dict[Key, Histogram] = {}
    total = len(frames.paths())
    distinct: set[bytes] = set()
    for done, frame in enumerate(frames.load(InputContract(height=height, width=width))):
        if progress is not None:
            progress(done, total)
        distinct.add(hashlib.sha256(frame.tobytes()).digest())
        _count(module, torch.from_numpy(frame.copy()).unsqueeze(0), histograms)
    if progress is not None:
        progress(total, total)
    _warn_few(len(distinct), total, frames)
    for (layer, _), histogram in histograms.items():
        if not histogram.finite:
            where = "output of" if layer.endswith(f".{SHORTCUT}") else "input of layer"
            raise ExportError(f"{where} {layer} on the calibration frames", got="infinity or NaN")
    return histograms


def _warn_few(distinct: int, total: int, frames: CalibrationFrames) -> None:
    if distinct < ENOUGH_FRAMES:
        same = (
            f"{distinct} different ones among {total} calibration frames"
            if distinct < total
            else (f"{total} calibration frames")
        )
        _log.warning(
            "only %s in %s: the ranges may not hold for others. Use %d or more different images of the "
            "application (--calib), check the result on more frames (--frames), or export fp16",
            same,
            frames.folder,
            ENOUGH_FRAMES,
        )


def _count(module: DeployModule, frames: Tensor, histograms: dict[Key, Histogram]) -> None:
    calls: Counter[str] = Counter()

    def count_inputs(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def hook(_layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            histograms.setdefault((name, calls[name]), Histogram()).add(inputs[0])
            calls[name] += 1

        return hook

    def count_output(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def hook(_shortcut: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
            histograms.setdefault((name, calls[name]), Histogram()).add(output)
            calls[name] += 1

        return hook

    layers = [(n, m) for n, m in module.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    handles = [layer.register_forward_pre_hook(count_inputs(name)) for name, layer in layers]
    shortcuts = [(n, m) for n, m in module.named_modules() if n.endswith(f".{SHORTCUT}")]
    handles += [shortcut.register_forward_hook(count_output(name)) for name, shortcut in shortcuts]
    try:
        with torch.no_grad():
            module(frames)
    finally:
        for handle in handles:
            handle.remove()


def _edges() -> NDArray[np.float64]:
    """Lower edges of all bins and the upper edge of the last one: [_BINS + 1]."""
    bits = np.arange(_NON_FINITE + 1, dtype=np.int64) << _SHIFT
    edges = np.full(_BINS + 1, np.inf)
    edges[: _NON_FINITE + 1] = bits.astype(np.int32).view(np.float32)
    return edges
