// SPDX-License-Identifier: Apache-2.0
// RoIAlign over four pyramid levels in one launch: a block pools some channels of one box from its level.
#include "multilevel_roi_align/pool_channels_last.h"

namespace imp {

static_assert(IMP_RA_CHANNELS % (2 * kEight) == 0, "whole pairs of groups");

// Whether features are [B, C, H, W] or TensorRT's kHWC8, [B, H, W, C rounded up to 8].
enum class Layout { linear, hwc8 };

// ratio: 0 for adaptive sampling.
template <class T>
__device__ __forceinline__ RoiGrid roi_grid(const float* box, int which, const Level<T>& level, const Level<T>& p2,
                                            int output_size, int ratio, bool aligned)
{
    float left = box[0], top = box[1], right = box[2], bottom = box[3];
    if (ratio < 1) {
        left = within_reach(left, p2.width);
        top = within_reach(top, p2.height);
        right = within_reach(right, p2.width);
        bottom = within_reach(bottom, p2.height);
    }
    const RoiAxis y = roi_axis(top, bottom, which, output_size, aligned);
    const RoiAxis x = roi_axis(left, right, which, output_size, aligned);
    const int rows = ratio < 1 ? adaptive_ratio(y.bin) : ratio;
    const int columns = ratio < 1 ? adaptive_ratio(x.bin) : ratio;
    return {y, x, level.height, level.width, rows, columns};
}

template <Layout layout, class T>
__device__ __forceinline__ void pool_box(RoiMemory& memory, const Level<T> (&levels)[kLevels],
                                         const float* boxes, T* out, int boxes_per_image, int channels,
                                         int output_size, int ratio, int canonical_level, int canonical_size, bool aligned)
{
    const long long roi = blockIdx.x;
    const int first = static_cast<int>(blockIdx.y) * IMP_RA_CHANNELS;
    // 32 bits hold a block's outputs up to an output_size of 8192.
    const unsigned int side = static_cast<unsigned int>(output_size), cells = side * side;
    const unsigned int count = static_cast<unsigned int>(at_most(channels - first, IMP_RA_CHANNELS));
    const float* box = boxes + 4 * roi;
    out += (roi * channels + first) * static_cast<long long>(cells);
    if (!box_is_finite(box)) {
        for (unsigned int e = threadIdx.x; e < count * cells; e += IMP_RA_THREADS) {
            out[e] = from_float<T>(0.0F);
        }
        return;
    }
    const int which = level_of_box(box, canonical_level, canonical_size);
    Level<T> level = levels[0];
#pragma unroll
    for (int k = 1; k < kLevels; ++k) {  // an index that varies would put the array into local memory
        level = which == k ? levels[k] : level;
    }
    const RoiGrid grid = roi_grid(box, which, level, levels[0], output_size, ratio, aligned);
    fill_tables(memory, grid, output_size);
    __syncthreads();
    const long long plane = static_cast<long long>(level.height) * level.width;
    const long long image = roi / boxes_per_image;
    if (layout == Layout::linear) {
        pool_channels(memory, grid, level.features + (image * channels + first) * plane, out, count, side);
    } else {
        const int groups = ceil_div(channels, kEight);
        const Eight<T>* features = reinterpret_cast<const Eight<T>*>(level.features);
        features += image * plane * groups + first / kEight;
        pool_groups(memory, grid, features, out, static_cast<unsigned int>(groups), count, side);
    }
}

}  // namespace imp

// Registers for as many reads under way as there are, at three or two blocks an SM.
#define IMP_RA_KERNEL(name, layout, T, blocks)                                                               \
    extern "C" __global__ void __launch_bounds__(IMP_RA_THREADS, blocks) imp_multilevel_roi_align_##name(    \
        const T* p2, const T* p3, const T* p4, const T* p5, const float* boxes, T* out, int batch,           \
        int boxes_per_image, int channels, int h2, int w2, int h3, int w3, int h4, int w4, int h5, int w5,   \
        int output_size, int sampling_ratio, int canonical_level, int canonical_size, int aligned)           \
    {                                                                                                        \
        __shared__ imp::RoiMemory memory;                                                                    \
        const imp::Level<T> levels[imp::kLevels] = {{p2, h2, w2}, {p3, h3, w3}, {p4, h4, w4}, {p5, h5, w5}}; \
        imp::pool_box<imp::Layout::layout, T>(memory, levels, boxes, out, boxes_per_image, channels,         \
                                              output_size, sampling_ratio, canonical_level, canonical_size,  \
                                              aligned != 0);                                                 \
    }

IMP_RA_KERNEL(f32, linear, float, 3)
IMP_RA_KERNEL(f16, linear, imp::Half, 3)
IMP_RA_KERNEL(bf16, linear, imp::BFloat16, 3)
IMP_RA_KERNEL(hwc8_f16, hwc8, imp::Half, 2)
IMP_RA_KERNEL(hwc8_bf16, hwc8, imp::BFloat16, 2)
