# SPDX-License-Identifier: Apache-2.0
"""Outputs of the commands: the sinks of imp-segment, protection of existing files, failed outputs."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING

from imp_trt.cli.printing import say, written_to_stdout
from imp_trt.data.files import resolved
from imp_trt.errors import UsageError

if TYPE_CHECKING:
    from imp_trt.data.dataset import Dataset
    from imp_trt.video.sinks import Sink
    from imp_trt.video.sinks.overlays import FrameRates, TimeSource
    from imp_trt.video.sources import Source


def places(args: argparse.Namespace, sources: Sequence[Source]) -> dict[str, str]:
    """Return the path of each output.

    Raises:
        UsageError: no output is requested, and there is no default; or - for standard output.
    """
    requested = {
        "overlay": args.sink,
        "overlay 2": args.save_overlay,
        "classes": args.save_classes,
        "panoptic": args.save_panoptic,
        "json": args.save_json,
    }
    if "-" in requested.values():
        raise UsageError(
            "an output",
            expected="a path",
            got="-",
            fix="--save-json /dev/stdout for JSON Lines on standard output, ./- for a file of that name",
        )
    outputs = {name: path for name, path in requested.items() if path}
    if not outputs and args.serve is None and not shows_window(args):
        outputs["overlay"] = _default_place(args.source, sources)
    return outputs


def _default_place(spec: str, sources: Sequence[Source]) -> str:
    from imp_trt.video.source_names import short_names

    if any(source.live for source in sources):
        raise UsageError(
            "no output for a camera or stream",
            expected="a SINK, --serve PORT, or one of --save-...",
            fix="use --serve 8080 to view it in the browser, or a video as SINK to record until Ctrl-C",
        )
    if len(sources) > 1:
        return "segmented.mp4" if all(source.fps is not None for source in sources) else "segmented"
    source, path = sources[0], Path(os.path.expanduser(spec))
    if path.is_file():
        return f"{path.stem}_segmented{'.png' if source.fps is None and source.frames == 1 else '.mp4'}"
    if not source.paths:  # a recording at an address
        return f"{short_names(sources)[0]}_segmented.mp4"
    return f"{resolved(path).name}_segmented" if path.is_dir() else "segmented"


def reported(outputs: dict[str, str], several: bool) -> dict[str, str]:
    """Paths of the outputs for the report.

    Args:
        outputs: of :func:`places`.
        several: there are several sources, whose names are part of the paths: a ``*`` is in their place.
    """
    from imp_trt.video.sinks.images import is_pattern

    found = {}
    for name, place in outputs.items():
        path = Path(place)
        if place == "null:":
            continue
        if several and name.startswith("overlay") and is_video(place):
            place = str(path.with_name(f"{path.stem}_*{path.suffix}"))
        elif several and name != "json" and is_pattern(place):
            place = str(path.parent / "*" / path.name)
        found[name] = place
    return found


def sink_makers(
    args: argparse.Namespace, sources: Sequence[Source], found: dict[str, str]
) -> list[Callable[[], Sink]]:
    """Return one factory function per output, including the window."""
    from imp_trt.video import sinks
    from imp_trt.video.source_names import short_names

    fps: FrameRates = args.fps or sources[0].fps
    if len(sources) > 1 and not args.fps:
        fps = {name: source.fps for name, source in zip(short_names(sources), sources, strict=True)}
    times: TimeSource = "constant" if args.fps else "container"
    if args.fps and any(source.live for source in sources) and any(map(is_video, found.values())):
        say(
            f"warning: --fps {args.fps:g} gives every frame of a camera or stream the same duration: where "
            "frames are dropped, the video runs faster. Without --fps they keep their times"
        )
    makers: list[Callable[[], Sink]] = []
    for name, place in found.items():
        if name == "classes":
            makers.append(partial(sinks.ClassMaps, place))
        elif name == "panoptic":
            makers.append(
                partial(sinks.PanopticMaps, place)
                if args.min_score is None
                else partial(sinks.PanopticMaps, place, args.min_score)
            )
        elif name == "json":
            makers.append(partial(sinks.JsonLines, place, min_score(args)))
        else:
            makers.append(partial(sinks.overlay_sink, place, fps, times=times))
    if shows_window(args):
        makers.append(sinks.Window)
    return makers


def is_video(place: str) -> bool:
    """Whether an overlay at a path is a video."""
    from imp_trt.video.encoder import VIDEO_CODECS

    return Path(place).suffix.lower() in VIDEO_CODECS


def min_score(args: argparse.Namespace) -> float:
    """The minimum score of reported and drawn instances; panoptic maps have a default of their own."""
    from imp_trt.results.result import DEFAULT_SCORE_THRESHOLD

    return DEFAULT_SCORE_THRESHOLD if args.min_score is None else float(args.min_score)


def shows_window(args: argparse.Namespace) -> bool:
    """Whether the overlay is displayed in a window."""
    # Checked here, because Qt ends the process if there is no display.
    display = os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    return not args.headless and args.serve is None and bool(display)


def is_stdout(place: str) -> bool:
    """Whether a path refers to the file that standard output is redirected to."""
    try:
        one, other = os.stat(place), os.fstat(1)
    except OSError:
        return False
    return os.path.samestat(one, other) and not os.path.samestat(one, os.stat(os.devnull))


def reject_overwriting(
    artifact: str, sources: Sequence[Source], names: Sequence[str], found: dict[str, str]
) -> None:
    """Check that no output overwrites an input frame, the model, or another output.

    Args:
        names: short names of the sources, which are part of the file names.

    Raises:
        UsageError: an output would overwrite one of them.
    """
    from imp_trt.artifacts.artifact import manifest_path
    from imp_trt.data.images import IMAGE_SUFFIXES
    from imp_trt.video.sinks.images import is_pattern

    inputs = {resolved(path) for source in sources for path in source.paths}
    # Names of images in a folder or pattern are generated, so they must not go to a folder of input frames.
    folders = {path.parent for path in inputs if path.suffix.lower() in IMAGE_SUFFIXES}
    model = {resolved(artifact), resolved(manifest_path(artifact))}
    written = [
        (name, target)
        for name, place in found.items()
        if place != "null:"
        for target in _targets(name, place, names)
    ]
    for _, place in written:
        target = resolved(place)
        if target in folders or (is_pattern(place) and target.parent in folders) or _matches(target, inputs):
            raise UsageError("the output would overwrite the source", got=place, fix="choose another path")
        if _matches(target, model):
            raise UsageError("the output would overwrite the model", got=place, fix="choose another path")
    for one, other in combinations(written, 2):
        same = resolved(one[1]) == resolved(other[1])
        if same or _may_collide(_names(*one), _names(*other)):
            raise UsageError(
                "two outputs have the same path",
                got=f"{one[1]}, {other[1]}",
                fix="use different folders or files",
            )


def reject_input(flag: str, output: Path, inputs: Iterable[str | os.PathLike[str]]) -> None:
    """UsageError if an output is one of the files that the command reads."""
    if resolved(output) in {resolved(path) for path in inputs}:
        raise UsageError(flag, expected="a new file", got=f"{output}, which is an input")


def reject_labeled(flag: str, output: Path, dataset: Dataset, root: Path | None = None) -> None:
    """UsageError if an existing file may be an image or label of a dataset.

    Args:
        flag: option of the output.
        output: file to write.
        dataset: images and labels that are read; synthetic ones have no files.
        root: folder of the dataset; its files may be those of other splits.
    """
    from imp_trt.train.datasets.overview import image_files
    from imp_trt.train.datasets.view import FileDataset

    target = resolved(output)
    if not target.exists() or not isinstance(dataset, FileDataset):
        return
    among_images = target.parent in {resolved(folder) for folder in {p.parent for p in image_files(dataset)}}
    below = root is not None and resolved(root) in target.parent.parents
    if among_images or below:
        raise UsageError(
            flag,
            expected="a new file",
            got=f"{output}, which exists in the dataset",
            fix="choose a file outside of the dataset",
        )


def attempt_all(*outputs: Callable[[], object]) -> None:
    """Write or print each output, also after another one failed; then raise the first error.

    What was measured took minutes: an output that cannot be written does not take the others with it.

    Args:
        outputs: writes or prints one output each; files first, since a closed stdout is common.
    """
    errors: list[BaseException] = []
    for output in (*outputs, _flush):
        try:
            output()
        except BaseException as error:
            errors.append(error)
    for later in errors[1:]:
        if isinstance(later, BrokenPipeError):
            sys.stdout = open(os.devnull, "w")  # without this, Python reports it again on exit
        else:
            say(f"error: {' '.join(str(later).split()) or type(later).__name__}")
    if errors:
        raise errors[0]


def _flush() -> None:
    with written_to_stdout():
        sys.stdout.flush()


def _targets(output: str, place: str, names: Sequence[str]) -> list[str]:
    """Return the paths of an output: with several sources, one per source."""
    from imp_trt.video.sinks.images import is_pattern

    lists = [os.path.join(place, "panoptic.json")] if output == "panoptic" else []
    path = Path(place)
    if len(names) < 2 or output == "json":
        return [place, *lists]
    if output.startswith("overlay") and is_video(place):
        return [str(path.with_name(f"{path.stem}_{name}{path.suffix}")) for name in names]
    if is_pattern(place):
        return [str(path.parent / name / path.name) for name in names]
    return [*(str(path / name) for name in names), *lists]


def _matches(target: Path, files: set[Path]) -> bool:
    """Whether a path is one of the files, or a pattern such as ``out/%06d.png`` that matches one."""
    names = re.compile(re.sub(r"%0?\d*d", r"\\d+", re.escape(str(target))))
    return target in files or any(names.fullmatch(str(file)) for file in files)


def _names(output: str, place: str) -> tuple[Path, str, str]:
    """Return folder, common prefix and common suffix of the files of an output."""
    from imp_trt.data.images import IMAGE_SUFFIXES
    from imp_trt.video.encoder import VIDEO_CODECS
    from imp_trt.video.sinks.images import is_pattern

    target = resolved(place)
    if is_pattern(place):
        return target.parent, target.name.partition("%")[0], re.split(r"%0?\d*d", target.name)[-1]
    files = IMAGE_SUFFIXES if output == "classes" else (*IMAGE_SUFFIXES, *VIDEO_CODECS, ".json")
    if output == "json" or target.suffix.lower() in files:
        return target.parent, target.name, target.name
    return target, "", ".png"


def _may_collide(one: tuple[Path, str, str], other: tuple[Path, str, str]) -> bool:
    (folder, begin, end), (folder2, begin2, end2) = one, other
    begins = begin.startswith(begin2) or begin2.startswith(begin)
    return folder == folder2 and begins and (end.endswith(end2) or end2.endswith(end))
