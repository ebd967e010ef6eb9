// Drives the plugin library through TensorRT's plugin interface, without TensorRT.
//
//   plugin_harness LIBRARY CASE_FOLDER... [--no-gpu] [--short-output]
//
// --no-gpu does everything but run kernels. --short-output allocates less than the plugin writes, a fault
// that compute-sanitizer must find. Prints the serialised fields of each case; exit code 1: a check failed.

#include "harness_case.h"
#include "harness_gpu.h"

#include <dlfcn.h>

#include <cstdlib>
#include <memory>

namespace harness {
namespace {

using nvinfer1::IPluginCreatorInterface;
using nvinfer1::IPluginCreatorV3One;
using nvinfer1::IPluginV3;
using nvinfer1::PluginField;
using nvinfer1::TensorRTPhase;

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

IPluginV3* create(IPluginCreatorV3One& creator, const std::vector<Field>& fields)
{
    std::vector<PluginField> listed;
    for (const Field& field : fields) {
        listed.emplace_back(field.name.c_str(), field.bytes.data(), field.type, field.length);
    }
    const nvinfer1::PluginFieldCollection collection{static_cast<int32_t>(listed.size()), listed.data()};
    return creator.createPlugin("layer", &collection, TensorRTPhase::kBUILD);
}

void refuses(IPluginCreatorV3One& creator, const std::vector<Field>& fields, const std::string& name)
{
    g_log.take();
    const std::unique_ptr<IPluginV3> plugin(create(creator, fields));
    const std::string log = g_log.take();
    require(plugin == nullptr, "accepted a bad field " + name);
    require(log.find(name) != std::string::npos, "the log does not name the field " + name + ": " + log);
}

void check_refusals(IPluginCreatorV3One& creator, const Case& given)
{
    for (size_t i = 0; i < given.fields.size(); ++i) {
        const std::string& name = given.fields[i].name;
        std::vector<Field> changed = given.fields;
        changed.erase(changed.begin() + static_cast<std::ptrdiff_t>(i));
        refuses(creator, changed, name);
        changed = given.fields;
        changed.push_back(given.fields[i]);
        refuses(creator, changed, name);
        changed = given.fields;
        changed[i].type = nvinfer1::PluginFieldType::kFLOAT64;
        refuses(creator, changed, name);
        changed = given.fields;
        changed[i].length = 0;
        refuses(creator, changed, name);
        if (given.fields[i].type == nvinfer1::PluginFieldType::kINT32 && name != "canonical_level") {
            changed = given.fields;
            changed[i] = make_field(name, nvinfer1::PluginFieldType::kINT32, int32_t{0});
            refuses(creator, changed, name);
        }
    }
    require(creator.createPlugin("layer", nullptr, TensorRTPhase::kBUILD) == nullptr, "accepted no fields");
    g_log.take();
}

std::string text_of(const nvinfer1::PluginFieldCollection& collection)
{
    std::string text;
    for (int32_t i = 0; i < collection.nbFields; ++i) {
        const PluginField& field = collection.fields[i];
        const size_t size = field.type == nvinfer1::PluginFieldType::kCHAR ? 1 : 4;
        text += std::string(" ") + field.name + ":" + std::to_string(static_cast<int32_t>(field.type)) + ":" +
                std::to_string(field.length) + ":";
        for (size_t byte = 0; field.data != nullptr && byte < size * static_cast<size_t>(field.length);
             ++byte) {
            char hex[3];
            std::snprintf(hex, sizeof hex, "%02x", static_cast<const unsigned char*>(field.data)[byte]);
            text += hex;
        }
    }
    return text;
}

void check_shapes(Plugin& plugin, const Case& given)
{
    Builder builder;
    std::deque<Number> numbers;
    std::vector<nvinfer1::DimsExprs> inputs;
    for (const Tensor& tensor : given.inputs) {
        nvinfer1::DimsExprs dims{};
        dims.nbDims = static_cast<int32_t>(tensor.shape.size());
        for (size_t d = 0; d < tensor.shape.size(); ++d) {
            dims.d[d] = &numbers.emplace_back(tensor.shape[d]);
        }
        inputs.push_back(dims);
    }
    const auto count = static_cast<int32_t>(inputs.size());
    nvinfer1::DimsExprs output{};
    require(plugin.build->getOutputShapes(inputs.data(), count, nullptr, 0, &output, 1, builder) == 0,
            "getOutputShapes: " + g_log.take());
    std::vector<int64_t> shape;
    for (int32_t d = 0; d < output.nbDims; ++d) {
        shape.push_back(output.d[d]->getConstantValue());
    }
    require(shape == given.output.shape, "getOutputShapes: another shape");
    inputs[0].nbDims -= 1;
    require(plugin.build->getOutputShapes(inputs.data(), count, nullptr, 0, &output, 1, builder) != 0,
            "getOutputShapes accepted a missing dimension");
    require(plugin.build->getOutputShapes(inputs.data(), count - 1, nullptr, 0, &output, 1, builder) != 0,
            "getOutputShapes accepted a missing input");

    std::vector<DataType> types;
    for (const Tensor& tensor : given.inputs) {
        types.push_back(tensor.type);
    }
    DataType type{};
    require(plugin.build->getNbOutputs() == 1 &&
                plugin.build->getOutputDataTypes(&type, 1, types.data(), count) == 0 &&
                type == given.output.type,
            "getOutputDataTypes");
}

void check_formats(Plugin& plugin, const Case& given)
{
    std::vector<nvinfer1::DynamicPluginTensorDesc> descs;
    for (const nvinfer1::PluginTensorDesc& desc : descs_of(given)) {
        descs.push_back({desc, desc.dims, desc.dims, desc.dims});
    }
    const auto inputs = static_cast<int32_t>(given.inputs.size());
    for (int32_t pos = 0; pos <= inputs; ++pos) {
        const auto supports = [&] {
            return plugin.build->supportsFormatCombination(pos, descs.data(), inputs, 1);
        };
        nvinfer1::PluginTensorDesc& desc = descs[static_cast<size_t>(pos)].desc;
        const nvinfer1::PluginTensorDesc right = desc;
        require(supports(), "a format is refused");
        desc.type = DataType::kBOOL;
        require(!supports(), "another type is accepted");
        desc = right;
        desc.format = nvinfer1::TensorFormat::kCHW32;
        require(!supports(), "another format is accepted");
        desc = right;
    }
    require(plugin.build->configurePlugin(descs.data(), inputs, descs.data() + inputs, 1) == 0, "configure");
    require(plugin.build->getWorkspaceSize(descs.data(), inputs, descs.data() + inputs, 1) == 0, "workspace");
    require(plugin.build->getTimingCacheID() != nullptr, "no timing cache ID");
}

void check_round_trip(IPluginCreatorV3One& creator, Plugin& plugin, const Case& given)
{
    const nvinfer1::PluginFieldCollection* const written = plugin.runtime->getFieldsToSerialize();
    Plugin again(creator.createPlugin("layer", written, TensorRTPhase::kRUNTIME));
    Plugin clone(again.owner->clone());
    const std::string fields = text_of(*written);
    require(fields == text_of(*again.runtime->getFieldsToSerialize()), "round trip");
    require(fields == text_of(*clone.runtime->getFieldsToSerialize()), "clone");
    require(clone.core->getPluginName() == given.op, "name");
    std::printf("declared %s%s\n", given.op.c_str(), text_of(*creator.getFieldNames()).c_str());
    std::printf("fields %s%s\n", given.op.c_str(), fields.c_str());
}

void drive(void* library, const Case& given, const Options& options)
{
    IPluginCreatorV3One& creator = find_creator(library, given.op);
    check_refusals(creator, given);
    Plugin plugin(create(creator, given.fields));
    check_shapes(plugin, given);
    check_formats(plugin, given);
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
