# SPDX-License-Identifier: Apache-2.0
"""imp-import: convert a Mask R-CNN or Panoptic FPN checkpoint of another code base."""

from __future__ import annotations

import argparse
from pathlib import Path

from imp_trt.cli.common import command_parser, run_command
from imp_trt.cli.outputs import reject_input
from imp_trt.cli.printing import print_json, print_line, say
from imp_trt.errors import UsageError

EXAMPLES = """examples:
  imp-import maskrcnn.pth -o model.safetensors --classes names.txt
  imp-import model_final.pkl -o model.safetensors --input-size 512 1024
  imp-export --weights model.safetensors --engine fp16

Nothing in the checkpoint is executed."""


def main(argv: list[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    options = parser().parse_args(argv)
    return run_command(lambda: _run(options), verbose=options.verbose, quiet=options.quiet)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = command_parser(
        "imp-import",
        "Convert a Mask R-CNN or Panoptic FPN checkpoint of another code base to one of imp-trt.",
        EXAMPLES,
    )
    p.add_argument("checkpoint", type=Path, metavar="CHECKPOINT", help=".pth, .pt, .pkl or .safetensors")
    p.add_argument(
        "-o", "--output", type=Path, required=True, metavar="FILE.safetensors", help="checkpoint to write"
    )
    p.add_argument(
        "--from",
        dest="source",
        default="auto",
        metavar="SOURCE",
        help="code base that wrote it: torchvision, torchvision-v2, detectron2, mmdet or maskrcnn-benchmark "
        "(default: auto, by its tensors' names)",
    )
    p.add_argument(
        "--classes",
        type=Path,
        metavar="FILE",
        help="names of the detector's classes without background, one a line or a JSON list "
        "(default: those in the checkpoint, or COCO's)",
    )
    p.add_argument(
        "--input-size",
        type=int,
        nargs=2,
        default=(800, 1344),
        metavar=("H", "W"),
        help="size of the network's frames, multiples of 32 (default: 800 1344)",
    )
    p.add_argument(
        "--batch-norm-eps",
        type=float,
        metavar="EPS",
        help="eps of the backbone's batch normalization (default: 0 for torchvision's COCO weights and "
        "maskrcnn-benchmark, else 1e-5; what was fine-tuned from torchvision's COCO weights needs 0)",
    )
    p.add_argument(
        "--caffe",
        action=argparse.BooleanOptionalAction,
        help="whether the backbone is from Caffe2: BGR pixels, stride in the 1x1 convolutions "
        "(default: what an mmdetection file says; yes for maskrcnn-benchmark, and for Detectron2 unless the "
        "file has the mean of RGB pixels; rejected for torchvision)",
    )
    p.add_argument(
        "--roi-samples",
        type=int,
        metavar="N",
        help="samples per bin and axis of RoIAlign; 0: as many as the bin has cells, for which an engine "
        "needs plugins (default: what an mmdetection file says; 0 for Detectron2, else 2)",
    )
    return p


def _run(options: argparse.Namespace) -> int:
    if options.output.suffix.lower() != ".safetensors":
        raise UsageError("-o", expected="a file that ends in .safetensors", got=str(options.output))
    reject_input("-o", options.output, [options.checkpoint])
    from imp_trt.models.checkpoint import save_checkpoint
    from imp_trt.models.importing import import_checkpoint
    from imp_trt.models.importing.classes import read_class_names

    network = import_checkpoint(
        options.checkpoint,
        options.source,
        classes=read_class_names(options.classes) if options.classes else None,
        input_size=tuple(options.input_size),
        batch_norm_eps=options.batch_norm_eps,
        caffe=options.caffe,
        roi_samples=options.roi_samples,
    )
    config = network.config
    metadata = {"imported_from": options.checkpoint.name}
    path = save_checkpoint(options.output, network, metadata)
    things = [config.classes.names[t] for t in config.classes.things]
    if options.json:
        print_json({"checkpoint": str(path), "backbone": config.backbone, "things": things})
    else:
        more = ", ..." if len(things) > 8 else ""
        say(f"{config.backbone} with {len(things)} classes: {', '.join(things[:8])}{more}")
        print_line(str(path))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
