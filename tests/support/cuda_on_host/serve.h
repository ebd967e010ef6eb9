// SPDX-License-Identifier: Apache-2.0
// Reads launches from stdin, runs them, writes the buffers they changed to stdout. All little-endian:
//   u32 length, name; u32 grid[3], block[3]; u32 count of arguments, each u8 kind and
//     0 buffer: u8 returned, u32 offset from a multiple of 16 bytes, u64 size, bytes
//     1 int32   2 int64   3 float32   4 null pointer
// The answer is the bytes of the returned buffers in their order.
#ifndef CUDA_ON_HOST_SERVE_H
#define CUDA_ON_HOST_SERVE_H

#include <stdio.h>
#include <stdlib.h>

#include <string>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include "launch.h"

namespace cuda_on_host {

inline bool read_bytes(void* target, size_t size)
{
    return fread(target, 1, size, stdin) == size;
}

template <class T>
T read_value()
{
    T value{};
    if (!read_bytes(&value, sizeof value)) {
        fprintf(stderr, "CUDA on host: a launch ends too early\n");
        exit(2);
    }
    return value;
}

// One argument. A buffer is as long as asked for, so that AddressSanitizer sees the first byte behind it.
struct Argument {
    unsigned char kind = 4;
    bool returned = false;
    unsigned long long size = 0;
    char* memory = nullptr;
    char* pointer = nullptr;
    long long integer = 0;
    float real = 0.0F;

    void read()
    {
        kind = read_value<unsigned char>();
        if (kind == 0) {
            returned = read_value<unsigned char>() != 0;
            const unsigned int offset = read_value<unsigned int>();
            size = read_value<unsigned long long>();
            memory = static_cast<char*>(malloc(size + offset));
            pointer = memory + offset;
            read_bytes(pointer, size);
        } else if (kind == 1) {
            integer = read_value<int>();
        } else if (kind == 2) {
            integer = read_value<long long>();
        } else if (kind == 3) {
            real = read_value<float>();
        }
    }

    template <class T>
    T as() const
    {
        const bool fits = std::is_pointer<T>::value          ? kind == 0 || kind == 4
                          : std::is_floating_point<T>::value ? kind == 3
                                                             : kind == (sizeof(T) == 4 ? 1 : 2);
        if (!fits) {
            fprintf(stderr, "CUDA on host: an argument has another type than the kernel's\n");
            exit(2);
        }
        if constexpr (std::is_pointer<T>::value) {
            return reinterpret_cast<T>(pointer);
        } else if constexpr (std::is_floating_point<T>::value) {
            return real;
        } else {
            return static_cast<T>(integer);
        }
    }
};

template <class... A, size_t... I>
void call(void (*kernel)(A...), Dim3 grid, Dim3 block, const std::vector<Argument>& arguments,
          std::index_sequence<I...>)
{
    const std::tuple<A...> values{arguments[I].template as<A>()...};
    launch(grid, block, [&] { kernel(std::get<I>(values)...); });
}

template <class... A>
bool call_if(const char* wanted, const std::string& name, void (*kernel)(A...), Dim3 grid, Dim3 block,
             const std::vector<Argument>& arguments)
{
    if (name != wanted) {
        return false;
    }
    if (arguments.size() != sizeof...(A)) {
        fprintf(stderr, "CUDA on host: %s takes %zu arguments, got %zu\n", wanted, sizeof...(A),
                arguments.size());
        exit(2);
    }
    call(kernel, grid, block, arguments, std::index_sequence_for<A...>());
    return true;
}

template <class Dispatch>
int serve(Dispatch dispatch)
{
    unsigned int length = 0;
    while (read_bytes(&length, sizeof length)) {
        std::string name(length, ' ');
        read_bytes(&name[0], length);
        const Dim3 grid = read_value<Dim3>(), block = read_value<Dim3>();
        std::vector<Argument> arguments(read_value<unsigned int>());
        for (Argument& argument : arguments) {
            argument.read();
        }
        if (!dispatch(name, grid, block, arguments)) {
            fprintf(stderr, "CUDA on host: there is no kernel %s\n", name.c_str());
            return 2;
        }
        for (Argument& argument : arguments) {
            if (argument.returned) {
                fwrite(argument.pointer, 1, argument.size, stdout);
            }
            free(argument.memory);
        }
        fflush(stdout);
    }
    return 0;
}

}  // namespace cuda_on_host

#endif
