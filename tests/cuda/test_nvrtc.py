# SPDX-License-Identifier: Apache-2.0
"""NVRTC: every kernel for every architecture, and what is said when something is missing."""

from __future__ import annotations

import pytest

from imp_trt.cuda import kernels, nvrtc
from imp_trt.cuda.nvrtc import Program
from imp_trt.errors import BuildError, DependencyMissing
from tests.support.fake_nvrtc import FakeLibrary, have_nvrtc

ARCHITECTURES = [
    (7, 5),
    (8, 0),
    (8, 6),
    (8, 7),
    (8, 9),
    (9, 0),
    (10, 0),
    (10, 1),
    (10, 3),
    (11, 0),
    (12, 0),
    (12, 1),
]
# The code differs only below 8.0. Orin is the GPU that most vehicles have.
USUAL = [(7, 5), (8, 7)]
CASES = [
    pytest.param(
        op, arch, id=f"{op}-sm_{arch[0]}{arch[1]}", marks=() if arch in USUAL else pytest.mark.exhaustive
    )
    for op in kernels.ENTRIES
    for arch in ARCHITECTURES
]


@pytest.fixture
def real():
    try:
        return nvrtc.architectures()
    except DependencyMissing as error:
        pytest.skip(str(error))


@pytest.mark.slow
@pytest.mark.parametrize(("op", "arch"), CASES)
def test_every_kernel_compiles_for(op, arch, real):
    target = nvrtc.target(arch)
    if target.arch.startswith("compute_"):
        pytest.skip(f"no installed NVRTC, the newest is {nvrtc.version()}, knows compute capability {arch}")
    cubin = nvrtc.compile_kernels(op, target)
    assert cubin.startswith(b"\x7fELF")
    missing = [entry for entry in kernels.ENTRIES[op] if f".text.{entry}\0".encode() not in cubin]
    assert not missing


@pytest.mark.slow
def test_one_variant_compiles_alone(real):
    variant = "instance_mask_projection:nearest_bf16"
    cubin = nvrtc.compile_program(kernels.unit_program(variant), "sm_90")
    entries = {entry for entry in kernels.ENTRIES["instance_mask_projection"] if entry.encode() in cubin}
    assert entries == {f"imp_mask_projection{kind}_nearest_bf16" for kind in ("", "_winner", "_backward")}


def test_ptx_for_the_driver_to_compile(real):
    source = Program("a.cu", 'extern "C" __global__ void twice(float* x) { *x = *x * 2.0F + 1.0F; }', {})
    ptx = nvrtc.compile_program(source, "compute_80")
    assert b".visible .entry twice(" in ptx
    assert ptx.endswith(b"\0")
    assert b"fma" not in ptx  # a fused multiply-add would round once instead of twice


def test_errors_of_the_compiler_are_shown(real):
    with pytest.raises(BuildError, match=r"cannot compile op/a.cu for sm_80: .*undefined_name"):
        nvrtc.compile_program(Program("op/a.cu", "__global__ void f() { undefined_name(); }", {}), "sm_80")
    with pytest.raises(BuildError, match="sm_1"):
        nvrtc.compile_program(Program("a.cu", "", {}), "sm_1")


def test_a_clean_program_compiles_more_than_once(real):
    program = Program("a.cu", 'extern "C" __global__ void f() {}', {})
    assert nvrtc.compile_program(program, "sm_80") == nvrtc.compile_program(program, "sm_80")


