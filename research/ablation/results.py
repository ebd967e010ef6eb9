# SPDX-License-Identifier: Apache-2.0
"""Result files: one JSON file per cell, with the settings and the provenance of its scores."""

from __future__ import annotations

import json
import platform
from collections.abc import Collection, Mapping
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any

from imp_trt.cuda.cpus import usable_cpus
from imp_trt.cuda.platform import cpu_model
from imp_trt.data.files import write_atomically
from imp_trt.errors import InvalidInput, UsageError
from imp_trt.models.presets import SYSTEMS
from imp_trt.train.config import Recipe, Stage
from imp_trt.train.evaluation import Evaluation
from imp_trt.train.provenance import source_version
from imp_trt.train.renamed import json_key
from research.ablation.cells import ALIASES, VARIANTS, Cell

JsonObject = Mapping[str, Any]
"""JSON object of a result file; nested values are read without further checks."""

FORMAT = "imp_trt.ablation/1"
TIMING_FORMAT = "imp_trt.timing/1"
TIMING = "timing.json"
"""File with the times of the systems, next to those of the cells; see :mod:`research.ablation.timing`."""

# Names of the canvas overrides in older files.
_OVERRIDE_ALIASES = {"nothing": "empty", "truth": "oracle"}


@dataclass(frozen=True, eq=False)
class CellResult:
    """Result of a finished cell.

    Attributes:
        data: name of the dataset.
        cell: the cell.
        settings: everything else that the scores depend on: data (as given to the command), backbone,
            input_size, init, half, recipe (as plain data), recipe_name, network, shown (the canvas
            override), train and val (split, number of images and, except in older files, digest of their
            content), and stage_one, the folder of the first stage, which cells may share.
        machine: hardware and software that it was evaluated with. ``source`` is the version of the source
            that evaluated it, ``trained_by`` the versions that trained its two stages, if the checkpoints
            record them; older files have digests of the source files instead, ``code`` and ``trained_by``.
        seconds: "stage_one" and "stage_two" of training, "evaluation".
        parameters: number of parameters of the network.
        canvas: recall and precision of the canvas; None without a detector.
        curve: lines of the training log, each with "stage", "step", "lr" and losses.
        evaluation: the scores.
        config_digest: digest of the resolved configuration; None in older files.
        on_training: semantic scores on images of the training set, which tell a network that has not
            learned these from one that does not generalize; None if they were not measured.
    """

    data: str
    cell: Cell
    settings: JsonObject
    machine: JsonObject
    seconds: Mapping[str, float]
    parameters: int
    canvas: JsonObject | None
    curve: tuple[JsonObject, ...]
    evaluation: Evaluation
    config_digest: str | None = None
    on_training: Evaluation | None = None

    @property
    def sources(self) -> list[str]:
        """Versions of the source that trained and evaluated the cell, each as "<kind> <name>".

        Kinds are "commit" and "version", as in :func:`imp_trt.train.provenance.source_version`, and "digest"
        (of the source files) in older results.
        """
        versions: list[str] = list(self.machine.get("trained_by", ()))
        if "source" in self.machine:
            versions.append(self.machine["source"])
        else:
            versions = [f"digest {digest}" for digest in (*versions, self.machine["code"])]
        return list(dict.fromkeys(versions))

    def to_dict(self) -> dict[str, object]:
        """Plain data for JSON."""
        return {
            "format": FORMAT,
            "data": self.data,
            "cell": {"system": self.cell.system, "variant": self.cell.variant, "seed": self.cell.seed},
            "config_digest": self.config_digest,
            "settings": dict(self.settings),
            "machine": dict(self.machine),
            "seconds": dict(self.seconds),
            "parameters": self.parameters,
            "canvas": None if self.canvas is None else dict(self.canvas),
            "curve": [dict(line) for line in self.curve],
            "evaluation": self.evaluation.to_dict(),
            **({} if self.on_training is None else {"on_training": self.on_training.to_dict()}),
        }

    @classmethod
    def from_dict(cls, data: JsonObject) -> CellResult:
        """Inverse of :meth:`to_dict`.

        Raises:
            InvalidInput: something is missing or malformed, or the format is another.
        """
        try:
            if data["format"] != FORMAT:
                raise ValueError(f"format {data['format']}")
            variant = str(data["cell"]["variant"])
            cell = Cell(str(data["cell"]["system"]), ALIASES.get(variant, variant), int(data["cell"]["seed"]))
            if cell.system not in SYSTEMS or cell.variant not in VARIANTS:
                raise ValueError(f"cell {cell.name}")
            return cls(
                str(data["data"]),
                cell,
                _current_settings(data["settings"]),
                dict(data["machine"]),
                {str(k): float(v) for k, v in data["seconds"].items()},
                int(data["parameters"]),
                None if data["canvas"] is None else dict(data["canvas"]),
                tuple(dict(line) for line in data["curve"]),
                Evaluation.from_dict(data["evaluation"]),
                data.get("config_digest"),
                Evaluation.from_dict(data["on_training"]) if "on_training" in data else None,
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InvalidInput(
                "result of a cell",
                expected=f"a file written by research.ablation ({FORMAT})",
                got=repr(error),
            ) from error


def _current_settings(settings: JsonObject) -> dict[str, object]:
    """Settings of a file with former values replaced by the current ones."""
    current = dict(settings)
    if "shown" in current:
        current["shown"] = _OVERRIDE_ALIASES.get(current["shown"], current["shown"])
    return current


def write_json(path: Path, data: Mapping[str, object]) -> Path:
    """Write a JSON file atomically, one value per line to keep diffs readable."""
    text = json.dumps(data, indent=1, allow_nan=False)
    return write_atomically(path, (text + "\n").encode())


def read_result(path: Path) -> CellResult:
    """Read one result file.

    Raises:
        InvalidInput: the file is damaged or of another format, or its name is not that of its cell.
    """
    try:
        result = CellResult.from_dict(json.loads(path.read_text()))
    except (OSError, ValueError, OverflowError, RecursionError, InvalidInput) as error:
        raise _unreadable(path, error) from error
    if path.parent.name != result.data or path.stem not in result.cell.names:
        # A copy under another name would count as a cell that was never run, or replace one that was.
        raise InvalidInput(
            f"results {path}",
            expected=f"the file {result.data}/{result.cell.name}.json for what it holds",
            got=f"{path.parent.name}/{path.name}",
            fix="give the file its own name, or delete it",
        )
    return result


def read_results(folder: Path) -> list[CellResult]:
    """Read all results below a folder, sorted by path.

    Raises:
        InvalidInput: a file is damaged or of another format, or two files have the same cell.
        UsageError: there are no results.
    """
    paths = sorted(p for p in folder.glob("*/*.json") if p.name != TIMING and not p.name.startswith("."))
    if not paths:
        raise UsageError(
            f"results in {folder}",
            expected="files SET/SYSTEM-VARIANT-sSEED.json",
            got="none",
            fix="run python -m research.ablation with --data first, or name another folder with --results",
        )
    found: dict[tuple[str, Cell], CellResult] = {}
    for path in paths:
        result = read_result(path)
        if (result.data, result.cell) in found:
            raise InvalidInput(
                f"results {path}",
                expected="one file per cell",
                got=f"a second one of {result.cell.name}, under a former name",
                fix="delete one of the two",
            )
        found[result.data, result.cell] = result
    return list(found.values())


def settings_difference(
    actual: JsonObject, expected: JsonObject, ignore: Collection[str] = frozenset()
) -> str | None:
    """First difference between the settings of two results, such as "half: true, not false", or None.

    A recipe field that one side lacks was added later and is taken at its default. Other settings are
    compared if both sides have them.

    Args:
        actual, expected: settings to compare.
        ignore: recipe fields that may differ.
    """
    one, other = _completed(actual), _completed(expected)
    for name in ignore:
        one.get("recipe", {}).pop(name, None)
    return _difference(one, other)


def _completed(settings: JsonObject) -> dict[str, Any]:
    if "recipe" not in settings:
        return dict(settings)
    recipe = {**_defaults(Recipe), **settings["recipe"]}
    for stage in ("stage_one", "stage_two"):
        if stage in recipe:
            recipe[stage] = {**_defaults(Stage), **recipe[stage]}
    return {**settings, "recipe": recipe}


def _defaults(kind: type[Recipe] | type[Stage]) -> JsonObject:
    plain: JsonObject = json.loads(
        json.dumps({json_key(f.name): f.default for f in fields(kind) if f.default is not MISSING})
    )
    return plain


def _difference(actual: JsonObject, expected: JsonObject) -> str | None:
    for name in actual:
        if name not in expected:
            continue
        one, other = actual[name], expected[name]
        if isinstance(one, Mapping) and isinstance(other, Mapping):
            inner = _difference(one, other)
            if inner is not None:
                return f"{name}.{inner}"
        elif one != other:
            return f"{name}: {json.dumps(one)}, not {json.dumps(other)}"
    return None


def machine_facts(threads: int, device: str) -> dict[str, object]:
    """Hardware and software that scores and times depend on; nothing that identifies the machine."""
    import torch

    import imp_trt

    facts: dict[str, object] = {
        "cpu": cpu_model(),
        "cpus": usable_cpus(),
        "threads": threads,
        "device": device,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "imp_trt": imp_trt.__version__,
        "source": source_version(),
    }
    if device.startswith("cuda"):
        facts["gpu"] = torch.cuda.get_device_name(device)
    return facts


def _unreadable(path: Path, error: Exception) -> InvalidInput:
    return InvalidInput(
        f"results {path}",
        expected=f"a complete file of format {FORMAT}",
        got=error,
        fix="delete the file; the next run fills the cell again",
    )
