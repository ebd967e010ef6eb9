// SPDX-License-Identifier: Apache-2.0
// Faults that compute-sanitizer must find, so that its silence about the plugins means something.
#include <cstdio>
#include <cstring>

__global__ void write_behind_the_end(int* values, int count)
{
    values[count + threadIdx.x] = 1;
}

__global__ void race_in_shared_memory(int* result)
{
    __shared__ int memory[64];
    memory[threadIdx.x] = static_cast<int>(threadIdx.x);
    // __syncthreads() is missing here: the last warp's value may not be there yet.
    result[threadIdx.x] = memory[63 - threadIdx.x];
}

int main(int argc, char** argv)
{
    int* values = nullptr;
    if (argc != 2 || cudaMalloc(&values, 64 * sizeof(int)) != cudaSuccess) {
        return 2;
    }
    if (std::strcmp(argv[1], "memcheck") == 0) {
        write_behind_the_end<<<1, 1>>>(values, 64);
    } else {
        race_in_shared_memory<<<1, 64>>>(values);
    }
    std::printf("%s\n", cudaGetErrorString(cudaDeviceSynchronize()));
    return 0;
}
