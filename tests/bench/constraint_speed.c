/* tests/bench/constraint_speed.c - how long token masks take with a vocabulary of 128k tokens.
 *   build/tests/constraint_speed [SCHEMA.json]     without: a typical schema, and any object
 * The tokenizer is made up: words, pieces of JSON, numbers, runs of blanks, in the proportions of a real one. Prints,
 * for answers drawn at random, the time of a mask that is found in the tables and of one that is not. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "worker/base/clock.h"
#include "worker/base/io.h"
#include "worker/text/constraint.h"

enum { VOCAB = 128256, ANSWERS = 40 };

static uint64_t seed = 12345;
static uint32_t below(uint32_t n) {
    seed = seed * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (uint32_t)((seed >> 33) % n);
}

static void check(mw_status st) {
    if (st == MW_OK) return;
    fprintf(stderr, "constraint_speed: %s\n", mw_error_text());
    exit((int)st);
}

/* A word of the alphabet that byte-level tokenizers write bytes in (a blank in front is U+0120). */
static void word(char *out) {
    static const char *const marks[] = {"\\\":",  "\\\",", "{\\\"", "\\\"}", "},", "],",  "[{",
                                        "\\\"],", ":\\\"", ",\\\"", "()",    "==", "://", "..."};
    static const char *const parts[] = {"st", "er", "on", "a", "e",  "ing", "th", "re", "al", "qu",
                                        "or", "in", "o",  "u", "ck", "pl",  "m",  "n",  "s",  "\xC3\x83\xC2\xA9"};
    uint32_t kind = below(40);
    *out = 0;
    if (kind < 2) {
        strcpy(out, marks[below(14)]);
        if (below(2)) strcat(out, marks[below(14)]);
        return;
    }
    if (kind < 4) {
        sprintf(out, "%u", below(1000));
        return;
    }
    if (kind < 24) strcpy(out, "\xC4\xA0");
    for (uint32_t i = 0, n = 2 + below(4); i < n; i++) strcat(out, parts[below(20)]);
    if (below(4) == 0) out[strlen(out) - 1] &= (char)~0x20;
}

static mw_tokenizer *make_tokenizer(void) {
    mw_str s = {0};
    mw_tokenizer *t = NULL;
    check(mw_str_adds(
        &s,
        "{\"version\":\"1.0\",\"truncation\":null,\"padding\":null,\"added_tokens\":[],\"normalizer\":null,"
        "\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"trim_offsets\":true,\"use_regex\":true}"
        ","
        "\"post_processor\":null,\"decoder\":{\"type\":\"ByteLevel\",\"add_prefix_space\":true,\"trim_offsets\":true,"
        "\"use_regex\":true},\"model\":{\"type\":\"BPE\",\"dropout\":null,\"unk_token\":null,"
        "\"continuing_subword_prefix\":null,\"end_of_word_suffix\":null,\"fuse_unk\":false,\"byte_fallback\":false,"
        "\"vocab\":{"));
    char **seen = calloc(1u << 19, sizeof *seen), text[256];
    int id = 0, other = 0;
    for (int b = 0; b < 256; b++) { /* the 256 bytes, as GPT-2 spells them */
        bool plain = (b > 32 && b < 127) || (b > 160 && b != 173);
        int c = plain ? b : 256 + other++;
        if (c == '"' || c == '\\')
            sprintf(text, "\\%c", c);
        else if (c < 0x80)
            sprintf(text, "%c", c);
        else
            sprintf(text, "%c%c", 0xC0 | c >> 6, 0x80 | (c & 0x3F));
        check(mw_str_addf(&s, "%s\"%s\":%d", id ? "," : "", text, id));
        id++;
    }
    for (int n = 2; n <= 80; n++, id++) { /* runs of blanks */
        check(mw_str_adds(&s, ",\""));
        for (int i = 0; i < n; i++) check(mw_str_adds(&s, "\xC4\xA0"));
        check(mw_str_addf(&s, "\":%d", id));
    }
    while (id < VOCAB) {
        word(text);
        if (strlen(text) < 2 || (strlen(text) == 2 && (text[0] == '\\' || (text[0] & 0x80)))) continue;
        uint32_t h = 5381;
        for (char *p = text; *p; p++) h = h * 33 + (unsigned char)*p;
        for (h &= (1u << 19) - 1; seen[h] && strcmp(seen[h], text) != 0;) h = (h + 1) & ((1u << 19) - 1);
        if (seen[h] || (strlen(text) == 1)) continue;
        seen[h] = strdup(text);
        check(mw_str_addf(&s, ",\"%s\":%d", text, id++));
    }
    check(mw_str_adds(&s, "},\"merges\":[]}}"));
    check(mw_tokenizer_open(&t, s.p, s.n));
    for (size_t i = 0; i < 1u << 19; i++) free(seen[i]);
    free(seen);
    mw_str_free(&s);
    return t;
}

