# cmake --install: programs, man pages, completion, the embeddable library with its header, pkg-config and CMake packages.
include(CMakePackageConfigHelpers)

# One shared library from all layers; only what engine.h and status.h mark MW_API is visible outside.
add_library(marlin_worker_shared SHARED)
foreach(layer mw_base mw_text mw_shard mw_kernels mw_comm mw_worker)
  target_sources(marlin_worker_shared PRIVATE $<TARGET_OBJECTS:${layer}>)
endforeach()
target_link_libraries(marlin_worker_shared PRIVATE mw_worker)
set_target_properties(marlin_worker_shared PROPERTIES OUTPUT_NAME marlin-worker EXPORT_NAME marlin-worker
                      VERSION ${PROJECT_VERSION} SOVERSION ${PROJECT_VERSION_MAJOR} LINKER_LANGUAGE C)
target_include_directories(marlin_worker_shared INTERFACE $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}/marlin-worker>)

install(TARGETS marlin-worker marlin-convert marlin-pack marlin-bench RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
install(TARGETS marlin_worker_shared EXPORT marlin-worker LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(FILES worker/engine.h DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/marlin-worker/worker)
install(FILES worker/base/status.h DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/marlin-worker/worker/base)
install(FILES docs/man/marlin-worker.1 docs/man/marlin-convert.1 docs/man/marlin-pack.1 docs/man/marlin-bench.1
        DESTINATION ${CMAKE_INSTALL_MANDIR}/man1)
foreach(tool marlin-worker marlin-convert marlin-pack marlin-bench)
  install(FILES launch/completions/marlin.bash RENAME ${tool}
          DESTINATION ${CMAKE_INSTALL_DATADIR}/bash-completion/completions)
endforeach()
install(FILES README.md LICENSE docs/ARCHITECTURE.md docs/BENCH.md docs/CHAT.md docs/CLUSTER.md docs/FORMAT.md docs/MODEL.md
              docs/NUMERICS.md docs/PERF.md docs/SERVING.md
              docs/grafana-dashboard.json DESTINATION ${CMAKE_INSTALL_DOCDIR})
install(FILES launch/demo/shakespeare-11m-gptq.h5 DESTINATION ${CMAKE_INSTALL_DATADIR}/marlin-worker)
install(PROGRAMS launch/mpirun RENAME marlin-mpirun DESTINATION ${CMAKE_INSTALL_BINDIR})

set(package ${CMAKE_INSTALL_LIBDIR}/cmake/marlin-worker)
install(EXPORT marlin-worker NAMESPACE marlin-worker:: FILE marlin-worker-config.cmake DESTINATION ${package})
write_basic_package_version_file(${PROJECT_BINARY_DIR}/marlin-worker-config-version.cmake COMPATIBILITY SameMajorVersion)
install(FILES ${PROJECT_BINARY_DIR}/marlin-worker-config-version.cmake DESTINATION ${package})

file(RELATIVE_PATH MW_PC_UP /${CMAKE_INSTALL_LIBDIR}/pkgconfig /)
string(REGEX REPLACE "/$" "" MW_PC_UP "${MW_PC_UP}")
configure_file(launch/cmake/marlin-worker.pc.in marlin-worker.pc @ONLY)
install(FILES ${PROJECT_BINARY_DIR}/marlin-worker.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
