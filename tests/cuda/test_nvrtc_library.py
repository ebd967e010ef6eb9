# SPDX-License-Identifier: Apache-2.0
"""Which NVRTC libraries are found, and what a compiled one answers."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys

import pytest

from imp_trt.cuda import nvrtc_library
from imp_trt.cuda.nvrtc_library import Library
from imp_trt.errors import BuildError

# A library of any version; NOTHING leaves the functions out that make it NVRTC.
SOURCE = """
#ifndef NOTHING
int nvrtcVersion(int* major, int* minor) { return *major = MAJOR, *minor = MINOR, 0; }
int nvrtcGetNumSupportedArchs(int* n) { return *n = 2, 0; }
int nvrtcGetSupportedArchs(int* archs) { return archs[0] = 121, archs[1] = 90, BROKEN; }
const char* nvrtcGetErrorString(int status) { return status == 7 ? "NVRTC_ERROR_TEST" : 0; }
#else
int nothing;
#endif
"""


@pytest.fixture
def build(tmp_path):
    """Makes the file of a library: build(path below tmp_path, version, more definitions)."""
    if shutil.which("gcc") is None:
        pytest.skip("gcc is missing")
    source = tmp_path / "nvrtc.c"
    source.write_text(SOURCE)

    def make(path, version, *definitions):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        flags = [f"-DMAJOR={version[0]}", f"-DMINOR={version[1]}", *definitions]
        if not any("BROKEN" in flag for flag in flags):
            flags.append("-DBROKEN=0")
        subprocess.run(["gcc", "-shared", "-fPIC", *flags, source, "-o", tmp_path / path], check=True)
        return str(tmp_path / path)

    return make


@pytest.fixture
def search(monkeypatch, tmp_path):
    """Only what is below tmp_path is searched; the answer is looked for anew."""
    monkeypatch.setattr(sys, "path", [str(tmp_path / "site"), str(tmp_path / "absent")])
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "environment"))
    monkeypatch.setattr(nvrtc_library, "_SYSTEM", tmp_path / "usr")
    monkeypatch.setattr(nvrtc_library, "_NAMES", ())
    for name in ("CUDA_HOME", "CUDA_PATH"):
        monkeypatch.delenv(name, raising=False)
    nvrtc_library._open_all.cache_clear()
    yield lambda: {library.version: library.path for library in nvrtc_library.installed()}
    nvrtc_library._open_all.cache_clear()


def test_wheels_of_two_majors_and_toolkits_are_all_found(build, search, monkeypatch, tmp_path):
    expected = {
        (12, 9): build("site/nvidia/cuda_nvrtc/lib/libnvrtc.so.12", (12, 9)),
        (13, 5): build("site/nvidia/cu13/lib/libnvrtc.so.13", (13, 5)),
        (12, 8): build("environment/lib/libnvrtc.so.12", (12, 8)),
        (13, 1): build("home/lib64/libnvrtc.so.13", (13, 1)),
        (12, 6): build("usr/cuda-12.6/targets/aarch64-linux/lib/libnvrtc.so.12", (12, 6)),
        (14, 0): build("usr/cuda-14/lib64/libnvrtc.so.14", (14, 0)),
    }
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "home"))
    # A version that is there already, and files that are none.
    build("usr/cuda-13.1/lib64/libnvrtc.so.13", (13, 1))
    build("site/nvidia/cuda_nvrtc/lib/libnvrtc.alt.so.12", (11, 1))
    build("site/nvidia/cuda_nvrtc/lib/libnvrtc-builtins.so.12.9", (11, 2))
    (tmp_path / "usr/cuda").symlink_to(tmp_path / "usr/cuda-14")
    assert search() == expected
    assert nvrtc_library.unusable() == ()
    assert nvrtc_library.installed()[0].architectures == ((9, 0), (12, 1))


def test_libraries_that_cannot_be_used_are_named(build, search, tmp_path):
    good = build("site/nvidia/cu13/lib/libnvrtc.so.13", (13, 0))
    other = build("usr/cuda/lib64/libnvrtc.so.12", (12, 0), "-DNOTHING")
    failing = build("usr/cuda/lib/libnvrtc.so.12", (12, 1), "-DBROKEN=7")
    text = tmp_path / "environment/lib/libnvrtc.so.12"
    text.parent.mkdir(parents=True)
    text.write_text("no library")
    assert search() == {(13, 0): good}
    reasons = "\n".join(nvrtc_library.unusable())
    assert f"{text}: " in reasons
    assert f"{other}: " in reasons
    assert f"{failing}: nvrtcGetSupportedArchs failed: got NVRTC_ERROR_TEST" in reasons


def test_nothing_is_found(search):
    assert search() == {}
    assert nvrtc_library.unusable() == ()


def test_every_library_of_this_machine_compiles():
    """Libraries of several CUDA majors in one process."""
    found = nvrtc_library.installed()
    if not found:
        pytest.skip("no NVRTC on this machine: pip install 'imp-trt[cuda]'")
    for library in found:
        assert re.search(r"V{}\.{}\.\d+".format(*library.version), library.build)  # of every update
        source = '#include "a.h"\nextern "C" __global__ void f(int* x) { *x = A; }'
        options = ("-std=c++17", "--gpu-architecture=compute_90")
        ptx = library.compile("a.cu", source, {"a.h": "#define A 7"}, options, "PTX")
        assert ptx.endswith(b"\0")
        assert b", 7;" in ptx
        cubin = library.compile(
            "a.cu", source, {"a.h": "#define A 7"}, ("--gpu-architecture=sm_90",), "CUBIN"
        )
        assert cubin.startswith(b"\x7fELF")
        with pytest.raises(
            BuildError, match=r"NVRTC cannot compile a\.cu: got NVRTC_ERROR_COMPILATION .*a\.h"
        ):
            library.compile("a.cu", source, {}, options, "PTX")
        with pytest.raises(BuildError, match="NVRTC_ERROR_INVALID_OPTION"):
            library.compile("a.cu", source, {}, ("--gpu-architecture=sm_1",), "CUBIN")
    assert isinstance(found[0], Library)
