/* Any bytes as a Unigram tokenizer, a tokenizer.json when they begin with a brace, else a
 * SentencePiece model: what is accepted encodes any text to ids that it has, twice alike. seeds:
 * tests/data/golden/spm_tiny.model tests/data/unigram/tokenizer.json */
#include <string.h>

#include "text/unigram.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void use(const struct unigram *u, const char *text, size_t n)
{
    struct ids ids = { 0 }, again = { 0 };
    struct buf plain;
    struct err e;
    size_t len;

    buf_init(&plain, 1 << 24);
    if (unigram_encode(u, text, n, &ids, &e) == 0) {
        for (size_t i = 0; i < ids.n; i++)
            if (ids.p[i] < 0 || (size_t)ids.p[i] >= unigram_size(u) ||
                !unigram_piece(u, ids.p[i], &len))
                __builtin_trap();
        if (unigram_encode(u, text, n, &again, &e) || again.n != ids.n ||
            (ids.n && memcmp(again.p, ids.p, ids.n * sizeof(*ids.p)) != 0))
            __builtin_trap();
        if (unigram_normalize(u, text, n, &plain, &e))
            __builtin_trap();
    }
    if (unigram_cls(u) >= (int32_t)unigram_size(u) || unigram_sep(u) >= (int32_t)unigram_size(u))
        __builtin_trap();
    buf_release(&plain);
    ids_release(&ids);
    ids_release(&again);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char text[] = "  I'll say \xE0\xB9\x84\xE0\xB8\xA1 A\xCC\x82\xCC\x80 \xEF\xBD\xB6"
                               "\xEF\xBE\x9E 12345\r\n\n \xFF~\0z";
    struct err e = { 0 };
    struct unigram *u;

    if (unigram_open_mem(&u, data, size, size && *data == '{', "fuzz", &e))
        return 0;
    use(u, text, sizeof(text));
    use(u, "", 0);
    use(u, (const char *)data, size < 300 ? size : 300);
    unigram_close(u);
    return 0;
}
