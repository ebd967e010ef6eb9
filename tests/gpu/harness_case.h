// SPDX-License-Identifier: Apache-2.0
// What plugin_harness needs besides the plugin: a case read from a folder, and stand-ins for TensorRT's side.
#pragma once

#include <NvInferRuntime.h>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <deque>
#include <fstream>
#include <iterator>
#include <limits>
#include <map>
#include <sstream>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace harness {

using nvinfer1::DataType;

struct Failure : std::runtime_error {
    using std::runtime_error::runtime_error;
};

inline void require(bool condition, const std::string& what)
{
    if (!condition) {
        throw Failure(what);
    }
}

struct Tensor {
    std::string name;
    DataType type;
    std::vector<int64_t> shape;
    std::vector<char> bytes; // of an input

    int64_t count() const
    {
        int64_t product = 1;
        for (const int64_t side : shape) {
            product *= side;
        }
        return product;
    }
};

struct Field {
    std::string name;
    nvinfer1::PluginFieldType type;
    std::vector<char> bytes;
    int32_t length;
};

// A folder with case.txt, one item a line:
//   operator NAME | int NAME VALUE | float NAME VALUE | text NAME VALUE | tolerance ABSOLUTE RELATIVE
//   input NAME TYPE SHAPE... (little-endian values in NAME.bin)
//   output TYPE SHAPE...     (float64 reference values in expected.bin)
struct Case {
    std::string folder;
    std::string op;
    std::vector<Field> fields;
    std::vector<Tensor> inputs;
    Tensor output;
    std::vector<double> expected;
    double absolute{};
    double relative{};
};

inline size_t size_of(DataType type)
{
    switch (type) {
    case DataType::kFLOAT:
    case DataType::kINT32:
        return 4;
    case DataType::kINT64:
        return 8;
    default:
        return 2;
    }
}

inline DataType type_of(const std::string& name)
{
    static const std::map<std::string, DataType> types{{"f32", DataType::kFLOAT},
                                                       {"f16", DataType::kHALF},
                                                       {"bf16", DataType::kBF16},
                                                       {"i32", DataType::kINT32},
                                                       {"i64", DataType::kINT64}};
    const auto found = types.find(name);
    require(found != types.end(), "unknown type " + name);
    return found->second;
}

inline std::vector<char> read_file(const std::string& path)
{
    std::ifstream stream(path, std::ios::binary);
    require(stream.good(), "cannot read " + path);
    return {std::istreambuf_iterator<char>(stream), {}};
}

template <class T>
Field make_field(const std::string& name, nvinfer1::PluginFieldType type, T value)
{
    std::vector<char> bytes(sizeof value);
    std::memcpy(bytes.data(), &value, sizeof value);
    return {name, type, bytes, 1};
}

inline Tensor read_tensor(std::istringstream& line, const std::string& name)
{
    Tensor tensor;
    tensor.name = name;
    std::string type;
    line >> type;
    tensor.type = type_of(type);
    for (int64_t side = 0; line >> side;) {
        tensor.shape.push_back(side);
    }
    return tensor;
}

inline Case read_case(const std::string& folder)
{
    using Type = nvinfer1::PluginFieldType;
    Case read;
    read.folder = folder;
    std::ifstream stream(folder + "/case.txt");
    require(stream.good(), "cannot read " + folder + "/case.txt");
    for (std::string text; std::getline(stream, text);) {
        std::istringstream line(text);
        std::string item, name;
        line >> item;
        if (item == "operator") {
            line >> read.op;
        } else if (item == "int") {
            int32_t value{};
            line >> name >> value;
            read.fields.push_back(make_field(name, Type::kINT32, value));
        } else if (item == "float") {
            float value{};
            line >> name >> value;
            read.fields.push_back(make_field(name, Type::kFLOAT32, value));
        } else if (item == "text") {
            std::string value;
            line >> name >> value;
            read.fields.push_back(
                {name, Type::kCHAR, {value.begin(), value.end()}, static_cast<int32_t>(value.size())});
        } else if (item == "tolerance") {
            line >> read.absolute >> read.relative;
        } else if (item == "input") {
            line >> name;
            read.inputs.push_back(read_tensor(line, name));
            Tensor& tensor = read.inputs.back();
            tensor.bytes = read_file(folder + "/" + name + ".bin");
            const size_t size = static_cast<size_t>(tensor.count()) * size_of(tensor.type);
            require(tensor.bytes.size() == size, folder + ": size of " + name);
        } else if (item == "output") {
            read.output = read_tensor(line, "output");
            const std::vector<char> bytes = read_file(folder + "/expected.bin");
            read.expected.resize(bytes.size() / sizeof(double));
            std::memcpy(read.expected.data(), bytes.data(), read.expected.size() * sizeof(double));
            require(static_cast<int64_t>(read.expected.size()) == read.output.count(),
                    folder + ": expected.bin");
        } else {
            require(item.empty(), folder + ": " + item);
        }
    }
    return read;
}

