// What a warp works out of a box before all threads draw it: which columns and rows of the tile lie inside, and
// the lines of the mask, blended along x at every column (bilinear, nearest). Device only.
#ifndef IMP_PREPARE_BOX_H
#define IMP_PREPARE_BOX_H

#include "instance_mask_projection/tile_memory.h"

namespace imp {

constexpr int kBatch = 4;  // lines that are read together: 8 or 16 reads of a lane under way
static_assert(kBoxLines == kWarp && kBoxLines % kBatch == 0, "a batch reads numbers of lines that a lane has written");

// A box in the registers of its warp.
struct Prepared {
    Taps columns[kHalves];         // of the tile's columns lane and lane + 32
    unsigned int inside[kHalves];  // ballots over them
    Taps row;                      // of the tile's row `lane`; bilinear, nearest: cells are numbers of lines
    int lines;
};

// A line of the box takes 64 floats where both halves of the tile are inside, else 32. Neighbouring columns lie
// in fours, the second four of a run 32 floats behind the first, where threads of a row read them without
// conflicts. Two short lines share 64 floats. Lines are written by the batch, so their number is rounded up.
__device__ __forceinline__ bool is_wide(const Prepared& box)
{
    return (box.inside[0] != 0) & (box.inside[1] != 0);
}

__device__ __forceinline__ int floats_of(const Prepared& box)
{
    const int none = (box.inside[0] | box.inside[1]) == 0;
    const int lines = (box.lines + kBatch - 1) / kBatch * kBatch;
    return none ? 0 : lines * (is_wide(box) ? IMP_MP_TILE_W : kWarp);
}

template <bool wide>
__device__ __forceinline__ int place_of(unsigned int line)
{
    return static_cast<int>(wide ? line * IMP_MP_TILE_W : line / 2 * IMP_MP_TILE_W + line % 2 * (kWarp / 2));
}

// Where a line begins, so that a thread of the tile's run r finds its pixels at + 4 r and at + 4 r + 32.
__device__ __forceinline__ int place_line(const Prepared& box, int base, unsigned int line)
{
    const int second_half = box.inside[0] == 0 ? kWarp / 2 : 0;  // whose runs count from 4
    return base - second_half + (is_wide(box) ? place_of<true>(line) : place_of<false>(line));
}

// Numbers the lines of the mask that the tile's rows read, each once: rows ascend, so a row's lines are new or
// those of the row before. Writes which they are.
template <Rule rule>
__device__ __forceinline__ void number_lines(Prepared& box, int* cells)
{
    const int lane = threadIdx.x % kWarp;
    const bool two = rule == Rule::bilinear;
    const bool inside = box.row.cell0 != kOutside;
    // Rows are fewer than lanes: before the first comes the last lane's, which is outside.
    const int before = __shfl_sync(kAllLanes, two ? box.row.cell1 : box.row.cell0, lane + kWarp - 1);
    const bool new0 = inside && box.row.cell0 > before;
    const bool new1 = two && inside && box.row.cell1 > before && box.row.cell1 > box.row.cell0;
    const unsigned int first = __ballot_sync(kAllLanes, new0), second = __ballot_sync(kAllLanes, new1);
    const unsigned int here = kAllLanes >> (kWarp - 1 - lane);  // lanes up to this one
    const int last = __popc(first & here) + __popc(second & here) - 1;
    cells[lane] = 0;  // batches may read it, not use it
    __syncwarp();
    if (new0) {
        cells[last - new1] = box.row.cell0;
    }
    if (new1) {
        cells[last] = box.row.cell1;
    }
    __syncwarp();
    if (inside) {
        box.row.cell0 = two ? last - (box.row.cell1 > box.row.cell0) : last;
        box.row.cell1 = last;
    }
    box.lines = __popc(first) + __popc(second);
}

// The warp's box: taps, one division each, and the numbers of its lines.
template <Rule rule>
__device__ __forceinline__ void prepare(Prepared& prepared, const CanvasBox& box, int left, int top, int cells,
                                        int* line_cells)
{
    const int lane = threadIdx.x % kWarp;
#pragma unroll
    for (int half = 0; half < kHalves; ++half) {
        prepared.columns[half] = taps_at<rule>(left + half * kWarp + lane, box.x, cells);
        prepared.inside[half] = __ballot_sync(kAllLanes, prepared.columns[half].cell0 != kOutside);
        if (rule != Rule::rect && prepared.columns[half].cell0 == kOutside) {
            prepared.columns[half] = {0.0F, 0.0F, 0, 0};  // reads a cell with weight 0: no branch
        }
    }
    prepared.row = taps_at<rule>(top + lane, box.y, cells);
    if (lane >= IMP_MP_TILE_H) {
        prepared.row = {0.0F, 0.0F, kOutside, kOutside};
    }
    if (rule != Rule::rect) {
        number_lines<rule>(prepared, line_cells);
    }
}

// Reads lines of the mask and blends them along x: a lane at a column of each of `halves` halves of the tile.
// All cells of a batch are read before the first is used.
template <Rule rule, int halves, class T>
__device__ __forceinline__ void write_lines(float* lines, const Taps* columns, int count, const int* line_cells,
                                            const T* mask, int cells)
{
    const int lane = threadIdx.x % kWarp;
    float* own = lines + lane / 8 * 4 + lane % 4 + lane / 4 % 2 * kWarp;  // by fours, even ones first
    const unsigned int pitch = static_cast<unsigned int>(cells) * static_cast<unsigned int>(sizeof(T));
    for (int begin = 0; begin < count; begin += kBatch) {
        Pair<T> read[kBatch][halves];
#pragma unroll
        for (int i = 0; i < kBatch; ++i) {
            const int line = line_cells[begin + i];
#pragma unroll
            for (int half = 0; half < halves; ++half) {
                read[i][half] = {*line_at(mask + columns[half].cell0, line, pitch),
                                 *line_at(mask + columns[half].cell1, line, pitch)};
            }
        }
        float blended[kBatch][halves];
        bool plain = true;
#pragma unroll
        for (int e = 0; e < kBatch * halves; ++e) {
            const int i = e / halves, half = e % halves;
            blended[i][half] = blend_line<rule>(read[i][half], columns[half]);
            plain &= !changes<rule>(read[i][half], blended[i][half]);
        }
        if (!plain) {
#pragma unroll
            for (int e = 0; e < kBatch * halves; ++e) {
                const int i = e / halves, half = e % halves;
                blended[i][half] = blend_finite_line<rule>(read[i][half], columns[half]);
            }
        }
#pragma unroll
        for (int e = 0; e < kBatch * halves; ++e) {
            const int i = e / halves, half = e % halves;
            own[place_of<halves == 2>(i) + half * (kWarp / 2)] = blended[i][half];
        }
        own += place_of<halves == 2>(kBatch);
    }
}

}  // namespace imp

#endif
