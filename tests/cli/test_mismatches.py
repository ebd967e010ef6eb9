# SPDX-License-Identifier: Apache-2.0
"""Versions that do not fit together are named, with both sides and the fix."""

from __future__ import annotations

from pathlib import Path

import pytest

from imp_trt.cli import mismatches as module
from imp_trt.cli.mismatches import mismatches, numbers

FITTING = {
    "numpy": "2.1.0",
    "opencv-python": "4.10.0.84",
    "onnxruntime": "1.20.0",
    "cuda-bindings": "13.0.3",
    "tensorrt": "10.3.0",
    "tensorrt-cu12-bindings": "10.3.0",
    "tensorrt-cu12-libs": "10.3.0",
    "torch": "2.14.1+cu126",
}


@pytest.fixture(autouse=True)
def plain_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TEGRA", tmp_path / "nv_tegra_release")
    monkeypatch.setattr(module, "_pins", lambda name: iter(()))


@pytest.mark.parametrize("driver", [None, (12, 6), (13, 0)])
def test_what_fits_is_not_named(driver: tuple[int, int] | None) -> None:
    assert mismatches(FITTING, driver) == []
    assert mismatches({}, driver) == []
    assert mismatches(FITTING | {"numpy": "1.26.4", "opencv-python": "4.8.1.78"}, driver) == []


@pytest.mark.parametrize(
    ("changes", "driver", "what", "fix"),
    [
        (
            {"opencv-python": "4.8.1.78"},
            None,
            "opencv-python and NumPy",
            "pip install --upgrade 'opencv-python>=4.10'",
        ),
        (
            {"numpy": "1.26.4", "opencv-python": "5.0.0.93"},
            None,
            "opencv-python and NumPy",
            "pip install --upgrade 'numpy>=2'",
        ),
        (
            {"opencv-python-headless": "4.11.0.86"},
            None,
            "OpenCV",
            "pip uninstall -y opencv-python opencv-python-headless; pip install opencv-python",
        ),
        ({"onnxruntime": "1.17.3"}, None, "onnxruntime and NumPy", "onnxruntime>=1.20"),
        ({"onnxruntime-gpu": "1.20.0"}, None, "ONNX Runtime", "pip uninstall -y onnxruntime onnxruntime-gpu"),
        ({"cuda-bindings": "12.6.2"}, (12, 6), "cuda-bindings", "imp-trt[cuda12]"),
        ({"cuda-bindings": "14.0.0"}, (13, 0), "cuda-bindings", "imp-trt[cuda13]"),
        ({}, (11, 8), "NVIDIA driver and cuda-bindings", "update the NVIDIA driver"),
        ({"tensorrt": "8.6.1"}, None, "TensorRT", "imp-trt[tensorrt]"),
        ({"tensorrt": "12.0.0"}, None, "TensorRT", "imp-trt[tensorrt]"),
        (
            {"tensorrt-cu12-bindings": "10.7.0"},
            None,
            "tensorrt-cu12: bindings and libraries",
            "pip install --force-reinstall tensorrt-cu12==10.3.0",
        ),
        (
            {"tensorrt-cu13-libs": "10.16.1.11"},
            (12, 6),
            "tensorrt-cu13 and the NVIDIA driver",
            "imp-trt[tensorrt-cu12]",
        ),
        (
            {"tensorrt-rtx-cu13-libs": "1.7.1.116"},
            (12, 8),
            "tensorrt-rtx-cu13 and the NVIDIA driver",
            "imp-trt[tensorrt-rtx-cu12]",
        ),
        ({"torch": "2.14.1+cu130"}, (12, 6), "PyTorch and the NVIDIA driver", "PyTorch for its CUDA version"),
    ],
)
def test_what_does_not_fit(
    changes: dict[str, str], driver: tuple[int, int] | None, what: str, fix: str
) -> None:
    found = {m.what: m for m in mismatches(FITTING | changes, driver)}
    assert what in found
    assert fix in found[what].fix
    assert found[what].expected
    assert found[what].got


def test_exact_pins_of_a_distribution(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    required = ["numpy", "torch==2.11.0", "gone==1.0", "scipy==9; extra == 'all'", "pillow!=8.3.*,>=5.3.0"]
    monkeypatch.setattr(module.metadata, "requires", lambda name: required)

    def version(name: str) -> str:
        if name == "gone":
            raise module.metadata.PackageNotFoundError(name)
        return "2.14.1+cpu"

    monkeypatch.setattr(module.metadata, "version", version)
    (found,) = module._pins("torchvision")
    assert (found.what, found.expected, found.got) == ("torchvision and torch", "torch 2.11.0", "2.14.1+cpu")


def test_a_jetson_with_another_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "nv_tegra_release").write_text("# R36 (release), REVISION: 4.3\n")
    package = tmp_path / "python3.9" / "dist-packages" / "tensorrt"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "tensorrt.cpython-39-aarch64-linux-gnu.so").touch()
    monkeypatch.setattr(module, "SYSTEM_PACKAGES", tmp_path)
    (found,) = mismatches({}, (12, 6))
    assert found.expected == "Python 3.9"
    assert found.fix.startswith("/usr/bin/python3.9 -m venv --system-site-packages")
    (wheel,) = mismatches(FITTING | {"tensorrt-cu12-bindings": None}, (12, 6))
    assert wheel.got.startswith("pip's tensorrt-cu12-libs")
    (tmp_path / "nv_tegra_release").write_text("# R39 (release), REVISION: 2.0\n")
    assert mismatches(FITTING | {"tensorrt-cu12-bindings": None}, (12, 6)) == []


def test_numbers_of_versions() -> None:
    assert numbers("10.3.0.26-1+cuda12.5") == (10, 3, 0, 26)
    assert numbers("unknown") == numbers(None) == ()
