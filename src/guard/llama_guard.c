#include "guard/llama_guard.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/mem.h"
#include "text/chat.h"

enum {
    MAX_NEW = 40,  /* tokens: fourteen codes need about 32 */
    MAX_BLANK = 2, /* tokens of white space that may come before the verdict */
};

struct llama_guard {
    struct engine *g;
    struct session *s;
    const struct chat_format *format;
    struct ids eos;
    int32_t safe, unsafe;
    double threshold;
};

static int one_token(int32_t *out, const struct tok *t, const char *word, struct err *e)
{
    struct ids ids = { 0 };
    int rc = tok_encode(t, word, strlen(word), TOK_PLAIN, &ids, e);

    if (rc == 0 && ids.n != 1)
        rc = err_set(e, ERR_FORMAT, "the tokenizer writes '%s' as %zu tokens, a guard's as one",
                     word, ids.n);
    if (rc == 0)
        *out = ids.p[0];
    ids_release(&ids);
    return rc;
}

int llama_guard_open(struct llama_guard **out, struct engine *g, size_t ctx, double threshold,
                     struct err *e)
{
    struct llama_guard *j = xcalloc(1, sizeof(*j));

    j->g = g;
    j->threshold = threshold;
    j->format = chat_by_name("llama-guard3");
    chat_stops(j->format, g->tok, &j->eos);
    if (one_token(&j->safe, g->tok, "safe", e) || one_token(&j->unsafe, g->tok, "unsafe", e) ||
        session_new(&j->s, g, ctx, e)) {
        llama_guard_close(j);
        return -1;
    }
    *out = j;
    return 0;
}

void llama_guard_close(struct llama_guard *j)
{
    if (!j)
        return;
    session_free(j->s);
    ids_release(&j->eos);
    free(j);
}

static size_t skip_space(const char *s, size_t i)
{
    return i + strspn(s + i, " \t\r\n");
}

int llama_guard_parse(const char *text, struct guard_verdict *v)
{
    size_t i = skip_space(text, 0);
    size_t n = strcspn(text + i, "\r\n"), end = n;
    const char *word = text + i;

    v->codes[0] = 0;
    while (end > 0 && strchr(" \t", word[end - 1]))
        end--;
    if (end == 4 && strncasecmp(word, "safe", 4) == 0)
        return 0;
    if (end != 6 || strncasecmp(word, "unsafe", 6) != 0)
        return -1;
    for (i = skip_space(text, i + n); text[i] && !strchr("\r\n", text[i]);) {
        const char *code = text + i + strspn(text + i, " \t");
        const size_t digits = *code == 'S' ? strspn(code + 1, "0123456789") : 0;
        const size_t after = 1 + digits + strspn(code + 1 + digits, " \t");
        const size_t len = strlen(v->codes), comma = len > 0;

        if (digits && strchr(",\r\n", code[after]) && len + digits + 3 < sizeof(v->codes)) {
            if (comma)
                v->codes[len] = ',';
            memcpy(v->codes + len + comma, code, digits + 1);
            v->codes[len + comma + digits + 1] = 0;
        }
        i += strcspn(text + i, ",\r\n");
        i += text[i] == ',';
    }
    return 1;
}

static void score(const struct llama_guard *j, const float *x, struct guard_verdict *v)
{
    const size_t V = (size_t)j->g->model->hp->vocab;
    double max = (double)x[0], sum = 0;

    for (size_t i = 1; i < V; i++)
        max = fmax(max, (double)x[i]);
    for (size_t i = 0; i < V; i++)
        sum += exp((double)x[i] - max);
    v->p = exp((double)x[j->unsafe] - max) / sum;
    v->share = 1 / (1 + exp((double)x[j->safe] - (double)x[j->unsafe]));
}

/* The likeliest token, when it is white space; -1 = it is not. */
static int32_t blank_first(const struct llama_guard *j, const float *x)
{
    int32_t best = 0;
    const char *s;
    size_t n;

    for (int32_t i = 1; i < j->g->model->hp->vocab; i++)
        best = x[i] > x[best] ? i : best;
    s = tok_bytes(j->g->tok, best, &n);
    for (size_t i = 0; s && i < n; i++)
        if (!strchr(" \t\r\n", s[i]))
            return -1;
    return s && n ? best : -1;
}

/* Scores the first token that is not white space: a model trained on another spelling of the prompt
 * writes the line ends before it. */
static int first_token(struct llama_guard *j, struct ids *ids, struct guard_verdict *v,
                       struct err *e)
{
    const float *logits;

    for (int blank = 0;; blank++) {
        if (session_eval(j->s, ids->p, ids->n, &logits, NULL, NULL, NULL, e))
            return -1;
        const int32_t space = blank < MAX_BLANK ? blank_first(j, logits) : -1;

        if (space < 0)
            break;
        ids_add(ids, space);
    }
    score(j, logits, v);
    return 0;
}

static int write_verdict(struct llama_guard *j, const struct ids *ids, struct guard_verdict *v,
                         struct err *e)
{
    struct gen_request r = { .prompt = ids->p,
                             .n_prompt = ids->n,
                             .max_new_tokens = MAX_NEW,
                             .eos = j->eos.p,
                             .n_eos = j->eos.n };
    struct gen_result out;
    int said;

    sampling_init(&r.sampling);
    r.sampling.temperature = 0;
    if (generate(j->s, &r, &out, e))
        return -1;
    said = llama_guard_parse(out.text.p, v);
    if (said < 0)
        err_set(e, ERR_FAIL, "the guard's answer is neither safe nor unsafe: '%.60s'", out.text.p);
    else
        v->unsafe = j->threshold >= 0 ? v->p >= j->threshold : said;
    gen_result_release(&out);
    return said < 0 ? -1 : 0;
}

int llama_guard_judge(struct llama_guard *j, const json_t *request, struct guard_verdict *out,
                      struct err *e)
{
    struct guard_verdict v = { 0 };
    struct prompt p;
    int rc = -1;

    prompt_init(&p);
    if (chat_render(j->format, j->g->tok, request, &p, e) == 0 &&
        first_token(j, &p.ids, &v, e) == 0 && write_verdict(j, &p.ids, &v, e) == 0) {
        v.n_prompt = p.ids.n;
        *out = v;
        rc = 0;
    }
    prompt_release(&p);
    return rc;
}
