# SPDX-License-Identifier: Apache-2.0
"""The version of the source and the digest of a configuration."""

from __future__ import annotations

import re
import subprocess

import pytest

import imp_trt
from imp_trt.train import provenance
from imp_trt.train.provenance import checkout_version, config_digest, dataset_facts, source_version
from tests.train.boxes import Boxes


def git(folder, *arguments):
    identity = ("-c", "user.name=Test", "-c", "user.email=test@example.org")
    subprocess.run(["git", "-C", folder, *identity, *arguments], check=True, capture_output=True)


@pytest.fixture
def checkout(tmp_path):
    """A repository with a package, a module next to it, and a page."""
    root = tmp_path / "checkout"
    (root / "package").mkdir(parents=True)
    for name in ("package/__init__.py", "train.py", "page.md"):
        (root / name).write_text("")
    git(root, "init")
    git(root, "add", ".")
    git(root, "commit", "-m", "one")
    return root


def test_a_checkout_is_named_by_its_commit(checkout):
    head = subprocess.run(
        ["git", "-C", checkout, "rev-parse", "HEAD"], check=True, capture_output=True, text=True
    )
    assert checkout_version(checkout / "package") == f"commit {head.stdout.strip()}"


@pytest.mark.parametrize("name", ["train.py", "new.py", "package/kernel.cu"])
def test_changed_and_new_sources_are_marked(checkout, name):
    (checkout / name).write_text("changed")
    assert checkout_version(checkout / "package").endswith("+changes")


def test_pages_and_results_do_not_mark_the_code_as_changed(checkout):
    (checkout / "page.md").write_text("other words")
    (checkout / "result.json").write_text("{}")
    assert re.fullmatch("commit [0-9a-f]{40}", checkout_version(checkout / "package"))


def test_a_package_installed_inside_another_checkout_has_not_its_commit(checkout):
    installed = checkout / "env" / "package"
    installed.mkdir(parents=True)
    (installed / "__init__.py").write_text("")
    assert checkout_version(installed) is None


def test_a_git_hook_does_not_redirect_the_question(checkout, tmp_path, monkeypatch):
    other = tmp_path / "other"
    other.mkdir()
    git(other, "init")
    monkeypatch.setenv("GIT_DIR", str(other / ".git"))
    assert checkout_version(checkout / "package").startswith("commit ")


@pytest.mark.parametrize("missing", ["git", "repository"])
def test_without_git_the_package_version_stands(tmp_path, monkeypatch, missing):
    if missing == "git":
        monkeypatch.setenv("PATH", str(tmp_path))
    else:
        monkeypatch.setattr(imp_trt, "__file__", str(tmp_path / "imp_trt" / "__init__.py"))
    provenance.source_version.cache_clear()
    try:
        assert source_version() == f"version {imp_trt.__version__}"
    finally:
        provenance.source_version.cache_clear()


def test_the_digest_follows_values_alone():
    digest = config_digest({"seed": 0, "crop": (64, 64), "inner": {"b": 1, "a": 2}})
    assert re.fullmatch("[0-9a-f]{12}", digest)
    assert digest == config_digest({"inner": {"a": 2, "b": 1}, "crop": [64, 64], "seed": 0})
    assert digest != config_digest({"inner": {"a": 2, "b": 1}, "crop": [64, 64], "seed": 1})


class Reversed(Boxes):
    """The same images in another order, as another split of the same name might have."""

    def __getitem__(self, index):
        return super().__getitem__(len(self) - 1 - index)


def test_splits_of_the_same_name_and_length_are_distinguished():
    one, other = dataset_facts(Boxes()), dataset_facts(Reversed())
    assert one == dataset_facts(Boxes())
    same = ("name", "images", "size")
    assert [one[k] for k in same] == [other[k] for k in same]
    assert one != other
