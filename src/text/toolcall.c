/* toolcall.c - the state machine of toolcall.h. Text that may still become a call waits in
 * `raw`; the first byte that decides sends it on as text, as code or as a call. Every byte
 * passes `step` once, and at most once more when what it belonged to turns out to be code. */
#include "text/toolcall.h"

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/rng.h"
#include "base/utf8.h"
#include "text/pyjson.h"
#include "text/toolcall_int.h"
#include "text/toolencode.h"

enum state {
    START,     /* only white space so far */
    TEXT,      /* plain text */
    LEAD,      /* raw[lead..] may start a call */
    OBJECT,    /* inside a JSON object that may be a call */
    TAG,       /* behind <function=NAME> */
    WHOLE,     /* a Python list or calls of built-in tools: read at the end */
    SKIP,      /* the rest of a JSON object that is no call: text */
    AFTER,     /* behind a call: separators wait in raw */
    CODE_LEAD, /* behind <|python_tag|>: a code fence may come */
    CODE,
    LATE,   /* behind a <|python_tag|> that follows text: code only if a tool is awaited */
    HEADER, /* inside an echoed header */
    STOPPED,
};

/* A call that waits longer than this for its name is text (512 bytes cover every layout that
 * models write). */
enum { UNDECIDED_MAX = 512, NAME_MAX_BYTES = 128, RAW_MAX = 256 << 20 };

static const char tag_open[] = "<function=", tag_close[] = "</function>";

struct tool_parser {
    struct tool_options o;
    struct tool_events ev;
    enum state state;
    enum tool_stop stop;
    bool stopped;             /* a control token said why */
    bool offered;             /* some tool may be called */
    bool python;              /* behind <|python_tag|>, nothing read yet */
    bool spoken;              /* text other than white space was sent */
    bool list, fence, tagged; /* a closing ] or ``` or </function> may follow the call */
    bool spare;               /* one closing brace too many was seen */
    struct buf text;          /* content that waits for the end of this feed */
    struct buf raw;           /* held back; lead = where the candidate starts in it */
    size_t lead;
    char tail[4]; /* an unfinished character */
    size_t n_tail;
    char mark[32]; /* tool_parser_markup: an unfinished control name */
    size_t n_mark;

    /* the candidate */
    struct jpipe j;
    bool nested; /* inside {"function": {...}} */
    char name[NAME_MAX_BYTES];
    bool has_name, begun, done, whole; /* whole: arguments are sent at once, at their end */
    bool has_args, in_args, args_done;
    size_t args_depth, sent, hold; /* j.out: sent so far; not final from here (SIZE_MAX = all is) */
    struct buf args;               /* of a call that is sent whole */
    bool fenced;       /* CODE: a fence was opened, and what may close it waits in raw */
    struct buf code;   /* CODE: not sent yet */
    int skip_newlines; /* behind an echoed header */

    size_t calls, ids, coerced;
    const struct tok *tok; /* whose control tokens these are */
    int32_t control[8];
};

static void step(struct tool_parser *p, char c);

/* ---- tools ---- */

static const json_t *function_of(const json_t *tool)
{
    const json_t *f = json_object_get(tool, "function");

    return json_is_object(f) ? f : tool;
}

static const json_t *tool_find(const struct tool_parser *p, const char *name)
{
    for (size_t i = 0; i < json_array_size(p->o.tools); i++) {
        const json_t *f = function_of(json_array_get(p->o.tools, i));
        const char *s = json_string_value(json_object_get(f, "name"));

        if (s && strcmp(s, name) == 0)
            return f;
    }
    return NULL;
}

static bool declared(const struct tool_parser *p, const char *name)
{
    if (p->o.any)
        return *name != 0;
    for (size_t i = 0; i < json_array_size(p->o.builtin_tools); i++) {
        const char *s = json_string_value(json_array_get(p->o.builtin_tools, i));

        if (s && strcmp(s, name) == 0)
            return true;
    }
    return tool_find(p, name) || (p->o.code && strcmp(name, "code_interpreter") == 0);
}

static const json_t *schema_of(const struct tool_parser *p)
{
    return json_object_get(tool_find(p, p->name), "parameters");
}

/* ---- events ---- */

static void flush_text(struct tool_parser *p)
{
    if (p->text.len && p->ev.content)
        p->ev.content(p->ev.arg, p->text.p, p->text.len);
    buf_clear(&p->text);
}

