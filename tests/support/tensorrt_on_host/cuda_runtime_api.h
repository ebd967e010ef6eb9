// SPDX-License-Identifier: Apache-2.0
// The part of CUDA's runtime that a program with an engine uses, on the host. Work on a stream waits until somebody
// waits for the stream, so that a missing synchronization shows. STAND_IN_GPUS says how many GPUs there are.
#pragma once

#include <cstdlib>
#include <cstring>
#include <functional>
#include <vector>

struct CUstream_st {
    std::vector<std::function<void()>> work;
};
struct CUevent_st;

using cudaStream_t = CUstream_st*;
using cudaEvent_t = CUevent_st*;
enum cudaError_t { cudaSuccess = 0, cudaErrorMemoryAllocation = 2, cudaErrorNoDevice = 100 };
enum cudaMemcpyKind { cudaMemcpyHostToDevice = 1, cudaMemcpyDeviceToHost = 2 };
constexpr unsigned cudaStreamNonBlocking = 1;

inline const char* cudaGetErrorString(cudaError_t error)
{
    return error == cudaErrorNoDevice ? "no CUDA-capable device is detected" : "an error";
}

inline cudaError_t cudaGetDeviceCount(int* count)
{
    const char* const said = std::getenv("STAND_IN_GPUS");
    *count = said == nullptr ? 1 : std::atoi(said);
    return *count > 0 ? cudaSuccess : cudaErrorNoDevice;
}

inline cudaError_t cudaMalloc(void** pointer, size_t size)
{
    if (size == 0) {
        *pointer = nullptr; // as CUDA does
        return cudaSuccess;
    }
    *pointer = std::malloc(size);
    std::memset(*pointer, 0xCD, size);
    return cudaSuccess;
}

inline cudaError_t cudaMallocHost(void** pointer, size_t size)
{
    return cudaMalloc(pointer, size);
}

inline cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned)
{
    *stream = new CUstream_st;
    return cudaSuccess;
}

inline cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t size, cudaMemcpyKind, cudaStream_t stream)
{
    stream->work.push_back([=] { std::memcpy(to, from, size); });
    return cudaSuccess;
}

inline cudaError_t cudaStreamSynchronize(cudaStream_t stream)
{
    for (const std::function<void()>& work : stream->work) {
        work();
    }
    stream->work.clear();
    return cudaSuccess;
}
