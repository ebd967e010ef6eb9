// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <NvInferRuntime.h>

namespace imp_trt {

using Severity = nvinfer1::ILogger::Severity;

// TensorRT passes its logger finder in setLoggerFinder(); without one messages go to stderr.
void set_logger_finder(nvinfer1::ILoggerFinder* finder) noexcept;

// printf-like; messages are truncated to 1023 characters.
void log(Severity severity, const char* op, const char* format, ...) noexcept
    __attribute__((format(printf, 3, 4)));

} // namespace imp_trt
