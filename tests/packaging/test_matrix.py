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
    assert matrix.lowest(table, "a") == ["b==8.0.*", "d==1.2.3.*", "numpy==1.26.*"]
    table["dependencies"] = ["numpy>=2"]
    with pytest.raises(ValueError, match="numpy has the lower bounds"):
        matrix.lowest(table, "a")
    table["dependencies"] = ["numpy<3"]
    with pytest.raises(ValueError, match="'numpy<3' has no lower bound"):
        matrix.lowest(table, "a")


def test_the_project_s_own_bounds_agree():
    table = matrix.project()
    for extra in table["optional-dependencies"]:
        assert any(pin.startswith("numpy==") for pin in matrix.lowest(table, extra))


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