static void say(struct tool_parser *p, const char *s, size_t n)
{
    buf_add(&p->text, s, n);
    for (size_t i = 0; i < n && !p->spoken; i++)
        p->spoken = !s[i] || !strchr(" \t\r\n", s[i]);
}

static void raw_to_text(struct tool_parser *p)
{
    say(p, p->raw.p, p->raw.len);
    buf_clear(&p->raw);
    p->lead = 0;
}

static void call_begin(struct tool_parser *p, const char *name)
{
    char id[] = "call_........................";

    for (size_t i = 5; i < sizeof(id) - 1; i++) {
        const uint64_t k = rng_u64(p->o.seed, p->ids++) % 52;

        id[i] = (char)(k < 26 ? 'a' + k : 'A' + (k - 26));
    }
    flush_text(p);
    if (p->ev.call_begin)
        p->ev.call_begin(p->ev.arg, p->calls, id, name);
    p->calls++;
}

static void call_args(struct tool_parser *p, const char *s, size_t n)
{
    if (n && p->ev.call_args)
        p->ev.call_args(p->ev.arg, p->calls - 1, s, n);
}

static void call_end(struct tool_parser *p)
{
    if (p->ev.call_end)
        p->ev.call_end(p->ev.arg, p->calls - 1);
}

/* Arguments that are there as a whole: given their types, and for a built-in tool without a schema
 * made into its one `query`. */
static void call_whole(struct tool_parser *p, const char *name, json_t *args)
{
    const json_t *schema = json_object_get(tool_find(p, name), "parameters");
    struct buf text;

    if (p->o.coerce)
        p->coerced += coerce_object(schema, args);
    if (!schema && tool_is_builtin(name) && json_object_size(args)) {
        json_t *v = json_object_get(args, "query");

        if (!v)
            v = json_object_iter_value(json_object_iter(args));
        json_incref(v);
        json_object_clear(args);
        json_object_set_new(args, "query", v);
    }
    buf_init(&text, SIZE_MAX);
    pyjson_write(&text, args, 0, 0);
    call_begin(p, name);
    call_args(p, text.p, text.len);
    call_end(p);
    buf_release(&text);
}

/* ---- a JSON call ---- */

static void on_value_start(void *arg, size_t depth, char first);
static void on_value_end(void *arg, size_t depth, size_t from);

static void candidate_reset(struct tool_parser *p)
{
    jpipe_reset(&p->j);
    p->j.value_start = on_value_start;
    p->j.value_end = on_value_end;
    buf_clear(&p->args);
    p->nested = p->has_name = p->begun = p->done = p->whole = false;
    p->has_args = p->in_args = p->args_done = false;
    p->sent = 0;
    p->hold = SIZE_MAX;
}

static bool key_is(const struct jpipe *j, size_t depth, const char *s)
{
    const size_t n = strlen(s);

    return depth <= JPIPE_KEYS && j->key[depth - 1].n == n &&
           memcmp(j->out.p + j->key[depth - 1].at, s, n) == 0;
}

static bool in_call(const struct tool_parser *p, size_t depth)
{
    return depth == 1 || (depth == 2 && p->nested);
}

static bool args_key(const struct jpipe *j, size_t depth)
{
    return key_is(j, depth, "parameters") || key_is(j, depth, "arguments");
}

static void args_begin(struct tool_parser *p, size_t depth)
{
    p->has_args = p->in_args = true;
    p->args_depth = depth;
    p->sent = p->j.out.len;
    p->whole = !p->has_name || (tool_is_builtin(p->name) && !schema_of(p));
}

static void on_value_start(void *arg, size_t depth, char first)
{
    struct tool_parser *p = arg;
    const struct jpipe *j = &p->j;

    if (p->in_args) {
        if (depth == p->args_depth + 1 && depth <= JPIPE_KEYS && p->o.coerce && !p->whole) {
            const json_t *properties = json_object_get(schema_of(p), "properties");
            const json_t *schema =
                json_object_getn(properties, j->out.p + j->key[depth - 1].at, j->key[depth - 1].n);

            if (coerce_wanted(schema, first))
                p->hold = j->out.len;
        }
        return;
    }
    if (depth == 0 || !in_call(p, depth))
        return;
    if (depth == 1 && first == '{' && key_is(j, depth, "function"))
        p->nested = true;
    else if (first == '{' && !p->has_args && args_key(j, depth))
        args_begin(p, depth);
}

