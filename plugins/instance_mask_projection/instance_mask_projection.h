// SPDX-License-Identifier: Apache-2.0
// Instance mask projection, version 1: where a box lies on the canvas and which mask cells a pixel reads.
// README.md is the contract. Every operation is float32, rounded, in the order written here.
#ifndef IMP_INSTANCE_MASK_PROJECTION_H
#define IMP_INSTANCE_MASK_PROJECTION_H

#include "common/host_device.h"
#include "common/scalar_types.h"

#define IMP_MP_TILE_W 64
#define IMP_MP_TILE_H 16
#define IMP_MP_THREADS 128
#define IMP_MP_BACKWARD_THREADS 256

namespace imp {

enum class Rule { bilinear, nearest, rect };

// One axis of a box: canvas pixels.
struct Span {
    float low;
    float size;
};

struct CanvasBox {
    Span x;
    Span y;
};

// What a pixel reads along one axis. bilinear: two cells and their weights; nearest: cell0;
// rect: the cells from cell0 to cell1. A pixel outside has kOutside as cell0.
struct alignas(16) Taps {
    float weight0;
    float weight1;
    int cell0;
    int cell1;
};

constexpr int kOutside = -1;

// False if the instance contributes nothing whatever its label. corners: xyxy in image pixels.
IMP_HD bool canvas_box(const float* corners, float score, float spatial_scale, CanvasBox& box)
{
    const float x0 = corners[0] * spatial_scale, y0 = corners[1] * spatial_scale;
    const float x1 = corners[2] * spatial_scale, y1 = corners[3] * spatial_scale;
    const float w = x1 - x0, h = y1 - y0;
    box = {{x0, w}, {y0, h}};
    // & and not &&: a branch would stand between the loads of the corners and that of the score.
    return is_finite(x0) & is_finite(y0) & is_finite(x1) & is_finite(y1) & is_finite(score) & (w > 0.0F) &
           (w <= kFloatMax) & (h > 0.0F) & (h <= kFloatMax);
}

// labels: int32 or int64. Not narrowed: 2^32 is not class 0.
IMP_HD long long label_at(const void* labels, int label_bytes, unsigned long long index)
{
    if (label_bytes == 8) {
        return static_cast<const long long*>(labels)[index];
    }
    return static_cast<const int*>(labels)[index];
}

// u of the contract is offset / span.size; may be infinite, never NaN, and never falls as the pixel grows.
IMP_HD float mask_offset(int pixel, Span span, int cells)
{
    return (static_cast<float>(pixel) + 0.5F - span.low) * static_cast<float>(cells);
}

// The cell round or before which a pixel is sampled, not rounded for bilinear. Inside: -1 < position < P.
template <Rule rule>
IMP_HD float position_of(float u)
{
    return rule == Rule::nearest ? floorf(u) : u - 0.5F;
}

template <Rule rule>
IMP_HD float mask_position(int pixel, Span span, int cells)
{
    return position_of<rule>(mask_offset(pixel, span, cells) / span.size);
}

// Where cell j begins on the canvas (rect); ascends with j, may be infinite.
IMP_HD float cell_edge(int j, Span span, int cells)
{
    return span.low + static_cast<float>(j) * span.size / static_cast<float>(cells);
}

// False only if no pixel of [first, last] lies inside. bilinear and nearest: u compared with its bounds
// without the division, a 1e-4 of the box to spare for its rounding, which is below 1e-6.
template <Rule rule>
IMP_HD bool may_reach(int first, int last, Span span, int cells)
{
    if (rule == Rule::rect) {
        return (cell_edge(0, span, cells) < static_cast<float>(last) + 1.0F) &
               (static_cast<float>(first) < cell_edge(cells, span, cells));
    }
    constexpr float kSpare = 1e-4F, kReach = (rule == Rule::nearest ? 0.0F : 0.5F) + kSpare;
    const float count = static_cast<float>(cells);
    const float low = mask_offset(first, span, cells), high = mask_offset(last, span, cells);
    return (high >= -kReach * span.size) & (low <= (count + kReach + kSpare * count) * span.size);
}

// The number of cells j in [0, P) for which cell_edge(j + offset) < bound, or <= bound with `equal`.
IMP_HD int edges_below(float bound, bool equal, int offset, Span span, int cells)
{
    int low = 0, high = cells;
    while (low < high) {
        const int middle = low + (high - low) / 2;
        const float edge = cell_edge(middle + offset, span, cells);
        if (edge < bound || (equal && edge == bound)) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low;
}

// Cell j covers pixel x if floor(edge j) <= x < ceil(edge j + 1), for an integer x: edge j < x + 1 and
// x < edge j + 1. The edges ascend, so the covering cells are a range.
IMP_HD Taps covering_cells(int pixel, Span span, int cells)
{
    const float x = static_cast<float>(pixel);
    const int first = edges_below(x, true, 1, span, cells);
    const int last = edges_below(x + 1.0F, false, 0, span, cells) - 1;
    const bool inside = first <= last;
    return {0.0F, 0.0F, inside ? first : kOutside, last};
}

// The taps of a position (bilinear, nearest).
IMP_HD Taps taps_of(float position, int cells)
{
    if (!(position > -1.0F && position < static_cast<float>(cells))) {
        return {0.0F, 0.0F, kOutside, kOutside};
    }
    const float below = floorf(position), fraction = position - below;
    const int cell = static_cast<int>(below);
    const float weight0 = cell >= 0 ? 1.0F - fraction : 0.0F;
    const float weight1 = cell < cells - 1 ? fraction : 0.0F;
    return {weight0, weight1, at_least(cell, 0), at_most(cell + 1, cells - 1)};
}

template <Rule rule>
IMP_HD Taps taps_at(int pixel, Span span, int cells)
{
    return rule == Rule::rect ? covering_cells(pixel, span, cells)
                              : taps_of(mask_position<rule>(pixel, span, cells), cells);
}

// The taps of a position as two neighboring cells, cell0 and cell0 + 1, so that one address serves both; a
// border's other cell gets weight 0, which changes no more than the sign of a zero. With one cell, weight0 is
// its weight.
IMP_HD Taps neighbors_of(float position, int cells)
{
    const bool inside = position > -1.0F && position < static_cast<float>(cells);
    const float place = inside ? position : 0.0F;  // no branch: columns are worked out side by side
    const float below = floorf(place), fraction = place - below, rest = 1.0F - fraction;
    const int cell = static_cast<int>(below), first = at_least(at_most(cell, cells - 2), 0);
    const float weight0 = cell > first ? 0.0F : cell < first ? fraction : rest;
    const float weight1 = cell < first ? 0.0F : cell > first ? rest : fraction;
    return {inside ? weight0 : 0.0F, inside ? weight1 : 0.0F, inside ? first : kOutside, 0};
}

// A mask cell, 0 if it is not finite. Bounded so that no blend of cells rounds to an infinity; 16-bit numbers
// are below the bound anyway.
template <class T>
IMP_HD float finite_cell(T cell)
{
    const float value = to_float(cell);
    const float finite = is_finite(value) ? value : 0.0F;
    if (sizeof(T) < sizeof(float)) {
        return finite;
    }
    return finite > kLargestCell ? kLargestCell : finite < -kLargestCell ? -kLargestCell : finite;
}

// The cells that a pixel reads. Reading is apart from blending, so that a thread can have many reads under
// way.
template <class T>
struct Footprint {
    T cells[4];  // bilinear: above left, above right, below left, below right; nearest: the first
};

// The line of cells [P] that a row tap names.
template <class T>
IMP_HD const T* mask_line(const T* mask, int cells, int cell)
{
    unsigned long long bytes = cell * static_cast<unsigned long long>(cells) * sizeof(T);
#ifdef __CUDA_ARCH__
    // Opaque, or the compiler adds it to the index of every cell, four instructions to an address instead of
    // one.
    asm("" : "+l"(bytes));
#endif
    return reinterpret_cast<const T*>(reinterpret_cast<const char*>(mask) + bytes);
}

template <Rule rule, class T>
IMP_HD Footprint<T> read_footprint(const T* above, const T* below, Taps column)
{
    const unsigned int left = static_cast<unsigned int>(column.cell0);
    const unsigned int right = static_cast<unsigned int>(column.cell1);
    if (rule == Rule::nearest) {
        return {{above[left]}};
    }
    return {{above[left], above[right], below[left], below[right]}};
}

// The mask at a pixel (bilinear, nearest). Row and column are inside or name any cell with weight 0.
template <Rule rule, class T>
IMP_HD float blend(const Footprint<T>& read, Taps row, Taps column)
{
    if (rule == Rule::nearest) {
        return finite_cell(read.cells[0]) * column.weight0;
    }
    const float above =
        finite_cell(read.cells[0]) * column.weight0 + finite_cell(read.cells[1]) * column.weight1;
    const float below =
        finite_cell(read.cells[2]) * column.weight0 + finite_cell(read.cells[3]) * column.weight1;
    return above * row.weight0 + below * row.weight1;
}

// A line of a mask, of `pitch` bytes. Opaque, or the compiler adds its place to the index of every cell, four
// instructions to an address instead of one.
template <class T>
IMP_HD const T* line_at(const T* mask, int line, unsigned int pitch)
{
#ifdef __CUDA_ARCH__
    const T* result;
    asm("mad.wide.u32 %0, %1, %2, %3;" : "=l"(result) : "r"(line), "r"(pitch), "l"(mask));
    __builtin_assume(__isGlobal(result));  // or the load is a generic one
    return result;
#else
    const unsigned long long bytes = static_cast<unsigned long long>(line) * pitch;
    return reinterpret_cast<const T*>(reinterpret_cast<const char*>(mask) + bytes);
#endif
}

// Two neighboring cells of a line of the mask; nearest: the first.
template <class T>
struct Pair {
    T left, right;
};

// A line of the mask at a column: the horizontal half of `blend`, the same operations in the same order. A
// cell that finite_cell changes is taken as it is; `changes` tells, once for both cells.
template <Rule rule, class T>
IMP_HD float blend_line(Pair<T> read, Taps column)
{
    if (rule == Rule::nearest) {
        return to_float(read.left) * column.weight0;
    }
    return to_float(read.left) * column.weight0 + to_float(read.right) * column.weight1;
}

// Whether finite_cell changes a cell that gave `blended`. A 16-bit cell that is not finite makes the blend
// not finite, by an infinity or by an infinity times 0; finite ones cannot.
template <Rule rule, class T>
IMP_HD bool changes(Pair<T> read, float blended)
{
    if (sizeof(T) < sizeof(float)) {
        return !is_finite(blended);
    }
    const bool left = fabsf(to_float(read.left)) <= kLargestCell;
    return rule == Rule::nearest ? !left : !(left & (fabsf(to_float(read.right)) <= kLargestCell));
}

// blend_line of finite cells.
template <Rule rule, class T>
IMP_HD float blend_finite_line(Pair<T> read, Taps column)
{
    if (rule == Rule::nearest) {
        return finite_cell(read.left) * column.weight0;
    }
    return finite_cell(read.left) * column.weight0 + finite_cell(read.right) * column.weight1;
}

// The largest of the cells that cover a pixel (rect); row and column must be inside.
template <class T>
IMP_HD float largest_cell(const T* mask, int cells, Taps row, Taps column)
{
    const unsigned long long pitch = static_cast<unsigned long long>(cells);
    const T* line = mask + row.cell0 * pitch;
    float largest = -kFloatMax;
    for (int i = row.cell0; i <= row.cell1; ++i, line += pitch) {
        for (int j = column.cell0; j <= column.cell1; ++j) {
            const float value = finite_cell(line[j]);
            largest = value > largest ? value : largest;
        }
    }
    return largest;
}

// What the pixel at `taps` gives to cell j along one axis (bilinear, nearest).
IMP_HD float weight_of_cell(Taps taps, int j)
{
    return (taps.cell0 == j ? taps.weight0 : 0.0F) + (taps.cell1 == j ? taps.weight1 : 0.0F);
}

// Whether rule rect shows cell (i, j) at a pixel: the largest covering cell, the lowest of equal ones.
template <class T>
IMP_HD bool shows_cell(const T* mask, int cells, Taps row, Taps column, int i, int j)
{
    const unsigned long long pitch = static_cast<unsigned long long>(cells);
    const float value = finite_cell(mask[i * pitch + j]);
    for (int k = row.cell0; k <= row.cell1; ++k) {
        for (int m = column.cell0; m <= column.cell1; ++m) {
            const float other = finite_cell(mask[k * pitch + m]);
            const bool before = k < i || (k == i && m < j);
            if (other > value || (before && other == value)) {
                return false;
            }
        }
    }
    return true;
}

// Whether a pixel lies at or behind the first (`past` false) or behind the last pixel that reads cell j.
template <Rule rule>
IMP_HD bool at_or_behind(int pixel, int j, bool past, Span span, int cells)
{
    if (rule == Rule::rect) {
        const float x = static_cast<float>(pixel);
        return past ? x >= cell_edge(j + 1, span, cells) : x + 1.0F > cell_edge(j, span, cells);
    }
    const float first = static_cast<float>(rule == Rule::nearest ? j : j - 1);
    return mask_position<rule>(pixel, span, cells) >= (past ? static_cast<float>(j) + 1.0F : first);
}

// The pixels [first, past) of an axis of `extent` pixels that read cell j.
struct PixelRange {
    int first;
    int past;
};

template <Rule rule>
IMP_HD int search_pixel(int j, bool past, Span span, int cells, int extent)
{
    int low = 0, high = extent;
    while (low < high) {
        const int middle = low + (high - low) / 2;
        if (at_or_behind<rule>(middle, j, past, span, cells)) {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    return low;
}

template <Rule rule>
IMP_HD PixelRange pixels_of_cell(int j, Span span, int cells, int extent)
{
    return {search_pixel<rule>(j, false, span, cells, extent),
            search_pixel<rule>(j, true, span, cells, extent)};
}

}  // namespace imp

#endif
