#include "train/data.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/mem.h"
#include "base/rng.h"
#include "train/rows.h"

enum { NOT_ASKED = -100 }; /* in files */

/* ---- examples ---- */

/* Tokens of a row with those that are asked marked; kept in two lists. */
struct piece {
    struct ids ids, asked; /* asked[i]: 1 or 0 */
};

static void piece_release(struct piece *p)
{
    ids_release(&p->ids);
    ids_release(&p->asked);
}

static void piece_mark(struct piece *p, bool asked)
{
    while (p->asked.n < p->ids.n)
        ids_add(&p->asked, asked);
}

/* Cuts, and keeps unless nothing is asked. The first token is never asked: nothing precedes it. */
static void keep(struct data *d, struct piece *p, size_t prompt, bool good,
                 const struct data_cfg *c)
{
    size_t n = p->ids.n, asked = 0;

    if (c->max_length && n > c->max_length) {
        n = c->max_length;
        d->cut++;
    }
    for (size_t i = 1; i < n; i++)
        asked += p->asked.p[i] != 0;
    if (asked == 0 && c->kind == DATA_SFT) {
        d->dropped++;
        return;
    }
    struct example x = { .n = n, .prompt = prompt, .good = good, .row = d->row };

    x.ids = xmalloc((2 * n + 1) * sizeof(*x.ids));
    x.label = x.ids + n;
    for (size_t i = 0; i < n; i++) {
        x.ids[i] = p->ids.p[i];
        x.label[i] = i > 0 && p->asked.p[i] ? x.ids[i] : -1;
    }
    d->p = xrealloc(d->p, (d->n + 1) * sizeof(*d->p));
    d->p[d->n++] = x;
    d->tokens += n;
    d->asked += asked;
}

static int ids_from(struct ids *out, const json_t *list, const char *key, int32_t vocab,
                    const char *what, struct err *e)
{
    json_t *v;
    size_t i;

    json_array_foreach(list, i, v)
    {
        const json_int_t id = json_is_integer(v) ? json_integer_value(v) : -1;

        if (id < 0 || id >= vocab)
            return err_set(e, ERR_FORMAT, "%s: %s[%zu] is no token id below %d", what, key, i,
                           (int)vocab);
        ids_add(out, (int32_t)id);
    }
    return 0;
}

static bool is_ids(const json_t *v)
{
    return json_is_array(v) && (json_array_size(v) == 0 || json_is_integer(json_array_get(v, 0)));
}

static const json_t *get(const json_t *row, const char *a, const char *b)
{
    const json_t *v = json_object_get(row, a);

    return v || !b ? v : json_object_get(row, b);
}

static int32_t vocab_of(const struct data_cfg *c)
{
    return c->tok ? tok_size(c->tok) : INT32_MAX;
}

static int row_ids(struct piece *p, const json_t *row, const struct data_cfg *c, const char *what,
                   struct err *e)
{
    const json_t *ids = json_object_get(row, "input_ids"), *labels = json_object_get(row, "labels");
    json_t *v;
    size_t i;

    if (!is_ids(ids) || (labels && !json_is_array(labels)))
        return err_set(e, ERR_FORMAT, "%s: input_ids and labels are lists of integers", what);
    if (labels && json_array_size(labels) != json_array_size(ids))
        return err_set(e, ERR_FORMAT, "%s: %zu labels for %zu input_ids", what,
                       json_array_size(labels), json_array_size(ids));
    if (ids_from(&p->ids, ids, "input_ids", vocab_of(c), what, e))
        return -1;
    if (!labels)
        piece_mark(p, true);
    json_array_foreach(labels, i, v)
    {
        if (!json_is_integer(v) ||
            (json_integer_value(v) != NOT_ASKED && json_integer_value(v) != p->ids.p[i]))
            return err_set(e, ERR_FORMAT, "%s: labels[%zu] is neither -100 nor input_ids[%zu]",
                           what, i, i);
        ids_add(&p->asked, json_integer_value(v) != NOT_ASKED);
    }
    return 0;
}

/* ---- text and chats ---- */

