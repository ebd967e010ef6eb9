// SPDX-License-Identifier: Apache-2.0
// The part of TensorRT's binary interface that plugins and NVIDIA's Python bindings share, declared anew.
//
// No text of NVIDIA's headers is here. What counts is the order of virtual functions and of members, taken
// from the published headers of 10.3.0, 10.7.0, 10.16, 11.0 and 11.1: NvInferRuntimeBase.h, NvInferPluginBase.h,
// NvInferRuntimeCommon.h, NvInferRuntimePlugin.h, NvInferRuntime.h and NvInferImpl.h. Names are TensorRT's, so
// that tests/gpu/harness_*.h compile with these declarations as they do with the real headers.
//
// Compiled once per major; STAND_IN_MAJOR is 10 or 11. The differences between them:
//
//   ILogger           a class of its own in 10, an IVersionedInterface in 11
//   IPluginRegistry   10 starts with three functions for IPluginV2 creators and has one more after
//                     getErrorRecorder; 11 has none of them
//
// 10.13 has getAllCreatorsRecursive at the end of IPluginRegistry, 10.9 has not; bindings without it do not call it.
#pragma once

#include <cstddef>
#include <cstdint>

struct CUstream_st;
using cudaStream_t = CUstream_st*;

namespace nvinfer1 {

enum class DataType : int32_t {
    kFLOAT,
    kHALF,
    kINT8,
    kINT32,
    kBOOL,
    kUINT8,
    kFP8,
    kBF16,
    kINT64,
    kINT4,
};

enum class TensorFormat : int32_t { kLINEAR = 0, kCHW32 = 5 };

enum class PluginFieldType : int32_t {
    kFLOAT16,
    kFLOAT32,
    kFLOAT64,
    kINT8,
    kINT16,
    kINT32,
    kCHAR,
    kDIMS,
    kUNKNOWN,
};

enum class TensorRTPhase : int32_t { kBUILD, kRUNTIME };
enum class PluginCapabilityType : int32_t { kCORE, kBUILD, kRUNTIME };
enum class APILanguage : int32_t { kCPP, kPYTHON };
enum class EngineCapability : int32_t { kSTANDARD };
enum class DimensionOperation : int32_t { kSUM, kPROD, kMAX, kMIN, kSUB, kEQUAL, kLESS, kFLOOR_DIV, kCEIL_DIV };

struct Dims {
    static constexpr int32_t MAX_DIMS = 8;
    int32_t nbDims;
    int64_t d[MAX_DIMS];
};

struct PluginField {
    PluginField() = default;
    PluginField(const char* name, const void* data, PluginFieldType type, int32_t length)
        : name(name), data(data), type(type), length(length)
    {
    }

