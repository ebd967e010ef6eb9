# SPDX-License-Identifier: Apache-2.0
"""Options of imp-export."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from imp_trt.cli.common import positive
from imp_trt.cli.printing import say

GIB = 1 << 30

GATE_FIELDS = {"labels": ("labels", 1.0), "instances": ("instances", 1.0), "miou": ("miou_drop", 100.0)}
"""Name in --gate -> field of Gate, and its largest value."""


def graph_options(p: argparse.ArgumentParser) -> None:
    """What is in an ONNX file."""
    p.add_argument("--calib", type=Path, metavar="DIR", help="images for int8 and fp8 calibration")
    p.add_argument(
        "--keep-float16",
        metavar="auto|PATTERN",
        help="layers that stay in float16 in int8 and fp8: names or patterns, such as "
        "'network.backbone.body.stages.1*,detector.mask_head', separated by commas; auto measures what each "
        "layer costs and keeps as few as the gate allows",
    )
    p.add_argument("--batch", type=positive, default=1, metavar="N", help="static batch size (default: 1)")
    p.add_argument(
        "--nms-iterations",
        type=positive,
        default=32,
        metavar="N",
        help="iterations of each fixed-point NMS (default 32); more if verification reports too few",
    )
    p.add_argument(
        "--nms-passes",
        type=positive,
        action=_DeprecatedNmsPasses,
        dest="nms_iterations",
        help=argparse.SUPPRESS,
    )
    p.add_argument(
        "--function-free",
        action="store_true",
        help="also write NAME.function-free.onnx, without ONNX local functions, for trtexec and TensorRT "
        "below 10.7 with the plugin library",
    )
    p.add_argument(
        "--parts",
        action="store_true",
        help="also write NAME.canvas.onnx (or .canvas.engine), the network without its detector, for videos "
        "on which the detector runs on every k-th frame only (imp-segment --detect-every K). An engine that "
        "is built from an ONNX file with this part gets one too",
    )


def verification_options(p: argparse.ArgumentParser) -> None:
    """How an ONNX file is compared with PyTorch."""
    p.add_argument(
        "--frames",
        type=Path,
        metavar="DIR",
        help="images for verification: 50 of them, evenly spaced; if there are fewer, synthetic scenes are "
        "added. For a third-party .onnx file: an .npz file with one array for each input, or a folder of "
        "them (default: random)",
    )
    p.add_argument(
        "--gate",
        type=gate_fields,
        metavar="FIELD=VALUE",
        help="change the gate of the precision, for example labels=0.97,instances=0.85. Fields: labels, the "
        "fraction of pixels with the same class; instances, F1; miou, the points that may be lost on frames "
        "with ground truth (the synthetic scenes, for a network of their classes)",
    )
    p.add_argument(
        "--bisect",
        action="store_true",
        help="write no file; name the first node of the network whose values differ from PyTorch's in "
        "float32, on the first verification frame",
    )
    p.add_argument(
        "--no-verify",
        action="store_true",
        help="skip verification, recorded in the manifest; the export of a checkpoint then has no golden "
        "frames, an engine keeps those of its .onnx file",
    )


def engine_options(p: argparse.ArgumentParser) -> None:
    """How an engine is built."""
    group = p.add_argument_group("engine build options")
    group.add_argument(
        "--plugin",
        action=argparse.BooleanOptionalAction,
        help="implement custom operators as plugins (default for TensorRT), or as functions of standard "
        "operators (default for TensorRT-RTX)",
    )
    group.add_argument(
        "--plugin-library",
        type=Path,
        metavar="FILE",
        help="C++ plugin library (default: the Python plugins)",
    )
    group.add_argument(
        "--compute-capability",
        type=_capabilities,
        default=(),
        metavar="8.6,8.9",
        help="compute capabilities of the GPUs to build for; TensorRT-RTX only",
    )
    group.add_argument("--workspace", type=_gibibytes, metavar="GIB", help="maximum workspace size")
    group.add_argument(
        "--timing-cache", type=Path, metavar="FILE", help="timing cache file, read and updated"
    )
    group.add_argument(
        "--optimization-level",
        type=int,
        choices=range(6),
        default=3,
        help="builder optimization level; higher levels take longer to build (default: 3); TensorRT only",
    )
    group.add_argument(
        "--hardware-compatible",
        choices=("ampere_plus", "same_compute_capability"),
        help="hardware compatibility level: run on other GPUs, with lower performance; TensorRT only",
    )
    group.add_argument(
        "--version-compatible",
        action="store_true",
        help="build for later TensorRT versions, for trtexec, Triton and C++ (imp_trt does not load such "
        "engines)",
    )
    group.add_argument("--keep-onnx", action="store_true", help="also write the ONNX file and its manifest")


class _DeprecatedNmsPasses(argparse.Action):
    """The former name of --nms-iterations."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: object,
        option_string: str | None = None,
    ) -> None:
        say(f"{option_string} is deprecated, use --nms-iterations")
        setattr(namespace, self.dest, values)


def _capabilities(text: str) -> tuple[str, ...]:
    capabilities = tuple(dict.fromkeys(text.split(",")))
    if not all(re.fullmatch(r"[0-9]{1,2}\.[0-9]", item) for item in capabilities):
        raise argparse.ArgumentTypeError(f"{text} is not a list such as 8.6,8.9")
    return capabilities


def _gibibytes(text: str) -> int:
    value = float(text)
    if not 1 / GIB <= value < 1 << 20:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number of GiB")
    return int(value * GIB)


def gate_fields(text: str) -> dict[str, float]:
    """Fields of Gate from labels=0.97,instances=0.85,miou=2."""
    fields = {}
    for part in text.split(","):
        name, _, number = part.partition("=")
        if name not in GATE_FIELDS:
            raise argparse.ArgumentTypeError(f"{part} is not one of {', '.join(GATE_FIELDS)} with =VALUE")
        field, high = GATE_FIELDS[name]
        if field in fields:
            raise argparse.ArgumentTypeError(f"{name} is given twice")
        try:
            value = float(number)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{number} is not a number") from None
        if not 0 <= value <= high:
            raise argparse.ArgumentTypeError(f"{name}={number} is not between 0 and {high:g}")
        fields[field] = value
    return fields