static int need_tok(const struct data_cfg *c, const char *what, struct err *e)
{
    if (c->tok)
        return 0;
    return err_set(e, ERR_FORMAT,
                   "%s: text, but the model has no tokenizer (rows of input_ids work)", what);
}

static int add_text(struct piece *p, const json_t *v, const struct data_cfg *c, const char *key,
                    const char *what, struct err *e)
{
    if (!json_is_string(v))
        return err_set(e, ERR_FORMAT, "%s: %s is no text", what, key);
    if (need_tok(c, what, e))
        return -1;
    return tok_encode(c->tok, json_string_value(v), json_string_length(v), TOK_ALLOW_SPECIAL,
                      &p->ids, e);
}

static void add_start(struct piece *p, const struct data_cfg *c)
{
    if (c->tok && tok_adds_bos(c->tok) && tok_bos(c->tok) >= 0)
        ids_add(&p->ids, tok_bos(c->tok));
}

/* One BOS: a text that spells it out has it already. */
static void one_start(struct piece *p, const struct data_cfg *c)
{
    const int32_t bos = c->tok ? tok_bos(c->tok) : -1;

    if (bos >= 0 && p->ids.n > 1 && p->ids.p[0] == bos && p->ids.p[1] == bos) {
        memmove(p->ids.p, p->ids.p + 1, (p->ids.n - 1) * sizeof(*p->ids.p));
        p->ids.n--;
    }
}

static void add_end(struct piece *p, const struct data_cfg *c)
{
    const int32_t eos = c->tok ? tok_eos(c->tok) : -1;

    if (eos >= 0 && (p->ids.n == 0 || p->ids.p[p->ids.n - 1] != eos))
        ids_add(&p->ids, eos);
}

/* {from, value} of ShareGPT as {role, content}. */
static json_t *as_messages(const json_t *list)
{
    static const char *const roles[][2] = {
        { "human", "user" }, { "gpt", "assistant" }, { "system", "system" }, { "tool", "tool" }
    };
    json_t *out = json_array(), *m;
    size_t i;

    json_array_foreach(list, i, m)
    {
        const char *from = json_string_value(json_object_get(m, "from"));

        for (size_t k = 0; from && k < ARRAY_LEN(roles); k++)
            if (!strcmp(from, roles[k][0]))
                from = roles[k][1];
        json_array_append_new(out, from ? json_pack("{s:s, s:O?}", "role", from, "content",
                                                    json_object_get(m, "value"))
                                        : json_incref(m));
    }
    return out;
}

static int render(struct prompt *out, const json_t *messages, size_t n, bool answer,
                  const json_t *row, const struct data_cfg *c, const char *what, struct err *e)
{
    json_t *list = json_array(), *req;
    int rc;

    for (size_t i = 0; i < n; i++)
        json_array_append(list, json_array_get(messages, i));
    req = json_pack("{s:o, s:b}", "messages", list, "add_generation_prompt", answer);
    if (json_object_get(row, "tools"))
        json_object_set(req, "tools", json_object_get(row, "tools"));
    prompt_init(out);
    rc = chat_render(c->chat, c->tok, req, out, e);
    json_decref(req);
    return rc ? err_wrap(e, "%s", what) : 0;
}

static int need_chat(const struct data_cfg *c, const char *what, struct err *e)
{
    if (need_tok(c, what, e))
        return -1;
    if (c->chat)
        return 0;
    return err_set(e, ERR_FORMAT, "%s: a chat, but the model has no chat template", what);
}

static bool begins(const struct ids *all, const struct ids *start)
{
    return start->n <= all->n && !memcmp(all->p, start->p, start->n * sizeof(*start->p));
}

/* The tokens of answer i, from behind its header through the token that ends the turn: 1 in mark.
 * The header is what the template writes to ask for an answer. */
