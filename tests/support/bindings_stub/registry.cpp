// SPDX-License-Identifier: Apache-2.0
// The nine functions that NVIDIA's Python bindings link: a plugin registry, and no builder, runtime or parser.

#include "NvInferRuntime.h"

#include <cstring>
#include <vector>

extern "C" void harness_run(const char* request);

namespace nvinfer1 {
namespace {

class Registry final : public IPluginRegistry {
public:
#if STAND_IN_MAJOR == 10
    bool registerCreator(IPluginCreator&, const char*) noexcept override { return false; }
    IPluginCreator* const* getPluginCreatorList(int32_t* count) const noexcept override
    {
        *count = 0;
        return nullptr;
    }
    IPluginCreator* getPluginCreator(const char*, const char*, const char*) noexcept override { return nullptr; }
    bool deregisterCreator(const IPluginCreator&) noexcept override { return false; }
#endif
    void setErrorRecorder(IErrorRecorder*) noexcept override {}
    IErrorRecorder* getErrorRecorder() const noexcept override { return nullptr; }
    bool isParentSearchEnabled() const override { return false; }
    void setParentSearchEnabled(bool) override {}

    // The driver is entered here as well, see driver.cpp.
    void* loadLibrary(const char* request) noexcept override
    {
        harness_run(request);
        return nullptr;
    }

    void deregisterLibrary(void*) noexcept override {}

    bool registerCreator(IPluginCreatorInterface& creator, const char* space) noexcept override
    {
        // As in TensorRT, the namespace given here must be the one that the creator has.
        const auto& one = static_cast<const IPluginCreatorV3One&>(creator);
        if (std::strcmp(creator.getInterfaceInfo().kind, "PLUGIN CREATOR_V3ONE") != 0 ||
            std::strcmp(one.getPluginNamespace(), space) != 0 ||
            getCreator(one.getPluginName(), one.getPluginVersion(), space) != nullptr) {
            return false;
        }
        creators_.push_back(&creator);
        return true;
    }

    Creators getAllCreators(int32_t* count) const noexcept override
    {
        *count = static_cast<int32_t>(creators_.size());
        return creators_.data();
    }

    IPluginCreatorInterface* getCreator(const char* name, const char* version, const char* space) noexcept override
    {
        for (IPluginCreatorInterface* const creator : creators_) {
            const auto* const one = static_cast<const IPluginCreatorV3One*>(creator);
            if (std::strcmp(one->getPluginName(), name) == 0 &&
                std::strcmp(one->getPluginVersion(), version) == 0 &&
                std::strcmp(one->getPluginNamespace(), space) == 0) {
                return creator;
            }
        }
        return nullptr;
    }

    bool deregisterCreator(const IPluginCreatorInterface&) noexcept override { return false; }
    IPluginResource* acquirePluginResource(const char*, IPluginResource*) noexcept override { return nullptr; }
    int32_t releasePluginResource(const char*) noexcept override { return -1; }
    Creators getAllCreatorsRecursive(int32_t* count) noexcept override { return getAllCreators(count); }

private:
    std::vector<IPluginCreatorInterface*> creators_;
};

} // namespace
} // namespace nvinfer1

extern "C" {

nvinfer1::IPluginRegistry* getPluginRegistry() noexcept
{
    static nvinfer1::Registry* const registry = new nvinfer1::Registry; // creators may outlive static objects
    return registry;
}

nvinfer1::IPluginRegistry* getBuilderPluginRegistry(nvinfer1::EngineCapability) noexcept
{
    return getPluginRegistry();
}

bool initLibNvInferPlugins(void*, const char*) { return true; }

void* createInferBuilder_INTERNAL(void*, int32_t) noexcept { return nullptr; }
void* createInferRuntime_INTERNAL(void*, int32_t) noexcept { return nullptr; }
void* createInferRefitter_INTERNAL(void*, void*, int32_t) noexcept { return nullptr; }
void* createNvOnnxParser_INTERNAL(void*, void*, int) noexcept { return nullptr; }
void* createNvOnnxParserRefitter_INTERNAL(void*, void*, int) noexcept { return nullptr; }
int getNvOnnxParserVersion() noexcept { return 0; }
}
