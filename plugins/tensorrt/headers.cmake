# SPDX-License-Identifier: Apache-2.0
# TensorRT's headers: those of an installation, or the official ones of a version, from NVIDIA's repository.
# The library does not link with TensorRT, it needs the headers only.

# The environment is read once: a later reconfiguration may not have it.
if(NOT TENSORRT_ROOT AND TensorRT_ROOT)
    set(TENSORRT_ROOT "${TensorRT_ROOT}")
elseif(NOT TENSORRT_ROOT AND DEFINED ENV{TENSORRT_ROOT})
    set(TENSORRT_ROOT "$ENV{TENSORRT_ROOT}")
elseif(NOT TENSORRT_ROOT AND DEFINED ENV{TensorRT_ROOT})
    set(TENSORRT_ROOT "$ENV{TensorRT_ROOT}")
endif()
set(TENSORRT_ROOT "${TENSORRT_ROOT}" CACHE PATH "TensorRT: the folder that holds include/, or the headers themselves" FORCE)
set(IMP_TRT_TENSORRT_VERSION "" CACHE STRING "Version whose headers to download without TENSORRT_ROOT, as 10.3.0")
set(IMP_TRT_HEADERS_URL "https://raw.githubusercontent.com/NVIDIA/TensorRT" CACHE STRING
    "Where the headers are: URL/COMMIT/include/NvInfer.h")

# A version is pinned to the commit of its tag, which can be moved; other versions use the tag.
set(IMP_TRT_COMMIT_10.3.0 c5b9de37f7ef9034e2efc621c664145c7c12436e)
set(IMP_TRT_COMMIT_10.16 52399f555c2f80cb690a4a558b604e1a5f227e7c)
set(IMP_TRT_COMMIT_11.1 82d1dca801c8318a5605399d5240780d0679e4e1)

set(IMP_TRT_HEADERS NvInferRuntime.h NvInferRuntimeBase.h NvInferRuntimeCommon.h NvInferRuntimePlugin.h
    NvInferImpl.h NvInferLegacyDims.h NvInferVersion.h)
set(IMP_TRT_HEADERS_OF_SOME_VERSIONS NvInferPluginBase.h)

# Sets IMP_TRT_TENSORRT_INCLUDE, IMP_TRT_TENSORRT_MAJOR and IMP_TRT_TENSORRT_MINOR for the caller.
function(imp_trt_find_tensorrt_headers)
    if(TENSORRT_ROOT)
        set(root ${TENSORRT_ROOT})
        find_path(found NvInferRuntime.h PATHS ${root}/include ${root} ${root}/include/${CMAKE_LIBRARY_ARCHITECTURE}
            NO_DEFAULT_PATH NO_CACHE)
        if(NOT found)
            message(FATAL_ERROR "TENSORRT_ROOT=${root} has no NvInferRuntime.h, neither in include/ nor itself")
        endif()
    elseif(IMP_TRT_TENSORRT_VERSION)
        imp_trt_download_headers(found)
    else()
        # Debian packages, JetPack and DriveOS install into the compiler's own folders.
        find_path(found NvInferRuntime.h PATHS /usr/include/${CMAKE_LIBRARY_ARCHITECTURE} NO_CACHE)
        if(NOT found)
            message(FATAL_ERROR "No TensorRT headers found. Give -DTENSORRT_ROOT=FOLDER (or the environment variable "
                "TENSORRT_ROOT), the folder of an installation or of its include/; or, with a network, "
                "-DIMP_TRT_TENSORRT_VERSION=10.3.0 to download the headers of that version.")
        endif()
    endif()

    file(STRINGS ${found}/NvInferVersion.h lines REGEX "#define +(NV_TENSORRT|TRT)_(MAJOR|MINOR)")
    foreach(part MAJOR MINOR)
        # 10.15 and later define NV_TENSORRT_MAJOR as TRT_MAJOR_ENTERPRISE.
        string(REGEX MATCH "_${part}(_ENTERPRISE)? +([0-9]+)" match "${lines}")
        if(NOT match)
            message(FATAL_ERROR "${found}/NvInferVersion.h states no version; is TENSORRT_ROOT an installation of "
                "TensorRT 10 or later?")
        endif()
        set(IMP_TRT_TENSORRT_${part} ${CMAKE_MATCH_2} PARENT_SCOPE)
        list(APPEND version ${CMAKE_MATCH_2})
    endforeach()
    list(GET version 0 major)
    if(major LESS 10)
        message(FATAL_ERROR "${found} is TensorRT ${major}, which has no IPluginV3; TENSORRT_ROOT must be 10.0 or later")
    endif()
    list(JOIN version "." version)
    message(STATUS "TensorRT ${version} headers: ${found}")
    set(IMP_TRT_TENSORRT_INCLUDE ${found} PARENT_SCOPE)
endfunction()

function(imp_trt_download_headers result)
    set(version ${IMP_TRT_TENSORRT_VERSION})
    set(commit v${version})
    if(DEFINED IMP_TRT_COMMIT_${version})
        set(commit ${IMP_TRT_COMMIT_${version}})
    endif()
    set(folder ${CMAKE_BINARY_DIR}/tensorrt-headers-${version})
    foreach(header ${IMP_TRT_HEADERS} ${IMP_TRT_HEADERS_OF_SOME_VERSIONS})
        if(EXISTS ${folder}/${header})
            continue()
        endif()
        file(DOWNLOAD ${IMP_TRT_HEADERS_URL}/${commit}/include/${header} ${folder}/${header}.part STATUS status
            INACTIVITY_TIMEOUT 30)
        list(GET status 0 code)
        if(code EQUAL 0)
            file(RENAME ${folder}/${header}.part ${folder}/${header})
            continue()
        endif()
        file(REMOVE ${folder}/${header}.part)
        if(header IN_LIST IMP_TRT_HEADERS)
            list(GET status 1 reason)
            message(FATAL_ERROR "Cannot download ${header} of TensorRT ${version} from ${IMP_TRT_HEADERS_URL}: "
                "${reason}. Without a network give -DTENSORRT_ROOT=FOLDER, an installation of TensorRT.")
        endif()
    endforeach()
    set(${result} ${folder} PARENT_SCOPE)
endfunction()
