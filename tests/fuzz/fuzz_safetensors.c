/* libFuzzer target: a safetensors file (length field, header, data), and any bytes as config.json.
 *
 *   clang -g -O1 -fsanitize=fuzzer,address,undefined -D_GNU_SOURCE -I. tests/fuzz/fuzz_safetensors.c \
 *     shard/safetensors.c shard/hf_json.c shard/hf_config.c shard/hf_quant_config.c shard/model_config.c \
 *     worker/base/{io,mem,status,log,env}.c -ljansson -lxxhash
 *
 * Besides what the sanitizers see: a header that is accepted tiles the data exactly, with sizes that follow from dtype
 * and shape; a config that is accepted passes its own check again.
 */
#include <sys/mman.h>
#include <unistd.h>

#include "shard/hf_config.h"
#include "shard/safetensors.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(bool ok) {
    if (!ok) __builtin_trap();
}

static void check_tiling(const mw_st_header *h, size_t size) {
    uint64_t at = 8 + h->header_bytes;
    check(h->file_bytes == size);
    for (size_t i = 0; i < h->n; i++) {
        const mw_st_tensor *t = &h->tensor[i];
        check(t->offset == at && t->n_dims >= 0 && t->n_dims <= MW_ST_MAX_DIMS && t->name[0]);
        at += t->bytes;
        check(at <= size);
    }
    check(at == size);
}

static void fuzz_file(const uint8_t *data, size_t size) {
    mw_st_header h = {0};
    int fd = memfd_create("fuzz", 0);
    check(fd >= 0 && write(fd, data, size) == (ssize_t)size);
    if (mw_st_read_header(&h, fd, "fuzz") == MW_OK) check_tiling(&h, size);
    mw_st_header_free(&h);
    close(fd);
}

static void fuzz_header(const uint8_t *data, size_t size) {
    mw_st_header h = {0};
    uint64_t data_bytes = size ? data[0] : 0; /* small: so that a guess can be right */
    if (mw_st_parse(&h, "fuzz", (const char *)data + (size ? 1 : 0), size ? size - 1 : 0, size + 7, data_bytes) ==
        MW_OK)
        check_tiling(&h, size + 7 + data_bytes);
    mw_st_header_free(&h);
}

static void fuzz_config(const uint8_t *data, size_t size) {
    mw_hf_config c;
    const mw_hf_text text = {(const char *)data, size};
    mw_status st = mw_hf_config_parse(&c, text, (mw_hf_text){0}, "", (mw_hf_text){0});
    check(st != MW_ERR_INTERNAL);
    if (st == MW_OK) check(mw_model_config_check(&c.model) == MW_OK);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    fuzz_file(data, size);
    fuzz_header(data, size);
    fuzz_config(data, size);
    return 0;
}
