// SPDX-License-Identifier: Apache-2.0
// Segments raw video with an engine of imp-export: BGR frames of the engine's size on stdin, class maps (one byte a
// pixel) on stdout, what was found and how long it took on stderr.
//
//   imp_trt_app ENGINE [PLUGIN_LIBRARY] < frames.bgr > classes.gray
//
// TensorRT 10 or 11 (or TensorRT-RTX 1.x) and the CUDA runtime; nothing else.

#include <NvInferRuntime.h>
#include <cuda_runtime_api.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <fstream>
#include <iterator>
#include <map>
#include <memory>
#include <numeric>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

struct Logger : nvinfer1::ILogger {
    void log(Severity severity, const char* text) noexcept override
    {
        if (severity <= Severity::kWARNING) {
            std::fprintf(stderr, "TensorRT: %s\n", text);
        }
    }
};

template <typename T> T* need(T* pointer, const std::string& what)
{
    if (pointer == nullptr) {
        throw std::runtime_error(what);
    }
    return pointer;
}

void need(cudaError_t status, const char* what)
{
    if (status != cudaSuccess) {
        throw std::runtime_error(std::string(what) + ": " + cudaGetErrorString(status));
    }
}

std::vector<char> read_file(const char* path)
{
    std::ifstream file(path, std::ios::binary);
    need(file.is_open() ? path : nullptr, std::string("cannot read ") + path);
    return {std::istreambuf_iterator<char>(file), {}};
}

// One tensor of the engine: its memory on the GPU, and pinned memory on the host. Both live as long as the program.
struct Tensor {
    size_t bytes = 0;
    void *device = nullptr, *host = nullptr;
};

Tensor make_tensor(const nvinfer1::ICudaEngine& engine, const char* name)
{
    const nvinfer1::Dims shape = engine.getTensorShape(name);
    const bool wide = engine.getTensorDataType(name) != nvinfer1::DataType::kUINT8; // else float32 or int32
    Tensor tensor;
    tensor.bytes = wide ? 4 : 1;
    for (int i = 0; i < shape.nbDims; ++i) {
        tensor.bytes *= static_cast<size_t>(shape.d[i]);
    }
    // A network without a detector has tensors without elements, which need an address all the same.
    need(cudaMalloc(&tensor.device, std::max<size_t>(tensor.bytes, 1)), "cudaMalloc");
    need(cudaMallocHost(&tensor.host, std::max<size_t>(tensor.bytes, 1)), "cudaMallocHost");
    return tensor;
}

double percentile(std::vector<double>& ms, double share)
{
    std::sort(ms.begin(), ms.end());
    return ms.empty() ? 0 : ms[static_cast<size_t>(share * double(ms.size() - 1))];
}

void segment(const char* engine_path, const char* plugin_library)
{
    int gpus = 0;
    need(cudaGetDeviceCount(&gpus), "no CUDA GPU");
    Logger logger;
    std::unique_ptr<nvinfer1::IRuntime> runtime(need(nvinfer1::createInferRuntime(logger), "no TensorRT runtime"));
    if (plugin_library != nullptr) {
        need(runtime->getPluginRegistry().loadLibrary(plugin_library), std::string("cannot load ") + plugin_library);
    }
    const std::vector<char> plan = read_file(engine_path);
    std::unique_ptr<nvinfer1::ICudaEngine> engine(need(
        runtime->deserializeCudaEngine(plan.data(), plan.size()), "TensorRT rejects the engine; see its message"));
    std::unique_ptr<nvinfer1::IExecutionContext> context(need(engine->createExecutionContext(), "out of memory"));

    std::map<std::string, Tensor> tensors;
    for (int32_t i = 0; i < engine->getNbIOTensors(); ++i) {
        const char* const name = engine->getIOTensorName(i);
        tensors[name] = make_tensor(*engine, name);
        if (!context->setTensorAddress(name, tensors[name].device)) {
            throw std::runtime_error(std::string("TensorRT rejects the address of ") + name);
        }
    }
    // imp-export's contract: frame [B, H, W, 3] -> semantic [B, H, W], boxes, scores, labels, masks, num_detections.
    const Tensor &frame = tensors.at("frame"), &semantic = tensors.at("semantic");
    const Tensor& count = tensors.at("num_detections");
    const nvinfer1::Dims size = engine->getTensorShape("frame");
    std::fprintf(stderr, "frames of %dx%d, %d at a time\n", int(size.d[2]), int(size.d[1]), int(size.d[0]));

    cudaStream_t stream = nullptr;
    need(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "cudaStreamCreate");
    std::vector<double> ms;
    const size_t batch = static_cast<size_t>(size.d[0]), frame_bytes = frame.bytes / batch;
    size_t total = 0, got = 0;
    while ((got = std::fread(frame.host, 1, frame.bytes, stdin)) > 0) {
        // Fewer in the last call; the rest of the batch is of the one before.
        const size_t frames = got / frame_bytes;
        const auto start = std::chrono::steady_clock::now();
        need(cudaMemcpyAsync(frame.device, frame.host, frame.bytes, cudaMemcpyHostToDevice, stream), "upload");
        if (!context->enqueueV3(stream)) {
            throw std::runtime_error("TensorRT cannot run the engine");
        }
        for (const Tensor* out : {&semantic, &count}) {
            need(cudaMemcpyAsync(out->host, out->device, out->bytes, cudaMemcpyDeviceToHost, stream), "download");
        }
        need(cudaStreamSynchronize(stream), "the network");
        ms.push_back(std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count());
        const size_t map_bytes = frames * (semantic.bytes / batch);
        if (std::fwrite(semantic.host, 1, map_bytes, stdout) != map_bytes) {
            throw std::runtime_error("cannot write the class map");
        }
        total += frames;
        const auto* const counts = static_cast<const int32_t*>(count.host);
        const int32_t instances = std::accumulate(counts, counts + frames, 0);
        std::fprintf(stderr, "%zu: %d instances, %.2f ms\n", total, instances, ms.back());
        if (got % frame_bytes != 0) {
            throw std::runtime_error("stdin ends within a frame; are its frames BGR, and of the size above?");
        }
    }
    if (std::ferror(stdin) != 0 || std::fflush(stdout) != 0) {
        throw std::runtime_error("cannot read the frames, or write the class maps");
    }
    std::fprintf(stderr, "%zu frames, p50 %.2f ms, p99 %.2f ms from frame in host memory to class map there\n",
                 total, percentile(ms, 0.5), percentile(ms, 0.99));
}

} // namespace

int main(int argc, char** argv)
{
    if (argc < 2 || argc > 3) {
        std::fprintf(stderr, "usage: %s ENGINE [PLUGIN_LIBRARY] < frames.bgr > classes.gray\n", argv[0]);
        return 2;
    }
    try {
        segment(argv[1], argc == 3 ? argv[2] : nullptr);
    } catch (const std::exception& error) {
        std::fprintf(stderr, "%s: %s\n", argv[0], error.what());
        return 1;
    }
}
