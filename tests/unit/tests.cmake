add_library(mw_test_model STATIC ref/random_model.c)
target_link_libraries(mw_test_model PUBLIC mw_shard)

mw_test(unit/test_pack.c      LIBS mw_shard mw_test_model RANKS 1 GPUS 0 SECONDS 30)
mw_test(unit/test_plan.c      LIBS mw_shard mw_test_model RANKS 1 GPUS 0 SECONDS 60)
mw_test(unit/test_loader.c    LIBS mw_worker mw_test_model RANKS 1 GPUS 0 SECONDS 60)
mw_test(unit/test_scheduler.c LIBS mw_worker mw_test_model RANKS 1 GPUS 0 SECONDS 60)
mw_test(unit/test_sampler.c   LIBS mw_worker mw_test_model RANKS 1 GPUS 0 SECONDS 60)
