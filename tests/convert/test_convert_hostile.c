/* Files that lie. Every case: exit code, a part of the error text, and no output file (nor a temporary) left behind. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/convert/truth.h"

static const char *g_out;

/* Convert `dir`; it must fail like this. */
static void refused_with(const char *label, const char *dir, int code, const char *text, const char *flag,
                         const char *flag2) {
    const char *output;
    int rc = convert(&output, dir, "-o", path_of(g_out, "model.h5"), "--no-tokenizer", flag, flag2, NULL);
    if (rc != code || !strstr(output, text))
        fail_msg("%s: exit code %d, expected %d; '%s', expected '%s'", label, rc, code, output, text);
    if (strncmp(output, "error: ", 7) != 0 || strchr(output, '\n') != output + strlen(output) - 1)
        fail_msg("%s: not one line of error: '%s'", label, output);
    if (count_entries(g_out) != 0) fail_msg("%s: something is left in the output folder", label);
}

static void refused(const char *label, const char *dir, int code, const char *text, const char *flag) {
    refused_with(label, dir, code, text, flag, NULL);
}

static const spec k_gptq = {.family = "llama",
                            .format = F_GPTQ,
                            .group = 128,
                            .zeros = true,
                            .act_order = true,
                            .scale_dtype = MW_F16,
                            .dense_dtype = MW_F16,
                            .norm_dtype = MW_F16,
                            .seed = 5};

/* ---- headers ---------------------------------------------------------------------------------------------------- */

typedef struct {
    const char *header;
    size_t data;
    int code;
    const char *text;
} header_case;

#define T(name, dtype, shape, begin, end)                                                                              \
    "\"" name "\":{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":[" begin "," end "]}"

