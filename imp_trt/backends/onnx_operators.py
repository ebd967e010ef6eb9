# SPDX-License-Identifier: Apache-2.0
"""The operators of ONNX that a file may contain: how the sizes of their outputs are known.

An operator that is not listed here is rejected: sequences, strings, control flow, generators of numbers,
audio and losses, which no network for inference on images needs.
"""

from __future__ import annotations

from collections.abc import Callable

from imp_trt.backends import onnx_shapes as shapes
from imp_trt.backends import onnx_windows as windows
from imp_trt.backends.onnx_shapes import Attributes, Inputs, Rule
from imp_trt.backends.onnx_tensor import MAX_RANK

RULES: dict[str, Rule] = {
    "ArgMax": shapes.arg,
    "ArgMin": shapes.arg,
    "Concat": shapes.concat,
    "Constant": lambda inputs, attributes: shapes.constant_of(attributes).shape,
    "Det": windows.determinant,
    "DynamicQuantizeLinear": lambda inputs, attributes: [shapes.shape_of(inputs[0]), (), ()],
    "Flatten": shapes.flatten,
    "Gather": shapes.gather,
    "GatherElements": lambda inputs, attributes: inputs[1].shape,
    "GatherND": shapes.gather_nd,
    "Gemm": shapes.gemm,
    "GlobalAveragePool": windows.global_pool,
    "GlobalLpPool": windows.global_pool,
    "GlobalMaxPool": windows.global_pool,
    "MatMul": shapes.matmul,
    "MatMulInteger": shapes.matmul,
    "QLinearMatMul": lambda inputs, attributes: shapes.matmul((inputs[0], inputs[3]), attributes),
    "Reshape": shapes.reshape,
    "Shape": lambda inputs, attributes: (len(shapes.part_of_shape(inputs, attributes)),),
    "Size": lambda inputs, attributes: (),
    "Slice": shapes.slice_,
    "SpaceToDepth": shapes.space_to_depth,
    "DepthToSpace": shapes.depth_to_space,
    "Squeeze": shapes.squeeze,
    "TopK": shapes.topk,
    "Transpose": shapes.transpose,
    "Unsqueeze": shapes.unsqueeze,
}
RULES |= dict.fromkeys(
    """Abs Acos Acosh Asin Asinh Atan Atanh BatchNormalization Bernoulli BitCast BitwiseNot Cast CastLike
    Ceil Celu Clip Cos Cosh CumProd CumSum DequantizeLinear Dropout Elu Erf Exp EyeLike Floor Gelu
    GroupNormalization HardSigmoid HardSwish Hardmax Identity InstanceNormalization IsInf IsNaN LRN
    LayerNormalization LeakyRelu Log LogSoftmax LpNormalization MeanVarianceNormalization Mish Neg Not
    QuantizeLinear RMSNormalization RandomNormalLike RandomUniformLike Reciprocal Relu ReverseSequence
    RotaryEmbedding Round Scatter ScatterElements ScatterND Selu Shrink Sigmoid Sign Sin Sinh Softmax
    Softplus Softsign Sqrt Swish Tan Tanh TensorScatter ThresholdedRelu Trilu""".split(),
    shapes.same,
)
RULES |= dict.fromkeys(
    """Add And BitShift BitwiseAnd BitwiseOr BitwiseXor Div Equal Greater GreaterOrEqual Less LessOrEqual
    Max Mean Min Mod Mul Or PRelu Pow Sub Sum Where Xor""".split(),
    shapes.broadcast_inputs,
)
RULES |= dict.fromkeys(
    """ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum
    ReduceSumSquare""".split(),
    shapes.reduce,
)

GROWING: dict[str, Rule] = {
    "AffineGrid": windows.affine_grid,
    "Attention": windows.attention,
    "AveragePool": windows.pool,
    "CenterCropPad": windows.center_crop_pad,
    "Col2Im": windows.col2im,
    "ConstantOfShape": shapes.constant_of_shape,
    "Conv": windows.conv,
    "ConvInteger": windows.conv,
    "ConvTranspose": windows.conv_transpose,
    "DeformConv": windows.deform_conv,
    "Einsum": windows.einsum,
    "Expand": shapes.expand,
    "GRU": windows.recurrent,
    "GridSample": windows.grid_sample,
    "LSTM": windows.recurrent,
    "LpPool": windows.pool,
    "MaxPool": windows.max_pool,
    "MaxRoiPool": windows.max_roi_pool,
    "MaxUnpool": windows.max_unpool,
    "OneHot": shapes.one_hot,
    "Pad": shapes.pad,
    "QLinearConv": windows.qlinear_conv,
    "RNN": windows.recurrent,
    "Range": shapes.range_,
    "Resize": windows.resize,
    "RoiAlign": windows.roi_align,
    "Tile": shapes.tile,
    "Upsample": windows.resize,
}
"""Their outputs can be larger than the sum and the product of the inputs' sizes, and must be known exactly.

The volume of an output of RULES is not larger than that sum or product.
"""


def _selected(inputs: Inputs, attributes: Attributes) -> int | None:
    """Three indices for every box that NonMaxSuppression keeps."""
    return None if (volume := inputs[1].volume) is None else 3 * volume


def _positions(inputs: Inputs, attributes: Attributes) -> int | None:
    """An index for every side of a tensor and every value that NonZero finds."""
    shape, volume = inputs[0].shape, inputs[0].volume
    return None if volume is None else volume * (MAX_RANK if shape is None else len(shape))


BY_VALUE: dict[str, Callable[[Inputs, Attributes], int | None]] = {
    "Compress": lambda inputs, attributes: inputs[0].volume,
    "NonMaxSuppression": _selected,
    "NonZero": _positions,
    "Reshape": shapes.reshape_volume,
    "Unique": lambda inputs, attributes: inputs[0].volume,
}
"""Operators whose outputs' sizes depend on values: the largest volume of an output, see Known.most."""

BUFFERS: dict[str, Callable[[Inputs, Attributes], int]] = {
    "Attention": windows.attention_elements,
    "ConvTranspose": windows.conv_transpose_elements,
    "DeformConv": windows.deform_conv_elements,
    "Einsum": windows.einsum_elements,
    "RoiAlign": windows.roi_align_samples,
}
"""Elements of what an operator computes in between."""

ALLOWED = frozenset((*RULES, *GROWING, *BY_VALUE, "Split"))
"""All operators of ONNX that a file may contain."""
