// SPDX-License-Identifier: Apache-2.0
// Between a caller's frame and the network's: the geometry of imp_trt/preprocessing/letterbox.py in integers.
// A side has at most 65536 pixels, so that areas times gray levels fit in 64 bits.
#ifndef IMP_FRAME_FIT_H
#define IMP_FRAME_FIT_H

#include "common/host_device.h"

#define IMP_FF_BLOCK_W 32
#define IMP_FF_BLOCK_H 8

namespace imp {

// The source pixels [first, past) that an output pixel of one axis covers where the image shrinks.
struct Cover {
    int first;
    int past;
};

// In units of 1 / `to` source pixels, output pixel x covers [x * from, (x + 1) * from).
IMP_HD Cover cover_of(int x, int from, int to)
{
    const long long begin = static_cast<long long>(x) * from, end = begin + from;
    return {static_cast<int>(begin / to), static_cast<int>((end + to - 1) / to)};
}

// How much of source pixel i the output pixel x covers; the pixels of a cover sum to `from`.
IMP_HD unsigned int covered(int x, int i, int from, int to)
{
    const long long begin = static_cast<long long>(x) * from, low = static_cast<long long>(i) * to;
    const long long end = begin + from, high = low + to;
    return static_cast<unsigned int>((end < high ? end : high) - (begin > low ? begin : low));
}

// The two source pixels that an output pixel of one axis blends where the image grows.
struct Blend {
    int first;
    int second;
    float fraction;
};

// The center (x + 1/2) * from / to - 1/2, clamped to the image, split without rounding.
IMP_HD Blend blend_of(int x, int from, int to)
{
    const long long unit = 2LL * to, place = (2LL * x + 1) * from - to;
    if (place <= 0) {
        return {0, 0, 0.0F};
    }
    const int first = static_cast<int>(place / unit);
    if (first >= from - 1) {
        return {from - 1, from - 1, 0.0F};
    }
    return {first, first + 1, static_cast<float>(place % unit) / static_cast<float>(unit)};
}

// floor((x + 1/2) * from / to): the pixel under the center of pixel x.
IMP_HD int nearest_of(int x, int from, int to)
{
    return static_cast<int>((2LL * x + 1) * from / (2LL * to));
}

// Where a pixel of the frame begins, rows `pitch` bytes apart.
IMP_HD const unsigned char* pixel_at(const unsigned char* frame, long long pitch, int y, int x)
{
    return frame + y * pitch + 3LL * x;
}

// The mean of the area that output pixel (y, x) covers, per channel; rounded half up.
IMP_HD void area_mean(const unsigned char* frame, long long pitch, int frame_h, int frame_w, int resized_h,
                      int resized_w, int y, int x, unsigned char (&pixel)[3])
{
    const Cover rows = cover_of(y, frame_h, resized_h), columns = cover_of(x, frame_w, resized_w);
    unsigned long long sum[3] = {0, 0, 0};
    for (int i = rows.first; i < rows.past; ++i) {
        const unsigned char* source = pixel_at(frame, pitch, i, columns.first);
        unsigned int line[3] = {0, 0, 0};  // at most 255 * frame_w
        for (int j = columns.first; j < columns.past; ++j, source += 3) {
            const unsigned int width = covered(x, j, frame_w, resized_w);
            for (int c = 0; c < 3; ++c) {
                line[c] += width * source[c];
            }
        }
        const unsigned long long height = covered(y, i, frame_h, resized_h);
        for (int c = 0; c < 3; ++c) {
            sum[c] += height * line[c];
        }
    }
    const float area = static_cast<float>(static_cast<unsigned long long>(frame_h) * frame_w);
    for (int c = 0; c < 3; ++c) {
        pixel[c] = static_cast<unsigned char>(static_cast<float>(sum[c]) / area + 0.5F);
    }
}

// The blend of the four pixels round the center of output pixel (y, x), per channel; rounded half up.
IMP_HD void linear_blend(const unsigned char* frame, long long pitch, int frame_h, int frame_w, int resized_h,
                         int resized_w, int y, int x, unsigned char (&pixel)[3])
{
    const Blend row = blend_of(y, frame_h, resized_h), column = blend_of(x, frame_w, resized_w);
    for (int c = 0; c < 3; ++c) {
        float lines[2] = {};
        for (int k = 0; k < 2; ++k) {
            const int i = k == 0 ? row.first : row.second;
            const float left = pixel_at(frame, pitch, i, column.first)[c];
            const float right = pixel_at(frame, pitch, i, column.second)[c];
            lines[k] = left * (1.0F - column.fraction) + right * column.fraction;
        }
        const float value = lines[0] * (1.0F - row.fraction) + lines[1] * row.fraction;
        pixel[c] = static_cast<unsigned char>(value + 0.5F);
    }
}

}  // namespace imp

#endif
