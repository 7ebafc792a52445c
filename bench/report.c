#include "bench/report.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

mw_status bench_report_begin(bench_report *r, const bench_opts *o) {
    mw_status st = MW_OK;
    *r = (bench_report){.o = o};
    if (bench_now.rank != 0) return MW_OK;
    r->rows = json_array();
    if (!r->rows) return MW_FAIL(MW_ERR_NOMEM, "rows");
    MW_TRY(st, bench_machine(&r->machine, o));
    r->out = stdout;
    if (o->output_file) {
        r->out = fopen(o->output_file, "we");
        if (!r->out) return MW_FAIL(MW_ERR_EXISTS, "%s: cannot be written: %s", o->output_file, strerror(errno));
    }
fail:
    return st;
}

mw_status bench_report_end(bench_report *r) {
    mw_status st = MW_OK;
    if (!r->out) return MW_OK;
    MW_TRY(st, bench_print_json(r));
    const char *name = r->o->output_file ? r->o->output_file : "standard output";
    FILE *f = r->out;
    r->out = NULL;
    if (fflush(f) != 0 || ferror(f)) st = MW_FAIL(MW_ERR_IO, "%s: %s", name, strerror(errno));
    if (f != stdout && fclose(f) != 0 && st == MW_OK) st = MW_FAIL(MW_ERR_IO, "%s: %s", name, strerror(errno));
fail:
    return st;
}

void bench_report_free(bench_report *r) {
    if (r->out && r->out != stdout) fclose(r->out);
    json_decref(r->machine);
    json_decref(r->rows);
    json_decref(r->csv_head);
    *r = (bench_report){0};
}

void bench_report_columns(bench_report *r, const bench_column *columns, int n) {
    r->columns = columns;
    r->n_columns = n;
}

/* ---- rows ---- */

json_t *bench_row_begin(bench_report *r, const char *test) {
    json_t *row = r->rows ? json_object() : NULL;
    bench_row_text(row, "test", test);
    return row;
}

void bench_row_text(json_t *row, const char *key, const char *value) {
    if (row) json_object_set_new(row, key, json_string(value));
}

void bench_row_int(json_t *row, const char *key, int64_t value) {
    if (row) json_object_set_new(row, key, json_integer(value));
}

/* Seven digits: more would be noise, and make files of results unreadable. */
void bench_row_real(json_t *row, const char *key, double value) {
    char text[32];
    if (!row) return;
    snprintf(text, sizeof text, "%.7g", value);
    json_object_set_new(row, key, isfinite(value) ? json_real(strtod(text, NULL)) : json_null());
}

static void suffixed(json_t *row, const char *key, const char *suffix, double value) {
    char name[64];
    snprintf(name, sizeof name, "%s_%s", key, suffix);
    bench_row_real(row, name, value);
}

void bench_row_stats(json_t *row, const char *key, const bench_stats *s, double scale) {
    bench_row_real(row, key, s->median * scale);
    suffixed(row, key, "p10", s->p10 * scale);
    suffixed(row, key, "p90", s->p90 * scale);
    suffixed(row, key, "min", s->min * scale);
    suffixed(row, key, "max", s->max * scale);
}

void bench_row_metric(json_t *row, const char *metric, bool higher_is_better) {
    mw_str id = {0};
    const char *key;
    json_t *v;
    if (!row) return;
    bool ok = true;
    json_object_foreach(row, key, v) {
        if (json_is_string(v))
            ok = ok && mw_str_addf(&id, "%s%s", id.n ? " " : "", json_string_value(v)) == MW_OK;
        else
            ok = ok && mw_str_addf(&id, " %s=%" JSON_INTEGER_FORMAT, key, json_integer_value(v)) == MW_OK;
    }
    if (ok) bench_row_text(row, "id", id.p);
    bench_row_text(row, "metric", metric);
    bench_row_text(row, "better", higher_is_better ? "higher" : "lower");
    mw_str_free(&id);
}

mw_status bench_row_end(bench_report *r, json_t *row) {
    if (!r->rows) return MW_OK;
    if (!row || json_array_append_new(r->rows, row) != 0) return MW_FAIL(MW_ERR_NOMEM, "a row");
    mw_status st = r->machine_printed ? MW_OK : bench_print_machine(r);
    r->machine_printed = true; /* only now: the benchmark has added its device */
    return st == MW_OK ? bench_print_row(r, row) : st;
}
