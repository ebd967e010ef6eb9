# SPDX-License-Identifier: Apache-2.0
"""imp-train: train a network on a dataset, optionally also the baseline without IMP."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imp_trt.cli.common import command_parser, run_command
from imp_trt.cli.printing import print_json, print_line, say, say_padding
from imp_trt.cli.train_options import INITIALS, network_options, recipe_options, run_options
from imp_trt.cli.train_settings import reject_idle_settings
from imp_trt.cli.train_warnings import warn_of_settings, warn_of_untrained
from imp_trt.errors import DatasetError, UsageError

if TYPE_CHECKING:
    from imp_trt.classes import ClassTable
    from imp_trt.data.dataset import Dataset
    from imp_trt.models.checkpoint import Checkpoint
    from imp_trt.models.config import ModelConfig
    from imp_trt.train.config import Recipe
    from imp_trt.train.run import Run
    from imp_trt.train.validation import Validation

_log = logging.getLogger(__name__)

DEFAULT_SYSTEM = "panoptic-fpn-imp"
DEFAULT_INPUT_SIZE = (256, 512)

EXAMPLES = """examples:
  imp-train --data scenes --recipe smoke -o runs/first
  imp-train --data camvid:/data/camvid --recipe camvid --input-size 384 512 --with-baseline -o runs/camvid
  imp-train --data camvid:/data/camvid --recipe camvid-pretrained --backbone efficientnet_lite0 \\
      --anchor-scales 1 1.41 --input-size 384 512 --with-baseline -o runs/pretrained
  imp-train --data DIR --init samples/weights/camvid_imp.safetensors --val val --patience 4 -o runs/tuned
  imp-train --data DIR --init imported.safetensors --system panoptic-fpn-imp -o runs/tuned
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
        "imp-train", "Train a network on a dataset, optionally also the baseline without IMP.", EXAMPLES
    )
    network_options(p.add_argument_group("data and network"))
    training = p.add_argument_group("training")
    recipe_options(training)
    run_options(training)
    p.add_argument(
        "-o",
        "--output",
        type=Path,
        required=True,
        metavar="DIR",
        help="output folder; an interrupted training in it is resumed",
    )
    return p


def _train(options: argparse.Namespace) -> int:
    import torch

    from imp_trt.backends.pytorch import choose_device
    from imp_trt.data.files import make_folder
    from imp_trt.models.presets import without_imp
    from imp_trt.train import distributed, tensorboard
    from imp_trt.train.datasets import open_dataset
    from imp_trt.train.run import Run, check_backbone_weights

    if options.threads:
        torch.set_num_threads(options.threads)
    chosen = choose_device(None if options.device == "auto" else options.device)
    checkpoint = _checkpoint(options)
    with distributed.joined(str(chosen)) as device:
        quiet = options.quiet or distributed.rank() > 0
        plan = _recipe(options)
        initial = "scratch" if checkpoint is not None else options.init or plan.initial
        # Before a large dataset is read.
        check_backbone_weights(options.backbone_weights, initial, checkpoint)
        dataset = open_dataset(options.data, options.split)
        if dataset.terms and not quiet:
            say(f"license terms of the data: {dataset.terms}")
        config = _config(options, dataset.classes, initial, checkpoint)
        _check_effect(options, config)
        reject_idle_settings(options.settings, plan, config)
        # Configured now, so that an error is reported before hours of training.
        control = without_imp(config) if options.pair or options.stage == "plain" else config
        validation = _validation(options, dataset)
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
            checkpoint=checkpoint,
            validation=validation,
            tensorboard=tensorboard.is_installed(),
        )
        if not quiet:
            _say_plan(options, run, config)
        if distributed.rank() == 0:
            warn_of_settings(run, config)
            if options.stage != "one":
                warn_of_untrained(run, config)
        written = _train_stages(options, run, config, control)
        if distributed.rank() == 0:
            _print_result(written, options.json)
    return 0


def _train_stages(
    options: argparse.Namespace, run: Run, config: ModelConfig, control: ModelConfig
) -> dict[str, Path]:
    """Train the stages that the options ask for; control is the network without IMP.

    Returns:
        Name and path of each checkpoint, those with the best scores after those with the last weights.
    """
    from imp_trt.train.loop import best_path
    from imp_trt.train.run import exclusive, train_stage_one, train_stage_two

    with exclusive(run.folder):
        written = {"stage_one": train_stage_one(run, config)}
        if options.stage in ("all", "imp"):
            name = "imp" if config.imp else "plain"
            written[name] = train_stage_two(run, config, written["stage_one"], name)
        if options.stage == "plain" or (options.pair and options.stage == "all"):
            written["plain"] = train_stage_two(run, control, written["stage_one"], "plain")
    if run.validation is not None:
        best = {f"{name}.best": best_path(path) for name, path in written.items()}
        written |= {name: path for name, path in best.items() if path.is_file()}
    return written


