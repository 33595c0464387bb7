/* toolcall_judge.c - how a call may start: layouts that models write, told apart by their first
 * bytes. */
#include <string.h>

#include "text/toolcall_int.h"
#include "text/toolencode.h"

bool tp_is_prefix(const char *s, size_t n, const char *of)
{
    return n <= strlen(of) && memcmp(s, of, n) == 0;
}

size_t tp_skip_blanks(const char *s, size_t i, size_t n)
{
    while (i < n && strchr(" \t\r\n", s[i]) && s[i])
        i++;
    return i;
}

bool tp_name_declared(const struct tool_parser *p, const char *s, size_t n)
{
    char name[NAME_MAX_BYTES];

    if (n >= sizeof(name) || memchr(s, 0, n))
        return false;
    memcpy(name, s, n);
    name[n] = 0;
    if (p->o.exact && tp_tool(p, name))
        return false;
    return tp_declared(p, name) || (p->python && tool_is_builtin(name));
}

bool tp_object_counts(const struct tool_parser *p)
{
    static const char *const openings[] = {
        /* grammar/tools.c knows the same */
        "{\"name\": \"",
        "{\"name\":\"",
        "{\"type\": \"function\", \"name\": \"",
        "{\"type\":\"function\",\"name\":\"",
    };
    const size_t n = p->raw.len - p->lead, m = strlen(p->name);
    const char *s = p->raw.p + p->lead;

    if (!tp_declared(p, p->name) || !p->o.exact)
        return tp_declared(p, p->name);
    s += strcspn(s, "{"); /* behind a bracket or a fence */
    for (size_t i = 0; i < ARRAY_LEN(openings); i++) {
        const size_t k = strlen(openings[i]), left = n - (size_t)(s - (p->raw.p + p->lead));

        if (left > k + m && memcmp(s, openings[i], k) == 0 && memcmp(s + k, p->name, m) == 0 &&
            s[k + m] == '"')
            return true;
    }
    return false;
}

static enum verdict judge_tag(struct tool_parser *p, const char *s, size_t n)
{
    const size_t k = strlen(TOOL_TAG_OPEN);

    if (p->tagged && tp_is_prefix(s, n, TOOL_TAG_CLOSE))
        return n == strlen(TOOL_TAG_CLOSE) ? IS_CLOSE : MORE;
    if (n <= k)
        return tp_is_prefix(s, n, TOOL_TAG_OPEN) ? MORE : NO;
    if (memcmp(s, TOOL_TAG_OPEN, k) != 0 || n - k > NAME_MAX_BYTES)
        return NO;
    if (s[n - 1] != '>')
        return strchr(" \t\r\n<\"'{", s[n - 1]) ? NO : MORE;
    if (!tp_name_declared(p, s + k, n - 1 - k))
        return NO;
    tp_reset(p);
    memcpy(p->name, s + k, n - 1 - k);
    p->name[n - 1 - k] = 0;
    p->has_name = true;
    return IS_TAG;
}

/* [{ or, where the whole answer may be one, [name( */
static enum verdict judge_list(struct tool_parser *p, const char *s, size_t n, bool first)
{
    size_t i = tp_skip_blanks(s, 1, n), k;

    if (i == n)
        return MORE;
    if (s[i] == '{') {
        p->list = true;
        return IS_OBJECT;
    }
    k = python_name(s + i, n - i);
    if (!first || k == 0)
        return NO;
    const size_t end = tp_skip_blanks(s, i + k, n);

    if (end == n)
        return MORE;
    return s[end] == '(' && tp_name_declared(p, s + i, k) ? IS_WHOLE : NO;
}

/* ```json or ``` before { or [{ */
static enum verdict judge_fence(struct tool_parser *p, const char *s, size_t n)
{
    size_t i = 3;

    if (n <= 3)
        return tp_is_prefix(s, n, "```") ? MORE : NO;
    if (memcmp(s, "```", 3) != 0)
        return NO;
    if (n - i <= 4 && tp_is_prefix(s + i, n - i, "json"))
        return MORE;
    if (n - i > 4 && memcmp(s + i, "json", 4) == 0)
        i += 4;
    const size_t at = tp_skip_blanks(s, i, n);

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
    if (!tp_is_prefix(s + k, n - k, call) || !tp_name_declared(p, s, k))
        return NO;
    return n - k == strlen(call) ? IS_WHOLE : MORE;
}

enum verdict tp_judge(struct tool_parser *p, bool first)
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
