/* kernels/cpu/host.c - what the machine has: memory that can be used, and the CPU's name. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "kernels/cpu/cpu.h"

/* The number in a one-number file; false where there is none ("max", or no file). */
static bool read_number(const char *dir, const char *name, uint64_t *out) {
    char path[1024];
    unsigned long long v;
    snprintf(path, sizeof path, "%s/%s", dir, name);
    FILE *f = fopen(path, "r");
    if (!f) return false;
    bool ok = fscanf(f, "%llu", &v) == 1;
    fclose(f);
    if (ok) *out = v;
    return ok;
}

static void cap(const char *dir, const char *limit_file, const char *used_file, uint64_t *total, uint64_t *available) {
    uint64_t limit, used;
    if (!read_number(dir, limit_file, &limit) || limit >= *total) return;
    *total = limit;
    if (!read_number(dir, used_file, &used)) used = 0;
    uint64_t left = limit > used ? limit - used : 0;
    if (left < *available) *available = left;
}

/* Every control group from this process's own up to the root may carry a limit. */
static void cap_by_cgroups(uint64_t *total, uint64_t *available) {
    char line[512], dir[768];
    FILE *f = fopen("/proc/self/cgroup", "r");
    if (!f) return;
    while (fgets(line, sizeof line, f)) {
        line[strcspn(line, "\n")] = 0;
        bool v2 = strncmp(line, "0::/", 4) == 0;
        char *path = strstr(line, v2 ? "::/" : ":memory:/");
        if (!path) continue;
        path = strchr(path, '/');
        for (;;) {
            if (v2) {
                snprintf(dir, sizeof dir, "/sys/fs/cgroup%s", path);
                cap(dir, "memory.max", "memory.current", total, available);
            } else {
                snprintf(dir, sizeof dir, "/sys/fs/cgroup/memory%s", path);
                cap(dir, "memory.limit_in_bytes", "memory.usage_in_bytes", total, available);
            }
            char *slash = strrchr(path, '/');
            if (!slash || !*path) break;
            *slash = 0;
        }
    }
    fclose(f);
}

void mw_cpu_memory(uint64_t *total, uint64_t *available) {
    long pages = sysconf(_SC_PHYS_PAGES), size = sysconf(_SC_PAGESIZE);
    *total = pages > 0 && size > 0 ? (uint64_t)pages * (uint64_t)size : 0;
    *available = *total;
    char line[256];
    unsigned long long kb;
    FILE *f = fopen("/proc/meminfo", "r");
    if (f) {
        while (fgets(line, sizeof line, f))
            if (sscanf(line, "MemAvailable: %llu kB", &kb) == 1) *available = (uint64_t)kb * 1024;
        fclose(f);
    }
    cap_by_cgroups(total, available);
}

void mw_cpu_model(char *name, size_t size) {
    char line[256];
    snprintf(name, size, "CPU");
    FILE *f = fopen("/proc/cpuinfo", "r");
    if (!f) return;
    while (fgets(line, sizeof line, f)) {
        char *value = strchr(line, ':');
        if (strncmp(line, "model name", 10) != 0 || !value) continue;
        value += 1 + strspn(value + 1, " \t");
        value[strcspn(value, "\n")] = 0;
        if (*value) snprintf(name, size, "%s", value);
        break;
    }
    fclose(f);
}
