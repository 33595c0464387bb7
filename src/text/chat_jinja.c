/* chat_jinja.c - the chat template that a model carries, run as transformers runs it. */
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/utf8.h"
#include "text/chat_int.h"
#include "text/jinja.h"
#include "text/pyjson.h"

enum { OUTPUT_MAX = 64 << 20 };

static const char *token_text(const struct tok *t, int32_t id, char **owned)
{
    size_t n = 0;
    const char *s = id >= 0 ? tok_bytes(t, id, &n) : NULL;

    *owned = s ? strndup(s, n) : NULL;
    return *owned ? *owned : "";
}

/* Control tokens are where the template itself wrote their names; everything between two of them
 * is one plain text. */
static int encode(const struct tok *t, const struct buf *text, const struct buf *marks,
                  struct ids *out, struct err *e)
{
    size_t plain = 0;

    for (size_t at = 0, end; at < text->len; at = end) {
        struct ids own = { 0 };
        size_t pos = at;
        int rc;

        end = at;
        while (end < text->len && marks->p[end] == marks->p[at])
            end++;
        if (marks->p[at])
            continue;
        rc = tok_encode(t, text->p + at, end - at, TOK_ALLOW_SPECIAL, &own, e);
        for (size_t i = 0; i < own.n && rc == 0; i++) {
            size_t n = 0;

            tok_bytes(t, own.p[i], &n);
            if (tok_is_special(t, own.p[i])) {
                rc = tok_encode(t, text->p + plain, pos - plain, TOK_PLAIN, out, e);
                ids_add(out, own.p[i]);
                plain = pos + n;
            }
            pos += n;
        }
        ids_release(&own);
        if (rc)
            return -1;
    }
    return tok_encode(t, text->p + plain, text->len - plain, TOK_PLAIN, out, e);
}

/* Arguments of tool calls as OpenAI's API has them, JSON in a text, become the object that
 * templates expect. */
static void read_arguments(json_t *request)
{
    const json_t *messages = json_object_get(request, "messages");

    for (size_t i = 0; i < json_array_size(messages); i++) {
        const json_t *calls = json_object_get(json_array_get(messages, i), "tool_calls");

        for (size_t k = 0; k < json_array_size(calls); k++) {
            json_t *call = json_array_get(calls, k), *f = json_object_get(call, "function");
            const json_t *text = json_object_get(f ? f : call, "arguments");
            json_t *args;
            struct err e;

            if (!pyjson_is_text(text) ||
                pyjson_read(&args, json_string_value(text), json_string_length(text), 0, "", &e))
                continue;
            if (json_is_object(args))
                json_object_set(f ? f : call, "arguments", args);
            json_decref(args);
        }
    }
}

static int run(const struct tok *t, json_t *request, struct buf *text, struct buf *marks,
               struct err *e)
{
    const char *template = tok_chat_template(t);
    char *bos, *eos;
    const char *const names[] = { "bos_token", "eos_token" };
    const char *const values[] = { token_text(t, tok_bos(t), &bos),
                                   token_text(t, tok_eos(t), &eos) };
    const struct jinja_vars vars = { request, names, values, 2, time(NULL) };
    /* transformers passes these always: templates ask `tools is not none` */
    static const char *const always[] = { "tools", "documents" };
    struct jinja *j = NULL;
    int rc = -1;

    for (size_t i = 0; i < ARRAY_LEN(always); i++)
        if (!json_object_get(request, always[i]))
            json_object_set_new(request, always[i], json_null());
    if (!template)
        err_set(e, ERR_FORMAT, "the model carries no chat template");
    else if (jinja_parse(&j, template, strlen(template), e) == 0)
        rc = jinja_render(j, &vars, text, marks, e);
    jinja_free(j);
    free(bos);
    free(eos);
    return rc;
}

static int render(const struct tok *t, const json_t *request, struct prompt *out, struct err *e)
{
    json_t *with = json_deep_copy(request);
    struct buf text, marks;
    int rc;

    buf_init(&text, OUTPUT_MAX);
    buf_init(&marks, OUTPUT_MAX);
    if (!json_object_get(with, "add_generation_prompt"))
        json_object_set_new(with, "add_generation_prompt", json_true());
    read_arguments(with);
    rc = run(t, with, &text, &marks, e) || encode(t, &text, &marks, &out->ids, e) ? -1 : 0;
    utf8_sanitize(&out->text, text.p, text.len);
    buf_release(&text);
    buf_release(&marks);
    json_decref(with);
    return rc;
}

/* What the template writes behind an answer: it is asked to write one. */
static void turn_ends(const struct tok *t, struct ids *out)
{
    static const char answer[] = "An answer.";
    json_t *request =
        json_pack("{s:[{s:s, s:s}, {s:s, s:s}], s:b}", "messages", "role", "user", "content", "Hi",
                  "role", "assistant", "content", answer, "add_generation_prompt", 0);
    struct buf text, marks;
    struct ids ids = { 0 };
    struct err e;

    if (tok_eos(t) >= 0)
        ids_add(out, tok_eos(t));
    buf_init(&text, OUTPUT_MAX);
    buf_init(&marks, OUTPUT_MAX);
    const char *at = run(t, request, &text, &marks, &e) ? NULL : strstr(text.p, answer);

    if (at) {
        at += strlen(answer);
        if (tok_encode(t, at, text.len - (size_t)(at - text.p), TOK_ALLOW_SPECIAL, &ids, &e) == 0)
            for (size_t i = 0; i < ids.n; i++)
                if (tok_is_special(t, ids.p[i])) {
                    ids_add(out, ids.p[i]);
                    break;
                }
    }
    ids_release(&ids);
    buf_release(&text);
    buf_release(&marks);
    json_decref(request);
}

int chat_jinja_check(const struct tok *t, struct err *e)
{
    json_t *request = json_pack("{s:[{s:s, s:s}], s:b}", "messages", "role", "user", "content",
                                "Hi", "add_generation_prompt", 1);
    struct buf text, marks;

    buf_init(&text, OUTPUT_MAX);
    buf_init(&marks, OUTPUT_MAX);
    const int rc = run(t, request, &text, &marks, e);

    buf_release(&text);
    buf_release(&marks);
    json_decref(request);
    return rc;
}

static const char *const stop[] = { "<|im_end|>",    "<|eot_id|>", "<|eom_id|>", "<|end_of_text|>",
                                    "<|endoftext|>", "</s>",       NULL };

const struct chat_format chat_jinja = {
    .name = "jinja",
    .what = "the template that the model carries, as it is written",
    .render = render,
    .stop = stop,
    .turn_ends = turn_ends,
};
