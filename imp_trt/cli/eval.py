"""imp-eval: score a checkpoint or an artifact on a labeled data set, alone or against a baseline."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from imp_trt.cli.common import (
    Progress,
    command_parser,
    positive,
    print_json,
    run_command,
    say,
    say_padding,
)
from imp_trt.errors import UsageError

if TYPE_CHECKING:
    from imp_trt.data.dataset import Dataset
    from imp_trt.segmenter import Segmenter
    from imp_trt.train.report.pictures import PictureRow
    from imp_trt.train.report.tables import Scored

EXAMPLES = """examples:
  imp-eval model.safetensors --data scenes
  imp-eval model.fp32.onnx --data camvid:/data/camvid --json
  imp-eval imp.safetensors --baseline plain.safetensors --data camvid:/data/camvid --report camvid.html

The baseline is another model of the same data, such as imp-train --pair's control without IMP."""


def main(argv: list[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    options = parser().parse_args(argv)
    return run_command(lambda: _evaluate(options), verbose=options.verbose, quiet=options.quiet)


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    from imp_trt.train.datasets import NAMES

    p = command_parser("imp-eval", __doc__ or "", EXAMPLES)
    p.add_argument("model", type=Path, help="checkpoint (.safetensors, .pt) or artifact (.onnx, .engine)")
    p.add_argument("--baseline", type=Path, help="another model of the same data, to compare with")
    p.add_argument("--data", required=True, help=NAMES)
    p.add_argument("--split", default="val", help="list of the data set to score (val)")
    p.add_argument(
        "--measure",
        nargs="+",
        metavar="NAME",
        help="semantic, boundary, instances, panoptic (all that the model allows)",
    )
    p.add_argument("--report", type=Path, metavar="FILE.html", help="also write a page, in one file")
    p.add_argument("--sheet", type=Path, metavar="FILE.png", help="also write the page's pictures as one PNG")
    p.add_argument("--pictures", type=_pictures, default=6, help="pictures on both (6), 0 for none")
    p.add_argument("--limit", type=positive, help="only the first so many pictures")
    p.add_argument("--threads", type=positive, help="CPU threads of the backend")
    return p


def _evaluate(options: argparse.Namespace) -> int:
    from contextlib import ExitStack

    from imp_trt.preprocessing.letterbox import LetterboxTransform
    from imp_trt.segmenter import Segmenter
    from imp_trt.train.datasets import open_dataset
    from imp_trt.train.evaluation import require_same_classes
    from imp_trt.train.report.tables import tables

    _check_outputs(options)
    dataset = open_dataset(options.data, options.split)
    if dataset.terms and not options.quiet:
        say(f"terms of the data: {dataset.terms}")
    paths = [p for p in (options.baseline, options.model) if p is not None]
    with ExitStack() as stack:
        models: list[tuple[str, Segmenter]] = []
        for name, path in zip(_names(paths), paths, strict=True):
            segmenter = stack.enter_context(Segmenter(path, threads=options.threads))
            require_same_classes(f"classes of {path}", segmenter.classes, dataset.classes)
            _check_measures(path, segmenter, options.measure or ())
            models.append((name, segmenter))
        if not options.quiet:
            say_padding(LetterboxTransform.of(dataset[0].size, models[-1][1].manifest.input))
        scored, by_picture = [], []
        for (name, segmenter), path in zip(models, paths, strict=True):
            found, scores = _score(name, path, segmenter, dataset, options)
            scored.append(found)
            by_picture.append(scores)
        if options.report or options.sheet:
            rows = _pictures_of(dataset, models, by_picture, options.pictures)
            _write(options, scored, dataset, rows)
    if options.json:
        plain = {"model": str(options.model), **scored[-1].evaluation.to_dict()}
        if options.baseline:
            plain["baseline"] = {"model": str(options.baseline), **scored[0].evaluation.to_dict()}
        print_json(plain)
    else:
        print("\n\n".join(table.text() for table in tables(scored)))
    return 0


def _check_outputs(options: argparse.Namespace) -> None:
    from imp_trt.train.report.page import require_packages

    if options.sheet:
        if options.sheet.suffix.lower() != ".png":
            raise UsageError("--sheet", expected="a file that ends in .png", got=str(options.sheet))
        if not options.pictures:
            raise UsageError("--sheet", expected="one picture or more (--pictures)", got="--pictures 0")
    if options.report:
        if options.report.suffix.lower() not in (".html", ".htm"):
            raise UsageError("--report", expected="a file that ends in .html", got=str(options.report))
        require_packages()


def _score(
    name: str, path: Path, segmenter: Segmenter, dataset: Dataset, options: argparse.Namespace
) -> tuple[Scored, list[float]]:
    """The model's evaluation, and the score of each picture by itself."""
    from imp_trt.train.evaluation import evaluate, measurable
    from imp_trt.train.report.pictures import PictureScores
    from imp_trt.train.report.tables import Scored

    measures = options.measure or measurable(segmenter.manifest)
    progress = Progress(
        f"imp-eval {name}", min(len(dataset), options.limit or len(dataset)), quiet=options.quiet
    )
    each = PictureScores(segmenter.run, dataset)

    def picture_done(finished: int) -> None:
        if options.pictures and (options.report or options.sheet):
            each.picture_done(finished)
        progress.update(finished)

    evaluation = evaluate(each.predict, dataset, measures, options.limit, picture_done)
    progress.close()
    return Scored(name, str(path), evaluation), each.scores


def _pictures_of(
    dataset: Dataset, models: list[tuple[str, Segmenter]], by_picture: list[list[float]], count: int
) -> list[PictureRow]:
    from imp_trt.train.report.pictures import picture_row, telling

    if not count:
        return []
    predictors = [(name, segmenter.run) for name, segmenter in models]
    return [
        picture_row(dataset, index, predictors, [scores[index] for scores in by_picture])
        for index in telling(by_picture, count)
    ]


def _write(
    options: argparse.Namespace, scored: list[Scored], dataset: Dataset, rows: list[PictureRow]
) -> None:
    from imp_trt.cuda.platform import cpu_model, usable_cpus
    from imp_trt.train.report.page import write_report
    from imp_trt.train.report.pictures import write_sheet

    if options.sheet:
        say(f"sheet: {write_sheet(options.sheet, rows, dataset.classes)}")
    if not options.report:
        return
    threads = f"{options.threads} of its" if options.threads else "its"
    machine = f"{cpu_model()} with {threads} {usable_cpus()} CPUs"
    path = write_report(options.report, scored, machine=machine, terms=dataset.terms, pictures=rows)
    say(f"report: {path}")


def _check_measures(path: Path, segmenter: Segmenter, measures: Sequence[str]) -> None:
    from imp_trt.train.evaluation import measurable

    possible = measurable(segmenter.manifest)
    if not set(measures) <= set(possible):
        raise UsageError(
            f"--measure for {path}, which has no detector",
            expected=f"some of {', '.join(possible)}",
            got=", ".join(measures),
        )


def _names(paths: list[Path]) -> list[str]:
    """Short names for headings: the files', or their folders' where the files are called the same."""
    for names in ([p.stem for p in paths], [p.resolve().parent.name for p in paths]):
        if len(set(names)) == len(names):
            return names
    return ["baseline", "model"][-len(paths) :]


def _pictures(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text} is negative")
    return value


if __name__ == "__main__":
    raise SystemExit(main())
