add_library(mw_test_convert STATIC convert/support.c convert/truth.c convert/truth_compare.c)
target_link_libraries(mw_test_convert PUBLIC mw_shard)
target_compile_definitions(mw_test_convert PRIVATE MW_BINARY_DIR="${PROJECT_BINARY_DIR}")

mw_test(convert/test_convert_config.c  LIBS mw_shard          RANKS 1 GPUS 0 SECONDS 10)
mw_test(convert/test_convert_formats.c LIBS mw_test_convert   RANKS 1 GPUS 0 SECONDS 300)
mw_test(convert/test_convert_hostile.c LIBS mw_test_convert   RANKS 1 GPUS 0 SECONDS 60)
mw_test(convert/test_convert_rtn.c     LIBS mw_test_convert m RANKS 1 GPUS 0 SECONDS 60)
mw_test(convert/test_convert_output.c  LIBS mw_test_convert   RANKS 1 GPUS 0 SECONDS 60)
mw_test(convert/test_convert_texts.c   LIBS mw_test_convert   RANKS 1 GPUS 0 SECONDS 30)
mw_test(convert/test_convert_shared.c  LIBS mw_test_convert   RANKS 1 GPUS 0 SECONDS 60)
target_include_directories(test_convert_output SYSTEM PRIVATE ${HDF5_INCLUDE_DIRS}) # it damages files with HDF5
