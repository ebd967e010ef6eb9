// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cuda_runtime_api.h>

namespace imp_trt {

// Element type of the tensors an operator is generic in; the launchers know nothing of TensorRT.
enum class Element {
    f32,
    f16,
    bf16,
};

// Loads a kernel's code, which a launch inside a stream capture must not have to do.
inline cudaError_t load_kernel(const void* kernel) noexcept
{
    cudaFuncAttributes attributes{};
    const cudaError_t status = cudaFuncGetAttributes(&attributes, kernel);
    if (status != cudaSuccess) {
        cudaGetLastError(); // the caller reports it; nobody else should find it
    }
    return status;
}

// Newest CUDA that the driver knows, 12020 for 12.2; 0 where no driver is installed.
inline int driver_version() noexcept
{
    int version = 0;
    return cudaDriverGetVersion(&version) == cudaSuccess ? version : 0;
}

// Whether a kernel could not be loaded because there is no GPU or no driver, as where engines are built for other
// machines. The runtime has one status for no driver and for a driver that is too old for it.
inline bool gpu_is_absent(cudaError_t status) noexcept
{
    return status == cudaErrorNoDevice ||
           (status == cudaErrorInsufficientDriver && driver_version() == 0);
}

} // namespace imp_trt
