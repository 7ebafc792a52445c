#include "tests/convert/support.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <jansson.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define CHECK(x)                                                                                                       \
    do {                                                                                                               \
        if (!(x)) {                                                                                                    \
            fprintf(stderr, "%s:%d: %s failed (%s)\n", __FILE__, __LINE__, #x, strerror(errno));                       \
            abort();                                                                                                   \
        }                                                                                                              \
    } while (0)

uint32_t rng_u32(rng *r) { /* splitmix64 */
    uint64_t z = r->s += 0x9e3779b97f4a7c15ull;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ z >> 27) * 0x94d049bb133111ebull;
    return (uint32_t)(z >> 32);
}

int rng_below(rng *r, int n) {
    return (int)(rng_u32(r) % (uint32_t)n);
}

void rng_order(rng *r, int32_t *p, int n) {
    for (int i = 0; i < n; i++) p[i] = i;
    for (int i = n - 1; i > 0; i--) {
        int j = rng_below(r, i + 1);
        int32_t t = p[i];
        p[i] = p[j];
        p[j] = t;
    }
}

/* ---- folders ---------------------------------------------------------------------------------------------------- */

static int remove_one(const char *path, const struct stat *sb, int type, struct FTW *f) {
    (void)sb;
    (void)type;
    (void)f;
    return remove(path);
}