/* A property of the arguments is complete: it gets its declared type. */
static void coerce_property(struct tool_parser *p, size_t depth, size_t from)
{
    struct jpipe *j = &p->j;
    const json_t *properties = json_object_get(schema_of(p), "properties");
    const json_t *schema =
        json_object_getn(properties, j->out.p + j->key[depth - 1].at, j->key[depth - 1].n);
    struct err e;
    json_t *v, *u;

    p->hold = SIZE_MAX;
    if (pyjson_read(&v, j->out.p + from, j->out.len - from, 0, "", &e))
        return;
    u = coerce_value(schema, v);
    if (u) {
        buf_cut(&j->out, from);
        pyjson_write(&j->out, u, 0, 0);
        p->coerced++;
    }
    json_decref(u);
    json_decref(v);
}

static void take_name(struct tool_parser *p, const json_t *v)
{
    const char *s = json_string_value(v);

    if (p->has_name || !s)
        return;
    p->has_name = true;
    p->name[0] = 0; /* too long, or with a NUL: nobody declared it */
    if (json_string_length(v) < sizeof(p->name) && strlen(s) == json_string_length(v))
        memcpy(p->name, s, strlen(s) + 1);
}

/* "parameters": null, or a string that holds a JSON object. */
static void take_args(struct tool_parser *p, const json_t *v)
{
    const char *s = json_string_value(v);
    struct err e;
    json_t *u = NULL;

    if (p->has_args)
        return;
    if (s && (pyjson_read(&u, s, json_string_length(v), PYJSON_LENIENT | PYJSON_FINITE, "", &e) ||
              !json_is_object(u))) {
        json_decref(u);
        return;
    }
    if (!s && !json_is_null(v))
        return;
    if (u)
        pyjson_write(&p->args, u, 0, 0);
    else
        buf_adds(&p->args, "{}");
    json_decref(u);
    p->has_args = p->args_done = p->whole = true;
}

static void on_value_end(void *arg, size_t depth, size_t from)
{
    struct tool_parser *p = arg;
    struct jpipe *j = &p->j;
    struct err e;
    json_t *v;

    if (p->in_args) {
        if (depth == p->args_depth + 1 && p->hold != SIZE_MAX)
            coerce_property(p, depth, from);
        if (depth == p->args_depth) {
            p->in_args = false;
            p->args_done = true;
            if (p->whole)
                buf_add(&p->args, j->out.p + from, j->out.len - from);
        }
        return;
    }
    if (depth == 0 || !in_call(p, depth))
        return;
    if (depth == 1 && p->nested && key_is(j, depth, "function")) {
        p->nested = false;
        return;
    }
    const bool name = key_is(j, depth, "name") || key_is(j, depth, "function");

    if (!name && !args_key(j, depth))
        return;
    if (pyjson_read(&v, j->out.p + from, j->out.len - from, 0, "", &e))
        return;
    if (name)
        take_name(p, v);
    else
        take_args(p, v);
    json_decref(v);
}

static void args_flush(struct tool_parser *p)
{
    const size_t end = p->hold < p->j.out.len ? p->hold : p->j.out.len;

    if (p->begun && !p->done && end > p->sent) {
        call_args(p, p->j.out.p + p->sent, end - p->sent);
        p->sent = end;
    }
}

/* Sends of the candidate what is certain. */
static void candidate_send(struct tool_parser *p)
{
    if (p->done || !p->has_args || !p->has_name)
        return;
    if (p->whole) {
        struct err e;
        json_t *args;

        if (!p->args_done || pyjson_read(&args, p->args.p, p->args.len, 0, "", &e))
            return;
        call_whole(p, p->name, args);
        json_decref(args);
        p->begun = p->done = true;
    } else {
        if (!p->begun)
            call_begin(p, p->name);
        p->begun = true;
        if (p->args_done) {
            args_flush(p);
            call_end(p);
            p->done = true;
        }
    }
}

/* The call is complete; what it came in may still have to be closed. */
static void after(struct tool_parser *p)
{
    buf_clear(&p->raw);
    p->lead = 0;
    p->python = p->spare = p->begun = p->done = false;
    p->state = AFTER;
}

static void reprocess(struct tool_parser *p, enum state s)
{
    char *raw = xmemdup0(p->raw.p, p->raw.len);
    const size_t n = p->raw.len;

    buf_clear(&p->raw);
    p->lead = 0;
    p->state = s;
    for (size_t i = 0; i < n; i++)
        step(p, raw[i]);
    free(raw);
}

