/* bench/report.h - the rows of a run, as JSON objects, and where they go.
 *
 * A row is an object whose first members name what was measured (strings and whole numbers) and whose others are
 * results. "id" is the name in one string: rows of two runs with the same id are compared by the result that "metric"
 * names, and "better" says whether "higher" or "lower" of it is. Rows are printed as they come (JSON: at the end).
 */
#ifndef MW_BENCH_REPORT_H
#define MW_BENCH_REPORT_H
#include <stdio.h>

#include "bench/bench.h"
#include "bench/stats.h"

/* A column of the Markdown table: which member, its title, and decimals (-1: text or whole number). */
typedef struct bench_column {
    const char *key, *title;
    int decimals;
} bench_column;

typedef struct bench_report {
    const bench_opts *o;
    json_t *machine; /* object */
    json_t *rows;    /* array */
    FILE *out;       /* where rows go; NULL on ranks that print nothing */
    const bench_column *columns;
    int n_columns;
    int width[24];
    const bench_column *head; /* of the table that was begun last */
    json_t *csv_head;         /* keys of the CSV block that was begun last */
    bool machine_printed;
} bench_report;

/* Opens the output. Rank 0 only prints; the others collect nothing. */
MW_MUST_CHECK mw_status bench_report_begin(bench_report *r, const bench_opts *o);
/* Prints what waits for the end and closes the output. */
MW_MUST_CHECK mw_status bench_report_end(bench_report *r);
void bench_report_free(bench_report *r);

/* The columns of the Markdown tables to come; at most 24. */
void bench_report_columns(bench_report *r, const bench_column *columns, int n);

/* A row begins with its kind. Members are added in order; a failed allocation shows in bench_row_end. NULL rows (ranks
 * that print nothing) are ignored everywhere. */
json_t *bench_row_begin(bench_report *r, const char *test);
void bench_row_text(json_t *row, const char *key, const char *value);
void bench_row_int(json_t *row, const char *key, int64_t value);
void bench_row_real(json_t *row, const char *key, double value); /* NaN and infinity become null */
/* key, key_p10, key_p90, key_min, key_max */
void bench_row_stats(json_t *row, const char *key, const bench_stats *s, double scale);
/* Which member is compared; the id is made of the members so far. */
void bench_row_metric(json_t *row, const char *metric, bool higher_is_better);
/* Takes the row. */
MW_MUST_CHECK mw_status bench_row_end(bench_report *r, json_t *row);

/* ---- table.c ---- */
MW_MUST_CHECK mw_status bench_print_row(bench_report *r, const json_t *row);
MW_MUST_CHECK mw_status bench_print_machine(bench_report *r);
MW_MUST_CHECK mw_status bench_print_json(bench_report *r);

/* ---- machine.c ---- */
MW_MUST_CHECK mw_status bench_machine(json_t **out, const bench_opts *o);

/* The rows of a file that --output json or jsonl wrote. */
MW_MUST_CHECK mw_status bench_read_rows(const char *path, json_t **out);

/* ---- compare.c: MW_ERR_LIMIT when a result is worse than the threshold allows ---- */
MW_MUST_CHECK mw_status bench_compare(const bench_report *r);

/* ---- plot.c ---- */
MW_MUST_CHECK mw_status bench_plot(const bench_report *r);
/* Before anything is measured: can it be drawn? */
MW_MUST_CHECK mw_status bench_plot_check(const bench_opts *o);
#endif