static const header_case k_headers[] = {
    {"[1]", 0, 65, "the header does not begin with '{'"},
    {" {}", 0, 65, "the header does not begin with '{'"},
    {"{\"a\":", 0, 65, "broken JSON at line 1"},
    {"{}garbage", 0, 65, "broken JSON"},
    {"{\"a\xff\":1}", 0, 65, "broken JSON"},
    {"{\"a\":1}", 0, 65, "tensor 'a': entry is not an object"},
    {"{\"a\":{}}", 0, 65, "tensor 'a': expected exactly dtype, shape and data_offsets, found 0 fields"},
    {"{\"a\":{\"dtype\":\"F16\",\"shape\":[1],\"data_offsets\":[0,2],\"x\":1}}", 2, 65, "found 4 fields"},
    {"{\"__metadata__\":1}", 0, 65, "__metadata__ is not an object"},
    {"{\"__metadata__\":{\"a\":1}}", 0, 65, "__metadata__['a'] is not a string"},
    {"{\"\":{}}", 0, 65, "a tensor name of 0 bytes"},
    {"{\"a\\u001b\":{}}", 0, 65, "control character 0x1b"},
    {"{" T("a", "F16", "[1]", "0", "2") "," T("a", "F16", "[1]", "2", "4") "}", 4, 65, "duplicate object key"},
    {"{" T("a", "F17", "[1]", "0", "2") "}", 2, 65, "tensor 'a': unknown dtype 'F17'"},
    {"{\"a\":{\"dtype\":1,\"shape\":[1],\"data_offsets\":[0,2]}}", 2, 65, "dtype is missing or not a string"},
    {"{" T("a", "F16", "1", "0", "2") "}", 2, 65, "tensor 'a': shape is not an array"},
    {"{" T("a", "F16", "[1,1,1,1,1,1,1,1,1]", "0", "2") "}", 2, 65, "9 dimensions, at most 8"},
    {"{" T("a", "F16", "[-1]", "0", "2") "}", 2, 65, "shape[0] is not a whole number >= 0"},
    {"{" T("a", "F16", "[1.0]", "0", "2") "}", 2, 65, "shape[0] is not a whole number >= 0"},
    {"{" T("a", "F16", "[4294967296,4294967296]", "0", "2") "}", 2, 65, "the shape's size overflows"},
    {"{" T("a", "F16", "[9223372036854775807,2]", "0", "2") "}", 2, 65, "the shape's size overflows"},
    {"{" T("a", "F16", "[99999999999999999999]", "0", "2") "}", 2, 65, "broken JSON"},
    {"{" T("a", "F4", "[1]", "0", "1") "}", 1, 65, "4 bits are not whole bytes"},
    {"{\"a\":{\"dtype\":\"F16\",\"shape\":[1],\"data_offsets\":[0]}}", 2, 65, "data_offsets is not a pair of integers"},
    {"{" T("a", "F16", "[1]", "0", "2.0") "}", 2, 65, "data_offsets is not a pair of integers"},
    {"{" T("a", "F16", "[1]", "-2", "0") "}", 2, 65, "data_offsets [-2, 0] are negative or reversed"},
    {"{" T("a", "F16", "[1]", "2", "0") "}", 2, 65, "data_offsets [2, 0] are negative or reversed"},
    {"{" T("a", "F16", "[1]", "0", "9223372036854775807") "}", 2, 65, "the file has only 2: truncated?"},
    {"{" T("a", "F16", "[1]", "9223372036854775806", "9223372036854775807") "}", 2, 65, "the file has only 2"},
    {"{" T("a", "F16", "[2]", "0", "2") "}", 2, 65, "F16 [2] needs 4 bytes, data_offsets hold 2"},
    {"{" T("a", "F16", "[1]", "0", "4") "}", 4, 65, "F16 [1] needs 2 bytes, data_offsets hold 4"},
    {"{" T("a", "F16", "[1]", "2", "4") "}", 4, 65, "tensor 'a' begins at data byte 2, expected 0: a hole"},
    {"{" T("a", "F16", "[1]", "0", "2") "," T("b", "F16", "[1]", "4", "6") "}", 6, 65,
     "begins at data byte 4, expected 2: a hole"},
    {"{" T("a", "F16", "[2]", "0", "4") "," T("b", "F16", "[2]", "2", "6") "}", 6, 65, "it overlaps another tensor"},
    {"{" T("a", "F16", "[1]", "0", "2") "," T("b", "F16", "[1]", "0", "2") "}", 2, 65, "it overlaps another tensor"},
    {"{" T("a", "F16", "[1]", "0", "2") "}", 9, 65, "9 bytes of data, but the tensors cover only 2"},
    {"{" T("a", "F16", "[4]", "0", "8") "}", 2, 65, "ends at data byte 8, but the file has only 2: truncated?"},
    {"{" T("a", "F16", "[0,4294967296,4294967296]", "0", "0") "}", 0, 65, "is missing"}, /* legal: empty */
    {"{}", 0, 65, "tensor 'model.embed_tokens.weight' is missing"},
};

/* A folder with a good config.json and nothing else. */
static const char *folder_with_config(void) {
    static truth t;
    const char *dir = temp_folder();
    spec s = k_gptq;
    truth_make(&t, &s);
    write_text(dir, "config.json", truth_config(&t, ""));
    truth_free(&t);
    return dir;
}

static void test_headers(void **state) {
    (void)state;
    const char *dir = folder_with_config();
    for (size_t i = 0; i < sizeof k_headers / sizeof *k_headers; i++) {
        const header_case *h = &k_headers[i];
        write_raw(dir, "model.safetensors", h->header, h->data);
        refused(h->header, dir, h->code, h->text, NULL);
    }
}

