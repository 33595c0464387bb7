/* toolcall.c - the state machine of toolcall.h. Text that may still become a call waits in
 * `raw`; the first byte that decides sends it on as text, as code or as a call. Every byte
 * passes `step` once, and at most once more when what it belonged to turns out to be code. */
#include "text/toolcall.h"

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/utf8.h"
#include "text/pyjson.h"
#include "text/toolcall_int.h"

static void step(struct tool_parser *p, char c);

static void raw_to_text(struct tool_parser *p)
{
    tp_say(p, p->raw.p, p->raw.len);
    buf_clear(&p->raw);
    p->lead = 0;
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
    if (p->has_name && !p->begun && !tp_object_counts(p)) {
        const bool ended = p->j.where == JPIPE_DONE;

        give_up(p, false);
        if (!ended)
            skip_begin(p);
        return;
    }
    tp_send(p);
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
    tp_reset(p);
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
        tp_args_begin(p, 0);
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
    tp_send(p);
    if (p->done) {
        p->tagged = true;
        after(p);
    }
}

/* ---- states ---- */

static void lead_byte(struct tool_parser *p, char c)
{
    /* a Python list or a built-in call is the whole answer, so nothing was sent before it */
    const bool first = !p->spoken && p->text.len == 0 && p->calls == 0;

    buf_addc(&p->raw, c);
    switch (tp_judge(p, first || p->python)) {
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
        tp_say(p, &c, 1);
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
    tp_call_args(p, out.p + 1, out.len - 2);
    buf_release(&out);
    buf_clear(&p->code);
}

static void code_begin(struct tool_parser *p)
{
    tp_reset(p);
    tp_call_begin(p, "code_interpreter");
    tp_call_args(p, "{\"code\": \"", 10);
    p->state = CODE;
}

/* White space, ```python or ```py or ```, the end of the line. */
static enum verdict judge_code_fence(const char *s, size_t n)
{
    static const char *const opens[] = { "```python\n", "```py\n", "```\n" };
    const size_t i = tp_skip_blanks(s, 0, n);

    if (n > UNDECIDED_MAX)
        return NO;
    for (size_t k = 0; k < ARRAY_LEN(opens); k++)
        if (tp_is_prefix(s + i, n - i, opens[k]))
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
        tp_say(p, &c, 1);
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
    tp_flush_text(p);
    if (p->state == CODE) {
        code_flush(p);
    } else if (p->state == OBJECT || p->state == TAG) {
        if (!p->whole)
            tp_args_flush(p);
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
    const size_t at = tp_skip_blanks(p->raw.p, 0, p->raw.len);
    bool ok = p->raw.p[at] == '[' ? python_list_read(calls, p->raw.p + at, p->raw.len - at)
                                  : python_calls_read(calls, p->raw.p + at, p->raw.len - at);

    for (size_t i = 0; i < json_array_size(calls) && ok; i++) {
        const json_t *name = json_object_get(json_array_get(calls, i), "name");

        ok = tp_name_declared(p, json_string_value(name), json_string_length(name));
    }
    for (size_t i = 0; i < json_array_size(calls) && ok; i++) {
        json_t *call = json_array_get(calls, i);

        tp_call_whole(p, json_string_value(json_object_get(call, "name")),
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
    tp_call_args(p, "\"}", 2);
    tp_call_end(p);
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
        tp_is_prefix(p->raw.p + p->lead, p->raw.len - p->lead, TOOL_TAG_CLOSE))
        after(p);
    if (p->state == LEAD)
        give_up(p, true);
    if (p->state == START && p->python)
        give_up(p, true);
    if (p->state == LATE) {
        if (stop == TOOL_END_OF_MESSAGE) {
            reprocess(p, CODE_LEAD);
        } else {
            tp_say(p, "<|python_tag|>", 14);
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
        if (!tp_is_prefix(p->mark, p->n_mark, controls[i].name))
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
    tp_reset(p);
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
