# SPDX-License-Identifier: Apache-2.0
"""Warnings of options that have no effect with the other ones, or with the given files."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from imp_trt.cli.printing import say

if TYPE_CHECKING:
    from imp_trt.video.sources import Source


def warn_of_unused(options: Iterable[str], reason: str) -> None:
    """One warning on stderr that names the options, if there are any."""
    names = list(options)
    if names:
        say(f"warning: {', '.join(names)} {'have' if len(names) > 1 else 'has'} no effect: {reason}")


def warn_of_unused_source_options(
    args: argparse.Namespace, parser: argparse.ArgumentParser, sources: Sequence[Source], writes_video: bool
) -> None:
    """Warn of options of imp-segment that none of its sources has a use for.

    Args:
        args: of parser.
        parser: knows the defaults; an option that is set to its default is not reported.
        sources: opened.
        writes_video: whether an overlay is written to a video.
    """

    given = partial(_given, args, parser)
    if not any(source.live for source in sources):
        warn_of_unused(given("--reconnect-timeout", "--paced"), "no source is a camera or stream")
    if all(source.paths for source in sources):
        warn_of_unused(given("--read-timeout"), "no source is a stream")
    if not any(len(source.paths) > 1 for source in sources):
        warn_of_unused(given("--strict"), "no source is a folder or pattern of images")
    if not writes_video:
        warn_of_unused(given("--fps"), "no video is written")


def warn_of_unused_drawing_options(
    args: argparse.Namespace, parser: argparse.ArgumentParser, *, draws: bool, detects: bool
) -> None:
    """Warn of options of imp-segment about drawing and instances that change no output.

    Args:
        args, parser: as for :func:`warn_of_unused_source_options`.
        draws: whether overlays are written or displayed.
        detects: whether the network has a detector.
    """
    given = partial(_given, args, parser)
    if not draws:
        unused = given("--style", "--alpha", "--no-labels", "--legend")
        warn_of_unused(unused, "no overlay is written or displayed")
    elif args.style == "classes":
        warn_of_unused(given("--no-labels"), "--style classes draws no instances")
    if not detects:
        warn_of_unused(given("--track"), "the network has no detector, and returns no instances")
    elif not (draws or args.save_json or args.json):
        warn_of_unused(given("--track"), "only overlays and JSON have the numbers")


def _given(args: argparse.Namespace, parser: argparse.ArgumentParser, *names: str) -> list[str]:
    """Those of the options that are not set to their default."""
    values = {name: name.lstrip("-").replace("-", "_") for name in names}
    return [name for name, key in values.items() if getattr(args, key) != parser.get_default(key)]
