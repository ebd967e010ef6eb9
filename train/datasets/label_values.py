# SPDX-License-Identifier: Apache-2.0
"""Values of label files that look valid and mean something else: numbers, class names, paths of Windows."""

from __future__ import annotations

import logging
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from imp_trt.classes import MAX_NAME
from imp_trt.train.datasets.dropped import named

_log = logging.getLogger(__name__)


def whole_number(value: object, what: str) -> int:
    """An integer, also as 3.0 or "3".

    Args:
        value: from a file; True and 3.7, which int() converts, are none.
        what: name of the value in the message.

    Raises:
        ValueError: it is none.
    """
    if type(value) is int:
        return value
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, str) and re.fullmatch(r"\s*[-+]?[0-9]{1,18}\s*", value):
        return int(value)
    raise ValueError(f"{what} must be an integer, not {value!r:.80}")


def class_names(names: Sequence[object], where: str) -> tuple[str, ...]:
    """Names of classes, with a warning of those that people take for one.

    Args:
        names: from a file.
        where: name of the file in messages.

    Raises:
        ValueError: a name is neither text nor an integer, is empty, has more than 1000 characters, or has
            control characters or lone surrogates.
    """
    for name in names:
        text = str(name) if type(name) is int else name
        if not isinstance(text, str) or not text.strip() or not _is_line(text):
            raise ValueError(f"class names must be text in one line, not {name!r:.80}")
    texts = tuple(map(str, names))
    padded = [repr(name) for name in texts if name != name.strip()]
    if padded:
        _log.warning("%s: class names begin or end with a space: %s", where, named(padded))
    groups: dict[str, list[str]] = {}
    for name in texts:
        groups.setdefault(_look(name), []).append(name)
    alike = [" and ".join(map(repr, group)) for group in groups.values() if len(set(group)) > 1]
    if alike:
        _log.warning(
            "%s: classes differ only in case, spaces or Unicode form, and are taken as different ones: %s",
            where,
            named(alike),
        )
    return texts


def _look(name: str) -> str:
    """What a reader sees: without case, forms of Unicode, invisible characters, and kinds of spaces."""
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())
    seen = "".join(c for c in folded if unicodedata.category(c) != "Cf")
    return re.sub(r"[\s_-]+", " ", seen).strip()


def _is_line(text: str) -> bool:
    return len(text) <= MAX_NAME and not any(unicodedata.category(c) in ("Cc", "Cs") for c in text)


def path_below(folder: Path, name: str) -> str:
    """A path from a list, with slashes instead of the backslashes of Windows where only that file exists."""
    if "\\" not in name:
        return name
    slashes = name.replace("\\", "/")
    try:
        return slashes if (folder / slashes).exists() and not (folder / name).exists() else name
    except OSError:
        return name


def report_unknown(where: str, data: Mapping[str, object], known: Sequence[str]) -> None:
    """Warn of keys that have no effect, such as one that is misspelled."""
    unknown = [key for key in data if key not in known]
    if unknown:
        _log.warning("%s: keys without effect: %s; known are %s", where, named(unknown), ", ".join(known))


def report_repeated(where: str, names: Iterable[str], what: str) -> None:
    """Warn of files that a list has more than once, in any spelling.

    Args:
        where: name of the list.
        names: paths of the files.
        what: what is repeated, and what comes of it.
    """
    counts: dict[str, int] = {}
    for name in names:
        # Not normpath: of a link, .. is not the folder in which it lies.
        path = str(Path(name))
        counts[path] = counts.get(path, 0) + 1
    repeated = [path for path, count in counts.items() if count > 1]
    if repeated:
        _log.warning("%s: %d %s: %s", where, len(repeated), what, named(repeated))
