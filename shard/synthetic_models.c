/* Shapes of well-known models, from their config.json files. */
#include <stdio.h>
#include <string.h>

#include "shard/synthetic_models.h"

typedef struct {
    const char *name, *type;
    int hidden, mlp, layers, heads, kv_heads, head_dim, vocab, positions;
    double theta, llama3_factor, eps;
    bool tied;
} row;

static const row k_rows[] = {
    {"tiny", "llama", 256, 768, 2, 4, 2, 64, 512, 2048, 1e4, 0, 1e-5, false},
    {"llama-2-7b", "llama", 4096, 11008, 32, 32, 32, 128, 32000, 4096, 1e4, 0, 1e-5, false},
    {"llama-2-13b", "llama", 5120, 13824, 40, 40, 40, 128, 32000, 4096, 1e4, 0, 1e-5, false},
    {"llama-2-70b", "llama", 8192, 28672, 80, 64, 8, 128, 32000, 4096, 1e4, 0, 1e-5, false},
    {"llama-3.2-1b", "llama", 2048, 8192, 16, 32, 8, 64, 128256, 131072, 5e5, 32, 1e-5, true},
    {"llama-3.2-3b", "llama", 3072, 8192, 28, 24, 8, 128, 128256, 131072, 5e5, 32, 1e-5, true},
    {"llama-3.1-8b", "llama", 4096, 14336, 32, 32, 8, 128, 128256, 131072, 5e5, 8, 1e-5, false},
    {"llama-3.1-70b", "llama", 8192, 28672, 80, 64, 8, 128, 128256, 131072, 5e5, 8, 1e-5, false},
    {"llama-3.3-70b", "llama", 8192, 28672, 80, 64, 8, 128, 128256, 131072, 5e5, 8, 1e-5, false},
    {"llama-3.1-405b", "llama", 16384, 53248, 126, 128, 8, 128, 128256, 131072, 5e5, 8, 1e-5, false},
    {"mistral-7b", "mistral", 4096, 14336, 32, 32, 8, 128, 32768, 32768, 1e6, 0, 1e-5, false},
    {"mistral-small-24b", "mistral", 5120, 32768, 40, 32, 8, 128, 131072, 32768, 1e8, 0, 1e-5, false},
    {"mistral-large-123b", "mistral", 12288, 28672, 88, 96, 8, 128, 32768, 131072, 1e6, 0, 1e-5, false},
    {"qwen2.5-0.5b", "qwen2", 896, 4864, 24, 14, 2, 64, 151936, 32768, 1e6, 0, 1e-6, true},
    {"qwen2.5-1.5b", "qwen2", 1536, 8960, 28, 12, 2, 128, 151936, 32768, 1e6, 0, 1e-6, true},
    {"qwen2.5-3b", "qwen2", 2048, 11008, 36, 16, 2, 128, 151936, 32768, 1e6, 0, 1e-6, true},
    {"qwen2.5-7b", "qwen2", 3584, 18944, 28, 28, 4, 128, 152064, 32768, 1e6, 0, 1e-6, false},
    {"qwen2.5-14b", "qwen2", 5120, 13824, 48, 40, 8, 128, 152064, 32768, 1e6, 0, 1e-6, false},
    {"qwen2.5-32b", "qwen2", 5120, 27648, 64, 40, 8, 128, 152064, 32768, 1e6, 0, 1e-6, false},
    {"qwen2.5-72b", "qwen2", 8192, 29568, 80, 64, 8, 128, 152064, 32768, 1e6, 0, 1e-6, false},
    {"qwen3-0.6b", "qwen3", 1024, 3072, 28, 16, 8, 128, 151936, 40960, 1e6, 0, 1e-6, true},
    {"qwen3-1.7b", "qwen3", 2048, 6144, 28, 16, 8, 128, 151936, 40960, 1e6, 0, 1e-6, true},
    {"qwen3-4b", "qwen3", 2560, 9728, 36, 32, 8, 128, 151936, 40960, 1e6, 0, 1e-6, true},
    {"qwen3-8b", "qwen3", 4096, 12288, 36, 32, 8, 128, 151936, 40960, 1e6, 0, 1e-6, false},
    {"qwen3-14b", "qwen3", 5120, 17408, 40, 40, 8, 128, 151936, 40960, 1e6, 0, 1e-6, false},
    {"qwen3-32b", "qwen3", 5120, 25600, 64, 64, 8, 128, 151936, 40960, 1e6, 0, 1e-6, false},
};
#define N_ROWS (int)(sizeof k_rows / sizeof *k_rows)

const char *mw_synthetic_name(int i) {
    return i >= 0 && i < N_ROWS ? k_rows[i].name : NULL;
}

bool mw_synthetic_config(const char *name, size_t n, mw_model_config *out) {
    for (int i = 0; i < N_ROWS; i++) {
        const row *r = &k_rows[i];
        if (strlen(r->name) != n || strncmp(r->name, name, n) != 0) continue;
        *out = (mw_model_config){.hidden = r->hidden,
                                 .intermediate = r->mlp,
                                 .n_layers = r->layers,
                                 .n_heads = r->heads,
                                 .n_kv_heads = r->kv_heads,
                                 .head_dim = r->head_dim,
                                 .vocab = r->vocab,
                                 .max_position = r->positions,
                                 .rms_eps = r->eps,
                                 .rope_theta = r->theta,
                                 .tie_embeddings = r->tied,
                                 .qk_norm = strcmp(r->type, "qwen3") == 0,
                                 .act = MW_F16,
                                 .bos_id = -1};
        snprintf(out->model_type, sizeof out->model_type, "%s", r->type);
        if (r->llama3_factor > 0) {
            out->rope_type = MW_ROPE_LLAMA3;
            out->rope_factor = r->llama3_factor;
            out->rope_low_freq = 1;
            out->rope_high_freq = 4;
            out->rope_original_max = 8192;
        }
        return true;
    }
    return false;
}
