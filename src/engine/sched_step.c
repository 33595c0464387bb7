/* sched_step.c - one pass: who takes part, the forward pass, and what came out of it. */
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/mem.h"
#include "engine/sched_int.h"

enum {
    LEAST_PIECE = 16, /* prompt rows in a pass, however slow the machine */
    FIRST_PIECE = 64, /* before anything is known of the machine */
    MOST_STEPS = 6,   /* a pass takes up to this many step_s when the line of prompts is long */
    FEW_ROWS = 8,     /* a pass this small is bound by reading weights: guesses are nearly free */
    NGRAM = 3,        /* tokens that must have occurred before for a guess */
};

/* ---- the end of a job ---- */

static void event_text(struct job *j, struct sched_event *ev)
{
    ev->text = j->result.text.p + j->shown;
    ev->n_text = j->answer.shown - j->shown;
    j->shown = j->answer.shown;
}

static void tell_token(struct job *j, bool last)
{
    const size_t i = j->result.ids.n - 1, k = j->gen.top_logprobs;
    struct sched_event ev = { .kind = SCHED_TOKEN, .id = j->result.ids.p[i], .last = last };

    if (j->result.logprob)
        ev.logprob = j->result.logprob[i];
    if (j->result.top)
        ev.top = j->result.top + i * k;
    if (j->result.watched)
        ev.watched = j->result.watched + i * j->gen.n_watch;
    event_text(j, &ev);
    j->r.on_event(j->r.arg, &ev);
}

/* The event that was put off. */
static void tell_late(struct job *j)
{
    if (!j->untold)
        return;
    j->untold = false;
    tell_token(j, false);
}

void job_finish(struct sched *s, struct job *j, enum finish finish)
{
    struct sched_event ev = { .kind = SCHED_DONE, .finish = finish, .embedding = j->embedding };

    tell_late(j);
    j->result.finish = finish;
    answer_end(&j->answer);
    ev.stop_id = finish == FINISH_STOP ? j->result.stop_id : -1;
    event_text(j, &ev);
    kvpool_release(s->pool, &j->kv);
    draft_leave(s->draft, &j->drafts);
    j->over = true;
    s->ended += finish != FINISH_CANCELLED;
    pthread_mutex_lock(&s->lock);
    s->stats.finished += finish != FINISH_CANCELLED;
    s->stats.cancelled += finish == FINISH_CANCELLED;
    pthread_mutex_unlock(&s->lock);
    j->r.on_event(j->r.arg, &ev);
}

void job_fail(struct sched *s, struct job *j, const struct err *e)
{
    const struct sched_event ev = { .kind = SCHED_FAILED, .err = e };

    tell_late(j);
    kvpool_release(s->pool, &j->kv);
    draft_leave(s->draft, &j->drafts);
    j->over = true;
    pthread_mutex_lock(&s->lock);
    s->stats.failed++;
    pthread_mutex_unlock(&s->lock);
    j->r.on_event(j->r.arg, &ev);
}

static void expire(struct sched *s, struct job *const *list, size_t n)
{
    const double now = clock_seconds();

    for (size_t i = 0; i < n; i++) {
        struct job *j = list[i];
        struct err e;

        if (j->over || j->expires == 0 || now < j->expires)
            continue;
        err_set(&e, ERR_TIMEOUT, "not answered within its deadline of %g s (%zu tokens so far)",
                j->r.deadline, j->result.ids.n);
        job_fail(s, j, &e);
    }
}

/* ---- who takes part ---- */

static bool goes_before(const struct job *a, const struct job *b)
{
    return a->r.priority != b->r.priority ? a->r.priority > b->r.priority : a->ticket < b->ticket;
}

static void remove_at(struct job **list, size_t *n, size_t i)
{
    memmove(list + i, list + i + 1, (--*n - i) * sizeof(*list));
}