/* What waits in raw is no call. */
static void give_up(struct tool_parser *p, bool may_be_code)
{
    if (p->begun) {
        if (p->ev.call_cancel)
            p->ev.call_cancel(p->ev.arg, --p->calls);
        may_be_code = p->begun = false;
    }
    p->list = p->fence = p->tagged = false;
    if (p->python && may_be_code && p->o.code) {
        p->python = false;
        reprocess(p, p->spoken ? LATE : CODE_LEAD);
        return;
    }
    p->python = false;
    raw_to_text(p);
    p->state = TEXT;
}

static void skip_begin(struct tool_parser *p)
{
    p->state = SKIP;
    p->j.value_start = NULL;
    p->j.value_end = NULL;
}

/* A byte of an object that is being read; also of one whose call is complete. */
static void object_byte(struct tool_parser *p, char c)
{
    buf_addc(&p->raw, c);
    jpipe_byte(&p->j, c);
    if (p->j.where == JPIPE_ERROR) {
        if (p->done) {
            after(p);
            step(p, c);
            return;
        }
        const bool code = p->python && p->o.code && !p->begun;

        if (!code)
            buf_cut(&p->raw, p->raw.len - 1);
        give_up(p, true);
        if (!code)
            step(p, c);
        return;
    }
    if (p->has_name && !p->begun && !declared(p, p->name)) {
        const bool ended = p->j.where == JPIPE_DONE;

        give_up(p, false);
        if (!ended)
            skip_begin(p);
        return;
    }
    candidate_send(p);
    if (p->j.where == JPIPE_DONE) {
        if (p->done)
            after(p);
        else
            give_up(p, false);
    } else if (!p->has_args && p->raw.len - p->lead > UNDECIDED_MAX) {
        give_up(p, false);
        skip_begin(p);
    }
}

static void object_begin(struct tool_parser *p)
{
    candidate_reset(p);
    p->state = OBJECT;
    jpipe_byte(&p->j, '{'); /* raw has it already */
}

/* <function=NAME> was read: white space, then the arguments. */
static void tag_byte(struct tool_parser *p, char c)
{
    if (!p->has_args && c != '{' && !strchr(" \t\r\n", c)) {
        give_up(p, true);
        step(p, c);
        return;
    }
    if (!p->has_args && c == '{')
        args_begin(p, 0);
    buf_addc(&p->raw, c);
    jpipe_byte(&p->j, c);
    if (p->j.where == JPIPE_ERROR) {
        const bool code = p->python && p->o.code && !p->begun;

        if (!code)
            buf_cut(&p->raw, p->raw.len - 1);
        give_up(p, true);
        if (!code)
            step(p, c);
        return;
    }
    candidate_send(p);
    if (p->done) {
        p->tagged = true;
        after(p);
    }
}

/* ---- how a call may start ---- */

enum verdict { NO, MORE, IS_OBJECT, IS_TAG, IS_WHOLE, IS_CLOSE };

static bool is_prefix(const char *s, size_t n, const char *of)
{
    return n <= strlen(of) && memcmp(s, of, n) == 0;
}

static size_t skip_blanks(const char *s, size_t i, size_t n)
{
    while (i < n && strchr(" \t\r\n", s[i]) && s[i])
        i++;
    return i;
}

static bool name_declared(const struct tool_parser *p, const char *s, size_t n)
{
    char name[NAME_MAX_BYTES];

    if (n >= sizeof(name) || memchr(s, 0, n))
        return false;
    memcpy(name, s, n);
    name[n] = 0;
    return declared(p, name) || (p->python && tool_is_builtin(name));
}

static enum verdict judge_tag(struct tool_parser *p, const char *s, size_t n)
{
    const size_t k = strlen(tag_open);

    if (p->tagged && is_prefix(s, n, tag_close))
        return n == strlen(tag_close) ? IS_CLOSE : MORE;
    if (n <= k)
        return is_prefix(s, n, tag_open) ? MORE : NO;
    if (memcmp(s, tag_open, k) != 0 || n - k > NAME_MAX_BYTES)
        return NO;
    if (s[n - 1] != '>')
        return strchr(" \t\r\n<\"'{", s[n - 1]) ? NO : MORE;
    if (!name_declared(p, s + k, n - 1 - k))
        return NO;
    candidate_reset(p);
    memcpy(p->name, s + k, n - 1 - k);
    p->name[n - 1 - k] = 0;
    p->has_name = true;
    return IS_TAG;
}

/* [{ or, where the whole answer may be one, [name( */
static enum verdict judge_list(struct tool_parser *p, const char *s, size_t n, bool first)
{
    size_t i = skip_blanks(s, 1, n), k;

