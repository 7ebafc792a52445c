/* --plot: rows as curves, through gnuplot. A panel is a row of the table below; those without data are left out. */
#include <errno.h>
#include <math.h>
#include <signal.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "bench/report.h"

extern char **environ;

typedef struct {
    const char *test; /* prefix of the rows' "test" */
    const char *title, *x, *x_title, *y, *y_title;
    const char *series[4]; /* members that tell curves apart */
    const char *limit;     /* a member drawn beside, dashed, or NULL */
    const char *limit_title;
    bool log_x, log_y, spread; /* spread: y_p10 to y_p90 as bars */
    bool two;                  /* left out where all rows have one x */
} panel;

#define PANEL(t, ti, x_, xt, y_, yt, ...)                                                                              \
    { .test = t, .title = ti, .x = x_, .x_title = xt, .y = y_, .y_title = yt, __VA_ARGS__ }
static const panel k_panels[] = {
    PANEL("gemm", "int4 GEMM: roofline", "intensity", "FLOP / byte read", "tflops", "TFLOP/s",
          .series = {"model", "tp", "layer"}, .limit = "roof_tflops", .limit_title = "roof", .log_x = true,
          .log_y = true),
    PANEL("gemm", "int4 GEMM: time over reading the same bytes", "m", "rows, M", "x_read", "x read",
          .series = {"model", "tp", "layer"}, .log_x = true, .log_y = true),
    PANEL("gemm", "int4 GEMM: speed over the dense GEMM", "m", "rows, M", "x_dense", "x dense",
          .series = {"model", "tp", "layer"}, .log_x = true),
    PANEL("gemm", "int4 GEMM: shapes of a rank", "tp", "ranks", "us", "us", .series = {"model", "layer", "m"},
          .log_x = true, .log_y = true, .two = true),
    PANEL("attention", "attention", "ctx", "context", "gbps", "GB/s of KV", .series = {"model", "test", "seqs"},
          .log_x = true, .log_y = true),
    PANEL("allreduce", "all-reduce", "bytes", "bytes", "us", "us", .series = {"ranks", "dtype"}, .limit = "library_us",
          .limit_title = "MPI", .log_x = true, .log_y = true, .spread = true),
    PANEL("tg", "decode: batch sweep", "batch", "sequences", "tps", "tokens/s", .series = {"model", "ranks", "depth"},
          .limit = "limit_tps", .limit_title = "read limit", .log_x = true, .log_y = true, .spread = true),
    PANEL("tg", "decode: scaling", "ranks", "ranks", "tps", "tokens/s", .series = {"model", "batch", "depth"},
          .limit = "limit_tps", .limit_title = "read limit", .log_x = true, .log_y = true, .spread = true, .two = true),
    PANEL("pp", "prefill", "tokens", "tokens of the prompt", "tps", "tokens/s", .series = {"model", "ranks", "batch"},
          .log_x = true, .log_y = true, .spread = true),
    PANEL("throughput", "offline throughput", "concurrency", "requests in flight", "output_throughput",
          "output tokens/s", .series = {"model", "ranks", "input_len", "output_len"}, .log_x = true, .log_y = true),
    PANEL("serve", "server: time to first token", "concurrency", "requests in flight", "median_ttft_ms", "ms",
          .series = {"model", "rate"}, .limit = "p99_ttft_ms", .limit_title = "p99", .log_x = true, .log_y = true),
    PANEL("serve", "server: output", "concurrency", "requests in flight", "output_throughput", "output tokens/s",
          .series = {"model", "rate"}, .log_x = true, .log_y = true),
};
#define N_PANELS (int)(sizeof k_panels / sizeof *k_panels)

/* ---- data ------------------------------------------------------------------------------------------------------- */

static bool number(const json_t *row, const char *key, double *out) {
    const json_t *v = json_object_get(row, key);
    *out = json_number_value(v);
    return json_is_number(v) && *out > 0;
}

static bool belongs(const panel *p, const json_t *row) {
    const char *test = json_string_value(json_object_get(row, "test"));
    double x, y;
    return test && strncmp(test, p->test, strlen(p->test)) == 0 && number(row, p->x, &x) && number(row, p->y, &y);
}

static mw_status series_name(const panel *p, const json_t *row, mw_str *out) {
    mw_status st = MW_OK;
    out->n = 0;
    MW_TRY(st, mw_str_adds(out, ""));
    for (int i = 0; i < 4 && p->series[i]; i++) {
        const json_t *v = json_object_get(row, p->series[i]);
        const char *sep = out->n ? ", " : "";
        if (json_is_string(v))
            MW_TRY(st, mw_str_addf(out, "%s%s", sep, json_string_value(v)));
        else if (json_is_integer(v))
            MW_TRY(st, mw_str_addf(out, "%s%s %" JSON_INTEGER_FORMAT, sep, p->series[i], json_integer_value(v)));
    }
fail:
    return st;
}

