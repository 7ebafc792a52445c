/* shard/tools/convert_text.h - the text files of a Hugging Face folder: what model.h5 keeps of them, and whether the
 * worker will understand tokenizer and chat template. */
#ifndef MW_SHARD_CONVERT_TEXT_H
#define MW_SHARD_CONVERT_TEXT_H
#include "shard/hf_config.h"
#include "shard/st_folder.h"
#include "shard/writer.h"
MW_BEGIN_DECLS

typedef struct mw_texts {
    mw_str config, generation, quantize, tokenizer, tokenizer_config, chat_template; /* empty: absent */
    const char *quantize_name; /* file that `quantize` came from */
    char chat[200];            /* "template", "none", or "refused: <reason>" */
} mw_texts;

/* Read what is there. config.json must be; tokenizer.json must be unless !with_tokenizer, which leaves tokenizer and
 * chat template out altogether. */
MW_MUST_CHECK mw_status mw_texts_read(mw_texts *t, const char *dir, bool with_tokenizer);
void mw_texts_free(mw_texts *t); /* back to {0} */

/* Parse the config texts. */
MW_MUST_CHECK mw_status mw_texts_config(const mw_texts *t, const char *dir, mw_hf_config *out);

/* Open the tokenizer (MW_ERR_UNSUPPORTED names what it has that we do not) and probe the chat template: a template that
 * is refused is a warning, and t->chat says why. `vocab` is the model's. */
MW_MUST_CHECK mw_status mw_texts_check(mw_texts *t, const char *dir, int64_t vocab);

/* All texts and the list of source files into the model file. */
MW_MUST_CHECK mw_status mw_texts_write(const mw_texts *t, const mw_st_folder *folder, mw_writer *w);

MW_END_DECLS
#endif
