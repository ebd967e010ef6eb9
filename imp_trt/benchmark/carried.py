# SPDX-License-Identifier: Apache-2.0
"""What it saves to run the detector on some frames only."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from statistics import median

from imp_trt.benchmark.samples import Samples


@dataclass(frozen=True)
class CanvasSaving:
    """Time of the network by kind of frame. All times are medians in milliseconds.

    Attributes:
        frames, detected: number of frames, and of those with the detector.
        detected_ms, carried_ms: time of the network with and without the detector.
        carry_ms: time of moving canvas and instances, on the host.
        skipped_share: share of the network's time that is skipped, h.
        bound: how many times as fast the network would be on these frames if nothing else took time:
            1 / (1 - h * carried frames / frames).
        speedup: how many times as fast it is, with the time of moving counted.
    """

    frames: int
    detected: int
    detected_ms: float
    carried_ms: float
    carry_ms: float
    skipped_share: float
    bound: float
    speedup: float

    @classmethod
    def of(cls, samples: Samples) -> CanvasSaving | None:
        """From the stages of frames; None without frames of both kinds."""
        kinds = {
            kind: [row["infer"] for row in samples.rows if kind in row] for kind in ("detected", "carried")
        }
        if not all(kinds.values()):
            return None
        detected_ms, carried_ms = median(kinds["detected"]), median(kinds["carried"])
        carry_ms = median(samples.values("carry"))
        count, detected = len(samples), len(kinds["detected"])
        without = (count - detected) / count
        share = 1 - carried_ms / detected_ms
        mean = detected_ms * (1 - without) + carried_ms * without
        return cls(
            count,
            detected,
            detected_ms,
            carried_ms,
            carry_ms,
            share,
            detected_ms / mean,
            detected_ms / (mean + carry_ms),
        )

    def to_dict(self) -> dict[str, object]:
        """Data for JSON."""
        return asdict(self)

    def text(self) -> str:
        """One line."""
        return (
            f"detector on {self.detected} of {self.frames} frames; network {self.detected_ms:.2f} ms "
            f"with it, {self.carried_ms:.2f} ms without ({self.skipped_share:.0%} skipped), moving the "
            f"canvas {self.carry_ms:.2f} ms; {self.speedup:.2f} times as fast, bound {self.bound:.2f}"
        )
