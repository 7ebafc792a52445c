/* tests/comm/check.h - assertions for programs of several ranks. A failed check is printed with its rank and counted;
 * it does not leave the function, because the other ranks would wait for this one. */
#ifndef MW_TESTS_COMM_CHECK_H
#define MW_TESTS_COMM_CHECK_H
#include <stdint.h>
#include <stdio.h>
#include <unistd.h>

extern int g_check_rank, g_check_failures;

#define CHECK(cond, ...)                                                                                               \
    do {                                                                                                               \
        if (!(cond) && g_check_failures++ < 10) {                                                                      \
            fprintf(stderr, "[%d] %s:%d: %s: ", g_check_rank, __FILE__, __LINE__, #cond);                              \
            fprintf(stderr, __VA_ARGS__);                                                                              \
            fprintf(stderr, "\n");                                                                                     \
        }                                                                                                              \
    } while (0)

/* The same numbers on every rank and run (splitmix64). */
static inline uint64_t check_random(uint64_t *state) {
    uint64_t z = (*state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

/* Reads behind the n bytes that buf [size] holds already, and keeps a final zero; 0 when it is full. */
static inline ssize_t check_read(int fd, char *buf, size_t size, size_t n) {
    if (n + 1 >= size) return 0;
    ssize_t got = read(fd, buf + n, size - 1 - n);
    if (got >= 0) buf[n + (size_t)got] = 0;
    return got;
}

#endif