/* The list has room for one more. */
static void insert_sorted(struct job **list, size_t *n, struct job *j)
{
    size_t i = (*n)++;

    for (; i > 0 && goes_before(j, list[i - 1]); i--)
        list[i] = list[i - 1];
    list[i] = j;
}

void job_wait(struct sched *s, struct job *j)
{
    if (s->n_waiting == s->cap_waiting) {
        s->cap_waiting = s->cap_waiting ? 2 * s->cap_waiting : 64;
        s->waiting = xrealloc(s->waiting, s->cap_waiting * sizeof(*s->waiting));
    }
    insert_sorted(s->waiting, &s->n_waiting, j);
}

/* The last in rank gives its blocks back and waits again; full ones stay in the prefix cache as
 * long as nobody needs their place. */
static void step_back(struct sched *s)
{
    struct job *j = s->active[--s->n_active];

    tell_late(j);
    kvpool_release(s->pool, &j->kv);
    draft_leave(s->draft, &j->drafts);
    j->done = j->n_pooled = 0;
    j->active = false;
    job_wait(s, j);
    pthread_mutex_lock(&s->lock);
    s->stats.preempted++;
    pthread_mutex_unlock(&s->lock);
}

static double *served(struct sched *s, const struct job *j)
{
    return &s->served[j->r.tenant % SCHED_TENANTS];
}

/* What it asks of the rows of its prompt no cache has. */
static bool needs_all_rows(const struct job *j)
{
    return (j->r.score && j->n_scored + 1 < j->gen.n_prompt) || j->r.pool == POOL_MEAN;
}

/* Blocks in common with a prompt that is being computed right now: better to wait than to compute
 * them twice. */
static bool worth_waiting(const struct sched *s, const struct job *j)
{
    if (s->o.no_prefix_cache || needs_all_rows(j))
        return false;
    for (size_t i = 0; i < s->n_active; i++) {
        const struct job *a = s->active[i];
        const size_t most = a->answer.all.n < j->answer.all.n ? a->answer.all.n : j->answer.all.n;
        size_t same = 0;

        if (a->over || most < KV_BLOCK || a->kv.salt != j->kv.salt ||
            a->done + 1 >= a->answer.all.n)
            continue;
        while (same < most && a->answer.all.p[same] == j->answer.all.p[same])
            same++;
        if (same / KV_BLOCK * KV_BLOCK > a->done)
            return true;
    }
    return false;
}

static bool goes_first(struct sched *s, const struct job *j, const struct job *than)
{
    return j->r.priority != than->r.priority ? j->r.priority > than->r.priority
                                             : *served(s, j) < *served(s, than);
}

/* The place in waiting of who comes next: priority, then the tenant that had least, then arrival.
 */
static size_t next_waiting(struct sched *s)
{
    size_t best = SIZE_MAX;

    for (size_t i = 0; i < s->n_waiting; i++) {
        const struct job *j = s->waiting[i];

        if (j->over || (best != SIZE_MAX && !goes_first(s, j, s->waiting[best])))
            continue;
        if (!worth_waiting(s, j)) /* dear: asked last */
            best = i;
    }
    return best;
}

static void admit(struct sched *s)
{
    while (s->n_active < s->o.max_active && s->n_waiting) {
        const size_t i = next_waiting(s);

        if (i == SIZE_MAX)
            return;
        struct job *j = s->waiting[i];
        const size_t n = j->answer.all.n, blocks = (n + KV_BLOCK) / KV_BLOCK;
        size_t found = 0;

        if (!s->o.no_prefix_cache && !needs_all_rows(j))
            found = kvpool_match(s->pool, &j->kv, j->answer.all.p, n);
        if (s->n_active && blocks - found / KV_BLOCK > kvpool_available(s->pool)) {
            kvpool_release(s->pool, &j->kv); /* its prompt would only push others out */
            return;
        }
        j->done = found;
        if (!j->told) {
            j->cached = found;
            j->admitted = clock_seconds();
        }
        j->active = true;
        /* a tenant that was away does not come back with a credit */
        if (*served(s, j) < s->served_now)
            *served(s, j) = s->served_now;
        s->served_now = *served(s, j);
        remove_at(s->waiting, &s->n_waiting, i);
        insert_sorted(s->active, &s->n_active, j);
        pthread_mutex_lock(&s->lock);
        s->stats.cached_tokens += found;
        pthread_mutex_unlock(&s->lock);
    }
}

