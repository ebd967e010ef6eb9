"""NVRTC: every kernel for every architecture, and what is said when something is missing."""

from __future__ import annotations

import pytest

from imp_trt.cuda import kernels, nvrtc
from imp_trt.cuda.nvrtc import Program
from imp_trt.errors import BuildError, DependencyMissing

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
# Orin; the others repeat what it finds, each in some seconds.
QUICK = {(8, 7)}


class FakeStatus:
    name = "NVRTC_SUCCESS"


class FakeNvrtc:
    """A toolkit of another version."""

    def __init__(self, version, architectures):
        self.version, self.known = version, architectures

    def nvrtcVersion(self):
        return FakeStatus, *self.version

    def nvrtcGetSupportedArchs(self):
        return FakeStatus, self.known


@pytest.fixture
def toolkit(monkeypatch):
    def use(version, architectures=(75, 80, 86, 90)):
        monkeypatch.setattr(nvrtc, "_nvrtc", lambda: FakeNvrtc(version, list(architectures)))

    return use


@pytest.fixture
def real():
    try:
        return nvrtc.architectures()
    except DependencyMissing as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("op", kernels.ENTRIES)
@pytest.mark.parametrize(
    "arch",
    [pytest.param(a, marks=() if a in QUICK else pytest.mark.slow) for a in ARCHITECTURES],
    ids=[f"sm_{major}{minor}" for major, minor in ARCHITECTURES],
)
def test_every_kernel_compiles_for(arch, op, real):
    if arch not in real:
        pytest.skip(f"NVRTC {nvrtc.version()} does not know compute capability {arch}")
    cubin = nvrtc.compile_kernels(op, arch)
    assert cubin.startswith(b"\x7fELF")
    missing = [entry for entry in kernels.ENTRIES[op] if f".text.{entry}\0".encode() not in cubin]
    assert not missing


def test_ptx_for_the_driver_to_compile(real):
    source = Program("a.cu", 'extern "C" __global__ void twice(float* x) { *x = *x * 2.0F + 1.0F; }', {})
    ptx = nvrtc.compile_program(source, "compute_80")
    assert b".visible .entry twice(" in ptx
    assert ptx.endswith(b"\0")
    assert b"fma" not in ptx  # a fused multiply-add would round once instead of twice


def test_errors_of_the_compiler_are_shown(real):
    with pytest.raises(BuildError, match=r"cannot compile op/a.cu for sm_80: .*\n(?s:.*)undefined_name"):
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


def test_one_name_for_two_files_is_refused(tmp_path):
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


def test_the_gpu_decides_what_is_compiled(toolkit):
    toolkit((12, 6))
    assert nvrtc.target((8, 6)) == "sm_86"
    assert nvrtc.target((12, 0)) == "compute_90"
    assert nvrtc.target((12, 0), driver=(12, 8)) == "compute_90"
    assert nvrtc.target((8, 9)) == "compute_86"


def test_a_gpu_that_the_toolkit_does_not_know(toolkit):
    toolkit((13, 2))
    # The PTX would be newer than the driver can read.
    with pytest.raises(DependencyMissing, match=r"13\.2 does not compile for compute capability 12\.0"):
        nvrtc.target((12, 0), driver=(13, 0))
    with pytest.raises(
        DependencyMissing, match=r"an older NVRTC.*'cuda-bindings==12\.\*' nvidia-cuda-nvrtc-cu12"
    ):
        nvrtc.target((7, 0), driver=(13, 0))


def test_a_toolkit_newer_than_the_driver(toolkit):
    toolkit((13, 2))
    nvrtc.check_driver((13, 0))
    nvrtc.check_driver((14, 0))
    with pytest.raises(DependencyMissing) as caught:
        nvrtc.check_driver((12, 4))
    assert str(caught.value) == (
        "NVRTC 13.2 is newer than the NVIDIA driver, which knows CUDA 12.4: expected NVRTC of CUDA 12 or "
        "older, got 13.2. Fix: pip install 'cuda-bindings==12.*' nvidia-cuda-nvrtc-cu12, or update the driver"
    )


def test_no_package(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "cuda.bindings.nvrtc", None)
    with pytest.raises(DependencyMissing, match=r"pip install 'imp-trt\[cuda\]'"):
        nvrtc.version()


@pytest.mark.parametrize(
    ("major", "package"), [(12, "nvidia-cuda-nvrtc-cu12"), (13, "'nvidia-cuda-nvrtc==13.*'")]
)
def test_no_library(monkeypatch, major, package):
    class NoLibrary:
        @staticmethod
        def nvrtcVersion():
            raise RuntimeError("libnvrtc not found.\nSearched in: ...")

    monkeypatch.setitem(__import__("sys").modules, "cuda.bindings.nvrtc", NoLibrary)
    monkeypatch.setattr(nvrtc, "_bindings_major", lambda: major)
    with pytest.raises(DependencyMissing) as caught:
        nvrtc.version()
    assert str(caught.value) == (
        f"NVRTC {major}, the CUDA run-time compiler: got libnvrtc not found. Fix: pip install {package}"
    )