// Element number index of a raw array.
inline double value_at(const std::vector<char>& bytes, DataType type, size_t index)
{
    if (type == DataType::kFLOAT) {
        float value{};
        std::memcpy(&value, bytes.data() + index * 4, 4);
        return value;
    }
    uint16_t bits{};
    std::memcpy(&bits, bytes.data() + index * 2, 2);
    if (type == DataType::kBF16) {
        const uint32_t wide = static_cast<uint32_t>(bits) << 16;
        float value{};
        std::memcpy(&value, &wide, 4);
        return value;
    }
    const int exponent = (bits >> 10) & 31;
    const int fraction = bits & 1023;
    const double sign = (bits >> 15) != 0 ? -1.0 : 1.0;
    if (exponent == 31) {
        return fraction == 0 ? sign * HUGE_VAL : std::numeric_limits<double>::quiet_NaN();
    }
    return sign * (exponent == 0 ? std::ldexp(fraction, -24) : std::ldexp(1024 + fraction, exponent - 25));
}

// A size known when the engine is built. TensorRT's own are opaque; these are numbers.
class Number final : public nvinfer1::IDimensionExpr {
public:
    explicit Number(int64_t value) : behind_(value)
    {
        mImpl = &behind_;
    }

private:
    struct Behind final : nvinfer1::apiv::VDimensionExpr {
        explicit Behind(int64_t value) : value(value) {}

        bool isConstant() const override
        {
            return true;
        }

        int64_t getConstantValue() const override
        {
            return value;
        }

        bool isSizeTensor() const override
        {
            return false;
        }

        int64_t value;
    };

    Behind behind_;
};

class Builder final : public nvinfer1::IExprBuilder {
public:
    Builder()
    {
        mImpl = &behind_;
    }

private:
    struct Behind final : nvinfer1::apiv::VExprBuilder {
        const nvinfer1::IDimensionExpr* constant(int64_t value) override
        {
            return &numbers.emplace_back(value);
        }

        const nvinfer1::IDimensionExpr* operation(nvinfer1::DimensionOperation op,
                                                  const nvinfer1::IDimensionExpr& first,
                                                  const nvinfer1::IDimensionExpr& second) override
        {
            require(op == nvinfer1::DimensionOperation::kPROD, "only products are expected");
            return constant(first.getConstantValue() * second.getConstantValue());
        }

        const nvinfer1::IDimensionExpr* declareSizeTensor(int32_t, const nvinfer1::IDimensionExpr&,
                                                          const nvinfer1::IDimensionExpr&) override
        {
            throw Failure("no size tensor is expected");
        }

        std::deque<Number> numbers;
    };

    Behind behind_;
};

// Keeps what the plugin logs.
class Log final : public nvinfer1::ILogger, public nvinfer1::ILoggerFinder {
public:
    void log(Severity, const char* message) noexcept override
    {
        text += std::string(message) + "\n";
    }

    nvinfer1::ILogger* findLogger() override
    {
        return this;
    }

    std::string take()
    {
        return std::exchange(text, "");
    }

private:
    std::string text;
};

} // namespace harness
