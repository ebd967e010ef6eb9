// SPDX-License-Identifier: Apache-2.0
// The arguments that all kernels of instance mask projection share. Device only.
#ifndef IMP_MASK_PROJECTION_PROBLEM_H
#define IMP_MASK_PROJECTION_PROBLEM_H

#include "instance_mask_projection/instance_mask_projection.h"

namespace imp {

constexpr int kWarp = 32;
constexpr unsigned int kAllLanes = 0xffffffffU;

template <class T>
struct Problem {
    const float* boxes;   // [B, N, 4]
    const float* scores;  // [B, N]
    const void* labels;   // [B, N] int32 or int64
    const T* masks;       // [B, N, P, P]
    int label_bytes, batch, instances, classes, height, width, cells;
    float spatial_scale;
};

}  // namespace imp

#endif
