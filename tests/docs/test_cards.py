# SPDX-License-Identifier: Apache-2.0
"""What the model cards say of the networks, against the checkpoints."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from imp_trt.models.checkpoint import load_model

ROOT = Path(__file__).resolve().parents[2]
CARDS = sorted(
    [*(ROOT / "samples" / "weights").glob("*_imp.md"), *(ROOT / "imp_trt" / "weights").glob("*.md")]
)


@pytest.fixture(params=CARDS, ids=lambda path: path.stem)
def card(request):
    network, metadata = load_model(request.param.with_suffix(".safetensors"))
    return request.param.read_text(), network.config, metadata


def numbers(pattern: str, text: str) -> list[int]:
    found = re.search(pattern, text)
    assert found, f"the card has no text like {pattern!r}"
    return [int(number) for number in found.groups()]


def test_there_are_cards():
    assert [path.stem for path in CARDS] == ["scenes", "camvid_imp", "ccp_imp"]


def test_channels_and_input(card):
    text, config, _ = card
    assert numbers(r"semantic head have (\d+) channels", text) == [config.fpn_channels]
    assert config.semantic_channels == config.fpn_channels
    assert numbers(r"\| Input \| (\d+)x(\d+)", text) == list(config.input_size)


def test_crops_and_iterations(card):
    text, _, metadata = card
    recipe = metadata["recipe"]
    assert numbers(r"(\d+) crops of (\d+)x(\d+) each", text) == [recipe["batch"], *recipe["crop"]]
    stages = [recipe[stage]["iterations"] for stage in ("stage_one", "stage_two")]
    steps = re.findall(r"stage (?:one|two) ([\d,]+) (?:steps|iterations)", text)
    assert [int(number.replace(",", "")) for number in steps] == stages


def test_the_command_has_the_recipe_of_the_checkpoint(card):
    from imp_trt.train.recipes import recipe

    text, _, metadata = card
    name = re.search(r"imp-train [^`]*--recipe (\S+)", text)[1]
    trained, named = metadata["recipe"], json.loads(json.dumps(recipe(name).to_dict()))
    stages = ("stage_one", "stage_two")
    # Fields that came later are not in old checkpoints.
    common = [key for key in named if key in trained and key not in stages]
    assert {key: trained[key] for key in common} == {key: named[key] for key in common}
    for stage in stages:
        assert {**trained[stage], "iterations": 0} == {**named[stage], "iterations": 0}


ZOO = (ROOT / "docs" / "model-zoo.md").read_text()
ROWS = {"mIoU": "**mIoU**", "... of things": "mIoU of the", "Box AP, mask AP": "box AP, mask AP"}


@pytest.mark.parametrize("column", range(len(CARDS)))
@pytest.mark.parametrize("row", ROWS)
def test_the_model_zoo_has_the_scores_of_the_cards(column, row):
    """Columns of the zoo are in the order of CARDS."""
    cell = re.search(rf"^\| {re.escape(row)} \|(.*)\|$", ZOO, re.MULTILINE)[1].split("|")[column]
    line = re.search(rf"^\| {re.escape(ROWS[row])}[^|]*\|([^|]*)\|", CARDS[column].read_text(), re.MULTILINE)
    decimals = r"\d+\.\d+"
    assert re.findall(decimals, cell) == re.findall(decimals, line[1])
