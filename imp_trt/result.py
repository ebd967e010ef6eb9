"""What a Segmenter answers: one class map and the instances in it, in the caller's frame."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imp_trt.classes import IGNORE_INDEX, ClassTable
from imp_trt.errors import InvalidInput, OutputError
from imp_trt.files import write_atomically
from imp_trt.manifest import SAMPLING_RULES

MASK_THRESHOLD = 0.5
"""Probability above which a pixel belongs to an instance."""

_EXACT_IN_FLOAT32 = 1 << 24
DRAWN_SCORE = 0.3
"""Default lowest score of an instance that is drawn or listed."""


@dataclass(frozen=True, eq=False)
class Instances:
    """Detected objects, by falling score.

    Attributes:
        boxes: [N, 4] float32, xyxy in pixels of the frame, inside the frame.
        labels: [N] int32, semantic class index.
        scores: [N] float32, 0-1.
        masks: [N, P, P] float32, probabilities on a grid over the mask box.
        size: (h, w) of the frame.
        sampling: rule by which masks are read, as in the IMP operator.
        mask_boxes: [N, 4] float32, what the mask grid spans; differs from boxes where an object
            sticks out of the frame. None means boxes.

    Raises:
        InvalidInput: a shape or dtype is wrong.
    """

    boxes: NDArray[np.float32]
    labels: NDArray[np.int32]
    scores: NDArray[np.float32]
    masks: NDArray[np.float32]
    size: tuple[int, int]
    sampling: str = "bilinear"
    mask_boxes: NDArray[np.float32] | None = None

    def __post_init__(self) -> None:
        n = len(self.scores) if isinstance(self.scores, np.ndarray) and self.scores.ndim else 0
        if self.mask_boxes is None:
            object.__setattr__(self, "mask_boxes", self.boxes)
        _check("boxes", self.boxes, np.float32, (n, 4))
        _check("labels", self.labels, np.int32, (n,))
        _check("scores", self.scores, np.float32, (n,))
        _check("mask_boxes", self.mask_boxes, np.float32, (n, 4))
        side = self.masks.shape[-1] if isinstance(self.masks, np.ndarray) and self.masks.ndim == 3 else 1
        _check("masks", self.masks, np.float32, (n, max(side, 1), max(side, 1)))
        if self.sampling not in SAMPLING_RULES:
            raise InvalidInput("sampling", expected=f"one of {SAMPLING_RULES}", got=self.sampling)

    def __len__(self) -> int:
        return len(self.scores)

    def __repr__(self) -> str:
        return f"Instances({len(self)} in {self.size[1]}x{self.size[0]})"

    @property
    def _span(self) -> NDArray[np.float32]:
        return self.boxes if self.mask_boxes is None else self.mask_boxes

    def select(self, keep: NDArray[Any]) -> Instances:
        """The instances at a boolean mask [N] or at indices, in that order."""
        return Instances(
            self.boxes[keep],
            self.labels[keep],
            self.scores[keep],
            self.masks[keep],
            self.size,
            self.sampling,
            self._span[keep],
        )

    def above(self, score: float) -> Instances:
        """The instances with at least this score."""
        return self.select(self.scores >= score)

    def crop(self, index: int, threshold: float = MASK_THRESHOLD) -> tuple[NDArray[np.bool_], int, int]:
        """Mask of one instance on the part of the frame that it can cover.

        Returns:
            mask [ch, cw] bool (may be empty), and x, y of its top left pixel in the frame.
        """
        from imp_trt.ops.mask_projection_numpy import mask_crops

        one = slice(index, index + 1)
        for crop in mask_crops(self.masks[one], self._span[one], self.size, self.sampling):
            return crop.values > threshold, crop.columns.start, crop.rows.start
        return np.zeros((0, 0), np.bool_), 0, 0

    def paste(self, threshold: float = MASK_THRESHOLD) -> NDArray[np.bool_]:
        """Masks at the frame's size: [N, h, w] bool. N frames of memory; see crop for less."""
        from imp_trt.ops.mask_projection_numpy import mask_crops

        full = np.zeros((len(self), *self.size), np.bool_)
        for crop in mask_crops(self.masks, self._span, self.size, self.sampling):
            index, rows, columns, values = crop
            full[index, rows, columns] = values > threshold
        return full