/* ---- what they bring ---- */

/* What followed the last occurrence of the text's last NGRAM tokens; returns how many tokens. */
static size_t guess(const struct ids *all, int32_t *out, size_t most)
{
    const int32_t *p = all->p;
    const size_t n = all->n;

    if (n < NGRAM + 1)
        return 0;
    for (size_t at = n - NGRAM; at-- > 0;) {
        if (memcmp(p + at, p + n - NGRAM, NGRAM * sizeof(*p)) != 0)
            continue;
        const size_t follow = n - NGRAM - at, k = follow < most ? follow : most;

        memcpy(out, p + at + NGRAM, k * sizeof(*p));
        return k;
    }
    return 0;
}

static size_t decoding(const struct sched *s)
{
    size_t n = 0;

    for (size_t i = 0; i < s->n_active; i++)
        n += !s->active[i]->over && s->active[i]->done + 1 == s->active[i]->answer.all.n;
    return n;
}

/* ---- how many rows a pass takes ---- */

static const double PATIENCE_S = 0.6; /* for a first token; then answers slow down for prompts */

static void pace_note(struct pace *p, double rows, double s)
{
    const double keep = 0.98; /* the last fifty passes: the machine's load changes, texts grow */

    p->n = keep * p->n + 1;
    p->rows = keep * p->rows + rows;
    p->rows2 = keep * p->rows2 + rows * rows;
    p->s = keep * p->s + s;
    p->rows_s = keep * p->rows_s + rows * s;
}

/* A pass of n rows takes *base + n * *row seconds. False: nothing is known yet. */
static bool pace_line(const struct pace *p, double *base, double *row)
{
    const double spread = p->n * p->rows2 - p->rows * p->rows;

    if (p->n == 0 || p->s <= 0)
        return false;
    const double most = p->s / p->rows; /* a base is not negative, */

    *row = spread > 0 ? (p->n * p->rows_s - p->rows * p->s) / spread : most;
    *row = *row < most / 10 ? most / 10 : *row > most ? most : *row; /* and a row not free */
    *base = (p->s - *row * p->rows) / p->n;
    return true;
}

/* Rows for prompts in this pass, beside `taken` rows of answers; `backlog` are the rows that all
 * prompts here still need.
 *
 * The answers' rhythm suffers from long passes, the prompts' first token from short ones, and all
 * from passes so short that what a pass costs however small it is (base) is most of it. So: step_s,
 * longer when the backlog is one that nobody likes to wait for; or twice the pass without prompts.
 */
static size_t prompt_rows(const struct sched *s, size_t taken, size_t backlog)
{
    const size_t room = s->g->chunk > taken ? s->g->chunk - taken : 0;
    const double step = s->o.step_s, most = MOST_STEPS * step;
    double base, row;

    if (!pace_line(&s->pace, &base, &row))
        return room < FIRST_PIECE ? room : FIRST_PIECE;
    const double answers = base + row * (double)taken;
    double pass = most, least = 10 * base; /* nobody's rhythm: nine tenths are work on rows */

    if (taken) {
        const double wait = row * (double)backlog - PATIENCE_S;

        pass = step + (wait > 0 ? wait / 3 : 0);
        pass = pass < most ? pass : most;
        least = 2 * answers;
    }
    const double rows = ((pass > least ? pass : least) - answers) / row;

    if (rows >= (double)room || room <= LEAST_PIECE)
        return room;
    return rows > LEAST_PIECE ? (size_t)rows : LEAST_PIECE;
}

