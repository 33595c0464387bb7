#include "server/watch.h"

#include <stdlib.h>

#include "base/mem.h"
#include "guard/hold.h"
#include "server/judge.h"

struct watch {
    struct gen *gen;
    struct hold hold;
    struct letter *first, **last; /* waiting */
    bool asking;                  /* the guard is: about what is before `due` */
    size_t due;
    bool over;   /* the last letter has come */
    bool cut;    /* a verdict ended it: only the last letter still counts */
    bool failed; /* ... because there was none: err */
    struct err err;
};

static bool is_last(const struct letter *l)
{
    return l->ev.kind == SCHED_DONE || l->ev.kind == SCHED_FAILED;
}

struct watch *watch_new(struct gen *g)
{
    struct watch *w;

    if (!guards_judge_output(g->call->s->o.guards))
        return NULL;
    w = xcalloc(1, sizeof(*w));
    w->gen = g;
    w->last = &w->first;
    hold_init(&w->hold);
    return w;
}

static struct letter *next(struct watch *w)
{
    struct letter *l = w->first;

    w->first = l->next;
    if (!w->first)
        w->last = &w->first;
    return l;
}

void watch_free(struct watch *w)
{
    if (!w)
        return;
    while (w->first)
        letter_free(next(w));
    hold_release(&w->hold);
    free(w);
}

/* ---- verdicts ---- */

struct question {
    struct watch *w;
    struct guards *guards;
    const json_t *talk;
    char *text; /* a copy: the answer grows meanwhile */
    size_t n;
    struct finding found;
    bool failed;
    struct err err;
};

static void work(void *arg)
{
    struct question *q = arg;

    q->failed = guards_turn(q->guards, q->talk, q->text, q->n, &q->found, NULL, &q->err) != 0;
}

/* Nothing more of it is shown: its end comes as the verdict says, now or when the engine is told.
 */
static void cut(struct watch *w)
{
    struct gen *g = w->gen;
    struct letter *l = NULL;

    w->cut = true;
    while (w->first) {
        l = next(w);
        if (!is_last(l)) {
            letter_free(l);
            l = NULL;
        }
    }
    if (!l) {
        sched_cancel(g->call->m->sched, g->ticket);
        return;
    }
    l->ev.text = NULL;
    l->ev.n_text = 0;
    l->ev.kind = w->failed ? SCHED_FAILED : SCHED_DONE;
    l->ev.finish = FINISH_FILTER;
    l->ev.stop_id = -1;
    l->err = w->err;
    l->ev.err = w->failed ? &l->err : NULL;
    gen_arrive(l);
}

/* A token that adds no text yet belongs to what follows: its log probability would tell of a
 * sentence that is still to be judged. */
static bool may_go(const struct watch *w, const struct letter *l)
{
    if (w->over && w->hold.judged == w->hold.text.len)
        return true;
    return l->end < w->hold.judged ||
           (l->end == w->hold.judged && (l->ev.n_text || l->ev.kind == SCHED_PROMPT));
}

static void pump(struct watch *w);

static void done(struct call *c, void *arg)
{
    struct question *q = arg;
    struct watch *w = q->w;

    w->asking = false;
    if (!call_alive(c)) {
        while (w->first) /* nobody hears it; its end counts */
            gen_arrive(next(w));
    } else if (w->cut) {
        ;
    } else if (q->failed || q->found.bad) {
        w->failed = q->failed;
        w->err = q->err;
        w->gen->found = q->found;
        cut(w);
    } else {
        w->hold.judged = w->due;
        pump(w);
    }
    free(q->text);
    free(q);
}

/* Lets go what was judged and asks about what is due. */
static void pump(struct watch *w)
{
    struct call *c = w->gen->call;
    struct question *q;

    while (w->first && may_go(w, w->first)) {
        struct letter *l = next(w);
        const bool last = is_last(l);

        gen_arrive(l);
        if (last)
            return;
    }
    w->due = hold_due(&w->hold, w->over);
    if (w->asking || w->due <= w->hold.judged)
        return;
    q = xcalloc(1, sizeof(*q));
    *q = (struct question){ .w = w,
                            .guards = c->s->o.guards,
                            .talk = c->talk,
                            .text = xmemdup0(w->hold.text.p, w->due),
                            .n = w->due };
    w->asking = true;
    judge_ask(c, work, done, q);
}

void watch_add(struct watch *w, struct letter *l)
{
    struct call *c = w->gen->call;

    if (w->cut || !call_alive(c) || l->ev.kind == SCHED_FAILED) {
        /* nobody listens, or nothing but the end is to come */
        while (w->first)
            letter_free(next(w));
        if (w->cut && is_last(l)) {
            l->next = NULL;
            *w->last = l;
            w->last = &l->next;
            cut(w);
        } else if (w->cut) {
            letter_free(l);
        } else {
            gen_arrive(l);
        }
        return;
    }
    if (l->ev.n_text)
        hold_add(&w->hold, l->ev.text, l->ev.n_text);
    l->end = w->hold.text.len;
    l->next = NULL;
    *w->last = l;
    w->last = &l->next;
    w->over = is_last(l);
    if (!w->asking)
        pump(w);
}
