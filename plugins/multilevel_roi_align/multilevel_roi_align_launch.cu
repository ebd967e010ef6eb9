// SPDX-License-Identifier: Apache-2.0
#include "multilevel_roi_align/multilevel_roi_align_launch.h"

#include "multilevel_roi_align/multilevel_roi_align.cu"

#include <climits>
#include <cuda_runtime.h>

namespace imp_trt {
namespace {

template <class T>
using Kernel = void (*)(const T*, const T*, const T*, const T*, const float*, T*, int, int, int, int, int,
                        int, int, int, int, int, int, int, int, int, int, int);

template <class T>
cudaError_t launch(Kernel<T> kernel, const MultilevelRoiAlignCall& call, cudaStream_t stream)
{
    const long long boxes = static_cast<long long>(call.batch) * call.boxes_per_image;
    if (boxes == 0 || call.channels == 0) {
        return cudaSuccess;
    }
    if (boxes > INT_MAX) {
        return cudaErrorInvalidConfiguration;
    }
    const dim3 grid(static_cast<unsigned>(boxes), (call.channels + IMP_RA_CHANNELS - 1) / IMP_RA_CHANNELS);
    const cudaLaunchConfig_t config{grid, dim3(IMP_RA_THREADS), 0, stream, nullptr, 0};
    const auto* const* p = call.levels;
    const auto* h = call.heights;
    const auto* w = call.widths;
    return cudaLaunchKernelEx(&config, kernel, static_cast<const T*>(p[0]), static_cast<const T*>(p[1]),
                              static_cast<const T*>(p[2]), static_cast<const T*>(p[3]), call.boxes,
                              static_cast<T*>(call.pooled), call.batch, call.boxes_per_image, call.channels,
                              h[0], w[0], h[1], w[1], h[2], w[2], h[3], w[3], call.output_size,
                              call.sampling_ratio, call.canonical_level, call.canonical_size, call.aligned);
}

} // namespace

cudaError_t prepare_multilevel_roi_align(Element element, bool hwc8) noexcept
{
    switch (element) {
    case Element::f32:
        return hwc8 ? cudaErrorInvalidValue
                    : load_kernel(reinterpret_cast<const void*>(imp_multilevel_roi_align_f32));
    case Element::f16:
        return load_kernel(reinterpret_cast<const void*>(hwc8 ? imp_multilevel_roi_align_hwc8_f16
                                                              : imp_multilevel_roi_align_f16));
    case Element::bf16:
        return load_kernel(reinterpret_cast<const void*>(hwc8 ? imp_multilevel_roi_align_hwc8_bf16
                                                              : imp_multilevel_roi_align_bf16));
    }
    return cudaErrorInvalidValue;
}

cudaError_t launch_multilevel_roi_align(Element element, const MultilevelRoiAlignCall& call,
                                        cudaStream_t stream) noexcept
{
    switch (element) {
    case Element::f32:
        return call.hwc8 ? cudaErrorInvalidValue : launch<float>(imp_multilevel_roi_align_f32, call, stream);
    case Element::f16:
        return launch<imp::Half>(call.hwc8 ? imp_multilevel_roi_align_hwc8_f16 : imp_multilevel_roi_align_f16,
                                 call, stream);
    case Element::bf16:
        return launch<imp::BFloat16>(
            call.hwc8 ? imp_multilevel_roi_align_hwc8_bf16 : imp_multilevel_roi_align_bf16, call, stream);
    }
    return cudaErrorInvalidValue;
}

} // namespace imp_trt
