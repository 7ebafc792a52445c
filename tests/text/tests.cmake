mw_test(text/test_tokenizer.c      LIBS mw_text RANKS 1 GPUS 0 SECONDS 60)
mw_test(text/test_tok_hostile.c    LIBS mw_text RANKS 1 GPUS 0 SECONDS 60)
mw_test(text/test_tok_checkpoint.c LIBS mw_text RANKS 1 GPUS 0 SECONDS 20)
mw_test(text/test_chat.c            LIBS mw_text RANKS 1 GPUS 0 SECONDS 60)
mw_test(text/test_chat_checkpoint.c LIBS mw_text RANKS 1 GPUS 0 SECONDS 20)

add_library(mw_test_schema STATIC text/schema_gen.c)
target_link_libraries(mw_test_schema PUBLIC mw_text)
mw_test(text/test_constraint.c LIBS mw_text RANKS 1 GPUS 0 SECONDS 300)
set_tests_properties(text.test_constraint.np1 PROPERTIES LABELS "text;gpu0;threads")
mw_test(text/test_constraint_random.c LIBS mw_test_schema RANKS 1 GPUS 0 SECONDS 120)

# Built, not run by ctest: the time of token masks with a large vocabulary.
add_executable(constraint_speed bench/constraint_speed.c)
target_link_libraries(constraint_speed PRIVATE mw_text)
set_target_properties(constraint_speed PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/tests)