def test_headers_are_found_through_headers(tmp_path, real):
    for name, text in {
        "op/op.cu": '#include "op/op.h"\n  # include "beside.h"\n#ifdef __CUDACC_RTC__\n'
        'extern "C" __global__ void f(int* x) { *x = A + B + C; }\n#endif',
        "op/op.h": '#include "common/a.h"\n#define B 2',
        "op/beside.h": "#define C 3",
        "common/a.h": '#ifndef H\n#define H\n#define A 1\n#endif\n// #include "none.h"',
        "common/unused.h": "not C",
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    program = nvrtc.read_program(tmp_path, "op/op.cu")
    assert list(program.headers) == ["beside.h", "common/a.h", "op/op.h"]
    assert b", 6;" in nvrtc.compile_program(program, "compute_80")
    (tmp_path / "common/a.h").unlink()
    with pytest.raises(BuildError, match=r"CUDA source op/common/a.h, needed by op/op.h, cannot be read"):
        nvrtc.read_program(tmp_path, "op/op.cu")


def test_one_name_for_two_files_is_rejected(tmp_path):
    for name, text in {
        "op/op.cu": '#include "common/a.h"\n#include "b.h"',
        "common/a.h": '#include "b.h"',
        "op/b.h": "",
        "common/b.h": "",
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    with pytest.raises(BuildError, match=r'#include "b.h" in op/op.cu: expected one file'):
        nvrtc.read_program(tmp_path, "op/op.cu")


def chosen(capability, driver=None):
    """What is compiled for, and the version of the NVRTC that does it."""
    target = nvrtc.target(capability, driver)
    return target.arch, target.library.version


def test_the_gpu_decides_what_is_compiled(monkeypatch):
    have_nvrtc(monkeypatch, (12, 6))
    assert chosen((8, 6)) == ("sm_86", (12, 6))
    assert chosen((12, 0)) == ("compute_90", (12, 6))
    assert chosen((12, 0), driver=(12, 8)) == ("compute_90", (12, 6))
    assert chosen((8, 9)) == ("compute_86", (12, 6))


@pytest.mark.parametrize(
    ("driver", "version"),
    [
        (None, (13, 5)),
        ((14, 1), (13, 5)),
        ((13, 5), (13, 5)),
        ((13, 2), (13, 0)),  # of its own major one that is not newer, where there is one
        ((12, 9), (12, 9)),
        ((12, 6), (12, 6)),
        ((12, 8), (12, 6)),
        ((12, 4), (12, 6)),  # machine code runs on every driver of its major
    ],
)
def test_the_driver_decides_which_nvrtc_compiles(monkeypatch, driver, version):
    have_nvrtc(monkeypatch, (12, 6), (13, 5), (12, 9), (13, 0))
    assert chosen((9, 0), driver) == ("sm_90", version)


def test_the_gpu_decides_which_nvrtc_compiles(monkeypatch):
    have_nvrtc(
        monkeypatch,
        FakeLibrary((13, 0), [(7, 5), (9, 0)]),
        FakeLibrary((12, 9), [(7, 0), (9, 0), (10, 0)]),
        FakeLibrary((12, 6), [(7, 0), (9, 0)]),
    )
    assert chosen((7, 0), (13, 0)) == ("sm_70", (12, 9))
    assert chosen((10, 0), (12, 8)) == ("sm_100", (12, 9))
    # Unknown to all: PTX, which must not be newer than the driver.
    assert chosen((12, 0), (12, 8)) == ("compute_90", (12, 6))
    assert chosen((12, 0), (13, 0)) == ("compute_90", (13, 0))


@pytest.mark.parametrize(
    ("version", "capability", "driver", "fix"),
    [
        ((13, 2), (12, 0), (13, 0), "pip install -U nvidia-cuda-nvrtc$"),
        ((12, 6), (12, 0), (12, 4), "pip install -U nvidia-cuda-nvrtc-cu12$"),
        ((12, 9), (12, 0), (12, 8), "update the NVIDIA driver to one for CUDA 13, and"),  # 12.9 is the last
        ((13, 2), (7, 0), (13, 0), "also install an older NVRTC: pip install nvidia-cuda-nvrtc-cu12$"),
        ((12, 9), (3, 5), (13, 0), "run on a newer GPU$"),
    ],
)
def test_a_gpu_that_no_nvrtc_serves(monkeypatch, version, capability, driver, fix):
    have_nvrtc(monkeypatch, version)
    said = r"NVRTC {}\.{} does not compile for compute capability {}\.{}: ".format(*version, *capability)
    with pytest.raises(DependencyMissing, match=f"{said}.*{fix}"):
        nvrtc.target(capability, driver)


def test_only_nvrtcs_that_are_newer_than_the_driver(monkeypatch):
    have_nvrtc(monkeypatch, (13, 2), (13, 5))
    with pytest.raises(DependencyMissing) as caught:
        nvrtc.target((9, 0), (12, 4))
    assert str(caught.value) == (
        "NVRTC 13.2 is newer than the NVIDIA driver, which supports CUDA 12.4: expected NVRTC of CUDA 12 or "
        "older, got 13.2. Fix: pip install 'imp-trt[cuda12]' (no need to remove the newer one), or update "
        "the driver"
    )
    with pytest.raises(DependencyMissing, match=r"Fix: update the driver$"):
        nvrtc.target((9, 0), (11, 8))


@pytest.mark.parametrize(
    ("driver", "fix"),
    [
        (None, r"pip install 'imp-trt\[cuda\]'"),
        ((12, 2), r"pip install 'imp-trt\[cuda12\]'"),
        ((13, 0), r"pip install 'imp-trt\[cuda13\]'"),
        ((14, 0), r"pip install 'imp-trt\[cuda13\]'"),
        ((11, 4), "update the NVIDIA driver to one for CUDA 12 or later"),
    ],
)
def test_no_nvrtc(monkeypatch, driver, fix):
    have_nvrtc(monkeypatch)
    with pytest.raises(DependencyMissing, match=rf"compiler: expected libnvrtc.*, got none in .*Fix: {fix}$"):
        nvrtc.usable(driver)
    have_nvrtc(monkeypatch, unusable=["/a/libnvrtc.so.12: wrong ELF class"])
    with pytest.raises(DependencyMissing, match=rf"got /a/libnvrtc.so.12: wrong ELF class\. Fix: {fix}$"):
        nvrtc.usable(driver)
