// SPDX-License-Identifier: Apache-2.0
// The part of plugin_harness that runs kernels.
#pragma once

#include "harness_checks.h"

#include <cuda_runtime_api.h>

namespace harness {

struct Options {
    bool gpu{true};
    bool short_output{false};
};

inline void check(cudaError_t status, const char* what)
{
    require(status == cudaSuccess, std::string(what) + ": " + cudaGetErrorString(status));
}

// Arrays on the GPU, freed with the object.
class Arrays {
public:
    Arrays(const Case& given, const Options& options)
        : size_(given.expected.size() * size_of(given.output.type))
    {
        for (const Tensor& tensor : given.inputs) {
            void* const input = allocate(tensor.bytes.size());
            inputs.push_back(input);
            check(cudaMemcpy(input, tensor.bytes.data(), tensor.bytes.size(), cudaMemcpyHostToDevice),
                  "cudaMemcpy");
        }
        // A copy from pageable memory may still be under way, and non-blocking streams do not wait for it.
        check(cudaDeviceSynchronize(), "cudaDeviceSynchronize");
        output = allocate(options.short_output ? size_ / 2 : size_);
        fill_size_ = options.short_output ? size_ / 2 : size_;
    }

    Arrays(const Arrays&) = delete;
    Arrays& operator=(const Arrays&) = delete;

    ~Arrays()
    {
        for (void* const pointer : all_) {
            cudaFree(pointer);
        }
    }

    // Not-a-number in every type, so that what is not written shows.
    void poison(cudaStream_t stream)
    {
        check(cudaMemsetAsync(output, 0xff, fill_size_, stream), "cudaMemsetAsync");
    }

    std::vector<char> result(cudaStream_t stream)
    {
        check(cudaStreamSynchronize(stream), "cudaStreamSynchronize");
        std::vector<char> bytes(size_);
        check(cudaMemcpy(bytes.data(), output, fill_size_, cudaMemcpyDeviceToHost), "cudaMemcpy");
        return bytes;
    }

    std::vector<const void*> inputs;
    void* output{};

private:
    void* allocate(size_t size)
    {
        void* pointer = nullptr;
        check(cudaMalloc(&pointer, size > 0 ? size : 1), "cudaMalloc");
        all_.push_back(pointer);
        return pointer;
    }

    size_t size_;
    size_t fill_size_{};
    std::vector<void*> all_;
};

inline void compare(const std::vector<char>& bytes, const Case& given, const char* how)
{
    double worst = 0.0;
    for (size_t i = 0; i < given.expected.size(); ++i) {
        const double value = value_at(bytes, given.output.type, i);
        const double error = std::fabs(value - given.expected[i]);
        const double allowed = given.absolute + given.relative * std::fabs(given.expected[i]);
        require(error <= allowed, given.folder + ": " + how + ": element " + std::to_string(i) +
                                      ": expected " + std::to_string(given.expected[i]) + ", got " +
                                      std::to_string(value));
        worst = std::fmax(worst, error);
    }
    std::printf("ran %s %s, largest error %.3g\n", given.op.c_str(), how, worst);
}

inline void run(Plugin& plugin, const Case& given, const Options& options)
{
    const std::vector<nvinfer1::PluginTensorDesc> descs = descs_of(given);
    const nvinfer1::PluginTensorDesc* const output_desc = &descs.back();
    Plugin second(plugin.runtime->attachToContext(nullptr));
    const auto count = static_cast<int32_t>(given.inputs.size());
    require(second.runtime->onShapeChange(descs.data(), count, output_desc, 1) == 0, "onShapeChange");

    Arrays here(given, options), there(given, options);
    cudaStream_t stream{}, other{};
    check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "cudaStreamCreate");
    check(cudaStreamCreateWithFlags(&other, cudaStreamNonBlocking), "cudaStreamCreate");
    const auto enqueue = [&](Plugin& which, Arrays& arrays, cudaStream_t where) {
        void* const outputs[]{arrays.output};
        require(which.runtime->enqueue(descs.data(), output_desc, arrays.inputs.data(), outputs, nullptr,
                                       where) == 0,
                "enqueue: " + g_log.take());
    };

    // Under capture first: the kernels must be loaded by then.
    cudaGraph_t graph{};
    cudaGraphExec_t executable{};
    check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "cudaStreamBeginCapture");
    enqueue(plugin, here, stream);
    check(cudaStreamEndCapture(stream, &graph), "cudaStreamEndCapture");
    check(cudaGraphInstantiate(&executable, graph, 0), "cudaGraphInstantiate");
    std::vector<char> first;
    for (int turn = 0; turn < 2; ++turn) {
        here.poison(stream);
        check(cudaGraphLaunch(executable, stream), "cudaGraphLaunch");
        first = here.result(stream);
        compare(first, given, "from a graph");
    }

    here.poison(stream);
    there.poison(other);
    enqueue(plugin, here, stream);
    enqueue(second, there, other);
    require(here.result(stream) == first && there.result(other) == first,
            "two streams: other bits than the graph");
    std::printf("ran %s on two streams, same bits\n", given.op.c_str());
    check(cudaGraphExecDestroy(executable), "cudaGraphExecDestroy");
    check(cudaGraphDestroy(graph), "cudaGraphDestroy");
    check(cudaStreamDestroy(stream), "cudaStreamDestroy");
    check(cudaStreamDestroy(other), "cudaStreamDestroy");
}

} // namespace harness
