/* Rows as text: Markdown with columns that line up on a terminal, CSV, JSON, JSON lines. */
#include <errno.h>
#include <string.h>

#include "bench/report.h"

#define CELL 64

static mw_status written(bench_report *r) {
    if (!ferror(r->out)) return MW_OK;
    return MW_FAIL(MW_ERR_IO, "%s: %s", r->o->output_file ? r->o->output_file : "standard output", strerror(errno));
}

/* ---- Markdown ---- */

static void cell(const json_t *row, const bench_column *c, char out[CELL]) {
    const json_t *v = json_object_get(row, c->key);
    if (json_is_string(v))
        snprintf(out, CELL, "%s", json_string_value(v));
    else if (json_is_integer(v))
        snprintf(out, CELL, "%" JSON_INTEGER_FORMAT, json_integer_value(v));
    else if (json_is_real(v))
        snprintf(out, CELL, "%.*f", c->decimals < 0 ? 0 : c->decimals, json_real_value(v));
    else
        snprintf(out, CELL, "%s", json_is_true(v) ? "yes" : json_is_false(v) ? "no" : "");
}

static void put_cell(FILE *f, const char *text, int width, bool left) {
    int have = 0;
    for (const char *p = text; *p; p++) have += (*p & 0xc0) != 0x80; /* characters, not bytes */
    fprintf(f, "| ");
    if (!left) fprintf(f, "%*s", width > have ? width - have : 0, "");
    fputs(text, f);
    if (left) fprintf(f, "%*s", width > have ? width - have : 0, "");
    fputc(' ', f);
}

static void begin_table(bench_report *r, const json_t *row) {
    char text[CELL];
    fprintf(r->out, "\n");
    for (int i = 0; i < r->n_columns; i++) {
        const bench_column *c = &r->columns[i];
        cell(row, c, text);
        size_t n = strlen(text), title = strlen(c->title);
        r->width[i] = (int)(n > title ? n : title);
        int least = c->decimals >= 0 ? 6 : json_is_string(json_object_get(row, c->key)) ? 7 : 5; /* later rows' */
        if (r->width[i] < least) r->width[i] = least;
        put_cell(r->out, c->title, r->width[i], c->decimals < 0);
    }
    fprintf(r->out, "|\n");
    for (int i = 0; i < r->n_columns; i++) {
        fputc('|', r->out);
        for (int j = 0; j < r->width[i] + 1; j++) fputc('-', r->out);
        fputc(r->columns[i].decimals < 0 ? '-' : ':', r->out);
    }
    fprintf(r->out, "|\n");
    r->head = r->columns;
}

static void print_markdown(bench_report *r, const json_t *row) {
    char text[CELL];
    if (r->head != r->columns) begin_table(r, row);
    for (int i = 0; i < r->n_columns; i++) {
        cell(row, &r->columns[i], text);
        put_cell(r->out, text, r->width[i], r->columns[i].decimals < 0);
    }
    fprintf(r->out, "|\n");
}

/* ---- CSV: a new line of titles where the members change ---- */

static void csv_text(FILE *f, const char *s) {
    bool quote = strpbrk(s, ",\"\n") != NULL;
    if (quote) fputc('"', f);
    for (; *s; s++) {
        if (*s == '"') fputc('"', f);
        fputc(*s, f);
    }
    if (quote) fputc('"', f);
}

static bool same_members(const json_t *a, json_t *b) {
    void *x = a ? json_object_iter((json_t *)a) : NULL, *y = json_object_iter(b);
    for (; x && y; x = json_object_iter_next((json_t *)a, x), y = json_object_iter_next(b, y))
        if (strcmp(json_object_iter_key(x), json_object_iter_key(y)) != 0) return false;
    return !x && !y;
}

static void print_csv(bench_report *r, json_t *row) {
    const char *key, *sep = "";
    json_t *v;
    if (!same_members(r->csv_head, row)) {
        if (r->csv_head) fputc('\n', r->out);
        json_decref(r->csv_head);
        r->csv_head = json_incref(row);
        json_object_foreach(row, key, v) {
            fputs(sep, r->out);
            csv_text(r->out, key);
            sep = ",";
        }
        fputc('\n', r->out);
    }
    sep = "";
    json_object_foreach(row, key, v) {
        fputs(sep, r->out);
        sep = ",";
        if (json_is_string(v))
            csv_text(r->out, json_string_value(v));
        else if (!json_is_null(v))
            json_dumpf(v, r->out, JSON_ENCODE_ANY | JSON_REAL_PRECISION(7) | JSON_COMPACT);
    }
    fputc('\n', r->out);
}

/* ---- all ---- */

mw_status bench_print_row(bench_report *r, const json_t *row) {
    switch (r->o->format) {
    case BENCH_MD: print_markdown(r, row); break;
    case BENCH_CSV: print_csv(r, (json_t *)row); break;
    case BENCH_JSONL:
        json_dumpf(row, r->out, JSON_REAL_PRECISION(7) | JSON_COMPACT);
        fputc('\n', r->out);
        break;
    case BENCH_JSON: break;
    }
    fflush(r->out);
    return written(r);
}

/* Markdown: a paragraph; CSV: comments; JSON lines: the first line. */
mw_status bench_print_machine(bench_report *r) {
    const char *key;
    json_t *v;
    if (r->o->format == BENCH_JSONL) {
        json_t *line = json_pack("{s:O}", "machine", r->machine);
        if (!line) return MW_FAIL(MW_ERR_NOMEM, "machine");
        json_dumpf(line, r->out, JSON_REAL_PRECISION(7) | JSON_COMPACT);
        json_decref(line);
        fputc('\n', r->out);
    }
    if (r->o->format == BENCH_JSON || r->o->format == BENCH_JSONL) return written(r);
    json_object_foreach(r->machine, key, v) {
        fprintf(r->out, r->o->format == BENCH_CSV ? "# %s: " : "%s: ", key);
        if (json_is_string(v))
            fputs(json_string_value(v), r->out);
        else
            json_dumpf(v, r->out, JSON_ENCODE_ANY | JSON_REAL_PRECISION(7) | JSON_COMPACT);
        fputs(r->o->format == BENCH_MD ? "  \n" : "\n", r->out);
    }
    return written(r);
}

mw_status bench_print_json(bench_report *r) {
    if (r->o->format != BENCH_JSON) return MW_OK;
    json_t *all = json_pack("{s:O,s:O}", "machine", r->machine, "rows", r->rows);
    if (!all) return MW_FAIL(MW_ERR_NOMEM, "results");
    json_dumpf(all, r->out, JSON_REAL_PRECISION(7) | JSON_INDENT(1));
    json_decref(all);
    fputc('\n', r->out);
    return written(r);
}
