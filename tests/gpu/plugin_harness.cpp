// SPDX-License-Identifier: Apache-2.0
// Drives the plugin library through TensorRT's plugin interface, without TensorRT.
//
//   plugin_harness LIBRARY CASE_FOLDER... [--no-gpu] [--short-output]
//
// --no-gpu does everything but run kernels. --short-output allocates less than the plugin writes, a fault
// that compute-sanitizer must find. Prints the serialized fields of each case; exit code 1: a check failed.

#include "harness_checks.h"
#include "harness_gpu.h"

#include <dlfcn.h>

#include <cstdlib>

namespace harness {
namespace {

using nvinfer1::IPluginCreatorInterface;

using GetCreators = IPluginCreatorInterface* const* (*)(int32_t&);
using SetLoggerFinder = void (*)(nvinfer1::ILoggerFinder*);

IPluginCreatorV3One& find_creator(void* library, const std::string& name)
{
    const auto creators_of = reinterpret_cast<GetCreators>(dlsym(library, "getCreators"));
    const auto set_finder = reinterpret_cast<SetLoggerFinder>(dlsym(library, "setLoggerFinder"));
    require(creators_of != nullptr && set_finder != nullptr, "a symbol is missing");
    set_finder(&g_log);
    int32_t count = 0;
    IPluginCreatorInterface* const* const creators = creators_of(count);
    for (int32_t i = 0; i < count; ++i) {
        require(std::strcmp(creators[i]->getInterfaceInfo().kind, "PLUGIN CREATOR_V3ONE") == 0,
                "creator kind");
        auto* const creator = static_cast<IPluginCreatorV3One*>(creators[i]);
        if (creator->getPluginName() == name) {
            return *creator;
        }
    }
    throw Failure("no creator of " + name);
}

void drive(void* library, const Case& given, const Options& options)
{
    IPluginCreatorV3One& creator = find_creator(library, given.op);
    check_rejections(creator, given);
    Plugin plugin(create(creator, given.fields));
    check_types(plugin, given);
    check_shapes(plugin, given);
    check_formats(plugin, given);
    check_configuration(plugin, given);
    check_round_trip(creator, plugin, given);

    Plugin attached(plugin.runtime->attachToContext(nullptr));
    std::vector<nvinfer1::PluginTensorDesc> descs = descs_of(given);
    const auto count = static_cast<int32_t>(given.inputs.size());
    const int32_t status = attached.runtime->onShapeChange(descs.data(), count, &descs.back(), 1);
    require(status == 0, "onShapeChange: " + g_log.take());
    if (options.gpu) {
        run(attached, given, options);
    }
    descs[0].dims.d[0] += 1;
    void* outputs[]{nullptr};
    const std::vector<const void*> inputs(given.inputs.size());
    require(attached.runtime->onShapeChange(descs.data(), count, &descs.back(), 1) != 0 &&
                attached.runtime->enqueue(descs.data(), &descs.back(), inputs.data(), outputs, nullptr,
                                          nullptr) != 0,
            "shapes that do not fit were accepted");
    require(!g_log.take().empty(), "shapes that do not fit were not logged");
}

} // namespace
} // namespace harness

int main(int argc, char** argv)
{
    harness::Options options;
    std::vector<std::string> paths;
    for (int i = 1; i < argc; ++i) {
        const std::string argument = argv[i];
        if (argument == "--no-gpu") {
            options.gpu = false;
        } else if (argument == "--short-output") {
            options.short_output = true;
        } else {
            paths.push_back(argument);
        }
    }
    try {
        harness::require(paths.size() >= 2,
                         "plugin_harness LIBRARY CASE_FOLDER... [--no-gpu] [--short-output]");
        void* const library = dlopen(paths[0].c_str(), RTLD_NOW | RTLD_LOCAL);
        harness::require(library != nullptr, library != nullptr ? "" : dlerror());
        for (size_t i = 1; i < paths.size(); ++i) {
            harness::drive(library, harness::read_case(paths[i]), options);
        }
        std::printf("%zu cases passed\n", paths.size() - 1);
    } catch (const std::exception& error) {
        std::fprintf(stderr, "%s\n", error.what());
        return EXIT_FAILURE;
    }
    return EXIT_SUCCESS;
}
