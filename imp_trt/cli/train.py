# SPDX-License-Identifier: Apache-2.0
"""imp-train: train a network on a data set, optionally also the baseline without IMP."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imp_trt.cli.common import (
    add_deprecated,
    command_parser,
    positive,
    print_json,
    print_lines,
    run_command,
    say,
    say_padding,
)
from imp_trt.errors import UsageError

if TYPE_CHECKING:
    from imp_trt.classes import ClassTable
    from imp_trt.models.config import ModelConfig
    from imp_trt.train.config import Recipe
    from imp_trt.train.run import Run

_log = logging.getLogger(__name__)

EXAMPLES = """examples:
  imp-train --data scenes --recipe smoke -o runs/first
  imp-train --data camvid:/data/camvid --recipe camvid --input-size 384 512 --with-baseline -o runs/camvid
  imp-train --data camvid:/data/camvid --recipe camvid-pretrained --backbone efficientnet_lite0 \\
      --anchor-scales 1 1.41 --input-size 384 512 --with-baseline -o runs/pretrained
  imp-train --data scenes --recipe scenes --iterations 300 200 --set semantic_weight=1 -o runs/tried
  torchrun --nproc-per-node 8 -m imp_trt.cli.train --data cityscapes:/data/cityscapes \\
      --recipe cityscapes --backbone resnet50 --input-size 1024 2048 --device cuda -o runs/cityscapes

