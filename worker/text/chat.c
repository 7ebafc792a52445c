#include "worker/text/chat.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "worker/text/jinja.h"

struct mw_chat {
    mw_jinja *template;
    char *bos, *eos;
};

static mw_status copy_text(char **out, const char *text, const char *what) {
    *out = strdup(text ? text : "");
    return *out ? MW_OK : MW_FAIL(MW_ERR_NOMEM, "%s of a chat template", what);
}

mw_status mw_chat_open(mw_chat **out, const char *template_text, size_t n, const char *bos, const char *eos) {
    mw_chat *c;
    mw_status st = MW_CALLOC(&c, 1, "chat template");
    if (st != MW_OK) return st;
    MW_TRY(st, copy_text(&c->bos, bos, "bos_token"));
    MW_TRY(st, copy_text(&c->eos, eos, "eos_token"));
    MW_TRY(st, mw_jinja_open(&c->template, template_text, n));
    *out = c;
    return MW_OK;
fail:
    mw_chat_close(c);
    return st;
}

void mw_chat_close(mw_chat *c) {
    if (!c) return;
    mw_jinja_close(c->template);
    free(c->bos);
    free(c->eos);
    free(c);
}

static mw_status check_input(const json_t *messages, const json_t *tools, const json_t *extra) {
    static const char *const own[] = {"messages", "tools", "add_generation_prompt"};
    if (!json_is_array(messages)) return MW_FAIL(MW_ERR_USAGE, "messages: not an array");
    for (size_t i = 0; i < json_array_size(messages); i++) {
        if (!json_is_object(json_array_get(messages, i))) {
            return MW_FAIL(MW_ERR_USAGE, "messages: element %zu is not an object", i);
        }
    }
    if (tools && !json_is_array(tools) && !json_is_null(tools)) return MW_FAIL(MW_ERR_USAGE, "tools: not an array");
    if (!extra) return MW_OK;
    if (!json_is_object(extra)) return MW_FAIL(MW_ERR_USAGE, "chat template variables: not an object");
    for (size_t i = 0; i < sizeof own / sizeof *own; i++) {
        if (json_object_get(extra, own[i])) {
            return MW_FAIL(MW_ERR_USAGE, "chat template variables: '%s' cannot be replaced", own[i]);
        }
    }
    return MW_OK;
}

static mw_status render(const mw_chat *c, const json_t *messages, const json_t *tools, bool add_generation_prompt,
                        const json_t *extra, mw_str *out, bool *raised) {
    struct timespec now;
    mw_jinja_var vars[6] = {
        {"messages", messages, NULL},
        {"tools", tools, NULL},
        {"add_generation_prompt", add_generation_prompt ? json_true() : json_false(), NULL},
    };
    size_t n = 3;
    *raised = false;
    mw_status st = check_input(messages, tools, extra);
    if (st != MW_OK) return st;
    /* These the caller may replace; documents is None for templates that look for it. */
    if (!json_object_get(extra, "bos_token")) vars[n++] = (mw_jinja_var){"bos_token", NULL, c->bos};
    if (!json_object_get(extra, "eos_token")) vars[n++] = (mw_jinja_var){"eos_token", NULL, c->eos};
    if (!json_object_get(extra, "documents")) vars[n++] = (mw_jinja_var){"documents", NULL, NULL};
    clock_gettime(CLOCK_REALTIME, &now);
    return mw_jinja_render(c->template, vars, n, extra, (int64_t)now.tv_sec * 1000000 + now.tv_nsec / 1000, out,
                           raised);
}

mw_status mw_chat_render(const mw_chat *c, const json_t *messages, const json_t *tools, bool add_generation_prompt,
                         const json_t *extra, mw_str *out) {
    bool raised;
    return render(c, messages, tools, add_generation_prompt, extra, out, &raised);
}

/* A conversation of the given roles, 's'ystem, 'u'ser and 'a'ssistant. */
static json_t *conversation(const char *roles) {
    json_t *list = json_array();
    for (; *roles; roles++) {
        const char *role = *roles == 's' ? "system" : *roles == 'u' ? "user" : "assistant";
        json_array_append_new(list, json_pack("{s:s, s:s}", "role", role, "content", "Hello."));
    }
    return list;
}

mw_status mw_chat_probe(const mw_chat *c) {
    static const char *const shapes[] = {"u", "uau", "su", "suau"};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        json_t *messages = conversation(shapes[i]);
        mw_str text = {0};
        bool raised;
        mw_status st = render(c, messages, NULL, true, NULL, &text, &raised);
        mw_str_free(&text);
        json_decref(messages);
        /* A template may have no place for a system message and say so: that is an answer, not a fault. */
        if (st != MW_OK && !(raised && shapes[i][0] == 's')) return st;
    }
    return MW_OK;
}