double sched_row_s(const struct sched *s)
{
    const double pass = MOST_STEPS * s->o.step_s;
    double base, row;

    if (!pace_line(&s->pace, &base, &row))
        return 0;
    /* the answers' part of such a pass */
    const double answers = base + row * (double)decoding(s);

    return row * pass / (answers < pass / 2 ? pass - answers : pass / 2);
}

static size_t pending(const struct job *j)
{
    return j->answer.all.n - j->done;
}

/* Shortest prompt first, but waiting counts: one that takes t seconds is overtaken only by what
 * arrives within t. So short prompts need not wait for long ones, and long ones not for ever. */
static int by_turn(const void *a, const void *b, void *row_s)
{
    const struct job *x = *(struct job *const *)a, *y = *(struct job *const *)b;
    const double row = *(const double *)row_s;
    const double dx = x->submitted + row * (double)pending(x);
    const double dy = y->submitted + row * (double)pending(y);

    if (x->r.priority != y->r.priority)
        return x->r.priority > y->r.priority ? -1 : 1;
    return dx != dy ? (dx > dy) - (dx < dy) : (x->ticket > y->ticket) - (x->ticket < y->ticket);
}

/* Gives the pass's prompt rows away; what is left of a turn goes to the next in line. */
static void deal_prompts(struct sched *s, size_t taken)
{
    size_t n = 0, backlog = 0, scores = s->max_want;
    double base, row;

    if (!pace_line(&s->pace, &base, &row))
        row = 0;
    for (size_t i = 0; i < s->n_active; i++) {
        struct job *j = s->active[i];

        if (j->over || pending(j) == 1)
            continue;
        s->turns[n++] = j;
        backlog += pending(j);
    }
    /* when there is room for the logits of every row, a pass's rows are limit enough */
    if (s->max_want < s->g->chunk)
        scores -= taken + n;
    qsort_r(s->turns, n, sizeof(struct job *), by_turn, &row);
    size_t left = prompt_rows(s, taken, backlog);

    for (size_t i = 0; i < n && left; i++) {
        struct job *j = s->turns[i];

        j->rows = pending(j) < left ? pending(j) : left;
        if (j->r.score && j->rows > scores)
            j->rows = scores;
        left -= j->rows;
        scores -= j->r.score ? j->rows : 0;
    }
}

/* Tokens to check beside the next one of an answer, in j->guess: what its grammar forces, else what
 * the text so far suggests. Forced text nearly always proves right, so that it comes however many
 * rows there are; the rest is worth a try only while rows are few. */
static void guess_next(struct sched *s, struct job *j, size_t suggestions, size_t *spare)
{
    const size_t left = s->ctx - j->answer.all.n; /* not at the end of the context */
    const size_t room = left ? left - 1 : 0, forced = *spare < MAX_GUESS ? *spare : MAX_GUESS;

    if (j->r.prompt_only)
        return;
    j->n_guess = answer_forced(&j->answer, j->guess, forced < room ? forced : room);
    if (j->n_guess)
        *spare -= j->n_guess;
    else if (!s->draft && suggestions && suggestions < left)
        j->n_guess = guess(&j->answer.all, j->guess, suggestions);
}

/* The chance of being right from which on one more guess for each of n answers pays: the drafter's
 * pass and n rows, over the pass that would otherwise give each its token. */
static double draft_worth(const struct sched *s, size_t n)
{
    const double unknown = 0.3;
    double base, row;

    if (!pace_line(&s->pace, &base, &row))
        return unknown;
    row *= (double)n;
    return (draft_pass_s(s->draft) + row) / (base + row);
}

