# Kernel tests: CPU backend. mw_ref: references and helpers that later backends' tests share.
add_library(mw_ref STATIC ref/ref_util.c ref/ref_gemm.c ref/ref_attn.c)
target_link_libraries(mw_ref PUBLIC mw_base m)

mw_test(kernels/test_cpu_device.c    LIBS mw_kernels         RANKS 1 GPUS 0 SECONDS 20)
mw_test(kernels/test_cpu_w4.c        LIBS mw_ref mw_kernels  RANKS 1 GPUS 0 SECONDS 60)
mw_test(kernels/test_cpu_dense.c     LIBS mw_ref mw_kernels  RANKS 1 GPUS 0 SECONDS 60)
mw_test(kernels/test_cpu_attention.c LIBS mw_ref mw_kernels  RANKS 1 GPUS 0 SECONDS 60)
mw_test(kernels/test_draw.c          LIBS mw_ref mw_kernels  RANKS 1 GPUS 0 SECONDS 30)
mw_test(kernels/test_cpu_rows.c      LIBS mw_ref mw_kernels  RANKS 1 GPUS 0 SECONDS 30)

# Built, not run by ctest: prints tables (see its head).
add_executable(bench_cpu kernels/bench_cpu.c)
target_link_libraries(bench_cpu PRIVATE mw_kernels)
set_target_properties(bench_cpu PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/tests)

# CUDA backend. The programs need no test framework, so that they can also be built by hand on a GPU machine.
if(TARGET mw_kernels_cuda)
  mw_test(kernels/test_cuda_draw.c      LIBS mw_ref mw_kernels RANKS 1 GPUS 1 SECONDS 60)
  mw_test(kernels/test_cuda_rows.c      LIBS mw_ref mw_kernels RANKS 1 GPUS 1 SECONDS 60)
  mw_test(kernels/test_cuda_dense.c     LIBS mw_ref mw_kernels RANKS 1 GPUS 1 SECONDS 60)
  mw_test(kernels/test_cuda_attention.c LIBS mw_ref mw_kernels RANKS 1 GPUS 1 SECONDS 90)
  mw_test(kernels/test_cuda_w4_config.c LIBS mw_kernels        RANKS 1 GPUS 0 SECONDS 20)
  mw_test(kernels/test_cuda_w4.cu       LIBS mw_ref mw_kernels RANKS 1 GPUS 1 SECONDS 90)
  if(TARGET CUDA::cublas)
    add_executable(bench_cuda_w4 kernels/bench_cuda_w4.cu)
    target_link_libraries(bench_cuda_w4 PRIVATE mw_kernels CUDA::cublas)
    set_target_properties(bench_cuda_w4 PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/tests CUDA_STANDARD 17)
  endif()
  add_executable(bench_cuda_attention kernels/bench_cuda_attention.cu)
  target_link_libraries(bench_cuda_attention PRIVATE mw_kernels)
  set_target_properties(bench_cuda_attention PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/tests)
endif()
