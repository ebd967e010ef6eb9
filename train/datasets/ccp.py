# SPDX-License-Identifier: Apache-2.0
"""Clothing Co-Parsing: index PNGs with 59 labels, which are merged to groups on loading.

``groups.json`` in the folder defines the groups::

    {"group_names": ["background", "skin", ...],   the classes
     "things": [3, 4, ...],                        the classes with instances
     "native_to_group": [0, 17, 11, ...]}          class index of label value 0, 1, 2, ...
"""

from __future__ import annotations

from pathlib import Path

from imp_trt.classes import ClassTable, default_palette
from imp_trt.errors import DatasetError, InvalidInput
from imp_trt.train.datasets.index_png import LAYOUT, IndexPngSpec
from imp_trt.train.datasets.label_values import class_names, report_unknown, whole_number
from imp_trt.train.datasets.reading import need_folder, read_json

TERMS = (
    "Clothing Co-Parsing (Yang, Luo, Lin, CVPR 2014): photos of identifiable people, research use only, "
    "do not publish the photos"
)
SOURCE = (
    "download the data from https://github.com/bearpaw/clothing-co-parsing (research use), write its label "
    "maps as 8-bit PNGs, and add train.txt, val.txt and groups.json"
)

_KEYS = ("group_names", "things", "native_to_group")


def ccp_spec(root: str | Path) -> IndexPngSpec:
    """Clothing Co-Parsing with the groups of the folder's ``groups.json``.

    Photo 0536 is excluded: its label map is empty.

    Raises:
        DatasetError: the folder or ``groups.json`` is missing, or the file is malformed.
    """
    need_folder(Path(root), f"{LAYOUT}, groups.json", SOURCE)
    path = Path(root) / "groups.json"
    data = read_json(path, "group_names, things and native_to_group", SOURCE)
    try:
        lists = [data[key] for key in _KEYS]
        if not all(isinstance(value, list) for value in lists):
            raise TypeError("not three lists")
        names = class_names(lists[0], str(path))
        things, native = (tuple(whole_number(label, "a class") for label in value) for value in lists[1:])
        classes = ClassTable(names, things, default_palette(len(names)))
        report_unknown(str(path), data, _KEYS)
    except (KeyError, TypeError, ValueError, InvalidInput) as error:
        raise DatasetError(
            str(path), expected="group_names, things and native_to_group", got=repr(error)
        ) from error
    return IndexPngSpec(
        "ccp", classes, native, exclude=frozenset({"images/0536.jpg"}), terms=TERMS, source=SOURCE
    )
