# The whole job. Scripts are Python 3 (standard library; h5py where files are damaged on purpose).
if(NOT Python3_EXECUTABLE AND EXISTS /usr/bin/python3)
  set(Python3_EXECUTABLE /usr/bin/python3) # the interpreter that the package python3-h5py belongs to
endif()
find_package(Python3 REQUIRED COMPONENTS Interpreter)
set(demo ${PROJECT_SOURCE_DIR}/launch/demo/shakespeare-11m-gptq.h5)
set(here ${PROJECT_SOURCE_DIR}/tests/e2e)

# Random models of every kind against the double reference. The models are written first, by one rank.
add_executable(test_reference e2e/test_reference.c ref/ref_model.c)
target_link_libraries(test_reference PRIVATE mw_worker mw_test_model MPI::MPI_C)
set_target_properties(test_reference PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/tests)
set(models ${PROJECT_BINARY_DIR}/tests/random-models)
file(MAKE_DIRECTORY ${models})
mw_script_test(e2e.reference.models RANKS 1 GPUS 0 SECONDS 60 LABELS e2e COMMAND $<TARGET_FILE:test_reference> ${models} write)
set_tests_properties(e2e.reference.models PROPERTIES FIXTURES_SETUP random_models)
foreach(np 1 2 3 4)
  add_test(NAME e2e.reference.np${np} COMMAND ${PROJECT_SOURCE_DIR}/tests/run_test.sh ${np} 0 300
                                              $<TARGET_FILE:test_reference> ${models})
  set_tests_properties(e2e.reference.np${np} PROPERTIES LABELS "e2e;gpu0" PROCESSORS ${np} TIMEOUT 310
                       SKIP_RETURN_CODE 77 FIXTURES_REQUIRED random_models)
endforeach()
set_tests_properties(e2e.reference.np1 PROPERTIES LABELS "e2e;gpu0;threads")

mw_test(e2e/test_engine.c LIBS mw_worker RANKS 1 GPUS 0 SECONDS 300)
mw_test(e2e/test_engine.c LIBS mw_worker RANKS 3 GPUS 0 SECONDS 300)
add_test(NAME e2e.test_engine.ahead.np1 COMMAND ${PROJECT_SOURCE_DIR}/tests/run_test.sh 1 0 300 $<TARGET_FILE:test_engine>
                                                cpu ahead)
set_tests_properties(e2e.test_engine.np1 e2e.test_engine.ahead.np1 PROPERTIES LABELS "e2e;gpu0;threads")
set_tests_properties(e2e.test_engine.ahead.np1 PROPERTIES TIMEOUT 310)
mw_test(e2e/test_batch.c LIBS mw_worker RANKS 1 GPUS 0 SECONDS 300)
mw_test(e2e/test_batch.c LIBS mw_worker RANKS 3 GPUS 0 SECONDS 300)
foreach(np 1 3)
  add_test(NAME e2e.test_batch.ahead.np${np} COMMAND ${PROJECT_SOURCE_DIR}/tests/run_test.sh ${np} 0 300
                                                     $<TARGET_FILE:test_batch> cpu - ahead)
  set_tests_properties(e2e.test_batch.ahead.np${np} PROPERTIES PROCESSORS ${np} TIMEOUT 310 LABELS "e2e;gpu0;plain")
endforeach()
set_tests_properties(e2e.test_batch.np3 PROPERTIES LABELS "e2e;gpu0;plain")

mw_script_test(e2e.golden.demo RANKS 2 GPUS 0 SECONDS 120 LABELS "e2e;plain"
               COMMAND ${Python3_EXECUTABLE} ${here}/golden.py ${PROJECT_BINARY_DIR} demo 2,3,4,5,8)
mw_script_test(e2e.golden.demo.np1 RANKS 1 GPUS 0 SECONDS 120 LABELS e2e
               COMMAND ${Python3_EXECUTABLE} ${here}/golden.py ${PROJECT_BINARY_DIR} demo 1)
mw_script_test(e2e.golden.all RANKS 2 GPUS 0 SECONDS 600 LABELS "e2e;plain"
               COMMAND ${Python3_EXECUTABLE} ${here}/golden.py ${PROJECT_BINARY_DIR} all 1,2,3,4)
mw_script_test(e2e.bad_input RANKS 2 GPUS 0 SECONDS 300 LABELS e2e
               COMMAND ${Python3_EXECUTABLE} ${here}/bad_input.py ${PROJECT_BINARY_DIR} ${demo})
mw_script_test(e2e.lm_head RANKS 2 GPUS 0 SECONDS 200 LABELS "e2e;plain"
               COMMAND ${Python3_EXECUTABLE} ${here}/lm_head.py ${PROJECT_BINARY_DIR} ${demo})
mw_script_test(e2e.cli RANKS 2 GPUS 0 SECONDS 240 LABELS e2e
               COMMAND ${Python3_EXECUTABLE} ${here}/cli.py ${PROJECT_BINARY_DIR} ${demo})
mw_script_test(e2e.bench.tool RANKS 2 GPUS 0 SECONDS 300 LABELS e2e
               COMMAND ${Python3_EXECUTABLE} ${here}/bench.py ${PROJECT_BINARY_DIR} ${demo} tool)
