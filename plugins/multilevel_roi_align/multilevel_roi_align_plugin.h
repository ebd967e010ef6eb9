// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "multilevel_roi_align/multilevel_roi_align_launch.h"
#include "tensorrt/fields.h"

#include <NvInferRuntime.h>

namespace imp_trt {

// The operator, with the members that plugins/tensorrt/plugin.h requires. README.md has the contract.
class MultilevelRoiAlign {
public:
    static constexpr const char* kName = "ImpMultilevelRoiAlign";
    static constexpr int32_t kInputs = 5; // p2..p5 [B, C, H_l, W_l], boxes [B, N, 4]
    static constexpr int32_t kRanks[kInputs] = {4, 4, 4, 4, 3};
    static constexpr int32_t kOutputLike = 0;

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
    int32_t output_size_{};
    int32_t sampling_ratio_{};
    int32_t canonical_level_{};
    int32_t canonical_size_{};
    int32_t aligned_{};
};

} // namespace imp_trt
