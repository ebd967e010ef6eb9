# SPDX-License-Identifier: Apache-2.0
"""The functions in exported files, to the byte: the same weights give the same file in every version.

A change of a hash changes every file exported from then on: it has to be meant.
"""

from __future__ import annotations

from hashlib import sha256

import pytest
from onnx import FunctionProto

from imp_trt.export.onnx import mask_projection
from imp_trt.export.onnx import roi_align as multilevel_roi_align
from imp_trt.export.onnx.mask_projection import Shapes

# Slots of a block and bands of columns -> sizes that give them.
LAYOUTS = {
    (2, 1): Shapes(1, 2, 1, (4, 4)),
    (4, 1): Shapes(1, 30, 4, (19, 23)),
    (8, 3): Shapes(1, 100, 8, (128, 256)),
    (16, 10): Shapes(4, 1000, 1, (64, 64)),
    (32, 32): Shapes(8, 900, 30, (512, 256)),
}
FLOAT, FLOAT16, BFLOAT16 = 1, 10, 16  # of onnx.TensorProto

# Sampling rule, type, cells a side, slots of a block -> hash.
MASK_PROJECTION = {
    ("bilinear", FLOAT, 28, 2): "e63c580bdffa22d7aed6de87952e35b6b7489551849204a600a478dd01a96834",
    ("bilinear", FLOAT, 28, 4): "be3b8a9718b71e12c63622901494fdb0fd30093d1382abe275f90eb0e645cf49",
    ("bilinear", FLOAT, 28, 8): "634b4c82f4624d4bc4745f2df1deb4d1ebe239caf3668a214134ca086a4a1432",
    ("bilinear", FLOAT, 28, 16): "1d11aceefa0a190193ebc5ca29c000a3093fb6fe2bdd58b73916c42f39d9ebb7",
    ("bilinear", FLOAT, 28, 32): "12675bffa0373a5496b30d138aac2b676c440c3a01dd2f676a3d3635437a53be",
    ("bilinear", FLOAT16, 28, 8): "061bda991e9c07a767f59902634a210616961ba80f9944245774717e4255efef",
    ("bilinear", BFLOAT16, 28, 8): "8cb03d1569e032582ede8c46baa409dc2294f30bbae30f347597f52bb82106de",
    ("nearest", FLOAT, 28, 2): "0517777b547acbdfc29beb99cee12801c5ab9b1df8ea84e9b5c9ebb1cc05a1a1",
    ("nearest", FLOAT, 28, 4): "abf8eae9fe21253936b95d07fccf3d287a6117abf147ff284cb4ecdef001a9b6",
    ("nearest", FLOAT, 28, 8): "ebc363b7cf7b8073838113598cf01fe8c147ebe096f3e67ab3adf11636fb17c3",
    ("nearest", FLOAT, 28, 16): "e45fe8251c3529adaf1c73e0e18b6a2873e54fa63ae98f3a564645c595a0ac7f",
    ("nearest", FLOAT, 28, 32): "e2e9f41386fbc4eadb6bd94193ec80317adfddb3fcbffd85eec3ae012d0e1eda",
    ("nearest", FLOAT16, 28, 8): "e801efb464a976f190e8b41189415fb78a6873846c4593c5231ab1f4d195ca34",
    ("nearest", BFLOAT16, 28, 8): "13d4484b4f70f31ecb2fd95669e5bf0c361cadd36883238d70a0fc7467f1b523",
    ("rect", FLOAT, 28, 2): "4fc1b43359bb6df64fd7a31f7f46e8c4db4ab46965db6936d510ef8a2b79614a",
    ("rect", FLOAT, 28, 4): "70400b84b1b820794f07fd54b67c98753149c347a9660575affb4e3212046995",
    ("rect", FLOAT, 28, 8): "a6460bed2e4ff59c7aa32f5bac1d17475ae0d3326c3c7c07f752f6dab47c4745",
    ("rect", FLOAT, 28, 16): "8a965d5ba559c3b6c202a3481156c25854e141bf1a61982529032dea7a5fdc5a",
    ("rect", FLOAT, 28, 32): "227c35a01bfe221c99fe5e923c72bc3a5f4393c3ccac8da238caec6ba96536aa",
    ("rect", FLOAT16, 28, 8): "4751afefa40e4cfad79177c7660fb987c71e438ec937916a7695b6d1f23fd951",
    ("rect", BFLOAT16, 28, 8): "463bc1ce9d2ef11695a41584d5adccec8cd34ac86c06c258a17292ee2c68f466",
    ("rect", FLOAT, 1, 4): "d3f91663cc59c4222b4bc87c1443e702ccc6efb894933f108ea45deacb8bfe74",
    ("rect", FLOAT, 5, 4): "020857b1b5885a132405834053d1adb41f1546ae773f592f25181e0eea515b87",
    ("rect", FLOAT, 56, 4): "bcf6f6d92411203ccce953771e5d527015fc9c95d269fe2225ca4affe19785e0",
}
ALIGNED_ROI_ALIGN = "6f80741aebec7ca2bf94cd612663fef64ba6c6666905910909ac28d79ead55e7"
ADAPTIVE_ROI_ALIGN = "60f5bb519ef6e31c2a2433d668787e2e8aa0ca03463d24f9ecb7133b0385275e"
ALIGNED_ADAPTIVE_ROI_ALIGN = "204f1a522e4ee60616853e7b8656b51e8cb5379cb9c336f51cd0f23a58ff2dcc"
ROI_ALIGN = "d28e53d2c79abff5561db93c263a8b950d6bc30285b43e10819744252260c0f2"


def digest(function: FunctionProto) -> str:
    return sha256(function.SerializeToString(deterministic=True)).hexdigest()


def test_the_sizes_give_the_layouts() -> None:
    assert [(shapes.block(), shapes.bands()) for shapes in LAYOUTS.values()] == list(LAYOUTS)


@pytest.mark.parametrize(("variant", "expected"), MASK_PROJECTION.items(), ids=str)
def test_mask_projection_is_the_same_to_the_byte(variant: tuple[str, int, int, int], expected: str) -> None:
    rule, dtype, cells, block = variant
    shapes = next(shapes for layout, shapes in LAYOUTS.items() if layout[0] == block)
    assert digest(mask_projection.function_proto(rule, dtype, cells, shapes)) == expected


def test_roi_align_is_the_same_to_the_byte() -> None:
    assert digest(multilevel_roi_align.function_proto()) == ROI_ALIGN
    assert digest(multilevel_roi_align.function_proto(aligned=True)) == ALIGNED_ROI_ALIGN
    assert digest(multilevel_roi_align.function_proto(adaptive=True)) == ADAPTIVE_ROI_ALIGN
    assert digest(multilevel_roi_align.function_proto(True, adaptive=True)) == ALIGNED_ADAPTIVE_ROI_ALIGN