@dataclass(frozen=True, eq=False)
class SegmentationResult:
    """The answer for one frame, in that frame's pixels.

    Attributes:
        semantic: [h, w] uint8 class indices.
        instances: detected objects, by falling score.
        classes: names, things and colours of the classes.
        timing: milliseconds: "pre", "infer", "post" and "total" of the call that made this result.
        frame: [h, w, 3] uint8 BGR, the frame itself where Segmenter.stream kept it; else None.

    Raises:
        InvalidInput: a shape, dtype or class index is wrong.
    """

    semantic: NDArray[np.uint8]
    instances: Instances
    classes: ClassTable
    timing: Mapping[str, float] = field(default_factory=dict)
    frame: NDArray[np.uint8] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.semantic, np.ndarray) or self.semantic.ndim != 2 or not self.semantic.size:
            raise InvalidInput("semantic", expected="uint8 [h, w], not empty", got=_got(self.semantic))
        _check("semantic", self.semantic, np.uint8, self.semantic.shape)
        highest = int(self.semantic.max())
        if (
            highest >= len(self.classes)
            and np.isin(self.semantic, np.arange(len(self.classes), IGNORE_INDEX, dtype=np.uint8)).any()
        ):
            raise InvalidInput("semantic", expected=f"classes below {len(self.classes)}", got=highest)
        if self.instances.size != self.semantic.shape:
            raise InvalidInput("instances.size", expected=self.semantic.shape, got=self.instances.size)
        labels = self.instances.labels
        if len(labels) and not (0 <= labels.min() and labels.max() < len(self.classes)):
            raise InvalidInput("labels", expected=f"0 to {len(self.classes) - 1}", got=labels.tolist())

    def __repr__(self) -> str:
        h, w = self.semantic.shape
        return f"SegmentationResult({w}x{h}, {len(self.classes)} classes, {len(self.instances)} instances)"

    @property
    def size(self) -> tuple[int, int]:
        """(h, w) of the frame."""
        return self.instances.size

    def pixel_counts(self) -> NDArray[np.int64]:
        """Pixels of each class, [K] int64."""
        import cv2  # several times as fast as numpy.bincount, which widens the map to 64 bits first

        strips = np.array_split(self.semantic, 1 + self.semantic.size // _EXACT_IN_FLOAT32)
        histograms = [cv2.calcHist([strip], [0], None, [256], [0, 256]) for strip in strips]
        counts = np.sum(histograms, axis=0, dtype=np.int64).ravel()
        return np.asarray(counts[: len(self.classes)], np.int64)

    def canvas(self, scale: float = 0.25) -> NDArray[np.float32]:
        """What the instances say about every pixel: the IMP canvas, [T, h * scale, w * scale] float32.

        Plane t belongs to class ``classes.things[t]``. The network's own canvas has scale 1/4 of its
        frame; this one is computed from the result, on the caller's frame.
        """
        from imp_trt.ops.mask_projection_numpy import instance_mask_projection_numpy

        found = self.instances
        size = (max(1, round(self.size[0] * scale)), max(1, round(self.size[1] * scale)))
        if not self.classes.things:
            return np.zeros((0, *size), np.float32)
        plane = np.full(len(self.classes), -1, np.int32)
        plane[list(self.classes.things)] = np.arange(len(self.classes.things), dtype=np.int32)
        canvas = instance_mask_projection_numpy(
            found._span[None],
            found.scores[None],
            plane[found.labels][None],
            found.masks[None],
            len(self.classes.things),
            size,
            scale,
            found.sampling,
        )
        return np.asarray(canvas[0], np.float32)

    def plot(
        self,
        frame: object | None = None,
        *,
        color: str | None = None,
        alpha: float = 0.5,
        min_score: float = DRAWN_SCORE,
        labels: bool = True,
        legend: bool = False,
    ) -> NDArray[np.uint8]:
        """The frame with the answer drawn over it: class colours, instance outlines and names.

        Args:
            frame: the frame that was run, same size; None takes the one that stream() kept.
            color: order of frame's channels, "bgr" or "rgb", the same as was given to run(); None
                means BGR for arrays and RGB for PIL images. A kept frame is BGR whatever is given.
            alpha: weight of the class colours, 0-1.
            min_score: instances below are left out.
            labels: write class and score at each instance.
            legend: list the classes that occur, at the lower left.

        Returns:
            [h, w, 3] uint8, a new array; always BGR, for cv2.imwrite. ``[..., ::-1]`` is RGB.

        Raises:
            InvalidInput: no frame, one of another size, or an argument out of its range.
        """
        from imp_trt.draw import draw_result
        from imp_trt.frames import to_bgr

        if frame is None and self.frame is None:
            raise InvalidInput("plot", expected="the frame that was run", got="none", fix="plot(frame)")
        picture = to_bgr(self.frame) if frame is None else to_bgr(frame, color)
        return draw_result(picture, self, alpha=alpha, min_score=min_score, labels=labels, legend=legend)

    def to_dict(self, min_score: float = DRAWN_SCORE) -> dict[str, Any]:
        """Plain data: size, share of each class in the frame, instances without masks, timing."""
        counts = self.pixel_counts()
        found = self.instances.above(min_score)
        return {
            "height": self.size[0],
            "width": self.size[1],
            "classes": {
                name: round(int(count) / self.semantic.size, 6)
                for name, count in zip(self.classes.names, counts, strict=True)
                if count
            },
            "instances": [
                {
                    "class": self.classes.names[label],
                    "label": int(label),
                    "score": round(float(score), 4),
                    "box": [round(float(v), 2) for v in box],
                }
                for box, label, score in zip(found.boxes, found.labels, found.scores, strict=True)
            ],
            "timing_ms": {name: round(value, 3) for name, value in self.timing.items()},
        }

    def to_json(self, min_score: float = DRAWN_SCORE) -> str:
        """:meth:`to_dict` as one line of JSON."""
        return json.dumps(self.to_dict(min_score), allow_nan=False)

    def save(
        self, path: str | os.PathLike[str], frame: object | None = None, *, color: str | None = None
    ) -> Path:
        """Write the result to one file, whole or not at all.

        Args:
            path: with a frame, any image suffix: the overlay. Without: ``.png`` the class map (8-bit,
                one channel, pixel = class index), ``.json`` to_json, ``.npz`` every array.
            frame: the frame that was run.
            color: order of frame's channels, as in :meth:`plot`; the file's colours are right either way.

        Raises:
            InvalidInput: the frame has another size, or color is unknown.
            OutputError: unknown suffix, or the file cannot be written.
        """
        from imp_trt.images import encode_image

        path = Path(path)
        suffix = path.suffix.lower()
        if frame is not None:
            return write_atomically(path, encode_image(self.plot(frame, color=color), suffix))
        if suffix == ".png":
            return write_atomically(path, encode_image(self.semantic, suffix))
        if suffix == ".json":
            return write_atomically(path, (self.to_json(0.0) + "\n").encode())
        if suffix == ".npz":
            return write_atomically(path, self._npz())
        raise OutputError(
            f"result file {path}",
            expected=".png, .json or .npz (or a frame as second argument, for an overlay)",
            got=suffix or "no suffix",
        )

    def _npz(self) -> bytes:
        buffer = io.BytesIO()
        found = self.instances
        np.savez_compressed(
            buffer,
            semantic=self.semantic,
            boxes=found.boxes,
            labels=found.labels,
            scores=found.scores,
            masks=found.masks,
            mask_boxes=found._span,
            names=np.array(self.classes.names),
        )
        return buffer.getvalue()


def _got(value: object) -> str:
    if isinstance(value, np.ndarray):
        return f"{value.dtype} {list(value.shape)}"
    return type(value).__name__


def _check(name: str, value: object, dtype: type, shape: tuple[int, ...]) -> None:
    if not isinstance(value, np.ndarray) or value.dtype != dtype or value.shape != shape:
        raise InvalidInput(name, expected=f"{np.dtype(dtype)} {list(shape)}", got=_got(value))
