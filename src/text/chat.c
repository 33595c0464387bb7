/* chat.c - the table of chat formats, and what they share. */
#include "text/chat.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>

#include "base/json.h"
#include "base/utf8.h"
#include "text/chat_int.h"
#include "text/pyjson.h"

#define FORMAT(id) extern const struct chat_format chat_##id;
#include "text/chat_format.def"
#undef FORMAT

static const struct chat_format *const formats[] = {
#define FORMAT(id) &chat_##id,
#include "text/chat_format.def"
#undef FORMAT
};

enum { PROMPT_MAX = 256 << 20 };

void prompt_init(struct prompt *p)
{
    buf_init(&p->text, PROMPT_MAX);
    p->ids = (struct ids){ 0 };
}

void prompt_release(struct prompt *p)
{
    buf_release(&p->text);
    ids_release(&p->ids);
}

int chat_detect(const struct chat_format **out, const struct tok *t, struct err *e)
{
    const char *template = tok_chat_template(t);

    if (!template)
        return err_set(e, ERR_FORMAT,
                       "the model carries no chat template; choose one with "
                       "--template (%s)",
                       chat_names());
    for (size_t i = 0; i < ARRAY_LEN(formats); i++) {
        if (formats[i]->detect && formats[i]->detect(t, template)) {
            *out = formats[i];
            return 0;
        }
    }
    struct err why;

    if (chat_jinja_check(t, &why))
        return err_set(e, ERR_FORMAT,
                       "the model's chat template cannot be run (%s); choose a format with "
                       "--template (%s)",
                       why.msg, chat_names());
    *out = &chat_jinja;
    return 0;
}

void chat_stops(const struct chat_format *f, const struct tok *t, struct ids *out)
{
    for (const char *const *s = f->stop; s && *s; s++)
        if (tok_id(t, *s) >= 0)
            ids_add(out, tok_id(t, *s));
    if (f->turn_ends)
        f->turn_ends(t, out);
}

const struct chat_format *chat_by_name(const char *name)
{
    for (size_t i = 0; i < ARRAY_LEN(formats); i++)
        if (strcasecmp(formats[i]->name, name) == 0)
            return formats[i];
    return NULL;
}

const char *chat_names(void)
{
    static char names[512];

    if (!names[0]) {
        for (size_t i = 0; i < ARRAY_LEN(formats); i++) {
            const size_t n = strlen(names);

            snprintf(names + n, sizeof(names) - n, "%s%s", i ? ", " : "", formats[i]->name);
        }
    }
    return names;
}

static int render(const struct chat_format *f, const struct tok *t, const json_t *request,
                  struct prompt *out, struct err *e)
{
    if (!json_is_object(request))
        return err_set(e, ERR_USAGE, "request: not an object");
    if (f->render(t, request, out, e))
        return -1;
    return buf_check(&out->text, "prompt", e);
}

int chat_render(const struct chat_format *f, const struct tok *t, const json_t *request,
                struct prompt *out, struct err *e)
{
    const size_t bytes = out->text.len, ids = out->ids.n;
    const int rc = render(f, t, request, out, e);

    if (rc) {
        buf_cut(&out->text, bytes);
        out->ids.n = ids;
    }
    return rc;
}

/* ---- writing ---- */

void pen_control(struct pen *w, const char *name)
{
    const int32_t id = w->failed ? -1 : tok_id(w->t, name);

    if (w->failed)
        return;
    if (id < 0) {
        err_set(w->e, ERR_FORMAT, "the tokenizer has no token %s, which this chat format needs",
                name);
        w->failed = true;
        return;
    }
    buf_adds(&w->p->text, name);
    ids_add(&w->p->ids, id);
}

void pen_text(struct pen *w, const char *text, size_t n)
{
    if (w->failed)
        return;
    utf8_sanitize(&w->p->text, text, n);
    w->failed = tok_encode(w->t, text, n, TOK_PLAIN, &w->p->ids, w->e) != 0;
}

void pen_str(struct pen *w, const char *text)
{
    pen_text(w, text, strlen(text));
}

