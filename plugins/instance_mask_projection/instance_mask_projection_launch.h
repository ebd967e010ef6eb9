// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "instance_mask_projection/instance_mask_projection.h"
#include "tensorrt/launch.h"

namespace imp_trt {

// Device pointers and sizes of one call; the README says what they mean. All arrays are contiguous.
struct MaskProjectionCall {
    const float* boxes;
    const float* scores;
    const void* labels;
    const void* masks;
    void* canvas;
    int label_bytes;  // 4 or 8
    int batch;
    int instances;
    int classes;
    int height;
    int width;
    int cells;
    float spatial_scale;
};

cudaError_t prepare_mask_projection(imp::Rule rule, Element element) noexcept;

cudaError_t launch_mask_projection(imp::Rule rule, Element element, const MaskProjectionCall& call,
                                   cudaStream_t stream) noexcept;

}  // namespace imp_trt
