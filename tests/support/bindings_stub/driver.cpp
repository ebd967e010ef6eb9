// SPDX-License-Identifier: Apache-2.0
// Drives the plugins in the stand-in's registry, as TensorRT would; called from Python through ctypes.
//
// The checks are those of tests/gpu/plugin_harness; Python plugins are reached through the classes that
// NVIDIA's bindings put between C++ and Python. What runs on a stream is started here and compared in Python.
//
// A builder calls plugins from within a bound function (build_serialized_network), and only there does pybind11
// convert a plugin's answer by way of a temporary object. harness_run is therefore reached in two ways: inside a
// bound function, IPluginRegistry.load_library("CHECK FOLDER"), and directly, as from a thread of TensorRT's own.

#include "../../gpu/harness_checks.h"

#include <functional>

extern "C" nvinfer1::IPluginRegistry* getPluginRegistry() noexcept;

namespace harness {
namespace {

IPluginCreatorV3One& find_creator(const std::string& name)
{
    nvinfer1::IPluginCreatorInterface* const creator = getPluginRegistry()->getCreator(name.c_str(), "1", "imp_trt");
    require(creator != nullptr, "no creator of " + name);
    require(creator->getAPILanguage() == nvinfer1::APILanguage::kPYTHON, name + " is not a Python plugin");
    return static_cast<IPluginCreatorV3One&>(*creator);
}

Plugin created(const Case& given, TensorRTPhase phase = TensorRTPhase::kBUILD)
{
    return Plugin(create(find_creator(given.op), given.fields, phase));
}

std::string fields_of(const Plugin& plugin)
{
    const nvinfer1::PluginFieldCollection* const fields = plugin.runtime->getFieldsToSerialize();
    require(fields != nullptr, "getFieldsToSerialize returned nothing. " + g_log.take());
    return text_of(*fields);
}

// As fields_of, from the case itself.
std::string given_fields(const Case& given)
{
    const std::vector<PluginField> made = listed(given.fields);
    return text_of({static_cast<int32_t>(made.size()), made.data()});
}

void check_creation(const Case& given)
{
    for (const TensorRTPhase phase : {TensorRTPhase::kBUILD, TensorRTPhase::kRUNTIME}) {
        require(fields_of(created(given, phase)) == given_fields(given), "other fields than given");
    }
}

void check_capabilities(const Case& given)
{
    const Plugin plugin = created(given);
    const auto kind = [](const nvinfer1::IVersionedInterface* part) {
        return std::string(part->getInterfaceInfo().kind);
    };
    require(kind(plugin.owner.get()) == "PLUGIN" && kind(plugin.core) == "PLUGIN_V3ONE_CORE" &&
                kind(plugin.build) == "PLUGIN_V3ONE_BUILD" && kind(plugin.runtime) == "PLUGIN_V3ONE_RUNTIME",
            "kinds of the interfaces");
    require(plugin.core->getPluginName() == given.op && plugin.core->getPluginVersion() == std::string("1") &&
                plugin.core->getPluginNamespace() == std::string("imp_trt"),
            "name, version and namespace");
    require(plugin.build->getNbTactics() == 0 && plugin.runtime->setTactic(0) == 0, "tactics");
    require(std::string(plugin.build->getMetadataString()) == plugin.build->getTimingCacheID(), "metadata");
}

void check_reshaping(const Case& given)
{
    const Plugin plugin = created(given);
    std::vector<nvinfer1::PluginTensorDesc> descs = descs_of(given);
    const auto count = static_cast<int32_t>(given.inputs.size());
    const auto status = [&] { return plugin.runtime->onShapeChange(descs.data(), count, &descs.back(), 1); };
    require(status() == 0, "onShapeChange: " + g_log.take());
    descs[0].dims.d[0] += 1;
    require(status() != 0, "onShapeChange accepted shapes that do not fit");
    require(!g_log.take().empty(), "shapes that do not fit were not logged");
    descs[0].dims.nbDims -= 1;
    require(status() != 0, "onShapeChange accepted a missing dimension");
    g_log.take();
}

void check_serialized(const Case& given)
{
    const Plugin plugin = created(given);
    require(fields_of(plugin) == given_fields(given), "fields: " + fields_of(plugin));
    const Plugin again(find_creator(given.op).createPlugin("layer", plugin.runtime->getFieldsToSerialize(),
                                                           TensorRTPhase::kRUNTIME));
    require(fields_of(again) == given_fields(given), "fields after the round trip: " + fields_of(again));
}

void check_clones(const Case& given)
{
    const Plugin plugin = created(given);
    const Plugin clone(plugin.owner->clone());
    Plugin second(clone.owner->clone());
    require(plugin.owner != clone.owner && clone.owner != second.owner, "clone returned the plugin itself");
    require(fields_of(clone) == given_fields(given), "fields of the clone: " + fields_of(clone));
    require(fields_of(second) == given_fields(given), "fields of its clone: " + fields_of(second));
    check_types(second, given);
}

void check_destruction(const Case& given)
{
    for (int turn = 0; turn < 3; ++turn) {
        Plugin plugin = created(given);
        const Plugin clone(plugin.owner->clone());
        plugin.owner.reset();
        require(fields_of(clone) == given_fields(given), "a clone does not outlive its plugin");
    }
}

// Each value must be rejected, with the field and the value named.
void check_bad_texts(const Case& given)
{
    Case changed = given;
    for (Field& field : changed.fields) {
        if (field.type != nvinfer1::PluginFieldType::kCHAR) {
            continue;
        }
        const Field right = field;
        // bxxxxxxx has the first letter and the length of bilinear.
        for (const std::string text : {"bogus", "bxxxxxxx", "rest", "rects", "rec"}) {
            field.bytes.assign(text.begin(), text.end());
            field.length = static_cast<int32_t>(text.size());
            rejects(find_creator(given.op), changed.fields, field.name);
            g_log.take();
            require(create(find_creator(given.op), changed.fields, TensorRTPhase::kRUNTIME) == nullptr,
                    "accepted " + text);
            require(g_log.take().find(text) != std::string::npos, "the log does not name the value " + text);
        }
        field.bytes.clear();
        field.length = 0;
        rejects(find_creator(given.op), changed.fields, field.name);
        field.bytes = {'\0'};
        field.length = 1;
        rejects(find_creator(given.op), changed.fields, field.name);
        // Parsers differ in whether the length counts a terminating zero.
        field = right;
        field.bytes.push_back('\0');
        field.length += 1;
        require(fields_of(created(changed)) == given_fields(given), "a terminating zero was kept");
        field = right;
    }
}

using Check = std::function<void(const Case&)>;

template <void (*check)(Plugin&, const Case&)>
void with_plugin(const Case& given)
{
    Plugin plugin = created(given);
    check(plugin, given);
}

const std::map<std::string, Check> checks{
    {"create", check_creation},
    {"reject", [](const Case& given) { check_rejections(find_creator(given.op), given); }},
    {"text", check_bad_texts},
    {"capabilities", check_capabilities},
    {"types", with_plugin<check_types>},
    {"shapes", with_plugin<check_shapes>},
    {"formats", with_plugin<check_formats>},
    {"configure", with_plugin<check_configuration>},
    {"reshape", check_reshaping},
    {"serialize", check_serialized},
    {"clone", check_clones},
    {"destroy", check_destruction},
};

// A plugin attached to a context, with the descriptions of its tensors.
struct Attached {
    Case given;
    Plugin plugin;
    Plugin attached;
    std::vector<nvinfer1::PluginTensorDesc> descs;
};

// What went wrong in the last call, or "".
std::string error;

template <class Function>
auto guarded(Function&& function) -> decltype(function())
{
    error.clear();
    try {
        return function();
    } catch (const std::exception& failure) {
        error = *failure.what() != '\0' ? failure.what() : "no message";
        return {};
    }
}

} // namespace
} // namespace harness

