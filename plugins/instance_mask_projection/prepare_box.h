// SPDX-License-Identifier: Apache-2.0
// What a warp works out of a box before all threads draw it: which columns and rows of the tile lie inside,
// and the lines of the mask, blended along x at every column (bilinear, nearest). Device only.
#ifndef IMP_PREPARE_BOX_H
#define IMP_PREPARE_BOX_H

#include "instance_mask_projection/tile_memory.h"

namespace imp {

constexpr int kReads = 8;  // pairs of cells that a lane reads before it uses the first
constexpr int kRound = 4;  // the lines that are stored are rounded up to these
static_assert(kBoxLines == kWarp, "a lane writes the number of a line");

// A box in the registers of its warp.
struct Prepared {
    Taps columns[kHalves];         // of the tile's columns lane and lane + 32; bilinear: neighboring cells
    unsigned int inside[kHalves];  // ballots over them
    Taps row;                      // of the tile's row `lane`; bilinear, nearest: cells are numbers of lines
    int lines;
};

// A line of the box takes 64 floats where both halves of the tile are inside, else 32. Neighboring columns
// lie in fours, the second four of a run 32 floats behind the first, where threads of a row read them without
// conflicts. Two short lines share 64 floats. Lines are stored by fours.
__device__ __forceinline__ bool is_wide(const Prepared& box)
{
    return (box.inside[0] != 0) & (box.inside[1] != 0);
}

__device__ __forceinline__ int floats_of(const Prepared& box)
{
    const bool none = (box.inside[0] | box.inside[1]) == 0;
    const unsigned int rounds = (static_cast<unsigned int>(box.lines) + kRound - 1) / kRound;
    return none ? 0 : static_cast<int>(rounds) * (is_wide(box) ? kRound * IMP_MP_TILE_W : kRound * kWarp);
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

// Numbers the lines of the mask that the tile's rows read, each once: rows ascend, so a row's lines are new
// or those of the row before. Writes which they are, for readers behind a barrier.
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
    cells[lane] = 0;  // read behind the last line, not used
    __syncwarp();
    if (new0) {
        cells[last - new1] = box.row.cell0;
    }
    if (new1) {
        cells[last] = box.row.cell1;
    }
    if (inside) {
        box.row.cell0 = two ? last - (box.row.cell1 > box.row.cell0) : last;
        box.row.cell1 = last;
    }
    box.lines = __popc(first) + __popc(second);
}

// a / b, correctly rounded, for what `divides_fast` admits: the instructions that the compiler makes of a
// division, without the branch that it puts behind each, so that divisions wait together and share the
// reciprocal.
struct Divisor {
    float value, inverse;

    __device__ __forceinline__ explicit Divisor(float b) : value(b), inverse(0.0F)
    {
#ifdef __CUDA_ARCH__
        float start;
        asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(start) : "f"(b));
        inverse = __fmaf_rn(start, __fmaf_rn(-b, start, 1.0F), start);
#endif
    }

    __device__ __forceinline__ float divide(float a) const
    {
#ifdef __CUDA_ARCH__
        const float quotient = a * inverse;
        return __fmaf_rn(inverse, __fmaf_rn(-value, quotient, a), quotient);
#else
        return a / value;
#endif
    }
};

// No step of `divide` leaves the normal numbers. a is 0 or at least 2^-25, the distance of two floats of
// which one is at least 0.5.
__device__ __forceinline__ bool divides_fast(float a, float b)
{
    return (fabsf(a) <= 0x1p60F) & (b >= 0x1p-40F) & (b <= 0x1p40F);
}

// u of the tile's columns lane and lane + 32, v of its row lane (bilinear, nearest).
__device__ __forceinline__ void coordinates(const CanvasBox& box, int left, int top, int cells, float (&u)[3])
{
    const int lane = threadIdx.x % kWarp;
    const float a0 = mask_offset(left + lane, box.x, cells);
    const float a1 = mask_offset(left + lane + kWarp, box.x, cells);
    const float a2 = mask_offset(top + lane, box.y, cells);
    const Divisor wide(box.x.size), high(box.y.size);
    u[0] = wide.divide(a0);
    u[1] = wide.divide(a1);
    u[2] = high.divide(a2);
    if (!(divides_fast(a0, wide.value) & divides_fast(a1, wide.value) & divides_fast(a2, high.value))) {
        u[0] = a0 / wide.value;
        u[1] = a1 / wide.value;
        u[2] = a2 / high.value;
    }
}