/* "x y low high limit" of a row. */
static mw_status add_point(const panel *p, const json_t *row, mw_str *s) {
    char key[64];
    double x = 0, y = 0, low, high, limit;
    if (!number(row, p->x, &x) || !number(row, p->y, &y)) return MW_OK;
    snprintf(key, sizeof key, "%s_p10", p->y);
    if (!number(row, key, &low)) low = y;
    snprintf(key, sizeof key, "%s_p90", p->y);
    if (!number(row, key, &high)) high = y;
    if (!p->limit || !number(row, p->limit, &limit)) limit = NAN;
    return mw_str_addf(s, "%.8g %.8g %.8g %.8g %.8g\n", x, y, low, high, limit);
}

/* What a string may hold between gnuplot's single quotes. */
static mw_status add_quoted(mw_str *s, const char *text) {
    mw_status st = mw_str_adds(s, "'");
    for (; *text && st == MW_OK; text++)
        st = *text == '\'' ? mw_str_adds(s, "''") : (unsigned char)*text < ' ' ? MW_OK : mw_str_add(s, text, 1);
    return st == MW_OK ? mw_str_adds(s, "'") : st;
}

/* ---- the script ------------------------------------------------------------------------------------------------- */

typedef struct {
    mw_str data, plot; /* data blocks; the arguments of one plot command */
    int blocks;
} script;

/* The rows of one series as a data block, sorted by gnuplot's own smoothing. `first`: the row that begins the series.
 */
static mw_status add_series(script *s, const panel *p, const json_t *rows, const char *name) {
    mw_status st = MW_OK;
    mw_str other = {0};
    size_t i;
    json_t *row;
    MW_TRY(st, mw_str_addf(&s->data, "$d%d << EOD\n", s->blocks));
    json_array_foreach((json_t *)rows, i, row) {
        if (!belongs(p, row)) continue;
        MW_TRY(st, series_name(p, row, &other));
        if (strcmp(other.p, name) == 0) MW_TRY(st, add_point(p, row, &s->data));
    }
    MW_TRY(st, mw_str_adds(&s->data, "EOD\n"));
    MW_TRY(st, mw_str_adds(&s->plot, s->plot.n ? ", " : ""));
    if (p->spread)
        MW_TRY(st, mw_str_addf(&s->plot, "$d%d using 1:2:3:4 with yerrorbars lc 'grey' ps 0 notitle, ", s->blocks));
    MW_TRY(st, mw_str_addf(&s->plot, "$d%d using 1:2 smooth unique with linespoints pt 7 ps 0.5 title ", s->blocks));
    MW_TRY(st, add_quoted(&s->plot, name));
    if (p->limit) {
        MW_TRY(st,
               mw_str_addf(&s->plot, ", $d%d using 1:5 smooth unique with lines dt 2 lc 'black' title ", s->blocks));
        MW_TRY(st, add_quoted(&s->plot, p->limit_title));
    }
    s->blocks++;
fail:
    mw_str_free(&other);
    return st;
}

/* Have the panel's rows more than one x? */
static bool sweeps(const panel *p, const json_t *rows) {
    double first = 0, x = 0;
    size_t i;
    json_t *row;
    json_array_foreach((json_t *)rows, i, row) {
        if (!belongs(p, row) || !number(row, p->x, &x)) continue;
        if (first == 0) first = x;
        if (x != first) return true;
    }
    return false;
}

/* *drawn: something of it is in the rows. The names of finished series are in `seen`. */
static mw_status add_panel(script *s, const panel *p, const json_t *rows, mw_str *out, bool *drawn) {
    mw_status st = MW_OK;
    mw_str name = {0};
    json_t *seen = json_object(), *row;
    size_t i;
    s->plot.n = 0;
    *drawn = false;
    if (p->two && !sweeps(p, rows)) goto fail;
    json_array_foreach((json_t *)rows, i, row) {
        if (!belongs(p, row)) continue;
        MW_TRY(st, series_name(p, row, &name));
        if (json_object_get(seen, name.p)) continue;
        json_object_set_new(seen, name.p, json_true());
        MW_TRY(st, add_series(s, p, rows, name.p));
    }
    *drawn = s->plot.n > 0;
    if (!*drawn) goto fail;
    MW_TRY(st, mw_str_addf(out, "set title '%s'\nset xlabel '%s'\nset ylabel '%s'\nunset logscale\n%s%splot %s\n",
                           p->title, p->x_title, p->y_title, p->log_x ? "set logscale x 2\n" : "",
                           p->log_y ? "set logscale y 10\n" : "", s->plot.p));
fail:
    json_decref(seen);
    mw_str_free(&name);
    return st;
}

