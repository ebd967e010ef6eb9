"""Result files: one JSON file per cell, with all that is needed to read its numbers rightly."""

from __future__ import annotations

import json
import platform
from collections.abc import Collection, Mapping
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any

from imp_trt.errors import InvalidInput, UsageError
from imp_trt.files import write_atomically
from imp_trt.models.presets import SYSTEMS
from imp_trt.platform_info import cpu_model, usable_cpus
from imp_trt.train.code_digest import code_digest
from imp_trt.train.config import Recipe, Stage
from imp_trt.train.evaluate import Evaluation
from research.ablation.cells import VARIANTS, Cell

FORMAT = "imp_trt.ablation/1"
TIMING_FORMAT = "imp_trt.timing/1"
TIMING = "timing.json"
"""File beside the cells' with the times of the systems; see :mod:`research.ablation.timing`."""


@dataclass(frozen=True, eq=False)
class CellResult:
    """What is known of a finished cell.

    Attributes:
        data: name of the data set.
        cell: which cell.
        settings: everything else that decides the numbers: data (as a command names it), backbone,
            input_size, init, half, recipe (as plain data), recipe_name, network, shown, train and val (split
            and number of pictures), and stage_one, the same for cells that share it.
        machine: what it was trained and measured on. ``code`` is the digest of what measured it,
            ``trained_by`` those of what trained its two stages, where the checkpoints tell.
        seconds: "stage_one" and "stage_two" of training, "evaluation".
        parameters: number of trained values of the network.
        canvas: recall and precision of the canvas; None without a detector.
        curve: lines of the training log, each with "stage", "step", "lr" and losses.
        evaluation: the scores.
    """

    data: str
    cell: Cell
    settings: Mapping[str, Any]
    machine: Mapping[str, Any]
    seconds: Mapping[str, float]
    parameters: int
    canvas: Mapping[str, Any] | None
    curve: tuple[Mapping[str, Any], ...]
    evaluation: Evaluation

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "format": FORMAT,
            "data": self.data,
            "cell": {"system": self.cell.system, "variant": self.cell.variant, "seed": self.cell.seed},
            "settings": dict(self.settings),
            "machine": dict(self.machine),
            "seconds": dict(self.seconds),
            "parameters": self.parameters,
            "canvas": None if self.canvas is None else dict(self.canvas),
            "curve": [dict(line) for line in self.curve],
            "evaluation": self.evaluation.to_dict(),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> CellResult:
        """Inverse of :meth:`to_dict`.

        Raises:
            InvalidInput: something is missing or malformed, or the format is another.
        """
        try:
            if data["format"] != FORMAT:
                raise ValueError(f"format {data['format']}")
            cell = Cell(str(data["cell"]["system"]), str(data["cell"]["variant"]), int(data["cell"]["seed"]))
            if cell.system not in SYSTEMS or cell.variant not in VARIANTS:
                raise ValueError(f"cell {cell.name}")
            return cls(
                str(data["data"]),
                cell,
                dict(data["settings"]),
                dict(data["machine"]),
                {str(k): float(v) for k, v in data["seconds"].items()},
                int(data["parameters"]),
                None if data["canvas"] is None else dict(data["canvas"]),
                tuple(dict(line) for line in data["curve"]),
                Evaluation.from_dict(data["evaluation"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InvalidInput(
                "result of a cell",
                expected=f"a file written by research.ablation ({FORMAT})",
                got=repr(error),
            ) from error


def write_json(path: Path, data: Mapping[str, Any]) -> Path:
    """Write one file of results, one value a line, so that two versions can be compared."""
    text = json.dumps(data, indent=1, allow_nan=False)
    return write_atomically(path, (text + "\n").encode())


def read_result(path: Path) -> CellResult:
    """Read one file.

    Raises:
        InvalidInput: it is no result of this version, or lies where another result belongs.
    """
    try:
        result = CellResult.from_dict(json.loads(path.read_text()))
    except (OSError, ValueError, InvalidInput) as error:
        raise _unreadable(path, error) from error
    if (path.parent.name, path.stem) != (result.data, result.cell.name):
        # A copy under another name would count as a cell that was never run, or displace one that was.
        raise InvalidInput(
            f"results {path}",
            expected=f"the file {result.data}/{result.cell.name}.json for what it holds",
            got=f"{path.parent.name}/{path.name}",
            fix="give the file its own name, or delete it",
        )
    return result


def read_results(folder: Path) -> list[CellResult]:
    """Every result below a folder, by data set, system, variant and seed.

    Raises:
        InvalidInput: a file is no result of this version; UsageError: there is no result at all.
    """
    paths = sorted(p for p in folder.glob("*/*.json") if p.name != TIMING and not p.name.startswith("."))
    if not paths:
        raise UsageError(
            f"results in {folder}",
            expected="files SET/SYSTEM-VARIANT-sSEED.json",
            got="none",
            fix="run python -m research.ablation with --data first, or name another folder with --results",
        )
    return [read_result(path) for path in paths]


def unlike_settings(
    found: Mapping[str, Any], wanted: Mapping[str, Any], but: Collection[str] = frozenset()
) -> str | None:
    """What keeps results from belonging to the experiment at hand, as "half: true, not false", or None.

    A field of the recipe that came later had its default when a file without it was made. Of the other
    settings those are compared that both sides name.

    Args:
        but: fields of the recipe that may differ.
    """
    one, other = _completed(found), _completed(wanted)
    for name in but:
        one.get("recipe", {}).pop(name, None)
    return _difference(one, other)


def _completed(settings: Mapping[str, Any]) -> dict[str, Any]:
    if "recipe" not in settings:
        return dict(settings)
    recipe = {**_defaults(Recipe), **settings["recipe"]}
    for stage in ("stage_one", "stage_two"):
        if stage in recipe:
            recipe[stage] = {**_defaults(Stage), **recipe[stage]}
    return {**settings, "recipe": recipe}


def _defaults(kind: type[Recipe] | type[Stage]) -> dict[str, Any]:
    plain: dict[str, Any] = json.loads(
        json.dumps({f.name: f.default for f in fields(kind) if f.default is not MISSING})
    )
    return plain


def _difference(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> str | None:
    for name in found:
        if name not in wanted:
            continue
        one, other = found[name], wanted[name]
        if isinstance(one, Mapping) and isinstance(other, Mapping):
            inner = _difference(one, other)
            if inner is not None:
                return f"{name}.{inner}"
        elif one != other:
            return f"{name}: {json.dumps(one)}, not {json.dumps(other)}"
    return None


def machine_facts(threads: int, device: str) -> dict[str, Any]:
    """What the numbers of this process depend on; nothing that names the machine."""
    import torch

    import imp_trt

    facts: dict[str, Any] = {
        "cpu": cpu_model(),
        "cpus": usable_cpus(),
        "threads": threads,
        "device": device,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "imp_trt": imp_trt.__version__,
        "code": code_digest(),
    }
    if device.startswith("cuda"):
        facts["gpu"] = torch.cuda.get_device_name(device)
    return facts


def _unreadable(path: Path, error: Exception) -> InvalidInput:
    return InvalidInput(
        f"results {path}",
        expected=f"a whole file of format {FORMAT}",
        got=error,
        fix="delete the file; the next run fills the cell again",
    )
