/* Writes a model.h5 with random weights in given shapes, packed: something to measure on.
 * usage: make_model FILE hidden,mlp,layers,heads,kv_heads,head_dim,vocab [group] */
#include <stdio.h>
#include <stdlib.h>

#include "tests/ref/random_model.h"

int main(int argc, char **argv) {
    long long h, i, l, a, kv, hd, v;
    random_model m = random_model_default(1);
    if (argc < 3 || sscanf(argv[2], "%lld,%lld,%lld,%lld,%lld,%lld,%lld", &h, &i, &l, &a, &kv, &hd, &v) != 7) {
        fprintf(stderr, "usage: make_model FILE hidden,mlp,layers,heads,kv_heads,head_dim,vocab [group]\n");
        return 64;
    }
    m.group = argc > 3 ? atoi(argv[3]) : 128;
    m.layout = MW_IN_TILES;
    m.scale = 0.003f; /* about 1/sqrt(k) in real shapes: activations stay within f16 */
    m.cfg.hidden = h;
    m.cfg.intermediate = i;
    m.cfg.n_layers = l;
    m.cfg.n_heads = a;
    m.cfg.n_kv_heads = kv;
    m.cfg.head_dim = hd;
    m.cfg.vocab = v;
    m.cfg.max_position = 8192;
    if (random_model_write(&m, argv[1]) == MW_OK) return 0;
    fprintf(stderr, "error: %s\n", mw_error_text());
    return 1;
}
