/* What a program outside does with the installed library: one header, open, submit, poll, close. */
#include <stdio.h>
#include <string.h>
#include <worker/engine.h>

int main(int argc, char **argv) {
    mw_engine *e = NULL;
    mw_engine_options o = {.model = argc > 1 ? argv[1] : "", .ctx = 64};
    mw_request r = {.text = "HAMLET:\nTo be, or not to be", .text_len = 27, .sampling = mw_sampling_default()};
    uint64_t id;
    int open = 1;
    r.sampling.max_tokens = 8;
    if (mw_engine_open(&e, &o) != MW_OK || mw_engine_submit(e, &r, &id) != MW_OK) {
        fprintf(stderr, "%s\n", mw_error_text());
        mw_engine_close(e);
        return 1;
    }
    while (open) {
        mw_event ev;
        bool got;
        if (mw_engine_poll(e, -1, &ev, &got) != MW_OK) return 1;
        if (!got) continue;
        printf("%.*s", (int)ev.text_len, ev.text);
        open = ev.type != MW_EVENT_DONE && ev.type != MW_EVENT_ERROR;
        mw_event_free(&ev);
    }
    printf("\n");
    return mw_engine_close(e) != MW_OK;
}
