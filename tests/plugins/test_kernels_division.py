# SPDX-License-Identifier: Apache-2.0
"""The division that the forward kernel writes out for the GPU rounds as IEEE 754 does."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.cuda_on_host.host_kernels import PLUGINS

STEPS = (
    "inverse = __fmaf_rn(start, __fmaf_rn(-b, start, 1.0F), start);",
    "const float quotient = a * inverse;",
    "return __fmaf_rn(inverse, __fmaf_rn(-value, quotient, a), quotient);",
    "return (fabsf(a) <= 0x1p60F) & (b >= 0x1p-40F) & (b <= 0x1p40F);",
)

# The GPU's reciprocal is within one unit in the last place; all three possible values are tested.
PROGRAM = """
#include <cmath>
#include <random>
int main()
{
    std::mt19937_64 random(1);
    for (long n = 0; n < COUNT; ++n) {
        const unsigned long bits = random();
        unsigned int above = bits & 0x7fffff, below = bits >> 23 & 0x7fffff;
        if (bits >> 62 == 0) {
            below |= 0x7fff00;  // near a power of two, where reciprocals are hardest to round
        } else if (bits >> 62 == 1) {
            above &= 0x7ff000;  // ties are near
        }
        const float a = ldexpf(1.0F + above * 0x1p-23F, static_cast<int>((bits >> 46) % 85) - 25);
        const float b = ldexpf(1.0F + below * 0x1p-23F, static_cast<int>((bits >> 54) % 80) - 40);
        const float nearest = 1.0F / b;
        for (const float start : {nextafterf(nearest, 0.0F), nearest, nextafterf(nearest, INFINITY)}) {
            const float inverse = fmaf(start, fmaf(-b, start, 1.0F), start);
            const float quotient = a * inverse;
            if (fmaf(inverse, fmaf(-b, quotient, a), quotient) != a / b) {
                return 1;
            }
        }
    }
    return 0;
}
"""


def test_the_quotient_is_the_nearest_number(tmp_path: Path) -> None:
    if shutil.which("g++") is None:
        pytest.skip("g++ is missing")
    text = (PLUGINS / "instance_mask_projection" / "prepare_box.h").read_text()
    for step in STEPS:
        assert step in text
    source, program = tmp_path / "division.cpp", tmp_path / "division"
    source.write_text(PROGRAM)
    flags = ["-std=c++17", "-O2", "-ffp-contract=off", "-DCOUNT=2000000"]
    subprocess.run(["g++", *flags, str(source), "-o", str(program)], check=True)
    assert subprocess.run([str(program)], timeout=120, check=False).returncode == 0
