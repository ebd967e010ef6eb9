// SPDX-License-Identifier: Apache-2.0
// Runs the text of a CUDA kernel on the host, so that sanitizers can watch it.
//
// A CUDA thread is a fiber. Fibers run one at a time until they meet a barrier, and the barrier opens when
// all threads that must meet there have come. ThreadSanitizer is told that fibers are threads and that only
// __syncthreads and __syncwarp order their accesses: a missing barrier is a data race that it reports,
// whatever the order in which the fibers ran.
#ifndef CUDA_ON_HOST_H
#define CUDA_ON_HOST_H

#include <math.h>
#include <string.h>

#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __shared__ static __attribute__((section("imp_shared")))

#define threadIdx (cuda_on_host::thread_index())
#define blockIdx (cuda_on_host::block_index())
#define blockDim (cuda_on_host::block_size())
#define gridDim (cuda_on_host::grid_size())

namespace cuda_on_host {

struct Dim3 {
    unsigned int x, y, z;
};

Dim3 thread_index();
Dim3 block_index();
Dim3 block_size();
Dim3 grid_size();

enum class Barrier { block, warp };
void wait_at(Barrier barrier, bool orders_memory);

// Every lane of the warp hands in 32 bits; lane `source` of the answer is what lane `source` handed in.
unsigned int exchange(unsigned int mask, unsigned int value, unsigned int source);
unsigned int ballot(unsigned int mask, bool vote);
unsigned int lane();

template <class T>
T exchange_value(unsigned int mask, T value, unsigned int source)
{
    static_assert(sizeof(T) == sizeof(unsigned int), "32-bit values");
    unsigned int bits = 0;
    memcpy(&bits, &value, sizeof bits);
    bits = exchange(mask, bits, source);
    memcpy(&value, &bits, sizeof bits);
    return value;
}

}  // namespace cuda_on_host

inline void __syncthreads()
{
    cuda_on_host::wait_at(cuda_on_host::Barrier::block, true);
}

inline void __syncwarp()
{
    cuda_on_host::wait_at(cuda_on_host::Barrier::warp, true);
}

inline unsigned int __ballot_sync(unsigned int mask, bool vote)
{
    return cuda_on_host::ballot(mask, vote);
}

template <class T>
T __shfl_sync(unsigned int mask, T value, int source)
{
    return cuda_on_host::exchange_value(mask, value, static_cast<unsigned int>(source) % 32U);
}

template <class T>
T __shfl_xor_sync(unsigned int mask, T value, int distance)
{
    return cuda_on_host::exchange_value(mask, value,
                                        cuda_on_host::lane() ^ static_cast<unsigned int>(distance));
}

inline int __popc(unsigned int bits)
{
    return __builtin_popcount(bits);
}

inline unsigned int atomicMax(unsigned int* address, unsigned int value)
{
    return __atomic_load_n(address, __ATOMIC_RELAXED) < value
               ? __atomic_exchange_n(address, value, __ATOMIC_RELAXED)
               : __atomic_load_n(address, __ATOMIC_RELAXED);
}

inline unsigned int __float_as_uint(float value)
{
    unsigned int bits = 0;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

inline float __uint_as_float(unsigned int bits)
{
    float value = 0.0F;
    memcpy(&value, &bits, sizeof value);
    return value;
}

#endif