    if (i == n)
        return MORE;
    if (s[i] == '{') {
        p->list = true;
        return IS_OBJECT;
    }
    k = python_name(s + i, n - i);
    if (!first || k == 0)
        return NO;
    const size_t end = skip_blanks(s, i + k, n);

    if (end == n)
        return MORE;
    return s[end] == '(' && name_declared(p, s + i, k) ? IS_WHOLE : NO;
}

/* ```json or ``` before { or [{ */
static enum verdict judge_fence(struct tool_parser *p, const char *s, size_t n)
{
    size_t i = 3;

    if (n <= 3)
        return is_prefix(s, n, "```") ? MORE : NO;
    if (memcmp(s, "```", 3) != 0)
        return NO;
    if (n - i <= 4 && is_prefix(s + i, n - i, "json"))
        return MORE;
    if (n - i > 4 && memcmp(s + i, "json", 4) == 0)
        i += 4;
    const size_t at = skip_blanks(s, i, n);

    if (at == n)
        return MORE;
    const enum verdict v = s[at] == '{'   ? IS_OBJECT
                           : s[at] == '[' ? judge_list(p, s + at, n - at, false)
                                          : NO;

    p->fence = v == IS_OBJECT;
    return v;
}

/* name.call( */
static enum verdict judge_name(struct tool_parser *p, const char *s, size_t n)
{
    static const char call[] = ".call(";
    const size_t k = python_name(s, n);

    if (k == 0)
        return NO;
    if (k == n)
        return n < NAME_MAX_BYTES ? MORE : NO;
    if (!is_prefix(s + k, n - k, call) || !name_declared(p, s, k))
        return NO;
    return n - k == strlen(call) ? IS_WHOLE : MORE;
}

static enum verdict judge(struct tool_parser *p, bool first)
{
    const char *s = p->raw.p + p->lead;
    const size_t n = p->raw.len - p->lead;

    if (n > UNDECIDED_MAX)
        return NO;
    switch (*s) {
    case '{':
        return IS_OBJECT;
    case '[':
        return judge_list(p, s, n, first);
    case '<':
        return judge_tag(p, s, n);
    case '`':
        return judge_fence(p, s, n);
    default:
        return first ? judge_name(p, s, n) : NO;
    }
}

/* ---- states ---- */

static void lead_byte(struct tool_parser *p, char c)
{
    /* a Python list or a built-in call is the whole answer, so nothing was sent before it */
    const bool first = !p->spoken && p->text.len == 0 && p->calls == 0;

    buf_addc(&p->raw, c);
    switch (judge(p, first || p->python)) {
    case MORE:
        p->state = LEAD;
        break;
    case IS_OBJECT:
        object_begin(p);
        break;
    case IS_TAG:
        p->state = TAG;
        break;
    case IS_WHOLE:
        p->state = WHOLE;
        break;
    case IS_CLOSE:
        p->tagged = false;
        buf_clear(&p->raw);
        p->state = AFTER;
        break;
    default:
        if (p->python && p->o.code) {
            give_up(p, true);
        } else if (p->raw.len - p->lead == 1) {
            give_up(p, false);
        } else {
            /* the last byte may itself start something */
            buf_cut(&p->raw, p->raw.len - 1);
            give_up(p, false);
            step(p, c);
        }
    }
}

static void start_byte(struct tool_parser *p, char c)
{
    if (c == '\n' && p->skip_newlines > 0) {
        p->skip_newlines--;
        return;
    }
    p->skip_newlines = 0;
    if (strchr(" \t\r\n", c) && c) {
        buf_addc(&p->raw, c);
        return;
    }
    if (!p->offered && !p->python) {
        buf_addc(&p->raw, c);
        give_up(p, false);
        return;
    }
    p->lead = p->raw.len;
    lead_byte(p, c);
}

static void text_byte(struct tool_parser *p, char c)
{
    if (p->offered && (c == '{' || c == '<' || c == '[' || c == '`')) {
        p->lead = 0;
        lead_byte(p, c);
    } else {
        say(p, &c, 1);
    }
}

/* A closing bracket or fence that belongs to the call before. */
static bool closes(struct tool_parser *p, char c)
{
    if (c == ']' && p->list) {
        p->list = false;
        return true;
    }
    if (c == '}' && !p->spare) {
        p->spare = true;
        return true;
    }
    return c == ';' || c == ',' || (strchr(" \t\r\n", c) && c);
}

