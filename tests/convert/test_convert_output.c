/* Output appears whole or not at all: existing files, full disks, signals; and the command line's own errors. */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>
#include <hdf5.h>

#include "shard/writer.h"
#include "tests/convert/truth.h"
#include "worker/base/io.h"

static const char *g_dir; /* a good GPTQ folder */

static const spec k_spec = {.family = "llama",
                            .format = F_GPTQ,
                            .group = 128,
                            .scale_dtype = MW_F16,
                            .dense_dtype = MW_F16,
                            .norm_dtype = MW_F16,
                            .seed = 11};

static int setup(void **state) {
    (void)state;
    static truth t;
    g_dir = temp_folder();
    truth_make(&t, &k_spec);
    truth_write(&t, g_dir);
    truth_free(&t);
    return 0;
}

static void check(int rc, int code, const char *output, const char *text) {
    if (rc != code || !strstr(output, text))
        fail_msg("exit code %d, expected %d; '%s', expected '%s'", rc, code, output, text);
}

static void expect_limited(int code, const char *text, uint64_t limit, const char *const *argv) {
    const char *output;
    int rc = convert_limited(&output, limit, argv);
    check(rc, code, output, text);
}

/* Run marlin-convert with the arguments (NULL ends them): it must end with this code, and say this. */
static void expect(int code, const char *text, ...) {
    const char *argv[32] = {MW_BINARY_DIR "/bin/marlin-convert"};
    va_list ap;
    va_start(ap, text);
    for (int n = 1; n < 31 && (argv[n] = va_arg(ap, const char *)); n++) {
    }
    va_end(ap);
    expect_limited(code, text, 0, argv);
}

/* ---- usage ------------------------------------------------------------------------------------------------------ */

static void test_usage(void **state) {
    (void)state;
    static const struct {
        const char *arg[6];
        int code;
        const char *text;
    } cases[] = {
        {{NULL}, 64, "no folder given"},
        {{"DIR"}, 64, "-o PATH is missing"},
        {{"DIR", "DIR", "-o", "OUT"}, 64, "one folder or file at a time"},
        {{"--verify", "OUT", "--dequant", "OUT"}, 64, "only one of --verify, --dequant, --to-safetensors"},
        {{"--dequant", "OUT"}, 64, "-o PATH is missing"},
        {{"--nonsense"}, 64, "unrecognized option"},
        {{"DIR", "-o", "OUT", "--quantize", "gptq"}, 64, "--quantize: 'gptq' is not one of rtn, none"},
        {{"DIR", "-o", "OUT", "--quantize=rtn", "--no-tokenizer"}, 64, "the model is already quantised (gptq)"},
        {{"DIR", "-o", "OUT", "--group-size", "64"}, 64, "need --quantize rtn"},
        {{"DIR", "-o", "OUT", "--group-size", "48"}, 64, "48 is not one of 128, 64, 32, -1"},
        {{"DIR", "-o", "OUT", "--clip-search", "0"}, 64, "'0' is not a whole number from 1 to 64"},
        {{"DIR", "-o", "OUT", "--threads", "two"}, 64, "'two' is not a whole number from 1 to 256"},
        {{"DIR", "-o", "OUT", "--act", "f32"}, 64, "--act: 'f32' is not one of f16, bf16"},
        {{"DIR", "-o", "OUT", "--log-level", "loud"}, 64, "log level 'loud'"},
        {{"--verify", "OUT", "--no-tokenizer"}, 64, "belong to a conversion"},
        {{"--verify", "OUT"}, 66, "OUT"},
        {{"DIR", "-o", "OUT"}, 66, "tokenizer.json: is missing; --no-tokenizer converts without one"},
        {{"DIR", "-o", "none/OUT", "--no-tokenizer"}, 73, "cannot create"},
        {{"--version"}, 0, "model.h5 schema 1.0"},
        {{"--help"}, 0, "Exit codes: 0 done; 64"},
    };
    const char *out = temp_folder();
    char file[512], deep[600];
    snprintf(file, sizeof file, "%s/OUT", out);
    snprintf(deep, sizeof deep, "%s/none/OUT", out);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const char *argv[8] = {MW_BINARY_DIR "/bin/marlin-convert"};
        for (int j = 0; j < 6 && cases[i].arg[j]; j++) {
            const char *a = cases[i].arg[j];
            argv[j + 1] = strcmp(a, "DIR") == 0        ? g_dir
                          : strcmp(a, "OUT") == 0      ? file
                          : strcmp(a, "none/OUT") == 0 ? deep
                                                       : a;
        }
        expect_limited(cases[i].code, cases[i].text, 0, argv);
        assert_int_equal(count_entries(out), 0);
    }
}