static void test_header_lengths(void **state) {
    (void)state;
    static const struct {
        uint64_t length;
        size_t file_bytes; /* behind the length field */
        int code;
        const char *text;
    } cases[] = {
        {0, 100, 65, "the header does not begin with '{'"},
        {93, 92, 65, "header length 93, but the file has 100 bytes: truncated?"},
        {0xffffffffffffffffull, 92, 65, "header length 18446744073709551615"},
        {0x7fffffffffffffffull, 92, 65, "header length 9223372036854775807"},
        {100000001, 100000002, 68, "header of 100000001 bytes, at most 100000000"},
    };
    const char *dir = folder_with_config();
    char *bytes = calloc(1 << 20, 1), path[512];
    snprintf(path, sizeof path, "%s/model.safetensors", dir);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        for (int b = 0; b < 8; b++) bytes[b] = (char)(cases[i].length >> (8 * b));
        write_file(dir, "model.safetensors", bytes, 8);
        assert_int_equal(truncate(path, (off_t)(8 + cases[i].file_bytes)), 0); /* zeros, sparse */
        refused(cases[i].text, dir, cases[i].code, cases[i].text, NULL);
    }
    write_file(dir, "model.safetensors", bytes, 9);
    refused("short", dir, 65, "not a safetensors file: 9 bytes", NULL);
    write_file(dir, "model.safetensors", bytes, 0);
    refused("empty", dir, 65, "not a safetensors file: 0 bytes", NULL);
    /* so deep that a recursive parser without a limit would leave its stack */
    memset(bytes, '[', 1 << 20);
    memcpy(bytes, "\x00\x00\x08\x00\x00\x00\x00\x00{\"a\":", 13);
    write_file(dir, "model.safetensors", bytes, 1 << 20);
    refused("deep", dir, 65, "broken JSON", NULL);
    free(bytes);
}

/* ---- the index -------------------------------------------------------------------------------------------------- */

static void test_index(void **state) {
    (void)state;
    static const struct {
        const char *index;
        int code;
        const char *text;
    } cases[] = {
        {"{", 65, "index.json: broken JSON"},
        {"{\"metadata\":{}}", 65, "field 'weight_map' is missing"},
        {"{\"weight_map\":[]}", 65, "field 'weight_map' is an array, expected an object"},
        {"{\"weight_map\":{\"a\":1}}", 65, "tensor 'a': the file name is not a string"},
        {"{\"weight_map\":{\"a\":\"\"}}", 65, "the file name is empty, too long or has control characters"},
        {"{\"weight_map\":{\"a\":\"x\\ny\"}}", 65, "control characters"},
        {"{\"weight_map\":{\"a\":\"../one.safetensors\"}}", 65,
         "file name '../one.safetensors' leads out of the folder"},
        {"{\"weight_map\":{\"a\":\"/etc/passwd\"}}", 65, "leads out of the folder"},
        {"{\"weight_map\":{\"a\":\"sub/one.safetensors\"}}", 65, "leads out of the folder"},
        {"{\"weight_map\":{\"a\":\"..\\\\one.safetensors\"}}", 65, "leads out of the folder"},
        {"{\"weight_map\":{\"a\":\"..\"}}", 65, "leads out of the folder"},
        {"{\"weight_map\":{\"a\":\"none.safetensors\"}}", 66, "none.safetensors: No such file"},
        {"{\"weight_map\":{\"a\":\"one.safetensors\",\"a\":\"two.safetensors\"}}", 65, "duplicate object key"},
        {"{\"weight_map\":{\"a\":\"one.safetensors\",\"b\":\"two.safetensors\"}}", 65, "tensor 'a' is in two files"},
        {"{\"weight_map\":{\"a\":\"one.safetensors\",\"c\":\"one.safetensors\"}}", 65,
         "tensor 'c' is not in 'one.safetensors'"},
        {"{\"weight_map\":{\"a\":\"three.safetensors\",\"c\":\"one.safetensors\"}}", 65,
         "tensor 'a' is not in 'three.safetensors'"},
        {"{\"weight_map\":{\"b\":\"two.safetensors\"}}", 65,
         "tensor 'a' of file 'two.safetensors' is not in the index"},
    };
    const char *dir = folder_with_config();
    write_raw(dir, "one.safetensors", "{" T("a", "F16", "[1]", "0", "2") "}", 2);
    write_raw(dir, "two.safetensors", "{" T("a", "F16", "[1]", "0", "2") "," T("b", "F16", "[1]", "2", "4") "}", 4);
    write_raw(dir, "three.safetensors", "{" T("x", "F16", "[1]", "0", "2") "}", 2);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        write_text(dir, "model.safetensors.index.json", cases[i].index);
        refused(cases[i].index, dir, cases[i].code, cases[i].text, NULL);
    }
    unlink(path_of(dir, "model.safetensors.index.json"));
    refused("three files", dir, 66, "3 safetensors files, but neither model.safetensors nor", NULL);
}