static int mark_answer(int32_t *mark, const struct ids *all, const json_t *messages, size_t i,
                       const struct ids *stops, const json_t *row, const struct data_cfg *c,
                       const char *what, struct err *e)
{
    struct prompt before = { 0 }, upto = { 0 };
    int rc = -1;

    if (render(&before, messages, i, true, row, c, what, e) ||
        render(&upto, messages, i + 1, false, row, c, what, e))
        goto done;
    if (!begins(all, &before.ids) || upto.ids.n > all->n) {
        err_set(
            e, ERR_FORMAT,
            "%s: message %zu is rendered otherwise inside the chat, so its tokens cannot be told "
            "apart",
            what, i + 1);
        goto done;
    }
    size_t end = upto.ids.n;

    for (size_t t = before.ids.n; t < upto.ids.n; t++)
        for (size_t s = 0; s < stops->n; s++)
            if (all->p[t] == stops->p[s])
                end = t + 1;
    for (size_t t = before.ids.n; t < end; t++)
        mark[t] = 1;
    rc = 0;
done:
    prompt_release(&before);
    prompt_release(&upto);
    return rc;
}

/* A chat; *answers: only what the assistant says is asked. */
static int row_chat(struct piece *p, const json_t *messages, bool answers, const json_t *row,
                    const struct data_cfg *c, const char *what, struct err *e)
{
    const size_t n = json_array_size(messages);
    struct prompt all = { 0 };
    struct ids stops = { 0 };
    int rc = -1;

    if (need_chat(c, what, e) || render(&all, messages, n, false, row, c, what, e))
        goto done;
    ids_append(&p->ids, all.ids.p, all.ids.n);
    piece_mark(p, !answers);
    chat_stops(c->chat, c->tok, &stops);
    for (size_t i = 0; answers && i < n; i++) {
        const char *role = json_string_value(json_object_get(json_array_get(messages, i), "role"));

        if (role && !strcmp(role, "assistant") &&
            mark_answer(p->asked.p, &all.ids, messages, i, &stops, row, c, what, e))
            goto done;
    }
    rc = 0;
done:
    prompt_release(&all);
    ids_release(&stops);
    return rc;
}

/* ---- prompt and completion ---- */

/* Appends prompt and answer, each text, ids or messages; *n_prompt tokens are the prompt's. */
static int row_pair(struct piece *p, size_t *n_prompt, const json_t *prompt, const json_t *answer,
                    const json_t *row, const struct data_cfg *c, const char *what, struct err *e)
{
    if (is_ids(answer) && (!prompt || is_ids(prompt))) {
        if (ids_from(&p->ids, prompt, "prompt", vocab_of(c), what, e))
            return -1;
        *n_prompt = p->ids.n;
        piece_mark(p, !c->completion_only);
        if (ids_from(&p->ids, answer, "completion", vocab_of(c), what, e))
            return -1;
        piece_mark(p, true);
        return 0;
    }
    if (json_is_array(answer)) {
        struct prompt head = { 0 };
        json_t *all = prompt ? as_messages(prompt) : json_array();
        const size_t before = json_array_size(all);
        int rc = -1;

        json_array_extend(all, (json_t *)(uintptr_t)answer);
        if (!need_chat(c, what, e) && !render(&head, all, before, true, row, c, what, e) &&
            !row_chat(p, all, c->completion_only, row, c, what, e)) {
            *n_prompt = head.ids.n < p->ids.n ? head.ids.n : p->ids.n;
            for (size_t t = 0; c->completion_only && t < *n_prompt; t++)
                p->asked.p[t] = 0; /* answers within the prompt */
            rc = 0;
        }
        prompt_release(&head);
        json_decref(all);
        return rc;
    }
    add_start(p, c);
    if (prompt && add_text(p, prompt, c, "prompt", what, e))
        return -1;
    one_start(p, c);
    *n_prompt = p->ids.n;
    piece_mark(p, !c->completion_only);
    if (add_text(p, answer, c, "completion", what, e))
        return -1;
    add_end(p, c);
    piece_mark(p, true);
    return 0;
}