static void test_dense_needs_a_flag(void **state) {
    (void)state;
    static truth t;
    const char *dir = temp_folder(), *text;
    spec s = k_spec;
    s.format = F_DENSE;
    truth_make(&t, &s);
    truth_write(&t, dir);
    truth_free(&t);
    int rc = convert(&text, dir, "-o", path_of(dir, "m.h5"), "--no-tokenizer", NULL);
    check(rc, 64, text, "the model is not quantised; --quantize rtn makes it int4, --quantize none keeps 16 bits");
    rc = convert(&text, dir, "-o", path_of(dir, "m.h5"), "--no-tokenizer", "--quantize=none", NULL);
    check(rc, 0, text, "0 int4 and 15 16-bit linear layers");
    rc = convert(&text, "--to-safetensors", path_of(dir, "m.h5"), "-o", path_of(dir, "st"), NULL);
    check(rc, 67, text, "no layer is int4; --dequant writes float weights");
}

/* ---- existing output -------------------------------------------------------------------------------------------- */

static void test_existing(void **state) {
    (void)state;
    const char *out = temp_folder(), *text;
    char file[512], folder[512];
    snprintf(file, sizeof file, "%s/m.h5", out);
    snprintf(folder, sizeof folder, "%s/folder", out);
    write_text(out, "m.h5", "precious");
    expect(73, "exists; --force overwrites it", g_dir, "-o", file, "--no-tokenizer", NULL);
    size_t n;
    char *kept = read_all(file, &n);
    assert_string_equal(kept, "precious");
    free(kept);
    expect(0, "14 int4 and 1 16-bit", g_dir, "-o", file, "--no-tokenizer", "--force", NULL);
    int rc = convert(&text, "--verify", file, "--quiet", NULL);
    check(rc, 0, text, "");
    assert_string_equal(text, "");

    assert_int_equal(mkdir(folder, 0777), 0); /* an empty folder may be filled */
    expect(0, "of tensors", "--dequant", file, "-o", folder, NULL);
    expect(73, "exists and is not empty", "--dequant", file, "-o", folder, "--force", NULL);
    expect(73, "exists and is not a folder", "--to-safetensors", file, "-o", file, NULL);
    assert_int_equal(count_entries(out), 2);
    /* a failed overwrite keeps the old file */
    expect(64, "not quantised", folder, "-o", file, "--no-tokenizer", "--force", NULL);
    expect(0, "ok, 21 weights", "--verify", file, NULL);
}

/* A link is never written through, with or without a slash behind it. */
static void test_folder_links(void **state) {
    (void)state;
    const char *out = temp_folder();
    expect(0, "", g_dir, "-o", path_of(out, "m.h5"), "--no-tokenizer", NULL);
    assert_int_equal(mkdir(path_of(out, "empty"), 0777), 0);
    assert_int_equal(symlink("empty", path_of(out, "link")), 0);
    expect(73, "link: exists and is not a folder", "--dequant", path_of(out, "m.h5"), "-o", path_of(out, "link"), NULL);
    expect(73, "link: exists and is not a folder", "--dequant", path_of(out, "m.h5"), "-o", path_of(out, "link/"),
           NULL);
    assert_int_equal(count_entries(path_of(out, "empty")), 0);
    expect(0, "of tensors", "--dequant", path_of(out, "m.h5"), "-o", path_of(out, "empty/"), NULL);
    assert_true(count_entries(path_of(out, "empty")) > 0);
    assert_int_equal(count_entries(out), 3);
}

/* These stand in for the C library's: a random number that can be foreseen, a file system without RENAME_NOREPLACE. */
static bool g_no_random;
static int g_rename_errno;

ssize_t getrandom(void *p, size_t n, unsigned flags) {
    if (!g_no_random) return syscall(SYS_getrandom, p, n, flags);
    memset(p, 0, n);
    return (ssize_t)n;
}

int renameat2(int from_dir, const char *from, int to_dir, const char *to, unsigned flags) {
    if (!g_rename_errno) return (int)syscall(SYS_renameat2, from_dir, from, to_dir, to, flags);
    errno = g_rename_errno;
    return -1;
}

