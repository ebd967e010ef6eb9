"""The wheel: what is in it, that it works outside the checkout, and that its types hold."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

IMPORT_ALL = """
import importlib, pathlib, pkgutil, sys
import imp_trt
assert "site-packages" in imp_trt.__file__, imp_trt.__file__
names = [m.name for m in pkgutil.walk_packages(imp_trt.__path__, "imp_trt.")]
for name in names:
    importlib.import_module(name)
from imp_trt.weights import bundled
assert bundled().stat().st_size > 1000
print(len(names))
"""


def run(*command: str, cwd: Path, **env: str) -> str:
    done = subprocess.run(
        command, cwd=cwd, env={**os.environ, **env}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built from a copy of the tracked sources so that the checkout stays clean."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for folder in ("imp_trt", "export", "plugins", "train"):
        for path in (ROOT / folder).rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                target = source / path.relative_to(ROOT)
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(path.read_bytes())
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        (source / name).write_bytes((ROOT / name).read_bytes())
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), cwd=source)
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """An environment that holds the wheel; the dependencies are borrowed from the running one.

    Its site-packages are read through PYTHONPATH, where ``.pth`` files have no effect: the editable
    install of the checkout cannot be seen from there.
    """
    folder = tmp_path_factory.mktemp("env")
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    run(str(python), "-m", "pip", "install", "-q", "--no-deps", "--no-index", str(wheel), cwd=folder)
    return python


def borrowed() -> str:
    return sysconfig.get_paths()["purelib"]


def test_wheel_installs_one_top_level_package(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    top = {name.split("/")[0] for name in names}
    assert {t for t in top if not t.endswith(".dist-info")} == {"imp_trt"}
    for name in (
        "imp_trt/py.typed",
        "imp_trt/export/__init__.py",
        "imp_trt/train/__init__.py",
        "imp_trt/plugins/__init__.py",
        "imp_trt/plugins/instance_mask_projection/README.md",
        "imp_trt/weights/scenes.safetensors",
        "imp_trt/weights/scenes.md",
    ):
        assert name in names
    sources = [p for s in (".cu", ".h") for p in (ROOT / "plugins").rglob(f"*{s}")]
    assert len(sources) > 10
    for path in sources:
        assert f"imp_trt/{path.relative_to(ROOT)}" in names
    assert not [n for n in names if "camvid" in n.lower() and n.endswith(".safetensors")]
    assert not [n for n in names if Path(n).name.startswith(("test_", "conftest"))]


def test_wheel_is_pure_python(wheel):
    assert wheel.name.endswith("-py3-none-any.whl")
    assert wheel.stat().st_size < 16 * 2**20


def test_everything_imports_outside_the_checkout(installed, tmp_path):
    count = run(str(installed), "-c", IMPORT_ALL, cwd=tmp_path, PYTHONPATH=borrowed())
    assert int(count) > 40


def test_commands_are_installed_and_answer(installed, tmp_path):
    for name in ("train", "eval", "export", "segment", "inspect", "doctor", "demo"):
        text = run(str(installed.parent / f"imp-{name}"), "--help", cwd=tmp_path, PYTHONPATH=borrowed())
        assert "exit codes" in text


def test_wheel_is_typed(installed, tmp_path):
    """mypy in strict mode finds nothing in the installed package."""
    env = {"PYTHONPATH": "", "MYPYPATH": ""}
    command = [sys.executable, "-m", "mypy", "--config-file", str(ROOT / "pyproject.toml"), "-p", "imp_trt"]
    site = (
        installed.parent.parent
        / "lib"
        / f"python{sys.version_info[0]}.{sys.version_info[1]}"
        / "site-packages"
    )
    link = tmp_path / "src"
    link.mkdir()
    (link / "imp_trt").symlink_to(site / "imp_trt")
    run(*command, cwd=tmp_path, **{**env, "MYPYPATH": str(link)})
