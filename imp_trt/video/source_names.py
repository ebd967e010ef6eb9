# SPDX-License-Identifier: Apache-2.0
"""Names of sources for files and tables."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import PurePath
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from imp_trt.video.sources import Frame

_ONLY_HOST = re.compile(r"[\w+.-]+://(?:[^/?#]*@)?([^/?#]+)/?([?#].*)?")  # an address without a path


def short_names(sources: Iterable[Iterable[Frame]]) -> list[str]:
    """Unique names of the sources that are safe in file names: the stem of the path or address.

    That of an address without a path is its host: the stem of 10.0.0.11 would be 10.0.0.
    """
    names: list[str] = []
    for index, source in enumerate(sources):
        text = str(getattr(source, "name", ""))
        host = _ONLY_HOST.fullmatch(text)
        name = re.sub(r"[^\w-]+", "_", host[1] if host else PurePath(text).stem)[:64].strip("_") or str(index)
        while name in names:
            name = f"{name}-{index}"
        names.append(name)
    return names