static void after_byte(struct tool_parser *p, char c)
{
    if (c == '`' && p->fence) {
        buf_addc(&p->raw, c);
        if (p->raw.len >= 3 && memcmp(p->raw.p + p->raw.len - 3, "```", 3) == 0) {
            p->fence = false;
            buf_clear(&p->raw);
        }
    } else if (closes(p, c)) {
        buf_addc(&p->raw, c);
    } else if (c == '{' || c == '<' || c == '[' || c == '`') {
        p->lead = p->raw.len;
        lead_byte(p, c);
    } else {
        p->list = p->fence = p->tagged = false;
        raw_to_text(p);
        p->state = TEXT;
        step(p, c);
    }
}

static void code_bytes(struct tool_parser *p, const char *s, size_t n)
{
    buf_add(&p->code, s, n);
}

static void code_flush(struct tool_parser *p)
{
    struct buf out;

    buf_init(&out, SIZE_MAX);
    pyjson_string(&out, p->code.p, p->code.len, 0);
    call_args(p, out.p + 1, out.len - 2);
    buf_release(&out);
    buf_clear(&p->code);
}

static void code_begin(struct tool_parser *p)
{
    candidate_reset(p);
    call_begin(p, "code_interpreter");
    call_args(p, "{\"code\": \"", 10);
    p->state = CODE;
}

/* White space, ```python or ```py or ```, the end of the line. */
static enum verdict judge_code_fence(const char *s, size_t n)
{
    static const char *const opens[] = { "```python\n", "```py\n", "```\n" };
    const size_t i = skip_blanks(s, 0, n);

    if (n > UNDECIDED_MAX)
        return NO;
    for (size_t k = 0; k < ARRAY_LEN(opens); k++)
        if (is_prefix(s + i, n - i, opens[k]))
            return n - i == strlen(opens[k]) ? IS_OBJECT : MORE;
    return NO;
}

static void code_byte(struct tool_parser *p, char c)
{
    static const char close[] = "\n```";

    if (!p->fenced) {
        code_bytes(p, &c, 1);
        return;
    }
    if (p->raw.len < 4 ? c == close[p->raw.len] : strchr(" \t\r\n", c) && c) {
        buf_addc(&p->raw, c);
        return;
    }
    code_bytes(p, p->raw.p, p->raw.len);
    buf_clear(&p->raw);
    if (c == '\n')
        buf_addc(&p->raw, c);
    else
        code_bytes(p, &c, 1);
}

static void code_lead_byte(struct tool_parser *p, char c)
{
    buf_addc(&p->raw, c);
    switch (judge_code_fence(p->raw.p, p->raw.len)) {
    case MORE:
        break;
    case NO:
        p->fenced = false;
        code_begin(p);
        code_bytes(p, p->raw.p, p->raw.len);
        buf_clear(&p->raw);
        break;
    default:
        p->fenced = true;
        buf_clear(&p->raw);
        code_begin(p);
    }
}

static void step(struct tool_parser *p, char c)
{
    switch (p->state) {
    case START:
        start_byte(p, c);
        break;
    case TEXT:
        text_byte(p, c);
        break;
    case LEAD:
        lead_byte(p, c);
        break;
    case OBJECT:
        object_byte(p, c);
        break;
    case TAG:
        tag_byte(p, c);
        break;
    case WHOLE:
    case LATE:
        buf_addc(&p->raw, c);
        break;
    case SKIP:
        say(p, &c, 1);
        jpipe_byte(&p->j, c);
        if (p->j.where == JPIPE_DONE || p->j.where == JPIPE_ERROR)
            p->state = TEXT;
        else if (p->j.where != JPIPE_STRING)
            buf_clear(&p->j.out);
        break;
    case AFTER:
        after_byte(p, c);
        break;
    case CODE_LEAD:
        code_lead_byte(p, c);
        break;
    case CODE:
        code_byte(p, c);
        break;
    case HEADER:
    case STOPPED:
        break;
    }
}

/* Sends what this feed has made certain. */
static void flush(struct tool_parser *p)
{
    flush_text(p);
    if (p->state == CODE) {
        code_flush(p);
    } else if (p->state == OBJECT || p->state == TAG) {
        if (!p->whole)
            args_flush(p);
    }
}

static void feed(struct tool_parser *p, const char *s, size_t n)
{
    for (size_t i = 0; i < n; i++)
        step(p, s[i]);
}

