// SPDX-License-Identifier: Apache-2.0
// Runs all blocks of a grid, one after the other.
#ifndef CUDA_ON_HOST_LAUNCH_H
#define CUDA_ON_HOST_LAUNCH_H

#include <functional>

#include "cuda_on_host.h"

namespace cuda_on_host {

using Body = std::function<void()>;

void launch(Dim3 grid, Dim3 block, const Body& kernel);

}  // namespace cuda_on_host

#endif
