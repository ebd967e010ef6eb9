"""imp-train and imp-eval from end to end, at the smallest size."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from imp_trt.cli import eval as eval_command
from imp_trt.cli import train as train_command
from imp_trt.train import config as recipes
from imp_trt.train.config import Stage


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    tiny = replace(
        recipes.RECIPES["smoke"],
        stage_one=Stage(2, 1e-3, 1e-3, warmup=1),
        stage_two=Stage(2, 1e-3, 1e-3, warmup=1),
        crop=(64, 64),
    )
    arguments = [
        "--data",
        "scenes:64x128",
        "--recipe",
        "tiny",
        "--input-size",
        "64",
        "128",
        "-o",
        str(folder),
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(recipes.RECIPES, "tiny", tiny)
        assert train_command.main([*arguments, "--pair", "--threads", "1", "--half"]) == 0
    return folder


def test_a_pair_is_written(trained):
    names = {p.name for p in trained.glob("*.safetensors")}
    assert names == {"stage_one.safetensors", "imp.safetensors", "plain.safetensors"}
    # Kernels as float16: the results are half of the float32 file that stage two starts from.
    sizes = {p.stem: p.stat().st_size for p in trained.glob("*.safetensors")}
    assert sizes["imp"] < 0.6 * sizes["stage_one"]


def test_eval_prints_scores_as_json(trained, capsys):
    model = str(trained / "imp.safetensors")
    assert eval_command.main([model, "--data", "scenes:64x128", "--limit", "2", "--json", "-q"]) == 0
    scores = json.loads(capsys.readouterr().out)
    assert 0 <= scores["mean_iou"] <= 1
    assert set(scores["iou"]) >= {"road", "car"}


def test_eval_table_names_every_class(trained, capsys):
    assert (
        eval_command.main([str(trained / "plain.safetensors"), "--data", "scenes:64x128", "--limit", "1"])
        == 0
    )
    text = capsys.readouterr().out
    assert "mIoU" in text
    assert "car" in text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["none.safetensors", "--data", "scenes"], "existing file"),
        (["MODEL", "--data", "camvid:/nowhere"], "/nowhere"),
    ],
)
def test_mistakes_exit_2_with_one_line(trained, capsys, arguments, words):
    arguments = [a.replace("MODEL", str(trained / "imp.safetensors")) for a in arguments]
    assert eval_command.main(arguments) == 2
    error = capsys.readouterr().err
    assert words in error
    assert "Traceback" not in error


@pytest.mark.parametrize(
    "change",
    [
        ["--recipe", "nope"],
        ["--system", "nope"],
        ["--backbone", "nope"],
        ["--input-size", "65", "64"],
        ["--device", "abacus"],
        ["--system", "panoptic-fpn", "--pair"],
        ["--system", "mask-rcnn-imp", "--pair"],
    ],
)
def test_wrong_names_exit_2(tmp_path, capsys, change):
    arguments = ["--data", "scenes:64x128", "--recipe", "smoke", "-o", str(tmp_path / "run"), *change]
    assert train_command.main(arguments) == 2
    assert "expected" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("change", [["--threads", "-1"], ["--threads", "0"], ["--seed", "-1"]])
def test_numbers_out_of_range_are_usage_errors(tmp_path, change):
    arguments = ["--data", "scenes:64x128", "--recipe", "smoke", "-o", str(tmp_path / "run"), *change]
    with pytest.raises(SystemExit) as stopped:
        train_command.main(arguments)
    assert stopped.value.code == 2


def test_an_output_folder_that_is_a_file_exits_2(tmp_path, capsys):
    (tmp_path / "run").write_text("")
    arguments = ["--data", "scenes:64x128", "--recipe", "smoke", "-o", str(tmp_path / "run")]
    assert train_command.main(arguments) == 2
    assert "cannot be written" in capsys.readouterr().err
