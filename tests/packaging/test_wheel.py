# SPDX-License-Identifier: Apache-2.0
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

pytestmark = pytest.mark.slow  # builds, environments and installations

ROOT = Path(__file__).resolve().parents[2]

IMPORT_ALL = """
import importlib.util, pathlib, pkgutil, sys
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
def checkout(tmp_path_factory):
    """What `git archive` gives of the checkout, uncommitted changes of tracked files included."""
    if not (ROOT / ".git").exists():
        pytest.skip("this tree is not a git checkout: git archive has nothing to pack")
    folder = tmp_path_factory.mktemp("checkout")
    changed = run("git", "stash", "create", cwd=ROOT).strip()
    packed = folder / "checkout.tar"
    run("git", "archive", "-o", str(packed), changed or "HEAD", cwd=ROOT)
    run("tar", "xf", str(packed), cwd=folder)
    packed.unlink()
    return folder


@pytest.fixture(scope="module")
def wheel(checkout, tmp_path_factory):
    """The wheel, built from the sdist that was built from the checkout."""
    out = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), cwd=checkout)
    assert len(list(out.glob("*.tar.gz"))) == 1
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """An environment that holds the wheel; the dependencies are borrowed from the running one.

    Its site-packages are read through PYTHONPATH, where ``.pth`` files have no effect: the editable
    install of the checkout cannot be seen from there.
    """
    return environment(tmp_path_factory.mktemp("env"), str(wheel))


def environment(folder: Path, *what: str) -> Path:
    """The Python of a new virtual environment with the package installed."""
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    options = ("-q", "--no-deps", "--no-index", "--no-build-isolation")
    run(str(python), "-m", "pip", "install", *options, *what, cwd=folder, PYTHONPATH=borrowed())
    return python


def borrowed() -> str:
    return sysconfig.get_paths()["purelib"]


def contents(wheel: Path) -> set[str]:
    """Files of the package in a wheel."""
    with zipfile.ZipFile(wheel) as archive:
        return {name for name in archive.namelist() if ".dist-info/" not in name}


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


def test_sdist_checkout_and_pip_give_the_same_files(wheel, checkout, tmp_path):
    """The wheel of the sdist, the wheel of the checkout, and what `pip install .` writes."""
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), cwd=checkout)
    (direct,) = tmp_path.glob("*.whl")
    assert contents(direct) == contents(wheel)
    environment(tmp_path / "env", str(checkout))
    (record,) = (tmp_path / "env").glob("lib/*/site-packages/imp_trt-*.dist-info/RECORD")
    names = {line.split(",")[0] for line in record.read_text().splitlines()}
    written = {n for n in names if n.startswith("imp_trt/") and "__pycache__" not in n}
    assert written == contents(wheel)


def test_editable_install_sees_what_the_wheel_holds(wheel, checkout, tmp_path):
    python = environment(tmp_path / "env", "-e", str(checkout))
    code = IMPORT_ALL.replace('"site-packages" in', f"{str(checkout / 'imp_trt')!r} in")
    # The modules of the wheel are imported in another test; here they are found.
    code = code.replace("importlib.import_module(name)", "assert importlib.util.find_spec(name), name")
    # Not by PYTHONPATH: the finder of the running environment's own editable install has the same name.
    code = f"import sys\nsys.path.append({borrowed()!r})\n{code}"
    modules = {name for name in contents(wheel) if name.endswith(".py")} - {"imp_trt/__init__.py"}
    assert int(run(str(python), "-c", code, cwd=tmp_path)) == len(modules)


def test_a_checkout_imports_with_nothing_installed(checkout, tmp_path):
    code = (
        "import imp_trt.export, imp_trt.train, imp_trt.plugins as p; "
        "from importlib.resources import files; "
        "print((files(p) / 'instance_mask_projection' / 'instance_mask_projection.cu').is_file())"
    )
    command = [sys.executable, "-S", "-c", code]
    assert run(*command, cwd=tmp_path, PYTHONPATH=str(checkout)).strip() == "True"


def test_links_stay_inside_the_checkout(checkout):
    links = [path for path in checkout.rglob("*") if path.is_symlink()]
    assert {str(link.relative_to(checkout)) for link in links} >= {
        f"imp_trt/{name}" for name in ("export", "plugins", "train")
    }
    for link in links:
        assert not os.path.isabs(os.readlink(link)), link
        assert link.resolve().is_relative_to(checkout.resolve()), link
        assert link.exists(), link


def test_wheel_is_pure_python(wheel):
    assert wheel.name.endswith("-py3-none-any.whl")
    assert wheel.stat().st_size < 16 * 2**20


def test_everything_imports_outside_the_checkout(installed, tmp_path):
    count = run(str(installed), "-c", IMPORT_ALL, cwd=tmp_path, PYTHONPATH=borrowed())
    assert int(count) > 40


def test_the_wheel_is_imported_without_an_installation(wheel, tmp_path):
    """A wheel is a zip file, as are bundles of applications."""
    code = (
        "import imp_trt; assert '.whl' in imp_trt.__file__; import imp_trt.video.sinks as s; "
        "from imp_trt.video.serve import BrowserView; import urllib.request; "
        "from imp_trt.classes import ClassTable; names = ClassTable(('road',), (), ((0, 0, 0),)); "
        "view = BrowserView(0, classes=names); page = urllib.request.urlopen(view.url).read(); "
        "print(imp_trt.Segmenter, s.JsonLines, len(page))"
    )
    path = os.pathsep.join([str(wheel), borrowed()])
    assert "Segmenter" in run(sys.executable, "-c", code, cwd=tmp_path, PYTHONPATH=path)


def test_commands_are_installed_and_answer(installed, tmp_path):
    for name in ("train", "eval", "export", "segment", "inspect", "doctor", "demo"):
        text = run(str(installed.parent / f"imp-{name}"), "--help", cwd=tmp_path, PYTHONPATH=borrowed())
        assert "exit codes" in text