void pen_header(struct pen *w, const char *role)
{
    pen_control(w, "<|start_header_id|>");
    pen_str(w, role);
    pen_control(w, "<|end_header_id|>");
    pen_str(w, "\n\n");
}

int pen_done(const struct pen *w)
{
    return w->failed ? -1 : 0;
}

int chat_base(const struct tok *t, const char *text, size_t n, struct prompt *out, struct err *e)
{
    struct pen w = { .p = out, .t = t, .e = e };
    const int32_t bos = tok_bos(t);
    size_t len = 0;
    const char *name = bos < 0 ? NULL : tok_bytes(t, bos, &len);

    if (name) {
        buf_add(&out->text, name, len);
        ids_add(&out->ids, bos);
    }
    pen_text(&w, text, n);
    return pen_done(&w);
}

/* ---- reading ---- */

int chat_messages(const json_t *request, json_t **out, struct err *e)
{
    json_t *list = NULL, *m;
    size_t i;

    if (json_get_arr(request, "messages", &list, "request", e) < 0)
        return -1;
    if (json_array_size(list) == 0)
        return err_set(e, ERR_USAGE, "request: it needs messages, at least one");
    json_array_foreach(list, i, m)
    {
        if (!json_is_object(m))
            return err_set(e, ERR_USAGE, "messages[%zu] is not an object", i);
    }
    *out = list;
    return 0;
}

int chat_role(const json_t *message, size_t i, enum role *out, struct err *e)
{
    static const struct {
        const char *name;
        enum role role;
    } known[] = {
        { "system", ROLE_SYSTEM }, { "user", ROLE_USER },    { "assistant", ROLE_ASSISTANT },
        { "tool", ROLE_TOOL },     { "ipython", ROLE_TOOL },
    };
    const json_t *v = json_object_get(message, "role");

    for (size_t k = 0; k < ARRAY_LEN(known); k++) {
        if (json_is_string(v) && json_string_length(v) == strlen(known[k].name) &&
            strcmp(json_string_value(v), known[k].name) == 0) {
            *out = known[k].role;
            return 0;
        }
    }
    return err_set(e, ERR_USAGE,
                   "messages[%zu]: role %s%.40s%s is none of system, user, assistant, "
                   "tool, ipython",
                   i, json_is_string(v) ? "'" : "",
                   json_is_string(v) ? json_string_value(v) : "(missing)",
                   json_is_string(v) ? "'" : "");
}

static int part(const json_t *v, size_t i, size_t k, struct buf *out, struct err *e)
{
    const json_t *type = json_object_get(v, "type"), *text = json_object_get(v, "text");

    if (!json_is_object(v) || !json_is_string(type))
        return err_set(e, ERR_USAGE, "messages[%zu]: content[%zu] is no object with a type", i, k);
    if (strcmp(json_string_value(type), "text") != 0)
        return err_set(e, ERR_USAGE,
                       "messages[%zu]: content[%zu] is of type '%.40s'; only text is "
                       "understood",
                       i, k, json_string_value(type));
    if (!pyjson_is_text(text))
        return err_set(e, ERR_USAGE, "messages[%zu]: content[%zu] has no text", i, k);
    buf_add(out, json_string_value(text), json_string_length(text));
    return 0;
}

int chat_content(const json_t *message, size_t i, struct buf *out, struct err *e)
{
    const json_t *v = json_object_get(message, "content");

    if (!v || json_is_null(v))
        return 0;
    if (pyjson_is_text(v)) {
        buf_add(out, json_string_value(v), json_string_length(v));
        return 0;
    }
    if (!json_is_array(v))
        return err_set(e, ERR_USAGE, "messages[%zu]: content is neither text nor a list of parts",
                       i);
    for (size_t k = 0; k < json_array_size(v); k++)
        if (part(json_array_get(v, k), i, k, out, e))
            return -1;
    return 0;
}

