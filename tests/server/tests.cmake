# The HTTP server and the batch mode, as clients see them. Label `threads`: also under ThreadSanitizer.
set(server ${PROJECT_SOURCE_DIR}/tests/server)

mw_test(server/test_json_out.c LIBS mw_server PkgConfig::JANSSON RANKS 1 GPUS 0 SECONDS 20)

mw_script_test(server.venv RANKS 1 GPUS 0 SECONDS 280 LABELS server
               COMMAND ${PROJECT_SOURCE_DIR}/tests/venv)
set_tests_properties(server.venv PROPERTIES FIXTURES_SETUP venv RESOURCE_LOCK venv)
foreach(np 1 2 4)
  mw_script_test(server.clients.np${np} RANKS ${np} GPUS 0 SECONDS 280 LABELS server
                 COMMAND ${Python3_EXECUTABLE} ${server}/clients.py ${PROJECT_BINARY_DIR} ${demo} ${np})
  set_tests_properties(server.clients.np${np} PROPERTIES FIXTURES_REQUIRED venv)
endforeach()
mw_script_test(server.hostile RANKS 1 GPUS 0 SECONDS 180 LABELS "server;threads"
               COMMAND ${Python3_EXECUTABLE} ${server}/hostile.py ${PROJECT_BINARY_DIR} ${demo})
mw_script_test(server.tools RANKS 1 GPUS 0 SECONDS 180 LABELS server
               COMMAND ${Python3_EXECUTABLE} ${server}/tools.py ${PROJECT_BINARY_DIR} ${demo})
foreach(np 1 2)
  mw_script_test(server.life.np${np} RANKS 2 GPUS 0 SECONDS 400 LABELS server
                 COMMAND ${Python3_EXECUTABLE} ${server}/life.py ${PROJECT_BINARY_DIR} ${demo} ${np})
  mw_script_test(server.batch.np${np} RANKS ${np} GPUS 0 SECONDS 180 LABELS server
                 COMMAND ${Python3_EXECUTABLE} ${server}/batch.py ${PROJECT_BINARY_DIR} ${demo} ${np})
  mw_script_test(server.load.np${np} RANKS 2 GPUS 0 SECONDS 300 LABELS server
                 COMMAND ${Python3_EXECUTABLE} ${server}/load.py ${PROJECT_BINARY_DIR} ${demo} ${np})
endforeach()
set_tests_properties(server.life.np1 server.load.np1 PROPERTIES LABELS "server;gpu0;threads")
# Not again under sanitizers: the same on more ranks.
set_tests_properties(server.clients.np2 server.clients.np4 server.life.np2 server.batch.np2 server.load.np2
                     PROPERTIES LABELS "server;gpu0;plain")
