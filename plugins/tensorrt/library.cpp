// SPDX-License-Identifier: Apache-2.0
// The two symbols by which TensorRT's plugin registry loads the library.

#include "instance_mask_projection/instance_mask_projection_plugin.h"
#include "multilevel_roi_align/multilevel_roi_align_plugin.h"
#include "tensorrt/plugin.h"

#define IMP_TRT_TEXT_OF(value) #value
#define IMP_TRT_TEXT(value) IMP_TRT_TEXT_OF(value)

// Read from the file by imp_trt.plugins.registration, which rejects a library of another major before loading it.
extern "C" __attribute__((used)) const char imp_trt_built_for[] =
    "imp_trt_plugins built for TensorRT " IMP_TRT_TEXT(NV_TENSORRT_MAJOR) "." IMP_TRT_TEXT(
        NV_TENSORRT_MINOR) "." IMP_TRT_TEXT(NV_TENSORRT_PATCH) ";";

extern "C" __attribute__((visibility("default"))) nvinfer1::IPluginCreatorInterface* const*
getCreators(int32_t& count)
{
    static imp_trt::Creator<imp_trt::InstanceMaskProjection> instanceMaskProjection;
    static imp_trt::Creator<imp_trt::MultilevelRoiAlign> multilevelRoiAlign;
    static nvinfer1::IPluginCreatorInterface* const creators[]{&instanceMaskProjection, &multilevelRoiAlign};
    count = static_cast<int32_t>(sizeof creators / sizeof creators[0]);
    return creators;
}

extern "C" __attribute__((visibility("default"))) void setLoggerFinder(nvinfer1::ILoggerFinder* finder)
{
    imp_trt::set_logger_finder(finder);
}
