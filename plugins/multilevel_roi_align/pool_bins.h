// SPDX-License-Identifier: Apache-2.0
// RoIAlign of contiguous features, and what it shares with that of other layouts. Device only.
#ifndef IMP_POOL_BINS_H
#define IMP_POOL_BINS_H

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

// rows, columns: samples of a bin along y and x; with adaptive sampling those of a box, and 0 if it has none.
struct RoiGrid {
    RoiAxis y, x;
    int height, width, rows, columns;
};

__device__ __forceinline__ float samples_of_bin(const RoiGrid& grid)
{
    const float samples = static_cast<float>(grid.rows) * static_cast<float>(grid.columns);
    return samples < 1.0F ? 1.0F : samples;
}

// Samples beyond the table are worked out where they are used.
__device__ __forceinline__ RoiSample sample_of(const RoiSample* table, RoiAxis axis, int bin, int i,
                                               int ratio, int extent)
{
    const long long entry = static_cast<long long>(bin) * ratio + i;
    return entry < kTable ? table[entry] : roi_sample(axis, bin, i, ratio, extent);
}

// Rows by the first threads, columns by the next, at the same time.
__device__ __forceinline__ void fill_tables(RoiMemory& memory, const RoiGrid& grid, int bins)
{
    for (int e = threadIdx.x; e < 2 * kTable; e += IMP_RA_THREADS) {
        const bool row = e < kTable;
        const int ratio = row ? grid.rows : grid.columns;
        const int entry = e % kTable, bin = ratio > 0 ? entry / ratio : bins, i = entry - bin * ratio;
        if (bin < bins) {
            const RoiAxis axis = row ? grid.y : grid.x;
            (row ? memory.rows : memory.columns)[entry] =
                roi_sample(axis, bin, i, ratio, row ? grid.height : grid.width);
        }
    }
}

// The mean over one bin of one channel.
template <class T>
__device__ __forceinline__ float pool_bin(const RoiMemory& memory, const RoiGrid& grid, const T* channel,
                                          int row, int column)
{
    float sum = 0.0F;
    for (int i = 0; i < grid.rows; ++i) {
        const RoiSample y = sample_of(memory.rows, grid.y, row, i, grid.rows, grid.height);
        if (y.low == kNoSample) {
            continue;
        }
        const T* upper = channel + static_cast<long long>(y.low) * grid.width;
        const T* lower = channel + static_cast<long long>(y.high) * grid.width;
        for (int j = 0; j < grid.columns; ++j) {
            const RoiSample x = sample_of(memory.columns, grid.x, column, j, grid.columns, grid.width);
            if (x.low == kNoSample) {
                continue;
            }
            const float corner0 = y.weight_low * x.weight_low, corner1 = y.weight_low * x.weight_high;
            const float corner2 = y.weight_high * x.weight_low, corner3 = y.weight_high * x.weight_high;
            sum += corner0 * to_float(upper[x.low]) + corner1 * to_float(upper[x.high]) +
                   corner2 * to_float(lower[x.low]) + corner3 * to_float(lower[x.high]);
        }
    }
    return sum / samples_of_bin(grid);
}

// A bin of 2 x 2 samples, whose places and weights are the same in every channel: worked out once.
struct PairedBin {
    unsigned int places[2][2][2];  // of the left cells: sample row, sample column, upper and lower
    float weights[2][2][4];        // upper left, upper right, lower left, lower right
};

// False where a sample lies outside the map or has no right neighbor: `pool_bin` knows these.
__device__ __forceinline__ bool paired_bin(const RoiMemory& memory, const RoiGrid& grid, int row, int column,
                                           PairedBin& bin)
{
    bool paired = true;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
        const RoiSample y = sample_of(memory.rows, grid.y, row, i, 2, grid.height);
        const unsigned int upper = static_cast<unsigned int>(y.low) * static_cast<unsigned int>(grid.width);
        const unsigned int lower = static_cast<unsigned int>(y.high) * static_cast<unsigned int>(grid.width);
#pragma unroll
        for (int j = 0; j < 2; ++j) {
            const RoiSample x = sample_of(memory.columns, grid.x, column, j, 2, grid.width);
            paired &= (y.low != kNoSample) & (x.low != kNoSample) & (x.high == x.low + 1);
            bin.places[i][j][0] = upper + static_cast<unsigned int>(x.low);
            bin.places[i][j][1] = lower + static_cast<unsigned int>(x.low);
            bin.weights[i][j][0] = y.weight_low * x.weight_low;
            bin.weights[i][j][1] = y.weight_low * x.weight_high;
            bin.weights[i][j][2] = y.weight_high * x.weight_low;
            bin.weights[i][j][3] = y.weight_high * x.weight_high;
        }
    }
    return paired;
}

// What `pool_bin` returns, in the same order. All 16 cells are read before the first is used.
template <class T>
__device__ __forceinline__ float pool_paired_bin(const PairedBin& bin, const T* channel)
{
    T cells[2][2][4];
#pragma unroll
    for (int e = 0; e < 4; ++e) {
        const T* upper = channel + bin.places[e / 2][e % 2][0];
        const T* lower = channel + bin.places[e / 2][e % 2][1];
        cells[e / 2][e % 2][0] = upper[0];
        cells[e / 2][e % 2][1] = upper[1];
        cells[e / 2][e % 2][2] = lower[0];
        cells[e / 2][e % 2][3] = lower[1];
    }
    float sum = 0.0F;
#pragma unroll
    for (int e = 0; e < 4; ++e) {
        const float(&weights)[4] = bin.weights[e / 2][e % 2];
        const T(&cell)[4] = cells[e / 2][e % 2];
        sum += weights[0] * to_float(cell[0]) + weights[1] * to_float(cell[1]) +
               weights[2] * to_float(cell[2]) + weights[3] * to_float(cell[3]);
    }
    return sum * 0.25F;  // exact, as is a division by 4
}

// A thread owns a bin and goes through channels; as many channels at a time as there are threads for.
template <class T>
__device__ __forceinline__ void pool_channels(const RoiMemory& memory, const RoiGrid& grid, const T* features,
                                              T* out, unsigned int channels, unsigned int side)
{
    const unsigned int cells = side * side;
    const unsigned int together = cells < IMP_RA_THREADS ? IMP_RA_THREADS / cells : 1;
    const unsigned int first = together > 1 ? threadIdx.x / cells : 0;
    if (first >= together) {
        return;
    }
    const unsigned long long plane = static_cast<unsigned long long>(grid.height) * grid.width;
    const bool pairs = grid.rows == 2 && grid.columns == 2 && plane <= 0x7fffffffU;  // 32 bits hold a place
    for (unsigned int cell = threadIdx.x - first * cells; cell < cells; cell += IMP_RA_THREADS) {
        const int row = static_cast<int>(cell / side), column = static_cast<int>(cell % side);
        const T* channel = features + first * plane;
        T* pooled = out + first * cells + cell;
        PairedBin bin;
        if (pairs && paired_bin(memory, grid, row, column, bin)) {
            for (unsigned int c = first; c < channels; c += together) {
                *pooled = from_float<T>(pool_paired_bin(bin, channel));
                channel += together * plane;
                pooled += together * cells;
            }
        } else {
            for (unsigned int c = first; c < channels; c += together) {
                *pooled = from_float<T>(pool_bin(memory, grid, channel, row, column));
                channel += together * plane;
                pooled += together * cells;
            }
        }
    }
}

}  // namespace imp

#endif