/* Somebody's link, or file, under the very name of the temporary: left alone. */
static void test_planted_temporary(void **state) {
    (void)state;
    const char *out = temp_folder();
    char path[512], planted[600], victim[512];
    mw_outfile a, b;
    snprintf(path, sizeof path, "%s/m.h5", out);
    snprintf(victim, sizeof victim, "%s/victim", out);
    assert_int_equal(mw_outfile_begin(&a, path, false, true), MW_OK);
    assert_int_equal(mw_outfile_begin(&b, path, false, false), MW_OK);
    assert_string_not_equal(a.tmp, b.tmp);
    mw_outfile_abort(&a);
    mw_outfile_abort(&b);
    assert_int_equal(count_entries(out), 0);

    snprintf(planted, sizeof planted, "%s.tmp.%ld.%016x", path, (long)getpid(), 0);
    g_no_random = true;
    assert_int_equal(mw_outfile_begin(&a, path, false, true), MW_OK);
    assert_string_equal(a.tmp, planted); /* or the rest would test nothing */
    mw_outfile_abort(&a);
    assert_int_equal(symlink(victim, planted), 0); /* to nothing, then to a file */
    assert_int_equal(mw_outfile_begin(&a, path, false, true), MW_ERR_EXISTS);
    assert_int_equal(access(victim, F_OK), -1);
    write_text(out, "victim", "precious");
    assert_int_equal(mw_outfile_begin(&a, path, true, false), MW_ERR_EXISTS);
    g_no_random = false;
    size_t n;
    char *kept = read_all(victim, &n);
    assert_string_equal(kept, "precious");
    free(kept);
    assert_int_equal(count_entries(out), 2);
}

/* A target that comes up while the output is written: kept without force, with each way of renaming. */
static void test_late_target(void **state) {
    (void)state;
    static const int ways[] = {0, EINVAL, ENOSYS};
    const char *out = temp_folder();
    char path[512];
    snprintf(path, sizeof path, "%s/m.h5", out);
    for (size_t i = 0; i < sizeof ways / sizeof *ways; i++)
        for (int late = 0; late < 2; late++)
            for (int force = 0; force < 2; force++) {
                mw_outfile o;
                size_t n;
                assert_int_equal(mw_outfile_begin(&o, path, force, true), MW_OK);
                assert_int_equal(mw_pwrite(o.fd, o.tmp, "new", 3, 0), MW_OK);
                if (late) write_text(out, "m.h5", "precious");
                g_rename_errno = ways[i];
                mw_status st = mw_outfile_commit(&o);
                g_rename_errno = 0;
                assert_int_equal(st, late && !force ? MW_ERR_EXISTS : MW_OK);
                char *text = read_all(path, &n);
                assert_string_equal(text, late && !force ? "precious" : "new");
                free(text);
                assert_int_equal(count_entries(out), 1);
                unlink(path);
            }
}

/* Exports in several files, with an index. */
static void test_sharded_export(void **state) {
    (void)state;
    const char *out = temp_folder();
    char file[512], again[512], folder[512], index[600];
    snprintf(file, sizeof file, "%s/m.h5", out);
    snprintf(again, sizeof again, "%s/again.h5", out);
    snprintf(folder, sizeof folder, "%s/folder", out);
    snprintf(index, sizeof index, "%s/model.safetensors.index.json", folder);
    expect(0, "", g_dir, "-o", file, "--no-tokenizer", NULL);
    expect(0, "", "--dequant", file, "-o", folder, "--max-file-size", "1", NULL);
    assert_int_equal(access(index, R_OK), 0);
    assert_true(count_entries(folder) >= 4); /* config, index, at least two files of 1 MiB */
    expect(0, "0 int4 and 15 16-bit", folder, "-o", again, "--no-tokenizer", "--quantize=none", NULL);
    assert_int_equal(count_entries(out), 3);
}

/* ---- corrupt model files ---------------------------------------------------------------------------------------- */