/* The drafter's guesses for those without forced text. */
static void draft_next(struct sched *s, size_t most)
{
    size_t n = 0;
    struct err e;

    for (size_t i = 0; i < s->n_active; i++) {
        struct job *j = s->active[i];
        const size_t left = s->ctx - j->answer.all.n;

        if (j->rows != 1 || j->r.prompt_only || left <= most)
            continue;
        s->turns[n] = j;
        s->asks[n++] = (struct draft_ask){ .seq = &j->drafts,
                                           .all = &j->answer.all,
                                           .n_prompt = j->gen.n_prompt,
                                           .how = &j->gen.sampling,
                                           .least = s->o.least,
                                           .most = most,
                                           .out = j->guess };
    }
    for (size_t i = 0; i < n; i++)
        s->asks[i].worth = draft_worth(s, n);
    if (n && draft_guess(s->draft, s->asks, n, s->o.step_s, &e)) {
        pthread_mutex_lock(&s->lock);
        s->stats.draft_failures++;
        pthread_mutex_unlock(&s->lock);
    }
    for (size_t i = 0; i < n; i++) {
        s->turns[i]->n_guess = s->turns[i]->n_draft = s->asks[i].n;
        s->turns[i]->rows += s->asks[i].n;
    }
}

/* Decides j->rows for everyone, and makes room in the cache in rank order. A job that finds none
 * sends the last in rank back, at worst itself. */
static void deal(struct sched *s)
{
    const size_t decoders = decoding(s), rows = decoders * (1 + s->o.speculate);
    const size_t all = s->n_active + decoders * s->o.speculate;
    /* a drafter knows what its guesses cost; those from the text are for few rows */
    const bool few = decoders && (s->draft ? all <= s->max_want : rows <= FEW_ROWS);
    const size_t guesses = few ? s->o.speculate : 0;
    /* logits for one row of each answer and its guesses; of what is over, half is for forced text
     * and the rest for prompts' scores */
    const size_t due = s->n_active + decoders * guesses;
    size_t spare = s->max_want > due ? (s->max_want - due) / 2 : 0, taken = 0;

    for (size_t i = 0; i < s->n_active; i++) {
        struct job *j = s->active[i];

        j->rows = j->n_guess = j->n_draft = 0;
        if (j->over || pending(j) != 1)
            continue;
        guess_next(s, j, guesses, &spare);
        j->rows = 1 + j->n_guess;
    }
    if (s->draft && guesses)
        draft_next(s, guesses);
    for (size_t i = 0; i < s->n_active; i++)
        taken += s->active[i]->rows;
    deal_prompts(s, taken);
    for (size_t i = 0; i < s->n_active; i++) {
        struct job *j = s->active[i];

        while (j->rows && !kvpool_reserve(s->pool, &j->kv, j->done + j->rows)) {
            if (j->n_guess) {
                j->n_guess = j->n_draft = 0;
                j->rows = 1;
                continue;
            }
            BUG_ON(s->n_active == 1); /* sched_submit saw to it that one always fits */
            if (s->active[s->n_active - 1] == j)
                j->rows = 0;
            step_back(s);
            if (j->rows == 0)
                return;
        }
    }
}

/* ---- the pass ---- */

/* What was put off. */
static void tell_all_late(struct sched *s)
{
    for (size_t i = 0; i < s->n_active; i++)
        tell_late(s->active[i]);
}

/* What needs no logits, while the pass is computed. */
static void meanwhile(void *arg);

