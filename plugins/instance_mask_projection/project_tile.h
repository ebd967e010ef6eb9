// SPDX-License-Identifier: Apache-2.0
// The forward kernel: one tile of one plane of the canvas. README.md says how it works. Device only.
#ifndef IMP_PROJECT_TILE_H
#define IMP_PROJECT_TILE_H

#include "instance_mask_projection/list_instances.h"
#include "instance_mask_projection/prepare_box.h"
#include "instance_mask_projection/store_tile.h"

namespace imp {

// The maxima of the pixels of a run and, where wanted, the instances that hold them.
template <bool keep_winner>
struct Run {
    float best[kRun];
    int winner[keep_winner ? kRun : 1];

    // Instances come in order, so that the lowest n keeps a tie. `value` is never NaN.
    __device__ __forceinline__ void raise(int i, float value, int n)
    {
        if (!keep_winner) {
            best[i] = fmaxf(best[i], value);
        } else if (value > best[i]) {
            best[i] = value;
            winner[i] = n;
        }
    }
};

// rect: the taps of the tile's columns, for each box of the group. The columns that neighboring threads read
// together lie together.
__device__ __forceinline__ Taps* column_taps(TileMemory& memory, int k)
{
    return reinterpret_cast<Taps*>(memory.lines) + k * IMP_MP_TILE_W;
}

__device__ __forceinline__ int column_slot(int column)
{
    return column % kRun * kRuns + column / kRun;
}

// Prepares the listed boxes from `first` on, one in each warp, and returns how many of them are drawable: as
// many as `lines` has room for, at least one.
template <Rule rule, class T>
__device__ __forceinline__ int prepare_group(TileMemory& memory, int first, int count, const Problem<T>& p,
                                             int image, int left, int top)
{
    const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
    const bool active = first + warp < count;
    const Instance& instance = memory.list[active ? first + warp : first];
    Prepared box;
    if (active) {
        prepare<rule>(box, instance.box, left, top, p.cells, memory.cells[warp]);
    }
    if (lane == 0) {
        memory.floats[warp] = !active ? kLines + 1 : rule == Rule::rect ? 0 : floats_of(box);
    }
    __syncthreads();  // what the boxes need is known, and the group before has been drawn
    int base = 0, room = 0, end = 0;
#pragma unroll
    for (int k = 0; k < kGroup; ++k) {
        base = k == warp ? end : base;
        end += memory.floats[k];
        room += end <= kLines ? 1 : 0;
    }
    if (warp < room) {
        if (lane < IMP_MP_TILE_H) {
            Taps row = box.row;
            if (rule != Rule::rect && row.cell0 != kOutside) {
                row.cell0 = place_line(box, base, row.cell0) * static_cast<int>(sizeof(float));
                row.cell1 = place_line(box, base, row.cell1) * static_cast<int>(sizeof(float));
            }
            memory.rows[warp][lane] = row;
        }
        if (lane == 0) {
            memory.drawn[warp] = {{box.inside[0], box.inside[1]}, instance.score, instance.n};
        }
        if (rule == Rule::rect) {
#pragma unroll
            for (int half = 0; half < kHalves; ++half) {
                column_taps(memory, warp)[column_slot(half * kWarp + lane)] = box.columns[half];
            }
        } else if (is_wide(box)) {
            write_lines<rule, 2>(memory.lines + base, box.columns, box.lines, memory.cells[warp],
                                 mask_of(p, image, instance.n), p.cells);
        } else if ((box.inside[0] | box.inside[1]) != 0) {
            const Taps column = box.inside[0] != 0 ? box.columns[0] : box.columns[1];
            write_lines<rule, 1>(memory.lines + base, &column, box.lines, memory.cells[warp],
                                 mask_of(p, image, instance.n), p.cells);
        }
    }
    __syncthreads();
    return room;
}

// Eight pixels from the lines above and below them, which are blended along x.
template <Rule rule, bool keep_winner>
__device__ __forceinline__ void draw_lines(const float* lines, Taps row, float score, int n,
                                           Run<keep_winner>& out)
{
    constexpr int kFour = 4;
    const char* above_line = reinterpret_cast<const char*>(lines) + row.cell0;
    const char* below_line = reinterpret_cast<const char*>(lines) + row.cell1;
#pragma unroll
    for (int first = 0; first < kRun; first += kFour) {
        const int place = first / kFour * kWarp * static_cast<int>(sizeof(float));
        const Four above = *reinterpret_cast<const Four*>(above_line + place);
        const Four below = *reinterpret_cast<const Four*>(below_line + place);
#pragma unroll
        for (int i = 0; i < kFour; ++i) {
            const float value = rule == Rule::nearest ? above.values[i]
                                                      : above.values[i] * row.weight0 +
                                                            below.values[i] * row.weight1;
            out.raise(first + i, value * score, n);
        }
    }
}

template <bool keep_winner, class T>
__device__ __forceinline__ void draw_rect(const Taps* columns, Taps row, const T* mask, int cells,
                                          float score, int n, Run<keep_winner>& out)
{
#pragma unroll
    for (int i = 0; i < kRun; ++i) {
        const Taps column = columns[i * kRuns];
        if (column.cell0 != kOutside) {
            out.raise(i, largest_cell(mask, cells, row, column) * score, n);
        }
    }
}

// `used` prepared boxes on the thread's run, which a box skips that misses its row or its columns.
template <Rule rule, bool keep_winner, class T>
__device__ __forceinline__ void draw(TileMemory& memory, int used, const Problem<T>& p, int image,
                                     Run<keep_winner>& out)
{
    const int run = threadIdx.x % kRuns;
    const float* lines = memory.lines + run * 4;
#pragma unroll 1
    for (int k = 0; k < used; ++k) {
        const Taps row = memory.rows[k][threadIdx.x / kRuns];
        const Drawn& box = memory.drawn[k];
        const bool reached = reinterpret_cast<const unsigned char*>(box.inside)[run] != 0;
        if (!(reached & (row.cell0 != kOutside))) {
            continue;
        }
        if (rule == Rule::rect) {
            draw_rect(column_taps(memory, k) + run, row, mask_of(p, image, box.n), p.cells, box.score, box.n,
                      out);
        } else {
            draw_lines<rule>(lines, row, box.score, box.n, out);
        }
    }
}

// Writes the winners or, rounded once and saturated, the canvas.
template <bool keep_winner, class T>
__device__ __forceinline__ void store_run_of(TileMemory& memory, const Run<keep_winner>& run,
                                             unsigned int plane, int left, int top, const Problem<T>& p,
                                             T* canvas, int* winners)
{
    constexpr float kLimit = Largest<T>::value;
    if (keep_winner) {
        int values[kRun];
#pragma unroll
        for (int i = 0; i < kRun; ++i) {
            values[i] = run.best[i] > kLimit ? -1 : run.winner[keep_winner ? i : 0];
        }
        store(memory, values, winners, plane, left, top, p.height, p.width);
    } else {
        T values[kRun];
#pragma unroll
        for (int i = 0; i < kRun; ++i) {
            values[i] = from_float<T>(run.best[i] > kLimit ? kLimit : run.best[i]);
        }
        store(memory, values, canvas, plane, left, top, p.height, p.width);
    }
}

// One tile of every plane blockIdx.z, + gridDim.z, ... Writes the canvas or, if it is null, the winners.
template <Rule rule, bool keep_winner, class T>
__device__ __forceinline__ void project_tile(TileMemory& memory, const Problem<T>& p, T* canvas, int* winners)
{
    const unsigned int classes = static_cast<unsigned int>(p.classes);
    const unsigned int planes = static_cast<unsigned int>(p.batch) * classes;
    const int left = static_cast<int>(blockIdx.x) * IMP_MP_TILE_W;
    const int top = static_cast<int>(blockIdx.y) * IMP_MP_TILE_H;
    for (unsigned int plane = blockIdx.z; plane < planes; plane += gridDim.z) {
        const int image = static_cast<int>(plane / classes), label = static_cast<int>(plane % classes);
        Run<keep_winner> run;
#pragma unroll
        for (int i = 0; i < kRun; ++i) {
            run.best[i] = 0.0F;
            run.winner[keep_winner ? i : 0] = -1;
        }
        unsigned int next = 0;
        while (next < static_cast<unsigned int>(p.instances)) {
            const int count = list_instances<rule>(memory, p, image, label, left, top, next);
            int drawable = 0;
            for (int first = 0; first < count; first += drawable) {
                drawable = prepare_group<rule>(memory, first, count, p, image, left, top);
                draw<rule>(memory, drawable, p, image, run);
            }
        }
        store_run_of(memory, run, plane, left, top, p, canvas, winners);
    }
}

}  // namespace imp

#endif
