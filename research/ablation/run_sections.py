# SPDX-License-Identifier: Apache-2.0
"""Sections of the page on the provenance of the results."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterable, Mapping
from typing import Any

from imp_trt.models import presets
from imp_trt.train.recipes import FORMER_RECIPES, FORMER_SUFFIX
from research.ablation.cells import CONTROL, HEADLINE, VARIANTS
from research.ablation.summary import DataSummary
from research.ablation.tables import NONE, table


def setting_section(data: DataSummary) -> str:
    """Data, settings and provenance of the results, and which cells have none."""
    settings, recipe = data.first.settings, data.first.settings["recipe"]
    one, two = recipe["stage_one"], recipe["stage_two"]
    height, width = settings["input_size"]
    hours = _training_seconds(data) / 3600
    start = "initialized to zero" if recipe["semantic_in_stage_one"] else "randomly initialized"
    rows = [
        ("data", f"{settings['train']['images']} training, {settings['val']['images']} validation images"),
        ("classes", f"{len(data.classes.things)} things, {len(data.classes.stuff)} stuff"),
        ("network", f"{settings['backbone']} backbone, evaluated at {width}x{height}"),
        ("heads", _heads(data)),
        ("initial weights", "random, none pretrained" if settings["init"] == "scratch" else settings["init"]),
        ("recipe", f"`{settings['recipe_name']}`: {recipe['optimizer']}, batch {recipe['batch']}"),
        ("stage one", f"{one['iterations']} iterations, learning rate {one['peak']:g} to {one['end']:g}"),
        ("stage two", f"{two['iterations']} iterations, learning rate {two['peak']:g} to {two['end']:g}"),
        (
            "weights of the canvas channels",
            f"{start}, {_times(recipe.get('canvas_rate', 1.0))} learning rate{_scale(recipe)}",
        ),
        ("seeds of the headline pair", ", ".join(map(str, data.common_seeds(CONTROL, HEADLINE))) or NONE),
        ("machine", "; ".join(sorted(data.machines))),
        (_code_label(data), ", ".join(sorted(data.sources))),
        ("training time", f"{hours:.1f} hours in total, shared first stages counted once"),
    ]
    text = table(("", "this run"), rows)
    for what, groups in (
        ("evaluated on one machine", data.machines),
        ("produced by one version of the code", data.sources),
    ):
        if len(groups) > 1:
            # Only the exceptions are listed.
            *few, (rest, _) = sorted(groups.items(), key=lambda item: len(item[1]))
            parts = "; ".join(f"{key}: {_names(cells)}" for key, cells in few)
            text += f"\n\nNot all cells were {what}. {parts}; all others: {rest}."
    text += _code_remarks(data)
    if data.missing:
        # A diverged training leaves no result either; "not run" alone would hide it.
        text += f"\n\nWithout a result (not run, or diverged): {_names(c.name for c in data.missing)}."
    return text


def _code_label(data: DataSummary) -> str:
    kinds = data.source_kinds
    return f"code ({kinds[0]})" if len(kinds) == 1 else "code"


def _code_remarks(data: DataSummary) -> str:
    """Remarks on ambiguous source versions."""
    text = ""
    if "digest" in data.source_kinds and len(data.source_kinds) > 1:
        text += (
            "\n\nOlder results identify the code by a digest of its files, newer ones by commit or version: "
            "the results do not show whether a digest and a commit are the same code."
        )
    if any("+changes" in name for name in data.sources):
        text += "\n\n`+changes`: source files differed from that commit."
    return text


def _scale(recipe: Mapping[str, Any]) -> str:
    scale = recipe.get("canvas_scale", 1.0)
    if scale is None:
        return ", canvas scaled to the standard deviation of the features"
    return "" if scale == 1.0 else f", canvas times {scale:g}"


def _heads(data: DataSummary) -> str:
    settings = data.first.settings
    height, width = settings["input_size"]
    own, paper = (
        presets.system(HEADLINE, data.classes, (height, width), backbone)
        for backbone in (settings["backbone"], "resnet50")
    )
    sizes = [
        (
            f"FPN with {config.fpn_channels} channels, semantic heads with {config.semantic_channels} and "
            f"{config.head_norm} normalization, {config.detector_config.proposals} proposals, "
            f"{config.detector_config.detections} detections"
        )
        for config in (own, paper)
    ]
    return sizes[0] if own.head_norm == paper.head_norm else f"{sizes[0]} (the paper's: {sizes[1]})"


def _times(factor: float) -> str:
    return "base" if factor == 1 else f"{factor:g} times the base"


def _names(cells: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in cells)


def command_section(data: DataSummary) -> str:
    """Command that repeats the run."""
    settings = data.first.settings
    height, width = settings["input_size"]
    recipe, *changes = shlex.split(str(settings["recipe_name"]))
    if settings["recipe"].get("canvas_rate") == 10.0 and f"{recipe}{FORMER_SUFFIX}" in FORMER_RECIPES:
        recipe += FORMER_SUFFIX  # the name has a new meaning now
    words = [f"python -m research.ablation --data {settings.get('data', 'DIR')}"]
    splits = settings["train"]["split"], settings["val"]["split"]
    if splits != ("train", "val"):
        words.append(f"--splits {shlex.join(splits)}")
    words += [f"--recipe {recipe}", *(f"--set {shlex.quote(c)}" for c in changes)]
    words.append(f"--input-size {height} {width}")
    if settings["val"].get("limit"):
        words.append(f"--limit {settings['val']['limit']}")
    if settings["backbone"] != "compact":
        words.append(f"--backbone {settings['backbone']}")
    if tuple(settings.get("anchor_scales", (1.0,))) != (1.0,):
        words.append(f"--anchor-scales {' '.join(f'{s:g}' for s in settings['anchor_scales'])}")
    if settings["init"] != "scratch":
        words.append(f"--init {settings['init']}")
    words += ["--half"] * bool(settings["half"])
    machine = data.first.machine
    if machine["threads"] != 1:
        words.append(f"--threads {machine['threads']}")
    if machine["device"] != "cpu":
        words.append(f"--device {machine['device']}")
    return f"```\n{' '.join([*words, '-o runs/ablation'])}\n```"


def _training_seconds(data: DataSummary) -> float:
    first = {r.settings.get("stage_one", c.name): r.seconds["stage_one"] for c, r in data.results.items()}
    second = [r.seconds["stage_two"] for c, r in data.results.items() if VARIANTS[c.variant].trains]
    return math.fsum([*first.values(), *second])
