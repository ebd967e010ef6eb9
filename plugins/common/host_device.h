// SPDX-License-Identifier: Apache-2.0
// What lets one header compile for the device (NVRTC, nvcc) and for the host (g++).
#ifndef IMP_COMMON_HOST_DEVICE_H
#define IMP_COMMON_HOST_DEVICE_H

#ifdef __CUDACC__
#define IMP_HD __host__ __device__ __forceinline__
#else
#include <cmath>
#include <cstring>
#define IMP_HD inline
#endif

namespace imp {

constexpr float kFloatMax = 3.402823466e+38F;

// The largest float32 value whose blends cannot round to an infinity: kFloatMax * (1 - 2^-20).
constexpr float kLargestCell = 0x1.ffffdep+127F;

IMP_HD bool is_finite(float value)
{
    return fabsf(value) <= kFloatMax;  // false for NaN
}

IMP_HD int at_least(int value, int bound)
{
    return value < bound ? bound : value;
}

IMP_HD int at_most(int value, int bound)
{
    return value > bound ? bound : value;
}

IMP_HD int ceil_div(int value, int step)
{
    return value / step + (value % step != 0);
}

IMP_HD unsigned int bits_of(float value)
{
#ifdef __CUDA_ARCH__
    return __float_as_uint(value);
#else
    unsigned int bits = 0;
    memcpy(&bits, &value, sizeof bits);
    return bits;
#endif
}

IMP_HD float float_of_bits(unsigned int bits)
{
#ifdef __CUDA_ARCH__
    return __uint_as_float(bits);
#else
    float value = 0.0F;
    memcpy(&value, &bits, sizeof value);
    return value;
#endif
}

}  // namespace imp

#endif
