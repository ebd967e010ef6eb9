# SPDX-License-Identifier: Apache-2.0
"""The page: every number comes from the files, and what was not run is said."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from xml.etree import ElementTree

import pytest

from imp_trt.errors import InvalidInput, UsageError
from research.ablation.cells import CONTROL, HEADLINE, Cell, plan
from research.ablation.paper import GAINS, VCP
from research.ablation.results import TIMING, write_json
from research.ablation.summary import NOTES, Spread, read_summaries
from tests.research.ablation.made import SOURCE, made

pytest.importorskip("faster_coco_eval", reason="needs faster-coco-eval")
pytest.importorskip("matplotlib", reason="needs Matplotlib")

MISSES = {(CONTROL, 0): 8, (CONTROL, 1): 9, (HEADLINE, 0): 3, (HEADLINE, 1): 5}
"""Columns of each pet that a system and seed leaves out."""


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("results")
    cells = {Cell(system, "base", seed): m for (system, seed), m in MISSES.items()}
    cells |= {Cell(HEADLINE, "rect", 0): 4, Cell("semantic-p2", "base", 0): 9}
    cells |= {Cell("mask-rcnn-imp", v, 0): m for v, m in (("base", 6), ("background-0.3", 4))}
    for cell, misses in cells.items():
        write_json(folder / "pets" / f"{cell.name}.json", made(cell, misses).to_dict())
    return folder


@pytest.fixture(scope="module")
def written(results, tmp_path_factory):
    from research.ablation.page import write_page

    files = write_page(results, tmp_path_factory.mktemp("docs") / "ablation.md")
    return files, files[0].read_text()


def kept(folder, result):
    write_json(folder / result.data / f"{result.cell.name}.json", result.to_dict())


def rows(text: str) -> dict[str, list[str]]:
    """The first table row that starts with each name."""
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        if line.startswith("| "):
            cells = [cell.strip() for cell in line.strip("|").split("|")]
            found.setdefault(cells[0], cells[1:])
    return found


def test_the_table_of_systems_has_means_and_ranges_over_seeds(written):
    values = [
        100 * made(Cell(HEADLINE, "base", s), MISSES[HEADLINE, s]).evaluation.semantic.thing_iou
        for s in (0, 1)
    ]
    row = rows(written[1])[HEADLINE]
    assert row[0] == "2"
    assert row[4] == f"{sum(values) / 2:.1f} ({min(values):.1f} to {max(values):.1f})"
    assert row[1] == "100.0 (100.0 to 100.0)"
    assert row[-1] == "75.0 (75.0 to 75.0)"
    # No detector: no boxes, no canvas.
    assert rows(written[1])["semantic-p2"][1] == rows(written[1])["semantic-p2"][-1] == "\N{EN DASH}"
    assert rows(written[1])["panoptic-p2"][0] == "none"


def test_gains_are_taken_seed_by_seed(written):
    def cat(system, seed):
        return float(made(Cell(system, "base", seed), MISSES[system, seed]).evaluation.semantic.iou[0])

    gains = [100 * (cat(HEADLINE, s) - cat(CONTROL, s)) for s in (0, 1)]
    row = rows(written[1])["cat"]
    assert row[3] == (f"+{sum(gains) / 2:.1f} (+{min(gains):.1f} to +{max(gains):.1f})")
    assert row[4:] == ["100.0 (100.0 to 100.0)", "60.0 (60.0 to 60.0)"]
    assert rows(written[1])["wall"][4:] == ["\N{EN DASH}"] * 2
    assert "it is higher with IMP in 2 of 2 seeds" in written[1]


def test_what_was_not_run_is_listed(written):
    missing = next(
        line
        for line in written[1].splitlines()
        if line.startswith("Without a result (not run, or diverged):")
    )
    assert "`panoptic-p2-base-s0`" in missing
    assert "`panoptic-fpn-imp-base-s2`" in missing
    assert "rect" not in missing
    assert "nearest sampling" not in rows(written[1])


def test_the_page_says_what_was_run(written):
    table = rows(written[1])
    assert "Test CPU, 1 of 2 CPUs" in table["machine"][0]
    assert table["initial weights"] == ["random, none pretrained"]
    assert table["code (commit)"] == ["abcabcabcabc"]
    assert table["panoptic-fpn-imp-rect-s0"][-1] == "0123456789ab"
    # Two shared first stages of an hour; eight trainings less the sweep's, of half an hour each.
    assert table["training time"][0].startswith("5.5 hours")
    assert (
        "python -m research.ablation --data coco:DIR --recipe pets-short --input-size 64 96 --half"
        in written[1]
    )


def test_the_sweep_has_the_base_among_its_scores(written):
    assert re.search(r"\| 0\.3 \|.*\n\| 0\.5 \|", written[1])


def test_charts_are_whole_and_linked(written):
    files, text = written
    links = re.findall(r"\]\((ablation/[^)]+\.svg)\)", text)
    assert sorted(links) == sorted(f"ablation/{path.name}" for path in files[1:])
    assert len(links) == 5  # gains of one pair, two boundary plots, background, loss
    for path in files[1:]:
        assert ElementTree.parse(path).getroot().tag.endswith("svg")  # our own file


def test_the_page_is_the_same_each_time(results, written, tmp_path):
    from research.ablation.page import write_page

    again = write_page(results, tmp_path / "ablation.md")
    assert [p.read_bytes() for p in again] == [p.read_bytes() for p in written[0]]


def test_notes_and_times_join_the_page(results, tmp_path):
    from research.ablation.page import write_page

    folder = tmp_path / "results"
    data = made(Cell(CONTROL, "base", 0), 4).to_dict()
    write_json(folder / "pets" / f"{CONTROL}-base-s0.json", data)
    (folder / "pets" / NOTES).write_text("The detector finds **few** dogs.\n")
    figures = {"p50": 10.0, "p90": 12.0, "mean": 10.5}
    systems = {CONTROL: {"total": figures, "infer": figures, "ratio": 1.0}}
    timing = {"format": "imp_trt.timing/1", "pictures": 30, "machine": data["machine"], "systems": systems}
    timing |= {name: data["settings"][name] for name in ("backbone", "input_size")}
    write_json(folder / "pets" / TIMING, timing)
    text = write_page(folder, tmp_path / "page.md")[0].read_text()
    assert "The detector finds **few** dogs." in text
    assert "| panoptic-fpn | 10 / 12 | 10 / 12 | 1.00 |" in text
    assert "No pair was run." in text


@pytest.mark.slow
def test_all_variants_belong_to_one_experiment(tmp_path):
    for cell in plan():
        kept(tmp_path, made(cell, 3))
    (data,) = read_summaries(tmp_path)
    assert not data.missing


def test_two_experiments_in_one_folder_are_rejected(tmp_path):
    kept(tmp_path, made(Cell(CONTROL, "base", 0), 4))
    kept(tmp_path, made(Cell(CONTROL, "base", 1), 4, half=False))
    with pytest.raises(InvalidInput, match="another experiment"):
        read_summaries(tmp_path)


def test_results_with_other_classes_are_rejected(tmp_path):
    kept(tmp_path, made(Cell(CONTROL, "base", 0), 4))
    data = made(Cell(HEADLINE, "base", 0), 4).to_dict()
    text = json.dumps(data).replace('"cat"', '"fox"')
    (tmp_path / "pets" / f"{HEADLINE}-base-s0.json").write_text(text)
    with pytest.raises(InvalidInput, match="the classes of panoptic-fpn-base-s0"):
        read_summaries(tmp_path)


@pytest.mark.parametrize(
    "change", [{"backbone": "resnet50"}, {"input_size": [512, 1024]}, {"format": "imp_trt.timing/9"}, None]
)
def test_times_of_other_networks_are_rejected(tmp_path, change):
    result = made(Cell(CONTROL, "base", 0), 4)
    kept(tmp_path, result)
    found = {"format": "imp_trt.timing/1", **{k: result.settings[k] for k in ("backbone", "input_size")}}
    write_json(tmp_path / "pets" / TIMING, {} if change is None else {**found, **change})
    with pytest.raises(InvalidInput, match="times"):
        read_summaries(tmp_path)


def test_a_pair_is_compared_at_the_seeds_that_both_have(tmp_path):
    from research.ablation.page import write_page

    # Seed 1 of the control, much worse, has no partner yet.
    for cell, misses in ((Cell(CONTROL, "base", 0), 4), (Cell(CONTROL, "base", 1), 14)):
        kept(tmp_path, made(cell, misses))
    kept(tmp_path, made(Cell(HEADLINE, "base", 0), 4))
    files = write_page(tmp_path, tmp_path / "page.md")
    text = files[0].read_text()
    near = next(line for line in text.splitlines() if line.startswith("| 10 |"))
    for before, after, gain in (rows(text)["cat"][1:4], near.strip("| ").split(" | ")[1:4]):
        assert before == after
        assert gain == "0.0"
    chart = next(p for p in files if p.name.endswith("boundary-miou.svg")).read_text()
    assert "FillBetween" not in chart  # no band over seeds that are not compared
    assert "One seed:" in text


def test_a_pair_that_differs_in_more_than_imp_is_reported(tmp_path):
    from research.ablation.page import write_page

    kept(tmp_path, made(Cell(CONTROL, "base", 0), 4))
    other = made(Cell(HEADLINE, "base", 0), 3, stage_one="stage-one-other")
    facts = {**other.machine, "cpu": "Other CPU", "source": "commit def+changes", "trained_by": [SOURCE]}
    kept(tmp_path, replace(other, machine=facts))
    kept(tmp_path, made(Cell(HEADLINE, "rect", 0), 3))
    text = write_page(tmp_path, tmp_path / "page.md")[0].read_text()
    assert "FPN pair: the first stage is not shared at seed 0" in text
    assert "FPN pair: the two were evaluated on different machines or code versions at seed 0" in text
    assert "Other CPU, 1 of 2 CPUs, PyTorch 2.15.0: `panoptic-fpn-imp-base-s0`; all others: Test CPU" in text
    exception = "abcabcabcabc + def+changes: `panoptic-fpn-imp-base-s0`; all others: abcabcabcabc."
    assert f"produced by one version of the code. {exception}" in text
    assert "`+changes`: source files differed from that commit." in text


def test_old_results_name_their_code_by_digest(tmp_path):
    from research.ablation.page import write_page

    old = made(Cell(CONTROL, "base", 0), 4)
    machine = {k: v for k, v in old.machine.items() if k != "source"}
    old = replace(old, machine={**machine, "code": "5088433c8176"}, config_digest=None)
    kept(tmp_path, old)
    text = write_page(tmp_path, tmp_path / "page.md")[0].read_text()
    assert rows(text)["code (digest)"] == ["5088433c8176"]
    assert "configuration" not in text
    assert "cannot be told" not in text
    # Together with a new one, whose version has another kind of name.
    kept(tmp_path, made(Cell(HEADLINE, "base", 0), 4))
    text = write_page(tmp_path, tmp_path / "page.md")[0].read_text()
    assert rows(text)["code"] == ["commit abcabcabcabc, digest 5088433c8176"]
    assert "Not all cells were produced by one version of the code. " in text
    assert "do not show whether a digest and a commit are the same code" in text
    assert rows(text)["panoptic-fpn-base-s0"][-1] == "\N{EN DASH}"
    assert rows(text)["panoptic-fpn-imp-base-s0"][-1] == "0123456789ab"


def test_links_of_the_notes_lead_to_the_same_files_from_the_page(tmp_path):
    from research.ablation.page import write_page

    kept(tmp_path / "results", made(Cell(CONTROL, "base", 0), 4))
    notes = "![pair](pair.jpg) [card](../../card.md) [site](https://example.org/a) [part](#part)"
    (tmp_path / "results/pets/notes.md").write_text(notes)
    text = write_page(tmp_path / "results", tmp_path / "docs/page.md")[0].read_text()
    assert (
        "![pair](../results/pets/pair.jpg) [card](../card.md) [site](https://example.org/a) [part](#part)"
        in text
    )


def test_the_command_repeats_what_the_files_say(tmp_path):
    from research.ablation.run_sections import command_section

    result = made(
        Cell(CONTROL, "base", 0),
        4,
        recipe_name="pets-short 'bootstrap=(0.1, 0.5)'",
        train={"split": "trainval", "images": 3},
        val={"split": "test", "images": 3, "limit": 3},
    )
    kept(tmp_path, replace(result, machine={**result.machine, "threads": 4}))
    command = command_section(read_summaries(tmp_path)[0])
    assert "python -m research.ablation --data coco:DIR --splits trainval test " in command
    assert "--recipe pets-short --set 'bootstrap=(0.1, 0.5)'" in command
    assert "--limit 3" in command
    assert "--threads 4" in command


def test_a_page_is_a_markdown_file(results, tmp_path):
    from research.ablation.page import write_page

    with pytest.raises(UsageError, match=r"\.md"):
        write_page(results, tmp_path / "page.html")
    assert list(tmp_path.iterdir()) == []


def test_a_spread_leaves_out_what_was_not_measured():
    assert Spread.of([math.nan, 0.25, 0.75]) == Spread(0.5, 0.25, 0.75, 2)
    assert Spread.of([math.nan]) is None


def test_the_papers_gains_are_the_differences_of_its_rows():
    fpn, p2 = (g for g in GAINS if g.where == "VCP, Table 1")
    for gain, with_, without in ((fpn, HEADLINE, CONTROL), (p2, "panoptic-p2-imp", "panoptic-p2")):
        assert gain.miou == pytest.approx(VCP[with_].miou - VCP[without].miou)
        assert gain.macc == pytest.approx(VCP[with_].macc - VCP[without].macc)


def test_scores_on_training_images_stand_beside_the_others(tmp_path):
    from research.ablation.page import write_page

    cell = Cell(HEADLINE, "base", 0)
    better = made(cell, 1).evaluation
    kept(tmp_path, replace(made(cell, 4), on_training=better))
    text = write_page(tmp_path, tmp_path / "ablation.md")[0].read_text()
    part = text.split("### Training images against validation images")[1].split("###")[0]
    row = rows(part)[f"`{cell.name}`"]
    val = made(cell, 4).evaluation
    assert row[0] == str(better.images)
    figures = (
        better.semantic.mean_iou,
        val.semantic.mean_iou,
        better.semantic.thing_iou,
        val.semantic.thing_iou,
    )
    assert row[1:] == [f"{100 * figure:.1f}" for figure in figures]


def test_without_scores_on_training_images_nothing_is_reported_of_them(written):
    assert "Training images against" not in written[1]