static void lay_out(struct sched *s)
{
    size_t row = 0, want = 0;
    bool adapted = false, pooled = false;

    for (size_t i = 0; i < s->n_active; i++) {
        struct job *j = s->active[i];
        const size_t n = j->answer.all.n;

        s->table[i] = j->kv.table;
        s->lora[i] = j->r.adapter;
        s->prompt[i] = (int32_t)j->gen.n_prompt;
        adapted |= j->r.adapter != NULL;
        pooled |= j->r.pool != POOL_NONE;
        j->first_row = row;
        j->first_want = want;
        j->n_score = 0;
        for (size_t k = 0; k < j->rows; k++, row++) {
            const size_t at = j->done + k;

            s->token[row] = at < n ? j->answer.all.p[at] : j->guess[at - n];
            s->pos[row] = s->slot[row] = (int32_t)at;
            s->seq[row] = (int32_t)i;
            if (j->r.score && at >= j->n_scored && at + 1 < j->gen.n_prompt) {
                s->want[want++] = (int32_t)row;
                j->n_score++;
            } else if (at + 1 >= n && !j->r.prompt_only) {
                s->want[want++] = (int32_t)row;
            }
        }
    }
    s->batch = (struct batch){ .T = row,
                               .token = s->token,
                               .pos = s->pos,
                               .slot = s->slot,
                               .seq = s->seq,
                               .n_seq = s->n_active,
                               .prompt = s->prompt,
                               .block_table = s->table,
                               .want = s->want,
                               .n_want = want,
                               .lora = adapted ? s->lora : NULL,
                               .hidden = pooled ? s->hidden : NULL,
                               .meanwhile = meanwhile,
                               .arg = s };
    BUG_ON(row > s->g->chunk || want > s->max_want);
}

static void tell_prompt(struct job *j)
{
    const struct sched_event ev = { .kind = SCHED_PROMPT,
                                    .n_prompt = j->gen.n_prompt,
                                    .cached = j->cached,
                                    .queued_s = j->admitted - j->submitted,
                                    .score = j->score,
                                    .score_top = j->r.score_top ? j->score_top : NULL };

    j->told = true;
    j->result.cached = j->cached;
    j->r.on_event(j->r.arg, &ev);
}

/* Row i of this pass's logits; one that stayed on the device comes now. */
static int row_at(struct sched *s, const float **out, size_t i, struct err *e)
{
    struct ctx *c = s->g->ctx;
    const size_t V = (size_t)s->g->model->hp->vocab;
    float *row = s->logits + i * V;

    if (s->have && !s->have[i] && c->be->row(c, i, V, row, e))
        return -1;
    if (s->have)
        s->have[i] = true;
    *out = row;
    return 0;
}

/* Tokens out of j's logits: one, and one more for each guess that proves right. Where a device
 * computes, the last one's event is put off until it does that again. */
static void take(struct sched *s, struct job *j)
{
    const size_t first = j->first_want + j->n_score;
    const float *logits;
    size_t taken = 0, right = 0;
    struct err e;
    int rc;

    for (size_t k = 0;; k++) {
        rc = s->have && j->picked >= 0           ? answer_take_id(&j->answer, j->picked, j->chances)
             : row_at(s, &logits, first + k, &e) ? -1
                                                 : answer_take(&j->answer, s->sampler, logits, &e);
        if (rc < 0)
            break;
        taken++;
        j->done = j->answer.all.n - 1;
        const bool more =
            rc > 0 && k < j->n_guess && j->answer.all.p[j->answer.all.n - 1] == j->guess[k];

        j->untold = rc > 0 && !more && s->have;
        if (!j->untold)
            tell_token(j, rc == 0);
        if (!more)
            break;
        right++;
    }
    draft_note(&j->drafts, j->n_draft, right);
    pthread_mutex_lock(&s->lock);
    s->stats.answer_tokens += taken;
    s->stats.guessed += j->n_guess;
    s->stats.guessed_right += right;
    pthread_mutex_unlock(&s->lock);
    if (!s->o.no_prefix_cache)
        kvpool_commit(s->pool, &j->kv, j->answer.all.p, j->done);
    if (rc < 0)
        job_fail(s, j, &e);
    else if (rc == 0)
        job_finish(s, j, j->result.finish);
}

static int take_scores(struct sched *s, struct job *j, struct err *e)
{
    const size_t k = j->r.score_top;
    const float *logits;

    for (size_t i = 0; i < j->n_score; i++, j->n_scored++) {
        const int32_t id = j->prompt[j->n_scored + 1];

        if (row_at(s, &logits, j->first_want + i, e))
            return -1;
        j->score[j->n_scored].logprob = sampler_logprob(s->sampler, logits, id);
        j->score[j->n_scored].rank = sampler_rank(s->sampler, logits, id);
        sampler_top(s->sampler, logits, k, j->score_top + j->n_scored * k);
    }
    return 0;
}