// The warp's box: its taps, and the numbers of its lines.
template <Rule rule>
__device__ __forceinline__ void prepare(Prepared& prepared, const CanvasBox& box, int left, int top,
                                        int cells, int* line_cells)
{
    const int lane = threadIdx.x % kWarp;
    float u[3] = {};
    if (rule == Rule::rect) {
        prepared.columns[0] = taps_at<rule>(left + lane, box.x, cells);
        prepared.columns[1] = taps_at<rule>(left + lane + kWarp, box.x, cells);
        prepared.row = taps_at<rule>(top + lane, box.y, cells);
    } else {
        coordinates(box, left, top, cells, u);
        prepared.row = taps_of(position_of<rule>(u[2]), cells);
    }
#pragma unroll
    for (int half = 0; half < kHalves; ++half) {
        Taps& taps = prepared.columns[half];
        if (rule != Rule::rect) {
            const float position = position_of<rule>(u[half]);
            taps = rule == Rule::bilinear ? neighbors_of(position, cells) : taps_of(position, cells);
        }
        prepared.inside[half] = __ballot_sync(kAllLanes, taps.cell0 != kOutside);
        if (rule != Rule::rect) {
            taps.cell0 = at_least(taps.cell0, 0);  // outside: reads a cell with weight 0, no branch
        }
    }
    if (lane >= IMP_MP_TILE_H) {
        prepared.row.cell0 = prepared.row.cell1 = kOutside;
    }
    if (rule != Rule::rect) {
        number_lines<rule>(prepared, line_cells);
    }
}

// Reads lines of the mask and blends them along x: a lane at a column of each of `halves` halves of the tile.
// All cells of kReads pairs are read before the first is used.
template <Rule rule, int halves, class T>
__device__ __forceinline__ void write_lines(float* lines, const Taps* columns, int count,
                                            const int* line_cells, const T* mask, int cells)
{
    const int lane = threadIdx.x % kWarp;
    float* own = lines + lane / 8 * 4 + lane % 4 + lane / 4 % 2 * kWarp;  // by fours, even ones first
    const bool pairs = rule == Rule::bilinear;
    if (pairs && cells == 1) {  // a cell without a neighbor
#pragma unroll
        for (int half = 0; half < halves && count > 0; ++half) {
            own[half * (kWarp / 2)] = blend_finite_line<Rule::nearest>(Pair<T>{mask[0], {}}, columns[half]);
        }
        return;
    }
    const T* column[halves];
#pragma unroll
    for (int half = 0; half < halves; ++half) {
        column[half] = mask + columns[half].cell0;
    }
    constexpr int kBatch = kReads / halves;
    const unsigned int pitch = static_cast<unsigned int>(cells) * static_cast<unsigned int>(sizeof(T));
    for (int begin = 0; begin < count; begin += kBatch) {
        Pair<T> read[kBatch][halves];
#pragma unroll
        for (int e = 0; e < kReads; ++e) {
            const int i = e / halves, half = e % halves;
            const T* cell = line_at(column[half], line_cells[begin + i], pitch);
            read[i][half] = {cell[0], cell[pairs ? 1 : 0]};
        }
        float blended[kBatch][halves];
        bool plain = true;
#pragma unroll
        for (int e = 0; e < kReads; ++e) {
            const int i = e / halves, half = e % halves;
            blended[i][half] = blend_line<rule>(read[i][half], columns[half]);
            plain &= !changes<rule>(read[i][half], blended[i][half]);
        }
        if (!plain) {
#pragma unroll
            for (int e = 0; e < kReads; ++e) {
                const int i = e / halves, half = e % halves;
                blended[i][half] = blend_finite_line<rule>(read[i][half], columns[half]);
            }
        }
#pragma unroll
        for (int e = 0; e < kReads; ++e) {
            const int i = e / halves, half = e % halves;
            if (i < kRound || begin + kRound < count) {
                own[place_of<halves == 2>(i) + half * (kWarp / 2)] = blended[i][half];
            }
        }
        own += place_of<halves == 2>(kBatch);
    }
}

}  // namespace imp

#endif
