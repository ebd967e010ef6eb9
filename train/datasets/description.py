# SPDX-License-Identifier: Apache-2.0
"""``dataset.json`` of a dataset in a known layout: which classes are things and which are stuff.

::

    {"layout": "coco",                            as imp-data names it
     "classes": ["background", "road", "car"],    those of the labels, to notice when they change
     "things": ["car"],
     "palette": [[0, 0, 0], ...], "name": "mine", "terms": "CC BY 4.0",     optional
     "root": "/data/export"}                      optional: the folder, if the file lies elsewhere

Without ``layout`` it describes index PNGs, see :mod:`imp_trt.train.datasets.index_png`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from imp_trt.classes import ClassTable
from imp_trt.data.files import resolved, write_atomically
from imp_trt.errors import DatasetError, InvalidInput, OutputError, UsageError, suggestion
from imp_trt.train.datasets.coco import BACKGROUNDS
from imp_trt.train.datasets.label_values import report_unknown, whole_number
from imp_trt.train.datasets.reading import read_json

FILE = "dataset.json"
_KEYS = ("classes", "things")
_KNOWN = ("layout", *_KEYS, "palette", "name", "terms", "root")
_WRITE = "write it again with imp-data FOLDER --things ... -o dataset.json"


def read_description(path: Path) -> dict[str, Any]:
    """Content of a dataset.json.

    Raises:
        DatasetError: it is not JSON, or no JSON object.
    """
    return read_json(path, "classes and things")


def described_root(path: Path, data: Mapping[str, Any]) -> Path:
    """Folder that a description is about."""
    root = data.get("root", ".")
    if not isinstance(root, str):
        raise DatasetError(str(path), expected="root: a path", got=repr(root)[:80], fix=_WRITE)
    return path.parent / root


def described_classes(data: Mapping[str, Any], present: ClassTable, where: str) -> ClassTable:
    """Class table of a description.

    Args:
        data: content of dataset.json.
        present: classes of the labels.
        where: name of the file, for messages.

    Raises:
        DatasetError: a key is missing or malformed, or the classes are not those of the labels.
    """
    report_unknown(where, data, _KNOWN)
    classes, things, palette = (data.get(key) for key in (*_KEYS, "palette"))
    if not isinstance(things, list) or not all(isinstance(thing, str) for thing in things):
        raise DatasetError(
            where, expected="things: a list of class names", got=repr(things)[:200], fix=_WRITE
        )
    if classes is not None and classes != list(present.names):
        raise DatasetError(
            where, expected=f"the classes of the labels: {list(present.names)}", got=classes, fix=_WRITE
        )
    try:
        table = chosen_things(present, things, None)
        if palette is None:
            return table
        return replace(table, palette=tuple((_level(r), _level(g), _level(b)) for r, g, b in palette))
    except (TypeError, ValueError, OverflowError, InvalidInput, UsageError) as error:
        raise DatasetError(where, expected="classes, things and palette", got=error, fix=_WRITE) from error


def _level(value: object) -> int:
    return whole_number(value, "a color of palette")


def chosen_things(
    classes: ClassTable, things: Sequence[str] | None, stuff: Sequence[str] | None
) -> ClassTable:
    """The table with other things.

    Args:
        classes: table to change.
        things: names of the things; the others become stuff.
        stuff: names of the stuff; the others stay what they are, unless ``things`` is given too.

    Raises:
        UsageError: a name is not a class, the background is a thing, or a class is in both or neither.
    """
    for name in (*(things or ()), *(stuff or ())):
        if name not in classes.names:
            raise UsageError(
                "things and stuff",
                expected=f"some of the classes {', '.join(classes.names)}",
                got=repr(name),
                fix=suggestion(name, classes.names),
            )
    if any(name.lower() in BACKGROUNDS for name in things or ()):
        raise UsageError("things", expected="classes with instances", got="the background")
    both = sorted({*(things or ())} & {*(stuff or ())})
    if both:
        raise UsageError("things and stuff", expected="each class in one of the two", got=", ".join(both))
    if things is not None and stuff is not None:
        named = {*things, *stuff}
        neither = [n for n in classes.names if n not in named and n.lower() not in BACKGROUNDS]
        if neither:
            raise UsageError(
                "things and stuff",
                expected="every class in one of the two, or only one of the two",
                got=f"in neither: {', '.join(neither)}",
            )
    if things is None:
        things = [classes.names[t] for t in classes.things if classes.names[t] not in (stuff or ())]
    return replace(classes, things=tuple(i for i, name in enumerate(classes.names) if name in things))


def write_description(path: Path, root: Path, layout: str, classes: ClassTable) -> Path:
    """Write a dataset.json. Of an existing one, everything but classes and things is kept.

    Args:
        path: file to write.
        root: folder of the dataset.
        layout: its layout; index PNGs have none in the file.
        classes: table of its classes.

    Raises:
        OutputError: the file exists and is not a dataset.json, or cannot be written.
    """
    data: dict[str, Any] = {}
    source = path if path.exists() else root / FILE
    if source.exists():
        try:
            data = read_description(source)
        except DatasetError:
            data = {}
        if source == path and not all(key in data for key in _KEYS):
            raise OutputError(
                f"{path} exists",
                expected=f"a new file, or a {FILE}",
                got="another file",
                fix="choose another",
            )
    data = {key: value for key, value in data.items() if key != "root"}
    if layout != "index-png":
        data["layout"] = layout
    data["classes"] = list(classes.names)
    data["things"] = [classes.names[thing] for thing in classes.things]
    palette = data.get("palette")
    if not isinstance(palette, list) or len(palette) != len(classes):
        data["palette"] = [list(color) for color in classes.palette]
    if resolved(path).parent != resolved(root):
        data["root"] = str(resolved(root))
    text = json.dumps(data, indent=2, ensure_ascii=False) + "\n"
    # A folder whose name is not UTF-8 has lone surrogates; JSON has the same escape sequences as Python.
    return write_atomically(path, text.encode("utf-8", "backslashreplace"))
