// SPDX-License-Identifier: Apache-2.0
// The backward kernel: one instance, a warp for each row of its mask cells. Device only.
#ifndef IMP_PROJECT_BACKWARD_H
#define IMP_PROJECT_BACKWARD_H

#include "instance_mask_projection/problem.h"

namespace imp {

// What the warp needs of lane r's row: its weight, for rect its cells.
template <Rule rule>
__device__ __forceinline__ Taps row_of_lane(Taps mine, float weight, int r)
{
    if (rule == Rule::rect) {
        return {0.0F, 0.0F, __shfl_sync(kAllLanes, mine.cell0, r), __shfl_sync(kAllLanes, mine.cell1, r)};
    }
    return {__shfl_sync(kAllLanes, weight, r), 0.0F, 0, 0};
}

// Sum over the pixels of [rows] x [columns] that show instance n of grad * d sample / d cell (i, j). A lane
// owns columns; the order is fixed. winner, grad: one plane. Every lane of the warp returns the sum.
template <Rule rule, class T>
__device__ __forceinline__ float cell_gradient(const Problem<T>& p, const CanvasBox& box, const T* mask,
                                               int n, int i, int j, PixelRange rows, PixelRange columns,
                                               const int* winner, const T* grad)
{
    const int lane = threadIdx.x % kWarp;
    float sum = 0.0F;
    for (int left = columns.first; left < columns.past; left += kWarp) {
        const int x = left + lane;
        const bool active = x < columns.past;
        const Taps column = taps_at<rule>(x, box.x, p.cells);
        const float weight = weight_of_cell(column, j);
        for (int top = rows.first; top < rows.past; top += kWarp) {
            const Taps mine = taps_at<rule>(top + lane, box.y, p.cells);
            const float mine_weight = weight_of_cell(mine, i);
            const int height = at_most(rows.past - top, kWarp);
            for (int r = 0; r < height; ++r) {
                const Taps row = row_of_lane<rule>(mine, mine_weight, r);
                const unsigned long long place = static_cast<unsigned long long>(top + r) * p.width + x;
                if (!active || winner[place] != n) {
                    continue;
                }
                if (rule != Rule::rect) {
                    sum += to_float(grad[place]) * row.weight0 * weight;
                } else if (shows_cell(mask, p.cells, row, column, i, j)) {
                    sum += to_float(grad[place]);
                }
            }
        }
    }
    for (int distance = kWarp / 2; distance > 0; distance /= 2) {
        sum += __shfl_xor_sync(kAllLanes, sum, distance);
    }
    return sum;
}

// The gradients of one instance: a warp takes rows of cells. Returns the warp's part of the score's gradient.
template <Rule rule, class T>
__device__ __forceinline__ float instance_gradient(const Problem<T>& p, const CanvasBox& box, float score,
                                                   int n, const T* mask, const int* winner, const T* grad,
                                                   T* grad_mask)
{
    const int lane = threadIdx.x % kWarp;
    float sum = 0.0F;
    for (int i = threadIdx.x / kWarp; i < p.cells; i += IMP_MP_BACKWARD_THREADS / kWarp) {
        const PixelRange rows = pixels_of_cell<rule>(i, box.y, p.cells, p.height);
        for (int begin = 0; begin < p.cells; begin += kWarp) {
            const PixelRange mine = pixels_of_cell<rule>(begin + lane, box.x, p.cells, p.width);
            const int end = at_most(p.cells - begin, kWarp);
            for (int k = 0; k < end; ++k) {
                const PixelRange columns = {__shfl_sync(kAllLanes, mine.first, k),
                                            __shfl_sync(kAllLanes, mine.past, k)};
                const float gradient =
                    cell_gradient<rule>(p, box, mask, n, i, begin + k, rows, columns, winner, grad);
                const unsigned long long place = static_cast<unsigned long long>(i) * p.cells + begin + k;
                sum += gradient * finite_cell(mask[place]);
                if (lane == 0) {
                    const bool finite = is_finite(to_float(mask[place]));
                    grad_mask[place] = from_float<T>(finite ? gradient * score : 0.0F);
                }
            }
        }
    }
    return sum;
}

template <Rule rule, class T>
__device__ __forceinline__ void project_backward(float* warp_sums, const Problem<T>& p, const int* winner,
                                                 const T* grad_canvas, float* grad_scores, T* grad_masks)
{
    const unsigned long long plane_size = static_cast<unsigned long long>(p.height) * p.width;
    const unsigned long long mask_size = static_cast<unsigned long long>(p.cells) * p.cells;
    const int n = static_cast<int>(blockIdx.x);
    for (unsigned int image = blockIdx.y; image < static_cast<unsigned int>(p.batch); image += gridDim.y) {
        const unsigned long long index = static_cast<unsigned long long>(image) * p.instances + n;
        const float score = p.scores[index];
        const long long label = label_at(p.labels, p.label_bytes, index);
        T* grad_mask = grad_masks + index * mask_size;
        CanvasBox box;
        const bool valid = canvas_box(p.boxes + 4 * index, score, p.spatial_scale, box);
        if (!valid || label < 0 || label >= p.classes) {
            for (unsigned long long e = threadIdx.x; e < mask_size; e += IMP_MP_BACKWARD_THREADS) {
                grad_mask[e] = from_float<T>(0.0F);
            }
            if (threadIdx.x == 0) {
                grad_scores[index] = 0.0F;
            }
            continue;
        }
        const unsigned long long plane =
            (static_cast<unsigned long long>(image) * p.classes + static_cast<unsigned long long>(label)) *
            plane_size;
        const float sum = instance_gradient<rule>(p, box, score, n, p.masks + index * mask_size,
                                                  winner + plane, grad_canvas + plane, grad_mask);
        if (threadIdx.x % kWarp == 0) {
            warp_sums[threadIdx.x / kWarp] = sum;
        }
        __syncthreads();
        if (threadIdx.x == 0) {
            float total = 0.0F;
            for (int w = 0; w < IMP_MP_BACKWARD_THREADS / kWarp; ++w) {
                total += warp_sums[w];
            }
            grad_scores[index] = total;
        }
        __syncthreads();  // before the next image's sums
    }
}

}  // namespace imp

#endif
