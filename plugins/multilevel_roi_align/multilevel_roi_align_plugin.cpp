// SPDX-License-Identifier: Apache-2.0
#include "multilevel_roi_align/multilevel_roi_align_plugin.h"

#include "tensorrt/plugin.h"

namespace imp_trt {

using nvinfer1::DataType;
using nvinfer1::TensorFormat;

namespace {

constexpr int32_t kLevels = 4;
constexpr int32_t kBoxes = kLevels; // position among the inputs

} // namespace

void MultilevelRoiAlign::fields(FieldVisitor& visitor)
{
    visitor.field("output_size", output_size_);
    visitor.field("sampling_ratio", sampling_ratio_);
    visitor.field("canonical_level", canonical_level_);
    visitor.field("canonical_size", canonical_size_);
    visitor.optional_field("aligned", aligned_);
}

const char* MultilevelRoiAlign::field_problem() const
{
    if (output_size_ < 1) {
        return "output_size must be at least 1";
    }
    if (sampling_ratio_ < 0 || sampling_ratio_ > kMaxSamplingRatio) {
        return "sampling_ratio must be 0 to 64";
    }
    if (canonical_size_ < 1) {
        return "canonical_size must be at least 1";
    }
    return aligned_ != 0 && aligned_ != 1 ? "aligned must be 0 or 1" : nullptr;
}

bool MultilevelRoiAlign::accepts(int32_t input, const DataType* types)
{
    return input == kBoxes ? types[kBoxes] == DataType::kFLOAT
                           : is_floating(types[input]) && types[input] == types[0];
}

bool MultilevelRoiAlign::accepts_layout(int32_t input, const DataType* types, const TensorFormat* layouts)
{
    if (input == kBoxes || types[input] == DataType::kFLOAT) {
        return layouts[input] == TensorFormat::kLINEAR;
    }
    return (layouts[input] == TensorFormat::kLINEAR || layouts[input] == TensorFormat::kHWC8) &&
           layouts[input] == layouts[0];
}

void MultilevelRoiAlign::output_shape(const nvinfer1::DimsExprs* in, nvinfer1::DimsExprs& out,
                                      nvinfer1::IExprBuilder& builder) const
{
    out.nbDims = 4;
    out.d[0] = builder.operation(nvinfer1::DimensionOperation::kPROD, *in[kBoxes].d[0], *in[kBoxes].d[1]);
    out.d[1] = in[0].d[1];
    out.d[2] = builder.constant(output_size_);
    out.d[3] = builder.constant(output_size_);
}

const char* MultilevelRoiAlign::shape_problem(const nvinfer1::PluginTensorDesc* in) const noexcept
{
    const auto& boxes = in[kBoxes].dims;
    if (boxes.d[2] != 4) {
        return "boxes: expected [B, N, 4]";
    }
    for (int32_t level = 0; level < kLevels; ++level) {
        const auto& dims = in[level].dims;
        if (dims.d[0] != boxes.d[0] || dims.d[1] != in[0].dims.d[1]) {
            return "p2..p5: expected [B, C, H, W] with the B of boxes and one C";
        }
        if (dims.d[2] < 1 || dims.d[3] < 1) {
            return "p2..p5: expected at least one cell";
        }
    }
    return nullptr;
}

cudaError_t MultilevelRoiAlign::prepare(const nvinfer1::PluginTensorDesc* in) const noexcept
{
    return prepare_multilevel_roi_align(element_of(in[0].type), in[0].format == TensorFormat::kHWC8);
}

cudaError_t MultilevelRoiAlign::launch(const nvinfer1::PluginTensorDesc* in, const void* const* inputs,
                                       void* output, cudaStream_t stream) const noexcept
{
    MultilevelRoiAlignCall call{};
    for (int32_t level = 0; level < kLevels; ++level) {
        call.levels[level] = inputs[level];
        call.heights[level] = static_cast<int>(in[level].dims.d[2]);
        call.widths[level] = static_cast<int>(in[level].dims.d[3]);
    }
    call.hwc8 = in[0].format == TensorFormat::kHWC8;
    call.boxes = static_cast<const float*>(inputs[kBoxes]);
    call.pooled = output;
    call.batch = static_cast<int>(in[kBoxes].dims.d[0]);
    call.boxes_per_image = static_cast<int>(in[kBoxes].dims.d[1]);
    call.channels = static_cast<int>(in[0].dims.d[1]);
    call.output_size = output_size_;
    call.sampling_ratio = sampling_ratio_;
    call.canonical_level = canonical_level_;
    call.canonical_size = canonical_size_;
    call.aligned = aligned_;
    return launch_multilevel_roi_align(element_of(in[0].type), call, stream);
}

} // namespace imp_trt
