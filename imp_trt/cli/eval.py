"""imp-eval: score a checkpoint or an artifact on a labelled data set."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from imp_trt.cli.common import Progress, command_parser, positive, print_json, run_command, say
from imp_trt.errors import InvalidInput

if TYPE_CHECKING:
    from imp_trt.train.evaluate import SemanticScores

EXAMPLES = """examples:
  imp-eval model.safetensors --data scenes
  imp-eval model.fp32.onnx --data camvid:/data/camvid --json"""


def main(argv: list[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    options = parser().parse_args(argv)
    return run_command(lambda: _evaluate(options), verbose=options.verbose, quiet=options.quiet)


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    p = command_parser("imp-eval", __doc__ or "", EXAMPLES)
    p.add_argument("model", type=Path, help="checkpoint (.safetensors, .pt) or artifact (.onnx)")
    p.add_argument("--data", required=True, help="scenes, camvid:DIR, ccp:DIR or a folder with dataset.json")
    p.add_argument("--split", default="val", help="list of the data set to score (val)")
    p.add_argument("--limit", type=positive, help="only the first so many pictures")
    p.add_argument("--threads", type=positive, help="CPU threads of the backend")
    return p


def _evaluate(options: argparse.Namespace) -> int:
    from imp_trt.segmenter import Segmenter
    from imp_trt.train.evaluate import evaluate
    from imp_trt.train.index_png import open_dataset

    dataset = open_dataset(options.data, options.split)
    if dataset.terms and not options.quiet:
        say(f"terms of the data: {dataset.terms}")
    with Segmenter(options.model, threads=options.threads) as segmenter:
        if segmenter.classes.names != dataset.classes.names:
            raise InvalidInput(
                f"classes of {options.model}",
                expected=f"those of the data set: {', '.join(dataset.classes.names)}",
                got=", ".join(segmenter.classes.names),
                fix="score the model on the data set it was trained for",
            )
        progress = Progress("imp-eval", len(dataset), quiet=options.quiet)
        scores = evaluate(
            lambda frame: segmenter.run(frame).semantic, dataset, options.limit, progress.update
        )
        progress.close()
    if options.json:
        print_json({"model": str(options.model), "data": dataset.name, **scores.to_dict()})
    else:
        print(_table(scores))
    return 0


def _table(scores: SemanticScores) -> str:
    classes = scores.classes
    width = max(len(name) for name in classes.names)
    lines = [f"{'class':<{width}}  kind   IoU"]
    for index, (name, value) in enumerate(zip(classes.names, scores.iou, strict=True)):
        kind = "thing" if index in classes.things else "stuff"
        lines.append(f"{name:<{width}}  {kind}  {_percent(float(value))}")
    lines.append("")
    lines.append(
        f"mIoU {_percent(scores.mean_iou)}  things {_percent(scores.thing_iou)}  "
        f"stuff {_percent(scores.stuff_iou)}  mAcc {_percent(scores.mean_accuracy)}"
    )
    return "\n".join(lines)


def _percent(value: float) -> str:
    return "   - " if value != value else f"{100 * value:5.2f}"
