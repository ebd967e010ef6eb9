# SPDX-License-Identifier: Apache-2.0
"""Compiled kernels on disk."""

from __future__ import annotations

import logging
import os
import threading
from pathlib import Path

import pytest

from imp_trt.cuda import cache, kernels
from imp_trt.cuda.nvrtc import Program, Target
from tests.support.fake_nvrtc import FakeLibrary


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("IMP_TRT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "kernels"


class Maker:
    """Counts how often it has to work."""

    def __init__(self, data=b"cubin"):
        self.count, self.data = 0, data

    def __call__(self):
        self.count += 1
        return self.data


def test_made_once(store):
    maker = Maker()
    assert [cache.fetch("k", maker) for _ in range(3)] == [b"cubin"] * 3
    assert maker.count == 1
    assert [path.name for path in store.iterdir()] == ["k.bin"]
    assert cache.fetch("other", maker) == b"cubin"
    assert maker.count == 2


def damage_cut(data):
    return data[:-1]


def damage_flip(data):
    return data[:-1] + bytes([data[-1] ^ 1])


@pytest.mark.parametrize("damage", [damage_cut, damage_flip, lambda _: b"", lambda _: b"imp_trt kernels 1\n"])
def test_a_damaged_entry_is_made_again(store, damage):
    maker = Maker()
    cache.fetch("k", maker)
    path = store / "k.bin"
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    assert cache.fetch("k", maker) == b"cubin"
    assert maker.count == 2
    assert path.read_bytes() == whole


def test_a_folder_that_cannot_be_used_is_reported_once(tmp_path, monkeypatch, caplog):
    blocker = tmp_path / "file"
    blocker.write_text("")
    monkeypatch.setenv("IMP_TRT_CACHE", str(blocker))
    maker = Maker()
    with caplog.at_level(logging.WARNING):
        assert [cache.fetch(name, maker) for name in "ab"] == [b"cubin"] * 2
    assert maker.count == 2
    assert len(caplog.records) == 1
    assert str(blocker) in caplog.text


def test_a_folder_prepared_elsewhere_serves_without_being_written_to(tmp_path, monkeypatch, caplog):
    made = tmp_path / "made"
    monkeypatch.setenv("IMP_TRT_CACHE", str(made))
    cache.fetch("k", Maker())
    moved = made.rename(tmp_path / "moved")
    monkeypatch.setenv("IMP_TRT_CACHE", str(moved))
    monkeypatch.setattr(cache, "write_atomically", lambda *_, **__: pytest.fail("nothing is to be written"))
    maker = Maker()
    with caplog.at_level(logging.INFO):
        assert cache.fetch("k", maker) == b"cubin"
    assert not maker.count
    assert not caplog.records


def test_nothing_is_kept_when_making_fails(store):
    def broken():
        raise ValueError

    with pytest.raises(ValueError):  # noqa: PT011
        cache.fetch("k", broken)
    assert not store.exists()


def test_many_at_once_see_whole_entries(store):
    data, seen = os.urandom(1 << 18), []
    threads = [threading.Thread(target=lambda: seen.append(cache.fetch("k", lambda: data))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [data] * 8
    assert [path.name for path in store.iterdir()] == ["k.bin"]


def test_where_it_is(monkeypatch):
    monkeypatch.delenv("IMP_TRT_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert cache.folder() == Path("/xdg/imp_trt/kernels")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/me")
    assert cache.folder() == Path("/home/me/.cache/imp_trt/kernels")

    def homeless():
        raise RuntimeError

    monkeypatch.setattr(Path, "home", homeless)
    assert cache.folder() is None
    assert cache.fetch("k", Maker()) == b"cubin"


def test_all_that_decides_the_result_is_in_the_key(monkeypatch):
    program = Program("a.cu", "text", {"a.h": "header"})
    sm_80 = Target("sm_80", FakeLibrary((13, 2)))
    update = FakeLibrary((13, 2))
    update.build = "fake 13.2.1"
    keys = [
        kernels.cache_key(program, sm_80),
        kernels.cache_key(program, sm_80._replace(arch="sm_90")),
        kernels.cache_key(program, sm_80._replace(library=FakeLibrary((12, 9)))),
        kernels.cache_key(program, sm_80._replace(library=update)),
        kernels.cache_key(program._replace(source="text "), sm_80),
        kernels.cache_key(program._replace(headers={"a.h": "header2"}), sm_80),
        kernels.cache_key(program._replace(headers={"b.h": "header"}), sm_80),
    ]
    monkeypatch.setattr(kernels.nvrtc, "FLAGS", ())
    keys.append(kernels.cache_key(program, sm_80))
    assert len(set(keys)) == len(keys)
    assert cache.key(["ab", "c"]) != cache.key(["a", "bc"])
