/* chat_template.c - recognising a Jinja template without running it. */
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "base/mem.h"
#include "text/chat_int.h"

/* A tag's inside, from p to before its closing %} or }}; returns where it ends. */
static const char *tag(struct buf *out, const char *p, char close)
{
    while (*p && !(p[0] == close && p[1] == '}') &&
           !(p[0] == '-' && p[1] == close && p[2] == '}')) {
        if (*p == '"' || *p == '\'') {
            const char quote = *p++;

            buf_addc(out, '`'); /* either quote */
            for (; *p && *p != quote; p++) {
                if (*p == '\n') { /* a newline itself means what \n means */
                    buf_adds(out, "\\n");
                    continue;
                }
                if (*p == '\\' && p[1])
                    buf_addc(out, *p++);
                buf_addc(out, *p);
            }
            buf_addc(out, '`');
            p += *p != 0;
        } else if (strchr(" \t\r\n", *p)) {
            const char before = out->len ? out->p[out->len - 1] : 0;

            p += strspn(p, " \t\r\n");
            /* blanks matter between words only */
            if (strchr("abcdefghijklmnopqrstuvwxyz_0123456789", before) && before &&
                strchr("abcdefghijklmnopqrstuvwxyz_0123456789", *p) && *p)
                buf_addc(out, ' ');
        } else {
            buf_addc(out, *p++);
        }
    }
    return p;
}

/* Text between tags that is printed, as transformers set Jinja up (trim_blocks, lstrip_blocks). */
static void text(struct buf *out, const char *p, size_t n, bool left_trims, bool left_prints,
                 const char *right)
{
    const bool right_trims = right[0] && right[2] == '-';
    const bool right_prints = right[0] && right[1] == '{';
    size_t blank = 0;

    while (blank < n && strchr(" \t\r\n", p[blank]))
        blank++;
    if (blank == n) {
        const char *newline = memchr(p, '\n', n);
        const char *second =
            newline ? memchr(newline + 1, '\n', n - (size_t)(newline + 1 - p)) : NULL;

        if (left_trims || right_trims || (!right[0] && newline && !second && newline == p))
            return;
        if (!left_prints && !right_prints && !second)
            return;
    }
    buf_add(out, p, n);
}

char *template_canon(const char *s, bool *printed)
{
    struct buf out;
    bool trims = true, prints = false; /* what stands before the text */

    buf_init(&out, SIZE_MAX);
    *printed = false;
    while (*s) {
        const char *from = s;
        const size_t before = out.len;

        while (*s && !(s[0] == '{' && strchr("{%#", s[1]) && s[1]))
            s++;
        text(&out, from, (size_t)(s - from), trims, prints, s);
        *printed |= out.len > before;
        if (!*s)
            break;
        if (s[1] == '#') {
            const char *end = strstr(s + 2, "#}");

            trims = end && end[-1] == '-';
            trims |= s[2] == '-'; /* one dash takes the blanks of both sides: none is printed */
            prints = false;
            s = end ? end + 2 : s + strlen(s);
            continue;
        }
        const char kind = s[1], close = kind == '{' ? '}' : '%';

        buf_add(&out, s, 2);
        s += 2 + (s[2] == '-');
        s = tag(&out, s + strspn(s, " \t\r\n"), close);
        trims = *s == '-';
        prints = kind == '{';
        s += trims;
        buf_addc(&out, close);
        buf_addc(&out, '}');
        s += *s ? 2 : 0;
    }
    char *canon = buf_take(&out);

    buf_release(&out); /* it is a fresh one */
    return canon;
}

bool template_has(const char *canon, const char *const *parts, size_t n)
{
    static const char *const counted[] = { "{{", "{%set " };

    for (size_t k = 0; k < ARRAY_LEN(counted); k++) {
        size_t found = 0, known = 0;

        for (const char *p = canon; (p = strstr(p, counted[k])); p++)
            found++;
        for (size_t i = 0; i < n; i++)
            known += strncmp(parts[i], counted[k], strlen(counted[k])) == 0;
        if (found != known)
            return false;
    }
    for (size_t i = 0; i < n; i++) {
        canon = strstr(canon, parts[i]);
        if (!canon)
            return false;
        canon += strlen(parts[i]);
    }
    return true;
}
