/* worker/base/clock.h - monotonic time. */
#ifndef MW_BASE_CLOCK_H
#define MW_BASE_CLOCK_H
#include <stdint.h>
#include <time.h>

static inline int64_t mw_now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}
static inline double mw_now_s(void) {
    return (double)mw_now_ns() * 1e-9;
}

static inline void mw_sleep_ns(int64_t ns) {
    struct timespec t = {.tv_sec = (time_t)(ns / 1000000000), .tv_nsec = (long)(ns % 1000000000)};
    nanosleep(&t, 0);
}
#endif