void tool_parser_text(struct tool_parser *p, const char *text, size_t n)
{
    struct buf b, clean;

    if (p->state == STOPPED)
        return;
    buf_init(&b, RAW_MAX);
    buf_init(&clean, RAW_MAX);
    buf_add(&b, p->tail, p->n_tail);
    buf_add(&b, text, n);
    const size_t whole = utf8_complete(b.p, b.len);

    p->n_tail = b.len - whole;
    memcpy(p->tail, b.p + whole, p->n_tail);
    utf8_sanitize(&clean, b.p, whole);
    feed(p, clean.p, clean.len);
    flush(p);
    buf_release(&b);
    buf_release(&clean);
}

/* An unfinished character will not be finished. */
static void end_tail(struct tool_parser *p)
{
    if (p->n_tail) {
        p->n_tail = 0;
        feed(p, "\xEF\xBF\xBD", 3);
    }
}

/* ---- the end, and what interrupts ---- */

/* A Python list or built-in calls; false = they are not. */
static bool whole_calls(struct tool_parser *p)
{
    json_t *calls = json_array();
    const size_t at = skip_blanks(p->raw.p, 0, p->raw.len);
    bool ok = p->raw.p[at] == '[' ? python_list_read(calls, p->raw.p + at, p->raw.len - at)
                                  : python_calls_read(calls, p->raw.p + at, p->raw.len - at);

    for (size_t i = 0; i < json_array_size(calls) && ok; i++) {
        const json_t *name = json_object_get(json_array_get(calls, i), "name");

        ok = name_declared(p, json_string_value(name), json_string_length(name));
    }
    for (size_t i = 0; i < json_array_size(calls) && ok; i++) {
        json_t *call = json_array_get(calls, i);

        call_whole(p, json_string_value(json_object_get(call, "name")),
                   json_object_get(call, "arguments"));
    }
    if (ok)
        after(p);
    json_decref(calls);
    return ok;
}

static void code_end(struct tool_parser *p)
{
    if (!p->fenced || p->raw.len < 4)
        code_bytes(p, p->raw.p, p->raw.len);
    buf_clear(&p->raw);
    code_flush(p);
    call_args(p, "\"}", 2);
    call_end(p);
    p->state = AFTER;
}

/* Ends what has been begun: no further byte of it comes. */
static void settle(struct tool_parser *p, enum tool_stop stop)
{
    const bool cut = stop == TOOL_OUT_OF_TOKENS;

    end_tail(p);
    if (p->state == WHOLE && !whole_calls(p))
        give_up(p, !cut);
    if (p->state == OBJECT && p->done)
        after(p);
    if (p->state == OBJECT || p->state == TAG)
        give_up(p, !cut);
    if (p->state == LEAD && p->tagged &&
        is_prefix(p->raw.p + p->lead, p->raw.len - p->lead, tag_close))
        after(p);
    if (p->state == LEAD)
        give_up(p, true);
    if (p->state == START && p->python)
        give_up(p, true);
    if (p->state == LATE) {
        if (stop == TOOL_END_OF_MESSAGE) {
            reprocess(p, CODE_LEAD);
        } else {
            say(p, "<|python_tag|>", 14);
            raw_to_text(p);
            p->state = TEXT;
        }
    }
    if (p->state == CODE_LEAD) {
        p->fenced = false;
        code_begin(p);
    }
    if (p->state == CODE)
        code_end(p);
    if (p->state == START && p->calls == 0)
        raw_to_text(p);
    flush(p);
}

static void stop_at(struct tool_parser *p, enum tool_stop stop)
{
    settle(p, stop);
    p->stop = stop;
    p->stopped = true;
    p->state = STOPPED;
}

static void python_tag(struct tool_parser *p)
{
    if (p->state == CODE || p->state == CODE_LEAD || p->state == LATE)
        return;
    if (p->state != START)
        settle(p, TOOL_END_OF_TURN);
    buf_clear(&p->raw); /* white space, separators */
    p->lead = 0;
    p->list = p->fence = p->tagged = false;
    p->python = true;
    p->state = START;
}

void tool_parser_control(struct tool_parser *p, enum tool_control kind)
{
    if (p->state == STOPPED)
        return;
    switch (kind) {
    case TOOL_PYTHON_TAG:
        end_tail(p);
        python_tag(p);
        break;
    case TOOL_EOM:
        stop_at(p, TOOL_END_OF_MESSAGE);
        break;
    case TOOL_EOT:
        stop_at(p, TOOL_END_OF_TURN);
        break;
    case TOOL_HEADER_START:
        end_tail(p);
        if (p->state == START && !p->python)
            p->state = HEADER;
        else
            stop_at(p, TOOL_END_OF_TURN);
        break;
    case TOOL_HEADER_END:
        if (p->state == HEADER) {
            buf_clear(&p->raw);
            p->skip_newlines = 2;
            p->state = START;
        }
    }
}

