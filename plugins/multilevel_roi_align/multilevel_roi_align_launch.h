// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "tensorrt/launch.h"

namespace imp_trt {

constexpr int kMaxSamplingRatio = 64; // per bin and axis; the number comes from files, and bounds the time

// Device pointers and sizes of one call; the README says what they mean. All arrays are contiguous.
// hwc8: levels are [batch, heights[i], widths[i], channels rounded up to 8]; not for f32.
struct MultilevelRoiAlignCall {
    const void* levels[4]; // p2..p5, [batch, channels, heights[i], widths[i]]
    const float* boxes;
    void* pooled;
    int batch;
    int boxes_per_image;
    int channels;
    int heights[4];
    int widths[4];
    int output_size;
    int sampling_ratio;
    int canonical_level;
    int canonical_size;
    int aligned; // 0 or 1
    bool hwc8;
};

cudaError_t prepare_multilevel_roi_align(Element element, bool hwc8) noexcept;

cudaError_t launch_multilevel_roi_align(Element element, const MultilevelRoiAlignCall& call,
                                        cudaStream_t stream) noexcept;

} // namespace imp_trt
