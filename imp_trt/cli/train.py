"""imp-train: train one system, or a pair with and without IMP, on a data set."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from imp_trt.cli.common import command_parser, positive, print_json, run_command, say, say_padding
from imp_trt.errors import UsageError

if TYPE_CHECKING:
    from imp_trt.classes import ClassTable
    from imp_trt.models.config import ModelConfig
    from imp_trt.train.config import Recipe
    from imp_trt.train.run import Run

_log = logging.getLogger(__name__)

EXAMPLES = """examples:
  imp-train --data scenes --recipe smoke -o runs/first
  imp-train --data camvid:/data/camvid --recipe camvid --input-size 384 512 --pair -o runs/camvid
  imp-train --data scenes --recipe scenes --iterations 300 200 --set semantic_weight=1 -o runs/tried
  torchrun --nproc-per-node 8 -m imp_trt.cli.train --data cityscapes:/data/cityscapes \\
      --recipe cityscapes --backbone resnet50 --input-size 1024 2048 --device cuda -o runs/cityscapes

An interrupted run (Ctrl-C, SIGTERM, a crash) continues where it was with the same command."""


def main(argv: list[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    options = parser().parse_args(argv)
    return run_command(lambda: _train(options), verbose=options.verbose, quiet=options.quiet)


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    p = command_parser("imp-train", __doc__ or "", EXAMPLES)
    _network_options(p.add_argument_group("data and network"))
    _training_options(p.add_argument_group("training"))
    p.add_argument(
        "-o", "--output", type=Path, required=True, help="folder; an interrupted run in it resumes"
    )
    return p


def _network_options(data: argparse._ArgumentGroup) -> None:
    data.add_argument(
        "--data",
        required=True,
        help="scenes, NAME:DIR (camvid, ccp, cityscapes, modanet, coco, components) or a folder with "
        "dataset.json",
    )
    data.add_argument("--split", default="train", help="list of the data set to train on (train)")
    data.add_argument("--system", default="panoptic-fpn-imp", help="one of the paper's systems, by name")
    data.add_argument("--backbone", default="compact", help="compact, resnet18 ... resnext101_32x8d")
    data.add_argument(
        "--norm",
        choices=("batch", "frozen_batch", "group"),
        help="normalization of backbone and pyramid (frozen statistics for a pretrained ResNet-50 or "
        "larger, else batch)",
    )
    data.add_argument(
        "--input-size",
        type=int,
        nargs=2,
        default=(256, 512),
        metavar=("H", "W"),
        help="what the network sees at test time, pictures shrunk to fit; the recipe's scale (of the "
        "pictures' own size) must cover it",
    )
    data.add_argument("--sampling", default="bilinear", choices=("bilinear", "nearest", "rect"))


def _training_options(how: argparse._ArgumentGroup) -> None:
    how.add_argument(
        "--recipe",
        default="scenes",
        help="smoke; scenes, camvid, ccp (from scratch, CPU), each also as NAME-short; the paper's vcp, "
        "modanet, cityscapes, cityscapes-imagenet, cityscapes-no-aug",
    )
    how.add_argument(
        "--init",
        choices=("scratch", "imagenet", "coco"),
        help="what stage one starts from; the weights are torchvision's, fetched once (the recipe's choice)",
    )
    how.add_argument(
        "--batch", type=positive, help="crops per step, over all processes; the paper's rates scale with it"
    )
    how.add_argument(
        "--iterations",
        type=_count,
        nargs=2,
        metavar=("ONE", "TWO"),
        help="steps of the two stages; schedules shrink with them; 0 skips a stage",
    )
    how.add_argument(
        "--set",
        dest="settings",
        action="append",
        default=[],
        metavar="FIELD=VALUE",
        help="replace a field of the recipe (again for more), as crop=256,512 or stage_one.lr=0.01",
    )
    how.add_argument(
        "--pair", action="store_true", help="also train the control without IMP, from one stage one"
    )
    how.add_argument(
        "--stage",
        choices=("one", "imp", "plain", "all"),
        default="all",
        help="only this part (all); finished parts are not trained again",
    )
    how.add_argument("--half", action="store_true", help="write kernels as float16: half the file")
    how.add_argument("--seed", type=_count, default=0)
    how.add_argument("--device", default="cpu", help="cpu, cuda or cuda:INDEX; several GPUs with torchrun")
    how.add_argument("--threads", type=positive, help="CPU threads of PyTorch")
    how.add_argument("--workers", type=positive, help="threads that make batches (1; for a GPU up to 8)")


def _train(options: argparse.Namespace) -> int:
    import torch

    from imp_trt.backends.pytorch import choose_device
    from imp_trt.data.files import make_folder
    from imp_trt.models.presets import without_imp
    from imp_trt.train import distributed
    from imp_trt.train.datasets import open_dataset
    from imp_trt.train.run import Run, train_stage_one, train_stage_two

    if options.threads:
        torch.set_num_threads(options.threads)
    with distributed.joined(str(choose_device(options.device))) as device:
        quiet = options.quiet or distributed.rank() > 0
        dataset = open_dataset(options.data, options.split)
        if dataset.terms and not quiet:
            say(f"terms of the data: {dataset.terms}")
        plan = _recipe(options)
        initial = options.init or plan.initial
        config = _config(options, dataset.classes, initial)
        if options.pair and not config.imp:
            raise UsageError(
                "--pair", expected="a system with IMP", got=options.system, fix="leave --pair out"
            )
        # The control is described before hours of training, not after.
        control = without_imp(config) if options.pair or options.stage == "plain" else config
        make_folder(options.output)
        run = Run(
            dataset,
            plan,
            options.seed,
            options.output,
            device,
            options.half,
            initial,
            quiet,
            workers=options.workers,
        )
        if not quiet:
            _say_plan(options, run, config)
        if distributed.rank() == 0:
            _warn(run, config)
        written = {"stage_one": train_stage_one(run, config)}
        if options.stage in ("all", "imp"):
            name = "imp" if config.imp else "plain"
            written[name] = train_stage_two(run, config, written["stage_one"], name)
        if options.stage == "plain" or (options.pair and options.stage == "all"):
            written["plain"] = train_stage_two(run, control, written["stage_one"], "plain")
        if distributed.rank() == 0:
            _print_result(written, options.json)
    return 0


def _recipe(options: argparse.Namespace) -> Recipe:
    from dataclasses import replace

    from imp_trt.train.recipes import changed, recipe

    plan = recipe(options.recipe)
    if options.iterations:
        one, two = options.iterations
        plan = plan.with_iterations(one, two)
    if options.batch:
        plan = replace(plan, batch=options.batch)
    return changed(plan, options.settings)


def _config(options: argparse.Namespace, classes: ClassTable, initial: str) -> ModelConfig:
    from imp_trt.models.presets import system

    changes = {"sampling": options.sampling}
    if options.norm:
        changes["norm"] = options.norm
    elif options.backbone != "compact" and initial == "scratch":
        # Frozen statistics only make sense with the weights they were frozen with.
        changes["norm"] = "batch"
    return system(options.system, classes, tuple(options.input_size), options.backbone, **changes)


def _say_plan(options: argparse.Namespace, run: Run, config: ModelConfig) -> None:
    """What is going to happen, before hours of it."""
    import torch

    from imp_trt.artifacts.manifest import InputContract
    from imp_trt.models.backbone import count_parameters
    from imp_trt.models.network import ImpNetwork
    from imp_trt.preprocessing.letterbox import LetterboxTransform
    from imp_trt.train.distributed import world_size

    with torch.device("meta"):
        parameters = count_parameters(ImpNetwork(config))
    plan, start = run.recipe, "scratch" if run.initial == "scratch" else f"{run.initial} weights"
    if options.stage == "one":
        parts = f"stage one {plan.stage_one.iterations} steps"
    else:
        twice = "twice " if options.pair and options.stage == "all" else ""
        parts = f"stage one {plan.stage_one.iterations} steps, stage two {twice}{plan.stage_two.iterations}"
    processes = f", {world_size()} processes" if world_size() > 1 else ""
    say(
        f"{options.system} on {config.backbone}, {parameters / 1e6:.1f} M parameters, from {start}; "
        f"{len(run.dataset)} pictures of {run.dataset.name}"
    )
    say(
        f"recipe {options.recipe}: {parts}, batches of {plan.batch}, {plan.precision}, on {run.device}"
        f"{processes}, seed {run.seed}; results in {run.folder}"
    )
    say_padding(LetterboxTransform.of(run.dataset[0].size, InputContract(*config.input_size)))


def _warn(run: Run, config: ModelConfig) -> None:
    """What costs accuracy: a detector that nothing trained, things at sizes that the network will not see."""
    from imp_trt.artifacts.manifest import InputContract
    from imp_trt.preprocessing.letterbox import LetterboxTransform

    plan = run.recipe
    untrained = not plan.stage_one.iterations and run.initial != "coco"
    if config.detector and plan.stage_two.iterations and untrained:
        _log.warning(
            "stage one has no steps and no COCO weights stand for it: stage two begins with a detector that "
            "finds nothing; choose --iterations ONE TWO, --recipe cityscapes-imagenet, or --init coco"
        )
    fit = LetterboxTransform.of(run.dataset[0].size, InputContract(*config.input_size))
    shown = fit.resized[0] / fit.frame[0]
    low, high = plan.scales(fit.frame)
    if low / 1.1 <= shown <= high * 1.1:
        return
    remedy = f"scale={shown * 0.75:.2g},{shown * 1.5:.2g}"
    if plan.short_sides:
        remedy = f"short_sides={min(fit.resized)},"
    _log.warning(
        "the network will see pictures of %dx%d at %.2f of their size, but the recipe trains at %.2f to %.2f "
        "of it, which costs accuracy; choose --set %s or another --input-size",
        fit.frame[1],
        fit.frame[0],
        shown,
        low,
        high,
        remedy,
    )


def _print_result(written: dict[str, Path], as_json: bool) -> None:
    if as_json:
        print_json({name: str(path) for name, path in written.items()})
        return
    for name, path in written.items():
        print(f"{name}: {path}")


def _count(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text} is negative")
    return value


if __name__ == "__main__":
    raise SystemExit(main())
