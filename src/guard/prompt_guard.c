#include "guard/prompt_guard.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"
#include "text/unigram.h"

enum { OVERLAP = 126, TEXT_MAX = 256 << 20 };

struct prompt_guard {
    struct deberta *model;
    struct unigram *tok;
    struct turn *turn; /* NULL = nobody else computes on the context */
};

static void take(struct prompt_guard *g)
{
    if (g->turn)
        turn_take(g->turn);
}

static void give(struct prompt_guard *g)
{
    if (g->turn)
        turn_give(g->turn);
}

bool prompt_guard_is(const char *dir)
{
    char *path = path_join(dir, "config.json");
    struct err e;
    json_t *j;
    bool is = false;

    if (file_exists(path) && json_parse_file(&j, path, 1 << 20, &e) == 0) {
        const char *type = json_string_value(json_object_get(j, "model_type"));

        is = type && !strcmp(type, "deberta-v2");
        json_decref(j);
    }
    free(path);
    return is;
}

int prompt_guard_open(struct prompt_guard **out, struct ctx *c, struct turn *turn, const char *dir,
                      struct err *e)
{
    struct prompt_guard *g = xcalloc(1, sizeof(*g));
    int rc;

    g->turn = turn;
    take(g);
    rc = deberta_open(&g->model, c, dir, e); /* computes its table of positions */
    give(g);
    if (rc == 0)
        rc = unigram_open(&g->tok, dir, e);
    if (rc == 0) {
        if (unigram_size(g->tok) > deberta_vocab(g->model))
            rc = err_set(e, ERR_FORMAT,
                         "%s: the tokenizer has %zu pieces, the model a vocabulary of %zu", dir,
                         unigram_size(g->tok), deberta_vocab(g->model));
        else if (deberta_labels(g->model) < 2)
            rc = err_set(e, ERR_FORMAT, "%s: %zu label, a guard has two or three", dir,
                         deberta_labels(g->model));
    }
    if (rc) {
        prompt_guard_close(g);
        return -1;
    }
    *out = g;
    return 0;
}

void prompt_guard_close(struct prompt_guard *g)
{
    if (!g)
        return;
    deberta_close(g->model);
    unigram_close(g->tok);
    free(g);
}

const struct deberta *prompt_guard_model(const struct prompt_guard *g)
{
    return g->model;
}

/* ---- spaces ---- */

static bool is_space(char c)
{
    return c && strchr(" \t\n\r\f\v", c);
}

bool prompt_guard_unspace(const struct prompt_guard *g, const char *text, size_t n, struct buf *out)
{
    static const char mark[] = "\xE2\x96\x81";
    const size_t from = out->len;
    struct ids ids = { 0 };
    struct buf bare;
    struct err e;
    size_t at = 0; /* in text: what has been written */
    bool ok;

    buf_init(&bare, TEXT_MAX);
    for (size_t i = 0; i < n; i++)
        if (!is_space(text[i]))
            buf_addc(&bare, text[i]);
    ok = bare.len < n && unigram_encode(g->tok, bare.p, bare.len, &ids, &e) == 0;
    for (size_t i = 0; ok && i < ids.n; i++) {
        const size_t start = at;
        const char *piece;
        size_t len;

        piece = unigram_piece(g->tok, ids.p[i], &len);
        if (len >= 3 && !memcmp(piece, mark, 3)) {
            piece += 3;
            len -= 3;
        }
        while (at < n && is_space(text[at]))
            at++;
        if (at > start && out->len > from)
            buf_addc(out, ' ');
        for (size_t k = 0; ok && k < len; k++) { /* a piece that is spelt otherwise: as it is */
            while (k && at < n && is_space(text[at]))
                at++;
            ok = at < n && text[at++] == piece[k];
        }
        buf_add(out, piece, len);
    }
    while (ok && at < n && is_space(text[at]))
        at++;
    ok = ok && at == n && (out->len - from != n || memcmp(out->p + from, text, n) != 0);
    if (!ok)
        buf_cut(out, from);
    ids_release(&ids);
    buf_release(&bare);
    return ok;
}

/* ---- scores ---- */

static int score_window(struct prompt_guard *g, const int32_t *ids, size_t n, double temperature,
                        struct prompt_scores *out, struct err *e)
{
    const size_t labels = deberta_labels(g->model);
    float logits[DEBERTA_LABELS];
    double p[DEBERTA_LABELS], max = -INFINITY, sum = 0;

    take(g);
    const int rc = deberta_forward(g->model, ids, n, logits, NULL, e);

    give(g);
    if (rc)
        return -1;
    for (size_t i = 0; i < labels; i++)
        max = fmax(max, (double)logits[i] / temperature);
    for (size_t i = 0; i < labels; i++) {
        p[i] = exp((double)logits[i] / temperature - max);
        sum += p[i];
    }
    if (!isfinite(sum))
        return err_set(e, ERR_FAIL, "the guard's logits are not finite: no verdict");
    for (size_t i = 0; i < labels; i++)
        p[i] /= sum;
    if (out->windows++ == 0 || 1 - p[0] > out->injection)
        memcpy(out->p, p, sizeof(p));
    out->injection = fmax(out->injection, 1 - p[0]);
    out->jailbreak = fmax(out->jailbreak, p[labels - 1]);
    return 0;
}

static int score_text(struct prompt_guard *g, const char *text, size_t n, double temperature,
                      struct prompt_scores *out, struct err *e)
{
    const size_t most = deberta_positions(g->model) - 2;
    const size_t stride = most > 2 * OVERLAP ? most - OVERLAP : most;
    struct ids ids = { 0 }, window = { 0 };
    int rc = unigram_encode(g->tok, text, n, &ids, e);

    for (size_t at = 0; rc == 0; at += stride) {
        const size_t k = ids.n - at < most ? ids.n - at : most;

        window.n = 0;
        ids_add(&window, unigram_cls(g->tok));
        ids_append(&window, ids.p + at, k);
        ids_add(&window, unigram_sep(g->tok));
        rc = score_window(g, window.p, window.n, temperature, out, e);
        if (at + k == ids.n)
            break;
    }
    ids_release(&ids);
    ids_release(&window);
    return rc;
}

int prompt_guard_score(struct prompt_guard *g, const char *text, size_t n, double temperature,
                       struct prompt_scores *out, struct err *e)
{
    struct buf bare;
    int rc;

    *out = (struct prompt_scores){ 0 };
    rc = score_text(g, text, n, temperature, out, e);
    buf_init(&bare, TEXT_MAX);
    if (rc == 0 && prompt_guard_unspace(g, text, n, &bare))
        rc = score_text(g, bare.p, bare.len, temperature, out, e);
    buf_release(&bare);
    return rc;
}
