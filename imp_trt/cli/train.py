"""imp-train: train one system, or a pair with and without IMP, on a data set."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from imp_trt.cli.common import command_parser, positive, print_json, run_command, say
from imp_trt.errors import UsageError

if TYPE_CHECKING:
    from imp_trt.classes import ClassTable
    from imp_trt.models.config import ModelConfig

EXAMPLES = """examples:
  imp-train --data scenes --recipe smoke -o runs/first
  imp-train --data camvid:/data/camvid --recipe camvid --input-size 384 480 --pair -o runs/camvid"""


def main(argv: list[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    options = parser().parse_args(argv)
    return run_command(lambda: _train(options), verbose=options.verbose, quiet=options.quiet)


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    p = command_parser("imp-train", __doc__ or "", EXAMPLES)
    p.add_argument("--data", required=True, help="scenes, camvid:DIR, ccp:DIR or a folder with dataset.json")
    p.add_argument("--split", default="train", help="list of the data set to train on (train)")
    p.add_argument("--recipe", default="scenes", help="smoke, scenes or camvid")
    p.add_argument("--system", default="panoptic-fpn-imp", help="one of the paper's systems, by name")
    p.add_argument("--backbone", default="compact", help="compact, resnet18 ... resnext101_32x8d")
    p.add_argument(
        "--input-size",
        type=int,
        nargs=2,
        default=(256, 512),
        metavar=("H", "W"),
        help="size of exported frames",
    )
    p.add_argument("--sampling", default="bilinear", choices=("bilinear", "nearest", "rect"))
    p.add_argument(
        "--pair", action="store_true", help="also train the control without IMP, from one stage one"
    )
    p.add_argument(
        "--stage",
        choices=("one", "imp", "plain", "all"),
        default="all",
        help="only this part (all); finished parts are not trained again",
    )
    p.add_argument("--pretrained", action="store_true", help="start a ResNet from ImageNet weights (fetched)")
    p.add_argument("--half", action="store_true", help="write kernels as float16: half the file")
    p.add_argument("--seed", type=_seed, default=0)
    p.add_argument("--device", default="cpu", help="cpu or cuda")
    p.add_argument("--threads", type=positive, help="CPU threads of PyTorch")
    p.add_argument(
        "-o", "--output", type=Path, required=True, help="folder; an interrupted run in it resumes"
    )
    return p


def _train(options: argparse.Namespace) -> int:
    import torch

    from imp_trt.backends.pytorch import choose_device
    from imp_trt.files import make_folder
    from imp_trt.models.presets import without_imp
    from imp_trt.train import loop
    from imp_trt.train.config import recipe
    from imp_trt.train.index_png import open_dataset

    if options.threads:
        torch.set_num_threads(options.threads)
    dataset = open_dataset(options.data, options.split)
    if dataset.terms and not options.quiet:
        say(f"terms of the data: {dataset.terms}")
    config = _config(options, dataset.classes)
    if options.pair and not config.imp:
        raise UsageError("--pair", expected="a system with IMP", got=options.system, fix="leave --pair out")
    # The control is described before hours of training, not after.
    control = without_imp(config) if options.pair or options.stage == "plain" else config
    plan = recipe(options.recipe)
    device = choose_device(options.device).type
    make_folder(options.output)
    run = loop.Run(
        dataset,
        plan,
        options.seed,
        options.output,
        device,
        options.half,
        options.pretrained,
        quiet=options.quiet,
    )
    written = {"stage_one": loop.train_stage_one(run, config)}
    if options.stage in ("all", "imp"):
        name = "imp" if config.imp else "plain"
        written[name] = loop.train_stage_two(run, config, written["stage_one"], name)
    if options.stage == "plain" or (options.pair and options.stage == "all"):
        written["plain"] = loop.train_stage_two(run, control, written["stage_one"], "plain")
    if options.json:
        print_json({name: str(path) for name, path in written.items()})
    else:
        for name, path in written.items():
            print(f"{name}: {path}")
    return 0


def _config(options: argparse.Namespace, classes: ClassTable) -> ModelConfig:
    from imp_trt.models.presets import system

    changes = {"sampling": options.sampling}
    if options.backbone != "compact" and not options.pretrained:
        # Frozen statistics only make sense with the weights they were frozen with.
        changes["norm"] = "batch"
    return system(options.system, classes, tuple(options.input_size), options.backbone, **changes)


def _seed(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text} is negative")
    return value
