# SPDX-License-Identifier: Apache-2.0
"""imp-data: say what a dataset contains, check all of its labels, and choose its things and stuff."""

from __future__ import annotations

import argparse
import unicodedata
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from imp_trt.classes import IGNORE_INDEX
from imp_trt.cli.common import EXIT_USAGE, Progress, command_parser, positive, run_command
from imp_trt.cli.outputs import attempt_all, reject_labeled
from imp_trt.cli.printing import print_json, print_line, say
from imp_trt.errors import DatasetError, UsageError, printable

if TYPE_CHECKING:
    from imp_trt.classes import ClassTable
    from imp_trt.train.datasets.layouts import Layout
    from imp_trt.train.datasets.overview import Fault, SplitOverview
    from imp_trt.train.datasets.view import FileDataset

EXAMPLES = """examples:
  imp-data export/
  imp-data export/ --samples labels.png
  imp-data export/ --stuff road,sky -o export/dataset.json
  imp-train --data export/ --recipe camvid -o runs/mine

The exit code is 2 if a label cannot be used."""

SAMPLES = 10
DESCRIBED = ("coco", "voc", "yolo", "cityscapes", "modanet", "ccp", "index-png")
"""Layouts whose things a dataset.json can choose."""

_MAX_FAULTS = 20


def main(argv: list[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    options = parser().parse_args(argv)
    return run_command(lambda: _run(options), verbose=options.verbose, quiet=options.quiet)


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    p = command_parser(
        "imp-data",
        "Report what a folder of labeled images contains, and check its labels.",
        EXAMPLES,
        may_be_empty=("--things", "--stuff"),  # no class
    )
    p.add_argument(
        "folder",
        metavar="FOLDER",
        help="dataset, as for imp-train --data: a folder, a dataset.json that names its folder, or NAME:DIR",
    )
    p.add_argument(
        "--split", action="append", metavar="NAME", help="split to read; can be repeated (default: all)"
    )
    p.add_argument(
        "--things",
        action="append",
        metavar="A,B",
        help="classes with instances; all others are stuff; can be repeated (default: as labeled)",
    )
    p.add_argument(
        "--stuff",
        action="append",
        metavar="A,B",
        help="classes without instances; all others stay what they are; can be repeated",
    )
    p.add_argument(
        "-o", "--output", type=Path, metavar="dataset.json", help="write things and stuff for imp-train"
    )
    p.add_argument(
        "--samples",
        type=Path,
        metavar="FILE.png",
        help=f"draw the labels of {SAMPLES} images of the first split",
    )
    p.add_argument(
        "--max-images", type=positive, metavar="N", help="read the first N images of each split only"
    )
    return p


def _run(options: argparse.Namespace) -> int:
    from imp_trt.train.datasets.overview import class_faults
    from imp_trt.train.datasets.registry import find_layout

    if options.samples and options.samples.suffix.lower() != ".png":
        raise UsageError("--samples", expected="a file that ends in .png", got=str(options.samples))
    if options.output and options.output.suffix.lower() != ".json":
        raise UsageError("-o", expected="a file that ends in .json", got=str(options.output))
    layout = find_layout(options.folder)
    if options.output and not (layout.kind in DESCRIBED and layout.is_folder):
        got = layout.title if layout.is_folder else options.folder
        raise UsageError("-o", expected=f"a folder of one of {', '.join(DESCRIBED)}", got=got)
    if options.things is not None or options.stuff is not None:
        layout = replace(layout, description=None)  # its things are chosen anew
    opened, faults = _opened(layout, options.split or layout.splits)
    first = next(iter(opened.values()))
    if options.samples:
        reject_labeled("--samples", options.samples, first, layout.root)
    faults += class_faults({split: dataset.classes for split, dataset in opened.items()})
    classes = _chosen(first.classes, options)
    datasets = {
        split: _with_classes(dataset, classes)
        for split, dataset in opened.items()
        if dataset.classes.names == classes.names
    }
    reports = _reports(layout, datasets, options)
    all_faults = faults + [fault for report in reports for fault in report.faults]
    attempt_all(
        partial(_write_description, options.output, layout, classes),
        partial(_write_samples, options.samples, next(iter(datasets.values())), classes),
        partial(_print, options.json, layout, classes, reports, faults),
        partial(_say_faults, all_faults),
    )
    return EXIT_USAGE if all_faults else 0


def _opened(layout: Layout, splits: Sequence[str]) -> tuple[dict[str, FileDataset], list[Fault]]:
    """The splits that can be opened, and why others cannot.

    Raises:
        DatasetError: none can be opened.
    """
    opened: dict[str, FileDataset] = {}
    faults: list[Fault] = []
    failure: DatasetError | None = None
    for split in splits:
        try:
            opened[split] = layout.open(split)
        except DatasetError as error:
            failure = failure or error
            faults.append((split, str(error)))
    if not opened and failure is not None:
        raise failure
    return opened, faults


def _chosen(classes: ClassTable, options: argparse.Namespace) -> ClassTable:
    from imp_trt.train.datasets.description import chosen_things

    if options.things is None and options.stuff is None:
        return classes
    things, stuff = (_names(texts, classes) for texts in (options.things, options.stuff))
    return chosen_things(classes, things, stuff)


def _names(texts: list[str] | None, classes: ClassTable) -> list[str] | None:
    """Names in lists separated by commas; a class with commas in its name is found before its parts."""
    if texts is None:
        return None
    known = {_typed(name): name for name in classes.names} | {name: name for name in classes.names}
    found = []
    for text in texts:
        parts = text.split(",")
        while parts:
            names = [(",".join(parts[:count]), count) for count in range(len(parts), 0, -1)]
            name, count = next(((n, c) for n, c in names if _typed(n) in known), names[-1])
            found.append(known.get(name, known.get(_typed(name), name.strip())))
            parts = parts[count:]
    return [name for name in found if name]


def _typed(name: str) -> str:
    """A name as a keyboard gives it: files have accents as characters of their own too."""
    return unicodedata.normalize("NFC", name.strip())


def _with_classes(dataset: FileDataset, classes: ClassTable) -> FileDataset:
    from imp_trt.train.datasets.view import DatasetView

    return dataset if dataset.classes == classes else DatasetView(dataset, classes=classes)


def _reports(
    layout: Layout, datasets: dict[str, FileDataset], options: argparse.Namespace
) -> list[SplitOverview]:
    """Read every split."""
    from imp_trt.train.datasets.copies import shared_images
    from imp_trt.train.datasets.overview import image_files, overview, unlisted

    files = {split: image_files(dataset) for split, dataset in datasets.items()}
    reports: list[SplitOverview] = []
    for split, dataset in datasets.items():
        total = min(len(dataset), options.max_images or len(dataset))
        progress = Progress(f"imp-data {split}", total, quiet=options.quiet)
        report = overview(dataset, split, options.max_images, progress.update)
        progress.close()
        if set(datasets) == set(layout.splits):  # images of a split that was not opened are listed there
            report.unlisted = unlisted(files[split], set().union(*files.values()))
        shared = {other: len(shared_images(files[split], files[other])) for other in files if other != split}
        report.shared = {other: count for other, count in shared.items() if count}
        if layout.divides and reports:  # both read the same labels
            report.dropped, report.unlisted = {}, []
        reports.append(report)
    return reports


def _write_description(path: Path | None, layout: Layout, classes: ClassTable) -> None:
    from imp_trt.train.datasets.description import write_description

    if path is not None:
        say(f"written: {write_description(path, layout.root, layout.kind, classes)}")


def _write_samples(path: Path | None, dataset: FileDataset, classes: ClassTable) -> None:
    from imp_trt.train.datasets.samples import write_samples

    if path is None:
        return
    samples = []
    for index in range(0, len(dataset), max(1, len(dataset) // SAMPLES)):
        with suppress(DatasetError):  # reported as a fault
            samples.append(dataset[index])
        if len(samples) == SAMPLES:
            break
    if samples:
        say(f"samples: {write_samples(path, samples, classes)}")


def _print(
    as_json: bool, layout: Layout, classes: ClassTable, reports: list[SplitOverview], faults: list[Fault]
) -> None:
    if as_json:
        print_json(_plain(layout, classes, reports, faults))
    else:
        for line in _lines(layout, classes, reports):
            print_line(line)


def _say_faults(faults: list[Fault]) -> None:
    for where, message in faults[:_MAX_FAULTS]:
        say(f"fault: {where}: {message}")
    if faults:
        say(f"{len(faults)} faults; correct them before training")


def _plain(
    layout: Layout, classes: ClassTable, reports: list[SplitOverview], faults: list[Fault]
) -> dict[str, object]:
    return {
        "folder": str(layout.root),
        "layout": layout.kind,
        "description": layout.title,
        "divided": layout.divides,
        "classes": list(classes.names),
        "things": [classes.names[thing] for thing in classes.things],
        "stuff": [classes.names[label] for label in classes.stuff],
        "splits": {report.name: report.to_dict(classes) for report in reports},
        "faults": [{"where": where, "message": message} for where, message in faults],
    }


def _lines(layout: Layout, classes: ClassTable, reports: list[SplitOverview]) -> list[str]:
    lines = [f"{layout.root}: {layout.title}"]
    if layout.divides:
        lines.append("no splits: divided into train and val by file names")
    lines.append(f"things: {_listed(classes.names[thing] for thing in classes.things)}")
    lines.append(f"stuff: {_listed(classes.names[label] for label in classes.stuff)}")
    for report in reports:
        lines += ["", *_split_lines(report)]
    return [*lines, "", *_class_lines(classes, reports)]


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names) or "none"


def _split_lines(report: SplitOverview) -> list[str]:
    from imp_trt.train.datasets.dropped import named

    sizes = named(f"{n} of {width}x{height}" for (height, width), n in report.sizes.most_common())
    part = f", the first {report.read} of which are read" if report.read < report.images else ""
    images, objects = _count(report.images, "image"), _count(sum(report.objects.values()), "object")
    lines = [f"{report.name}: {images}{part}, {objects}; {sizes}"]
    for names, what in (
        (report.unlabeled, "images without labels"),
        (report.without_objects, "images without objects"),
        (report.unlisted, "image files that no label mentions"),
    ):
        if names:
            lines.append(f"  {len(names)} {what}: {named(names)}")
    lines += [f"  {_count(n, 'image')} also in {other}" for other, n in report.shared.items()]
    lines += [f"  {_count(n, 'object')} dropped: {reason}" for reason, n in report.dropped.items()]
    if report.hidden:
        lines.append(f"  {_count(report.hidden, 'object')} hidden by others, or without a pixel")
    if report.crowds:
        lines.append(f"  {_count(report.crowds, 'crowd')}")
    if report.faults:
        lines.append(f"  {_count(len(report.faults), 'image')} cannot be used")
    return lines


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _class_lines(classes: ClassTable, reports: list[SplitOverview]) -> list[str]:
    """Share of the pixels and number of objects, by class and split."""
    width = max(len("ignored"), *(len(printable(name)) for name in classes.names))
    head = "".join(f"{report.name[:10]:>12} %{'objects':>9}" for report in reports)
    lines = [f"{'class':<{width}}  kind {head}"]
    rows = [(name, "thing" if k in classes.things else "stuff", k) for k, name in enumerate(classes.names)]
    for name, kind, label in (*rows, ("ignored", "", IGNORE_INDEX)):
        line = f"{printable(name):<{width}}  {kind:<5}"
        for report in reports:
            total = sum(report.pixels.values()) or 1
            objects = report.objects[label] if kind == "thing" else ""
            line += f"{100 * report.pixels[label] / total:>14.2f}{objects:>9}"
        lines.append(line.rstrip())
    return lines


if __name__ == "__main__":
    raise SystemExit(main())
