// SPDX-License-Identifier: Apache-2.0
// float16 and bfloat16 as storage types, so that no CUDA header is needed. Arithmetic is float32.
#ifndef IMP_COMMON_SCALAR_TYPES_H
#define IMP_COMMON_SCALAR_TYPES_H

#include "common/host_device.h"

namespace imp {

struct Half {
    unsigned short bits;
};

struct BFloat16 {
    unsigned short bits;
};

IMP_HD float to_float(float value)
{
    return value;
}

IMP_HD float to_float(Half value)
{
#ifdef __CUDA_ARCH__
    float result;
    asm("cvt.f32.f16 %0, %1;" : "=f"(result) : "h"(value.bits));
    return result;
#else
    const unsigned int sign = (value.bits & 0x8000U) << 16, exponent = value.bits >> 10 & 31U;
    const unsigned int fraction = value.bits & 0x3ffU;
    if (exponent == 0) {
        const float tiny = static_cast<float>(fraction) * 5.9604644775390625e-8F;  // 2^-24
        return float_of_bits(bits_of(tiny) | sign);
    }
    const unsigned int wide = exponent == 31 ? 255U : exponent + 112U;
    return float_of_bits(sign | wide << 23 | fraction << 13);
#endif
}

IMP_HD float to_float(BFloat16 value)
{
    return float_of_bits(static_cast<unsigned int>(value.bits) << 16);
}

// The conversions to a storage type round to nearest, ties to even, and keep infinities and NaN.
template <class T>
IMP_HD T from_float(float value);

template <>
IMP_HD float from_float<float>(float value)
{
    return value;
}

template <>
IMP_HD Half from_float<Half>(float value)
{
    Half result;
#ifdef __CUDA_ARCH__
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(result.bits) : "f"(value));
#else
    const unsigned int bits = bits_of(value), sign = bits >> 16 & 0x8000U, size = bits & 0x7fffffffU;
    unsigned int half = 0;
    if (size > 0x7f800000U) {
        half = 0x7fffU;
    } else if (size >= 0x477ff000U) {  // 65520 and above round to infinity
        half = 0x7c00U;
    } else if (size < 0x38800000U) {  // below the smallest normal number: units of 2^-24
        half = static_cast<unsigned int>(rintf(float_of_bits(size) * 16777216.0F));
    } else {
        half = (size - 0x38000000U + 0xfffU + (size >> 13 & 1U)) >> 13;
    }
    result.bits = static_cast<unsigned short>(half | sign);
#endif
    return result;
}

template <>
IMP_HD BFloat16 from_float<BFloat16>(float value)
{
    BFloat16 result;
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800  // Turing has no such instruction
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(result.bits) : "f"(value));
#else
    const unsigned int bits = bits_of(value);
    const bool nan = (bits & 0x7fffffffU) > 0x7f800000U;
    const unsigned int rounded = nan ? 0x7fffU : (bits + 0x7fffU + (bits >> 16 & 1U)) >> 16;
    result.bits = static_cast<unsigned short>(rounded);
#endif
    return result;
}

// The largest finite value of a storage type.
template <class T>
struct Largest;

template <>
struct Largest<float> {
    static constexpr float value = kFloatMax;
};

template <>
struct Largest<Half> {
    static constexpr float value = 65504.0F;
};

template <>
struct Largest<BFloat16> {
    static constexpr float value = 3.3895313892515355e+38F;
};

}  // namespace imp

#endif
