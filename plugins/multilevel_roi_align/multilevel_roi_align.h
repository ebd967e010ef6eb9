// SPDX-License-Identifier: Apache-2.0
// Multilevel RoIAlign: the pyramid level of a box and where its samples lie. README.md is the contract.
// Every operation is float32, rounded, in the order of torchvision's roi_align.
#ifndef IMP_MULTILEVEL_ROI_ALIGN_H
#define IMP_MULTILEVEL_ROI_ALIGN_H

#include "common/host_device.h"
#include "common/scalar_types.h"

#define IMP_RA_CHANNELS 64
#define IMP_RA_THREADS 256

namespace imp {

constexpr int kLevels = 4;          // strides 4, 8, 16, 32
constexpr float kLevelEps = 1e-6F;  // added before rounding down, as torchvision's LevelMapper does
constexpr float kReach = 16384.0F;  // pixels outside of the frame that adaptive sampling clamps corners to

// False for a box that pools zeros: a corner, the width or the height is not finite.
IMP_HD bool box_is_finite(const float* box)
{
    return is_finite(box[0]) && is_finite(box[1]) && is_finite(box[2]) && is_finite(box[3]) &&
           is_finite(box[2] - box[0]) && is_finite(box[3] - box[1]);
}

// The level, counted from 0, that a finite box pools from (FPN paper, equation 1).
IMP_HD int level_of_box(const float* box, int canonical_level, int canonical_size)
{
    const float side = sqrtf((box[2] - box[0]) * (box[3] - box[1]));
    const float ratio = side / static_cast<float>(canonical_size);
    const float level = floorf(static_cast<float>(canonical_level) + log2f(ratio) + kLevelEps) - 2.0F;
    if (!(level > 0.0F)) {
        return 0;  // a NaN too: no area
    }
    return level >= static_cast<float>(kLevels - 1) ? kLevels - 1 : static_cast<int>(level);
}

// One axis of a box on its level: cells of the feature map.
struct RoiAxis {
    float start;
    float bin;
};

IMP_HD RoiAxis roi_axis(float low, float high, int level, int output_size, bool aligned)
{
    const float scale = 0.25F / static_cast<float>(1 << level);
    const float offset = aligned ? 0.5F : 0.0F;
    const float start = low * scale - offset, size = high * scale - offset - start;
    return {start, (!aligned && size < 1.0F ? 1.0F : size) / static_cast<float>(output_size)};
}

// A corner as adaptive sampling reads it: it bounds the samples of a box. cells: of p2 along the axis.
IMP_HD float within_reach(float corner, int cells)
{
    return fminf(fmaxf(corner, -kReach), 4.0F * static_cast<float>(cells) + kReach);
}

// Adaptive sampling: as many samples as a bin has cells, rounded up; none in a box without extent.
IMP_HD int adaptive_ratio(float bin) { return static_cast<int>(fminf(fmaxf(ceilf(bin), 0.0F), 1e9F)); }

// The two cells that a sample blends along one axis; `low` is kNoSample where it lies outside the map.
struct alignas(16) RoiSample {
    float weight_low;
    float weight_high;
    int low;
    int high;
};

constexpr int kNoSample = -1;

// Sample i of `ratio` in bin `bin` of an axis of `extent` cells.
IMP_HD RoiSample roi_sample(RoiAxis axis, int bin, int i, int ratio, int extent)
{
    float place = axis.start + static_cast<float>(bin) * axis.bin +
                  (static_cast<float>(i) + 0.5F) * axis.bin / static_cast<float>(ratio);
    if (!(place >= -1.0F && place <= static_cast<float>(extent))) {
        return {0.0F, 0.0F, kNoSample, kNoSample};
    }
    place = place <= 0.0F ? 0.0F : place;
    const int cell = static_cast<int>(place);
    if (cell >= extent - 1) {
        return {1.0F, 0.0F, extent - 1, extent - 1};
    }
    const float high = place - static_cast<float>(cell);
    return {1.0F - high, high, cell, cell + 1};
}

}  // namespace imp

#endif
