#include "guard/hold.h"

#include <string.h>

#include "base/utf8.h"

enum {
    WINDOW = 64, /* bytes that are worth a judgement */
    LONG = 2000, /* bytes without the end of a sentence: judged as they are */
};

void hold_init(struct hold *h)
{
    *h = (struct hold){ 0 };
    buf_init(&h->text, SIZE_MAX);
}

void hold_release(struct hold *h)
{
    buf_release(&h->text);
}

void hold_add(struct hold *h, const char *p, size_t n)
{
    buf_add(&h->text, p, n);
}

/* Bytes of the mark that ends a sentence at p, with what follows it; 0 = none there. A full stop
 * counts once white space has come after it: 3.5 is no sentence. */
static size_t sentence_end(const char *p)
{
    static const char *const wide[] = { "\u3002", "\uFF01", "\uFF1F", "\u0964" };

    if (*p == '\n')
        return 1;
    if (*p && strchr(".!?", *p) && p[1] && strchr(" \n\t\"')", p[1]))
        return 1;
    for (size_t i = 0; i < sizeof(wide) / sizeof(*wide); i++)
        if (strncmp(p, wide[i], 3) == 0)
            return 3;
    return 0;
}

size_t hold_due(const struct hold *h, bool last)
{
    const char *p = h->text.p;
    const size_t n = h->text.len, most = h->judged + LONG;

    for (size_t i = h->judged; i < n && i < most; i++) {
        const size_t end = i + sentence_end(p + i);

        if (end > i && end <= most && end - h->judged >= WINDOW)
            return end;
    }
    if (n > most)
        return h->judged + utf8_complete(p + h->judged, LONG);
    return last && n > h->judged ? n : 0;
}
