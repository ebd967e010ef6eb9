# SPDX-License-Identifier: Apache-2.0
"""imp_trt._lazy: public names from a stub, and old names that warn."""

import subprocess
import sys
import warnings
from importlib import import_module
from pathlib import Path
from textwrap import dedent

import pytest

from imp_trt._lazy import attach_stub

PACKAGE = {
    "__init__.py": """
        from imp_trt._lazy import attach_stub

        __getattr__, __dir__, __all__ = attach_stub(__name__, __file__, deprecated={"Old": "New"})
        """,
    "__init__.pyi": """
        from .module import New as New
        from .module import other as other

        Old = New
        """,
    "module.py": "class New: pass\ndef other(): return 1\n",
}


def make_package(folder: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    package = folder / name
    package.mkdir()
    for file, text in PACKAGE.items():
        (package / file).write_text(dedent(text))
    monkeypatch.syspath_prepend(str(folder))


def test_public_names_come_from_the_stub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_package(tmp_path, monkeypatch, "lazy_names")
    package = import_module("lazy_names")
    assert package.__all__ == ["New", "other"] == dir(package)
    assert "lazy_names.module" not in sys.modules
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert package.other() == 1
    with pytest.raises(AttributeError, match=r"lazy_names.*'nothing'"):
        _ = package.nothing


def test_a_deprecated_name_is_the_new_one_and_warns_at_the_callers_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_package(tmp_path, monkeypatch, "lazy_old")
    package = import_module("lazy_old")
    with pytest.warns(DeprecationWarning, match=r"lazy_old\.Old is deprecated, use lazy_old\.New") as record:
        assert package.Old is package.New
    assert [warning.filename for warning in record] == [__file__]
    assert "Old" not in package.__all__
    assert "Old" not in dir(package)


def test_an_import_of_a_deprecated_name_warns_where_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_package(tmp_path, monkeypatch, "lazy_import")
    caller = tmp_path / "caller.py"
    caller.write_text("from lazy_import import New\nfrom lazy_import import Old\nassert Old is New\n")
    environment = {"PYTHONPATH": f"{tmp_path}:{Path(__file__).parents[2]}"}
    run = subprocess.run(
        [sys.executable, "-W", "always", str(caller)], capture_output=True, text=True, env=environment
    )
    assert run.returncode == 0, run.stderr
    assert f"{caller}:2: DeprecationWarning: lazy_import.Old is deprecated" in run.stderr
    assert f"{caller}:1:" not in run.stderr


@pytest.mark.parametrize("deprecated", [{"New": "other"}, {"Old": "missing"}])
def test_a_wrong_table_fails_on_import(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, deprecated: dict[str, str]
) -> None:
    name = f"lazy_wrong_{next(iter(deprecated)).lower()}"
    make_package(tmp_path, monkeypatch, name)
    with pytest.raises(ValueError, match="cannot deprecate"):
        attach_stub(name, str(tmp_path / name / "__init__.py"), deprecated)


@pytest.mark.parametrize("name", ["imp_trt", "imp_trt.backends", "imp_trt.preprocessing", "imp_trt.results"])
def test_the_packages_deprecated_names_can_be_loaded(name: str) -> None:
    package = import_module(name)
    stub = Path(str(package.__file__)).with_suffix(".pyi").read_text()
    aliases = [line.partition("  #")[0].split(" = ") for line in stub.splitlines() if " = " in line]
    assert aliases
    for old, new in aliases:
        with pytest.warns(DeprecationWarning, match=f"{old} is deprecated"):
            assert getattr(package, old) is getattr(package, new)


def test_a_name_that_needs_opencv_says_what_to_install() -> None:
    program = """
        import sys
        sys.modules["cv2"] = None
        import imp_trt
        from imp_trt.errors import DependencyMissing
        try:
            imp_trt.Segmenter
        except DependencyMissing as error:
            assert "opencv-python-headless" in str(error), error
            assert "every extra" not in str(error), "video, track and others do not bring it"
        else:
            raise SystemExit("no error")
        """
    subprocess.run([sys.executable, "-c", dedent(program)], check=True)
