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

} // namespace imp_trt
