"""The digest of the code follows what decides the numbers."""

from __future__ import annotations

import shutil

import imp_trt.train
from imp_trt.train.code_digest import code_digest


def test_the_code_digest_follows_what_trains_and_not_what_shows(tmp_path, monkeypatch):
    copy = tmp_path / "train"
    shutil.copytree(imp_trt.train.__path__[0], copy, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(imp_trt.train, "__path__", [str(copy)])
    before = code_digest()
    with (copy / "ablation" / "page.py").open("a") as file:
        file.write("# shown otherwise\n")
    assert code_digest() == before
    for name in ("losses.py", "ablation/canvas.py"):
        with (copy / name).open("a") as file:
            file.write("# trained or scored otherwise\n")
        before, last = code_digest(), before
        assert before != last