static int row_preference(struct data *d, const json_t *row, const struct data_cfg *c,
                          const char *what, struct err *e)
{
    const json_t *prompt = get(row, "prompt", "prompt_input_ids");
    const json_t *answer[] = { get(row, "chosen", "chosen_input_ids"),
                               get(row, "rejected", "rejected_input_ids") };
    struct data_cfg all = *c;
    json_t *shared = NULL, *rest[2] = { NULL, NULL };
    int rc = -1;

    all.completion_only = true;
    if (!answer[0] || !answer[1])
        return err_set(e, ERR_FORMAT, "%s: a preference needs chosen and rejected", what);
    if (!prompt && json_is_array(answer[0]) && json_is_array(answer[1])) {
        const size_t n0 = json_array_size(answer[0]), n1 = json_array_size(answer[1]);
        size_t i = 0;

        shared = json_array();
        for (; i + 1 < n0 && i + 1 < n1 &&
               json_equal(json_array_get(answer[0], i), json_array_get(answer[1], i));
             i++)
            json_array_append(shared, json_array_get(answer[0], i));
        for (size_t k = 0; k < 2; k++) {
            rest[k] = json_array();
            for (size_t j = i; j < json_array_size(answer[k]); j++)
                json_array_append(rest[k], json_array_get(answer[k], j));
            answer[k] = rest[k];
        }
        prompt = shared;
    }
    if (!prompt) {
        err_set(e, ERR_FORMAT, "%s: a preference of texts needs a prompt", what);
        goto done;
    }
    for (size_t k = 0; k < 2; k++) {
        struct piece p = { 0 };
        size_t n_prompt = 0;
        const int bad = row_pair(&p, &n_prompt, prompt, answer[k], row, &all, what, e);

        if (!bad)
            keep(d, &p, n_prompt, k == 0, c);
        piece_release(&p);
        if (bad)
            goto done;
    }
    rc = 0;
done:
    json_decref(shared);
    json_decref(rest[0]);
    json_decref(rest[1]);
    return rc;
}

/* ---- a row ---- */

static int wrong_columns(const json_t *row, const struct data_cfg *c, const char *what,
                         struct err *e)
{
    static const char *const want[] = {
        [DATA_SFT] = "input_ids; messages; prompt and completion; or text",
        [DATA_PAIRS] = "prompt, chosen and rejected",
        [DATA_UNPAIRED] = "prompt, completion and label (true or false); or prompt, chosen and "
                          "rejected",
    };
    char have[200] = "";
    const char *key;
    json_t *v;

    json_object_foreach((json_t *)(uintptr_t)row, key, v)
    {
        const size_t n = strlen(have);

        if (n + 2 < sizeof(have))
            snprintf(have + n, sizeof(have) - n, "%s%s", n ? ", " : "", key);
    }
    return err_set(e, ERR_FORMAT, "%s: columns %s; wanted are %s", what, have, want[c->kind]);
}

static int row_unpaired(struct data *d, const json_t *row, const struct data_cfg *c,
                        const char *what, struct err *e)
{
    const json_t *prompt = get(row, "prompt", "prompt_input_ids");
    const json_t *answer = get(row, "completion", "completion_input_ids");
    const json_t *label = json_object_get(row, "label");
    struct data_cfg only = *c;
    struct piece p = { 0 };
    size_t n_prompt = 0;
    int rc;

    if (!prompt || !answer || !json_is_boolean(label))
        return wrong_columns(row, c, what, e);
    only.completion_only = true;
    rc = row_pair(&p, &n_prompt, prompt, answer, row, &only, what, e);
    if (rc == 0)
        keep(d, &p, n_prompt, json_is_true(label), c);
    piece_release(&p);
    return rc;
}

static int row_sft(struct data *d, const json_t *row, const struct data_cfg *c, const char *what,
                   struct err *e)
{
    const json_t *chat = get(row, "messages", "conversations"), *text, *answer;
    struct piece p = { 0 };
    size_t n_prompt = 0;
    int rc;

    text = json_object_get(row, c->text_field);
    answer = json_object_get(row, "completion");
    if (json_object_get(row, "input_ids")) {
        rc = row_ids(&p, row, c, what, e);
    } else if (chat) {
        json_t *list = as_messages(chat);

        rc = row_chat(&p, list, c->assistant_only, row, c, what, e);
        json_decref(list);
    } else if (answer && json_object_get(row, "prompt")) {
        rc = row_pair(&p, &n_prompt, json_object_get(row, "prompt"), answer, row, c, what, e);
    } else if (text) {
        add_start(&p, c);
        rc = add_text(&p, text, c, c->text_field, what, e);
        if (rc == 0) {
            one_start(&p, c);
            add_end(&p, c);
            piece_mark(&p, true);
            d->chatml += c->tok && tok_id(c->tok, "<|im_start|>") < 0 &&
                         strstr(json_string_value(text), "<|im_start|>");
        }
    } else {
        rc = wrong_columns(row, c, what, e);
    }
    if (rc == 0)
        keep(d, &p, n_prompt, true, c);
    piece_release(&p);
    return rc;
}

