// SPDX-License-Identifier: Apache-2.0
#include "tensorrt/log.h"

#include <atomic>
#include <cstdarg>
#include <cstdio>

namespace imp_trt {
namespace {

std::atomic<nvinfer1::ILoggerFinder*> g_finder{nullptr};

nvinfer1::ILogger* findLogger() noexcept
{
    nvinfer1::ILoggerFinder* const finder = g_finder.load();
    if (finder == nullptr) {
        return nullptr;
    }
    try {
        return finder->findLogger();
    } catch (...) {
        return nullptr;
    }
}

} // namespace

void set_logger_finder(nvinfer1::ILoggerFinder* finder) noexcept
{
    g_finder.store(finder);
}

void log(Severity severity, const char* op, const char* format, ...) noexcept
{
    char text[1024];
    const int used = std::snprintf(text, sizeof text, "%s: ", op);
    va_list arguments;
    va_start(arguments, format);
    std::vsnprintf(text + used, sizeof text - static_cast<size_t>(used), format, arguments);
    va_end(arguments);
    if (nvinfer1::ILogger* const logger = findLogger()) {
        logger->log(severity, text);
    } else if (severity <= Severity::kWARNING) {
        std::fprintf(stderr, "imp_trt plugin: %s\n", text);
    }
}

} // namespace imp_trt
