/* Random schemas, and answers drawn at random among the tokens that the mask allows: what comes out is JSON that
 * satisfies the schema, every token the mask allows is accepted, and there is always one.
 *   test_constraint_random [SEED]            the test
 *   test_constraint_random SEED COUNT FILE   the same; also writes {"schema": ..., "text": ...} lines for
 * constraint_check.py
 */
#include "tests/text/schema_gen.h"
#include "tests/text/tok_cases.h"
#include "worker/text/constraint.h"

#define MAX_TOKENS 4000
static const char *const k_tokenizers[] = {"llama-3", "qwen2", "llama-2 legacy", "gemma"};
enum { N_TOKENIZERS = sizeof k_tokenizers / sizeof *k_tokenizers };

static gen_rng rng;
static uint32_t n_schemas = 400;
static FILE *lines;

typedef struct {
    mw_tokenizer *t;
    mw_grammar *g;
    int32_t size;
    int *weight; /* [size] 0: text, 1: has a mark of JSON, 2: a mark that closes, and nothing else */
} vocabulary;

static void open_vocabulary(vocabulary *v, const json_t *goldens, const char *name) {
    v->t = open_case(goldens, name);
    v->size = mw_tokenizer_size(v->t) + 7; /* a padded model */
    const int32_t eos[] = {v->size - 1};
    assert_ok(mw_grammar_open(&v->g, v->t, v->size, eos, 1));
    v->weight = calloc((size_t)v->size, sizeof *v->weight);
    for (int32_t id = 0; id < mw_tokenizer_size(v->t); id++) {
        mw_str piece = {0};
        if (mw_tokenizer_piece(v->t, id, &piece) == MW_OK && piece.n) {
            v->weight[id] =
                strpbrk(piece.p, "\"{}[]:,\\") != NULL || (piece.n == 1 && strchr("0123456789-.etfn", piece.p[0]));
            if (piece.n == 1 && strchr("\"]}", piece.p[0])) v->weight[id] = 2;
        }
        mw_str_free(&piece);
    }
}

static bool has(const uint32_t *mask, int32_t t) {
    return mask[t / 32] >> (t % 32) & 1;
}

/* One allowed token; the longer the answer is, the rather one that closes something. */
static int32_t pick(const vocabulary *v, const uint32_t *mask, size_t n) {
    uint32_t x = gen_below(&rng, 100);
    int least = n > 120 ? (x < 80 ? 2 : 0) : x < (n > 40 ? 60u : 25u) ? 1 : 0;
    for (; least >= 0; least--) {
        uint32_t count = 0;
        int32_t chosen = -1;
        for (int32_t t = 0; t < v->size; t++)
            if (has(mask, t) && v->weight[t] >= least && gen_below(&rng, ++count) == 0) chosen = t;
        if (chosen >= 0) return chosen;
    }
    fail_msg("an empty mask");
    return -1;
}

/* The mask and accept agree, at a sample of tokens. */
static void check_mask(const vocabulary *v, const mw_constraint_state *s, const uint32_t *mask) {
    for (int i = 0; i < 6; i++) {
        int32_t t = (int32_t)gen_below(&rng, (uint32_t)v->size);
        mw_constraint_state copy = {0};
        assert_ok(mw_constraint_copy(s, &copy));
        mw_status st = mw_constraint_accept(&copy, t);
        if ((st == MW_OK) != has(mask, t)) fail_msg("token %d: mask %d, accept: %s", t, has(mask, t), mw_error_text());
        mw_constraint_free(&copy);
    }
}