static void test_folders(void **state) {
    (void)state;
    const char *dir = temp_folder();
    refused("absent", path_of(dir, "none"), 66, "is not a folder", NULL);
    refused("no config", dir, 66, "config.json: is missing", NULL);
    write_text(dir, "config.json", "{");
    refused("broken config", dir, 65, "config.json: broken JSON", NULL);
    dir = folder_with_config();
    refused("no tensors", dir, 66, "no safetensors files", NULL);
    write_text(dir, "pytorch_model.bin", "x");
    refused("pickle", dir, 66, "pickled weights (.bin, .pt) are not read", NULL);
    mkdir(path_of(dir, "model.safetensors"), 0777);
    refused("a folder for a file", dir, 66, "model.safetensors: is not a regular file", NULL);
}

/* A FIFO that nobody writes to: refused at once, never waited for. */
static void test_fifos(void **state) {
    (void)state;
    static const char *const names[] = {"model.safetensors.index.json", "model.safetensors", "config.json"};
    const char *dir = folder_with_config();
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char text[128];
        snprintf(text, sizeof text, "%s: is not a regular file", names[i]);
        unlink(path_of(dir, names[i]));
        assert_int_equal(mkfifo(path_of(dir, names[i]), 0666), 0);
        refused(names[i], dir, 66, text, NULL);
    }
}

/* ---- tensors ---------------------------------------------------------------------------------------------------- */

typedef struct {
    const spec *s;
    const char *tensor; /* to change */
    enum { DROP, DTYPE, SHAPE, TRANSPOSE, RENAME, ADD, HALF, FLOAT, I32 } how;
    const char *arg; /* DTYPE, RENAME: the new one; ADD: name of one more tensor; FLOAT: a flag of marlin-convert */
    int64_t at;      /* HALF, FLOAT, I32: element */
    uint32_t value;
    int code;
    const char *text;
} tensor_case;

static const spec k_ct = {.family = "qwen3",
                          .format = F_CT,
                          .group = 128,
                          .act_order = true,
                          .zeros = true,
                          .scale_dtype = MW_BF16,
                          .dense_dtype = MW_BF16,
                          .norm_dtype = MW_BF16,
                          .seed = 6};
static const spec k_awq = {.family = "qwen2",
                           .format = F_AWQ,
                           .group = 64,
                           .zeros = true,
                           .scale_dtype = MW_F32,
                           .dense_dtype = MW_F16,
                           .norm_dtype = MW_F32,
                           .seed = 7};
static const spec k_marlin = {.family = "llama",
                              .format = F_MARLIN,
                              .group = 128,
                              .scale_dtype = MW_F16,
                              .dense_dtype = MW_F16,
                              .norm_dtype = MW_F16,
                              .seed = 8};
static const spec k_tied = {.family = "llama",
                            .format = F_GPTQ,
                            .group = 128,
                            .tied = true,
                            .tied_head = true,
                            .zero_bias = true,
                            .scale_dtype = MW_F16,
                            .dense_dtype = MW_F16,
                            .norm_dtype = MW_F16,
                            .seed = 9};
static const spec k_dense = {.family = "llama",
                             .format = F_DENSE,
                             .group = 128,
                             .scale_dtype = MW_F16,
                             .dense_dtype = MW_F32,
                             .norm_dtype = MW_F32,
                             .seed = 10};

#define L1 "model.layers.1."