Run the same command again to resume an interrupted training (Ctrl-C, SIGTERM, a crash)."""


def main(argv: list[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    options = parser().parse_args(argv)
    return run_command(lambda: _train(options), verbose=options.verbose, quiet=options.quiet)


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    p = command_parser(
        "imp-train", "Train a network on a data set, optionally also the baseline without IMP.", EXAMPLES
    )
    _network_options(p.add_argument_group("data and network"))
    training = p.add_argument_group("training")
    _recipe_options(training)
    _run_options(training)
    p.add_argument(
        "-o",
        "--output",
        type=Path,
        required=True,
        metavar="DIR",
        help="output folder; an interrupted training in it is resumed",
    )
    return p


def _network_options(data: argparse._ArgumentGroup) -> None:
    data.add_argument(
        "--data",
        required=True,
        help="data set: scenes, NAME:DIR (camvid, ccp, cityscapes, modanet, coco, components), or a folder "
        "whose layout is recognized: COCO JSON, color masks, YOLO segmentation, Cityscapes, index PNGs with "
        "dataset.json; imp-data FOLDER says what it contains",
    )
    data.add_argument("--split", default="train", help="split to train on (default: train)")
    data.add_argument(
        "--system", default="panoptic-fpn-imp", help="system of the paper (default: panoptic-fpn-imp)"
    )
    data.add_argument(
        "--backbone",
        default="compact",
        help="compact; efficientnet_lite0, _lite1 or _lite2; or a torchvision backbone: resnet18 ... "
        "resnext101_32x8d (default: compact)",
    )
    data.add_argument(
        "--norm",
        choices=("batch", "frozen_batch", "group"),
        help="normalization layers of backbone and FPN (default: frozen_batch for a pretrained ResNet-50 or "
        "larger, otherwise batch)",
    )
    data.add_argument(
        "--input-size",
        type=int,
        nargs=2,
        default=(256, 512),
        metavar=("H", "W"),
        help="input size for inference; images are resized to fit. The recipe's range of scales should "
        "include the resulting scale (default: 256 512)",
    )
    data.add_argument(
        "--anchor-scales",
        type=float,
        nargs="+",
        metavar="FACTOR",
        help="scales of the anchors on each level of the FPN; 1 1.41 gives two per octave (default: 1)",
    )
    data.add_argument(
        "--canvas-skip",
        action="store_true",
        help="also add a trained 1x1 convolution of the canvas to the logits",
    )
    data.add_argument(
        "--sampling",
        default="bilinear",
        choices=("bilinear", "nearest", "rect"),
        help="sampling mode of Instance Mask Projection (default: bilinear)",
    )


def _recipe_options(how: argparse._ArgumentGroup) -> None:
    how.add_argument(
        "--recipe",
        default="scenes",
        help="training recipe: smoke; camvid-pretrained, ccp-pretrained (EfficientNet-Lite); scenes, camvid, "
        "ccp (from scratch, on the CPU), each also as NAME-short; those of the paper: vcp, "
        "modanet, cityscapes, cityscapes-imagenet, cityscapes-no-aug "
        "(default: scenes)",
    )
    how.add_argument(
        "--init",
        choices=("scratch", "imagenet", "coco"),
        help="initial weights of stage one; pretrained weights are downloaded by torchvision, those of "
        "EfficientNet-Lite are in imp-trt[lite] (default: that of the recipe)",
    )
    how.add_argument(
        "--backbone-weights",
        type=Path,
        metavar="FILE",
        help="with --init imagenet: .pth file of the backbone's weights (default: torchvision's, or those of "
        "the package in imp-trt[lite])",
    )
    batch_size = how.add_argument(
        "--batch-size",
        dest="batch",
        type=positive,
        metavar="N",
        help="total batch size over all processes; learning rates of the paper's recipes scale with it",
    )
    add_deprecated(how, "--batch", batch_size)
    how.add_argument(
        "--iterations",
        type=_count,
        nargs=2,
        metavar=("ONE", "TWO"),
        help="iterations of the two stages; schedules are scaled accordingly; 0 skips a stage",
    )
    how.add_argument(
        "--set",
        dest="settings",
        action="append",
        default=[],
        metavar="FIELD=VALUE",
        help="override a field of the recipe, such as crop=256,512 or stage_one.lr=0.01; can be repeated",
    )


def _run_options(how: argparse._ArgumentGroup) -> None:
    with_baseline = how.add_argument(
        "--with-baseline",
        dest="pair",
        action="store_true",
        help="also train the baseline without IMP, from the same stage one",
    )
    add_deprecated(how, "--pair", with_baseline)
    how.add_argument(
        "--stage",
        choices=("one", "imp", "plain", "all"),
        default="all",
        help="stage to train: one, imp (stage two), plain (stage two of the baseline) or all; finished "
        "stages are skipped (default: all)",
    )
    how.add_argument("--half", action="store_true", help="save weights as float16, which halves the file")
    how.add_argument("--seed", type=_count, default=0, metavar="N", help="random seed (default: 0)")
    how.add_argument(
        "--device",
        default="cpu",
        help="cpu, cuda or cuda:INDEX; torchrun for several GPUs (default: cpu)",
    )
    how.add_argument("--threads", type=positive, metavar="N", help="CPU threads of PyTorch")
    how.add_argument(
        "--workers",
        type=positive,
        metavar="N",
        help="threads of the data loader (default: 1; with a GPU up to 8)",
    )


def _train(options: argparse.Namespace) -> int:
    import torch

    from imp_trt.backends.pytorch import choose_device
    from imp_trt.data.files import make_folder
    from imp_trt.models.presets import without_imp
    from imp_trt.train import distributed
    from imp_trt.train.datasets import open_dataset
    from imp_trt.train.run import Run, exclusive, train_stage_one, train_stage_two

    if options.threads:
        torch.set_num_threads(options.threads)
    with distributed.joined(str(choose_device(options.device))) as device:
        quiet = options.quiet or distributed.rank() > 0
        dataset = open_dataset(options.data, options.split)
        if dataset.terms and not quiet:
            say(f"license terms of the data: {dataset.terms}")
        plan = _recipe(options)
        initial = options.init or plan.initial
        config = _config(options, dataset.classes, initial)
        if options.pair and not config.imp:
            raise UsageError(
                "--with-baseline",
                expected="a system with IMP",
                got=options.system,
                fix="omit --with-baseline",
            )
        # Configured now, so that an error is reported before hours of training.
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
            options.backbone_weights,
            quiet,
            workers=options.workers,
        )
        if not quiet:
            _say_plan(options, run, config)
        if distributed.rank() == 0:
            _warn(run, config)
        with exclusive(run.folder):
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
    from dataclasses import replace

    from imp_trt.models.presets import system

    changes: dict[str, Any] = {"sampling": options.sampling, "canvas_skip": options.canvas_skip}
    if options.norm:
        changes["norm"] = options.norm
    elif options.backbone != "compact" and initial == "scratch":
        # Frozen statistics are only valid for the weights that they were computed with.
        changes["norm"] = "batch"
    config = system(options.system, classes, tuple(options.input_size), options.backbone, **changes)
    if options.anchor_scales is None:
        return config
    detector = replace(config.detector_config, anchor_scales=tuple(options.anchor_scales))
    return replace(config, detector_config=detector)


def _say_plan(options: argparse.Namespace, run: Run, config: ModelConfig) -> None:
    """Print a summary of the training before it starts."""
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
        parts = f"stage one {plan.stage_one.iterations} iterations"
    else:
        twice = "2 x " if options.pair and options.stage == "all" else ""
        parts = (
            f"stage one {plan.stage_one.iterations} iterations, stage two {twice}{plan.stage_two.iterations}"
        )
    processes = f", {world_size()} processes" if world_size() > 1 else ""
    say(
        f"{options.system} on {config.backbone}, {parameters / 1e6:.1f} M parameters, from {start}; "
        f"{len(run.dataset)} images of {run.dataset.name}"
    )
    say(
        f"recipe {options.recipe}: {parts}, batch size {plan.batch}, {plan.precision}, on {run.device}"
        f"{processes}, seed {run.seed}; results in {run.folder}"
    )
    say_padding(LetterboxTransform.of(run.dataset[0].size, InputContract(*config.input_size)))


def _warn(run: Run, config: ModelConfig) -> None:
    """Warn about settings that reduce accuracy: an untrained detector, or scales not used at inference."""
    from imp_trt.artifacts.manifest import InputContract
    from imp_trt.preprocessing.letterbox import LetterboxTransform

    plan = run.recipe
    untrained = not plan.stage_one.iterations and run.initial != "coco"
    if config.detector and plan.stage_two.iterations and untrained:
        _log.warning(
            "stage one has no iterations and the weights are not COCO's: stage two starts with an untrained "
            "detector; use --iterations ONE TWO, --recipe cityscapes-imagenet, or --init coco"
        )
    fit = LetterboxTransform.of(run.dataset[0].size, InputContract(*config.input_size))
    shown = fit.resized[0] / fit.frame[0]
    low, high = plan.scales(fit.frame)
    if low / 1.1 <= shown <= high * 1.1:
        return
    fix = f"scale={shown * 0.75:.2g},{shown * 1.5:.2g}"
    if plan.short_sides:
        fix = f"short_sides={min(fit.resized)},"
    _log.warning(
        "at inference, images of %dx%d are scaled by %.2f, but the recipe trains with scales %.2f to %.2f, "
        "which reduces accuracy; use --set %s or another --input-size",
        fit.frame[1],
        fit.frame[0],
        shown,
        low,
        high,
        fix,
    )


def _print_result(written: dict[str, Path], as_json: bool) -> None:
    if as_json:
        print_json({name: str(path) for name, path in written.items()})
        return
    for name, path in written.items():
        print_lines(f"{name}: {path}")


def _count(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text} is negative")
    return value


if __name__ == "__main__":
    raise SystemExit(main())
