// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <NvInferRuntime.h>

namespace imp_trt {

using Severity = nvinfer1::ILogger::Severity;

// TensorRT hands its logger finder to the library through setLoggerFinder(); without one messages go to stderr.
void set_logger_finder(nvinfer1::ILoggerFinder* finder) noexcept;

// printf-like; a message longer than 1023 characters is cut.
void log(Severity severity, const char* op, const char* format, ...) noexcept
    __attribute__((format(printf, 3, 4)));

} // namespace imp_trt
