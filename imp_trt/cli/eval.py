# SPDX-License-Identifier: Apache-2.0
"""imp-eval: evaluate a checkpoint or an artifact on a labeled dataset, optionally against a baseline."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from imp_trt.cli.common import Progress, add_deprecated, command_parser, positive, run_command, threads
from imp_trt.cli.outputs import attempt_all, reject_input, reject_labeled
from imp_trt.cli.printing import print_json, print_lines, say, say_padding
from imp_trt.errors import DatasetError, UsageError

if TYPE_CHECKING:
    from imp_trt.data.dataset import Dataset
    from imp_trt.segmenter import Segmenter
    from imp_trt.train.report.example_images import ImageRow
    from imp_trt.train.report.tables import Scored

EXAMPLES = """examples:
  imp-eval model.safetensors --data scenes
  imp-eval model.fp32.onnx --data camvid:/data/camvid --json
  imp-eval imp.safetensors --baseline plain.safetensors --data camvid:/data/camvid --report camvid.html

The baseline is another model for the same data, such as the one of imp-train --with-baseline."""

NUM_IMAGES = 6
_LOWEST_SCORES = {"instances": 0.05, "panoptic": 0.5}
"""Metric -> lowest score of the instances that it usually counts."""


def main(argv: list[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    options = parser().parse_args(argv)
    return run_command(lambda: _evaluate(options), verbose=options.verbose, quiet=options.quiet)


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    from imp_trt.train.datasets import NAMES

    p = command_parser(
        "imp-eval",
        "Evaluate a checkpoint or an artifact on a labeled dataset, optionally against a baseline.",
        EXAMPLES,
    )
    p.add_argument("model", type=Path, help="checkpoint (.safetensors, .pt) or artifact (.onnx, .engine)")
    p.add_argument("--baseline", type=Path, metavar="MODEL", help="model to compare with")
    p.add_argument("--data", required=True, help=f"dataset: {NAMES}")
    p.add_argument("--split", default="val", help="split to evaluate on (default: val)")
    metrics = p.add_argument(
        "--metrics",
        nargs="+",
        metavar="NAME",
        help="semantic, boundary, instances, panoptic (default: all that the model supports)",
    )
    p.add_argument("--report", type=Path, metavar="FILE.html", help="write an HTML report, a single file")
    image_grid = p.add_argument(
        "--image-grid",
        type=Path,
        metavar="FILE.png",
        help="write the example images of the report as one PNG",
    )
    num_images = p.add_argument(
        "--num-images",
        type=_non_negative,
        metavar="N",
        help=f"number of example images in report and image grid (default: {NUM_IMAGES})",
    )
    p.add_argument(
        "--image-counts",
        type=Path,
        metavar="FILE.json",
        help="write the pixels of each image: of each class, predicted as it, and both",
    )
    max_images = p.add_argument(
        "--max-images", type=positive, metavar="N", help="evaluate the first N images only"
    )
    p.add_argument(
        "--threads",
        type=threads,
        metavar="N",
        help="CPU threads of the network (default: one per physical core)",
    )
    for flag, replacement in (
        ("--measure", metrics),
        ("--sheet", image_grid),
        ("--pictures", num_images),
        ("--limit", max_images),
    ):
        add_deprecated(p, flag, replacement)
    return p


def _evaluate(options: argparse.Namespace) -> int:
    from contextlib import ExitStack

    from imp_trt.preprocessing.letterbox import LetterboxTransform
    from imp_trt.segmenter import Segmenter
    from imp_trt.train.datasets import open_dataset
    from imp_trt.train.evaluation import require_same_classes

    _check_outputs(options)
    if options.num_images is None:
        options.num_images = NUM_IMAGES
    dataset = open_dataset(options.data, options.split)
    if dataset.terms and not options.quiet:
        say(f"license terms of the data: {dataset.terms}")
    for flag, output in (
        ("--image-grid", options.image_grid),
        ("--report", options.report),
        ("--image-counts", options.image_counts),
    ):
        if output:
            reject_labeled(flag, output, dataset, _root(options.data))
    paths = [p for p in (options.baseline, options.model) if p is not None]
    with ExitStack() as stack:
        models: list[tuple[str, Segmenter]] = []
        for name, path in zip(_names(paths), paths, strict=True):
            segmenter = stack.enter_context(Segmenter(path, threads=options.threads))
            require_same_classes(f"classes of {path}", segmenter.classes, dataset.classes)
            _check_measures(path, segmenter, options.metrics or ())
            _say_score_threshold(path, segmenter, options.metrics)
            models.append((name, segmenter))
        if not options.quiet:
            say_padding(LetterboxTransform.of(dataset[0].size, models[-1][1].manifest.input))
        scored, image_scores = [], []
        for (name, segmenter), path in zip(models, paths, strict=True):
            evaluated, scores = _score(name, path, segmenter, dataset, options)
            scored.append(evaluated)
            image_scores.append(scores)
        attempt_all(
            partial(_write, options, scored, dataset, models, image_scores),
            partial(_print, options, scored),
        )
    return 0


def _print(options: argparse.Namespace, scored: list[Scored]) -> None:
    from imp_trt.metrics import bootstrap_differences
    from imp_trt.train.report.tables import tables

    if options.json:
        plain = {"model": str(options.model), **scored[-1].evaluation.to_dict()}
        if options.baseline:
            baseline, model = (s.evaluation.semantic for s in scored)
            plain["baseline"] = {"model": str(options.baseline), **scored[0].evaluation.to_dict()}
            plain["difference"] = {k: v.to_dict() for k, v in bootstrap_differences(model, baseline).items()}
        print_json(plain)
    else:
        print_lines("\n\n".join(table.text() for table in tables(scored)))


def _root(data: str) -> Path | None:
    """Folder of a dataset; None for scenes."""
    from imp_trt.train.datasets.registry import find_layout

    if data.partition(":")[0] != "scenes":
        with suppress(DatasetError):  # of a layout that only its prefix opens
            return find_layout(data).root
    return None


def _check_outputs(options: argparse.Namespace) -> None:
    from imp_trt.artifacts.artifact import manifest_path
    from imp_trt.train.report.page import require_packages

    if options.image_grid:
        if options.image_grid.suffix.lower() != ".png":
            raise UsageError("--image-grid", expected="a file that ends in .png", got=str(options.image_grid))
        if options.num_images == 0:
            raise UsageError("--image-grid", expected="--num-images of at least 1", got="--num-images 0")
    if options.report:
        if options.report.suffix.lower() not in (".html", ".htm"):
            raise UsageError("--report", expected="a file that ends in .html", got=str(options.report))
        require_packages()
    if options.image_counts:
        if options.image_counts.suffix.lower() != ".json":
            raise UsageError(
                "--image-counts", expected="a file that ends in .json", got=str(options.image_counts)
            )
        manifests = [manifest_path(p) for p in (options.model, options.baseline) if p is not None]
        annotations = options.data.partition(":")[2].split(",")
        reject_input("--image-counts", options.image_counts, [*manifests, *annotations])
    if options.num_images is not None and not (options.report or options.image_grid):
        raise UsageError(
            f"--num-images {options.num_images}",
            expected="--report or --image-grid, which show the example images",
            got="neither",
            fix="--max-images N evaluates the first N images only",
        )


def _score(
    name: str, path: Path, segmenter: Segmenter, dataset: Dataset, options: argparse.Namespace
) -> tuple[Scored, list[float]]:
    """Evaluate a model; returns the evaluation, and a score of each image."""
    from imp_trt.train.evaluation import evaluate, no_labels, possible_metrics
    from imp_trt.train.report.example_images import ImageScores
    from imp_trt.train.report.tables import Scored

    measures = options.metrics or possible_metrics(segmenter.manifest)
    progress = Progress(
        f"imp-eval {name}", min(len(dataset), options.max_images or len(dataset)), quiet=options.quiet
    )
    each = ImageScores(segmenter.run, dataset)

    def image_done(finished: int) -> None:
        if options.num_images and (options.report or options.image_grid):
            each.image_done(finished)
        progress.update(finished)

    evaluation = evaluate(each.predict, dataset, measures, options.max_images, image_done)
    progress.close()
    if math.isnan(evaluation.semantic.pixel_accuracy):
        raise no_labels(dataset, evaluation.images)
    return Scored(name, str(path), evaluation), each.scores


def _example_images(
    dataset: Dataset, models: list[tuple[str, Segmenter]], image_scores: list[list[float]], count: int
) -> list[ImageRow]:
    from imp_trt.train.evaluation import possible_metrics
    from imp_trt.train.report.example_images import image_row, telling

    if not count:
        return []
    predictors = [(name, segmenter.run) for name, segmenter in models]
    detects = "instances" in possible_metrics(models[-1][1].manifest)
    return [
        image_row(dataset, index, predictors, [scores[index] for scores in image_scores], instances=detects)
        for index in telling(image_scores, count)
    ]


def _write(
    options: argparse.Namespace,
    scored: list[Scored],
    dataset: Dataset,
    models: list[tuple[str, Segmenter]],
    image_scores: list[list[float]],
) -> None:
    """Write the image counts, the image grid and the report, if they are requested."""
    writes = []
    if options.image_counts:
        writes.append(partial(_write_image_counts, options.image_counts, scored, dataset))
    rows = []
    if options.report or options.image_grid:
        rows = _example_images(dataset, models, image_scores, options.num_images)
    if options.image_grid:
        writes.append(partial(_write_image_grid, options.image_grid, dataset, rows))
    if options.report:
        writes.append(partial(_write_report, options, scored, dataset, models, rows))
    attempt_all(*writes)


def _write_image_counts(path: Path, scored: list[Scored], dataset: Dataset) -> None:
    import json

    from imp_trt.data.files import write_atomically

    counts = {
        name: {"path": one.model, "counts": one.evaluation.semantic.image_counts.tolist()}
        for name, one in zip(("model", "baseline"), reversed(scored), strict=False)
        if one.evaluation.semantic.image_counts is not None
    }
    data = {"data": dataset.name, "classes": dataset.classes.to_dict(), **counts}
    say(f"image counts: {write_atomically(path, json.dumps(data).encode())}")


def _write_image_grid(path: Path, dataset: Dataset, rows: list[ImageRow]) -> None:
    from imp_trt.train.report.example_images import write_sheet

    say(f"image grid: {write_sheet(path, rows, dataset.classes)}")


def _write_report(
    options: argparse.Namespace,
    scored: list[Scored],
    dataset: Dataset,
    models: list[tuple[str, Segmenter]],
    rows: list[ImageRow],
) -> None:
    from imp_trt.train.report.curves import training_curves
    from imp_trt.train.report.page import write_report

    places = {name: _machine(segmenter, options.threads) for name, segmenter in models}
    machine = ", ".join(f"{place} ({name})" for name, place in places.items())
    if len(set(places.values())) == 1:
        machine = next(iter(places.values()))
    curves = training_curves([(s.name, Path(s.model)) for s in scored])
    path = write_report(
        options.report, scored, machine=machine, terms=dataset.terms, images=rows, curves=curves
    )
    say(f"report: {path}")


def _machine(segmenter: Segmenter, threads: int | None) -> str:
    """What a model runs on, for the report."""
    from imp_trt.benchmark.machine import describe
    from imp_trt.benchmark.run import backend_of, gpu_of

    gpu = gpu_of(segmenter.manifest, None)
    info = describe(backend_of(segmenter.manifest), threads, gpu)
    used = f"{threads} of its" if threads else "its"
    cpu = f"{info['cpu']} with {used} {info['cpus']} CPUs"
    if gpu is None:
        return cpu
    return f"{info['gpu']['name'] if info['gpu'] else 'a GPU'} in a machine with {info['cpus']} CPUs"


def _check_measures(path: Path, segmenter: Segmenter, measures: Sequence[str]) -> None:
    from imp_trt.train.evaluation import METRICS, possible_metrics

    unknown = sorted(set(measures) - set(METRICS))
    if unknown:
        raise UsageError("--metrics", expected=f"some of {', '.join(METRICS)}", got=", ".join(unknown))
    possible = possible_metrics(segmenter.manifest)
    if not set(measures) <= set(possible):
        raise UsageError(
            f"--metrics for {path}, which has no detector",
            expected=f"some of {', '.join(possible)}",
            got=", ".join(measures),
        )


def _say_score_threshold(path: Path, segmenter: Segmenter, measures: Sequence[str] | None) -> None:
    """Print a note if the network leaves out instances that a metric counts in other networks."""
    threshold = segmenter.manifest.score_threshold or 0
    for name, usual in _LOWEST_SCORES.items():
        if (measures is None or name in measures) and threshold > usual:
            say(
                f"note: {path} leaves out instances with scores below {threshold:g}; the metric {name} "
                f"usually counts them from {usual:g} up, and may be lower for it"
            )


def _names(paths: list[Path]) -> list[str]:
    """Return short names for headings: the names of the files, or of their folders if these are equal."""
    from imp_trt.data.files import resolved

    for names in ([p.stem for p in paths], [resolved(p).parent.name for p in paths]):
        if len(set(names)) == len(names):
            return names
    return ["baseline", "model"][-len(paths) :]


def _non_negative(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text} is negative")
    return value


if __name__ == "__main__":
    raise SystemExit(main())