/* Flip one bit in every dataset in turn: --verify and the exports name it. */
static void test_verify_finds_damage(void **state) {
    (void)state;
    const char *out = temp_folder();
    char file[512];
    snprintf(file, sizeof file, "%s/m.h5", out);
    expect(0, "", g_dir, "-o", file, "--no-tokenizer", NULL);
    mw_ckpt *c = NULL;
    assert_int_equal(mw_ckpt_open(&c, file), MW_OK);
    int fd = open(file, O_RDWR);
    assert_true(fd >= 0);
    for (int i = 0; i < mw_ckpt_n_datasets(c); i++) {
        const mw_dataset *d = mw_ckpt_dataset(c, i);
        off_t at = (off_t)(d->offset + (uint64_t)(d->rows * d->cols) * mw_dtype_size(d->dtype) / 2);
        uint8_t byte, bad;
        assert_int_equal(pread(fd, &byte, 1, at), 1);
        bad = byte ^ 4;
        assert_int_equal(pwrite(fd, &bad, 1, at), 1);
        expect(72, d->name, "--verify", file, NULL);
        if (i % 5 == 0) {
            expect(72, d->name, "--dequant", file, "-o", path_of(out, "dq"), NULL);
            expect(72, d->name, "--to-safetensors", file, "-o", path_of(out, "st"), NULL);
            assert_int_equal(count_entries(out), 1);
        }
        assert_int_equal(pwrite(fd, &byte, 1, at), 1);
    }
    expect(0, "ok", "--verify", file, NULL);
    close(fd);
    mw_ckpt_close(c);
}

/* Files that are no model files. */
static void test_verify_refuses(void **state) {
    (void)state;
    const char *out = temp_folder();
    char file[512];
    snprintf(file, sizeof file, "%s/m.h5", out);
    write_text(out, "m.h5", "this is not HDF5");
    expect(65, "m.h5", "--verify", file, NULL);
    expect(65, "m.h5", "--dequant", file, "-o", path_of(out, "dq"), NULL);
    expect(0, "", g_dir, "-o", file, "--no-tokenizer", "--force", NULL);
    struct stat sb;
    assert_int_equal(stat(file, &sb), 0);
    for (off_t n = sb.st_size - 1; n > 1; n = n * 2 / 3) {
        assert_int_equal(truncate(file, n), 0);
        expect(65, "m.h5", "--verify", file, NULL);
    }
    assert_int_equal(count_entries(out), 1);
}

/* A FIFO is no model file, and nobody waits for it. */
static void test_model_is_a_fifo(void **state) {
    (void)state;
    const char *out = temp_folder();
    assert_int_equal(mkfifo(path_of(out, "m.h5"), 0666), 0);
    expect(66, "m.h5: is not a regular file", "--verify", path_of(out, "m.h5"), NULL);
}

/* Every object may be moved, and a link left in its place: refused, although the data could be reached. */
static void test_links(void **state) {
    (void)state;
    static const char *const names[] = {
        "config",         "text",
        "checksums",      "weights",
        "text/uuid",      "checksums/layers",
        "weights/layers", "checksums/layers/000/mlp/up_proj/qweight",
    };
    const char *out = temp_folder();
    char file[512], text[160];
    snprintf(file, sizeof file, "%s/m.h5", out);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        for (int external = 0; external < 2; external++) {
            expect(0, "", g_dir, "-o", file, "--no-tokenizer", "--force", NULL);
            hid_t h = H5Fopen(file, H5F_ACC_RDWR, H5P_DEFAULT);
            assert_true(h >= 0);
            assert_true(H5Lmove(h, names[i], h, "/elsewhere", H5P_DEFAULT, H5P_DEFAULT) >= 0);
            assert_true((external ? H5Lcreate_external(file, "/elsewhere", h, names[i], H5P_DEFAULT, H5P_DEFAULT)
                                  : H5Lcreate_soft("/elsewhere", h, names[i], H5P_DEFAULT, H5P_DEFAULT)) >= 0);
            H5Fclose(h);
            snprintf(text, sizeof text, "%s: is a link to somewhere else", names[i]);
            expect(65, text, "--verify", file, NULL);
        }
}

/* ---- what GPTQ cannot hold -------------------------------------------------------------------------------------- */

/* The dataset of `part` without its last columns (or rows: of a table). */
static void copy_part(mw_writer *w, const mw_ckpt *c, int index, int64_t rows, int64_t cols) {
    const mw_dataset *d = mw_ckpt_dataset(c, index);
    size_t row = (size_t)cols * mw_dtype_size(d->dtype);
    mw_dataset_spec s = {.name = d->name, .dtype = d->dtype, .rows = rows, .cols = cols};
    s.one_d = rows == 1;
    s.block_rows = d->block_rows < rows ? d->block_rows : rows;
    s.block_cols = d->block_cols < cols ? d->block_cols : cols;
    void *data = calloc((size_t)rows, row);
    assert_int_equal(mw_ckpt_read(c, d, 0, rows, 0, cols, data, row, true), MW_OK);
    assert_int_equal(mw_writer_dataset(w, &s, data), MW_OK);
    free(data);
}