static bool is_space(int32_t c)
{
    return (c >= 0x09 && c <= 0x0D) || (c >= 0x1C && c <= 0x20) || c == 0x85 || c == 0xA0 ||
           c == 0x1680 || (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 ||
           c == 0x202F || c == 0x205F || c == 0x3000;
}

void chat_trim(const char **p, size_t *n)
{
    const char *s = *p, *end = *p + *n;
    int32_t c;

    while (s < end) {
        const size_t k = utf8_next(s, (size_t)(end - s), &c);

        if (!is_space(c))
            break;
        s += k;
    }
    while (end > s) {
        size_t k = 1; /* the last character: back over continuation bytes */

        while (k < 4 && k < (size_t)(end - s) && ((uint8_t)end[-(ptrdiff_t)k] & 0xC0) == 0x80)
            k++;
        if (utf8_next(end - k, k, &c) != k || !is_space(c))
            break;
        end -= k;
    }
    *p = s;
    *n = (size_t)(end - s);
}

int chat_call(const json_t *call, size_t i, size_t k, struct call *out, struct err *e)
{
    const json_t *f = json_object_get(call, "function");
    const json_t *name = json_object_get(f ? f : call, "name");
    json_t *args = json_object_get(f ? f : call, "arguments");
    char what[64];

    snprintf(what, sizeof(what), "messages[%zu]: tool_calls[%zu]", i, k);
    if (!pyjson_is_text(name))
        return err_set(e, ERR_USAGE, "%s has no name", what);
    if (!args || json_is_null(args)) {
        args = json_object();
    } else if (pyjson_is_text(args)) {
        if (pyjson_read(&args, json_string_value(args), json_string_length(args), 0, what, e))
            return -1;
    } else {
        json_incref(args);
    }
    if (!json_is_object(args)) {
        json_decref(args);
        return err_set(e, ERR_USAGE, "%s: arguments are no object, and no text that holds one",
                       what);
    }
    *out = (struct call){ .name = json_string_value(name),
                          .name_len = json_string_length(name),
                          .args = args };
    return 0;
}

void chat_call_release(struct call *c)
{
    json_decref(c->args);
    c->args = NULL;
}

static const char *const months[] = { "January",   "February", "March",    "April",
                                      "May",       "June",     "July",     "August",
                                      "September", "October",  "November", "December" };

static void write_date(char out[32], int day, int month, int year, bool full)
{
    snprintf(out, 32, "%02d %.*s %d", day, full ? 16 : 3, months[month], year);
}

void chat_today(char out[32], bool full)
{
    const time_t now = time(NULL);
    struct tm tm = { .tm_mday = 1, .tm_year = 70 };

    localtime_r(&now, &tm);
    write_date(out, tm.tm_mday, tm.tm_mon, tm.tm_year + 1900, full);
}

int chat_iso_date(const char *iso, char out[32], struct err *e)
{
    int y, m, d, end = 0;

    if (strlen(iso) != 10 || sscanf(iso, "%4d-%2d-%2d%n", &y, &m, &d, &end) != 3 || end != 10 ||
        y < 1 || m < 1 || m > 12 || d < 1 || d > 31)
        return err_set(e, ERR_USAGE, "request: date '%.40s' is not of the form 2024-07-23", iso);
    write_date(out, d, m - 1, y, true);
    return 0;
}

int chat_code_result(const json_t *result, struct buf *out, struct err *e)
{
    static const char *const streams[] = { "stdout", "stderr" };
    const char *status = "success", *text;
    size_t n;

    if (json_get_str(result, "status", &status, &n, "tool_response", e) < 0)
        return -1;
    buf_adds(out, strcmp(status, "success") == 0 ? "completed" : "failed");
    for (size_t i = 0; i < ARRAY_LEN(streams); i++) {
        const int rc = json_get_str(result, streams[i], &text, &n, "tool_response", e);

        if (rc < 0)
            return -1;
        if (rc == 0 || n == 0)
            continue;
        buf_addf(out, "\n[%s]", streams[i]);
        buf_add(out, text, n);
        buf_addf(out, "[/%s]", streams[i]);
    }
    return 0;
}
