#include "text/split.h"

#include <stdlib.h>
#include <string.h>

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "base/fault.h"
#include "base/mem.h"
#include "text/unicode_tables.h"

/* Every expression covers any text without a gap: its branches take letters, numbers,
 * white space, and the rest. split_run checks that all the same. */
static const char *const regexes[SPLIT_KINDS] = {
    [SPLIT_LLAMA3] = "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}|"
                     " ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
    [SPLIT_GPT2] = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|"
                   "\\s+(?!\\S)|\\s+",
    [SPLIT_QWEN2] = "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}|"
                    " ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
    [SPLIT_DIGIT] = "\\p{N}|[^\\p{N}]+",
    [SPLIT_DIGIT_RUNS] = "\\p{N}+|[^\\p{N}]+",
};

enum { STAGES_MAX = 4 };

struct splitter {
    pcre2_general_context *ctx; /* our allocator, so that tests can make it fail */
    struct stage {
        pcre2_code *re;
        enum split_kind kind;
        bool jit; /* false where the system forbids executable memory: slower, same pieces */
    } stage[STAGES_MAX];
    size_t n;
};

static void *re_malloc(size_t n, void *arg UNUSED)
{
    return fault_hit() ? NULL : malloc(n);
}

static void re_free(void *p, void *arg UNUSED)
{
    free(p);
}

bool uc_is_space(int32_t cp)
{
    for (size_t i = 0; i < ARRAY_LEN(uc_spaces) && uc_spaces[i].first <= cp; i++)
        if (cp <= uc_spaces[i].last)
            return true;
    return false;
}

static void add_ranges(struct buf *b, const struct uc_range *r, size_t n)
{
    for (size_t i = 0; i < n; i++)
        buf_addf(b, "\\x{%X}-\\x{%X}", (unsigned)r[i].first, (unsigned)r[i].last);
}

void split_expand(struct buf *out, const char *regex)
{
    bool in = false; /* inside [...] */

    for (const char *p = regex; *p; p++) {
        const struct uc_range *r = NULL;
        size_t n = 0, skip = 0;

        if (*p == '[' || *p == ']')
            in = *p == '[';
        if (strncmp(p, "\\p{L}", 5) == 0) {
            r = uc_letters, n = ARRAY_LEN(uc_letters), skip = 4;
        } else if (strncmp(p, "\\p{N}", 5) == 0) {
            r = uc_numbers, n = ARRAY_LEN(uc_numbers), skip = 4;
        } else if (p[0] == '\\' && (p[1] == 's' || p[1] == 'S')) {
            BUG_ON(in && p[1] == 'S'); /* would need the complement inside a class */
            r = uc_spaces, n = ARRAY_LEN(uc_spaces), skip = 1;
        } else if (p[0] == '\\' && p[1]) {
            buf_add(out, p++, 2);
            continue;
        }
        if (!r) {
            buf_addc(out, *p);
            continue;
        }
        if (!in)
            buf_adds(out, p[1] == 'S' ? "[^" : "[");
        add_ranges(out, r, n);
        if (!in)
            buf_addc(out, ']');
        p += skip;
    }
}

int splitter_new(struct splitter **out, struct err *e)
{
    pcre2_general_context *ctx = pcre2_general_context_create(re_malloc, re_free, NULL);

    if (!ctx)
        return err_set(e, ERR_MEMORY, "splitter: no memory");
    *out = xcalloc(1, sizeof(**out));
    (*out)->ctx = ctx;
    return 0;
}

void splitter_free(struct splitter *s)
{
    if (!s)
        return;
    for (size_t i = 0; i < s->n; i++)
        pcre2_code_free(s->stage[i].re);
    pcre2_general_context_free(s->ctx);
    free(s);
}

int splitter_add(struct splitter *s, enum split_kind kind, struct err *e)
{
    pcre2_compile_context *cc;
    struct buf pattern;
    PCRE2_SIZE at = 0;
    int code = PCRE2_ERROR_NOMEMORY;
    struct stage st = { .kind = kind };

    if (s->n == STAGES_MAX)
        return err_set(e, ERR_FORMAT, "more than %d pre-tokenizer steps", (int)STAGES_MAX);
    buf_init(&pattern, (size_t)1 << 20);
    split_expand(&pattern, regexes[kind]);
    BUG_ON(pattern.full);
    cc = pcre2_compile_context_create(s->ctx);
    if (cc)
        st.re = pcre2_compile((PCRE2_SPTR)pattern.p, pattern.len, PCRE2_UTF | PCRE2_UCP, &code, &at,
                              cc);
    pcre2_compile_context_free(cc);
    buf_release(&pattern);
    if (!st.re)
        return err_set(e, ERR_MEMORY, "split expression: PCRE2 error %d at offset %zu", code,
                       (size_t)at);
    st.jit = pcre2_jit_compile(st.re, PCRE2_JIT_COMPLETE) == 0;
    s->stage[s->n++] = st;
    return 0;
}

size_t splitter_steps(const struct splitter *s)
{
    return s->n;
}

enum split_kind splitter_step(const struct splitter *s, size_t i)
{
    BUG_ON(i >= s->n);
    return s->stage[i].kind;
}

const char *split_regex(enum split_kind kind)
{
    return regexes[kind];
}

int split_by_regex(enum split_kind *out, const char *regex, size_t n)
{
    for (int k = 0; k < SPLIT_KINDS; k++)
        if (strlen(regexes[k]) == n && memcmp(regexes[k], regex, n) == 0) {
            *out = (enum split_kind)k;
            return 1;
        }
    return 0;
}

/* Stages from `at` on. The match block is shared: its answer is read before going deeper. */
static int run_stage(const struct splitter *s, size_t at, pcre2_match_data *m, const char *text,
                     size_t n, split_fn *fn, void *arg, struct err *e)
{
    const struct stage *st = &s->stage[at];
    const PCRE2_SIZE *ov = pcre2_get_ovector_pointer(m);

    for (size_t pos = 0; pos < n;) {
        const int rc = st->jit ? pcre2_jit_match(st->re, (PCRE2_SPTR)text, n, pos,
                                                 PCRE2_NO_UTF_CHECK, m, NULL)
                               : pcre2_match(st->re, (PCRE2_SPTR)text, n, pos, PCRE2_NO_UTF_CHECK,
                                             m, NULL);
        if (rc < 1 || ov[0] != pos || ov[1] <= pos)
            return err_set(e, ERR_FAIL, "text could not be split at byte %zu of %zu (PCRE2 %d)",
                           pos, n, rc);
        const size_t end = ov[1];
        const int bad = at + 1 < s->n
                            ? run_stage(s, at + 1, m, text + pos, end - pos, fn, arg, e)
                            : fn(arg, text + pos, end - pos, e);
        if (bad)
            return -1;
        pos = end;
    }
    return 0;
}

int split_run(const struct splitter *s, const char *text, size_t n, split_fn *fn, void *arg,
              struct err *e)
{
    pcre2_match_data *m;
    int rc;

    if (n == 0)
        return 0;
    BUG_ON(s->n == 0);
    m = pcre2_match_data_create(1, s->ctx);
    if (!m)
        return err_set(e, ERR_MEMORY, "splitter: no memory");
    rc = run_stage(s, 0, m, text, n, fn, arg, e);
    pcre2_match_data_free(m);
    return rc;
}
