#include "guard/llama_guard.h"

#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/mem.h"
#include "text/chat.h"

enum {
    MAX_NEW = 40,    /* tokens: fourteen codes need about 32 */
    MAX_BLANK = 2,   /* tokens of white space that may come before the verdict */
    MAX_ACTIVE = 16, /* verdicts at a time; more wait */
    DEFAULT_CTX = 8192,
};

struct llama_guard {
    struct engine *g;
    struct sched *sched;
    const struct chat_format *format;
    struct ids eos;
    int32_t word[2]; /* the tokens of "unsafe" and "safe" */
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
    const size_t most = (size_t)g->model->hp->ctx;
    struct llama_guard *j = xcalloc(1, sizeof(*j));
    struct sched_opts o = { .max_active = MAX_ACTIVE, .kv_tokens = ctx };

    j->g = g;
    j->threshold = threshold;
    j->format = chat_by_name("llama-guard3");
    chat_stops(j->format, g->tok, &j->eos);
    if (!ctx)
        o.kv_tokens = most < DEFAULT_CTX ? most : DEFAULT_CTX;
    if (one_token(&j->word[0], g->tok, "unsafe", e) || one_token(&j->word[1], g->tok, "safe", e) ||
        sched_new(&j->sched, g, &o, e)) {
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
    sched_free(j->sched);
    ids_release(&j->eos);
    free(j);
}

struct sched *llama_guard_sched(const struct llama_guard *j)
{
    return j->sched;
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

/* ---- a verdict in the making ---- */

struct question {
    const struct llama_guard *j;
    guard_verdict_fn *fn;
    void *arg;
    uint64_t ticket;
    struct guard_verdict v;
    struct buf text;
    int blank; /* tokens of white space so far */
    bool scored, told;
};

static void tell(struct question *q, int said, const struct err *e)
{
    const double threshold = q->j->threshold;

    q->told = true;
    q->v.unsafe = threshold >= 0 ? q->v.p >= threshold : said;
    q->fn(q->arg, e ? NULL : &q->v, e);
}

static bool is_blank(const struct tok *t, int32_t id)
{
    size_t n;
    const char *s = tok_bytes(t, id, &n);

    for (size_t i = 0; s && i < n; i++)
        if (!strchr(" \t\r\n", s[i]))
            return false;
    return s && n;
}

/* Scores the first token that is not white space: a model trained on another spelling of the prompt
 * writes the line ends before it. */
static void take_token(struct question *q, const struct sched_event *ev)
{
    const struct llama_guard *j = q->j;

    if (q->scored || (q->blank < MAX_BLANK && is_blank(j->g->tok, ev->id))) {
        q->blank++;
        return;
    }
    q->scored = true;
    q->v.p = exp((double)ev->watched[0]);
    q->v.share = 1 / (1 + exp((double)ev->watched[1] - (double)ev->watched[0]));
    if (ev->id != j->word[1])
        return;
    tell(q, 0, NULL); /* "safe" is the whole verdict: nobody waits for the end of the turn */
    sched_cancel(j->sched, q->ticket);
}

static void end(struct question *q)
{
    struct err e;
    const int said = llama_guard_parse(q->text.p, &q->v);

    if (said < 0 || !q->scored)
        err_set(&e, ERR_FAIL, "the guard's answer is neither safe nor unsafe: '%.60s'", q->text.p);
    tell(q, said, said < 0 || !q->scored ? &e : NULL);
}

/* On the guard's thread. */
static void on_event(void *arg, const struct sched_event *ev)
{
    struct question *q = arg;

    if (ev->n_text)
        buf_add(&q->text, ev->text, ev->n_text);
    if (ev->kind == SCHED_PROMPT)
        q->v.n_cached = ev->cached;
    else if (ev->kind == SCHED_TOKEN)
        take_token(q, ev);
    if (ev->kind != SCHED_DONE && ev->kind != SCHED_FAILED)
        return;
    if (!q->told && ev->kind == SCHED_DONE)
        end(q);
    else if (!q->told)
        tell(q, -1, ev->err);
    buf_release(&q->text);
    free(q);
}

int llama_guard_ask(struct llama_guard *j, const json_t *request, guard_verdict_fn *fn, void *arg,
                    struct err *e)
{
    struct question *q = xcalloc(1, sizeof(*q));
    struct sched_request r = { .on_event = on_event, .arg = q };
    struct prompt p;
    int rc = -1;

    *q = (struct question){ .j = j, .fn = fn, .arg = arg };
    buf_init(&q->text, 1 << 16);
    sampling_init(&r.gen.sampling);
    r.gen.sampling.temperature = 0;
    r.gen.eos = j->eos.p;
    r.gen.n_eos = j->eos.n;
    r.gen.logprobs = true;
    r.gen.watch = j->word;
    r.gen.n_watch = 2;
    prompt_init(&p);
    if (chat_render(j->format, j->g->tok, request, &p, e) == 0) {
        const size_t ctx = sched_ctx(j->sched), room = p.ids.n < ctx ? ctx - p.ids.n : 0;

        q->v.n_prompt = p.ids.n;
        r.gen.prompt = p.ids.p;
        r.gen.n_prompt = p.ids.n;
        r.gen.max_new_tokens = room < MAX_NEW && room ? room : MAX_NEW;
        rc = sched_submit(j->sched, &r, &q->ticket, e);
    }
    prompt_release(&p);
    if (rc) {
        buf_release(&q->text);
        free(q);
    }
    return rc;
}

/* ---- waiting for one ---- */

struct waiter {
    pthread_mutex_t lock;
    pthread_cond_t cond;
    bool done, failed;
    struct guard_verdict v;
    struct err err;
};

static void wake(void *arg, const struct guard_verdict *v, const struct err *e)
{
    struct waiter *w = arg;

    pthread_mutex_lock(&w->lock);
    w->done = true;
    w->failed = e != NULL;
    if (v)
        w->v = *v;
    else
        w->err = *e;
    pthread_cond_signal(&w->cond);
    pthread_mutex_unlock(&w->lock);
}

int llama_guard_judge(struct llama_guard *j, const json_t *request, struct guard_verdict *out,
                      struct err *e)
{
    struct waiter w = { .done = false };

    if (pthread_mutex_init(&w.lock, NULL) || pthread_cond_init(&w.cond, NULL))
        return err_set(e, ERR_MEMORY, "cannot wait for a verdict");
    if (llama_guard_ask(j, request, wake, &w, e) == 0) {
        pthread_mutex_lock(&w.lock);
        while (!w.done)
            pthread_cond_wait(&w.cond, &w.lock);
        pthread_mutex_unlock(&w.lock);
        if (w.failed)
            *e = w.err;
        else
            *out = w.v;
    } else {
        w.failed = true;
    }
    pthread_cond_destroy(&w.cond);
    pthread_mutex_destroy(&w.lock);
    return w.failed ? -1 : 0;
}
