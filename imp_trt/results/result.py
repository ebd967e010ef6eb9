# SPDX-License-Identifier: Apache-2.0
"""The result of a Segmenter: one class map and the instances in it, in the caller's frame."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from imp_trt.classes import IGNORE_INDEX, ClassTable
from imp_trt.data.cached_property import cached_property
from imp_trt.data.files import write_atomically
from imp_trt.errors import DependencyMissing, InvalidInput, OutputError
from imp_trt.ops.mask_projection.numpy import instance_mask_projection_numpy
from imp_trt.results.coco import CocoResult, coco_results
from imp_trt.results.instances import MASK_THRESHOLD, Instances, check_array, describe
from imp_trt.results.panoptic import Panoptic, class_areas, fuse_panoptic
from imp_trt.results.serialization import ResultDict, instance_dict, npz_bytes

if TYPE_CHECKING:
    import supervision

    from imp_trt.preprocessing.frame_like import FrameLike
    from imp_trt.preprocessing.frames import ColorOrder
    from imp_trt.results.drawing import Style

__all__ = ["DEFAULT_SCORE_THRESHOLD", "MASK_THRESHOLD", "Instances", "LazyOutputs", "SegmentationResult"]

DEFAULT_SCORE_THRESHOLD = 0.3
"""Default minimum score of an instance that is drawn or listed."""


class LazyOutputs(Protocol):
    """Outputs that are fetched and decoded when they are first read; thread-safe.

    Attributes:
        size: (h, w) of the frame.
    """

    size: tuple[int, int]

    def semantic(self) -> NDArray[np.uint8]:
        """[h, w] uint8 class indices, an array of its own."""
        ...

    def instances(self) -> Instances:
        """The detected objects, arrays of their own."""
        ...


@dataclass(frozen=True, eq=False)
class SegmentationResult:
    """The result for one frame, in that frame's pixels.

    From an engine, ``semantic`` and ``instances`` stay on the GPU until each is first read. An error of the
    GPU, or invalid outputs of the network, raise then.

    Attributes:
        semantic: [h, w] uint8 class indices.
        instances: detected objects, in descending order of score.
        classes: names, things and colors of the classes.
        timing: milliseconds of the call that made this result: "pre" (preprocessing of the frame), "infer",
            "post" (postprocessing of the outputs) and "total". From an engine, "upload" is the copy to the
            GPU or the resize on it, "upload" and "infer" are measured by the GPU, "total" ends when the GPU
            is done, and "download" and "post" appear and grow as the result is read.
        frame: [h, w, 3] uint8 BGR, the frame itself where Segmenter.stream kept it; else None.
        network_size: (h, w) of the class map in pixels of the network, before it was resized to the frame;
            None if unknown. plot() uses it to draw smooth edges.
        canvas_age: frames since the detector ran, 0 if it ran on this one; None without a canvas that is
            carried over from frame to frame.

    Raises:
        InvalidInput: a shape, dtype or class index is wrong.
    """

    semantic: NDArray[np.uint8]
    instances: Instances
    classes: ClassTable
    timing: Mapping[str, float] = field(default_factory=dict)
    frame: NDArray[np.uint8] | None = None
    network_size: tuple[int, int] | None = None
    canvas_age: int | None = None

    # Set in the __dict__ of a lazy result. Not a field, so that fields() and replace() see public data only.
    _outputs: ClassVar[LazyOutputs | None] = None

    def __post_init__(self) -> None:
        self._check_semantic(self.semantic)
        if self.instances.size != self.semantic.shape:
            raise InvalidInput("instances.size", expected=self.semantic.shape, got=self.instances.size)
        self._check_instances(self.instances)

    @classmethod
    def lazy(
        cls,
        outputs: LazyOutputs,
        classes: ClassTable,
        timing: Mapping[str, float],
        frame: NDArray[np.uint8] | None = None,
        network_size: tuple[int, int] | None = None,
    ) -> SegmentationResult:
        """A result that fetches, checks and caches each part of the outputs when it is first read."""
        result = object.__new__(cls)
        # The two missing fields are read through __getattr__.
        result.__dict__.update(
            classes=classes, timing=timing, frame=frame, network_size=network_size, _outputs=outputs
        )
        return result

    if not TYPE_CHECKING:  # else a type checker would accept every attribute name

        def __getattr__(self, name: str) -> object:
            # Called for missing attributes only: here a part that has not been read yet.
            if name not in ("semantic", "instances") or self._outputs is None:
                raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
            if name == "semantic":
                semantic = self._outputs.semantic()
                self._check_semantic(semantic)
                return self.__dict__.setdefault(name, semantic)
            instances = self._outputs.instances()
            self._check_instances(instances)
            return self.__dict__.setdefault(name, instances)

    def __getstate__(self) -> dict[str, object]:
        # Copies and pickles hold the arrays, and no reference to the GPU.
        names = ("semantic", "instances", "classes", "frame", "network_size", "canvas_age")
        return {**{name: getattr(self, name) for name in names}, "timing": dict(self.timing)}

    def _check_semantic(self, semantic: NDArray[np.uint8]) -> None:
        if not isinstance(semantic, np.ndarray) or semantic.ndim != 2 or not semantic.size:
            raise InvalidInput("semantic", expected="uint8 [h, w], not empty", got=describe(semantic))
        check_array("semantic", semantic, np.uint8, semantic.shape)
        highest = int(semantic.max())
        if (
            highest >= len(self.classes)
            and np.isin(semantic, np.arange(len(self.classes), IGNORE_INDEX, dtype=np.uint8)).any()
        ):
            raise InvalidInput("semantic", expected=f"classes below {len(self.classes)}", got=highest)

    def _check_instances(self, instances: Instances) -> None:
        labels = instances.labels
        if len(labels) and not (0 <= labels.min() and labels.max() < len(self.classes)):
            raise InvalidInput("labels", expected=f"0 to {len(self.classes) - 1}", got=labels.tolist())

    def __repr__(self) -> str:
        h, w = self.size
        # Printing a result must not wait for the GPU.
        instances = self.__dict__.get("instances")
        count = "instances not read" if instances is None else f"{len(instances)} instances"
        return f"SegmentationResult({w}x{h}, {len(self.classes)} classes, {count})"

    @property
    def size(self) -> tuple[int, int]:
        """(h, w) of the frame."""
        return self.instances.size if self._outputs is None else self._outputs.size

    def pixel_counts(self) -> NDArray[np.int64]:
        """Pixels of each class, [K] int64."""
        return class_areas(self.semantic)[: len(self.classes)]

    def canvas(self, scale: float = 0.25) -> NDArray[np.float32]:
        """The instances as an IMP canvas, [T, h * scale, w * scale] float32.

        Plane t belongs to class ``classes.things[t]``. The network's own canvas has 1/4 of the size of its
        frame; this one is computed from the result, in the caller's frame.

        Raises:
            InvalidInput: scale is not a finite number above 0.
        """
        if not 0 < scale < math.inf:
            raise InvalidInput("scale", expected="a finite number above 0", got=scale)
        instances = self.instances
        size = (max(1, round(self.size[0] * scale)), max(1, round(self.size[1] * scale)))
        if not self.classes.things:
            return np.zeros((0, *size), np.float32)
        plane = np.full(len(self.classes), -1, np.int32)  # class index -> plane of the canvas
        plane[list(self.classes.things)] = np.arange(len(self.classes.things), dtype=np.int32)
        canvas = instance_mask_projection_numpy(
            instances._span[None],
            instances.scores[None],
            plane[instances.labels][None],
            instances.masks[None],
            len(self.classes.things),
            size,
            scale,
            instances.sampling,
        )
        return np.asarray(canvas[0], np.float32)

    @cached_property
    def disagreement(self) -> NDArray[np.float32]:
        """[h, w] float32, 0-1: how strongly class map and instances contradict each other.

        0.5 and above is a contradiction: an instance where the map has stuff, or a thing in the map without
        an instance of its class; :func:`imp_trt.results.disagreement.disagreement_map` has the definition.
        Computed when first read; read-only. Not meaningful for a model that detects no instances.
        """
        from imp_trt.results.disagreement import disagreement_map

        disagreement = disagreement_map(self.semantic, self.instances, self.classes.things)
        disagreement.flags.writeable = False  # all callers share the array
        return disagreement

    def panoptic(self, min_score: float = 0.5, max_covered: float = 0.5, min_stuff_area: int = 0) -> Panoptic:
        """Class map and instances as segments that do not overlap; see
        :func:`imp_trt.results.panoptic.fuse_panoptic`."""
        return fuse_panoptic(
            self.semantic,
            self.instances,
            self.classes,
            min_score=min_score,
            max_covered=max_covered,
            min_stuff_area=min_stuff_area,
        )

    def plot(
        self,
        frame: FrameLike | None = None,
        *,
        color: ColorOrder | None = None,
        style: Style = "instances",
        alpha: float | None = None,
        min_score: float = DEFAULT_SCORE_THRESHOLD,
        labels: bool = True,
        legend: bool | Collection[int] = False,
    ) -> NDArray[np.uint8]:
        """The frame with the result drawn over it.

        Args:
            frame: the frame that was segmented, same size; None takes the one that stream() kept.
            color: order of the frame's channels, the same as was passed to run(); None means BGR for
                arrays and RGB for PIL images. Ignored for a kept frame, which is BGR.
            style: "instances" fills each instance with its own shade of the class's color, over a faint
                class map; "classes" is the class map alone; "panoptic" draws the segments of
                :meth:`panoptic`.
            alpha: weight of the class colors, 0-1; None means 0.25 for "instances", else 0.5.
            min_score: instances with a lower score are left out.
            labels: draw class and score at each instance.
            legend: list classes at the lower left, in the order of the table: True for those of
                :meth:`legend_classes`, or their indices.

        Returns:
            [h, w, 3] uint8, a new array; always BGR, for cv2.imwrite. ``[..., ::-1]`` is RGB.

        Raises:
            InvalidInput: no frame, one of another size, or an argument is out of its range.
        """
        from imp_trt.preprocessing.frames import to_bgr
        from imp_trt.results.drawing import STYLES, draw_panoptic, draw_result
        from imp_trt.results.shading import smooth_map

        if frame is None and self.frame is None:
            raise InvalidInput("plot", expected="the frame that was segmented", got="none", fix="plot(frame)")
        if style not in STYLES:
            raise InvalidInput("style", expected=f"one of {', '.join(STYLES)}", got=style)
        image = to_bgr(self.frame) if frame is None else to_bgr(frame, color)
        listed: Collection[int] | None = None
        if legend is not False:
            listed = self.legend_classes(min_score) if legend is True else self._checked_classes(legend)
        if style == "panoptic":
            semantic = smooth_map(self.semantic, self.network_size)
            segments = fuse_panoptic(semantic, self.instances, self.classes, min_score=min_score)
            return draw_panoptic(image, segments, self.classes, alpha=alpha, labels=labels, legend=listed)
        return draw_result(
            image,
            self.semantic,
            self.instances.filter(min_score=min_score),
            self.classes,
            style=style,
            alpha=alpha,
            labels=labels,
            legend=listed,
            network_size=self.network_size,
        )

    def legend_classes(self, min_score: float = DEFAULT_SCORE_THRESHOLD) -> tuple[int, ...]:
        """The classes to list in a legend, most important first: those of the instances that are drawn,
        then those with at least 0.5% of the pixels, by area."""
        counts = self.pixel_counts()
        instances = self.instances.filter(min_score=min_score)
        drawn = dict.fromkeys(instances.labels.tolist())  # in descending order of score, each once
        large = [
            k for k in np.argsort(-counts, kind="stable").tolist() if counts[k] >= 0.005 * self.semantic.size
        ]
        return tuple(dict.fromkeys([*drawn, *large]))

    def _checked_classes(self, listed: Collection[int]) -> Collection[int]:
        count = len(self.classes)
        ints = isinstance(listed, Collection) and all(hasattr(k, "__index__") for k in listed)
        if not (ints and all(0 <= k < count for k in listed)):
            raise InvalidInput("legend", expected=f"True, False or class indices below {count}", got=listed)
        return listed

    def show(
        self, frame: FrameLike | None = None, *, color: ColorOrder | None = None, title: str = "imp-trt"
    ) -> None:
        """Show the overlay in a window until a key is pressed or the window is closed.

        Args:
            frame, color: as for :meth:`plot`.
            title: of the window.

        Raises:
            InvalidInput: see :meth:`plot`.
            DependencyMissing: OpenCV cannot open windows here (no display, or opencv-python-headless).
        """
        from imp_trt.results.window import show_image

        show_image(self.plot(frame, color=color, legend=True), title)

    def _repr_png_(self) -> bytes:
        """The overlay for notebooks; the drawing on a gray image where the result holds no frame."""
        from imp_trt.data.images import encode_image

        frame = np.full((*self.size, 3), 128, np.uint8) if self.frame is None else self.frame
        return encode_image(self.plot(frame, legend=True), ".png")

    def to_dict(self, min_score: float = DEFAULT_SCORE_THRESHOLD) -> ResultDict:
        """Data for JSON: size, fraction of each class in the frame, instances without masks, timing."""
        counts = self.pixel_counts()
        instances = self.instances.filter(min_score=min_score)
        data: ResultDict = {
            "height": self.size[0],
            "width": self.size[1],
            "classes": {
                name: round(int(count) / self.semantic.size, 6)
                for name, count in zip(self.classes.names, counts, strict=True)
                if count
            },
            "instances": [instance_dict(instances, i, self.classes) for i in range(len(instances))],
            "timing_ms": {name: round(value, 3) for name, value in self.timing.items()},
        }
        if self.canvas_age is not None:
            data["canvas_age"] = self.canvas_age
        return data

    def to_json(self, min_score: float = DEFAULT_SCORE_THRESHOLD) -> str:
        """:meth:`to_dict` as one line of JSON."""
        return json.dumps(self.to_dict(min_score), allow_nan=False)

    def to_coco(
        self, image_id: int | str, category_ids: Mapping[str, int] | None = None, min_score: float = 0.0
    ) -> list[CocoResult]:
        """The instances in COCO's results format, as data for JSON.

        Args:
            image_id: of the frame, in its dataset.
            category_ids: class name -> the dataset's category id; None takes the class index.
            min_score: instances with a lower score are left out. Average precision needs all of them.

        Returns:
            an entry for each instance: image_id, category_id, bbox ([x, y, width, height], pixels), score and
            segmentation (compressed RLE of the mask at the frame's size). COCO's evaluation of masks takes
            the area of bbox if it is there: leave it out for the precision of small to large objects.

        Raises:
            InvalidInput: category_ids lacks the class of an instance, or an id is not an integer.
        """
        return coco_results(self.instances.filter(min_score=min_score), self.classes, image_id, category_ids)

    def to_supervision(self, min_score: float = DEFAULT_SCORE_THRESHOLD) -> supervision.Detections:
        """The instances for the annotators, zones and filters of the package supervision.

        Args:
            min_score: instances with a lower score are left out. Each mask takes h * w bytes.

        Returns:
            Detections: xyxy, mask ([N, h, w] bool), confidence, class_id (class index), tracker_id if the
            result was tracked, and the class names in ``data["class_name"]``.

        Raises:
            DependencyMissing: supervision is not installed.
        """
        try:
            from supervision import Detections
        except ImportError as error:
            raise DependencyMissing(
                "to_supervision()",
                expected="the package supervision",
                got=str(error),
                fix="pip install 'imp-trt[supervision]'",
            ) from error
        instances = self.instances.filter(min_score=min_score)
        return Detections(
            xyxy=instances.boxes,
            mask=instances.paste(),
            confidence=instances.scores,
            class_id=instances.labels.astype(np.int64),
            tracker_id=None if instances.track_ids is None else instances.track_ids.astype(np.int64),
            data={"class_name": np.array(self.classes.names)[instances.labels]},
        )

    def save(
        self, path: str | os.PathLike[str], frame: FrameLike | None = None, *, color: ColorOrder | None = None
    ) -> Path:
        """Write the result to one file, atomically.

        Args:
            path: with a frame, any image suffix: the overlay. Without one: ``.png`` for the class map (8-bit,
                one channel, pixel = class index), ``.json`` for to_json(0.0), ``.npz`` for all arrays.
            frame: the frame that was segmented.
            color: order of the frame's channels, as in :meth:`plot`.

        Raises:
            InvalidInput: the frame has another size, or color is unknown.
            OutputError: unknown suffix, or the file cannot be written.
        """
        from imp_trt.data.images import encode_image

        path = Path(path)
        suffix = path.suffix.lower()
        if frame is not None:
            return write_atomically(path, encode_image(self.plot(frame, color=color), suffix))
        if suffix == ".png":
            return write_atomically(path, encode_image(self.semantic, suffix))
        if suffix == ".json":
            return write_atomically(path, (self.to_json(0.0) + "\n").encode())
        if suffix == ".npz":
            return write_atomically(path, npz_bytes(self.semantic, self.instances, self.classes))
        raise OutputError(
            f"result file {path}",
            expected=".png, .json or .npz (or a frame as second argument, for an overlay)",
            got=suffix or "no suffix",
        )
