# SPDX-License-Identifier: Apache-2.0
"""Names of classes: COCO's, and those in files."""

from __future__ import annotations

import json
import logging
import re
import unicodedata
from collections import Counter
from pathlib import Path

from torchvision.models.detection import MaskRCNN_ResNet50_FPN_Weights

from imp_trt.classes import IGNORE_INDEX, MAX_NAME
from imp_trt.data.files import read_regular
from imp_trt.errors import InvalidInput

_log = logging.getLogger(__name__)

_MAX_BYTES = 1 << 20
_CATEGORIES: list[str] = MaskRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"]

COCO_THINGS: tuple[str, ...] = tuple(name for name in _CATEGORIES[1:] if name != "N/A")
"""COCO's 80 things in the order of their category ids."""


COCO_STUFF: tuple[str, ...] = (
    *("banner", "blanket", "bridge", "cardboard", "counter", "curtain", "door-stuff", "floor-wood", "flower"),
    *("fruit", "gravel", "house", "light", "mirror-stuff", "net", "pillow", "platform", "playingfield"),
    *("railroad", "river", "road", "roof", "sand", "sea", "shelf", "snow", "stairs", "tent", "towel"),
    *("wall-brick", "wall-stone", "wall-tile", "wall-wood", "water-other", "window-blind", "window-other"),
    *("tree-merged", "fence-merged", "ceiling-merged", "sky-other-merged", "cabinet-merged", "table-merged"),
    *("floor-other-merged", "pavement-merged", "mountain-merged", "grass-merged", "dirt-merged"),
    *("paper-merged", "food-other-merged", "building-other-merged", "rock-merged", "wall-other-merged"),
    "rug-merged",
)
"""The 53 stuff classes of COCO's panoptic task, in the order of their ids."""


def coco_rows_in_use() -> list[int]:
    """The category ids of COCO's 80 things, of 1 to 90."""
    return [i for i, name in enumerate(_CATEGORIES) if i and name != "N/A"]


def read_class_names(path: str | Path) -> tuple[str, ...]:
    """Class names of a text file with one name a line, or of a JSON file with a list of names.

    Raises:
        InvalidInput: the file cannot be read, is not a regular file, is empty, has more than 255 names, names
            a class twice, or has a name of more than 1000 characters or with a control
            character.
    """
    path = Path(path)
    try:
        text = read_regular(path, _MAX_BYTES).decode("utf-8-sig")
        # Not splitlines: it also divides at characters that a name may contain.
        data = json.loads(text) if path.suffix.lower() == ".json" else re.split(r"\r\n|\r|\n", text)
    except (OSError, ValueError, RecursionError) as error:
        raise InvalidInput(
            f"class names {path}", expected="a text file with one name a line, or a JSON list", got=error
        ) from error
    if not isinstance(data, list) or not all(isinstance(name, str) for name in data):
        raise InvalidInput(f"class names {path}", expected="a list of names", got=type(data).__name__)
    names = tuple(name.strip() for name in data if name.strip())
    if not names:
        raise InvalidInput(f"class names {path}", expected="at least one name", got="none")
    if len(names) > IGNORE_INDEX:
        raise InvalidInput(f"class names {path}", expected=f"at most {IGNORE_INDEX} names", got=len(names))
    empty = sum(not name.strip() for name in data[: data.index(next(n for n in reversed(data) if n.strip()))])
    if empty:
        _log.warning("class names %s: %d empty ones before the last are left out", path, empty)
    strange = [name for name in names if any(unicodedata.category(c) in ("Cc", "Cs") for c in name)]
    if strange:
        expected = "names without control characters and lone surrogates"
        raise InvalidInput(f"class names {path}", expected=expected, got=repr(strange[0])[:80])
    longest = max(map(len, names))
    if longest > MAX_NAME:
        raise InvalidInput(f"class names {path}", expected=f"at most {MAX_NAME} characters", got=longest)
    twice = sorted(name for name, count in Counter(names).items() if count > 1)
    if twice:
        raise InvalidInput(f"class names {path}", expected="each name once", got=", ".join(twice[:3]))
    return names
