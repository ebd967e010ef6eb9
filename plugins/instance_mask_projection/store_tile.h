// SPDX-License-Identifier: Apache-2.0
// Writes the pixels that a block's threads hold. Device only.
#ifndef IMP_STORE_TILE_H
#define IMP_STORE_TILE_H

#include "instance_mask_projection/tile_memory.h"

namespace imp {

template <class Out>
struct alignas(16) Pack {
    static constexpr int kSize = 16 / sizeof(Out);
    Out values[kSize];
};

// Rows that start on 16 bytes: every thread writes its run. `row` is the run's row in the plane.
template <class Out>
__device__ __forceinline__ void store_run(const Out (&values)[kRun], Out* row, int x, int width)
{
    if (x >= width) {
        return;
    }
#pragma unroll
    for (int i = 0; i < kRun; i += Pack<Out>::kSize) {
        Pack<Out> pack;
#pragma unroll
        for (int j = 0; j < Pack<Out>::kSize; ++j) {
            pack.values[j] = values[i + j];
        }
        *reinterpret_cast<Pack<Out>*>(row + x + i) = pack;
    }
}

// Any other rows: through shared memory, so that a warp writes neighboring pixels.
template <class Out>
__device__ __forceinline__ void store_staged(TileMemory& memory, const Out (&values)[kRun], Out* plane,
                                             int left, int top, int height, int width)
{
    Out* stage = reinterpret_cast<Out*>(memory.lines);
    __syncthreads();  // the lines that lie there have been read
#pragma unroll
    for (int i = 0; i < kRun; ++i) {
        stage[threadIdx.x * kRun + i] = values[i];
    }
    __syncthreads();
    for (int e = threadIdx.x; e < IMP_MP_TILE_W * IMP_MP_TILE_H; e += IMP_MP_THREADS) {
        const int x = left + e % IMP_MP_TILE_W, y = top + e / IMP_MP_TILE_W;
        if (x < width && y < height) {
            plane[static_cast<unsigned long long>(y) * width + x] = stage[e];
        }
    }
    __syncthreads();  // before the next plane's lines
}

template <class Out>
__device__ __forceinline__ void store(TileMemory& memory, const Out (&values)[kRun], Out* canvas,
                                      unsigned int plane, int left, int top, int height, int width)
{
    const unsigned long long pitch = static_cast<unsigned long long>(width);
    Out* out = canvas + plane * (static_cast<unsigned long long>(height) * pitch);
    if (width % kRun == 0 && reinterpret_cast<unsigned long long>(canvas) % sizeof(Pack<Out>) == 0) {
        const int y = top + static_cast<int>(threadIdx.x) / kRuns;
        if (y < height) {
            store_run(values, out + y * pitch, left + static_cast<int>(threadIdx.x) % kRuns * kRun, width);
        }
    } else {
        store_staged(memory, values, out, left, top, height, width);
    }
}

}  // namespace imp

#endif
