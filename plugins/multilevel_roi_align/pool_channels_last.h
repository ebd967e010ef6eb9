// SPDX-License-Identifier: Apache-2.0
// RoIAlign of features whose channels lie together by eights: TensorRT's kHWC8. Device only.
#ifndef IMP_POOL_CHANNELS_LAST_H
#define IMP_POOL_CHANNELS_LAST_H

#include "multilevel_roi_align/pool_bins.h"

namespace imp {

constexpr int kEight = 8;

// Eight channels of a cell: one read. A map is [B, H, W, groups] of these, the last group padded.
template <class T>
struct alignas(16) Eight {
    T channels[kEight];
};

// The cells and weights of a bin of 2 x 2 samples: upper left, upper right, lower left, lower right of each.
struct WholeBin {
    unsigned int places[4][4];
    float weights[4][4];
};

// False where a sample lies outside the map.
__device__ __forceinline__ bool whole_bin(const RoiMemory& memory, const RoiGrid& grid, int row, int column,
                                          unsigned int groups, WholeBin& bin)
{
    bool inside = true;
#pragma unroll
    for (int e = 0; e < 4; ++e) {
        const RoiSample y = sample_of(memory.rows, grid.y, row, e / 2, 2, grid.height);
        const RoiSample x = sample_of(memory.columns, grid.x, column, e % 2, 2, grid.width);
        inside &= (y.low != kNoSample) & (x.low != kNoSample);
#pragma unroll
        for (int corner = 0; corner < 4; ++corner) {
            const unsigned int line = static_cast<unsigned int>(corner < 2 ? y.low : y.high);
            const unsigned int cell = static_cast<unsigned int>(corner % 2 == 0 ? x.low : x.high);
            bin.places[e][corner] = (line * static_cast<unsigned int>(grid.width) + cell) * groups;
            bin.weights[e][corner] = (corner < 2 ? y.weight_low : y.weight_high) *
                                     (corner % 2 == 0 ? x.weight_low : x.weight_high);
        }
    }
    return inside;
}

// Adds a sample to the sums, in the order of `pool_bin`.
template <class T>
__device__ __forceinline__ void add_sample(float (&sums)[kEight], const Eight<T> (&cells)[4],
                                           const float (&weights)[4])
{
#pragma unroll
    for (int k = 0; k < kEight; ++k) {
        sums[k] += weights[0] * to_float(cells[0].channels[k]) + weights[1] * to_float(cells[1].channels[k]) +
                   weights[2] * to_float(cells[2].channels[k]) + weights[3] * to_float(cells[3].channels[k]);
    }
}

// The sums of the four samples of a bin. Two samples are read before the first is used.
template <class T>
__device__ __forceinline__ void sum_whole_bin(float (&sums)[kEight], const WholeBin& bin,
                                              const Eight<T>* features)
{
    constexpr int kTogether = 2;
#pragma unroll
    for (int first = 0; first < 4; first += kTogether) {
        Eight<T> cells[kTogether][4];
#pragma unroll
        for (int e = 0; e < 4 * kTogether; ++e) {
            cells[e / 4][e % 4] = features[bin.places[first + e / 4][e % 4]];
        }
#pragma unroll
        for (int e = 0; e < kTogether; ++e) {
            add_sample(sums, cells[e], bin.weights[first + e]);
        }
    }
}

// The same for any number of samples, some of which may lie outside the map.
template <class T>
__device__ __forceinline__ void sum_any_bin(float (&sums)[kEight], const RoiMemory& memory,
                                            const RoiGrid& grid, const Eight<T>* features,
                                            unsigned int groups, int row, int column)
{
    for (int i = 0; i < grid.rows; ++i) {
        const RoiSample y = sample_of(memory.rows, grid.y, row, i, grid.rows, grid.height);
        if (y.low == kNoSample) {
            continue;
        }
        const Eight<T>* upper = features + static_cast<unsigned long long>(y.low) * grid.width * groups;
        const Eight<T>* lower = features + static_cast<unsigned long long>(y.high) * grid.width * groups;
        for (int j = 0; j < grid.columns; ++j) {
            const RoiSample x = sample_of(memory.columns, grid.x, column, j, grid.columns, grid.width);
            if (x.low == kNoSample) {
                continue;
            }
            const unsigned long long left = static_cast<unsigned long long>(x.low) * groups;
            const unsigned long long right = static_cast<unsigned long long>(x.high) * groups;
            const Eight<T> cells[4] = {upper[left], upper[right], lower[left], lower[right]};
            const float weights[4] = {y.weight_low * x.weight_low, y.weight_low * x.weight_high,
                                      y.weight_high * x.weight_low, y.weight_high * x.weight_high};
            add_sample(sums, cells, weights);
        }
    }
}

// Up to eight channels to `out`, planes of `cells` bins.
template <class T>
__device__ __forceinline__ void store_means(const float (&means)[kEight], T* out, unsigned int cells,
                                            unsigned int channels)
{
    if (channels >= kEight) {
#pragma unroll
        for (unsigned int k = 0; k < kEight; ++k, out += cells) {
            *out = from_float<T>(means[k]);
        }
        return;
    }
#pragma unroll
    for (unsigned int k = 0; k < kEight; ++k, out += cells) {
        if (k < channels) {
            *out = from_float<T>(means[k]);
        }
    }
}

// A thread owns a bin of eight channels; its neighbor those of the next eight, in the same sector of memory.
// features: of the block's first group; `groups`: of all channels; `channels`: of the block.
template <class T>
__device__ __forceinline__ void pool_groups(const RoiMemory& memory, const RoiGrid& grid,
                                            const Eight<T>* features, T* out, unsigned int groups,
                                            unsigned int channels, unsigned int side)
{
    const unsigned int cells = side * side, half = threadIdx.x % 2;
    const unsigned int together = 2 * cells < IMP_RA_THREADS ? IMP_RA_THREADS / (2 * cells) : 1;
    const unsigned int first = together > 1 ? threadIdx.x / (2 * cells) : 0;
    if (first >= together) {
        return;
    }
    const unsigned long long plane = static_cast<unsigned long long>(grid.height) * grid.width;
    const bool two = grid.rows == 2 && grid.columns == 2 && plane * groups <= 0x7fffffffU;  // 32 bits hold a place
    for (unsigned int cell = threadIdx.x / 2 - first * cells; cell < cells; cell += IMP_RA_THREADS / 2) {
        const int row = static_cast<int>(cell / side), column = static_cast<int>(cell % side);
        WholeBin bin;
        const bool whole = two && whole_bin(memory, grid, row, column, groups, bin);
        const float samples = samples_of_bin(grid);
        if (whole) {
            for (unsigned int group = 2 * first + half; group * kEight < channels; group += 2 * together) {
                float sums[kEight] = {};
                sum_whole_bin(sums, bin, features + group);
#pragma unroll
                for (int k = 0; k < kEight; ++k) {
                    sums[k] *= 0.25F;  // exact, as is a division by 4
                }
                store_means(sums, out + group * kEight * cells + cell, cells, channels - group * kEight);
            }
        } else {
            for (unsigned int group = 2 * first + half; group * kEight < channels; group += 2 * together) {
                float sums[kEight] = {};
                sum_any_bin(sums, memory, grid, features + group, groups, row, column);
#pragma unroll
                for (int k = 0; k < kEight; ++k) {
                    sums[k] /= samples;
                }
                store_means(sums, out + group * kEight * cells + cell, cells, channels - group * kEight);
            }
        }
    }
}

}  // namespace imp

#endif