int data_read(struct data *d, const char *path, const struct data_cfg *cfg, struct err *e)
{
    struct data out = { 0 };
    json_t *rows, *row;
    size_t i;
    int rc = 0;

    if (rows_read(&rows, path, out.digest, e))
        return -1;
    json_array_foreach(rows, i, row)
    {
        char what[300];

        if (rc)
            break;
        snprintf(what, sizeof(what), "%.250s row %zu", path, i + 1);
        out.row = i + 1;
        if (cfg->kind == DATA_PAIRS ||
            (cfg->kind == DATA_UNPAIRED && json_object_get(row, "chosen")))
            rc = row_preference(&out, row, cfg, what, e);
        else if (cfg->kind == DATA_UNPAIRED)
            rc = row_unpaired(&out, row, cfg, what, e);
        else
            rc = row_sft(&out, row, cfg, what, e);
    }
    json_decref(rows);
    if (rc == 0 && out.n == 0 && out.cut)
        rc = err_set(e, ERR_FORMAT,
                     "%s: none of %zu rows has a token to learn; %zu were cut at %zu tokens: raise "
                     "--max-length",
                     path, out.dropped, out.cut, cfg->max_length);
    else if (rc == 0 && out.n == 0)
        rc = err_set(e, ERR_FORMAT,
                     "%s: none of %zu rows has a token to learn: an answer of one token at least "
                     "after something is needed",
                     path, out.dropped);
    if (rc)
        data_release(&out);
    else
        *d = out;
    return rc;
}

void data_release(struct data *d)
{
    for (size_t i = 0; i < d->n; i++)
        free(d->p[i].ids);
    free(d->p);
    *d = (struct data){ 0 };
}

/* ---- rows held out ---- */

struct drawn {
    uint64_t by;
    size_t row;
};

static int by_draw(const void *a, const void *b)
{
    const struct drawn *x = a, *y = b;

    return x->by != y->by ? (x->by > y->by) - (x->by < y->by)
                          : (x->row > y->row) - (x->row < y->row);
}

bool *data_draw(size_t n, const int32_t *class, double share, uint64_t seed)
{
    struct drawn *draw = xmalloc((n + 1) * sizeof(*draw));
    size_t left[DATA_CLASSES], count[DATA_CLASSES] = { 0 };
    bool *out = xcalloc(n + 1, sizeof(*out));

    for (size_t i = 0; i < n; i++) {
        draw[i] = (struct drawn){ rng_u64(seed ^ 0x68656c64, i), i };
        count[class ? class[i] : 0]++;
    }
    for (size_t c = 0; c < DATA_CLASSES; c++) {
        left[c] = (size_t)floor(share * (double)count[c] + 0.5);
        left[c] -= left[c] && left[c] == count[c];
    }
    qsort(draw, n, sizeof(*draw), by_draw);
    for (size_t i = 0; i < n; i++) {
        const size_t row = draw[i].row;
        size_t *of = &left[class ? class[row] : 0];

        out[row] = *of > 0;
        *of -= *of > 0;
    }
    free(draw);
    return out;
}

void data_split(struct data *d, struct data *held, size_t each, double share, uint64_t seed)
{
    const struct data all = *d;
    bool *out = data_draw(all.n / each, NULL, share, seed);

    *held = (struct data){ .p = xcalloc(all.n + 1, sizeof(*held->p)) };
    memcpy(held->digest, all.digest, sizeof(held->digest));
    d->n = d->tokens = d->asked = 0;
    for (size_t i = 0; i < all.n; i++) { /* d's only move towards its beginning */
        struct data *to = out[i / each] ? held : d;

        to->p[to->n++] = all.p[i];
        to->tokens += all.p[i].n;
        for (size_t t = 0; t < all.p[i].n; t++)
            to->asked += all.p[i].label[t] >= 0;
    }
    free(out);
}
