# SPDX-License-Identifier: Apache-2.0
"""Class names as OpenCV can draw them: its versions before 5 draw every other character than ASCII as ??."""

from __future__ import annotations

import logging
import unicodedata
from functools import lru_cache

import cv2

from imp_trt.classes import ClassTable
from imp_trt.errors import printable

_MAX_LENGTH = 60

_log = logging.getLogger(__name__)

# Letters and punctuation without a decomposition in Unicode.
_LATIN = str.maketrans(
    {
        **{"ß": "ss", "ẞ": "SS", "æ": "ae", "Æ": "AE", "œ": "oe", "Œ": "OE", "ø": "o", "Ø": "O", "þ": "th"},
        **{"Þ": "Th", "đ": "d", "Đ": "D", "ð": "d", "Ð": "D", "ł": "l", "Ł": "L", "ħ": "h", "Ħ": "H"},
        **{"\u0131": "i", "\u2018": "'", "\u2019": "'", "\u201c": '"', "\u201d": '"', "\u2013": "-"},
    }
)


@lru_cache(maxsize=16)
def drawn_names(classes: ClassTable) -> tuple[str, ...]:
    """The names of the classes as they are drawn; warns once of those that are drawn differently.

    Accents are left out ("Straße" is drawn as "Strasse"); a name in another script becomes "class 3".
    """
    names = tuple(drawn(name, f"class {index}") for index, name in enumerate(classes.names))
    shown = zip(classes.names, names, strict=True)
    changed = [f"{printable(old)} as {new}" for old, new in shown if not old.isascii() and old != new]
    if changed and not _draws_unicode():
        _log.warning(
            "OpenCV %s draws ASCII only: %s. Fix: pip install 'opencv-python>=5'",
            cv2.__version__,
            ", ".join(changed),
        )
    return names


def drawn(text: str, otherwise: str = "?") -> str:
    """A text as one short line that OpenCV can draw.

    Args:
        text: from outside; OpenCV would measure and draw one of any length.
        otherwise: what is drawn for letters with no counterpart in ASCII.
    """
    text = printable(text if len(text) <= _MAX_LENGTH else text[: _MAX_LENGTH - 3] + "...")
    if text.isascii() or _draws_unicode():
        return text
    decomposed = unicodedata.normalize("NFKD", text.translate(_LATIN))
    plain = "".join(letter for letter in decomposed if not unicodedata.combining(letter))
    return plain if plain.isascii() and plain.strip() else otherwise


def _draws_unicode() -> bool:
    return int(cv2.__version__.partition(".")[0]) >= 5
