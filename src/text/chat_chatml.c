/* chat_chatml.c - ChatML: <|im_start|>role LF content <|im_end|> LF. Some models put a system
 * message of their own in front when there is none; its text is read from their template. */
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "text/chat_int.h"

/* Of the canonical template: what may come first, then the messages, then the prompt. */
static const char no_generate[] =
    "{%if not add_generation_prompt is defined%}{%set add_generation_prompt=false%}{%endif%}";
static const char loop[] = "{%for message in messages%}";
static const char system_if[] =
    "{%if loop.first and messages[0][`role`]!=`system`%}{{`<|im_start|>system\\n";
static const char system_end[] = "<|im_end|>\\n`}}{%endif%}";
static const char turn_text[] = "{{`<|im_start|>`+message[`role`]+`\\n`+message[`content`]+"
                                "`<|im_end|>`+`\\n`}}";
static const char turn_short[] = "{{`<|im_start|>`+message[`role`]+`\\n`+message[`content`]+"
                                 "`<|im_end|>\\n`}}";
static const char last[] =
    "{%endfor%}{%if add_generation_prompt%}{{`<|im_start|>assistant\\n`}}{%endif%}";

static bool skip(const char **p, const char *text)
{
    const size_t n = strlen(text);

    if (strncmp(*p, text, n) != 0)
        return false;
    *p += n;
    return true;
}

/* True for a ChatML template; the text of its own system message, if any, goes to *out. */
static bool recognise(const char *template, struct buf *out)
{
    bool text, is = false;
    char *canon = template_canon(template, &text);
    const char *p = canon;

    skip(&p, no_generate);
    if (!skip(&p, loop))
        goto done;
    if (skip(&p, system_if)) {
        const char *end = strstr(p, system_end);

        /* an escape, or the end of the literal before its end: not just a text */
        if (!end || memchr(p, '`', (size_t)(end - p)) || memchr(p, '\\', (size_t)(end - p)))
            goto done;
        buf_add(out, p, (size_t)(end - p));
        p = end + strlen(system_end);
    }
    is = (skip(&p, turn_text) || skip(&p, turn_short)) && strcmp(p, last) == 0;
done:
    free(canon);
    return is;
}

static bool detect(const struct tok *t, const char *template)
{
    struct buf own;
    bool is;

    buf_init(&own, SIZE_MAX);
    is =
        tok_id(t, "<|im_start|>") >= 0 && tok_id(t, "<|im_end|>") >= 0 && recognise(template, &own);
    buf_release(&own);
    return is;
}

static void turn(struct pen *w, const char *role, const struct buf *content)
{
    struct buf b;

    buf_init(&b, w->p->text.max);
    buf_addf(&b, "%s\n", role);
    buf_add(&b, content->p, content->len);
    pen_control(w, "<|im_start|>");
    pen_text(w, b.p, b.len);
    pen_control(w, "<|im_end|>");
    pen_str(w, "\n");
    buf_release(&b);
}

static int write_messages(struct pen *w, json_t *messages, struct buf *b)
{
    static const char *const names[] = { "system", "user", "assistant", "tool" };
    const char *template = tok_chat_template(w->t);

    for (size_t i = 0; i < json_array_size(messages); i++) {
        const json_t *m = json_array_get(messages, i);
        json_t *calls = NULL;
        enum role role;

        if (chat_role(m, i, &role, w->e) ||
            json_get_arr(m, "tool_calls", &calls, "message", w->e) < 0)
            return -1;
        if (calls)
            return err_set(w->e, ERR_USAGE,
                           "messages[%zu]: the chat format chatml has no tool calls", i);
        buf_clear(b);
        if (i == 0 && role != ROLE_SYSTEM && template && recognise(template, b) && b->len)
            turn(w, "system", b);
        buf_clear(b);
        if (chat_content(m, i, b, w->e) || buf_check(b, "message", w->e))
            return -1;
        turn(w, names[role], b);
    }
    return 0;
}

static int render(const struct tok *t, const json_t *request, struct prompt *p, struct err *e)
{
    struct pen w = { .p = p, .t = t, .e = e };
    json_t *messages, *tools = NULL;
    bool generate = true;
    struct buf b;
    int rc;

    if (chat_messages(request, &messages, e) ||
        json_get_arr(request, "tools", &tools, "request", e) < 0 ||
        json_get_bool(request, "add_generation_prompt", &generate, "request", e) < 0)
        return -1;
    if (json_array_size(tools))
        return err_set(e, ERR_USAGE, "request: the chat format chatml has no tools");
    buf_init(&b, p->text.max);
    rc = write_messages(&w, messages, &b);
    if (generate) {
        pen_control(&w, "<|im_start|>");
        pen_str(&w, "assistant\n");
    }
    buf_release(&b);
    return rc ? -1 : pen_done(&w);
}

static const char *const stop[] = { "<|im_end|>", NULL };

const struct chat_format chat_chatml = {
    .name = "chatml",
    .what = "ChatML (SmolLM2, Hermes and others), without tools",
    .no_tools = true,
    .detect = detect,
    .render = render,
    .stop = stop,
};