/* The sum goes over the rows in their order, so that it does not depend on how they came. */
static void take_hidden(struct sched *s, struct job *j)
{
    const size_t D = (size_t)s->g->model->hp->dim;

    for (size_t k = 0; k < j->rows; k++) {
        const float *h = s->hidden + (j->first_row + k) * D;
        const bool sum = j->r.pool == POOL_MEAN && j->n_pooled > 0;

        for (size_t i = 0; i < D; i++)
            j->pooled[i] = (sum ? j->pooled[i] : 0) + (double)h[i];
        j->n_pooled++;
    }
}

/* A prompt without an answer. */
static void end_prompt(struct sched *s, struct job *j)
{
    const size_t D = (size_t)s->g->model->hp->dim;

    for (size_t i = 0; j->embedding && i < D; i++)
        j->embedding[i] =
            (float)(j->r.pool == POOL_MEAN ? j->pooled[i] / (double)j->n_pooled : j->pooled[i]);
    j->done += j->rows;
    if (!s->o.no_prefix_cache)
        kvpool_commit(s->pool, &j->kv, j->answer.all.p, j->done);
    job_finish(s, j, FINISH_LENGTH);
}

/* Whether all tokens of j are in the cache after this pass. */
static bool is_whole(const struct job *j)
{
    return j->done + j->rows >= j->answer.all.n;
}

static void settle(struct sched *s, struct job *j)
{
    const bool whole = is_whole(j);
    struct err e;

    *served(s, j) += (double)j->rows;
    if (take_scores(s, j, &e)) {
        job_fail(s, j, &e);
        return;
    }
    if (j->pooled)
        take_hidden(s, j);
    if (!whole) {
        j->done += j->rows;
        if (!s->o.no_prefix_cache)
            kvpool_commit(s->pool, &j->kv, j->answer.all.p, j->done);
        return;
    }
    if (!j->told)
        tell_prompt(j);
    if (j->r.prompt_only)
        end_prompt(s, j);
    else
        take(s, j);
}

static void note_pass(struct sched_passes *p, double took)
{
    double le = 1.5e-4;
    int k = 0;

    for (; k < SCHED_PASS_TIMES && took > le; k++)
        le *= 1.5;
    p->count[k]++;
    p->total++;
    p->sum_s += took;
}

static size_t max_of(size_t a, size_t b)
{
    return a > b ? a : b;
}

static void account(struct sched *s, double began)
{
    const double took = clock_seconds() - began;
    size_t prompts = 0;

    for (size_t i = 0; i < s->n_active; i++)
        prompts += pending(s->active[i]) > 1 ? s->active[i]->rows : 0;
    pace_note(&s->pace, (double)s->batch.T, took);
    s->ending_s = 0.995 * s->ending_s + took; /* the last two hundred passes */
    s->ended *= 0.995;
    pthread_mutex_lock(&s->lock);
    s->stats.steps++;
    s->stats.busy_s += took;
    s->peak.rows = max_of(s->peak.rows, s->batch.T);
    s->peak.want = max_of(s->peak.want, s->batch.n_want);
    s->peak.blocks = max_of(s->peak.blocks, kvpool_size(s->pool) - kvpool_available(s->pool) +
                                                kvpool_cached(s->pool));
    s->peak.lookups += s->batch.T;
    if (s->draft)
        draft_tell_peak(s->draft);
    s->stats.computed_tokens += prompts;
    note_pass(prompts ? &s->stats.prompts : &s->stats.decodes, took);
    pthread_mutex_unlock(&s->lock);
}