static const tensor_case k_tensors[] = {
    {&k_gptq, L1 "mlp.up_proj.qweight", DROP, 0, 0, 0, 65, "tensor '" L1 "mlp.up_proj.qweight' is missing"},
    {&k_gptq, L1 "mlp.up_proj.qzeros", DROP, 0, 0, 0, 65, "tensor '" L1 "mlp.up_proj.qzeros' is missing"},
    {&k_gptq, L1 "mlp.up_proj.scales", DROP, 0, 0, 0, 65, "tensor '" L1 "mlp.up_proj.scales' is missing"},
    {&k_gptq, L1 "mlp.up_proj.g_idx", DROP, 0, 0, 0, 65, "tensor '" L1 "mlp.up_proj.g_idx' is missing"},
    {&k_gptq, L1 "input_layernorm.weight", DROP, 0, 0, 0, 65, "input_layernorm.weight' is missing"},
    {&k_gptq, "lm_head.weight", DROP, 0, 0, 0, 65, "tensor 'lm_head.qweight' is missing"},
    {&k_gptq, "model.embed_tokens.weight", DROP, 0, 0, 0, 65, "tensor 'model.embed_tokens.weight' is missing"},
    {&k_gptq, L1 "mlp.up_proj.qweight", DTYPE, "U32", 0, 0, 65, "is U32 [32, 384], expected I32"},
    {&k_gptq, L1 "mlp.up_proj.scales", DTYPE, "I32", 0, 0, 65, "expected F16 or BF16 or F32"},
    {&k_gptq, "model.norm.weight", DTYPE, "I16", 0, 0, 65, "tensor 'model.norm.weight' is I16 [256], expected F16"},
    {&k_gptq, L1 "mlp.up_proj.qweight", TRANSPOSE, 0, 0, 0, 65, "is I32 [384, 32], expected shape [32, 384]"},
    {&k_gptq, L1 "mlp.up_proj.scales", TRANSPOSE, 0, 0, 0, 65, "is F16 [384, 2], expected shape [2, 384]"},
    {&k_gptq, L1 "mlp.up_proj.qzeros", TRANSPOSE, 0, 0, 0, 65, "expected shape [2, 48]"},
    {&k_gptq, L1 "mlp.up_proj.g_idx", SHAPE, 0, 0, 0, 65, "g_idx' is I32 [1, 256], expected shape [256]"},
    {&k_gptq, "model.embed_tokens.weight", TRANSPOSE, 0, 0, 0, 65, "tensor 'model.embed_tokens.weight' is F16 [256,"},
    {&k_gptq, "", ADD, L1 "mlp.gate_up_proj.weight", 0, 0, 65,
     "mlp.gate_up_proj.weight' (F32 [4]) of file 'model.safetensors' is unknown"},
    {&k_gptq, "", ADD, "model.layers.2.input_layernorm.weight", 0, 0, 65,
     "'model.layers.2.input_layernorm.weight' (F32 [4])"},
    {&k_gptq, "", ADD, L1 "self_attn.k_scale", 0, 0, 65, "self_attn.k_scale' (F32 [4])"},
    {&k_gptq, "", ADD, L1 "mlp.up_proj.weight", 0, 0, 65, "mlp.up_proj.weight' (F32 [4])"},
    {&k_gptq, L1 "self_attn.q_proj.qweight", RENAME, "lm_head.qweight", 0, 0, 65,
     "self_attn.q_proj.qweight' is missing"},
    {&k_gptq, L1 "mlp.up_proj.scales", HALF, 0, 5, 0x7e00, 72, "tensor '" L1 "mlp.up_proj.scales': NaN at [0, 5]"},
    {&k_gptq, L1 "mlp.up_proj.scales", HALF, 0, 384 + 7, 0xfc00, 72, "up_proj.scales': infinity at [1, 7]"},
    {&k_gptq, "model.embed_tokens.weight", HALF, 0, 256 * 3 + 1, 0x7c01, 72, "embed_tokens.weight': NaN at [3, 1]"},
    {&k_gptq, "model.norm.weight", HALF, 0, 255, 0x7c00, 72, "model.norm.weight': infinity at [0, 255]"},
    {&k_gptq, L1 "mlp.up_proj.g_idx", I32, 0, 3, 2, 65, "g_idx': group 2 at [3], expected 0 to 1"},
    {&k_gptq, L1 "mlp.up_proj.g_idx", I32, 0, 3, 0xffffffff, 65, "g_idx': group -1 at [3]"},
    {&k_gptq, L1 "mlp.down_proj.g_idx", I32, 0, 0, 3, 65, "down_proj.g_idx': group 3 at [0], expected 0 to 2"},
    {&k_ct, L1 "mlp.up_proj.weight_packed", DROP, 0, 0, 0, 65, "up_proj.weight_packed' is missing"},
    {&k_ct, L1 "mlp.up_proj.weight_scale", DROP, 0, 0, 0, 65, "up_proj.weight_scale' is missing"},
    {&k_ct, L1 "mlp.up_proj.weight_shape", DROP, 0, 0, 0, 65, "up_proj.weight_shape' is missing"},
    {&k_ct, L1 "mlp.up_proj.weight_g_idx", DROP, 0, 0, 0, 65, "up_proj.weight_g_idx' is missing"},
    {&k_ct, L1 "mlp.up_proj.weight_shape", I32, 0, 0, 385, 65,
     "up_proj.weight_shape' says [385, 256], expected [384, 256]"},
    {&k_ct, L1 "mlp.up_proj.weight_shape", I32, 0, 2, 264, 65, "up_proj.weight_shape' says [384, 264], expected"},
    {&k_ct, L1 "mlp.up_proj.weight_zero_point", TRANSPOSE, 0, 0, 0, 65,
     "weight_zero_point' is I32 [2, 48], expected shape [48, 2]"},
    {&k_ct, L1 "mlp.up_proj.weight_zero_point", DROP, 0, 0, 0, 65, "up_proj.weight_zero_point' is missing"},
    {&k_ct, L1 "self_attn.q_norm.weight", DROP, 0, 0, 0, 65, "self_attn.q_norm.weight' is missing"},
    {&k_ct, L1 "mlp.up_proj.weight_scale", HALF, 0, 0, 0x7f80, 72, "up_proj.weight_scale': infinity at [0, 0]"},
    {&k_awq, L1 "mlp.up_proj.qzeros", DROP, 0, 0, 0, 65, "up_proj.qzeros' is missing"},
    {&k_awq, L1 "self_attn.q_proj.bias", DROP, 0, 0, 0, 65, "self_attn.q_proj.bias' is missing"},
    {&k_awq, L1 "self_attn.q_proj.bias", SHAPE, 0, 0, 0, 65, "q_proj.bias' is F16 [1, 256], expected shape [256]"},
    {&k_awq, L1 "self_attn.q_proj.bias", HALF, 0, 1, 0x7e00, 72, "q_proj.bias': NaN at [0, 1]"},
    {&k_awq, L1 "mlp.up_proj.scales", FLOAT, 0, 2, 0x7fc00000, 72, "up_proj.scales': NaN at [0, 2]"},
    {&k_awq, "", ADD, L1 "mlp.up_proj.g_idx", 0, 0, 65, "up_proj.g_idx' (F32 [4])"},
    {&k_marlin, L1 "mlp.up_proj.B", DROP, 0, 0, 0, 65, "tensor '" L1 "mlp.up_proj.B' is missing"},
    {&k_marlin, L1 "mlp.up_proj.s", DTYPE, "BF16", 0, 0, 65, "up_proj.s' is BF16 [2, 384], expected F16"},
    {&k_marlin, L1 "mlp.up_proj.s", HALF, 0, 64, 0x7e00, 72, "up_proj.s': NaN at [0, 64]"},
    {&k_tied, "lm_head.weight", HALF, 0, 77, 0x1234, 67,
     "tie_word_embeddings, but tensor 'lm_head.weight' is not the same"},
    {&k_tied, L1 "mlp.up_proj.bias", HALF, 0, 3, 0x3c00, 65,
     "up_proj.bias' is not zero, but config.json gives this layer no bias"},
    {&k_dense, L1 "mlp.up_proj.weight", FLOAT, 0, 300, 0x7f800000, 72, "up_proj.weight': infinity at [1, 44]"},
    {&k_dense, "model.embed_tokens.weight", FLOAT, "--act=f16", 1, 0x47800000, 78,
     "embed_tokens.weight': 65536 at [0, 1] does not fit f16; --act bf16"},
    {&k_dense, L1 "mlp.up_proj.weight", DTYPE, "F64", 0, 0, 65, "up_proj.weight' is F64 [384, 128], expected F16"},
    {&k_dense, L1 "mlp.up_proj.weight", DROP, 0, 0, 0, 65, "up_proj.weight' is missing"},
};