static const struct {
    const char *name;
    enum tool_control kind;
} controls[] = {
    { "<|python_tag|>", TOOL_PYTHON_TAG },
    { "<|eom_id|>", TOOL_EOM },
    { "<|eot_id|>", TOOL_EOT },
    { "<|end_of_text|>", TOOL_EOT },
    { "<|im_end|>", TOOL_EOT },
    { "<|start_header_id|>", TOOL_HEADER_START },
    { "<|end_header_id|>", TOOL_HEADER_END },
};

void tool_parser_token(struct tool_parser *p, const struct tok *t, int32_t id)
{
    size_t n;
    const char *s;

    if (p->tok != t) {
        for (size_t i = 0; i < ARRAY_LEN(controls); i++)
            p->control[i] = tok_id(t, controls[i].name);
        p->tok = t;
    }
    for (size_t i = 0; i < ARRAY_LEN(controls); i++) {
        if (p->control[i] == id) {
            tool_parser_control(p, controls[i].kind);
            return;
        }
    }
    if (id == tok_eos(t)) {
        tool_parser_control(p, TOOL_EOT);
    } else if (!tok_is_special(t, id)) {
        s = tok_bytes(t, id, &n);
        if (s)
            tool_parser_text(p, s, n);
    }
}

/* Where a control name means itself: inside a string of a call. */
static bool literal(const struct tool_parser *p)
{
    return (p->state == OBJECT || p->state == TAG) && jpipe_in_string(&p->j);
}

static void mark_end(struct tool_parser *p)
{
    tool_parser_text(p, p->mark, p->n_mark);
    p->n_mark = 0;
}

static void mark_byte(struct tool_parser *p, char c)
{
    bool open = false;

    if (p->n_mark == 0 && (c != '<' || literal(p))) {
        tool_parser_text(p, &c, 1);
        return;
    }
    p->mark[p->n_mark++] = c;
    for (size_t i = 0; i < ARRAY_LEN(controls); i++) {
        if (!is_prefix(p->mark, p->n_mark, controls[i].name))
            continue;
        open = true;
        if (p->n_mark == strlen(controls[i].name)) {
            p->n_mark = 0;
            tool_parser_control(p, controls[i].kind);
            return;
        }
    }
    if (!open) {
        p->n_mark--;
        mark_end(p);
        if (c == '<' && !literal(p))
            p->mark[p->n_mark++] = c;
        else
            tool_parser_text(p, &c, 1);
    }
}

void tool_parser_markup(struct tool_parser *p, const char *text, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        size_t run = 0;

        /* no name starts before the next '<' */
        while (p->n_mark == 0 && i + run < n && text[i + run] != '<')
            run++;
        if (run) {
            tool_parser_text(p, text + i, run);
            i += run - 1;
        } else {
            mark_byte(p, text[i]);
        }
    }
}

void tool_parser_end(struct tool_parser *p, enum tool_stop stop)
{
    mark_end(p);
    if (!p->stopped) {
        settle(p, stop);
        p->stop = stop;
    }
    p->state = STOPPED;
    if (p->ev.end)
        p->ev.end(p->ev.arg, p->stop);
}

struct tool_parser *tool_parser_new(const struct tool_options *o, const struct tool_events *ev)
{
    struct tool_parser *p = xcalloc(1, sizeof(*p));

    p->o = *o;
    p->ev = *ev;
    p->offered = o->any || json_array_size(o->tools) || json_array_size(o->builtin_tools);
    buf_init(&p->text, RAW_MAX);
    buf_init(&p->raw, RAW_MAX);
    buf_init(&p->args, RAW_MAX);
    buf_init(&p->code, RAW_MAX);
    jpipe_init(&p->j, RAW_MAX);
    p->j.arg = p;
    candidate_reset(p);
    return p;
}

void tool_parser_free(struct tool_parser *p)
{
    if (!p)
        return;
    buf_release(&p->text);
    buf_release(&p->raw);
    buf_release(&p->args);
    buf_release(&p->code);
    jpipe_release(&p->j);
    free(p);
}

bool tool_parser_open(const struct tool_parser *p)
{
    return p->state == CODE || p->state == CODE_LEAD || p->state == TAG ||
           (p->state == OBJECT && !p->done) || (p->state == LEAD && p->tagged);
}

size_t tool_parser_calls(const struct tool_parser *p)
{
    return p->calls;
}

size_t tool_parser_coerced(const struct tool_parser *p)
{
    return p->coerced;
}