extern "C" {

using harness::Attached;
using harness::guarded;
using harness::require;

const char* harness_error() { return harness::error.c_str(); }

// What the plugins say through Python's logging.
void harness_log(const char* message) { harness::g_log.log(nvinfer1::ILogger::Severity::kERROR, message); }

// "CHECK FOLDER".
void harness_run(const char* request)
{
    guarded([&] {
        const std::string text = request;
        const size_t space = text.find(' ');
        harness::g_log.take();
        harness::checks.at(text.substr(0, space))(harness::read_case(text.substr(space + 1)));
        return 0;
    });
}

// nullptr if it fails.
void* harness_attach(const char* folder)
{
    return guarded([&]() -> Attached* {
        harness::g_log.take();
        const harness::Case given = harness::read_case(folder);
        harness::Plugin plugin = harness::created(given);
        harness::Plugin attached(plugin.runtime->attachToContext(nullptr));
        return new Attached{given, std::move(plugin), std::move(attached), harness::descs_of(given)};
    });
}

void harness_reshape(void* handle)
{
    guarded([&] {
        Attached& it = *static_cast<Attached*>(handle);
        const auto count = static_cast<int32_t>(it.given.inputs.size());
        require(it.attached.runtime->onShapeChange(it.descs.data(), count, &it.descs.back(), 1) == 0,
                "onShapeChange: " + harness::g_log.take());
        return 0;
    });
}

void harness_enqueue(void* handle, const void* const* inputs, void* output, void* stream)
{
    guarded([&] {
        Attached& it = *static_cast<Attached*>(handle);
        void* const outputs[]{output};
        require(it.attached.runtime->enqueue(it.descs.data(), &it.descs.back(), inputs, outputs, nullptr,
                                             static_cast<cudaStream_t>(stream)) == 0,
                "enqueue: " + harness::g_log.take());
        return 0;
    });
}

void harness_release(void* handle) { delete static_cast<Attached*>(handle); }
}
