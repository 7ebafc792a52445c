/* tests/convert/support.h - temporary folders, running marlin-convert, and a small safetensors writer and reader that
 * share no code with the product. */
#ifndef MW_TEST_CONVERT_SUPPORT_H
#define MW_TEST_CONVERT_SUPPORT_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* ---- random numbers: the seed is printed by tests that use them ------------------------------------------------- */

typedef struct rng {
    uint64_t s;
} rng;
uint32_t rng_u32(rng *r);
int rng_below(rng *r, int n);              /* 0 .. n-1 */
void rng_order(rng *r, int32_t *p, int n); /* a random permutation of 0 .. n-1 */

/* ---- folders and processes -------------------------------------------------------------------------------------- */

/* A new empty folder, removed with all it holds when the program ends. Returns a string that lives until then. In
 * memory where that is possible (every conversion ends in an fsync); the large one is on disk. */
const char *temp_folder(void);
const char *large_temp_folder(void);
void remove_tree(const char *path);
int count_entries(const char *dir);
const char *first_entry(const char *dir);         /* a name, or ""; a static buffer */
char *path_of(const char *dir, const char *name); /* "dir/name", from a ring of 16 buffers */
void write_file(const char *dir, const char *name, const void *bytes, size_t n);
void write_text(const char *dir, const char *name, const char *text);
char *read_all(const char *path, size_t *n); /* free it; ends in a zero byte */

/* Run build/bin/marlin-convert with these arguments (NULL ends them). Output of both streams goes to *output (a static
 * buffer). Returns the exit code, or 128 + the signal. */
int convert(const char **output, ...);
/* The same with a limit on the size of files (RLIMIT_FSIZE); 0: none. */
int convert_limited(const char **output, uint64_t file_limit, const char *const *argv);

/* ---- safetensors ------------------------------------------------------------------------------------------------ */

typedef struct tensor {
    char name[160], dtype[16];
    int n_dims;
    int64_t dim[4];
    size_t bytes;
    uint8_t *data;
    int file;
} tensor;

typedef struct tensors {
    tensor t[512];
    int n;
} tensors;

/* Add a tensor; its data is zeroed, to be filled in by the caller. rows 0: one dimension. */
void *add_tensor(tensors *s, const char *name, const char *dtype, int64_t rows, int64_t cols);
tensor *find_tensor(tensors *s, const char *name); /* NULL when absent */
void drop_tensor(tensors *s, const char *name);
void free_tensors(tensors *s);

/* model.safetensors, or n_files files and an index. */
void write_tensors(tensors *s, const char *dir, int n_files);
/* A file of exactly this header text and so many bytes of data. */
void write_raw(const char *dir, const char *name, const char *header, size_t data_bytes);
/* All tensors of all *.safetensors files of a folder. */
void read_tensors(tensors *s, const char *dir);

#endif