static void change(tensors *s, const tensor_case *c) {
    if (c->how == ADD) {
        add_tensor(s, c->arg, "F32", 0, 4);
        return;
    }
    tensor *t = find_tensor(s, c->tensor);
    if (!t) fail_msg("the test's own tensor %s is missing", c->tensor);
    switch (c->how) {
    case DROP: drop_tensor(s, c->tensor); break;
    case DTYPE:
        snprintf(t->dtype, sizeof t->dtype, "%s", c->arg);
        if (strcmp(c->arg, "F64") == 0) t->dim[1] /= 2;
        if (strcmp(c->arg, "I32") == 0) t->dim[1] /= 2;
        break;
    case SHAPE:
        t->n_dims = 2;
        t->dim[1] = t->dim[0];
        t->dim[0] = 1;
        break;
    case TRANSPOSE: {
        int64_t d = t->dim[0];
        t->dim[0] = t->dim[1];
        t->dim[1] = d;
        break;
    }
    case RENAME: snprintf(t->name, sizeof t->name, "%s", c->arg); break;
    case HALF: ((uint16_t *)(void *)t->data)[c->at] = (uint16_t)c->value; break;
    default: ((uint32_t *)(void *)t->data)[c->at] = c->value; break;
    }
}

static void test_tensors(void **state) {
    (void)state;
    static truth t;
    for (size_t i = 0; i < sizeof k_tensors / sizeof *k_tensors; i++) {
        const tensor_case *c = &k_tensors[i];
        const char *dir = temp_folder();
        char label[256];
        snprintf(label, sizeof label, "%s, change %d: %s", c->tensor, c->how, c->text);
        truth_make(&t, c->s);
        change(&t.st, c);
        truth_write(&t, dir);
        if (c->s == &k_dense) {
            refused_with(label, dir, c->code, c->text, "--quantize=rtn", c->how == FLOAT ? c->arg : NULL);
            refused_with(label, dir, c->code, c->text, "--quantize=none", c->how == FLOAT ? c->arg : NULL);
        } else {
            refused(label, dir, c->code, c->text, NULL);
        }
        truth_free(&t);
        remove_tree(dir);
    }
}

