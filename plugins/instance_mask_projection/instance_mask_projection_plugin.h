// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "instance_mask_projection/instance_mask_projection_launch.h"
#include "tensorrt/fields.h"

#include <NvInferRuntime.h>

#include <string>

namespace imp_trt {

// The operator, with the members that plugins/tensorrt/plugin.h requires. README.md has the contract.
class InstanceMaskProjection {
public:
    static constexpr const char* kName = "InstanceMaskProjection";
    static constexpr int32_t kInputs =
        4;  // boxes [B, N, 4], scores [B, N], labels [B, N], masks [B, N, P, P]
    static constexpr int32_t kRanks[kInputs] = {3, 2, 2, 4};
    static constexpr int32_t kOutputLike = 3;

    void fields(FieldVisitor& visitor);
    const char* field_problem() const;
    static bool accepts(int32_t input, const nvinfer1::DataType* types);
    static bool accepts_layout(int32_t input, const nvinfer1::DataType* types,
                           const nvinfer1::TensorFormat* layouts);
    void output_shape(const nvinfer1::DimsExprs* in, nvinfer1::DimsExprs& out,
                      nvinfer1::IExprBuilder& builder) const;
    const char* shape_problem(const nvinfer1::PluginTensorDesc* in) const noexcept;
    cudaError_t prepare(const nvinfer1::PluginTensorDesc* in) const noexcept;
    cudaError_t launch(const nvinfer1::PluginTensorDesc* in, const void* const* inputs, void* output,
                       cudaStream_t stream) const noexcept;

private:
    imp::Rule rule() const noexcept;

    int32_t num_classes_{};
    int32_t canvas_h_{};
    int32_t canvas_w_{};
    float spatial_scale_{};
    std::string sampling_;
};

}  // namespace imp_trt
