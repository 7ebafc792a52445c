/* tests/kernels/test_cpu_device.c - choosing a backend, opening the CPU device, its memory and its description. */
#include <stdint.h>
#include <string.h>

#include "tests/kernels/cpu_devices.h"

/* The sanitizers ask these: an allocation that cannot be had returns NULL there too. */
#define DEFAULT_VISIBILITY __attribute__((visibility("default")))
DEFAULT_VISIBILITY const char *__asan_default_options(void); /* NOLINT(bugprone-reserved-identifier) */
DEFAULT_VISIBILITY const char *__tsan_default_options(void); /* NOLINT(bugprone-reserved-identifier) */
const char *__asan_default_options(void) {                   /* NOLINT(bugprone-reserved-identifier) */
    return "allocator_may_return_null=1";
}
const char *__tsan_default_options(void) { /* NOLINT(bugprone-reserved-identifier) */
    return "allocator_may_return_null=1";
}

static void test_choose(void **state) {
    (void)state;
    const mw_kernels *k = NULL;
    assert_int_equal(mw_kernels_choose("cpu", &k), MW_OK);
    assert_ptr_equal(k, mw_kernels_cpu());
    assert_string_equal(k->name, "cpu");
    k = NULL;
    assert_int_equal(mw_kernels_choose("gpu", &k), MW_ERR_USAGE);
    assert_non_null(strstr(mw_error_text(), "'gpu'"));
    assert_null(k);
    assert_int_equal(mw_kernels_choose("auto", &k), MW_OK);
    assert_non_null(k);
    if (!mw_kernels_cuda()) {
        assert_ptr_equal(k, mw_kernels_cpu());
        k = NULL;
        assert_int_equal(mw_kernels_choose("cuda", &k), MW_ERR_UNAVAIL);
        assert_non_null(strstr(mw_error_text(), "no CUDA half"));
        assert_null(k);
    }
}

static void test_isa(void **state) {
    (void)state;
    const mw_kernels *k = mw_kernels_cpu();
    mw_dev *d = NULL;
    mw_dev_opts opts = {.threads = 2};
    mw_dev_info info;
    setenv("MARLIN_CPU_ISA", "sse9", 1);
    assert_int_equal(k->open(&d, &opts), MW_ERR_USAGE);
    assert_non_null(strstr(mw_error_text(), "MARLIN_CPU_ISA='sse9'"));
    assert_null(d);
    setenv("MARLIN_CPU_ISA", "scalar", 1);
    assert_int_equal(k->open(&d, &opts), MW_OK);
    assert_int_equal(k->info(d, &info), MW_OK);
    assert_string_equal(info.isa, "scalar");
    assert_non_null(strstr(info.name, ", 2 threads, scalar"));
    k->close(d);

    /* Each one is there or says what the CPU has; the best one is the default. */
    int best = 0;
    for (int i = 0; i < N_ISAS; i++) {
        d = NULL;
        setenv("MARLIN_CPU_ISA", k_isas[i], 1);
        if (k->open(&d, &opts) != MW_OK) {
            assert_non_null(strstr(mw_error_text(), k_isas[best]));
            continue;
        }
        best = i;
        assert_int_equal(k->info(d, &info), MW_OK);
        assert_string_equal(info.isa, k_isas[i]);
        k->close(d);
    }
    unsetenv("MARLIN_CPU_ISA");
    assert_int_equal(k->open(&d, &opts), MW_OK);
    assert_int_equal(k->info(d, &info), MW_OK);
    assert_string_equal(info.isa, k_isas[best]);
    assert_int_equal(info.act, MW_F32);
    assert_true(info.mem_total > 0 && info.mem_free > 0 && info.mem_free <= info.mem_total);
    assert_null(info.stream);
    assert_true(info.host_memory);
    print_message("device: %s, %llu of %llu bytes free\n", info.name, (unsigned long long)info.mem_free,
                  (unsigned long long)info.mem_total);
    k->close(d);
}

static void test_bad_threads(void **state) {
    (void)state;
    mw_dev *d = NULL;
    unsetenv("MARLIN_CPU_ISA");
    assert_int_not_equal(mw_kernels_cpu()->open(&d, &(mw_dev_opts){.threads = 0}), MW_OK);
    assert_null(d);
    mw_kernels_cpu()->close(NULL);
}

static void test_memory(void **state) {
    (void)state;
    const mw_kernels *k = mw_kernels_cpu();
    mw_dev *d = open_dev(0, 1, false);
    static const size_t sizes[] = {0, 1, 100, 4096, (2 << 20) - 1, 2 << 20, 5 << 20};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        unsigned char *p = NULL, *host = malloc(sizes[i] + 1), *back = malloc(sizes[i] + 1);
        assert_true(host && back);
        assert_int_equal(k->alloc(d, (void **)&p, sizes[i], "test"), MW_OK);
        assert_int_equal((uintptr_t)p % 64, 0);
        for (size_t j = 0; j < sizes[i]; j++) host[j] = (unsigned char)(j * 7 + 1);
        assert_int_equal(k->to_device(d, p, host, sizes[i]), MW_OK);
        assert_int_equal(k->to_host(d, back, p, sizes[i]), MW_OK);
        assert_memory_equal(host, back, sizes[i]);
        assert_int_equal(k->zero(d, p, sizes[i]), MW_OK);
        for (size_t j = 0; j < sizes[i]; j++) assert_int_equal(p[j], 0);
        k->free(d, p);
        free(host);
        free(back);
    }
    void *p = NULL;
    assert_int_equal(k->alloc(d, &p, SIZE_MAX / 2, "a very large tensor"), MW_ERR_NOMEM);
    assert_int_equal(k->alloc(d, &p, SIZE_MAX - 5, "a very large tensor"), MW_ERR_NOMEM);
    assert_non_null(strstr(mw_error_text(), "a very large tensor"));
    assert_null(p);
    assert_int_equal(k->sync(d), MW_OK);
    k->close(d);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_choose),
        cmocka_unit_test(test_isa),
        cmocka_unit_test(test_bad_threads),
        cmocka_unit_test(test_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
