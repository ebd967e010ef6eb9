# SPDX-License-Identifier: Apache-2.0
"""The paper's ablation on a dataset, cell by cell, and the page generated from its results."""

from __future__ import annotations

import argparse
import shlex
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from imp_trt.cli.common import command_parser, positive, run_command, seconds
from imp_trt.cli.printing import print_json, say
from imp_trt.errors import UsageError

if TYPE_CHECKING:
    from research.ablation.cells import Cell
    from research.ablation.experiment import Experiment
    from research.ablation.schedule import Outcome

COMMAND = "python -m research.ablation"

EXAMPLES = """examples:
  python -m research.ablation --data scenes --recipe scenes-short --input-size 256 512 \\
      -o runs/ablation --budget 90m
  python -m research.ablation --data camvid:/data/camvid --recipe camvid-pretrained --input-size 384 512 \\
      --backbone efficientnet_lite0 --anchor-scales 1 1.41 -o runs/pretrained --budget 2h
  python -m research.ablation --data ccp:/data/ccp --recipe ccp-short --input-size 512 352 \\
      -o runs/ablation --list
  python -m research.ablation --data ccp:/data/ccp --recipe ccp-short --input-size 512 352 \\
      -o runs/ablation --time
  python -m research.ablation --results research/ablation/results --page docs/ablation.md

Run it again after an interruption or a spent budget: it continues where it stopped. Several processes may
work in the same folders at the same time; each cell is filled by one of them."""