/* Groups that g_idx makes of different sizes. */
static void test_uneven_groups(void **state) {
    (void)state;
    static truth t;
    const char *dir = temp_folder();
    truth_make(&t, &k_gptq);
    int32_t *g = (int32_t *)(void *)find_tensor(&t.st, L1 "mlp.up_proj.g_idx")->data;
    for (int i = 0; i < 256; i++)
        if (g[i] == 1) {
            g[i] = 0;
            break;
        }
    truth_write(&t, dir);
    refused("uneven", dir, 67, "g_idx': group 0 has 129 rows, expected 128", NULL);
    truth_free(&t);
}

/* down_proj's order has nowhere to go when gate_proj is a float matrix. */
static void test_act_order_needs_int4_gate(void **state) {
    (void)state;
    static truth t;
    static const char *const parts[] = {"qweight", "qzeros", "scales", "g_idx"};
    const char *dir = temp_folder();
    truth_make(&t, &k_gptq);
    for (int i = 0; i < 4; i++) {
        char name[128];
        snprintf(name, sizeof name, "%s%s.%s", L1, "mlp.gate_proj", parts[i]);
        drop_tensor(&t.st, name);
    }
    add_tensor(&t.st, L1 "mlp.gate_proj.weight", "F16", t.inner, t.hidden);
    truth_write(&t, dir);
    refused("dense gate", dir, 67, L1 "mlp.down_proj' is act-order, but its gate_proj is not quantised", NULL);
    truth_free(&t);
}