/* The model in `from` with two tokens less: N of its int4 lm_head is no longer a multiple of 8. */
static void drop_two_tokens(const char *from, const char *to) {
    mw_ckpt *c = NULL;
    mw_writer *w = NULL;
    mw_str text = {0};
    mw_provenance prov = {.creator = "test", .source_format = "gptq", .source_name = "test", .chat = "none"};
    assert_int_equal(mw_ckpt_open(&c, from), MW_OK);
    mw_model_config cfg = *mw_ckpt_config(c);
    cfg.vocab -= 2;
    assert_int_equal(mw_writer_create(&w, to, false, &cfg, MW_IN_ROWS, &prov), MW_OK);
    assert_int_equal(mw_ckpt_text(c, MW_TEXT_CONFIG, &text), MW_OK);
    assert_int_equal(mw_writer_text(w, MW_TEXT_CONFIG, text.p, text.n), MW_OK);
    for (int i = 0; i < mw_ckpt_n_weights(c); i++) {
        const mw_weight *v = mw_ckpt_weight(c, i);
        const int part[] = {v->qweight, v->scales, v->zeros, v->perm, v->bias, v->weight};
        int64_t less = v->n == cfg.vocab + 2 ? 2 : 0;
        if (v->kind == MW_INT4)
            assert_int_equal(mw_writer_linear(w, v->name, true, v->k, v->n - less, v->group_size), MW_OK);
        for (int j = 0; j < 6; j++) {
            if (part[j] < 0) continue;
            const mw_dataset *d = mw_ckpt_dataset(c, part[j]);
            copy_part(w, c, part[j], d->rows - (j == 5 ? less : 0), d->cols - (j == 0 ? less / 2 : j < 3 ? less : 0));
        }
    }
    assert_int_equal(mw_writer_commit(w), MW_OK);
    mw_str_free(&text);
    mw_ckpt_close(c);
}

static void test_export_odd_n(void **state) {
    (void)state;
    static truth t;
    const char *dir = temp_folder(), *out = temp_folder();
    spec s = k_spec;
    s.head_int4 = true;
    truth_make(&t, &s);
    truth_write(&t, dir);
    truth_free(&t);
    expect(0, "15 int4 and 0 16-bit", dir, "-o", path_of(out, "m.h5"), "--no-tokenizer", NULL);
    drop_two_tokens(path_of(out, "m.h5"), path_of(out, "less.h5"));
    expect(0, "ok", "--verify", path_of(out, "less.h5"), NULL);
    expect(67, "is not a multiple of 8: GPTQ packs eight", "--to-safetensors", path_of(out, "less.h5"), "-o",
           path_of(out, "st"), NULL);
    expect(67, "lm_head: N = ", "--to-safetensors", path_of(out, "less.h5"), "-o", path_of(out, "st"), NULL);
    assert_int_equal(count_entries(out), 2);
    expect(0, "of tensors", "--dequant", path_of(out, "less.h5"), "-o", path_of(out, "dq"), NULL);
}

/* ---- full disks ------------------------------------------------------------------------------------------------- */

/* A limit on the size of a file, at every size from nothing to nearly the whole: always the same clear end. */
static void test_file_limit(void **state) {
    (void)state;
    const char *out = temp_folder();
    char file[512], folder[512];
    struct stat sb;
    snprintf(file, sizeof file, "%s/m.h5", out);
    snprintf(folder, sizeof folder, "%s/folder", out);
    expect(0, "", g_dir, "-o", file, "--no-tokenizer", NULL);
    assert_int_equal(stat(file, &sb), 0);
    const char *argv[] = {
        MW_BINARY_DIR "/bin/marlin-convert", g_dir, "-o", path_of(out, "full.h5"), "--no-tokenizer", NULL};
    for (uint64_t limit = 512; limit < (uint64_t)sb.st_size; limit = limit * 5 / 3 + 100) {
        expect_limited(74, "File too large", limit, argv);
        assert_int_equal(count_entries(out), 1);
    }
    expect_limited(74, "File too large", (uint64_t)sb.st_size - 1, argv);
    assert_int_equal(count_entries(out), 1);
    const char *export_argv[] = {argv[0], "--dequant", file, "-o", folder, NULL};
    for (uint64_t limit = 100; limit < 1000000; limit *= 10) {
        expect_limited(74, "File too large", limit, export_argv);
        assert_int_equal(count_entries(out), 1);
    }
}