void remove_tree(const char *path) {
    nftw(path, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

static char *g_temp[256];
static int g_n_temp;
static pid_t g_owner;

static void remove_temps(void) {
    if (getpid() != g_owner) return; /* a forked child that exits */
    for (int i = 0; i < g_n_temp; i++) {
        remove_tree(g_temp[i]);
        free(g_temp[i]);
    }
}

static const char *new_folder(const char *parent) {
    char name[64];
    snprintf(name, sizeof name, "%s/mw_convert_XXXXXX", parent);
    if (g_n_temp == 0) {
        g_owner = getpid();
        atexit(remove_temps);
    }
    CHECK(g_n_temp < 256);
    CHECK(mkdtemp(name));
    return g_temp[g_n_temp++] = strdup(name);
}

const char *temp_folder(void) {
    return new_folder(access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp");
}

const char *large_temp_folder(void) {
    return new_folder("/tmp");
}

static char g_entry[256];

int count_entries(const char *dir) {
    int n = 0;
    DIR *d = opendir(dir);
    CHECK(d);
    for (const struct dirent *e; (e = readdir(d));) {
        if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0) continue;
        if (n++ == 0) snprintf(g_entry, sizeof g_entry, "%s", e->d_name);
    }
    closedir(d);
    return n;
}

const char *first_entry(const char *dir) {
    g_entry[0] = 0;
    count_entries(dir);
    return g_entry;
}

char *path_of(const char *dir, const char *name) {
    static char ring[16][512];
    static int next;
    char *p = ring[next++ % 16];
    snprintf(p, 512, "%s/%s", dir, name);
    return p;
}

void write_file(const char *dir, const char *name, const void *bytes, size_t n) {
    FILE *f = fopen(path_of(dir, name), "wb");
    CHECK(f);
    CHECK(fwrite(bytes, 1, n, f) == n);
    CHECK(fclose(f) == 0);
}

void write_text(const char *dir, const char *name, const char *text) {
    write_file(dir, name, text, strlen(text));
}

char *read_all(const char *path, size_t *n) {
    FILE *f = fopen(path, "rb");
    CHECK(f);
    CHECK(fseek(f, 0, SEEK_END) == 0);
    long size = ftell(f);
    rewind(f);
    char *p = malloc((size_t)size + 1);
    CHECK(p && fread(p, 1, (size_t)size, f) == (size_t)size);
    p[size] = 0;
    fclose(f);
    if (n) *n = (size_t)size;
    return p;
}

/* ---- processes -------------------------------------------------------------------------------------------------- */

int convert_limited(const char **output, uint64_t file_limit, const char *const *argv) {
    static char text[65536];
    size_t n = 0;
    int fd[2], status;
    CHECK(pipe(fd) == 0);
    fflush(NULL);
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        struct rlimit limit = {file_limit, file_limit};
        if (file_limit) setrlimit(RLIMIT_FSIZE, &limit);
        dup2(fd[1], 1);
        dup2(fd[1], 2);
        close(fd[0]);
        close(fd[1]);
        execv(argv[0], (char *const *)argv);
        _exit(127);
    }
    close(fd[1]);
    for (ssize_t r; (r = read(fd[0], text + n, sizeof text - 1 - n)) != 0;) {
        if (r < 0 && errno == EINTR) continue;
        CHECK(r > 0);
        n += (size_t)r;
    }
    text[n] = 0;
    close(fd[0]);
    CHECK(waitpid(pid, &status, 0) == pid);
    if (output) *output = text;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

int convert(const char **output, ...) {
    const char *argv[32] = {MW_BINARY_DIR "/bin/marlin-convert"};
    int n = 1;
    va_list ap;
    va_start(ap, output);
    while (n < 31 && (argv[n] = va_arg(ap, const char *))) n++;
    va_end(ap);
    argv[n] = NULL;
    return convert_limited(output, 0, argv);
}

/* ---- safetensors ------------------------------------------------------------------------------------------------ */

static size_t dtype_bytes(const char *dtype) {
    if (strcmp(dtype, "I64") == 0 || strcmp(dtype, "F64") == 0) return 8;
    if (strcmp(dtype, "F16") == 0 || strcmp(dtype, "BF16") == 0) return 2;
    if (strcmp(dtype, "U8") == 0 || strcmp(dtype, "I8") == 0) return 1;
    return 4;
}

void *add_tensor(tensors *s, const char *name, const char *dtype, int64_t rows, int64_t cols) {
    CHECK(s->n < 512);
    tensor *t = &s->t[s->n++];
    memset(t, 0, sizeof *t);
    snprintf(t->name, sizeof t->name, "%s", name);
    snprintf(t->dtype, sizeof t->dtype, "%s", dtype);
    t->n_dims = rows ? 2 : 1;
    t->dim[0] = rows ? rows : cols;
    t->dim[1] = rows ? cols : 0;
    t->bytes = (size_t)((rows ? rows : 1) * cols) * dtype_bytes(dtype);
    t->data = calloc(t->bytes + 1, 1);
    CHECK(t->data);
    return t->data;
}

tensor *find_tensor(tensors *s, const char *name) {
    for (int i = 0; i < s->n; i++)
        if (strcmp(s->t[i].name, name) == 0) return &s->t[i];
    return NULL;
}

void drop_tensor(tensors *s, const char *name) {
    tensor *t = find_tensor(s, name);
    CHECK(t);
    free(t->data);
    *t = s->t[--s->n];
}

void free_tensors(tensors *s) {
    for (int i = 0; i < s->n; i++) free(s->t[i].data);
    s->n = 0;
}

static void put_header(FILE *f, const char *header, size_t n) {
    for (int i = 0; i < 8; i++) fputc((int)(n >> (8 * i) & 255), f);
    CHECK(fwrite(header, 1, n, f) == n);
}

static void write_one(const tensors *s, const char *dir, const char *name, int file) {
    char *header = malloc(1 << 20);
    size_t n = 0, at = 0;
    CHECK(header);
    n += (size_t)sprintf(header + n, "{\"__metadata__\":{\"format\":\"pt\"}");
    for (int i = 0; i < s->n; i++) {
        const tensor *t = &s->t[i];
        if (t->file != file) continue;
        n += (size_t)sprintf(header + n, ",\"%s\":{\"dtype\":\"%s\",\"shape\":[", t->name, t->dtype);
        for (int d = 0; d < t->n_dims; d++)
            n += (size_t)sprintf(header + n, "%s%lld", d ? "," : "", (long long)t->dim[d]);
        n += (size_t)sprintf(header + n, "],\"data_offsets\":[%zu,%zu]}", at, at + t->bytes);
        at += t->bytes;
    }
    n += (size_t)sprintf(header + n, "}");
    while (n % 8) header[n++] = ' ';
    FILE *f = fopen(path_of(dir, name), "wb");
    CHECK(f);
    put_header(f, header, n);
    for (int i = 0; i < s->n; i++)
        if (s->t[i].file == file) CHECK(fwrite(s->t[i].data, 1, s->t[i].bytes, f) == s->t[i].bytes);
    CHECK(fclose(f) == 0);
    free(header);
}

void write_tensors(tensors *s, const char *dir, int n_files) {
    char name[64];
    for (int i = 0; i < s->n; i++) s->t[i].file = i * n_files / s->n;
    if (n_files == 1) {
        write_one(s, dir, "model.safetensors", 0);
        return;
    }
    FILE *index = fopen(path_of(dir, "model.safetensors.index.json"), "wb");
    CHECK(index);
    fprintf(index, "{\"metadata\":{\"total_size\":0},\"weight_map\":{");
    for (int f = 0; f < n_files; f++) {
        snprintf(name, sizeof name, "model-%05d-of-%05d.safetensors", f + 1, n_files);
        write_one(s, dir, name, f);
    }
    for (int i = 0; i < s->n; i++)
        fprintf(index, "%s\"%s\":\"model-%05d-of-%05d.safetensors\"", i ? "," : "", s->t[i].name, s->t[i].file + 1,
                n_files);
    fprintf(index, "}}");
    CHECK(fclose(index) == 0);
}

void write_raw(const char *dir, const char *name, const char *header, size_t data_bytes) {
    FILE *f = fopen(path_of(dir, name), "wb");
    CHECK(f);
    put_header(f, header, strlen(header));
    for (size_t i = 0; i < data_bytes; i++) fputc(0, f);
    CHECK(fclose(f) == 0);
}

static void read_one(tensors *s, const char *path) {
    size_t n, header = 0;
    char *file = read_all(path, &n);
    CHECK(n > 8);
    for (int i = 7; i >= 0; i--) header = header << 8 | (uint8_t)file[i];
    json_t *root = json_loadb(file + 8, header, 0, NULL), *v;
    const char *name;
    CHECK(root);
    json_object_foreach(root, name, v) {
        if (strcmp(name, "__metadata__") == 0) continue;
        const json_t *shape = json_object_get(v, "shape"), *offset = json_object_get(v, "data_offsets");
        int n_dims = (int)json_array_size(shape);
        CHECK(n_dims == 1 || n_dims == 2);
        int64_t d0 = json_integer_value(json_array_get(shape, 0)), d1 = json_integer_value(json_array_get(shape, 1));
        void *data = add_tensor(s, name, json_string_value(json_object_get(v, "dtype")), n_dims == 2 ? d0 : 0,
                                n_dims == 2 ? d1 : d0);
        size_t begin = (size_t)json_integer_value(json_array_get(offset, 0));
        CHECK(8 + header + begin + s->t[s->n - 1].bytes <= n);
        memcpy(data, file + 8 + header + begin, s->t[s->n - 1].bytes);
    }
    json_decref(root);
    free(file);
}

void read_tensors(tensors *s, const char *dir) {
    DIR *d = opendir(dir);
    CHECK(d);
    s->n = 0;
    for (const struct dirent *e; (e = readdir(d));) {
        size_t n = strlen(e->d_name);
        if (n > 12 && strcmp(e->d_name + n - 12, ".safetensors") == 0) read_one(s, path_of(dir, e->d_name));
    }
    closedir(d);
}
