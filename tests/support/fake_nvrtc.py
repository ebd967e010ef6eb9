# SPDX-License-Identifier: Apache-2.0
"""Stand-ins for the NVRTC libraries of a machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest

from imp_trt.cuda import nvrtc_library

ARCHITECTURES = ((8, 0), (8, 6), (9, 0))


class FakeLibrary:
    """As imp_trt.cuda.nvrtc_library.Library; "compiles" to a text that says what was asked for."""

    def __init__(
        self, version: tuple[int, int], architectures: Sequence[tuple[int, int]] = ARCHITECTURES
    ) -> None:
        self.path = f"/fake/{version[0]}.{version[1]}/libnvrtc.so.{version[0]}"
        self.version = version
        self.architectures = tuple(architectures)
        self.build = "fake {}.{}.0".format(*version)

    def compile(
        self, name: str, source: str, headers: Mapping[str, str], options: Sequence[str], kind: str
    ) -> bytes:
        return f"{kind} of {name} by {self.version[0]}.{self.version[1]}, {options[-1]}".encode()


def have_nvrtc(
    monkeypatch: pytest.MonkeyPatch, *libraries: FakeLibrary | tuple[int, int], unusable: Sequence[str] = ()
) -> None:
    """These are the machine's NVRTCs; a version stands for one that knows ARCHITECTURES."""
    found = tuple(FakeLibrary(lib) if isinstance(lib, tuple) else lib for lib in libraries)
    monkeypatch.setattr(nvrtc_library, "installed", lambda: found)
    monkeypatch.setattr(nvrtc_library, "unusable", lambda: tuple(unusable))
