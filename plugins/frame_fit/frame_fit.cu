// SPDX-License-Identifier: Apache-2.0
// Resize or letterbox of a frame that is already on the device, and the class map's way back.
#include "frame_fit/frame_fit.h"

// frame: [frame_h, frame_w, 3], rows row_pitch bytes apart; out: [out_h, out_w, 3], contiguous.
// One thread for each pixel of out: area means where the image shrinks on both axes, else bilinear.
extern "C" __global__ void __launch_bounds__(IMP_FF_BLOCK_W* IMP_FF_BLOCK_H)
    imp_frame_fit(const unsigned char* frame, unsigned char* out, long long row_pitch, int frame_h,
                  int frame_w, int resized_h, int resized_w, int out_h, int out_w, int swap_red_blue,
                  int pad_value)
{
    const int x = static_cast<int>(blockIdx.x * IMP_FF_BLOCK_W + threadIdx.x);
    const int y = static_cast<int>(blockIdx.y * IMP_FF_BLOCK_H + threadIdx.y);
    if (x >= out_w || y >= out_h) {
        return;
    }
    const unsigned char pad = static_cast<unsigned char>(pad_value);
    unsigned char pixel[3] = {pad, pad, pad};
    const imp::PackedFrame source = {frame, row_pitch};
    imp::letterbox(source, frame_h, frame_w, resized_h, resized_w, y, x, pixel);
    unsigned char* target = out + (static_cast<long long>(y) * out_w + x) * 3;
    target[0] = swap_red_blue ? pixel[2] : pixel[0];
    target[1] = pixel[1];
    target[2] = swap_red_blue ? pixel[0] : pixel[2];
}

// The same for a frame in NV12. luma: [frame_h, frame_w], chroma: [frame_h / 2, frame_w / 2, 2], both sides even;
// black to v_to_r: imp::YuvToBgr.
extern "C" __global__ void __launch_bounds__(IMP_FF_BLOCK_W* IMP_FF_BLOCK_H)
    imp_frame_fit_nv12(const unsigned char* luma, const unsigned char* chroma, unsigned char* out,
                       long long luma_pitch, long long chroma_pitch, int frame_h, int frame_w, int resized_h,
                       int resized_w, int out_h, int out_w, int pad_value, int black, int y_scale, int u_to_b,
                       int u_to_g, int v_to_g, int v_to_r)
{
    const int x = static_cast<int>(blockIdx.x * IMP_FF_BLOCK_W + threadIdx.x);
    const int y = static_cast<int>(blockIdx.y * IMP_FF_BLOCK_H + threadIdx.y);
    if (x >= out_w || y >= out_h) {
        return;
    }
    const unsigned char pad = static_cast<unsigned char>(pad_value);
    unsigned char pixel[3] = {pad, pad, pad};
    const imp::YuvToBgr to_bgr = {black, y_scale, u_to_b, u_to_g, v_to_g, v_to_r};
    const imp::Nv12Frame source = {luma, chroma, luma_pitch, chroma_pitch, to_bgr};
    imp::letterbox(source, frame_h, frame_w, resized_h, resized_w, y, x, pixel);
    unsigned char* target = out + (static_cast<long long>(y) * out_w + x) * 3;
    target[0] = pixel[0];
    target[1] = pixel[1];
    target[2] = pixel[2];
}

// semantic: [in_h, in_w], of which the first valid_h rows and valid_w columns hold the image; out: [out_h,
// out_w].
extern "C" __global__ void __launch_bounds__(IMP_FF_BLOCK_W* IMP_FF_BLOCK_H)
    imp_semantic_back(const unsigned char* semantic, unsigned char* out, int in_h, int in_w, int valid_h,
                      int valid_w, int out_h, int out_w)
{
    const int x = static_cast<int>(blockIdx.x * IMP_FF_BLOCK_W + threadIdx.x);
    const int y = static_cast<int>(blockIdx.y * IMP_FF_BLOCK_H + threadIdx.y);
    if (x >= out_w || y >= out_h) {
        return;
    }
    const long long row = imp::nearest_of(y, valid_h, out_h);
    out[static_cast<long long>(y) * out_w + x] = semantic[row * in_w + imp::nearest_of(x, valid_w, out_w)];
}
