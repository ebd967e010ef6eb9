// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <NvInferRuntime.h>

#include <cstdint>
#include <string>
#include <vector>

namespace imp_trt {

// An operator lists its fields once, in fields(FieldVisitor&); visitors read, declare and write them.
class FieldVisitor {
public:
    virtual void field(const char* name, int32_t& value) = 0;
    virtual void field(const char* name, float& value) = 0;
    virtual void field(const char* name, std::string& value) = 0;

    // A field of a later version: where it is missing the value stays as it is.
    virtual void optional_field(const char* name, int32_t& value)
    {
        field(name, value);
    }

protected:
    ~FieldVisitor() = default;
};

// Reads the values from a collection; logs each field that is missing, repeated, or of another type or length.
class FieldReader final : public FieldVisitor {
public:
    FieldReader(const char* op, const nvinfer1::PluginFieldCollection* collection);

    void field(const char* name, int32_t& value) override;
    void field(const char* name, float& value) override;
    void field(const char* name, std::string& value) override;
    void optional_field(const char* name, int32_t& value) override;

    bool ok() const
    {
        return ok_;
    }

private:
    bool has(const char* name) const;
    const nvinfer1::PluginField* find(const char* name, nvinfer1::PluginFieldType type);
    void fail(const char* name, const char* why);

    const char* op_;
    nvinfer1::PluginFieldCollection collection_;
    bool ok_{true};
};

// Names, types and lengths, and with values == true also pointers to the visited values, which must outlive it.
// Text is written without its terminating zero.
// Writes an optional field only if it is not 0, so that an earlier version can load the engine.
class FieldWriter final : public FieldVisitor {
public:
    explicit FieldWriter(bool values) : values_(values) {}

    void field(const char* name, int32_t& value) override;
    void field(const char* name, float& value) override;
    void field(const char* name, std::string& value) override;
    void optional_field(const char* name, int32_t& value) override;

    const nvinfer1::PluginFieldCollection* collection();

private:
    void add(const char* name, const void* data, nvinfer1::PluginFieldType type, size_t length);

    bool values_;
    std::vector<nvinfer1::PluginField> fields_;
    nvinfer1::PluginFieldCollection collection_{};
};

// "name=value name=value": the attributes, for the timing cache and the engine inspector.
class FieldText final : public FieldVisitor {
public:
    void field(const char* name, int32_t& value) override;
    void field(const char* name, float& value) override;
    void field(const char* name, std::string& value) override;

    const std::string& text() const
    {
        return text_;
    }

private:
    void add(const char* name, const std::string& value);

    std::string text_;
};

} // namespace imp_trt
