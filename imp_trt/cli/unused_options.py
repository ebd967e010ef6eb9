# SPDX-License-Identifier: Apache-2.0
"""Warnings of options that have no effect with the other ones, or with the given files."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
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

    def given(*names: str) -> list[str]:
        values = {name: name.lstrip("-").replace("-", "_") for name in names}
        return [name for name, key in values.items() if getattr(args, key) != parser.get_default(key)]

    if not any(source.live for source in sources):
        warn_of_unused(given("--reconnect-timeout", "--paced"), "no source is a camera or stream")
    if all(source.paths for source in sources):
        warn_of_unused(given("--read-timeout"), "no source is a stream")
    if not any(len(source.paths) > 1 for source in sources):
        warn_of_unused(given("--strict"), "no source is a folder or pattern of images")
    if not writes_video:
        warn_of_unused(given("--fps"), "no video is written")
