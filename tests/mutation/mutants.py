# SPDX-License-Identifier: Apache-2.0
"""Changes of the letterbox and of the kernels' headers that the tests must notice."""

from __future__ import annotations

from dataclasses import dataclass

LETTERBOX = "imp_trt/preprocessing/letterbox.py"
FRAME_FIT = "plugins/frame_fit/frame_fit.h"
PIXEL_SOURCE = "plugins/frame_fit/pixel_source.h"
PROJECTION = "plugins/instance_mask_projection/instance_mask_projection.h"
ROI_ALIGN = "plugins/multilevel_roi_align/multilevel_roi_align.h"
POOL = "plugins/multilevel_roi_align/pool_bins.h"
SCALARS = "plugins/common/scalar_types.h"

TESTS = {
    LETTERBOX: ("tests/preprocessing/test_letterbox.py",),
    FRAME_FIT: ("tests/plugins/test_kernels_frame_fit.py",),
    PIXEL_SOURCE: ("tests/plugins/test_kernels_frame_fit.py", "tests/plugins/test_kernels_frame_fit_nv12.py"),
    PROJECTION: ("tests/plugins/test_kernels_mask_projection.py",),
    ROI_ALIGN: ("tests/plugins/test_kernels_multilevel_roi_align.py",),
    POOL: ("tests/plugins/test_kernels_multilevel_roi_align.py",),
    SCALARS: ("tests/plugins/test_kernels_scalar_types.py",),
}


@dataclass(frozen=True)
class Mutant:
    """One change.

    Attributes:
        path: the file, relative to the repository.
        before: text that occurs in it; the first occurrence is replaced.
        after: the replacement.
    """

    path: str
    before: str
    after: str


MUTANTS = (
    # ---- letterbox.py ----
    Mutant(LETTERBOX, "height * w <= width * h", "height * w >= width * h"),
    Mutant(LETTERBOX, "(height, _scaled(w, height, h))", "(height, _scaled(w, height, h) - 1)"),
    Mutant(LETTERBOX, "(_scaled(h, width, w), width)", "(height, width)"),
    Mutant(LETTERBOX, 'contract.fit == "letterbox"', 'contract.fit == "resize"'),
    Mutant(LETTERBOX, "resized, contract.pad_value)", "resized, 114)"),
    Mutant(LETTERBOX, "1 - math.prod(self.resized)", "math.prod(self.resized)"),
    Mutant(LETTERBOX, "out[rh:] = self.pad_value", "out[rh + 1 :] = self.pad_value"),
    Mutant(LETTERBOX, "out[:rh, rw:] = self.pad_value", "out[:rh, rw + 1 :] = self.pad_value"),
    Mutant(LETTERBOX, "out[:rh, rw:] = self.pad_value", "out[:rh, rw:] = 0"),
    Mutant(LETTERBOX, "image = out[:rh, :rw]", "image = out[-rh:, :rw]"),
    Mutant(LETTERBOX, "dst=image, interpolation=self._interpolation", "dst=image"),
    Mutant(LETTERBOX, "if h < 1 or w < 1:", "if h < 0 or w < 0:"),
    Mutant(LETTERBOX, "or frame.dtype != np.uint8", ""),
    Mutant(LETTERBOX, "if semantic.shape != self.network:", "if False:"),
    Mutant(
        LETTERBOX, "factor = np.array([w / rw, h / rh, w / rw, h / rh])", "factor = np.array([w / rw] * 4)"
    ),
    Mutant(LETTERBOX, "np.take(narrow, rows, axis=0)", "np.take(narrow, rows[::-1], axis=0)"),
    # ---- frame_fit.h ----
    Mutant(FRAME_FIT, "(end + to - 1) / to", "end / to"),
    Mutant(FRAME_FIT, "(end < high ? end : high)", "high"),
    Mutant(FRAME_FIT, "(begin > low ? begin : low)", "low"),
    Mutant(FRAME_FIT, "(2LL * x + 1) * from - to;", "2LL * x * from - to;"),
    Mutant(FRAME_FIT, "first >= from - 1", "first >= from"),
    Mutant(FRAME_FIT, "(2LL * x + 1) * from / (2LL * to)", "2LL * x * from / (2LL * to)"),
    Mutant(PIXEL_SOURCE, "pixels + 3LL * x", "pixels + x"),
    Mutant(PIXEL_SOURCE, "(x & ~1)", "x"),
    Mutant(PIXEL_SOURCE, "(y >> 1) * chroma_pitch", "y * chroma_pitch"),
    Mutant(PIXEL_SOURCE, "(y >> 1) * chroma_pitch", "(y >> 1) * luma_pitch"),
    Mutant(PIXEL_SOURCE, "at_least(luma[x] - to_bgr.black, 0)", "(luma[x] - to_bgr.black)"),
    Mutant(PIXEL_SOURCE, "units + (1 << 19)", "units"),
    Mutant(PIXEL_SOURCE, "pair[0] - 128, v = pair[1] - 128", "pair[1] - 128, v = pair[0] - 128"),
    Mutant(PIXEL_SOURCE, ", 255);", ", 256);"),
    Mutant(FRAME_FIT, "/ area + 0.5F", "/ area"),
    Mutant(FRAME_FIT, "line[c] += width * level[c]", "line[c] += level[c]"),
    Mutant(FRAME_FIT, "(1.0F - column.fraction)", "1.0F"),
    # ---- multilevel_roi_align.h ----
    Mutant(ROI_ALIGN, "kLevelEps) - 2.0F", "kLevelEps) - 3.0F"),
    Mutant(ROI_ALIGN, "!aligned && size < 1.0F ? 1.0F : size", "size"),
    Mutant(ROI_ALIGN, "!aligned && size < 1.0F", "size < 1.0F"),
    Mutant(ROI_ALIGN, "aligned ? 0.5F : 0.0F", "0.0F"),
    Mutant(ROI_ALIGN, "place >= -1.0F", "place >= 0.0F"),
    Mutant(ROI_ALIGN, "(static_cast<float>(i) + 0.5F)", "static_cast<float>(i)"),
    Mutant(
        ROI_ALIGN,
        "return {1.0F - high, high, cell, cell + 1};",
        "return {high, 1.0F - high, cell, cell + 1};",
    ),
    Mutant(ROI_ALIGN, "0.25F / static_cast<float>(1 << level)", "0.25F"),
    Mutant(ROI_ALIGN, "kReach = 16384.0F", "kReach = 64.0F"),
    Mutant(ROI_ALIGN, "ceilf(bin)", "floorf(bin)"),
    # ---- pool_bins.h ----
    Mutant(POOL, "samples < 1.0F ? 1.0F : samples", "samples"),
    Mutant(POOL, "return sum * 0.25F;", "return sum;"),
    Mutant(
        POOL,
        "y.weight_low * x.weight_high;\n            bin",
        "y.weight_low * x.weight_low;\n            bin",
    ),
    # ---- scalar_types.h ----
    Mutant(SCALARS, "exponent + 112U", "exponent + 111U"),
    Mutant(SCALARS, "size >= 0x477ff000U", "size > 0x477ff000U"),
    Mutant(SCALARS, "0xfffU + (size >> 13 & 1U)", "0xfffU"),
    Mutant(SCALARS, "0x7fffU + (bits >> 16 & 1U)", "0x8000U"),
    Mutant(SCALARS, "bits_of(tiny) | sign", "bits_of(tiny)"),
)