/* A file system of 256 KiB, where this machine lets us mount one. */
static void test_full_disk(void **state) {
    (void)state;
    const char *out = temp_folder(), *text;
    if (unshare(CLONE_NEWNS) != 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0 ||
        mount("none", out, "tmpfs", 0, "size=256k") != 0) {
        print_message("no right to mount (%s): the file size limit stands for the full disk\n", strerror(errno));
        return;
    }
    int rc = convert(&text, g_dir, "-o", path_of(out, "m.h5"), "--no-tokenizer", NULL);
    check(rc, 74, text, "No space left on device");
    assert_int_equal(count_entries(out), 0);
    assert_int_equal(umount(out), 0);
}

/* ---- signals ---------------------------------------------------------------------------------------------------- */

static void interrupt(int sig, const char *const *argv, const char *out) {
    int fd[2], status;
    char text[4096];
    assert_int_equal(pipe(fd), 0);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        dup2(fd[1], 2);
        close(fd[0]);
        close(fd[1]);
        signal(sig, SIG_DFL); /* a test run under nohup has SIGHUP ignored */
        execv(argv[0], (char *const *)argv);
        _exit(127);
    }
    close(fd[1]);
    for (int i = 0; count_entries(out) == 0 && i < 5000; i++) usleep(1000);
    assert_true(count_entries(out) > 0); /* it has begun to write */
    kill(pid, sig);
    size_t n = 0;
    for (ssize_t r; n < sizeof text - 1 && (r = read(fd[0], text + n, sizeof text - 1 - n)) > 0;) n += (size_t)r;
    text[n] = 0;
    close(fd[0]);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    check(WEXITSTATUS(status), 128 + sig, text, "interrupted, nothing was written");
    if (count_entries(out)) fail_msg("%s: something is left: %s", argv[1], first_entry(out));
}

static void test_signals(void **state) {
    (void)state;
    static truth t;
    const char *dir = large_temp_folder(), *out = large_temp_folder();
    spec s = k_spec;
    s.format = F_DENSE;
    truth_make(&t, &s);
    truth_set_inner(&t,
                    32768); /* 50 million weights, searched with 64 ratios by one thread: it will not be done soon */
    truth_write(&t, dir);
    truth_free(&t);
    const char *argv[] = {MW_BINARY_DIR "/bin/marlin-convert",
                          dir,
                          "-o",
                          path_of(out, "m.h5"),
                          "--no-tokenizer",
                          "--quantize=rtn",
                          "--clip-search=64",
                          "--threads=1",
                          NULL};
    interrupt(SIGINT, argv, out);
    interrupt(SIGTERM, argv, out);
    interrupt(SIGHUP, argv, out);
    /* an export: a folder of several files */
    const char *model = path_of(dir, "m.h5");
    expect(0, "", dir, "-o", model, "--no-tokenizer", "--quantize=rtn", "--clip-search=1", NULL);
    const char *export_argv[] = {argv[0], "--dequant", model, "-o", path_of(out, "folder"), "--threads=1", NULL};
    interrupt(SIGINT, export_argv, out);
    remove_tree(dir);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_usage),          cmocka_unit_test(test_dense_needs_a_flag),
        cmocka_unit_test(test_existing),       cmocka_unit_test(test_sharded_export),
        cmocka_unit_test(test_file_limit),     cmocka_unit_test(test_verify_finds_damage),
        cmocka_unit_test(test_verify_refuses), cmocka_unit_test(test_signals),
        cmocka_unit_test(test_folder_links),   cmocka_unit_test(test_planted_temporary),
        cmocka_unit_test(test_late_target),    cmocka_unit_test(test_model_is_a_fifo),
        cmocka_unit_test(test_links),          cmocka_unit_test(test_export_odd_n),
        cmocka_unit_test(test_full_disk),
    };
    return cmocka_run_group_tests(tests, setup, NULL);
}
