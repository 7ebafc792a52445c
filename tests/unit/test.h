/* tests/unit/test.h - cmocka with its prerequisites, and a way to fail with our own error text. */
#ifndef MW_TESTS_UNIT_TEST_H
#define MW_TESTS_UNIT_TEST_H
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "worker/base/status.h"

#define assert_ok(expr)                                                                                                \
    do {                                                                                                               \
        mw_status st_ = (expr);                                                                                        \
        if (st_ != MW_OK) fail_msg("%s: %s: %s", #expr, mw_status_name(st_), mw_error_text());                         \
    } while (0)

/* The expression fails with this status, and the text names what it should. */
#define assert_fails(expr, status, word)                                                                               \
    do {                                                                                                               \
        mw_status st_ = (expr);                                                                                        \
        if (st_ != (status)) fail_msg("%s: %s, expected %s", #expr, mw_status_name(st_), mw_status_name(status));      \
        if (!strstr(mw_error_text(), (word))) fail_msg("'%s' does not say '%s'", mw_error_text(), (word));             \
    } while (0)

/* A fresh seed a run, printed so that a failure can be repeated: argv[1] or the clock. */
static inline uint64_t test_seed(int argc, char **argv) {
    uint64_t seed = argc > 1 ? strtoull(argv[1], NULL, 10) : (uint64_t)time(NULL);
    printf("seed %llu\n", (unsigned long long)seed);
    return seed;
}

#endif