def _checkpoint(options: argparse.Namespace) -> Checkpoint | None:
    """The checkpoint that --init names, if any."""
    from imp_trt.models.checkpoint import read_checkpoint

    if options.init is None or options.init in INITIALS:
        return None
    path = Path(options.init)
    if not path.exists() and not path.suffix:
        raise UsageError(
            "--init", expected=f"one of {', '.join(INITIALS)}, or a checkpoint", got=options.init
        )
    return read_checkpoint(path)


def _validation(options: argparse.Namespace, dataset: Dataset) -> Validation | None:
    from imp_trt.train.datasets.dropped import named
    from imp_trt.train.validation import Validation, check_validation

    if options.val is None:
        for flag in ("--val-every", "--patience"):
            if getattr(options, flag[2:].replace("-", "_")) is not None:
                raise UsageError(
                    flag, expected="--val SPLIT or --val DATA", got="no --val", fix="add --val val"
                )
        return None
    name, split = options.data, options.val
    if options.val == "scenes" or ":" in options.val or "/" in options.val:
        name, split = options.val, "val"
    try:
        found = _opened_for_val(name, split, options)
    except DatasetError:
        # A folder, or dataset.json, may have the name of a split, so that the split comes first.
        if name == options.val or not Path(options.val).exists():
            raise
        name, split = options.val, "val"
        found = _opened_for_val(name, split, options)
    validation = Validation(found, options.val_every, options.patience)
    check_validation(validation, dataset)
    if (name, split) == (options.data, options.split):
        _log.warning("--val is the data that is trained on: the best weights are those that fit it best")
    elif shared := _shared_images(dataset, found):
        _log.warning(
            "%d of %d images of --val are trained on: the best weights are those that fit them best: %s",
            len(shared),
            len(found),
            named(shared),
        )
    return validation


def _opened_for_val(name: str, split: str, options: argparse.Namespace) -> Dataset:
    """A split; errors that name --split, which is that of the training data, name --val instead."""
    from imp_trt.train.datasets import open_dataset

    try:
        return open_dataset(name, split)
    except DatasetError as error:
        if error.fix is None or "--split" not in error.fix:
            raise
        fix = error.fix.replace("--split", "--val")
        if name != options.data:
            fix = f"add a split val to {name}, or --val SPLIT takes one of --data"
        raise DatasetError(error.what, expected=error.expected, got=error.got, fix=fix) from error


def _shared_images(one: Dataset, other: Dataset) -> list[str]:
    """Images of the other dataset that are in this one too, also as copies."""
    from imp_trt.train.datasets.copies import shared_images
    from imp_trt.train.datasets.overview import image_files
    from imp_trt.train.datasets.view import FileDataset

    if not (isinstance(one, FileDataset) and isinstance(other, FileDataset)):
        return []
    return sorted(map(str, shared_images(image_files(other), image_files(one))))


def _recipe(options: argparse.Namespace) -> Recipe:
    from dataclasses import replace

    from imp_trt.train.recipes import changed, recipe

    _check_settings(options)
    plan = recipe(_recipe_name(options))
    if options.iterations:
        one, two = options.iterations
        plan = plan.with_iterations(one, two)
    if options.batch:
        plan = replace(plan, batch=options.batch)
    return changed(plan, options.settings)


def _check_settings(options: argparse.Namespace) -> None:
    """UsageError if --set names a field that another option sets."""
    fields = {
        "--batch-size": ("batch",) if options.batch else (),
        "--iterations": ("stage_one.iterations", "stage_two.iterations") if options.iterations else (),
        "--init": ("initial",) if options.init else (),
    }
    for setting in options.settings:
        for flag, names in fields.items():
            if setting.partition("=")[0] in names:
                raise UsageError(
                    f"{flag} and --set {setting}",
                    expected="one of them",
                    got="both, for the same field",
                    fix="leave one of them out",
                )


