# SPDX-License-Identifier: Apache-2.0
"""What `make matrix` would install, and what it says of a Python that is missing."""

from __future__ import annotations

import sys

import pytest

from tests import matrix


def test_every_requirement_is_held_to_its_lower_bound():
    table = {
        "name": "p",
        "dependencies": ["numpy>=1.26"],
        "optional-dependencies": {"a": ["b[c]>=8", "p[d,e]"], "d": ["d>=1.2.3,<2"], "e": ["numpy>=1.26"]},
    }
    assert matrix.lowest(table, "a", "3.10") == ["b==8.0.*", "d==1.2.3.*", "numpy==1.26.*"]
    table["dependencies"] = ["numpy>=2"]
    assert "numpy==2.0.*" in matrix.lowest(table, "a", "3.10")
    assert "numpy==2.0.*" in matrix.lowest(table, "e", "3.10")
    table["dependencies"] = ["numpy<3"]
    with pytest.raises(ValueError, match="'numpy<3' has no lower bound"):
        matrix.lowest(table, "a", "3.10")


def test_the_project_s_own_bounds_agree():
    table = matrix.project()
    for extra in table["optional-dependencies"]:
        for python in matrix.pythons(table):
            assert any(pin.startswith("numpy==") for pin in matrix.lowest(table, extra, python))


def test_a_marker_decides_for_a_python():
    both = ["n>=1; python_version < '3.13'", "n>=2.1; python_version >= '3.13'"]
    table = {"name": "p", "dependencies": both, "optional-dependencies": {}}
    assert matrix.lowest(table, "", "3.10") == ["n==1.0.*"]
    assert matrix.lowest(table, "", "3.13") == ["n==2.1.*"]


def test_the_core_requires_neither_package_of_opencv():
    # pip cannot say "either": a requirement of one makes `pip check` complain about the other.
    table = matrix.project()
    assert [r.name for r in matrix.requirements(table, "")] == ["numpy", "numpy"]
    for extra in (
        "onnx",
        "torch",
        "export",
        "train",
        "eval",
        "cuda",
        "tensorrt-cu12",
        "tensorrt-rtx",
        "openvino",
    ):
        assert "opencv-python" in {r.name for r in matrix.requirements(table, extra)}
    assert [r.name for r in matrix.requirements(table, "headless")] == ["opencv-python-headless"]


def test_the_lowest_versions_are_made_for_both_ends_of_python(capsys):
    matrix.main(["--deps", "lowest", "--plan"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in lines] == ["python3.10-lowest", "python3.13-lowest"]


def test_this_python_is_found_and_one_of_the_future_is_not():
    version = "{}.{}".format(*sys.version_info)
    assert version in matrix.pythons(matrix.project())
    assert matrix.interpreter("3.99") is None


def test_a_python_that_is_missing_is_named(capsys):
    assert matrix.main(["--python", "3.99", "--deps", "newest"]) == 1
    assert "python3.99-newest: NOT RUN: Python 3.99 is not installed" in capsys.readouterr().out


def test_a_step_that_fails_is_named(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(matrix, "interpreter", lambda version: "/bin/false")
    assert matrix.main(["--python", "3.11", "--deps", "newest", "--folder", str(tmp_path)]) == 1
    assert "python3.11-newest: FAILED: making the environment, exit code 1" in capsys.readouterr().out
