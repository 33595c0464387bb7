/* Any JSON as a request, in every chat format, and any bytes as a template: a prompt's bytes are
 * what its ids decode to, and its control tokens are those that a format places. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "text/chat.h"
#include "text/pyjson.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char *const formats[] = { "chatml", "llama3",    "llama3.1",   "llama3.2",
                                       "meta",   "meta-docs", "meta-stack", "jinja" };
static const char template_run[] =
    "{{ bos_token }}{% for m in messages %}{{ '<|start_header_id|>' + m.role + "
    "'<|end_header_id|>\n\n' + m.content|string|trim + '<|eot_id|>' }}"
    "{% for c in m.tool_calls or [] %}{{ c|tojson(indent=2) }}{{ c }}<|eom_id|>{% endfor %}"
    "{% endfor %}{{ tools|string|title }}<|python_tag|>";
static const char *const placed[] = {
    "<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>",
    "<|eom_id|>",        "<|eot_id|>",          "<|python_tag|>",
};

/* 256 bytes and Llama's control tokens. */
static struct tok *tiny(void)
{
    static const char b64[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    struct err e = { 0 };
    struct tok *t;
    struct buf b;

    buf_init(&b, 1 << 16);
    for (int i = 0; i < 256; i++)
        buf_addf(&b, "%c%c== %d\n", b64[i >> 2], b64[(i & 3) << 4], i);
    if (tok_from_tiktoken(&t, b.p, b.len, "tiny", &e)) {
        fprintf(stderr, "%s\n", e.msg);
        abort();
    }
    buf_release(&b);
    tok_set_chat_template(t, template_run);
    return t;
}

static void check(const struct tok *t, const struct prompt *p)
{
    struct buf text;

    buf_init(&text, SIZE_MAX);
    tok_decode(t, p->ids.p, p->ids.n, false, &text);
    if (text.len != p->text.len || memcmp(text.p, p->text.p, text.len) != 0)
        __builtin_trap();
    for (size_t i = 0; i < p->ids.n; i++) {
        bool known = p->ids.p[i] < 256;

        for (size_t k = 0; k < ARRAY_LEN(placed) && !known; k++)
            known = p->ids.p[i] == tok_id(t, placed[k]);
        if (!known)
            __builtin_trap();
    }
    buf_release(&text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct tok *t;
    struct err e = { 0 };
    json_t *request;

    if (size > 1 << 14)
        return 0;
    if (!t)
        t = tiny();
    char *template = strndup((const char *)data, size);

    for (size_t i = 0; i < ARRAY_LEN(formats); i++) {
        const struct chat_format *f = chat_by_name(formats[i]);

        if (f->detect)
            f->detect(t, template);
    }
    free(template);
    if (pyjson_read(&request, (const char *)data, size, 0, "fuzz", &e))
        return 0;
    for (size_t i = 0; i < ARRAY_LEN(formats); i++) {
        struct prompt p;

        prompt_init(&p);
        if (chat_render(chat_by_name(formats[i]), t, request, &p, &e) == 0)
            check(t, &p);
        else if (p.text.len || p.ids.n || !e.msg[0])
            __builtin_trap();
        prompt_release(&p);
    }
    json_decref(request);
    return 0;
}