static bool has_suffix(const char *name, const char *suffix) {
    size_t n = strlen(name), m = strlen(suffix);
    return n > m && strcmp(name + n - m, suffix) == 0;
}

static mw_status make_script(const bench_report *r, mw_str *out) {
    mw_status st = MW_OK;
    script s = {0};
    mw_str panels = {0};
    int n = 0;
    for (int i = 0; i < N_PANELS; i++) {
        bool drawn;
        MW_TRY(st, add_panel(&s, &k_panels[i], r->rows, &panels, &drawn));
        n += drawn;
    }
    if (n == 0) {
        st = MW_FAIL(MW_ERR_FORMAT, "--plot: none of the rows can be drawn");
        goto fail;
    }
    int columns = n > 1 ? 2 : 1, rows = (n + columns - 1) / columns;
    MW_TRY(st, mw_str_addf(out, "set terminal %s size %d,%d\nset output ",
                           has_suffix(r->o->plot, ".png") ? "pngcairo" : "svg", 720 * columns, 460 * rows));
    MW_TRY(st, add_quoted(out, r->o->plot));
    MW_TRY(st,
           mw_str_addf(
               out, "\nset encoding utf8\nset key outside below noenhanced\nset grid\n%sset multiplot layout %d,%d\n",
               s.data.p, rows, columns));
    MW_TRY(st, mw_str_adds(out, panels.p));
    MW_TRY(st, mw_str_adds(out, "unset multiplot\n"));
fail:
    mw_str_free(&s.data);
    mw_str_free(&s.plot);
    mw_str_free(&panels);
    return st;
}

/* ---- gnuplot ---------------------------------------------------------------------------------------------------- */

static mw_status no_gnuplot(void) {
    return MW_FAIL(MW_ERR_UNAVAIL, "--plot: gnuplot does not start: install it (Debian, Ubuntu: gnuplot-nox)");
}

/* Runs gnuplot with `text` on its standard input. */
static mw_status run_gnuplot(const char *text, size_t n) {
    int fd[2], code = -1;
    pid_t pid;
    char *argv[] = {(char *)"gnuplot", NULL};
    posix_spawn_file_actions_t actions;
    if (pipe(fd) != 0) return MW_FAIL(MW_ERR_IO, "pipe: %s", strerror(errno));
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, fd[0], STDIN_FILENO);
    posix_spawn_file_actions_adddup2(&actions, STDERR_FILENO, STDOUT_FILENO); /* results own standard output */
    posix_spawn_file_actions_addclose(&actions, fd[1]);
    int failed = posix_spawnp(&pid, argv[0], &actions, NULL, argv, environ);
    posix_spawn_file_actions_destroy(&actions);
    close(fd[0]);
    void (*old)(int) = signal(SIGPIPE, SIG_IGN);
    for (size_t at = 0; !failed && at < n;) {
        ssize_t w = write(fd[1], text + at, n - at);
        if (w <= 0 && errno != EINTR) break;
        at += w > 0 ? (size_t)w : 0;
    }
    close(fd[1]);
    signal(SIGPIPE, old);
    if (failed) return no_gnuplot();
    while (waitpid(pid, &code, 0) < 0 && errno == EINTR) {
    }
    if (WIFEXITED(code) && WEXITSTATUS(code) == 127) return no_gnuplot();
    if (code != 0) return MW_FAIL(MW_ERR_IO, "--plot: gnuplot failed (status %d)", code);
    return MW_OK;
}

mw_status bench_plot_check(const bench_opts *o) {
    if (!o->plot) return MW_OK;
    if (!has_suffix(o->plot, ".svg") && !has_suffix(o->plot, ".png"))
        return MW_FAIL(MW_ERR_USAGE, "--plot: '%s' ends in neither .svg nor .png", o->plot);
    return run_gnuplot("exit\n", 5);
}

mw_status bench_plot(const bench_report *r) {
    mw_str text = {0};
    mw_status st = make_script(r, &text);
    if (st == MW_OK) st = run_gnuplot(text.p, text.n);
    mw_str_free(&text);
    return st;
}
