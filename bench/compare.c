/* --compare: the same rows of an older run. */
#include <errno.h>
#include <math.h>
#include <string.h>

#include "bench/report.h"
#include "worker/base/io.h"

#define MAX_FILE ((size_t)256 << 20)

static mw_status bad(const char *path, const char *why) {
    return MW_FAIL(MW_ERR_FORMAT, "%s: is neither the JSON nor the JSON lines of a marlin-bench run: %s", path, why);
}

static mw_status add_line(json_t *rows, const char *path, const char *line, size_t n) {
    json_error_t e;
    json_t *row = json_loadb(line, n, 0, &e);
    if (!row) return bad(path, e.text);
    if (json_object_get(row, "id")) json_array_append(rows, row);
    json_decref(row);
    return MW_OK;
}

/* The rows of {"machine":..., "rows":[...]}, or of one object a line. */
mw_status bench_read_rows(const char *path, json_t **out) {
    mw_status st = MW_OK;
    mw_str text = {0};
    json_t *rows = NULL, *all = NULL;
    MW_TRY(st, mw_read_file(path, MAX_FILE, &text));
    all = text.n ? json_loadb(text.p, text.n, 0, NULL) : NULL;
    if (json_is_array(json_object_get(all, "rows"))) {
        rows = json_incref(json_object_get(all, "rows"));
    } else {
        rows = json_array();
        for (size_t at = 0; at < text.n;) {
            const char *end = memchr(text.p + at, '\n', text.n - at);
            size_t n = end ? (size_t)(end - (text.p + at)) : text.n - at;
            if (n > 0) MW_TRY(st, add_line(rows, path, text.p + at, n));
            at += n + 1;
        }
    }
    if (json_array_size(rows) == 0) st = bad(path, "no rows");
    if (st == MW_OK) *out = json_incref(rows);
fail:
    json_decref(rows);
    json_decref(all);
    mw_str_free(&text);
    return st;
}

static const char *text_of(const json_t *row, const char *key) {
    const char *s = json_string_value(json_object_get(row, key));
    return s ? s : "";
}

static const json_t *find(const json_t *rows, const char *id) {
    size_t i;
    json_t *row;
    json_array_foreach((json_t *)rows, i, row) if (strcmp(text_of(row, "id"), id) == 0) return row;
    return NULL;
}

/* How much better the new value is: above 1 better, below 1 worse, 0 not comparable. */
static double gain(const json_t *now, const json_t *before) {
    const char *metric = text_of(now, "metric");
    double a = json_number_value(json_object_get(now, metric)), b = json_number_value(json_object_get(before, metric));
    if (!(a > 0) || !(b > 0)) return 0;
    return strcmp(text_of(now, "better"), "higher") == 0 ? a / b : b / a;
}

mw_status bench_compare(const bench_report *r) {
    mw_status st = MW_OK;
    json_t *old = NULL, *row;
    size_t i;
    int compared = 0, worse = 0;
    double floor = 1 / (1 + r->o->threshold / 100), lowest = 1, logs = 0;
    const char *name = "";
    FILE *f = r->o->output_file || r->o->format == BENCH_MD ? stdout : stderr; /* results own standard output */
    MW_TRY(st, bench_read_rows(r->o->compare, &old));
    fprintf(f, "\ncompared with %s (a ratio above 1 is better now):\n", r->o->compare);
    json_array_foreach(r->rows, i, row) {
        const json_t *before = find(old, text_of(row, "id"));
        double g = before ? gain(row, before) : 0;
        if (g <= 0) continue;
        const char *metric = text_of(row, "metric");
        bool bad_one = g < floor;
        fprintf(f, "%7.3f %s%s %s: %.7g, was %.7g\n", g, bad_one ? "WORSE " : "", text_of(row, "id"), metric,
                json_number_value(json_object_get(row, metric)), json_number_value(json_object_get(before, metric)));
        compared++;
        worse += bad_one;
        logs += log(g);
        if (g < lowest) lowest = g, name = text_of(row, "id");
    }
    if (compared == 0) {
        st = MW_FAIL(MW_ERR_FORMAT, "%s: has none of this run's rows", r->o->compare);
    } else {
        fprintf(f, "%d rows, geometric mean %.3f\n", compared, exp(logs / compared));
        if (worse)
            st = MW_FAIL(MW_ERR_LIMIT, "%d of %d rows are worse than in %s by more than %g %%; the worst: %s, %.3f",
                         worse, compared, r->o->compare, r->o->threshold, name, lowest);
    }
    if (fflush(f) != 0 && st == MW_OK) st = MW_FAIL(MW_ERR_IO, "standard output: %s", strerror(errno));
fail:
    json_decref(old);
    return st;
}
