// SPDX-License-Identifier: Apache-2.0
#include "tensorrt/fields.h"

#include "tensorrt/log.h"

#include <cstdio>
#include <cstring>

namespace imp_trt {

using nvinfer1::PluginField;
using nvinfer1::PluginFieldType;

namespace {

const char* type_name(PluginFieldType type)
{
    switch (type) {
    case PluginFieldType::kINT32:
        return "INT32";
    case PluginFieldType::kFLOAT32:
        return "FLOAT32";
    case PluginFieldType::kCHAR:
        return "CHAR";
    default:
        return "another type";
    }
}

} // namespace

FieldReader::FieldReader(const char* op, const nvinfer1::PluginFieldCollection* collection)
    : op_(op), collection_(collection != nullptr ? *collection : nvinfer1::PluginFieldCollection{0, nullptr})
{}

void FieldReader::fail(const char* name, const char* why)
{
    log(Severity::kERROR, op_, "field %s %s", name, why);
    ok_ = false;
}

const PluginField* FieldReader::find(const char* name, PluginFieldType type)
{
    const PluginField* found = nullptr;
    for (int32_t i = 0; i < collection_.nbFields; ++i) {
        const PluginField& candidate = collection_.fields[i];
        if (candidate.name == nullptr || std::strcmp(candidate.name, name) != 0) {
            continue;
        }
        if (found != nullptr) {
            fail(name, "is given twice");
            return nullptr;
        }
        found = &candidate;
    }
    if (found == nullptr) {
        fail(name, "is missing");
        return nullptr;
    }
    if (found->type != type) {
        const std::string why = std::string("has type ") + type_name(found->type) + " (" +
                                std::to_string(static_cast<int32_t>(found->type)) + "), expected " +
                                type_name(type);
        fail(name, why.c_str());
        return nullptr;
    }
    const bool text = type == PluginFieldType::kCHAR;
    if (found->data == nullptr || (text ? found->length < 1 : found->length != 1)) {
        fail(name, text ? "is empty" : "must hold exactly one value");
        return nullptr;
    }
    return found;
}

void FieldReader::field(const char* name, int32_t& value)
{
    if (const PluginField* const found = find(name, PluginFieldType::kINT32)) {
        std::memcpy(&value, found->data, sizeof value);
    }
}

bool FieldReader::has(const char* name) const
{
    for (int32_t i = 0; i < collection_.nbFields; ++i) {
        const char* const candidate = collection_.fields[i].name;
        if (candidate != nullptr && std::strcmp(candidate, name) == 0) {
            return true;
        }
    }
    return false;
}

void FieldReader::optional_field(const char* name, int32_t& value)
{
    if (has(name)) {
        field(name, value);
    }
}

void FieldReader::field(const char* name, float& value)
{
    if (const PluginField* const found = find(name, PluginFieldType::kFLOAT32)) {
        std::memcpy(&value, found->data, sizeof value);
    }
}

void FieldReader::field(const char* name, std::string& value)
{
    if (const PluginField* const found = find(name, PluginFieldType::kCHAR)) {
        // In some parsers the length includes a terminating zero.
        const char* const data = static_cast<const char*>(found->data);
        value.assign(data, strnlen(data, static_cast<size_t>(found->length)));
    }
}

void FieldWriter::add(const char* name, const void* data, PluginFieldType type, size_t length)
{
    fields_.emplace_back(name, values_ ? data : nullptr, type, static_cast<int32_t>(length));
}

void FieldWriter::field(const char* name, int32_t& value)
{
    add(name, &value, PluginFieldType::kINT32, 1);
}

void FieldWriter::field(const char* name, float& value)
{
    add(name, &value, PluginFieldType::kFLOAT32, 1);
}

void FieldWriter::field(const char* name, std::string& value)
{
    // In a declaration the length of a text is unknown.
    add(name, value.data(), PluginFieldType::kCHAR, values_ ? value.size() : 0);
}

void FieldWriter::optional_field(const char* name, int32_t& value)
{
    if (!values_ || value != 0) { // a declaration has all fields
        field(name, value);
    }
}

const nvinfer1::PluginFieldCollection* FieldWriter::collection()
{
    collection_ = {static_cast<int32_t>(fields_.size()), fields_.data()};
    return &collection_;
}

void FieldText::add(const char* name, const std::string& value)
{
    text_ += (text_.empty() ? "" : " ") + std::string(name) + "=" + value;
}

void FieldText::field(const char* name, int32_t& value)
{
    add(name, std::to_string(value));
}

void FieldText::field(const char* name, float& value)
{
    char digits[32];
    std::snprintf(digits, sizeof digits, "%.9g", static_cast<double>(value));
    add(name, digits);
}

void FieldText::field(const char* name, std::string& value)
{
    add(name, value);
}

} // namespace imp_trt