/* A file cut at every place: never more than an error. */
static void test_truncation(void **state) {
    (void)state;
    static truth t;
    const char *dir = temp_folder();
    char path[512];
    size_t n;
    snprintf(path, sizeof path, "%s/model.safetensors", dir);
    truth_make(&t, &k_awq);
    truth_write(&t, dir);
    free(read_all(path, &n));
    for (size_t cut = n - 1; cut > 16; cut = cut * 2 / 3) {
        assert_int_equal(truncate(path, (off_t)cut), 0);
        refused("cut", dir, 65, "truncated?", NULL);
    }
    truth_free(&t);
}

/* A float tensor of zeros in place of the one of this name. */
static void replace_float(tensors *s, const char *name, int64_t rows, int64_t cols) {
    drop_tensor(s, name);
    add_tensor(s, name, "F16", rows, cols);
}

/* A config that asks for other shapes than the tensors have, or for some that int4 cannot have. */
static void test_extents(void **state) {
    (void)state;
    static const struct {
        const char *field;
        int value;
        const char *text;
        int code;
        int hidden; /* not 0: embedding and norm, which are checked first, are given this width */
    } cases[] = {
        {"hidden_size", 192, "q_proj': 192 inputs are not a multiple of group_size 128", 67, 192},
        {"hidden_size", 264, "q_proj': 264 inputs are not a multiple of 16", 67, 264},
        {"intermediate_size", 388, "mlp.gate_proj': 388 outputs are not a multiple of 8", 67, 256},
        {"hidden_size", 4096, "tensor 'model.embed_tokens.weight' is F16 [", 65, 0},
        {"num_hidden_layers", 3, "tensor 'model.layers.2.input_layernorm.weight' is missing", 65, 0},
        {"num_hidden_layers", 1, "is unknown: a llama model, gptq, has no place for it", 65, 0},
        {"num_attention_heads", 4, "q_proj.qweight' is I32 [32, 256], expected shape [32, 128]", 65, 0},
        {"vocab_size", 64, "tensor 'model.embed_tokens.weight' is F16 [", 65, 0},
    };
    static truth t;
    const char *dir = temp_folder();
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char key[64];
        truth_make(&t, &k_gptq);
        if (cases[i].hidden) {
            replace_float(&t.st, "model.embed_tokens.weight", t.vocab, cases[i].hidden);
            replace_float(&t.st, "model.layers.0.input_layernorm.weight", 0, cases[i].hidden);
        }
        truth_write(&t, dir);
        char *config = read_all(path_of(dir, "config.json"), NULL), changed[4096];
        snprintf(key, sizeof key, "\"%s\":", cases[i].field);
        char *at = strstr(config, key);
        assert_non_null(at);
        at += strlen(key);
        snprintf(changed, sizeof changed, "%.*s%d%s", (int)(at - config), config, cases[i].value,
                 at + strcspn(at, ",}"));
        write_text(dir, "config.json", changed);
        refused(key, dir, cases[i].code, cases[i].text, NULL);
        free(config);
        truth_free(&t);
    }
}

static int setup(void **state) {
    (void)state;
    g_out = temp_folder();
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_headers),       cmocka_unit_test(test_header_lengths),
        cmocka_unit_test(test_index),         cmocka_unit_test(test_folders),
        cmocka_unit_test(test_fifos),         cmocka_unit_test(test_tensors),
        cmocka_unit_test(test_uneven_groups), cmocka_unit_test(test_truncation),
        cmocka_unit_test(test_extents),       cmocka_unit_test(test_act_order_needs_int4_gate),
    };
    return cmocka_run_group_tests(tests, setup, NULL);
}
