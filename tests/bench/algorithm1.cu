// SPDX-License-Identifier: Apache-2.0
// Algorithm 1 of the IMP paper as a baseline: scatter with atomicMax on a canvas that was set to zero before.
//
// The canvas is float32 whatever the type of the masks: atomicMax works on the bits of non-negative floats,
// and there is none for 16-bit numbers. The sampling rules are those of the operator, so that answers can be
// compared bit for bit. `cells`: a thread draws the pixels of one mask cell, as the paper has it (rule rect).
// `pixels`: a thread draws pixels of one instance.
#include "instance_mask_projection/problem.h"

#define IMP_A1_BLOCKS 16
#define IMP_A1_THREADS 256

namespace imp {

// Not beyond the canvas, so that the conversion to int is defined.
__device__ __forceinline__ int clamped(float value, int extent)
{
    return value <= 0.0F ? 0 : value >= static_cast<float>(extent) ? extent : static_cast<int>(value);
}

template <class T>
struct Target {
    CanvasBox box;
    float score;
    const T* mask;
    unsigned int* plane;
};

// False if the instance (blockIdx.y of image blockIdx.z) contributes nothing.
template <class T>
__device__ __forceinline__ bool find_target(const Problem<T>& p, unsigned int* canvas, Target<T>& target)
{
    const unsigned long long index = static_cast<unsigned long long>(blockIdx.z) * p.instances + blockIdx.y;
    const unsigned long long cells = static_cast<unsigned long long>(p.cells) * p.cells;
    const long long label = label_at(p.labels, p.label_bytes, index);
    target.score = p.scores[index];
    if (!canvas_box(p.boxes + 4 * index, target.score, p.spatial_scale, target.box) || label < 0 ||
        label >= p.classes) {
        return false;
    }
    const unsigned long long plane = static_cast<unsigned long long>(blockIdx.z) * p.classes + label;
    target.mask = p.masks + index * cells;
    target.plane = canvas + plane * (static_cast<unsigned long long>(p.height) * p.width);
    return true;
}

template <class T>
__device__ __forceinline__ void raise(const Problem<T>& p, const Target<T>& target, int y, int x, float value)
{
    if (value > 0.0F) {
        const float bounded = value > Largest<T>::value ? Largest<T>::value : value;
        atomicMax(target.plane + static_cast<unsigned long long>(y) * p.width + x, __float_as_uint(bounded));
    }
}

template <class T>
__device__ __forceinline__ void scatter_cells(const Problem<T>& p, unsigned int* canvas)
{
    Target<T> target;
    if (!find_target(p, canvas, target)) {
        return;
    }
    const Span x = target.box.x, y = target.box.y;
    for (int cell = blockIdx.x * IMP_A1_THREADS + threadIdx.x; cell < p.cells * p.cells;
         cell += IMP_A1_BLOCKS * IMP_A1_THREADS) {
        const int i = cell / p.cells, j = cell % p.cells;
        const int top = clamped(floorf(cell_edge(i, y, p.cells)), p.height);
        const int bottom = clamped(ceilf(cell_edge(i + 1, y, p.cells)), p.height);
        const int left = clamped(floorf(cell_edge(j, x, p.cells)), p.width);
        const int right = clamped(ceilf(cell_edge(j + 1, x, p.cells)), p.width);
        const float value = finite_cell(target.mask[cell]) * target.score;
        for (int row = top; row < bottom; ++row) {
            for (int column = left; column < right; ++column) {
                raise(p, target, row, column, value);
            }
        }
    }
}

template <Rule rule, class T>
__device__ __forceinline__ void scatter_pixels(const Problem<T>& p, unsigned int* canvas)
{
    Target<T> target;
    if (!find_target(p, canvas, target)) {
        return;
    }
    // A cell more than the box on every side is enough for every rule; the taps decide.
    const Span x = target.box.x, y = target.box.y;
    const float cell_w = x.size / static_cast<float>(p.cells), cell_h = y.size / static_cast<float>(p.cells);
    const int left = clamped(floorf(x.low - cell_w) - 1.0F, p.width);
    const int top = clamped(floorf(y.low - cell_h) - 1.0F, p.height);
    const int wide = clamped(ceilf(x.low + x.size + cell_w) + 1.0F, p.width) - left;
    const int high = clamped(ceilf(y.low + y.size + cell_h) + 1.0F, p.height) - top;
    const long long pixels = static_cast<long long>(wide) * high;
    for (long long e = blockIdx.x * IMP_A1_THREADS + threadIdx.x; e < pixels;
         e += IMP_A1_BLOCKS * IMP_A1_THREADS) {
        const int row = top + static_cast<int>(e / wide), column = left + static_cast<int>(e % wide);
        const Taps across = taps_at<rule>(column, x, p.cells), down = taps_at<rule>(row, y, p.cells);
        if (across.cell0 == kOutside || down.cell0 == kOutside) {
            continue;
        }
        if (rule == Rule::rect) {
            raise(p, target, row, column, largest_cell(target.mask, p.cells, down, across) * target.score);
            continue;
        }
        const T* above = mask_line(target.mask, p.cells, down.cell0);
        const T* below = mask_line(target.mask, p.cells, down.cell1);
        const Footprint<T> read = read_footprint<rule>(above, below, across);
        raise(p, target, row, column, blend<rule>(read, down, across) * target.score);
    }
}

}  // namespace imp

#define IMP_A1_ARGUMENTS(T)                                                                            \
    const float *boxes, const float *scores, const void *labels, const T *masks, unsigned int *canvas, \
        int label_bytes, int batch, int instances, int classes, int height, int width, int cells,      \
        float spatial_scale
#define IMP_A1_KERNEL(name, dtype, T, body)                                                              \
    extern "C" __global__ void __launch_bounds__(IMP_A1_THREADS)                                         \
        algorithm1_##name##_##dtype(IMP_A1_ARGUMENTS(T))                                                 \
    {                                                                                                    \
        const imp::Problem<T> problem = {boxes,     scores,  labels, masks, label_bytes, batch,          \
                                         instances, classes, height, width, cells,       spatial_scale}; \
        body(problem, canvas);                                                                           \
    }
#define IMP_A1_KERNELS(dtype, T)                                                              \
    IMP_A1_KERNEL(cells, dtype, T, imp::scatter_cells)                                        \
    IMP_A1_KERNEL(bilinear, dtype, T, imp::scatter_pixels<imp::Rule::bilinear>)               \
    IMP_A1_KERNEL(nearest, dtype, T, imp::scatter_pixels<imp::Rule::nearest>)                 \
    IMP_A1_KERNEL(rect, dtype, T, imp::scatter_pixels<imp::Rule::rect>)                       \
    extern "C" __global__ void __launch_bounds__(IMP_A1_THREADS)                              \
        algorithm1_cast_##dtype(const unsigned int* canvas, T* out, long long count)          \
    {                                                                                         \
        const long long step = static_cast<long long>(gridDim.x) * IMP_A1_THREADS;            \
        for (long long e = blockIdx.x * IMP_A1_THREADS + threadIdx.x; e < count; e += step) { \
            out[e] = imp::from_float<T>(__uint_as_float(canvas[e]));                          \
        }                                                                                     \
    }

IMP_A1_KERNELS(f32, float)
IMP_A1_KERNELS(f16, imp::Half)
