// SPDX-License-Identifier: Apache-2.0
#include "instance_mask_projection/instance_mask_projection_launch.h"

#include "instance_mask_projection/instance_mask_projection.cu"

#include <cuda_runtime.h>

namespace imp_trt {
namespace {

template <class T>
using Kernel = void (*)(const float*, const float*, const void*, const T*, T*, int, int, int, int, int, int,
                        int, float);

template <class T>
struct Kernels {
    Kernel<T> by_rule[3];
};

constexpr Kernels<float> kF32{
    {imp_mask_projection_bilinear_f32, imp_mask_projection_nearest_f32, imp_mask_projection_rect_f32}};
constexpr Kernels<imp::Half> kF16{
    {imp_mask_projection_bilinear_f16, imp_mask_projection_nearest_f16, imp_mask_projection_rect_f16}};
constexpr Kernels<imp::BFloat16> kBF16{
    {imp_mask_projection_bilinear_bf16, imp_mask_projection_nearest_bf16, imp_mask_projection_rect_bf16}};

template <class T>
cudaError_t launch(Kernel<T> kernel, const MaskProjectionCall& call, cudaStream_t stream)
{
    const long long planes = static_cast<long long>(call.batch) * call.classes;
    if (planes == 0) {
        return cudaSuccess;
    }
    const dim3 grid((call.width + IMP_MP_TILE_W - 1) / IMP_MP_TILE_W,
                    (call.height + IMP_MP_TILE_H - 1) / IMP_MP_TILE_H,
                    static_cast<unsigned>(planes < 65535 ? planes : 65535));
    const cudaLaunchConfig_t config{grid, dim3(IMP_MP_THREADS), 0, stream, nullptr, 0};
    return cudaLaunchKernelEx(&config, kernel, call.boxes, call.scores, call.labels,
                              static_cast<const T*>(call.masks), static_cast<T*>(call.canvas),
                              call.label_bytes, call.batch, call.instances, call.classes, call.height,
                              call.width, call.cells, call.spatial_scale);
}

} // namespace

cudaError_t prepare_mask_projection(imp::Rule rule, Element element) noexcept
{
    switch (element) {
    case Element::f32:
        return load_kernel(reinterpret_cast<const void*>(kF32.by_rule[static_cast<int>(rule)]));
    case Element::f16:
        return load_kernel(reinterpret_cast<const void*>(kF16.by_rule[static_cast<int>(rule)]));
    case Element::bf16:
        return load_kernel(reinterpret_cast<const void*>(kBF16.by_rule[static_cast<int>(rule)]));
    }
    return cudaErrorInvalidValue;
}

cudaError_t launch_mask_projection(imp::Rule rule, Element element, const MaskProjectionCall& call,
                                   cudaStream_t stream) noexcept
{
    switch (element) {
    case Element::f32:
        return launch(kF32.by_rule[static_cast<int>(rule)], call, stream);
    case Element::f16:
        return launch(kF16.by_rule[static_cast<int>(rule)], call, stream);
    case Element::bf16:
        return launch(kBF16.by_rule[static_cast<int>(rule)], call, stream);
    }
    return cudaErrorInvalidValue;
}

} // namespace imp_trt
