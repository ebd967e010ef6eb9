// SPDX-License-Identifier: Apache-2.0
// What the plugin interface must answer, apart from running kernels; for plugins in C++ and in Python.
#pragma once

#include "harness_case.h"

#include <memory>

namespace harness {

using nvinfer1::IPluginCreatorV3One;
using nvinfer1::IPluginV3;
using nvinfer1::PluginField;
using nvinfer1::TensorRTPhase;

inline Log g_log;

// One plugin object and its capabilities.
struct Plugin {
    explicit Plugin(nvinfer1::IPluginV3* object) : owner(object)
    {
        require(object != nullptr, "no plugin; log: " + g_log.take());
        core = static_cast<nvinfer1::IPluginV3OneCore*>(
            object->getCapabilityInterface(nvinfer1::PluginCapabilityType::kCORE));
        build = static_cast<nvinfer1::IPluginV3OneBuild*>(
            object->getCapabilityInterface(nvinfer1::PluginCapabilityType::kBUILD));
        runtime = static_cast<nvinfer1::IPluginV3OneRuntime*>(
            object->getCapabilityInterface(nvinfer1::PluginCapabilityType::kRUNTIME));
        require(core != nullptr && build != nullptr && runtime != nullptr, "a capability is missing");
    }

    std::unique_ptr<nvinfer1::IPluginV3> owner;
    nvinfer1::IPluginV3OneCore* core;
    nvinfer1::IPluginV3OneBuild* build;
    nvinfer1::IPluginV3OneRuntime* runtime;
};

inline nvinfer1::Dims dims_of(const std::vector<int64_t>& shape)
{
    nvinfer1::Dims dims{};
    dims.nbDims = static_cast<int32_t>(shape.size());
    for (size_t i = 0; i < shape.size(); ++i) {
        dims.d[i] = shape[i];
    }
    return dims;
}

inline std::vector<nvinfer1::PluginTensorDesc> descs_of(const Case& given)
{
    std::vector<nvinfer1::PluginTensorDesc> descs;
    for (const Tensor& tensor : given.inputs) {
        descs.push_back({dims_of(tensor.shape), tensor.type, nvinfer1::TensorFormat::kLINEAR, 1.0F});
    }
    descs.push_back({dims_of(given.output.shape), given.output.type, nvinfer1::TensorFormat::kLINEAR, 1.0F});
    return descs;
}

inline std::vector<nvinfer1::DynamicPluginTensorDesc> dynamic_descs_of(const Case& given)
{
    std::vector<nvinfer1::DynamicPluginTensorDesc> descs;
    for (const nvinfer1::PluginTensorDesc& desc : descs_of(given)) {
        descs.push_back({desc, desc.dims, desc.dims, desc.dims});
    }
    return descs;
}

// They point into the fields that are given.
inline std::vector<PluginField> listed(const std::vector<Field>& fields)
{
    std::vector<PluginField> made;
    for (const Field& field : fields) {
        made.emplace_back(field.name.c_str(), field.bytes.data(), field.type, field.length);
    }
    return made;
}

inline IPluginV3* create(IPluginCreatorV3One& creator, const std::vector<Field>& fields,
                         TensorRTPhase phase = TensorRTPhase::kBUILD)
{
    const std::vector<PluginField> made = listed(fields);
    const nvinfer1::PluginFieldCollection collection{static_cast<int32_t>(made.size()), made.data()};
    return creator.createPlugin("layer", &collection, phase);
}

inline void rejects(IPluginCreatorV3One& creator, const std::vector<Field>& fields, const std::string& name)
{
    g_log.take();
    const std::unique_ptr<IPluginV3> plugin(create(creator, fields));
    const std::string log = g_log.take();
    require(plugin == nullptr, "accepted a bad field " + name);
    require(log.find(name) != std::string::npos, "the log does not name the field " + name + ": " + log);
}

inline void check_rejections(IPluginCreatorV3One& creator, const Case& given)
{
    for (size_t i = 0; i < given.fields.size(); ++i) {
        const std::string& name = given.fields[i].name;
        const bool optional = name == "aligned"; // of a later version; 0 is its default
        std::vector<Field> changed = given.fields;
        changed.erase(changed.begin() + static_cast<std::ptrdiff_t>(i));
        if (!optional) {
            rejects(creator, changed, name);
        }
        changed = given.fields;
        changed.push_back(given.fields[i]);
        rejects(creator, changed, name);
        changed = given.fields;
        changed[i].type = nvinfer1::PluginFieldType::kFLOAT64;
        rejects(creator, changed, name);
        changed = given.fields;
        changed[i].length = 0;
        rejects(creator, changed, name);
        if (given.fields[i].type == nvinfer1::PluginFieldType::kINT32 && name != "canonical_level" &&
            !optional) {
            changed = given.fields;
            const bool samples = name == "sampling_ratio"; // there 0 is adaptive
            for (const int32_t bad : {samples ? -1 : 0, samples ? 65 : -1}) {
                changed[i] = make_field(name, nvinfer1::PluginFieldType::kINT32, bad);
                rejects(creator, changed, name);
            }
        }
    }
    require(creator.createPlugin("layer", nullptr, TensorRTPhase::kBUILD) == nullptr, "accepted no fields");
    g_log.take();
}

inline std::string text_of(const nvinfer1::PluginFieldCollection& collection)
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

inline void check_types(Plugin& plugin, const Case& given)
{
    std::vector<DataType> types;
    for (const Tensor& tensor : given.inputs) {
        types.push_back(tensor.type);
    }
    DataType type{};
    require(plugin.build->getNbOutputs() == 1 &&
                plugin.build->getOutputDataTypes(&type, 1, types.data(), static_cast<int32_t>(types.size())) ==
                    0 &&
                type == given.output.type,
            "getOutputDataTypes: " + g_log.take());
}

inline void check_shapes(Plugin& plugin, const Case& given)
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
}

inline void check_formats(Plugin& plugin, const Case& given)
{
    std::vector<nvinfer1::DynamicPluginTensorDesc> descs = dynamic_descs_of(given);
    const auto inputs = static_cast<int32_t>(given.inputs.size());
    for (int32_t pos = 0; pos <= inputs; ++pos) {
        const auto supports = [&] {
            return plugin.build->supportsFormatCombination(pos, descs.data(), inputs, 1);
        };
        nvinfer1::PluginTensorDesc& desc = descs[static_cast<size_t>(pos)].desc;
        const nvinfer1::PluginTensorDesc right = desc;
        require(supports(), "a format is rejected");
        desc.type = DataType::kBOOL;
        require(!supports(), "another type is accepted");
        desc = right;
        desc.format = nvinfer1::TensorFormat::kCHW32;
        require(!supports(), "another format is accepted");
        desc = right;
    }
}

inline void check_configuration(Plugin& plugin, const Case& given)
{
    const std::vector<nvinfer1::DynamicPluginTensorDesc> descs = dynamic_descs_of(given);
    const auto inputs = static_cast<int32_t>(given.inputs.size());
    require(plugin.build->configurePlugin(descs.data(), inputs, descs.data() + inputs, 1) == 0, "configure");
    require(plugin.build->getWorkspaceSize(descs.data(), inputs, descs.data() + inputs, 1) == 0, "workspace");
    require(plugin.build->getTimingCacheID() != nullptr, "no timing cache ID");
}

inline void check_round_trip(IPluginCreatorV3One& creator, Plugin& plugin, const Case& given)
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

} // namespace harness
