# SPDX-License-Identifier: Apache-2.0
# Which GPUs to compile for: Turing to Blackwell, in cars, on desks and in data centers, as far as nvcc knows them.
# 87 is Orin; Thor is 101 for CUDA 12 and 110 from CUDA 13 on.

set(IMP_TRT_ARCHITECTURES 75 80 86 87 89 90 100 101 103 110 120 121)

function(imp_trt_find_nvcc)
    include(CheckLanguage)
    check_language(CUDA)
    if(NOT CMAKE_CUDA_COMPILER)
        message(FATAL_ERROR "nvcc not found. Put it on PATH, or give -DCMAKE_CUDA_COMPILER=/usr/local/cuda/bin/nvcc")
    endif()
    set(CMAKE_CUDA_COMPILER ${CMAKE_CUDA_COMPILER} PARENT_SCOPE)
endfunction()

# Machine code for every listed GPU, and PTX of the newest for those to come.
function(imp_trt_default_architectures)
    if(CMAKE_CUDA_ARCHITECTURES OR DEFINED ENV{CUDAARCHS})
        return()
    endif()
    execute_process(COMMAND ${CMAKE_CUDA_COMPILER} --list-gpu-arch OUTPUT_VARIABLE known RESULT_VARIABLE failed)
    if(failed)
        message(FATAL_ERROR "${CMAKE_CUDA_COMPILER} --list-gpu-arch failed; CUDA 11.8 or later is needed")
    endif()
    string(REGEX MATCHALL "[0-9]+" known "${known}")
    foreach(architecture ${IMP_TRT_ARCHITECTURES})
        if(architecture IN_LIST known)
            list(APPEND chosen ${architecture}-real)
            set(newest ${architecture})
        endif()
    endforeach()
    list(APPEND chosen ${newest}-virtual)
    set(CMAKE_CUDA_ARCHITECTURES ${chosen} CACHE STRING "CUDA architectures to compile for" FORCE)
endfunction()
