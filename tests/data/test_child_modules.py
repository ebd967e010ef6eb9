# SPDX-License-Identifier: Apache-2.0
"""Child processes import this package, and change nothing else of the search for modules."""

from __future__ import annotations

import os
import site
from pathlib import Path

import pytest

import imp_trt
from imp_trt.data.child_modules import importing_this_package

ROOT = str(Path(imp_trt.__file__).absolute().parents[1])


@pytest.fixture(autouse=True)
def _a_checkout(monkeypatch):
    monkeypatch.setattr(site, "getsitepackages", lambda: ["/usr/lib/python3/site-packages"])


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, [ROOT]),
        ({"PYTHONPATH": ""}, [ROOT]),
        ({"PYTHONPATH": f"/mine{os.pathsep}mine"}, [ROOT, "/mine", "/work/mine"]),
        ({"PYTHONPATH": f"/mine{os.pathsep}{ROOT}"}, [ROOT, "/mine"]),
    ],
)
def test_the_folder_of_a_checkout_comes_first(monkeypatch, given, expected):
    monkeypatch.setattr(os.path, "abspath", lambda path: os.path.join("/work", path))
    found = importing_this_package({"HOME": "/home/me", **given})
    assert found == {"HOME": "/home/me", "PYTHONPATH": os.pathsep.join(expected)}


def test_an_installed_package_needs_no_folder(monkeypatch):
    monkeypatch.setattr(site, "getsitepackages", lambda: [ROOT])
    assert importing_this_package({"A": "b"}) == {"A": "b"}