def main(argv: list[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    options = parser().parse_args(argv)
    return run_command(lambda: _ablation(options), verbose=options.verbose, quiet=options.quiet)


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    p = command_parser(COMMAND, __doc__ or "", EXAMPLES)
    p.add_argument("--results", type=Path, help="folder of the result files (default: OUTPUT/results)")
    p.add_argument("--page", type=Path, help="write this Markdown page and its charts from the result files")
    what = p.add_argument_group("experiment")
    what.add_argument("--data", help="dataset, as for imp-train; without it no cell is run")
    what.add_argument("--splits", nargs=2, default=("train", "val"), metavar=("TRAIN", "VAL"))
    what.add_argument("--recipe", default="scenes-short", help="recipe of every system, as for imp-train")
    what.add_argument(
        "--set", action="append", default=[], metavar="FIELD=VALUE", help="override a field of the recipe"
    )
    what.add_argument("--input-size", type=int, nargs=2, default=(256, 512), metavar=("H", "W"))
    what.add_argument("--systems", nargs="+", metavar="SYSTEM", help="only these systems of the paper")
    what.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="seeds of the headline pair")
    what.add_argument(
        "--variants", nargs="*", metavar="VARIANT", help="only these variants; without names: none"
    )
    what.add_argument(
        "--backbone", default="compact", help="compact, efficientnet_lite0 ... resnet18 ... resnext101_32x8d"
    )
    what.add_argument(
        "--anchor-scales", type=float, nargs="+", metavar="FACTOR", help="anchor scales, as for imp-train"
    )
    what.add_argument(
        "--init", choices=("scratch", "imagenet", "coco"), help="initial weights (default: the recipe's)"
    )
    what.add_argument(
        "--training-images",
        type=positive,
        default=0,
        metavar="N",
        help="also evaluate N training images of each trained cell",
    )
    what.add_argument("--limit", type=positive, metavar="N", help="evaluate only the first N images")
    how = p.add_argument_group("execution")
    how.add_argument("-o", "--output", type=Path, help="folder of checkpoints; an interrupted run resumes")
    how.add_argument(
        "--budget",
        type=partial(seconds, unit="s"),
        metavar="TIME",
        help="stop training after this time: 90m, 2h, 600s",
    )
    how.add_argument("--half", action="store_true", help="store checkpoints as float16")
    how.add_argument("--device", default="cpu", help="cpu, cuda or cuda:<index>")
    how.add_argument("--threads", type=positive, default=1, help="CPU threads of PyTorch (1)")
    how.add_argument("--list", action="store_true", help="only list the cells and whether they have results")
    how.add_argument("--time", action="store_true", help="only time the trained systems")
    return p


def _ablation(options: argparse.Namespace) -> int:
    if options.data is None and options.page is None:
        raise UsageError(COMMAND, expected="--data to run, --page to write, or both", got="neither")
    if options.page is not None:
        from imp_trt.train.report.page import require_packages

        require_packages()
    if options.results is None and options.output is not None:
        options.results = options.output / "results"
    code = 0
    answer: dict[str, object] = {}
    if options.data is not None:
        code = _run(options, answer)
    if options.page is not None and not options.list:
        if options.results is None:
            raise UsageError("--results", expected="the folder of the result files", got="neither it nor -o")
        from research.ablation.page import write_page

        files = write_page(options.results, options.page)
        answer["page"] = [str(path) for path in files]
        if not options.json:
            print(f"wrote {files[0]} and {len(files) - 1} charts")
    if options.json:
        print_json(answer)
    return code


def _run(options: argparse.Namespace, answer: dict[str, object]) -> int:
    started = time.monotonic()
    if options.output is None:
        raise UsageError("-o", expected="a folder for checkpoints", got="none")

    from imp_trt.metrics.instances import coco_package
    from imp_trt.models.presets import SYSTEMS
    from research.ablation.cells import VARIANTS, plan
    from research.ablation.schedule import fill

    cells = plan(
        options.systems or tuple(SYSTEMS),
        options.seeds,
        tuple(VARIANTS) if options.variants is None else options.variants,
    )
    experiment = _experiment(options, started)
    if options.list:
        return _list(cells, experiment, options.json, answer)
    if options.time:
        from research.ablation.timing import time_systems

        path = time_systems(experiment, [c for c in cells if c.variant == "base"])
        answer["timing"] = str(path)
        if not options.json:
            print(f"wrote {path}")
        return 0
    coco_package()
    outcome = fill(cells, experiment.done, experiment.fill, deadline=experiment.deadline)
    return _report(outcome, options.json, answer)


def _experiment(options: argparse.Namespace, started: float) -> Experiment:
    import torch

    from imp_trt.backends.pytorch import choose_device
    from imp_trt.data.dataset import CachedDataset
    from imp_trt.train.datasets import open_dataset
    from imp_trt.train.datasets.registry import without_folder
    from imp_trt.train.recipes import FORMER_SUFFIX, changed, recipe
    from research.ablation.experiment import Experiment

    torch.set_num_threads(options.threads)
    plan = changed(recipe(options.recipe), options.set)
    train, val = (open_dataset(options.data, split) for split in options.splits)
    if train.terms and not options.quiet:
        say(f"license terms of the data: {train.terms}")
    return Experiment(
        train,
        CachedDataset(val),  # every cell evaluates the same images
        # Results of the former recipes have the name that these recipes had then.
        shlex.join([options.recipe.removesuffix(FORMER_SUFFIX), *options.set]),
        plan,
        (options.input_size[0], options.input_size[1]),
        options.output,
        options.results,
        tuple(options.splits),
        without_folder(options.data),
        options.backbone,
        options.init or plan.initial,
        options.half,
        str(choose_device(options.device)),
        options.threads,
        started + options.budget if options.budget else None,
        options.limit,
        options.quiet,
        tuple(options.anchor_scales) if options.anchor_scales else None,
        options.training_images,
    )


def _list(cells: list[Cell], experiment: Experiment, as_json: bool, answer: dict[str, object]) -> int:
    state = {cell.name: experiment.done(cell) for cell in cells}
    answer["cells"] = state
    if not as_json:
        for name, done in state.items():
            print(f"{'done   ' if done else 'missing'}  {name}")
    return 0


def _report(outcome: Outcome, as_json: bool, answer: dict[str, object]) -> int:
    answer["finished"] = [cell.name for cell in outcome.finished]
    answer["failed"] = {cell.name: text for cell, text in outcome.failed.items()}
    answer["left"] = [cell.name for cell in outcome.left]
    if not as_json:
        for cell in outcome.finished:
            print(f"finished  {cell.name}")
        for cell, text in outcome.failed.items():
            print(f"failed    {cell.name}: {text}")
        for cell in outcome.left:
            print(f"left      {cell.name}")
    return 1 if outcome.failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