def _check_effect(options: argparse.Namespace, config: ModelConfig) -> None:
    """UsageError if an option is about a part that the network does not have."""
    from imp_trt.models.finetune import system_of

    canvas_head = config.imp and config.semantic_head != "none"
    needs = {
        "--canvas-skip": (options.canvas_skip, canvas_head, "a semantic head with IMP"),
        "--sampling": (options.sampling, config.imp, "IMP"),
        "--anchor-scales": (options.anchor_scales, config.detector, "a detector"),
        "--with-baseline": (options.pair, canvas_head, "a semantic head with IMP"),
        "--stage plain": (options.stage == "plain", config.semantic_head != "none", "a semantic head"),
    }
    for flag, (given, is_used, part) in needs.items():
        if given and not is_used:
            raise UsageError(
                f"{flag} with --system {system_of(config)}",
                expected=f"a system with {part}",
                fix=f"omit {flag}, or choose another --system",
            )


def _recipe_name(options: argparse.Namespace) -> str:
    default = "scenes" if options.init in (None, *INITIALS) else "fine-tune"
    return str(options.recipe or default)


def _config(
    options: argparse.Namespace, classes: ClassTable, initial: str, checkpoint: Checkpoint | None
) -> ModelConfig:
    from imp_trt.models.finetune import finetune_config, plan_transfer
    from imp_trt.models.presets import system

    changes: dict[str, Any] = {"canvas_skip": True} if options.canvas_skip else {}
    changes |= {name: getattr(options, name) for name in ("sampling", "norm") if getattr(options, name)}
    if checkpoint is not None:
        changes |= {"backbone": options.backbone} if options.backbone else {}
        changes |= {"input_size": tuple(options.input_size)} if options.input_size else {}
        config = finetune_config(checkpoint.network.config, classes, options.system, **changes)
        config = _with_anchor_scales(options, config)
        plan_transfer(config, checkpoint.network.config)
        return config
    backbone: Any = options.backbone or "compact"  # of any name: system() checks it
    if not options.norm and backbone != "compact" and initial == "scratch":
        # Frozen statistics are only valid for the weights that they were computed with.
        changes["norm"] = "batch"
    height, width = options.input_size or DEFAULT_INPUT_SIZE
    config = system(options.system or DEFAULT_SYSTEM, classes, (height, width), backbone, **changes)
    return _with_anchor_scales(options, config)


def _with_anchor_scales(options: argparse.Namespace, config: ModelConfig) -> ModelConfig:
    from dataclasses import replace

    if options.anchor_scales is None:
        return config
    detector = replace(config.detector_config, anchor_scales=tuple(options.anchor_scales))
    return replace(config, detector_config=detector)


def _say_plan(options: argparse.Namespace, run: Run, config: ModelConfig) -> None:
    """Print a summary of the training before it starts."""
    import torch

    from imp_trt.artifacts.manifest import InputContract
    from imp_trt.models.backbone import count_parameters
    from imp_trt.models.finetune import plan_transfer, system_of
    from imp_trt.models.network import ImpNetwork
    from imp_trt.preprocessing.letterbox import LetterboxTransform
    from imp_trt.train.distributed import world_size

    with torch.device("meta"):
        parameters = count_parameters(ImpNetwork(config))
    plan, start = run.recipe, "scratch" if run.initial == "scratch" else f"{run.initial} weights"
    start = options.init if run.checkpoint is not None else start
    if options.stage == "one":
        parts = f"stage one {plan.stage_one.iterations} iterations"
    else:
        twice = "2 x " if options.pair and options.stage == "all" else ""
        parts = (
            f"stage one {plan.stage_one.iterations} iterations, stage two {twice}{plan.stage_two.iterations}"
        )
    processes = f", {world_size()} processes" if world_size() > 1 else ""
    say(
        f"{system_of(config)} on {config.backbone}, {parameters / 1e6:.1f} M parameters, from {start}; "
        f"{len(run.dataset)} images of {run.dataset.name}"
    )
    if run.checkpoint is not None:
        for line in plan_transfer(config, run.checkpoint.network.config).lines():
            say(f"  {line}")
        if run.terms != run.dataset.terms:
            say(f"license terms of the result: {run.terms}")
    say(
        f"recipe {_recipe_name(options)}: {parts}, batch size {plan.batch}, {plan.precision}, on {run.device}"
        f"{processes}, seed {run.seed}; results in {run.folder}"
    )
    if options.pair and options.stage != "all":
        trained = {"one": "stage one", "imp": "stage two with IMP", "plain": "stage two of the baseline"}
        say(f"--stage {options.stage}: {trained[options.stage]} alone; --with-baseline is without effect")
    say_padding(LetterboxTransform.of(run.dataset[0].size, InputContract(*config.input_size)))


def _print_result(written: dict[str, Path], as_json: bool) -> None:
    if as_json:
        print_json({name: str(path) for name, path in written.items()})
        return
    for name, path in written.items():
        print_line(f"{name}: {path}")


if __name__ == "__main__":
    raise SystemExit(main())
