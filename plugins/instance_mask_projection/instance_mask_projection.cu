// SPDX-License-Identifier: Apache-2.0
// The kernels of instance mask projection: gather, no atomics, no workspace. README.md says how they work.
#include "instance_mask_projection/project_backward.h"
#include "instance_mask_projection/project_tile.h"

#define IMP_MP_INPUTS(T) const float *boxes, const float *scores, const void *labels, const T *masks
#define IMP_MP_SIZES                                                                          \
    int label_bytes, int batch, int instances, int classes, int height, int width, int cells, \
        float spatial_scale
#define IMP_MP_PROBLEM                                      \
    {boxes,     scores,  labels, masks, label_bytes, batch, \
     instances, classes, height, width, cells,       spatial_scale}

#define IMP_MP_KERNELS(rule, dtype, T)                                                               \
    extern "C" __global__ void __launch_bounds__(IMP_MP_THREADS, 8)                                  \
        imp_mask_projection_##rule##_##dtype(IMP_MP_INPUTS(T), T* canvas, IMP_MP_SIZES)              \
    {                                                                                                \
        __shared__ imp::TileMemory memory;                                                           \
        const imp::Problem<T> problem = IMP_MP_PROBLEM;                                              \
        imp::project_tile<imp::Rule::rule, false, T>(memory, problem, canvas, nullptr);              \
    }                                                                                                \
    extern "C" __global__ void __launch_bounds__(IMP_MP_THREADS, 6)                                  \
        imp_mask_projection_winner_##rule##_##dtype(IMP_MP_INPUTS(T), int* winner, IMP_MP_SIZES)     \
    {                                                                                                \
        __shared__ imp::TileMemory memory;                                                           \
        const imp::Problem<T> problem = IMP_MP_PROBLEM;                                              \
        imp::project_tile<imp::Rule::rule, true, T>(memory, problem, nullptr, winner);               \
    }                                                                                                \
    extern "C" __global__ void __launch_bounds__(IMP_MP_BACKWARD_THREADS)                            \
        imp_mask_projection_backward_##rule##_##dtype(IMP_MP_INPUTS(T), const int* winner,           \
                                                      const T* grad_canvas, float* grad_scores,      \
                                                      T* grad_masks, IMP_MP_SIZES)                   \
    {                                                                                                \
        __shared__ float warp_sums[IMP_MP_BACKWARD_THREADS / imp::kWarp];                            \
        const imp::Problem<T> problem = IMP_MP_PROBLEM;                                              \
        imp::project_backward<imp::Rule::rule>(warp_sums, problem, winner, grad_canvas, grad_scores, \
                                               grad_masks);                                          \
    }

#define IMP_MP_DTYPES(rule)              \
    IMP_MP_KERNELS(rule, f32, float)     \
    IMP_MP_KERNELS(rule, f16, imp::Half) \
    IMP_MP_KERNELS(rule, bf16, imp::BFloat16)

// All kernels, or those of one rule and type: compiling all takes nine times as long.
#ifdef IMP_MP_ONLY_RULE
#define IMP_MP_TYPE_f32 float
#define IMP_MP_TYPE_f16 imp::Half
#define IMP_MP_TYPE_bf16 imp::BFloat16
#define IMP_MP_NAMED(rule, dtype) IMP_MP_KERNELS(rule, dtype, IMP_MP_TYPE_##dtype)
#define IMP_MP_ONLY(rule, dtype) IMP_MP_NAMED(rule, dtype)
IMP_MP_ONLY(IMP_MP_ONLY_RULE, IMP_MP_ONLY_DTYPE)
#else
IMP_MP_DTYPES(bilinear)
IMP_MP_DTYPES(nearest)
IMP_MP_DTYPES(rect)
#endif
