// SPDX-License-Identifier: Apache-2.0
// TensorRT 11's entry points over TensorRT-RTX 1.x, whose interfaces are those of TensorRT 11.
//
// The bindings pass objects through as they are. What is checked is the version number that a caller was
// compiled for, so that TensorRT-RTX's own is given: its parser asks for it as well.

#include <dlfcn.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>

namespace {

void* library(const char* name)
{
    void* const handle = dlopen(name, RTLD_NOW | RTLD_GLOBAL);
    if (handle == nullptr) {
        std::fprintf(stderr, "%s\n", dlerror());
        std::abort();
    }
    return handle;
}

template <class Function>
Function* find(const char* in, const char* name)
{
    void* const symbol = dlsym(library(in), name);
    if (symbol == nullptr) {
        std::fprintf(stderr, "%s\n", dlerror());
        std::abort();
    }
    return reinterpret_cast<Function*>(symbol);
}

constexpr const char* kCORE = "libtensorrt_rtx.so.1";
constexpr const char* kPARSER = "libtensorrt_onnxparser_rtx.so.1";

int32_t core_version()
{
    return find<int32_t()>(kCORE, "getInferLibVersion")();
}

} // namespace

extern "C" {

void* getPluginRegistry() { return find<void*()>(kCORE, "getPluginRegistry")(); }

void* getBuilderPluginRegistry(int32_t capability)
{
    return find<void*(int32_t)>(kCORE, "getBuilderPluginRegistry")(capability);
}

bool initLibNvInferPlugins(void*, const char*) { return true; }

void* createInferBuilder_INTERNAL(void* logger, int32_t)
{
    return find<void*(void*, int32_t)>(kCORE, "createInferBuilder_INTERNAL")(logger, core_version());
}

void* createInferRuntime_INTERNAL(void* logger, int32_t)
{
    return find<void*(void*, int32_t)>(kCORE, "createInferRuntime_INTERNAL")(logger, core_version());
}

void* createInferRefitter_INTERNAL(void* engine, void* logger, int32_t)
{
    return find<void*(void*, void*, int32_t)>(kCORE, "createInferRefitter_INTERNAL")(engine, logger,
                                                                                   core_version());
}

int getNvOnnxParserVersion() { return find<int()>(kPARSER, "getNvOnnxParserVersion")(); }

void* createNvOnnxParser_INTERNAL(void* network, void* logger, int)
{
    return find<void*(void*, void*, int)>(kPARSER, "createNvOnnxParser_INTERNAL")(network, logger,
                                                                                getNvOnnxParserVersion());
}

void* createNvOnnxParserRefitter_INTERNAL(void* refitter, void* logger, int)
{
    return find<void*(void*, void*, int)>(kPARSER, "createNvOnnxParserRefitter_INTERNAL")(
        refitter, logger, getNvOnnxParserVersion());
}
}
