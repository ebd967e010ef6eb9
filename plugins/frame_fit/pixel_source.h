// SPDX-License-Identifier: Apache-2.0
// Frames as they lie in memory, read pixel by pixel as blue, green and red levels of 0 to 255.
#ifndef IMP_PIXEL_SOURCE_H
#define IMP_PIXEL_SOURCE_H

#include "common/host_device.h"

namespace imp {

// [h, w, 3] bytes in the order of the output, rows `pitch` bytes apart.
struct PackedFrame {
    const unsigned char* pixels;
    long long pitch;

    struct Row {
        const unsigned char* pixels;

        IMP_HD void read(int x, int (&level)[3]) const
        {
            const unsigned char* pixel = pixels + 3LL * x;
            level[0] = pixel[0];
            level[1] = pixel[1];
            level[2] = pixel[2];
        }
    };

    IMP_HD Row row(int y) const
    {
        return {pixels + y * pitch};
    }
};

// What a level of Y, U and V adds to blue, green and red, in units of 2^-20 levels: imp_trt/preprocessing/nv12.py.
struct YuvToBgr {
    int black;  // the level of Y that is black; lower ones are black too
    int y;
    int u_to_b;
    int u_to_g;
    int v_to_g;
    int v_to_r;
};

// A level from units of 2^-20, rounded half up, and limited to 0 to 255.
IMP_HD int level_of(int units)
{
    return at_most(at_least((units + (1 << 19)) >> 20, 0), 255);
}

// NV12: a plane [h, w] of Y, and one [h / 2, w / 2, 2] of U and V, each of which serves 2 x 2 pixels.
struct Nv12Frame {
    const unsigned char* luma;
    const unsigned char* chroma;
    long long luma_pitch;
    long long chroma_pitch;
    YuvToBgr to_bgr;

    struct Row {
        const unsigned char* luma;
        const unsigned char* chroma;
        YuvToBgr to_bgr;

        IMP_HD void read(int x, int (&level)[3]) const
        {
            const int gray = to_bgr.y * at_least(luma[x] - to_bgr.black, 0);
            const unsigned char* pair = chroma + (x & ~1);
            const int u = pair[0] - 128, v = pair[1] - 128;
            level[0] = level_of(gray + to_bgr.u_to_b * u);
            level[1] = level_of(gray + to_bgr.u_to_g * u + to_bgr.v_to_g * v);
            level[2] = level_of(gray + to_bgr.v_to_r * v);
        }
    };

    IMP_HD Row row(int y) const
    {
        return {luma + y * luma_pitch, chroma + (y >> 1) * chroma_pitch, to_bgr};
    }
};

}  // namespace imp

#endif
