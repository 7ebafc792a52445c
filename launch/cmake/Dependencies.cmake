# Every library the project needs, and the Debian/Ubuntu package that holds it. One place, one message.
find_package(Threads REQUIRED)
find_package(PkgConfig REQUIRED)
find_package(MPI REQUIRED COMPONENTS C)            # libopenmpi-dev or libmpich-dev
find_package(HDF5 REQUIRED COMPONENTS C)           # libhdf5-dev (serial is enough: ranks read with pread)
pkg_check_modules(JANSSON REQUIRED IMPORTED_TARGET jansson>=2.12)      # libjansson-dev
pkg_check_modules(PCRE2 REQUIRED IMPORTED_TARGET libpcre2-8>=10.40)    # libpcre2-dev
pkg_check_modules(UTF8PROC REQUIRED IMPORTED_TARGET libutf8proc)       # libutf8proc-dev
pkg_check_modules(XXHASH REQUIRED IMPORTED_TARGET libxxhash>=0.8.0)    # libxxhash-dev
pkg_check_modules(MICROHTTPD REQUIRED IMPORTED_TARGET libmicrohttpd>=0.9.71) # libmicrohttpd-dev (LGPL-2.1+, linked as a shared library)
pkg_check_modules(CURL REQUIRED IMPORTED_TARGET libcurl>=7.68)          # libcurl4-openssl-dev; marlin-bench serve

# CUDA: kernels/cuda and comm/nccl.c. AUTO takes them where nvcc is; ON insists. At run time a program needs the driver, cuBLASLt
# and (for several ranks) NCCL only when it computes on GPUs: they are opened then, not linked.
set(MW_HAVE_CUDA OFF)
set(MW_HAVE_NCCL OFF)
if(MW_CUDA STREQUAL "ON" OR (MW_CUDA STREQUAL "AUTO" AND NOT MW_SANITIZE)) # nvcc and the driver do not go with sanitizers
  include(CheckLanguage)
  if(NOT DEFINED CMAKE_CUDA_COMPILER AND EXISTS "$ENV{CUDA_HOME}/bin/nvcc")
    set(CMAKE_CUDA_COMPILER "$ENV{CUDA_HOME}/bin/nvcc")
  endif()
  check_language(CUDA)
  if(CMAKE_CUDA_COMPILER)
    set(MW_HAVE_CUDA ON)
    if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES)
      set(CMAKE_CUDA_ARCHITECTURES "80-real;86-real;89-real;90a-real" CACHE STRING "GPU generations to compile for")
    endif()
    enable_language(CUDA)
    find_package(CUDAToolkit REQUIRED)
    find_path(NCCL_INCLUDE_DIR nccl.h HINTS ${CUDAToolkit_INCLUDE_DIRS})   # libnccl-dev
    if(NCCL_INCLUDE_DIR)
      set(MW_HAVE_NCCL ON)
    endif()
  elseif(MW_CUDA STREQUAL "ON")
    message(FATAL_ERROR "MW_CUDA=ON, but no CUDA compiler was found: put nvcc on PATH or set CUDA_HOME")
  endif()
endif()
message(STATUS "CUDA half: ${MW_HAVE_CUDA}, NCCL: ${MW_HAVE_NCCL}")
