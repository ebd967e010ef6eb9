// SPDX-License-Identifier: Apache-2.0
// Programs that load plugin libraries with a bare dlopen, as Triton and trtexec --staticPlugins do, never ask for
// getCreators(). With IMP_TRT_REGISTER_ON_LOAD=1 in the environment the library registers itself when it is
// loaded. Not by default: IPluginRegistry::loadLibrary() then rejects the library, its creators being there.

#include "tensorrt/log.h"

#include <cstdlib>
#include <cstring>
#include <dlfcn.h>
#include <initializer_list>

#define IMP_TRT_TEXT_OF(value) #value
#define IMP_TRT_TEXT(value) IMP_TRT_TEXT_OF(value)

extern "C" nvinfer1::IPluginCreatorInterface* const* getCreators(int32_t& count);

namespace {

using GetRegistry = nvinfer1::IPluginRegistry* (*)();

nvinfer1::IPluginRegistry* find_registry()
{
    // TensorRT is not linked with: whichever of its libraries the program has loaded already is asked.
    for (const char* const name :
         {"libnvinfer.so." IMP_TRT_TEXT(NV_TENSORRT_MAJOR), "libtensorrt_rtx.so.1"}) {
        if (void* const library = dlopen(name, RTLD_LAZY | RTLD_NOLOAD)) {
            const auto get = reinterpret_cast<GetRegistry>(dlsym(library, "getPluginRegistry"));
            dlclose(library);
            if (get != nullptr) {
                return get();
            }
        }
    }
    return nullptr;
}

__attribute__((constructor)) void register_on_load()
{
    const char* const wanted = std::getenv("IMP_TRT_REGISTER_ON_LOAD");
    if (wanted == nullptr || std::strcmp(wanted, "1") != 0) {
        return;
    }
    nvinfer1::IPluginRegistry* const registry = find_registry();
    if (registry == nullptr) {
        imp_trt::log(imp_trt::Severity::kERROR, "IMP_TRT_REGISTER_ON_LOAD",
                     "TensorRT " IMP_TRT_TEXT(NV_TENSORRT_MAJOR) " is not loaded in this process");
        return;
    }
    int32_t count = 0;
    nvinfer1::IPluginCreatorInterface* const* const creators = getCreators(count);
    for (int32_t i = 0; i < count; ++i) {
        if (!registry->registerCreator(*creators[i], "imp_trt")) {
            imp_trt::log(imp_trt::Severity::kWARNING, "IMP_TRT_REGISTER_ON_LOAD",
                         "creator %d is there already", i);
        }
    }
}

} // namespace