static int by_size(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void report(const char *what, double *ms, size_t n) {
    qsort(ms, n, sizeof *ms, by_size);
    if (n)
        printf("  %s: %zu masks, median %.3f ms, 99 %% %.3f ms, worst %.3f ms\n", what, n, ms[n / 2], ms[n * 99 / 100],
               ms[n - 1]);
}

static void measure(mw_grammar *g, const mw_tokenizer *t, const char *name, const char *schema) {
    mw_constraint *c = NULL;
    double start = mw_now_s();
    check(mw_grammar_compile(g, schema, &c));
    printf("%s: compiled in %.1f ms\n", name, (mw_now_s() - start) * 1e3);
    uint32_t *mask = calloc(mw_mask_words(VOCAB), sizeof *mask);
    double *first = calloc(ANSWERS * 400, sizeof *first), *again = calloc(ANSWERS * 400, sizeof *again);
    size_t n = 0;
    for (int a = 0; a < ANSWERS; a++) {
        mw_constraint_state s = {0};
        check(mw_constraint_begin(c, &s));
        for (int i = 0; i < 400 && !s.exhausted; i++, n++) {
            double t0 = mw_now_s();
            check(mw_constraint_mask(&s, false, mask));
            double t1 = mw_now_s();
            check(mw_constraint_mask(&s, false, mask));
            first[n] = (t1 - t0) * 1e3;
            again[n] = (mw_now_s() - t1) * 1e3;
            int32_t token = -1;
            uint32_t count = 0, closing = below(100) < 20;
            for (int32_t k = 0; k < VOCAB; k++) {
                if (!(mask[k / 32] >> (k % 32) & 1)) continue;
                if (closing && k == 1) token = k; /* the quote */
                if ((token != 1 || !closing) && below(++count) == 0) token = k;
            }
            check(mw_constraint_accept(&s, token));
        }
        mw_constraint_free(&s);
    }
    report("as asked for", first, n);
    report("from the tables", again, n);
    (void)t;
    free(first);
    free(again);
    free(mask);
    mw_constraint_release(c);
}

int main(int argc, char **argv) {
    static const char typical[] = "{\"type\":\"object\",\"properties\":{\"name\":{\"type\":\"string\",\"maxLength\":"
                                  "200},\"age\":{\"type\":\"integer\",\"minimum\":0,"
                                  "\"maximum\":130},\"mail\":{\"type\":\"string\",\"format\":\"email\"},\"tags\":{"
                                  "\"type\":\"array\",\"items\":{\"enum\":[\"a\",\"b\","
                                  "\"c\"]},\"maxItems\":5},\"address\":{\"type\":\"object\",\"properties\":{\"street\":"
                                  "{\"type\":\"string\"},\"zip\":{\"type\":"
                                  "\"string\",\"pattern\":\"^[0-9]{5}$\"}},\"required\":[\"street\",\"zip\"]}},"
                                  "\"required\":[\"name\",\"age\",\"mail\",\"tags\","
                                  "\"address\"]}";
    mw_grammar *g = NULL;
    mw_constraint *c = NULL;
    mw_tokenizer *t = make_tokenizer();
    check(mw_grammar_open(&g, t, VOCAB, NULL, 0));
    double start = mw_now_s();
    check(mw_grammar_compile(g, "true", &c));
    printf("tree of %d tokens: %.1f ms\n", VOCAB, (mw_now_s() - start) * 1e3);
    mw_constraint_release(c);
    if (argc > 1) {
        mw_str text = {0};
        check(mw_read_file(argv[1], (size_t)1 << 20, &text));
        measure(g, t, argv[1], text.p);
        mw_str_free(&text);
    } else {
        measure(g, t, "typical", typical);
        measure(g, t, "any object", NULL);
    }
    mw_grammar_close(g);
    mw_tokenizer_close(t);
    return 0;
}
