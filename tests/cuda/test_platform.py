# SPDX-License-Identifier: Apache-2.0
"""What is installed is found without importing it; what is missing is no exception."""

from __future__ import annotations

import platform as std_platform
import sys
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest

from imp_trt.cuda import calls
from imp_trt.cuda import platform as platform_info
from imp_trt.cuda.extras import extra_for
from imp_trt.cuda.platform import Gpu, Platform, installed_version, platform_name
from imp_trt.errors import DependencyMissing
from tests.support.fake_cuda import FakeCuda
from tests.support.fake_nvrtc import FakeLibrary, have_nvrtc


def install(
    folder: Path, module: str, source: str, distribution: str | None, version: str = "10.3.0"
) -> None:
    """A package that must not be imported."""
    (folder / module).mkdir()
    (folder / module / "__init__.py").write_text(f"{source}\nraise SystemError('imported')\n")
    if distribution:
        info = folder / f"{distribution.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n")


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder at the front of sys.path, and no TensorRT loaded."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    return tmp_path


@pytest.mark.parametrize(
    "distribution", ["tensorrt", "tensorrt-cu12", "tensorrt-cu13", "tensorrt-cu12-bindings", "tensorrt_cu13"]
)
def test_tensorrt_by_its_distribution(site: Path, distribution: str) -> None:
    install(site, "tensorrt", "", distribution, "10.13.3.9")
    assert installed_version("tensorrt") == "10.13.3.9"
    assert "tensorrt" not in sys.modules


def test_tensorrt_without_a_distribution(site: Path) -> None:
    install(site, "tensorrt", "__version__ = '10.7.0.23'", None)
    assert installed_version("tensorrt") == "10.7.0.23"


def test_a_module_without_a_version(site: Path) -> None:
    install(site, "tensorrt", "from tensorrt_bindings import *", None)
    assert installed_version("tensorrt") is None


def test_a_distribution_without_its_module(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform_info, "find_spec", lambda name: None)
    install(site, "other", "", "tensorrt")
    assert metadata.version("tensorrt") == "10.3.0"
    assert installed_version("tensorrt") is None


def test_a_loaded_module_gives_its_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", SimpleNamespace(__version__="11.0.0"))
    assert installed_version("tensorrt") == "11.0.0"
    # find_spec raises ValueError for a module without a spec.
    monkeypatch.setitem(sys.modules, "tensorrt", SimpleNamespace())
    assert installed_version("tensorrt") is None


def test_the_real_tensorrt_rtx() -> None:
    if "tensorrt-rtx" not in {d.metadata["Name"].replace("_", "-") for d in metadata.distributions()}:
        pytest.skip("needs the package tensorrt-rtx")
    assert installed_version("tensorrt_rtx") == metadata.version("tensorrt-rtx")
    assert "tensorrt_rtx" not in sys.modules


@pytest.mark.parametrize(
    ("system", "machine", "name"),
    [
        ("Linux", "x86_64", "linux-x86_64"),
        ("Linux", "aarch64", "linux-aarch64"),
        ("Linux", "arm64", "linux-aarch64"),
        ("Windows", "AMD64", "windows-x86_64"),
    ],
)
def test_platform_name(monkeypatch: pytest.MonkeyPatch, system: str, machine: str, name: str) -> None:
    monkeypatch.setattr(std_platform, "system", lambda: system)
    monkeypatch.setattr(std_platform, "machine", lambda: machine)
    assert platform_name() == name


@pytest.mark.parametrize(
    ("driver", "extras"),
    [
        (None, ["cuda", "tensorrt", "tensorrt-rtx"]),
        ((11, 8), ["cuda", "tensorrt", "tensorrt-rtx"]),
        ((12, 2), ["cuda12", "tensorrt-cu12", "tensorrt-rtx-cu12"]),
        ((13, 0), ["cuda13", "tensorrt-cu13", "tensorrt-rtx"]),
        ((14, 1), ["cuda13", "tensorrt-cu13", "tensorrt-rtx"]),
    ],
)
def test_extras_for_a_driver_exist(driver: tuple[int, int] | None, extras: list[str]) -> None:
    assert [extra_for(name, driver) for name in ("cuda", "tensorrt", "tensorrt-rtx")] == extras
    text = (Path(__file__).parents[2] / "pyproject.toml").read_text()
    for extra in extras:
        assert f"\n{extra} = [" in text


def test_detect_with_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("IMP_TRT_PLUGIN_LIBRARY", raising=False)
    have_nvrtc(monkeypatch, FakeLibrary((12, 6), [(8, 0), (8, 7), (9, 0)]), (13, 2))
    with FakeCuda(compute_capability=(8, 7), driver_version=(12, 6)).installed() as fake:
        found = Platform.detect()
        missing = Platform.detect(device=5)
        assert fake.alive["contexts"] == 0
    assert found.gpu == Gpu("Fake GPU", "8.7", (12, 6))
    assert found.plugins == "Python, NVRTC 12.6"
    assert isinstance(missing.gpu, DependencyMissing)
    assert "GPU number 5" in str(missing.gpu)


def test_detect_without_a_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "_bindings", None)
    monkeypatch.setitem(sys.modules, "cuda.bindings.driver", None)
    have_nvrtc(monkeypatch)
    monkeypatch.delenv("IMP_TRT_PLUGIN_LIBRARY", raising=False)
    found = Platform.detect()
    for missing in (found.gpu, found.plugins):
        assert isinstance(missing, DependencyMissing)
        assert "pip install 'imp-trt[cuda]'" in str(missing)
    assert found.name == platform_name()


def test_nvrtc_that_the_driver_or_the_gpu_outruns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("IMP_TRT_PLUGIN_LIBRARY", raising=False)
    have_nvrtc(monkeypatch, (13, 2))
    with FakeCuda(compute_capability=(8, 0), driver_version=(12, 8)).installed():
        newer = Platform.detect().plugins
    assert isinstance(newer, DependencyMissing)
    assert "newer than the NVIDIA driver" in str(newer)
    with FakeCuda(compute_capability=(7, 0), driver_version=(13, 2)).installed():
        older = Platform.detect().plugins
    assert isinstance(older, DependencyMissing)
    assert "7.0" in str(older)


def test_the_plugin_library_of_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    library = tmp_path / "libimp_trt_plugins.so"
    monkeypatch.setenv("IMP_TRT_PLUGIN_LIBRARY", str(library))
    missing = Platform.detect().plugins
    assert isinstance(missing, DependencyMissing)
    assert str(library) in str(missing)
    library.write_bytes(b"")
    assert Platform.detect().plugins == f"C++ library {library}"
