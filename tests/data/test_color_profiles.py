# SPDX-License-Identifier: Apache-2.0
"""Colors other than sRGB, which decoders do not convert, are named once for each folder."""

from __future__ import annotations

import logging
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from imp_trt.data import images
from imp_trt.data.color_profiles import unapplied_profile
from imp_trt.data.images import read_image
from tests.support import image_files
from tests.support.image_files import rgb

# X of red and green under D50
SRGB, P3, ADOBE = (0.4361, 0.3851), (0.5151, 0.2920), (0.6097, 0.2053)


def _fixed(*values: float) -> bytes:
    return struct.pack(f">{len(values)}i", *(round(value * 65536) for value in values))


GAMMA_22 = b"curv" + struct.pack(">IIH", 0, 1, round(2.2 * 256))
LINEAR = b"curv" + bytes(8)
TABLE = b"curv" + struct.pack(">II1024H", 0, 1024, *(round(65535 * (i / 1023) ** 2.2) for i in range(1024)))
PARAMETERS = (
    b"para" + struct.pack(">IHH", 0, 3, 0) + _fixed(2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
)


def _profile(
    gamut: tuple[float, float] | None,
    curve: bytes,
    name: str = "Mine",
    *,
    space: bytes = b"RGB ",
    v4: bool = False,
) -> bytes:
    if v4:
        text = name.encode("utf-16-be")
        description = b"mluc" + struct.pack(">III2s2sII", 0, 1, 12, b"en", b"US", len(text), 28) + text
    else:
        description = b"desc" + struct.pack(">II", 0, len(name) + 1) + name.encode("latin-1") + b"\0"
    parts = {b"desc": description, b"rTRC": curve}
    for kind, x in zip((b"rXYZ", b"gXYZ"), gamut or (), strict=False):
        parts[kind] = b"XYZ " + bytes(4) + _fixed(x, 0.3, 0.1)
    table, content = struct.pack(">I", len(parts)), b""
    for kind, data in parts.items():
        table += struct.pack(">4sII", kind, 132 + 12 * len(parts) + len(content), len(data))
        content += data
    head = bytes(12) + b"mntr" + space + b"XYZ " + bytes(12) + b"acsp"
    return head.ljust(128, b"\0") + table + content


PROFILES: dict[str, tuple[bytes, str | None]] = {
    "sRGB of LittleCMS": (ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(), None),
    "sRGB": (_profile(SRGB, PARAMETERS), None),
    "sRGB with a table": (_profile(SRGB, TABLE, v4=True), None),
    "sRGB with gamma 2.2": (_profile(SRGB, GAMMA_22), None),
    "sRGB by tables alone": (_profile(None, b"", "sRGB v4 ICC preference"), None),
    "Display P3": (_profile(P3, PARAMETERS, "Display P3", v4=True), "(Display P3)"),
    "Adobe RGB": (_profile(ADOBE, GAMMA_22, "Adobe RGB (1998)"), "(Adobe RGB (1998))"),
    "linear": (_profile(SRGB, LINEAR, "linear"), "(linear)"),
    "gamma 1": (_profile(SRGB, b"curv" + struct.pack(">IIH", 0, 1, 256), "one"), "(one)"),
    "without a name": (_profile(P3, GAMMA_22, ""), "(for RGB)"),
    "a name with an escape": (_profile(P3, GAMMA_22, "a\x1b[31m"), "a?"),
    "CMYK": (_profile(None, b"", "SWOP", space=b"CMYK"), "(SWOP)"),
    "gray": (_profile(None, LINEAR, space=b"GRAY"), None),
    "no profile": (b"x" * 300, None),
}


@pytest.mark.parametrize(("profile", "named"), PROFILES.values(), ids=PROFILES.keys())
def test_profiles(profile: bytes, named: str | None) -> None:
    said = unapplied_profile(profile)
    assert (said is None) == (named is None)
    assert named is None or named in (said or "")
    rng = np.random.default_rng(0)
    for _ in range(200):  # damaged ones are no error
        damaged = bytearray(profile[: int(rng.integers(0, len(profile) + 1))])
        for place in rng.integers(0, len(damaged), 4) if damaged else ():
            damaged[place] = int(rng.integers(0, 256))
        unapplied_profile(bytes(damaged))


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif"])
@pytest.mark.parametrize("name", ["sRGB", "Display P3"])
def test_profiles_in_files(tmp_path: Path, suffix: str, name: str, caplog: pytest.LogCaptureFixture) -> None:
    images._warned.clear()
    for stem in "ab":
        path = tmp_path / f"{stem}{suffix}"
        Image.fromarray(rgb()).save(path, icc_profile=PROFILES[name][0])
        read_image(path)
    expected = [] if name == "sRGB" else [f"a{suffix} has a color profile that is not applied (Display P3)"]
    assert [message.partition(" (other")[0].rpartition("/")[2] for message in caplog.messages] == expected


@pytest.mark.parametrize(
    ("chunks", "said"),
    [
        ([(b"gAMA", struct.pack(">I", 45455))], None),
        ([(b"gAMA", struct.pack(">I", 55556))], None),  # of old Macs
        ([(b"gAMA", bytes(4))], None),
        ([(b"gAMA", struct.pack(">I", 100_000))], "has a gamma of 1, which is not applied"),
        ([(b"sRGB", b"\0"), (b"gAMA", struct.pack(">I", 100_000))], None),
        ([(b"cICP", bytes([9, 16, 0, 1]))], "has HDR colors"),
        ([(b"cICP", bytes([1, 13, 0, 1])), (b"gAMA", struct.pack(">I", 100_000))], None),
        ([(b"cICP", bytes([12, 13, 0, 1]))], "wide-gamut"),
        ([(b"iCCP", b"x\0\0no deflate")], None),
    ],
)
def test_chunks_of_png(
    tmp_path: Path, chunks: list[tuple[bytes, bytes]], said: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    images._warned.clear()
    with caplog.at_level(logging.WARNING, "imp_trt"):
        found = read_image(image_files.png(tmp_path / "a.png", rgb(), chunks=chunks))
    assert np.array_equal(found, rgb()[..., ::-1])
    assert len(caplog.messages) == (said is not None)
    assert (said or "") in caplog.text
