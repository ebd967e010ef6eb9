// SPDX-License-Identifier: Apache-2.0
#include "instance_mask_projection/instance_mask_projection_plugin.h"

#include "tensorrt/plugin.h"

#include <cmath>

namespace imp_trt {

using nvinfer1::DataType;

namespace {

constexpr int32_t kMaxCanvasSide = 1 << 16;

enum Input : int32_t {
    kBoxes,
    kScores,
    kLabels,
    kMasks,
};

bool is_side(int32_t side)
{
    return side >= 1 && side <= kMaxCanvasSide;
}

} // namespace

void InstanceMaskProjection::fields(FieldVisitor& visitor)
{
    visitor.field("num_classes", num_classes_);
    visitor.field("canvas_h", canvas_h_);
    visitor.field("canvas_w", canvas_w_);
    visitor.field("spatial_scale", spatial_scale_);
    visitor.field("sampling", sampling_);
}

const char* InstanceMaskProjection::field_problem() const
{
    if (num_classes_ < 1) {
        return "num_classes must be at least 1";
    }
    if (!is_side(canvas_h_)) {
        return "canvas_h must be 1 to 65536";
    }
    if (!is_side(canvas_w_)) {
        return "canvas_w must be 1 to 65536";
    }
    if (!(spatial_scale_ > 0.0F) || !std::isfinite(spatial_scale_)) {
        return "spatial_scale must be finite and > 0";
    }
    if (sampling_ != "bilinear" && sampling_ != "nearest" && sampling_ != "rect") {
        return "sampling must be bilinear, nearest or rect";
    }
    return nullptr;
}

bool InstanceMaskProjection::accepts(int32_t input, const DataType* types)
{
    switch (input) {
    case kLabels:
        return types[kLabels] == DataType::kINT32 || types[kLabels] == DataType::kINT64;
    case kMasks:
        return is_floating(types[kMasks]);
    default:
        return types[input] == DataType::kFLOAT;
    }
}

bool InstanceMaskProjection::accepts_layout(int32_t input, const DataType*, const nvinfer1::TensorFormat* layouts)
{
    return layouts[input] == nvinfer1::TensorFormat::kLINEAR;
}

void InstanceMaskProjection::output_shape(const nvinfer1::DimsExprs* in, nvinfer1::DimsExprs& out,
                                          nvinfer1::IExprBuilder& builder) const
{
    out.nbDims = 4;
    out.d[0] = in[kMasks].d[0];
    out.d[1] = builder.constant(num_classes_);
    out.d[2] = builder.constant(canvas_h_);
    out.d[3] = builder.constant(canvas_w_);
}

const char* InstanceMaskProjection::shape_problem(const nvinfer1::PluginTensorDesc* in) const noexcept
{
    const auto& masks = in[kMasks].dims;
    if (masks.d[2] != masks.d[3] || masks.d[2] < 1) {
        return "masks: expected [B, N, P, P] with P >= 1";
    }
    for (int32_t input : {kBoxes, kScores, kLabels}) {
        if (in[input].dims.d[0] != masks.d[0] || in[input].dims.d[1] != masks.d[1]) {
            return "boxes, scores and labels: expected the same [B, N] as masks";
        }
    }
    return in[kBoxes].dims.d[2] == 4 ? nullptr : "boxes: expected [B, N, 4]";
}

imp::Rule InstanceMaskProjection::rule() const noexcept
{
    return sampling_ == "nearest" ? imp::Rule::nearest
           : sampling_ == "rect"  ? imp::Rule::rect
                                  : imp::Rule::bilinear;
}

cudaError_t InstanceMaskProjection::prepare(const nvinfer1::PluginTensorDesc* in) const noexcept
{
    return prepare_mask_projection(rule(), element_of(in[kMasks].type));
}

cudaError_t InstanceMaskProjection::launch(const nvinfer1::PluginTensorDesc* in, const void* const* inputs,
                                           void* output, cudaStream_t stream) const noexcept
{
    const auto& masks = in[kMasks].dims;
    MaskProjectionCall call{};
    call.boxes = static_cast<const float*>(inputs[kBoxes]);
    call.scores = static_cast<const float*>(inputs[kScores]);
    call.labels = inputs[kLabels];
    call.masks = inputs[kMasks];
    call.canvas = output;
    call.label_bytes = in[kLabels].type == DataType::kINT64 ? 8 : 4;
    call.batch = static_cast<int>(masks.d[0]);
    call.instances = static_cast<int>(masks.d[1]);
    call.classes = num_classes_;
    call.height = canvas_h_;
    call.width = canvas_w_;
    call.cells = static_cast<int>(masks.d[2]);
    call.spatial_scale = spatial_scale_;
    return launch_mask_projection(rule(), element_of(in[kMasks].type), call, stream);
}

} // namespace imp_trt
