// SPDX-License-Identifier: Apache-2.0
// The part of the CUDA runtime that the plugins and their harness use, over tests/support/cuda_on_host: memory
// is host memory, a stream runs its work at once, a capture keeps it for the graph.
#pragma once

#include "cuda_on_host/launch.h"

#include <cstdlib>
#include <cstring>
#include <functional>
#include <vector>

#define CUDART_VERSION 13000

struct CUstream_st {
    bool capturing;
    std::vector<std::function<void()>> work;
};

struct CUevent_st;

using cudaStream_t = CUstream_st*;
using cudaEvent_t = CUevent_st*;
using cudaGraph_t = CUstream_st*;
using cudaGraphExec_t = CUstream_st*;

enum cudaError_t {
    cudaSuccess = 0,
    cudaErrorInvalidValue = 1,
    cudaErrorInvalidConfiguration = 9,
    cudaErrorInsufficientDriver = 35,
    cudaErrorNoDevice = 100,
};

enum cudaMemcpyKind { cudaMemcpyHostToDevice = 1, cudaMemcpyDeviceToHost = 2 };
enum cudaStreamCaptureMode { cudaStreamCaptureModeThreadLocal = 1 };
constexpr unsigned cudaStreamNonBlocking = 1;

struct dim3 {
    unsigned x, y, z;

    dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

struct cudaLaunchConfig_t {
    dim3 grid;
    dim3 block;
    size_t shared;
    cudaStream_t stream;
    void* attributes;
    unsigned attribute_count;
};

struct cudaFuncAttributes {};

inline const char* cudaGetErrorName(cudaError_t error)
{
    return error == cudaSuccess ? "cudaSuccess" : "an error";
}

inline const char* cudaGetErrorString(cudaError_t error)
{
    return cudaGetErrorName(error);
}

// STAND_IN_CUDA_DRIVER is the version of the driver; 0: none is installed.
inline cudaError_t cudaDriverGetVersion(int* version)
{
    const char* const said = std::getenv("STAND_IN_CUDA_DRIVER");
    *version = said == nullptr ? CUDART_VERSION : std::atoi(said);
    return cudaSuccess;
}

inline cudaError_t cudaGetLastError()
{
    return cudaSuccess;
}

inline cudaError_t cudaFuncGetAttributes(cudaFuncAttributes*, const void* kernel)
{
    return kernel == nullptr ? cudaErrorInvalidValue : cudaSuccess;
}

inline cudaError_t cudaMalloc(void** pointer, size_t size)
{
    // As aligned as CUDA's, and as long as asked for, so that AddressSanitizer sees the first byte behind it.
    return posix_memalign(pointer, 256, size) == 0 ? cudaSuccess : cudaErrorInvalidValue;
}

inline cudaError_t cudaFree(void* pointer)
{
    std::free(pointer);
    return cudaSuccess;
}

inline cudaError_t cudaMemcpy(void* to, const void* from, size_t size, cudaMemcpyKind)
{
    std::memcpy(to, from, size);
    return cudaSuccess;
}

inline void enqueue_on_host(cudaStream_t stream, const std::function<void()>& work)
{
    if (stream->capturing) {
        stream->work.push_back(work);
    } else {
        work();
    }
}

inline cudaError_t cudaMemsetAsync(void* pointer, int value, size_t size, cudaStream_t stream)
{
    enqueue_on_host(stream, [=] { std::memset(pointer, value, size); });
    return cudaSuccess;
}

inline cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned)
{
    *stream = new CUstream_st{false, {}};
    return cudaSuccess;
}

inline cudaError_t cudaDeviceSynchronize()
{
    return cudaSuccess;
}

inline cudaError_t cudaStreamSynchronize(cudaStream_t stream)
{
    return stream->capturing ? cudaErrorInvalidValue : cudaSuccess;
}

inline cudaError_t cudaStreamDestroy(cudaStream_t stream)
{
    delete stream;
    return cudaSuccess;
}

inline cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode)
{
    stream->capturing = true;
    return cudaSuccess;
}

inline cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph)
{
    *graph = new CUstream_st(*stream);
    *stream = {false, {}};
    return cudaSuccess;
}

inline cudaError_t cudaGraphInstantiate(cudaGraphExec_t* executable, cudaGraph_t graph, unsigned)
{
    *executable = new CUstream_st(*graph);
    return cudaSuccess;
}

inline cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t)
{
    for (const std::function<void()>& work : executable->work) {
        work();
    }
    return cudaSuccess;
}

inline cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable)
{
    return cudaStreamDestroy(executable);
}

inline cudaError_t cudaGraphDestroy(cudaGraph_t graph)
{
    return cudaStreamDestroy(graph);
}

template <class... Expected, class... Given>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Expected...),
                               Given&&... given)
{
    const dim3 grid = config->grid, block = config->block;
    if (grid.x == 0 || grid.y == 0 || grid.z == 0 || grid.y > 65535 || grid.z > 65535) {
        return cudaErrorInvalidConfiguration;
    }
    enqueue_on_host(config->stream, [=] {
        cuda_on_host::launch({grid.x, grid.y, grid.z}, {block.x, block.y, block.z},
                             [=] { kernel(given...); });
    });
    return cudaSuccess;
}
