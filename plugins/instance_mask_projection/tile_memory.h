// SPDX-License-Identifier: Apache-2.0
// What a block of the forward kernel keeps in shared memory. README.md says how it is used. Device only.
#ifndef IMP_TILE_MEMORY_H
#define IMP_TILE_MEMORY_H

#include "instance_mask_projection/problem.h"

namespace imp {

constexpr int kWarps = IMP_MP_THREADS / kWarp;
constexpr int kRun = 8;                         // pixels of a row that one thread owns
constexpr int kRuns = IMP_MP_TILE_W / kRun;     // threads of a row
constexpr int kHalves = IMP_MP_TILE_W / kWarp;  // a lane works on one column of each
constexpr int kGroup = kWarps;                  // boxes that are prepared together, one by each warp
constexpr int kList = IMP_MP_THREADS + kWarp;   // boxes that are listed at a time
constexpr int kBoxLines = 2 * IMP_MP_TILE_H;    // the most lines that a box needs: two for each row
constexpr int kLines = 40 * IMP_MP_TILE_W;      // floats; four boxes in half of the tile with 20 lines each
static_assert(kLines >= kBoxLines * IMP_MP_TILE_W, "any box fits alone");
static_assert(kRuns * IMP_MP_TILE_H == IMP_MP_THREADS, "one run for each thread");
static_assert(kHalves == 2 && IMP_MP_TILE_H < kWarp, "a lane works on two columns and one row");

struct Instance {
    CanvasBox box;
    float score;
    int n;
};

// What drawing needs of a prepared box.
struct alignas(16) Drawn {
    unsigned int inside[kHalves];  // the columns of the tile that lie inside: a byte for each run
    float score;
    int n;
};

struct alignas(16) Four {
    float values[4];
};

struct TileMemory {
    alignas(16) float lines[kLines];   // bilinear, nearest: lines of masks at the columns, see place_line
    Taps rows[kGroup][IMP_MP_TILE_H];  // bilinear, nearest: cell0 and cell1 are places in `lines`, in bytes
    Drawn drawn[kGroup];
    int cells[kGroup][kBoxLines];  // the line of the mask that each line of the box is
    int floats[kGroup];            // how much of `lines` a box needs; more than there is if there is no box
    Instance list[kList];
    int warp_hits[kWarps];
};
static_assert(kLines >= IMP_MP_TILE_W * IMP_MP_TILE_H, "staging");
static_assert(kLines * sizeof(float) >= kGroup * IMP_MP_TILE_W * sizeof(Taps), "rect keeps taps there");

template <class T>
__device__ __forceinline__ const T* mask_of(const Problem<T>& p, int image, int n)
{
    const unsigned long long cells = static_cast<unsigned long long>(p.cells);
    return p.masks + (static_cast<unsigned long long>(image) * p.instances + n) * cells * cells;
}

}  // namespace imp

#endif
