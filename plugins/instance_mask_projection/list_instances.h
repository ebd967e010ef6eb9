// SPDX-License-Identifier: Apache-2.0
// Which instances reach a tile. Device only.
#ifndef IMP_LIST_INSTANCES_H
#define IMP_LIST_INSTANCES_H

#include "instance_mask_projection/tile_memory.h"

namespace imp {

struct alignas(16) Corners {
    float xyxy[4];
};

// Whether the instance at `index` is of the class and may reach the tile. Everything is loaded before
// anything is decided, and no decision is a branch, so that the loads wait together.
template <Rule rule, class T>
__device__ __forceinline__ bool find_instance(const Problem<T>& p, unsigned long long index, int label,
                                              int left, int top, Instance& instance)
{
    const long long own_label = label_at(p.labels, p.label_bytes, index);
    instance.score = p.scores[index];
    const Corners corners = reinterpret_cast<const Corners*>(p.boxes)[index];
    const bool valid = canvas_box(corners.xyxy, instance.score, p.spatial_scale, instance.box);
    return valid & (own_label == label) &
           may_reach<rule>(left, left + IMP_MP_TILE_W - 1, instance.box.x, p.cells) &
           may_reach<rule>(top, top + IMP_MP_TILE_H - 1, instance.box.y, p.cells);
}

// Lists the instances that reach the tile, in order, from `next` on; moves `next` behind the last one seen.
template <Rule rule, class T>
__device__ __forceinline__ int list_instances(TileMemory& memory, const Problem<T>& p, int image, int label,
                                              int left, int top, unsigned int& next)
{
    const unsigned int instances = static_cast<unsigned int>(p.instances);
    const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
    int count = 0;
    do {
        const unsigned int n = next + threadIdx.x;
        Instance instance;
        const unsigned long long index = static_cast<unsigned long long>(image) * instances + n;
        const bool hit = n < instances && find_instance<rule>(p, index, label, left, top, instance);
        instance.n = static_cast<int>(n);
        const unsigned int hits = __ballot_sync(kAllLanes, hit);
        if (lane == 0) {
            memory.warp_hits[warp] = __popc(hits);
        }
        __syncthreads();
        int place = count + __popc(hits & ((1U << lane) - 1U));
        for (int w = 0; w < kWarps; ++w) {
            place += w < warp ? memory.warp_hits[w] : 0;
            count += memory.warp_hits[w];
        }
        if (hit) {
            memory.list[place] = instance;
        }
        next += IMP_MP_THREADS;
        __syncthreads();
    } while (next < instances && count + IMP_MP_THREADS <= kList);
    return count;
}

}  // namespace imp

#endif