/* Draws an answer; false: it did not end. The state is now and then replaced by a copy, or by one that begins again. */
static bool draw(const vocabulary *v, mw_constraint *c, uint32_t *mask, mw_ids *ids) {
    mw_constraint_state s = {0}, copy = {0};
    assert_ok(mw_constraint_begin(c, &s));
    while (!s.exhausted && !s.ended && ids->n < MAX_TOKENS) {
        assert_ok(mw_constraint_mask(&s, true, mask));
        if (gen_below(&rng, 20) == 0) check_mask(v, &s, mask);
        int32_t t = s.complete && ids->n > 120 ? v->size - 1 : pick(v, mask, ids->n);
        assert_ok(mw_constraint_accept(&s, t));
        if (!s.ended) assert_ok(mw_ids_add(ids, t));
        if (gen_below(&rng, 30) == 0) {
            assert_ok(mw_constraint_copy(&s, &copy));
            mw_constraint_free(&s);
            s = copy;
        }
    }
    bool done = s.complete;
    mw_constraint_free(&s);
    return done;
}

static void check_answer(const json_t *schema, const char *schema_text, const mw_str *text) {
    json_error_t err;
    const char *why = "?";
    json_t *value = json_loadb(text->p, text->n, JSON_DECODE_ANY, &err);
    if (!value) fail_msg("not JSON (%s): %s\nfor %s", err.text, text->p, schema_text);
    if (!gen_validate(schema, schema, value, &why)) fail_msg("%s: %s\nfor %s", why, text->p, schema_text);
    json_decref(value);
    if (!lines) return;
    json_t *answer = json_stringn(text->p, text->n), *line = json_pack("{s:O, s:o}", "schema", schema, "text", answer);
    assert_non_null(line);
    char *out = json_dumps(line, JSON_COMPACT);
    fprintf(lines, "%s\n", out);
    free(out);
    json_decref(line);
}

static void try_schema(const vocabulary *v, uint32_t *mask, uint32_t counts[3]) {
    json_t *schema = gen_schema(&rng);
    char *text = json_dumps(schema, JSON_COMPACT);
    mw_constraint *c = NULL;
    mw_status st = mw_grammar_compile(v->g, text, &c);
    /* Some of what is made at random has no value ("anyOf" beside a const of another type), or merges badly. */
    if (st != MW_OK && st != MW_ERR_USAGE && st != MW_ERR_UNSUPPORTED) fail_msg("%s\nfor %s", mw_error_text(), text);
    counts[0]++;
    if (st != MW_OK) counts[1]++;
    for (int i = 0; i < 3 && st == MW_OK; i++) {
        mw_ids ids = {0};
        mw_str answer = {0};
        bool done = draw(v, c, mask, &ids);
        assert_ok(mw_tokenizer_decode(v->t, ids.p, ids.n, true, &answer));
        if (done)
            check_answer(schema, text, &answer);
        else
            counts[2]++;
        mw_ids_free(&ids);
        mw_str_free(&answer);
    }
    mw_constraint_release(c);
    free(text);
    json_decref(schema);
}

static void test_random(void **state) {
    (void)state;
    json_t *goldens = load_goldens();
    uint32_t counts[3] = {0}; /* schemas, refused ones, answers without an end */
    for (int k = 0; k < N_TOKENIZERS; k++) {
        vocabulary v = {0};
        open_vocabulary(&v, goldens, k_tokenizers[k]);
        uint32_t *mask = malloc(mw_mask_words(v.size) * sizeof *mask);
        for (uint32_t i = 0; i < n_schemas / N_TOKENIZERS; i++) try_schema(&v, mask, counts);
        free(mask);
        free(v.weight);
        mw_grammar_close(v.g);
        mw_tokenizer_close(v.t);
    }
    json_decref(goldens);
    printf("%u schemas, %u refused, %u answers without an end\n", counts[0], counts[1], counts[2]);
    assert_true(counts[1] * 20 < counts[0]);
    assert_true(counts[2] * 50 <= counts[0]);
}

int main(int argc, char **argv) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_random)};
    rng.state = test_seed(argc, argv);
    if (argc > 3) {
        n_schemas = (uint32_t)strtoul(argv[2], NULL, 10);
        if (!(lines = fopen(argv[3], "w"))) return 1;
    }
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    if (lines && fclose(lines) != 0) failed = 1;
    return failed;
}
