#include "base/utf8.h"

/* Continuation bytes still wanted after lead byte c, and the range allowed for
 * the first of them; 0 for ASCII, -1 for a byte that cannot lead. */
static int lead(uint8_t c, uint8_t *lo, uint8_t *hi)
{
    *lo = 0x80;
    *hi = 0xBF;
    if (c < 0x80)
        return 0;
    if (c >= 0xC2 && c <= 0xDF)
        return 1;
    if (c >= 0xE0 && c <= 0xEF) {
        if (c == 0xE0)
            *lo = 0xA0;
        if (c == 0xED)
            *hi = 0x9F; /* surrogates */
        return 2;
    }
    if (c >= 0xF0 && c <= 0xF4) {
        if (c == 0xF0)
            *lo = 0x90;
        if (c == 0xF4)
            *hi = 0x8F; /* beyond U+10FFFF */
        return 3;
    }
    return -1;
}

/* As utf8_next, and *cut says whether the sequence stopped at the end of the
 * input rather than at a wrong byte. */
static size_t next(const char *s, size_t n, int32_t *cp, bool *cut)
{
    const uint8_t *p = (const uint8_t *)s;
    uint8_t lo, hi;
    const int want = lead(p[0], &lo, &hi);

    *cut = false;
    *cp = -1;
    if (want < 0)
        return 1;
    int32_t v = want == 0 ? p[0] : p[0] & (0x3F >> want);
    for (int i = 1; i <= want; i++) {
        if ((size_t)i == n) {
            *cut = true;
            return n;
        }
        if (p[i] < lo || p[i] > hi)
            return (size_t)i;
        lo = 0x80;
        hi = 0xBF;
        v = v << 6 | (p[i] & 0x3F);
    }
    *cp = v;
    return (size_t)want + 1;
}

size_t utf8_next(const char *p, size_t n, int32_t *cp)
{
    bool cut;

    return next(p, n, cp, &cut);
}

size_t utf8_put(char out[4], int32_t cp)
{
    const uint32_t c = (uint32_t)cp;

    if (c < 0x80) {
        out[0] = (char)c;
        return 1;
    }
    if (c < 0x800) {
        out[0] = (char)(0xC0 | c >> 6);
        out[1] = (char)(0x80 | (c & 0x3F));
        return 2;
    }
    if (c < 0x10000) {
        out[0] = (char)(0xE0 | c >> 12);
        out[1] = (char)(0x80 | (c >> 6 & 0x3F));
        out[2] = (char)(0x80 | (c & 0x3F));
        return 3;
    }
    out[0] = (char)(0xF0 | c >> 18);
    out[1] = (char)(0x80 | (c >> 12 & 0x3F));
    out[2] = (char)(0x80 | (c >> 6 & 0x3F));
    out[3] = (char)(0x80 | (c & 0x3F));
    return 4;
}

bool utf8_valid(const char *p, size_t n)
{
    int32_t cp;

    for (size_t i = 0; i < n;) {
        i += utf8_next(p + i, n - i, &cp);
        if (cp < 0)
            return false;
    }
    return true;
}

void utf8_sanitize(struct buf *out, const char *p, size_t n)
{
    int32_t cp;

    for (size_t i = 0, k; i < n; i += k) {
        k = utf8_next(p + i, n - i, &cp);
        if (cp < 0)
            buf_add(out, "\xEF\xBF\xBD", 3);
        else
            buf_add(out, p + i, k);
    }
}

size_t utf8_complete(const char *p, size_t n)
{
    /* Only the last three bytes can begin an unfinished character. */
    for (size_t back = n < 3 ? n : 3; back > 0; back--) {
        int32_t cp;
        bool cut;

        next(p + n - back, back, &cp, &cut);
        if (cut && ((uint8_t)p[n - back] & 0xC0) == 0xC0)
            return n - back;
    }
    return n;
}

int hex_digit(int c)
{
    const int low = c | 0x20;

    return c >= '0' && c <= '9' ? c - '0' : low >= 'a' && low <= 'f' ? low - 'a' + 10 : -1;
}

int32_t hex_digits(const char *p, const char *end, size_t n)
{
    int32_t v = 0;

    if ((size_t)(end - p) < n)
        return -1;
    for (size_t i = 0; i < n; i++) {
        const int d = hex_digit((unsigned char)p[i]);

        if (d < 0)
            return -1;
        v = v << 4 | d;
    }
    return v;
}
