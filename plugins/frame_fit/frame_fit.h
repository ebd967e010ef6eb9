// SPDX-License-Identifier: Apache-2.0
// Between a caller's frame and the network's: the geometry of imp_trt/preprocessing/letterbox.py in integers.
// A side has at most 65536 pixels, so that areas times gray levels fit in 64 bits.
#ifndef IMP_FRAME_FIT_H
#define IMP_FRAME_FIT_H

#include "common/host_device.h"
#include "frame_fit/pixel_source.h"

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

// The mean of the area that output pixel (y, x) covers, per channel; rounded half up.
template <typename Frame>
IMP_HD void area_mean(const Frame& frame, int frame_h, int frame_w, int resized_h, int resized_w, int y, int x,
                      unsigned char (&pixel)[3])
{
    const Cover rows = cover_of(y, frame_h, resized_h), columns = cover_of(x, frame_w, resized_w);
    unsigned long long sum[3] = {0, 0, 0};
    for (int i = rows.first; i < rows.past; ++i) {
        const typename Frame::Row source = frame.row(i);
        unsigned int line[3] = {0, 0, 0};  // at most 255 * frame_w
        for (int j = columns.first; j < columns.past; ++j) {
            const unsigned int width = covered(x, j, frame_w, resized_w);
            int level[3];
            source.read(j, level);
            for (int c = 0; c < 3; ++c) {
                line[c] += width * level[c];
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
template <typename Frame>
IMP_HD void linear_blend(const Frame& frame, int frame_h, int frame_w, int resized_h, int resized_w, int y,
                         int x, unsigned char (&pixel)[3])
{
    const Blend row = blend_of(y, frame_h, resized_h), column = blend_of(x, frame_w, resized_w);
    float lines[2][3];
    for (int k = 0; k < 2; ++k) {
        const typename Frame::Row source = frame.row(k == 0 ? row.first : row.second);
        int left[3], right[3];
        source.read(column.first, left);
        source.read(column.second, right);
        for (int c = 0; c < 3; ++c) {
            lines[k][c] = static_cast<float>(left[c]) * (1.0F - column.fraction) +
                          static_cast<float>(right[c]) * column.fraction;
        }
    }
    for (int c = 0; c < 3; ++c) {
        const float value = lines[0][c] * (1.0F - row.fraction) + lines[1][c] * row.fraction;
        pixel[c] = static_cast<unsigned char>(value + 0.5F);
    }
}

// Pixel (y, x) of the network's frame: the image at the top left, `pixel` as it is outside of it.
template <typename Frame>
IMP_HD void letterbox(const Frame& frame, int frame_h, int frame_w, int resized_h, int resized_w, int y, int x,
                      unsigned char (&pixel)[3])
{
    if (x >= resized_w || y >= resized_h) {
        return;
    }
    if (resized_h <= frame_h && resized_w <= frame_w) {
        area_mean(frame, frame_h, frame_w, resized_h, resized_w, y, x, pixel);
    } else {
        linear_blend(frame, frame_h, frame_w, resized_h, resized_w, y, x, pixel);
    }
}

}  // namespace imp

#endif