/* The masks that this pass's logits will be looked at through. */
static void make_masks(struct sched *s)
{
    for (size_t i = 0; i < s->n_active; i++) {
        struct job *j = s->active[i];

        if (j->rows && !j->over && j->answer.mask)
            ahead_add(s->ahead, &j->answer.guide);
    }
}

/* Where logits stay on a device: what is asked of j's row, if its next token may be told by that.
 */
static bool ask_head(struct sched *s, struct job *j, struct head *h, struct pick_ask *ask)
{
    j->picked = -1;
    *ask = (struct pick_ask){ .row = j->first_want + j->n_score };
    if (!j->rows || j->over || !is_whole(j) || j->r.prompt_only || j->n_guess ||
        !answer_ask(&j->answer, s->sampler, (size_t)s->g->model->hp->vocab, &h->how, &h->changes,
                    ask))
        return false;
    h->j = j;
    return true;
}

/* The chances of tokens that were picked, where they are told: another look at their rows, in which
 * nothing is changed or forbidden. */
static int take_chances(struct sched *s, size_t n, struct err *e)
{
    struct ctx *c = s->g->ctx;
    size_t m = 0;

    for (size_t i = 0; i < n; i++) {
        const struct job *j = s->heads[i].j;

        if (j->gen.logprobs && j->picked >= 0) {
            s->heads[m].j = s->heads[i].j;
            s->head_asks[m++] = answer_ask_chances(s->head_asks[i].row, j->picked);
        }
    }
    if (m && c->be->pick(c, s->head_asks, m, (size_t)s->g->model->hp->vocab, s->chances, e))
        return -1;
    for (size_t i = 0; i < m; i++) {
        struct job *j = s->heads[i].j;

        j->chances = &s->chances[i];
        if (!answer_has_chances(&j->answer, j->chances))
            j->picked = -1;
    }
    return 0;
}

static void meanwhile(void *arg)
{
    struct sched *s = arg;

    tell_all_late(s);
    ahead_wait(s->ahead);
    s->n_heads = 0;
    for (size_t i = 0; i < s->n_active && s->have; i++)
        s->n_heads += ask_head(s, s->active[i], &s->heads[s->n_heads], &s->head_asks[s->n_heads]);
    s->prepared = true;
}

/* The next tokens that heads tell, of all answers at a time. */
static int take_heads(struct sched *s, struct err *e)
{
    struct ctx *c = s->g->ctx;
    const size_t V = (size_t)s->g->model->hp->vocab, n = s->n_heads;

    for (size_t i = 0; i < s->max_want; i++)
        s->have[i] = false;
    if (n && c->be->pick(c, s->head_asks, n, V, s->lists, e))
        return -1;
    for (size_t i = 0; i < n; i++) {
        const struct answer *a = &s->heads[i].j->answer;

        s->heads[i].j->picked =
            sampler_pick_list(&s->heads[i].how, &s->lists[i], V, a->all.n - a->r->n_prompt);
    }
    return take_chances(s, n, e);
}

void sched_step(struct sched *s)
{
    expire(s, s->waiting, s->n_waiting);
    expire(s, s->active, s->n_active);
    admit(s);
    deal(s);
    if (s->n_active == 0)
        return;
    lay_out(s);
    if (s->batch.T == 0) {
        tell_all_late(s);
        return;
    }
    const double began = clock_seconds();

    struct err e;

    make_masks(s);
    s->prepared = false;
    int rc = llama_forward(s->g->ctx, s->g->model, s->g->acts, &s->kv, &s->batch,
                           s->have ? NULL : s->logits, &e);

    if (!s->prepared) /* a backend may have had no time */
        meanwhile(s);
    if (rc == 0 && s->have)
        rc = take_heads(s, &e);
    if (rc) {
        for (size_t i = 0; i < s->n_active; i++)
            if (!s->active[i]->over)
                job_fail(s, s->active[i], &e);
        return;
    }
    account(s, began);
    for (size_t i = 0; i < s->n_active; i++)
        if (s->active[i]->rows)
            settle(s, s->active[i]);
}