mw_script_test(e2e.bench.run RANKS 2 GPUS 0 SECONDS 500 LABELS "e2e;plain"
               COMMAND ${Python3_EXECUTABLE} ${here}/bench.py ${PROJECT_BINARY_DIR} ${demo} run)
mw_script_test(e2e.format_page RANKS 1 GPUS 0 SECONDS 60 LABELS "e2e;plain"
               COMMAND ${Python3_EXECUTABLE} ${here}/format_page.py ${PROJECT_BINARY_DIR} ${demo})
mw_script_test(e2e.preflight RANKS 2 GPUS 0 SECONDS 60 LABELS "e2e;plain"
               COMMAND ${here}/preflight.sh ${PROJECT_BINARY_DIR} ${demo})
mw_script_test(e2e.bundle RANKS 2 GPUS 0 SECONDS 400 LABELS "e2e;plain"
               COMMAND ${Python3_EXECUTABLE} ${here}/bundle.py ${PROJECT_BINARY_DIR} ${demo})
mw_script_test(e2e.install RANKS 1 GPUS 0 SECONDS 100 LABELS "e2e;plain"
               COMMAND ${here}/install.sh ${PROJECT_BINARY_DIR} ${demo})

# Mixed load, then ranks killed in the middle of it. Five minutes of it on GPUs, below.
mw_script_test(e2e.soak RANKS 2 GPUS 0 SECONDS 200 LABELS "e2e;plain"
               COMMAND ${Python3_EXECUTABLE} ${here}/soak.py $<TARGET_FILE:marlin-worker> ${demo} cpu 2 --seconds 15)

# Answers that random schemas allow, against somebody else's reading of JSON Schema.
mw_script_test(text.constraint_check RANKS 1 GPUS 0 SECONDS 200 LABELS text
               COMMAND ${Python3_EXECUTABLE} ${PROJECT_SOURCE_DIR}/tests/text/constraint_check.py $<TARGET_FILE:test_constraint_random>)

mw_script_test(e2e.page RANKS 2 GPUS 0 SECONDS 240 LABELS "e2e;plain"
               COMMAND ${Python3_EXECUTABLE} ${here}/page.py ${PROJECT_BINARY_DIR} ${demo})

# Built, not run by ctest: models to measure on (tests/bench/compare.py).
add_executable(make_model bench/make_model.c)
target_link_libraries(make_model PRIVATE mw_test_model)
set_target_properties(make_model PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/tests)

# The same on GPUs; skipped, by name, where there are none.
if(MW_HAVE_CUDA)
  foreach(np 1 2)
    mw_script_test(e2e.golden.demo.cuda.np${np} RANKS 2 GPUS ${np} SECONDS 120 LABELS "e2e;plain"
                   COMMAND ${Python3_EXECUTABLE} ${here}/golden.py ${PROJECT_BINARY_DIR} demo ${np} cuda)
    mw_script_test(e2e.golden.all.cuda.np${np} RANKS 2 GPUS ${np} SECONDS 300 LABELS "e2e;plain"
                   COMMAND ${Python3_EXECUTABLE} ${here}/golden.py ${PROJECT_BINARY_DIR} all ${np} cuda)
    add_test(NAME e2e.reference.cuda.np${np} COMMAND ${PROJECT_SOURCE_DIR}/tests/run_test.sh ${np} ${np} 100
                                                     $<TARGET_FILE:test_reference> ${models} cuda)
    set_tests_properties(e2e.reference.cuda.np${np} PROPERTIES LABELS "e2e;gpu${np};plain" TIMEOUT 110 RESOURCE_LOCK gpu
                         SKIP_RETURN_CODE 77 FIXTURES_REQUIRED random_models)
    add_test(NAME e2e.test_engine.cuda.np${np} COMMAND ${PROJECT_SOURCE_DIR}/tests/run_test.sh ${np} ${np} 60
                                                       $<TARGET_FILE:test_engine> cuda)
    add_test(NAME e2e.test_batch.cuda.np${np} COMMAND ${PROJECT_SOURCE_DIR}/tests/run_test.sh ${np} ${np} 100
                                                      $<TARGET_FILE:test_batch> cuda)
    set_tests_properties(e2e.test_batch.cuda.np${np} PROPERTIES LABELS "e2e;gpu${np};plain" TIMEOUT 110 RESOURCE_LOCK gpu
                         SKIP_RETURN_CODE 77)
    mw_script_test(e2e.soak.cuda.np${np} RANKS 2 GPUS ${np} SECONDS 500 LABELS "e2e;plain"
                   COMMAND ${Python3_EXECUTABLE} ${here}/soak.py $<TARGET_FILE:marlin-worker> ${demo} cuda ${np})
    set_tests_properties(e2e.soak.cuda.np${np} PROPERTIES RESOURCE_LOCK gpu)
    set_tests_properties(e2e.test_engine.cuda.np${np} PROPERTIES LABELS "e2e;gpu${np};plain" TIMEOUT 70 RESOURCE_LOCK gpu
                         SKIP_RETURN_CODE 77)
  endforeach()
endif()
