// RoIAlign over four pyramid levels in one launch: a block pools some channels of one box from its level.
#include "multilevel_roi_align/multilevel_roi_align.h"

namespace imp {

constexpr int kTable = 64;  // samples of an axis that are kept in shared memory; 14 bins of 2 need 28

template <class T>
struct Level {
    const T* features;
    int height;
    int width;
};

struct RoiMemory {
    RoiSample rows[kTable];
    RoiSample columns[kTable];
};

struct RoiGrid {
    RoiAxis y, x;
    int height, width, ratio;
};

// Samples beyond the table are worked out where they are used.
__device__ __forceinline__ RoiSample sample_of(const RoiSample* table, RoiAxis axis, int bin, int i,
                                               int ratio, int extent)
{
    const long long entry = static_cast<long long>(bin) * ratio + i;
    return entry < kTable ? table[entry] : roi_sample(axis, bin, i, ratio, extent);
}

__device__ __forceinline__ void fill_table(RoiSample* table, RoiAxis axis, int bins, int ratio, int extent)
{
    for (int entry = threadIdx.x; entry < kTable; entry += IMP_RA_THREADS) {
        if (entry / ratio < bins) {
            table[entry] = roi_sample(axis, entry / ratio, entry % ratio, ratio, extent);
        }
    }
}

// The mean over one bin of one channel.
template <class T>
__device__ __forceinline__ float pool_bin(const RoiMemory& memory, const RoiGrid& grid, const T* channel,
                                          int row, int column)
{
    float sum = 0.0F;
    for (int i = 0; i < grid.ratio; ++i) {
        const RoiSample y = sample_of(memory.rows, grid.y, row, i, grid.ratio, grid.height);
        if (y.low == kNoSample) {
            continue;
        }
        const T* upper = channel + static_cast<long long>(y.low) * grid.width;
        const T* lower = channel + static_cast<long long>(y.high) * grid.width;
        for (int j = 0; j < grid.ratio; ++j) {
            const RoiSample x = sample_of(memory.columns, grid.x, column, j, grid.ratio, grid.width);
            if (x.low == kNoSample) {
                continue;
            }
            const float corner0 = y.weight_low * x.weight_low, corner1 = y.weight_low * x.weight_high;
            const float corner2 = y.weight_high * x.weight_low, corner3 = y.weight_high * x.weight_high;
            sum += corner0 * to_float(upper[x.low]) + corner1 * to_float(upper[x.high]) +
                   corner2 * to_float(lower[x.low]) + corner3 * to_float(lower[x.high]);
        }
    }
    return sum / (static_cast<float>(grid.ratio) * static_cast<float>(grid.ratio));
}

template <class T>
__device__ __forceinline__ void pool_box(RoiMemory& memory, const Level<T> (&levels)[kLevels],
                                         const float* boxes, T* out, int boxes_per_image, int channels,
                                         int output_size, int ratio, int canonical_level, int canonical_size)
{
    const long long roi = blockIdx.x;
    const int first = static_cast<int>(blockIdx.y) * IMP_RA_CHANNELS;
    // 32 bits hold a block's outputs up to an output_size of 8192; 64-bit divisions would cost more than
    // pooling.
    const unsigned int side = static_cast<unsigned int>(output_size), cells = side * side;
    const unsigned int total = static_cast<unsigned int>(at_most(channels - first, IMP_RA_CHANNELS)) * cells;
    const float* box = boxes + 4 * roi;
    out += (roi * channels + first) * static_cast<long long>(cells);
    if (!box_is_finite(box)) {
        for (unsigned int e = threadIdx.x; e < total; e += IMP_RA_THREADS) {
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
    const RoiGrid grid = {roi_axis(box[1], box[3], which, output_size),
                          roi_axis(box[0], box[2], which, output_size), level.height, level.width, ratio};
    fill_table(memory.rows, grid.y, output_size, ratio, level.height);
    fill_table(memory.columns, grid.x, output_size, ratio, level.width);
    __syncthreads();
    const long long plane = static_cast<long long>(level.height) * level.width;
    const T* features = level.features + (roi / boxes_per_image * channels + first) * plane;
    for (unsigned int e = threadIdx.x; e < total; e += IMP_RA_THREADS) {
        const unsigned int cell = e % cells;
        const T* channel = features + e / cells * plane;
        const int row = static_cast<int>(cell / side), column = static_cast<int>(cell % side);
        out[e] = from_float<T>(pool_bin(memory, grid, channel, row, column));
    }
}

}  // namespace imp

#define IMP_RA_KERNEL(dtype, T)                                                                              \
    extern "C" __global__ void __launch_bounds__(IMP_RA_THREADS) imp_multilevel_roi_align_##dtype(           \
        const T* p2, const T* p3, const T* p4, const T* p5, const float* boxes, T* out, int batch,           \
        int boxes_per_image, int channels, int h2, int w2, int h3, int w3, int h4, int w4, int h5, int w5,   \
        int output_size, int sampling_ratio, int canonical_level, int canonical_size)                        \
    {                                                                                                        \
        __shared__ imp::RoiMemory memory;                                                                    \
        const imp::Level<T> levels[imp::kLevels] = {{p2, h2, w2}, {p3, h3, w3}, {p4, h4, w4}, {p5, h5, w5}}; \
        imp::pool_box<T>(memory, levels, boxes, out, boxes_per_image, channels, output_size, sampling_ratio, \
                         canonical_level, canonical_size);                                                   \
    }

IMP_RA_KERNEL(f32, float)
IMP_RA_KERNEL(f16, imp::Half)
IMP_RA_KERNEL(bf16, imp::BFloat16)
