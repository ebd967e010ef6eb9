// SPDX-License-Identifier: Apache-2.0
#pragma once

// IPluginV3 and its creator for an operator with one output and no workspace.
//
// The operator is a copyable class Op with
//   static constexpr const char* kName;                  // of plugin and creator
//   static constexpr int32_t kInputs;
//   static constexpr int32_t kRanks[kInputs];
//   static constexpr int32_t kOutputLike;                // the input whose type the output has
//   void fields(FieldVisitor&);                          // visits every field, in the order of the contract
//   const char* field_problem() const;                   // error in the values, nullptr if none
//   static bool accepts(int32_t input, const DataType* types);  // types[0..input] are known
//   void output_shape(const DimsExprs* in, DimsExprs& out, IExprBuilder&) const;
//   const char* shape_problem(const PluginTensorDesc* in) const;  // nullptr if none
//   cudaError_t prepare(const PluginTensorDesc* in) const;  // loads the kernel that launch() needs
//   cudaError_t launch(const PluginTensorDesc* in, const void* const* inputs, void* out, cudaStream_t) const;

#include "tensorrt/fields.h"
#include "tensorrt/launch.h"
#include "tensorrt/log.h"

#include <exception>
#include <new>
#include <string>
#include <utility>
#include <vector>

namespace imp_trt {

constexpr const char* kVersion = "1";
constexpr const char* kNamespace = "imp_trt";

inline bool is_floating(nvinfer1::DataType type)
{
    return type == nvinfer1::DataType::kFLOAT || type == nvinfer1::DataType::kHALF ||
           type == nvinfer1::DataType::kBF16;
}

inline Element element_of(nvinfer1::DataType type)
{
    return type == nvinfer1::DataType::kHALF   ? Element::f16
           : type == nvinfer1::DataType::kBF16 ? Element::bf16
                                               : Element::f32;
}

// Runs body; an exception becomes a log message and the result on_error, because TensorRT's functions are noexcept.
template <class Result, class Body>
Result guarded(const char* op, const char* method, Result on_error, Body&& body) noexcept
{
    try {
        return body();
    } catch (const std::exception& error) {
        log(Severity::kERROR, op, "%s: %s", method, error.what());
    } catch (...) {
        log(Severity::kERROR, op, "%s: unknown exception", method);
    }
    return on_error;
}

template <class Op>
class Plugin final : public nvinfer1::IPluginV3,
                     public nvinfer1::IPluginV3OneCore,
                     public nvinfer1::IPluginV3OneBuild,
                     public nvinfer1::IPluginV3OneRuntime {
    using DataType = nvinfer1::DataType;
    using TensorDesc = nvinfer1::PluginTensorDesc;
    using DynamicDesc = nvinfer1::DynamicPluginTensorDesc;

public:
    explicit Plugin(Op op) : op_(std::move(op)), fields_(true)
    {
        op_.fields(fields_);
        FieldText text;
        op_.fields(text);
        state_ = text.text();
    }

    // Core, and the capabilities: this object implements all of them.

    nvinfer1::IPluginCapability* getCapabilityInterface(nvinfer1::PluginCapabilityType type) noexcept override
    {
        switch (type) {
        case nvinfer1::PluginCapabilityType::kCORE:
            return static_cast<nvinfer1::IPluginV3OneCore*>(this);
        case nvinfer1::PluginCapabilityType::kBUILD:
            return static_cast<nvinfer1::IPluginV3OneBuild*>(this);
        case nvinfer1::PluginCapabilityType::kRUNTIME:
            return static_cast<nvinfer1::IPluginV3OneRuntime*>(this);
        }
        return nullptr;
    }

    nvinfer1::IPluginV3* clone() noexcept override
    {
        return guarded<nvinfer1::IPluginV3*>(Op::kName, "clone", nullptr, [this] { return new Plugin(op_); });
    }

    const char* getPluginName() const noexcept override
    {
        return Op::kName;
    }

    const char* getPluginVersion() const noexcept override
    {
        return kVersion;
    }

    const char* getPluginNamespace() const noexcept override
    {
        return kNamespace;
    }

    // Build

    int32_t getNbOutputs() const noexcept override
    {
        return 1;
    }

    int32_t getOutputDataTypes(DataType* outputTypes, int32_t nbOutputs, const DataType* inputTypes,
                               int32_t nbInputs) const noexcept override
    {
        if (!counts_are(nbInputs, nbOutputs)) {
            return -1;
        }
        outputTypes[0] = inputTypes[Op::kOutputLike];
        return 0;
    }

    int32_t getOutputShapes(const nvinfer1::DimsExprs* inputs, int32_t nbInputs, const nvinfer1::DimsExprs*,
                            int32_t, nvinfer1::DimsExprs* outputs, int32_t nbOutputs,
                            nvinfer1::IExprBuilder& builder) noexcept override
    {
        if (!counts_are(nbInputs, nbOutputs)) {
            return -1;
        }
        for (int32_t i = 0; i < nbInputs; ++i) {
            if (!rank_is(i, inputs[i].nbDims)) {
                return -1;
            }
        }
        return guarded(Op::kName, "getOutputShapes", -1, [&] {
            op_.output_shape(inputs, outputs[0], builder);
            return 0;
        });
    }

    bool supportsFormatCombination(int32_t pos, const DynamicDesc* inOut, int32_t nbInputs,
                                   int32_t nbOutputs) noexcept override
    {
        if (!counts_are(nbInputs, nbOutputs) || pos < 0 || pos > Op::kInputs) {
            return false;
        }
        if (pos == Op::kInputs) {
            return inOut[pos].desc.format == nvinfer1::TensorFormat::kLINEAR &&
                   inOut[pos].desc.type == inOut[Op::kOutputLike].desc.type;
        }
        DataType types[Op::kInputs]{};
        nvinfer1::TensorFormat layouts[Op::kInputs]{};
        for (int32_t i = 0; i <= pos; ++i) {
            types[i] = inOut[i].desc.type;
            layouts[i] = inOut[i].desc.format;
        }
        return Op::accepts(pos, types) && Op::accepts_layout(pos, types, layouts);
    }

    int32_t configurePlugin(const DynamicDesc* in, int32_t nbInputs, const DynamicDesc*,
                            int32_t nbOutputs) noexcept override
    {
        if (!counts_are(nbInputs, nbOutputs)) {
            return -1;
        }
        for (int32_t i = 0; i < nbInputs; ++i) {
            if (!rank_is(i, in[i].desc.dims.nbDims)) {
                return -1;
            }
        }
        return 0;
    }

    size_t getWorkspaceSize(const DynamicDesc*, int32_t, const DynamicDesc*, int32_t) const noexcept override
    {
        return 0;
    }

    const char* getTimingCacheID() noexcept override
    {
        return state_.c_str();
    }

    const char* getMetadataString() noexcept override
    {
        return state_.c_str();
    }

    // Runtime

    int32_t onShapeChange(const TensorDesc* in, int32_t nbInputs, const TensorDesc*,
                          int32_t nbOutputs) noexcept override
    {
        if (!counts_are(nbInputs, nbOutputs) || !shapes_fit(in)) {
            return -1;
        }
        const cudaError_t status = op_.prepare(in);
        // Engines are also built without a GPU.
        return gpu_is_absent(status) ? 0 : report("onShapeChange", status);
    }

    int32_t enqueue(const TensorDesc* inputDesc, const TensorDesc*, const void* const* inputs,
                    void* const* outputs, void*, cudaStream_t stream) noexcept override
    {
        if (!shapes_fit(inputDesc)) {
            return -1;
        }
        return report("enqueue", op_.launch(inputDesc, inputs, outputs[0], stream));
    }

    nvinfer1::IPluginV3* attachToContext(nvinfer1::IPluginResourceContext*) noexcept override
    {
        return clone();
    }

    const nvinfer1::PluginFieldCollection* getFieldsToSerialize() noexcept override
    {
        return fields_.collection();
    }

private:
    static bool counts_are(int32_t nbInputs, int32_t nbOutputs) noexcept
    {
        if (nbInputs == Op::kInputs && nbOutputs == 1) {
            return true;
        }
        log(Severity::kERROR, Op::kName, "expected %d inputs and 1 output, got %d and %d", Op::kInputs,
            nbInputs, nbOutputs);
        return false;
    }

    static bool rank_is(int32_t input, int32_t rank) noexcept
    {
        if (rank == Op::kRanks[input]) {
            return true;
        }
        log(Severity::kERROR, Op::kName, "input %d: expected %d dimensions, got %d", input, Op::kRanks[input],
            rank);
        return false;
    }

    bool shapes_fit(const TensorDesc* in) const noexcept
    {
        for (int32_t i = 0; i < Op::kInputs; ++i) {
            if (!rank_is(i, in[i].dims.nbDims)) {
                return false;
            }
            for (int32_t d = 0; d < in[i].dims.nbDims; ++d) {
                // Kernels take sizes as int.
                if (in[i].dims.d[d] < 0 || in[i].dims.d[d] > INT32_MAX) {
                    log(Severity::kERROR, Op::kName, "input %d: size %lld of dimension %d", i,
                        static_cast<long long>(in[i].dims.d[d]), d);
                    return false;
                }
            }
        }
        const char* const problem = op_.shape_problem(in);
        if (problem != nullptr) {
            log(Severity::kERROR, Op::kName, "%s", problem);
        }
        return problem == nullptr;
    }

    static int32_t report(const char* method, cudaError_t status) noexcept
    {
        if (status != cudaSuccess) {
            log(Severity::kERROR, Op::kName, "%s: %s: %s", method, cudaGetErrorName(status),
                cudaGetErrorString(status));
        }
        if (status == cudaErrorInsufficientDriver) {
            const int driver = driver_version();
            log(Severity::kERROR, Op::kName,
                "the NVIDIA driver knows CUDA %d.%d, this library was built with CUDA %d.%d: update the "
                "driver, or build the library with CUDA %d",
                driver / 1000, driver % 1000 / 10, CUDART_VERSION / 1000, CUDART_VERSION % 1000 / 10,
                driver / 1000);
        }
        return static_cast<int32_t>(status);
    }

    Op op_;
    FieldWriter fields_; // points into op_
    std::string state_;
};

template <class Op>
class Creator final : public nvinfer1::IPluginCreatorV3One {
public:
    Creator() : fields_(false)
    {
        Op op;
        op.fields(fields_);
    }

    nvinfer1::IPluginV3* createPlugin(const char*, const nvinfer1::PluginFieldCollection* collection,
                                      nvinfer1::TensorRTPhase) noexcept override
    {
        return guarded<nvinfer1::IPluginV3*>(Op::kName, "createPlugin", nullptr,
                                             [&]() -> nvinfer1::IPluginV3* {
                                                 Op op;
                                                 FieldReader reader(Op::kName, collection);
                                                 op.fields(reader);
                                                 if (!reader.ok()) {
                                                     return nullptr;
                                                 }
                                                 if (const char* const problem = op.field_problem()) {
                                                     log(Severity::kERROR, Op::kName, "field %s", problem);
                                                     return nullptr;
                                                 }
                                                 return new Plugin<Op>(std::move(op));
                                             });
    }

    const nvinfer1::PluginFieldCollection* getFieldNames() noexcept override
    {
        return fields_.collection();
    }

    const char* getPluginName() const noexcept override
    {
        return Op::kName;
    }

    const char* getPluginVersion() const noexcept override
    {
        return kVersion;
    }

    const char* getPluginNamespace() const noexcept override
    {
        return kNamespace;
    }

private:
    FieldWriter fields_;
};

} // namespace imp_trt
