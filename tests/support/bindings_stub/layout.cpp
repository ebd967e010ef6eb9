// SPDX-License-Identifier: Apache-2.0
// Prints where members and virtual functions are, to compare NvInferRuntime.h beside this file with the real one.

#include <NvInferRuntime.h>

#include <cstdio>
#include <cstring>

using namespace nvinfer1;

namespace {

// A pointer to a virtual function holds its place in the table.
template <class Pointer>
void place(const char* name, Pointer pointer)
{
    std::ptrdiff_t value{};
    std::memcpy(&value, &pointer, sizeof value);
    std::printf("%s: %td\n", name, value);
}

#define PLACE(type, function) place(#type "::" #function, &type::function)
#define OFFSET(type, member) std::printf(#type "." #member ": %zu\n", offsetof(type, member))
#define SIZE(type) std::printf(#type ": %zu\n", sizeof(type))

using Register = bool (IPluginRegistry::*)(IPluginCreatorInterface&, const char*) noexcept;
using Deregister = bool (IPluginRegistry::*)(const IPluginCreatorInterface&) noexcept;

void structures()
{
    SIZE(Dims);
    SIZE(DimsExprs);
    SIZE(IDimensionExpr);
    SIZE(IExprBuilder);
    SIZE(PluginFieldCollection);
    OFFSET(Dims, d);
    OFFSET(DimsExprs, d);
    OFFSET(PluginField, data);
    OFFSET(PluginField, type);
    OFFSET(PluginField, length);
    OFFSET(PluginFieldCollection, fields);
    OFFSET(PluginTensorDesc, type);
    OFFSET(PluginTensorDesc, format);
    OFFSET(PluginTensorDesc, scale);
    OFFSET(DynamicPluginTensorDesc, min);
    OFFSET(DynamicPluginTensorDesc, max);
    OFFSET(DynamicPluginTensorDesc, opt);
    std::printf("enumerators: %d %d %d %d %d\n", static_cast<int>(DataType::kINT64),
                static_cast<int>(TensorFormat::kCHW32), static_cast<int>(PluginFieldType::kCHAR),
                static_cast<int>(DimensionOperation::kCEIL_DIV), static_cast<int>(ILogger::Severity::kVERBOSE));
}

void plugins()
{
    PLACE(IVersionedInterface, getAPILanguage);
    PLACE(IVersionedInterface, getInterfaceInfo);
    PLACE(ILogger, log);
    PLACE(apiv::VDimensionExpr, isConstant);
    PLACE(apiv::VDimensionExpr, getConstantValue);
    PLACE(apiv::VDimensionExpr, isSizeTensor);
    PLACE(apiv::VExprBuilder, constant);
    PLACE(apiv::VExprBuilder, operation);
    PLACE(apiv::VExprBuilder, declareSizeTensor);
    PLACE(IPluginV3, getCapabilityInterface);
    PLACE(IPluginV3, clone);
    PLACE(IPluginV3OneCore, getPluginName);
    PLACE(IPluginV3OneCore, getPluginVersion);
    PLACE(IPluginV3OneCore, getPluginNamespace);
    PLACE(IPluginV3OneBuild, configurePlugin);
    PLACE(IPluginV3OneBuild, getOutputDataTypes);
    PLACE(IPluginV3OneBuild, getOutputShapes);
    PLACE(IPluginV3OneBuild, supportsFormatCombination);
    PLACE(IPluginV3OneBuild, getNbOutputs);
    PLACE(IPluginV3OneBuild, getWorkspaceSize);
    PLACE(IPluginV3OneBuild, getValidTactics);
    PLACE(IPluginV3OneBuild, getNbTactics);
    PLACE(IPluginV3OneBuild, getTimingCacheID);
    PLACE(IPluginV3OneBuild, getFormatCombinationLimit);
    PLACE(IPluginV3OneBuild, getMetadataString);
    PLACE(IPluginV3OneRuntime, setTactic);
    PLACE(IPluginV3OneRuntime, onShapeChange);
    PLACE(IPluginV3OneRuntime, enqueue);
    PLACE(IPluginV3OneRuntime, attachToContext);
    PLACE(IPluginV3OneRuntime, getFieldsToSerialize);
}

void registry()
{
    PLACE(IPluginCreatorV3One, createPlugin);
    PLACE(IPluginCreatorV3One, getFieldNames);
    PLACE(IPluginCreatorV3One, getPluginName);
    PLACE(IPluginCreatorV3One, getPluginVersion);
    PLACE(IPluginCreatorV3One, getPluginNamespace);
    PLACE(IPluginRegistry, setErrorRecorder);
    PLACE(IPluginRegistry, getErrorRecorder);
    PLACE(IPluginRegistry, isParentSearchEnabled);
    PLACE(IPluginRegistry, setParentSearchEnabled);
    PLACE(IPluginRegistry, loadLibrary);
    PLACE(IPluginRegistry, deregisterLibrary);
    place("registerCreator", static_cast<Register>(&IPluginRegistry::registerCreator));
    PLACE(IPluginRegistry, getAllCreators);
    PLACE(IPluginRegistry, getCreator);
    place("deregisterCreator", static_cast<Deregister>(&IPluginRegistry::deregisterCreator));
    PLACE(IPluginRegistry, acquirePluginResource);
    PLACE(IPluginRegistry, releasePluginResource);
#ifdef HAS_RECURSIVE
    PLACE(IPluginRegistry, getAllCreatorsRecursive);
#endif
}

} // namespace

int main()
{
    structures();
    plugins();
    registry();
}
