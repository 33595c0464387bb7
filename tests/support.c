#include "support.h"

#include <math.h>
#include <unistd.h>

#include "backend/cpu/cpu.h"
#include "base/file.h"
#include "base/mem.h"
#include "base/rng.h"
#include "text/pyjson.h"

const char *data_path(const char *name)
{
    static char ring[4][512];
    static unsigned at;
    char *p = ring[at++ % 4];

    snprintf(p, sizeof(ring[0]), "tests/data/%s", name);
    return p;
}

static const char *cached(char *out, size_t size, const char *name)
{
    const char *xdg = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");

    if (xdg && *xdg)
        snprintf(out, size, "%s/puna/%s", xdg, name);
    else
        snprintf(out, size, "%s/.cache/puna/%s", home ? home : "", name);
    if (access(out, R_OK))
        fail_msg("%s is missing: run script/setup", out);
    return out;
}

const char *smollm2_path(void)
{
    static char p[512];

    return cached(p, sizeof(p), "models/SmolLM2-135M-Instruct.Q4_1.gguf");
}

const char *meta_tokenizer_path(void)
{
    static char p[512];

    return cached(p, sizeof(p), "tokenizers/llama3/tokenizer.model");
}

struct rows rows_open(const char *path)
{
    struct rows r = { .path = path, .f = fopen(path, "re") };

    if (!r.f)
        fail_msg("%s is missing", path);
    buf_init(&r.line, (size_t)1 << 24);
    return r;
}

bool rows_next(struct rows *r)
{
    struct err e;
    const int rc = file_line(&r->line, r->f, &e);

    json_decref(r->row);
    r->row = NULL;
    if (rc == 1) {
        OK(pyjson_read(&r->row, r->line.p, r->line.len, 0, r->path, &e), e);
        r->n++;
        return true;
    }
    assert_int_equal(rc, 0);
    buf_release(&r->line);
    fclose(r->f);
    return false;
}

const char *str(const json_t *object, const char *key)
{
    const char *s = json_string_value(json_object_get(object, key));

    return s ? s : "";
}

float *random_floats(size_t n, uint64_t seed)
{
    float *x = calloc(n ? n : 1, sizeof(*x));

    assert_non_null(x);
    for (size_t i = 0; i < n; i++)
        x[i] = (float)(rng_uniform(seed, i) * 2 - 1);
    return x;
}

double rel_error(const float *a, const float *b, size_t n)
{
    double d = 0, s = 0;

    for (size_t i = 0; i < n; i++) {
        d += ((double)a[i] - b[i]) * ((double)a[i] - b[i]);
        s += (double)b[i] * b[i];
    }
    return sqrt(d / (s > 0 ? s : 1));
}

bool isa_here(const char *name, unsigned *flags)
{
    assert_int_equal(cpu_flags_from_name(name, flags), 0);
    if ((*flags & ~cpu_flags()) == 0)
        return true;
    print_message("not run: this CPU has no %s\n", name);
    return false;
}

struct ordered {
    float logit;
    int32_t id;
};

static int likelier(const void *a, const void *b)
{
    const struct ordered *x = a, *y = b;

    if (x->logit != y->logit)
        return x->logit > y->logit ? -1 : 1;
    return x->id < y->id ? -1 : x->id > y->id;
}

/* The id that ask.part means, of n candidates, more than a list has, whose weights are sum; -1: the
 * list is enough. */
static int32_t draw_by_likelihood(struct ordered *c, size_t n, double sum,
                                  const struct pick_ask *ask)
{
    double mass = 0, w = 1;
    size_t k = 0;

    qsort(c, n, sizeof(*c), likelier);
    while (k < n && w >= ask->least && (ask->part == 1 || mass < ask->part * sum)) {
        mass += w;
        k++;
        w = k < n ? exp(((double)c[k].logit - (double)c[0].logit) / ask->temperature) : 0;
    }
    double left = ask->u * mass;

    if (k < PICK_MOST || (k == PICK_MOST && ask->part < 1 && mass >= ask->part * sum))
        return -1;
    for (size_t i = 0; i + 1 < k; i++) {
        left -= exp(((double)c[i].logit - (double)c[0].logit) / ask->temperature);
        if (left < 0)
            return c[i].id;
    }
    return c[k - 1].id;
}

void pick_list_ref(struct pick_list *l, const float *logits, size_t n, const struct pick_ask *ask)
{
    bool *out = xcalloc(n, sizeof(*out)); /* does not count, or not any more */
    float *x = xmalloc(n * sizeof(*x)), max = -INFINITY;
    size_t finite = 0;

    *l = (struct pick_list){ .at = logits[ask->at], .drawn = -1 };
    memcpy(x, logits, n * sizeof(*x));
    for (size_t i = 0; i < ask->n_change; i++)
        x[ask->change[i].id] = pick_changed(x[ask->change[i].id], &ask->change[i]);
    for (size_t i = 0; i < n; i++) {
        out[i] = (ask->allowed && !(ask->allowed[i / 64] >> i % 64 & 1)) || !(x[i] > -INFINITY);
        finite += !out[i];
        l->bad = l->bad || isnan(x[i]);
        max = out[i] ? max : fmaxf(max, x[i]);
    }
    for (size_t i = 0; i < n && ask->temperature > 0; i++)
        l->sum += out[i] ? 0 : exp(((double)x[i] - (double)max) / ask->temperature);
    double left = ask->u * l->sum;

    for (size_t i = 0; i < n && ask->draw && l->drawn < 0; i++) {
        left -= out[i] ? 0 : exp(((double)x[i] - (double)max) / ask->temperature);
        l->drawn = left < 0 ? (int32_t)i : -1;
    }
    for (size_t i = 0; i < n && ask->bare && !ask->draw && max < INFINITY; i++)
        if (!out[i] && (l->drawn < 0 || x[i] > x[l->drawn]))
            l->drawn = (int32_t)i;
    if (ask->part > 0 && finite > PICK_MOST && !l->bad && max < INFINITY) {
        struct ordered *c = xcalloc(finite, sizeof(*c));
        size_t k = 0;

        for (size_t i = 0; i < n; i++)
            if (!out[i])
                c[k++] = (struct ordered){ x[i], (int32_t)i };
        l->drawn = draw_by_likelihood(c, k, l->sum, ask);
        free(c);
    }
    while (l->n < PICK_MOST && !ask->bare) {
        size_t best = n;

        for (size_t i = 0; i < n; i++)
            if (!out[i] && (best == n || x[i] > x[best]))
                best = i;
        if (best == n)
            break;
        out[best] = true;
        l->id[l->n] = (int32_t)best;
        l->logit[l->n++] = x[best];
    }
    l->complete = (size_t)l->n == finite;
    free(out);
    free(x);
}
