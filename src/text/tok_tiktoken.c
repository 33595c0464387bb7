/* Meta's tokenizer.model: one line per token, base64 of its bytes, a space, its rank; the
 * rank is the id. 256 control tokens follow the last rank; the file does not name them. */
#include <stdio.h>
#include <string.h>

#include "text/tok_int.h"

enum { SPECIALS = 256 };

static int base64_digit(char c)
{
    if (c >= 'A' && c <= 'Z')
        return c - 'A';
    if (c >= 'a' && c <= 'z')
        return c - 'a' + 26;
    if (c >= '0' && c <= '9')
        return c - '0' + 52;
    return c == '+' ? 62 : c == '/' ? 63 : -1;
}

/* Strict RFC 4648: padded, no stray bits. -1 = not base64 or longer than TOKEN_MAX. */
static int base64_decode(char *out, size_t *len, const char *p, size_t n)
{
    size_t k = 0, pad = 0;

    if (n == 0 || n % 4 || n / 4 * 3 > TOKEN_MAX)
        return -1;
    while (pad < 2 && p[n - 1 - pad] == '=')
        pad++;
    for (size_t i = 0; i < n; i += 4) {
        uint32_t v = 0;

        for (size_t j = i; j < i + 4; j++) {
            const int d = j >= n - pad ? 0 : base64_digit(p[j]);

            if (d < 0)
                return -1;
            v = v << 6 | (uint32_t)d;
        }
        out[k++] = (char)(v >> 16);
        out[k++] = (char)(v >> 8);
        out[k++] = (char)v;
        if (i + 4 == n && pad && (v & (pad == 2 ? 0xFFFFu : 0xFFu)))
            return -1;
    }
    *len = k - pad;
    return 0;
}

/* The i-th control token's name, 0..255, in Hugging Face's files of Llama 3.1 and in Meta's
 * llama-models 0.3.0: they differ in which ids carry the reserved names. */
static void special_name(char out[64], int i, bool meta)
{
    static const char *const fixed[] = {
        "<|begin_of_text|>", "<|end_of_text|>", NULL, NULL, "<|finetune_right_pad_id|>", NULL,
        "<|start_header_id|>", "<|end_header_id|>", "<|eom_id|>", "<|eot_id|>", "<|python_tag|>",
    };
    int k;

    if (i < (int)ARRAY_LEN(fixed) && fixed[i]) {
        snprintf(out, 64, "%s", fixed[i]);
        return;
    }
    if (meta && (i == 5 || i == 11)) {
        snprintf(out, 64, "%s", i == 5 ? "<|step_id|>" : "<|image|>");
        return;
    }
    if (i < 4)
        k = i - 2;
    else if (meta)
        k = i - 10;
    else
        k = i == 5 ? 2 : i - 8;
    snprintf(out, 64, "<|reserved_special_token_%d|>", k);
}

static int add_specials(struct tok *t, int32_t first, struct err *e)
{
    for (int i = 0; i < SPECIALS; i++) {
        char name[64];

        special_name(name, i, true);
        if (trie_put(&t->meta_names, name, strlen(name), first + i, true, e))
            return -1;
        special_name(name, i, false);
        if (tok_add_named(t, first + i, name, strlen(name), true, e))
            return -1;
    }
    t->bos = tok_id(t, "<|begin_of_text|>");
    t->eos = tok_id(t, "<|end_of_text|>");
    t->adds_bos = true; /* Meta's base models are always prompted with BOS */
    return 0;
}

/* "BASE64 RANK", a carriage return at the end is forgiven (git on Windows adds one). */
static int read_line(struct tok *t, const char *p, size_t n, int32_t want, struct err *e)
{
    const char *sp = memchr(p, ' ', n);
    char bytes[TOKEN_MAX];
    size_t len, digits;
    int32_t rank = 0;

    if (n && p[n - 1] == '\r')
        n--;
    if (!sp)
        return err_set(e, ERR_FORMAT, "no rank after the token");
    if (base64_decode(bytes, &len, p, (size_t)(sp - p)))
        return err_set(e, ERR_FORMAT, "not the base64 of a token of 1 to %d bytes", (int)TOKEN_MAX);
    digits = n - (size_t)(sp + 1 - p);
    if (digits == 0 || digits > 7)
        return err_set(e, ERR_FORMAT, "the rank is not a number below %d", (int)TOKEN_IDS_MAX);
    for (size_t i = 1; i <= digits; i++) {
        if (sp[i] < '0' || sp[i] > '9')
            return err_set(e, ERR_FORMAT, "the rank is not a number");
        rank = rank * 10 + (sp[i] - '0');
    }
    if (rank != want)
        return err_set(e, ERR_FORMAT, "rank %d, expected %d: a line is missing or cut", (int)rank,
                       (int)want);
    return vocab_put(&t->vocab, rank, TOKEN_NORMAL, bytes, len, e);
}

static int read_lines(struct tok *t, const char *text, size_t n, struct err *e)
{
    int32_t line = 0;

    for (size_t at = 0; at < n; line++) {
        const char *nl = memchr(text + at, '\n', n - at);
        const size_t end = nl ? (size_t)(nl - text) : n;

        if (read_line(t, text + at, end - at, line, e))
            return err_wrap(e, "line %d", (int)line + 1);
        at = end + (nl != NULL);
    }
    return 0;
}

static int build(struct tok *t, const char *text, size_t n, struct err *e)
{
    size_t lines = 0;

    if (n && text[0] == '\n') /* protobuf: field 1, length-delimited */
        return err_set(e, ERR_FORMAT, "a SentencePiece model (Llama 2 and older): not supported; "
                                      "Llama 3's tokenizer.model holds lines of base64 and rank");
    if (n >= 7 && memcmp(text, "version", 7) == 0)
        return err_set(e, ERR_FORMAT, "a Git LFS pointer, not the file itself: run git lfs pull");
    for (const char *p = text; p && p < text + n; lines++) {
        p = memchr(p, '\n', n - (size_t)(p - text));
        p = p ? p + 1 : NULL;
    }
    if (lines > TOKEN_IDS_MAX - SPECIALS)
        return err_set(e, ERR_FORMAT, "%zu lines are too many", lines);
    /* a line of base64 is longer than its bytes; the names of control tokens come on top */
    if (vocab_init(&t->vocab, (int32_t)lines + SPECIALS, n + (size_t)SPECIALS * 64, e))
        return -1;
    if (read_lines(t, text, n, e) || vocab_check_bytes(&t->vocab, true, e))
        return -1;
    if (add_specials(t, (int32_t)lines, e))
        return -1;
    t->bpe.whole = true;
    return splitter_new(&t->split, e) || splitter_add(t->split, SPLIT_LLAMA3, e) ? -1 : 0;
}

int tok_from_tiktoken(struct tok **out, const char *text, size_t n, const char *what,
                      struct err *e)
{
    struct tok *t = tok_new("tiktoken");

    if (build(t, text, n, e)) {
        tok_free(t);
        return err_wrap(e, "%s", what);
    }
    *out = t;
    return 0;
}
