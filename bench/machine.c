/* What a run ran on: enough to know why two results differ. */
#include <string.h>
#include <sys/utsname.h>
#include <time.h>

#include "bench/report.h"
#include "kernels/probe.h"

static void put(json_t *m, const char *key, const char *value) {
    if (value && *value) json_object_set_new(m, key, json_string(value));
}

/* "MPI       Open MPI v4.1.4" and its neighbours, the lines of mw_engine_version. */
static void put_versions(json_t *m) {
    char text[768], *save = NULL;
    snprintf(text, sizeof text, "%s", mw_engine_version());
    for (char *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
        char *value = strpbrk(line, " ");
        if (!value) continue;
        *value++ = 0;
        put(m, line, value + strspn(value, " "));
    }
}

static void put_cpu(json_t *m) {
    mw_dev *d = NULL;
    mw_dev_info info;
    const mw_kernels *k = mw_kernels_cpu();
    if (k->open(&d, &(mw_dev_opts){.threads = 1}) == MW_OK && k->info(d, &info) == MW_OK) {
        char *end = strstr(info.name, ", 1 thread");
        if (end) *end = 0;
        put(m, "cpu", info.name);
        put(m, "cpu isa", info.isa);
        json_object_set_new(m, "memory GB", json_integer((json_int_t)(info.mem_total / 1000000000)));
    }
    k->close(d);
}

mw_status bench_machine(json_t **out, const bench_opts *o) {
    char date[32];
    struct utsname u;
    time_t now = time(NULL);
    struct tm utc;
    json_t *m = json_object();
    if (!m) return MW_FAIL(MW_ERR_NOMEM, "machine");
    strftime(date, sizeof date, "%Y-%m-%dT%H:%M:%SZ", gmtime_r(&now, &utc));
    put(m, "date", date);
    put_versions(m);
    if (uname(&u) == 0) {
        put(m, "host", u.nodename);
        put(m, "kernel", u.release);
    }
    put_cpu(m);
    json_object_set_new(m, "ranks", json_integer(bench_now.size));
    put(m, "benchmark", bench_kind_names[o->kind]);
    *out = m;
    return MW_OK;
}