    const char* name{};
    const void* data{};
    PluginFieldType type{PluginFieldType::kUNKNOWN};
    int32_t length{};
};

struct PluginFieldCollection {
    int32_t nbFields;
    const PluginField* fields;
};

struct PluginTensorDesc {
    Dims dims;
    DataType type;
    TensorFormat format;
    float scale;
};

struct DynamicPluginTensorDesc {
    PluginTensorDesc desc;
    Dims min;
    Dims max;
    Dims opt;
};

struct InterfaceInfo {
    const char* kind;
    int32_t major;
    int32_t minor;
};

class IVersionedInterface {
public:
    virtual APILanguage getAPILanguage() const noexcept { return APILanguage::kCPP; }
    virtual InterfaceInfo getInterfaceInfo() const noexcept = 0;
    virtual ~IVersionedInterface() noexcept = default;
};

#if STAND_IN_MAJOR == 10
class ILogger {
public:
#elif STAND_IN_MAJOR == 11
class ILogger : public IVersionedInterface {
public:
    InterfaceInfo getInterfaceInfo() const noexcept override { return {"ILogger", 1, 0}; }
#else
#error "STAND_IN_MAJOR must be 10 or 11"
#endif
    enum class Severity : int32_t { kINTERNAL_ERROR, kERROR, kWARNING, kINFO, kVERBOSE };
    virtual void log(Severity severity, const char* message) noexcept = 0;
    virtual ~ILogger() = default;
};

class ILoggerFinder : public IVersionedInterface {
public:
    InterfaceInfo getInterfaceInfo() const noexcept override { return {"ILoggerFinder", 1, 0}; }
    virtual ILogger* findLogger() = 0;
};

// ---- sizes ----

class IDimensionExpr;

namespace apiv {

class VRoot {
public:
    virtual ~VRoot() noexcept = default;
};

class VDimensionExpr : public VRoot {
public:
    virtual bool isConstant() const = 0;
    virtual int64_t getConstantValue() const = 0;
    virtual bool isSizeTensor() const = 0;
};

class VExprBuilder : public VRoot {
public:
    virtual const IDimensionExpr* constant(int64_t) = 0;
    virtual const IDimensionExpr* operation(DimensionOperation, const IDimensionExpr&,
                                            const IDimensionExpr&) = 0;
    virtual const IDimensionExpr* declareSizeTensor(int32_t, const IDimensionExpr&, const IDimensionExpr&) = 0;
};

} // namespace apiv

class IDimensionExpr {
public:
    int64_t getConstantValue() const noexcept { return mImpl->getConstantValue(); }

protected:
    virtual ~IDimensionExpr() noexcept = default;
    apiv::VDimensionExpr* mImpl{};
};

class IExprBuilder {
protected:
    virtual ~IExprBuilder() noexcept = default;
    apiv::VExprBuilder* mImpl{};
};

struct DimsExprs {
    int32_t nbDims;
    const IDimensionExpr* d[Dims::MAX_DIMS];
};

// ---- plugins ----

class IPluginCapability : public IVersionedInterface {};
class IPluginCreatorInterface : public IVersionedInterface {};

class IPluginV3 : public IVersionedInterface {
public:
    virtual IPluginCapability* getCapabilityInterface(PluginCapabilityType) noexcept = 0;
    virtual IPluginV3* clone() noexcept = 0;
};

class IPluginV3OneCore : public IPluginCapability {
public:
    virtual const char* getPluginName() const noexcept = 0;
    virtual const char* getPluginVersion() const noexcept = 0;
    virtual const char* getPluginNamespace() const noexcept = 0;
};

// Version 2 of the interface adds getAliasedInput at the end, which nothing here calls.
class IPluginV3OneBuild : public IPluginCapability {
public:
    using Descs = const DynamicPluginTensorDesc*;
    virtual int32_t configurePlugin(Descs in, int32_t, Descs out, int32_t) noexcept = 0;
    virtual int32_t getOutputDataTypes(DataType* out, int32_t, const DataType* in, int32_t) const noexcept = 0;
    virtual int32_t getOutputShapes(const DimsExprs* in, int32_t, const DimsExprs* shapes, int32_t, DimsExprs* out,
                                    int32_t, IExprBuilder&) noexcept = 0;
    virtual bool supportsFormatCombination(int32_t position, Descs, int32_t in, int32_t out) noexcept = 0;
    virtual int32_t getNbOutputs() const noexcept = 0;
    virtual size_t getWorkspaceSize(Descs in, int32_t, Descs out, int32_t) const noexcept = 0;
    virtual int32_t getValidTactics(int32_t*, int32_t) noexcept = 0;
    virtual int32_t getNbTactics() noexcept = 0;
    virtual const char* getTimingCacheID() noexcept = 0;
    virtual int32_t getFormatCombinationLimit() noexcept = 0;
    virtual const char* getMetadataString() noexcept = 0;
};

class IPluginResourceContext;

class IPluginV3OneRuntime : public IPluginCapability {
public:
    using Descs = const PluginTensorDesc*;
    virtual int32_t setTactic(int32_t) noexcept = 0;
    virtual int32_t onShapeChange(Descs in, int32_t, Descs out, int32_t) noexcept = 0;
    virtual int32_t enqueue(Descs in, Descs out, const void* const* inputs, void* const* outputs, void* workspace,
                            cudaStream_t) noexcept = 0;
    virtual IPluginV3* attachToContext(IPluginResourceContext*) noexcept = 0;
    virtual const PluginFieldCollection* getFieldsToSerialize() noexcept = 0;
};

class IPluginCreatorV3One : public IPluginCreatorInterface {
public:
    virtual IPluginV3* createPlugin(const char* name, const PluginFieldCollection*, TensorRTPhase) noexcept = 0;
    virtual const PluginFieldCollection* getFieldNames() noexcept = 0;
    virtual const char* getPluginName() const noexcept = 0;
    virtual const char* getPluginVersion() const noexcept = 0;
    virtual const char* getPluginNamespace() const noexcept = 0;
};

// ---- registry ----

class IErrorRecorder;
class IPluginCreator; // of IPluginV2
class IPluginResource;

class IPluginRegistry {
public:
    using Creators = IPluginCreatorInterface* const*;
#if STAND_IN_MAJOR == 10
    virtual bool registerCreator(IPluginCreator&, const char* space) noexcept = 0;
    virtual IPluginCreator* const* getPluginCreatorList(int32_t*) const noexcept = 0;
    virtual IPluginCreator* getPluginCreator(const char* name, const char* version, const char* space) noexcept = 0;
#endif
    virtual ~IPluginRegistry() noexcept = default;
    virtual void setErrorRecorder(IErrorRecorder*) noexcept = 0;
    virtual IErrorRecorder* getErrorRecorder() const noexcept = 0;
#if STAND_IN_MAJOR == 10
    virtual bool deregisterCreator(const IPluginCreator&) noexcept = 0;
#endif
    virtual bool isParentSearchEnabled() const = 0;
    virtual void setParentSearchEnabled(bool) = 0;
    virtual void* loadLibrary(const char* path) noexcept = 0;
    virtual void deregisterLibrary(void*) noexcept = 0;
    virtual bool registerCreator(IPluginCreatorInterface&, const char* space) noexcept = 0;
    virtual Creators getAllCreators(int32_t*) const noexcept = 0;
    virtual IPluginCreatorInterface* getCreator(const char* name, const char* version,
                                                const char* space) noexcept = 0;
    virtual bool deregisterCreator(const IPluginCreatorInterface&) noexcept = 0;
    virtual IPluginResource* acquirePluginResource(const char* key, IPluginResource*) noexcept = 0;
    virtual int32_t releasePluginResource(const char* key) noexcept = 0;
    virtual Creators getAllCreatorsRecursive(int32_t*) noexcept = 0;
};

} // namespace nvinfer1
