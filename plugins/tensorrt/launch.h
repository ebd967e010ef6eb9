// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cuda_runtime_api.h>

namespace imp_trt {

// Element type of an operator's generic tensors; the launchers do not depend on TensorRT.
enum class Element {
    f32,
    f16,
    bf16,
};

// Loads a kernel's code, which is not possible during a stream capture.
inline cudaError_t load_kernel(const void* kernel) noexcept
{
    cudaFuncAttributes attributes{};
    const cudaError_t status = cudaFuncGetAttributes(&attributes, kernel);
    if (status != cudaSuccess) {
        cudaGetLastError(); // the caller reports it: clear it for later calls
    }
    return status;
}

// Newest CUDA version that the driver supports, 12020 for 12.2; 0 without a driver.
inline int driver_version() noexcept
{
    int version = 0;
    return cudaDriverGetVersion(&version) == cudaSuccess ? version : 0;
}

// Whether a kernel could not be loaded because there is no GPU or no driver, as on machines that build engines for
// others. The runtime has the same status for no driver and for a driver that is too old.
inline bool gpu_is_absent(cudaError_t status) noexcept
{
    return status == cudaErrorNoDevice ||
           (status == cudaErrorInsufficientDriver && driver_version() == 0);
}

} // namespace imp_trt
