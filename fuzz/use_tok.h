/* use_tok.h - what every tokenizer that was accepted must do: encode any text to ids it has, and
 * decode them to the same bytes, but for those that it has no token for. */
#ifndef PUNA_FUZZ_USE_TOK_H
#define PUNA_FUZZ_USE_TOK_H

#include <string.h>

#include "text/tok_int.h"
#include "text/tokenizer.h"

/* The text without bytes that have no token; such a byte may still be part of a longer one. */
static inline bool same_text(const struct tok *t, const struct buf *back, const char *text,
                             size_t n)
{
    size_t k = 0;

    for (size_t i = 0; i < n; i++) {
        if (k < back->len && back->p[k] == text[i])
            k++;
        else if (t->vocab.byte_id[(uint8_t)text[i]] >= 0)
            return false;
    }
    return k == back->len;
}

/* `exact`: nothing is normalised, so the text comes back as it was. */
static inline void use_tok(const struct tok *t, bool exact)
{
    static const char text[] =
        "I'll say \xE0\xB9\x84\xE0\xB8\xA1 12345\r\n\n  <|eot_id|> \xC3\xA9~\0z";
    static const unsigned flags[] = { TOK_PLAIN, TOK_ALLOW_SPECIAL, TOK_META_CHUNKS };
    struct err e = { 0 };

    for (size_t i = 0; i < ARRAY_LEN(flags); i++) {
        struct ids ids = { 0 };
        struct tok_stream s = { 0 };
        struct buf back, shown;
        size_t n;

        buf_init(&back, 1 << 24);
        buf_init(&shown, 1 << 24);
        if (tok_encode(t, text, sizeof(text), flags[i], &ids, &e) == 0) {
            for (size_t k = 0; k < ids.n; k++) {
                if (ids.p[k] < 0 || ids.p[k] >= tok_size(t) || !tok_bytes(t, ids.p[k], &n))
                    __builtin_trap();
                tok_stream_add(&s, t, ids.p[k], false, &shown);
            }
            tok_stream_end(&s, &shown);
            tok_decode(t, ids.p, ids.n, false, &back);
            if (exact && !same_text(t, &back, text, sizeof(text)))
                __builtin_trap();
        }
        buf_release(&back);
        buf_release(&shown);
        ids_release(&ids);
    }
    if (tok_bos(t) >= tok_size(t) || tok_eos(t) >= tok_size(t))
        __builtin_trap();
}

#endif
