"""Where imp-segment writes: which sinks are asked for, and that none of them destroys anything."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Callable, Sequence
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING

from imp_trt.errors import UsageError

if TYPE_CHECKING:
    from imp_trt.video.sinks import Sink
    from imp_trt.video.sources import Source


def places(args: argparse.Namespace, sources: Sequence[Source]) -> dict[str, str]:
    """Output -> where it goes.

    Raises:
        UsageError: nothing is asked for, and there is no good default.
    """
    asked = {
        "overlay": args.sink,
        "overlay 2": args.save_overlay,
        "classes": args.save_classes,
        "panoptic": args.save_panoptic,
        "json": args.save_json,
    }
    found = {name: place for name, place in asked.items() if place}
    if not found and args.serve is None and not shows_window(args):
        found["overlay"] = _default_place(args.source, sources)
    return found


def _default_place(spec: str, sources: Sequence[Source]) -> str:
    if any(source.live for source in sources):
        raise UsageError(
            "a camera or stream has no end",
            expected="a SINK, --serve PORT, or one of --save-...",
            fix="--serve 8080 shows it in the browser; a video as SINK records it until Ctrl-C",
        )
    if len(sources) > 1:
        return "segmented.mp4" if all(source.fps is not None for source in sources) else "segmented"
    path = Path(spec)
    if path.is_file():
        return (
            f"{path.stem}_segmented{'.png' if sources[0].fps is None and sources[0].frames == 1 else '.mp4'}"
        )
    return f"{path.resolve().name}_segmented" if path.is_dir() else "segmented"


def sink_makers(
    args: argparse.Namespace, sources: Sequence[Source], found: dict[str, str]
) -> list[Callable[[], Sink]]:
    """One maker for each output, the window included."""
    from imp_trt.video import sinks

    fps = args.fps or next((source.fps for source in sources if source.fps), None)
    times = "constant" if args.fps else "container"
    makers: list[Callable[[], Sink]] = []
    for name, place in found.items():
        if name == "classes":
            makers.append(partial(sinks.ClassMaps, place))
        elif name == "panoptic":
            makers.append(partial(sinks.PanopticMaps, place))
        elif name == "json":
            makers.append(partial(sinks.JsonLines, place, args.min_score))
        else:
            makers.append(partial(sinks.overlay_sink, place, fps, times=times))
    if shows_window(args):
        makers.append(sinks.Window)
    return makers


def shows_window(args: argparse.Namespace) -> bool:
    """Whether the overlay is shown in a window."""
    # Qt ends the process where there is no display, so OpenCV is not even asked.
    display = os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    return not args.headless and args.serve is None and bool(display)


def is_stdout(place: str) -> bool:
    """Whether a file is the one that standard output goes to, by whatever name."""
    try:
        one, other = os.stat(place), os.fstat(1)
    except OSError:
        return False
    return os.path.samestat(one, other) and not os.path.samestat(one, os.stat(os.devnull))


def refuse_overwriting(
    artifact: str, sources: Sequence[Source], names: Sequence[str], found: dict[str, str]
) -> None:
    """No output may replace a frame, the model, or another output.

    Args:
        names: short names of the sources, by which their files are told apart.

    Raises:
        UsageError: one would.
    """
    from imp_trt.artifacts.artifact import manifest_path
    from imp_trt.data.images import IMAGE_SUFFIXES

    inputs = {path.resolve() for source in sources for path in source.paths}
    # Pictures in a folder or by a pattern get names that nobody chose: they stay out of the frames' folders.
    folders = {path.parent for path in inputs if path.suffix.lower() in IMAGE_SUFFIXES}
    model = {Path(artifact).resolve(), manifest_path(artifact).resolve()}
    written = [
        (name, target)
        for name, place in found.items()
        if place != "null:"
        for target in _targets(name, place, names)
    ]
    for _, place in written:
        target = Path(place).resolve()
        if target in folders or ("%" in place and target.parent in folders) or _spells(target, inputs):
            raise UsageError("the output would replace the source", got=place, fix="name another place")
        if _spells(target, model):
            raise UsageError("the output would replace the model", got=place, fix="name another place")
    for one, other in combinations(written, 2):
        same = Path(one[1]).resolve() == Path(other[1]).resolve()
        if same or _may_meet(_names(*one), _names(*other)):
            raise UsageError(
                "two outputs go to one place",
                got=f"{one[1]}, {other[1]}",
                fix="name two folders, or two files",
            )


def _targets(output: str, place: str, names: Sequence[str]) -> list[str]:
    """The places that an output becomes: one for each source where there are several."""
    from imp_trt.video.encoder import VIDEO_CODECS

    lists = [os.path.join(place, "panoptic.json")] if output == "panoptic" else []
    path = Path(place)
    if len(names) < 2 or output == "json":
        return [place, *lists]
    if output.startswith("overlay") and path.suffix.lower() in VIDEO_CODECS:
        return [str(path.with_name(f"{path.stem}_{name}{path.suffix}")) for name in names]
    if "%" in place:
        return [str(path.parent / name / path.name) for name in names]
    return [*(str(path / name) for name in names), *lists]


def _spells(target: Path, files: set[Path]) -> bool:
    """Whether a place is one of the files, or a pattern such as ``out/%06d.png`` that becomes one."""
    names = re.compile(re.sub(r"%0?\d*d", r"\\d+", re.escape(str(target))))
    return target in files or any(names.fullmatch(str(file)) for file in files)


def _names(output: str, place: str) -> tuple[Path, str, str]:
    """What an output's files have in common: their folder, and how their names begin and end."""
    from imp_trt.data.images import IMAGE_SUFFIXES
    from imp_trt.video.encoder import VIDEO_CODECS

    target = Path(place).resolve()
    if "%" in place:
        return target.parent, target.name.partition("%")[0], re.split(r"%0?\d*d", target.name)[-1]
    files = IMAGE_SUFFIXES if output == "classes" else (*IMAGE_SUFFIXES, *VIDEO_CODECS, ".json")
    if output == "json" or target.suffix.lower() in files:
        return target.parent, target.name, target.name
    return target, "", ".png"


def _may_meet(one: tuple[Path, str, str], other: tuple[Path, str, str]) -> bool:
    (folder, begin, end), (folder2, begin2, end2) = one, other
    begins = begin.startswith(begin2) or begin2.startswith(begin)
    return folder == folder2 and begins and (end.endswith(end2) or end2.endswith(end))
