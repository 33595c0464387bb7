/* talk_guard.c - guards in `puna run`: questions before the model sees them, answers before a
 * reader does. */
#include <stdio.h>

#include "cmd/common.h"
#include "cmd/run_int.h"

void guard_note(const char *what, const struct finding *f)
{
    struct buf b;

    buf_init(&b, 1024);
    finding_say(f, &b);
    progress_end();
    fflush(stdout);
    fprintf(stderr, "note: %s; %s\n", what, b.p);
    buf_release(&b);
}

int guard_question(struct talk *t, const json_t *messages, struct gen_result *out, struct err *e)
{
    struct finding f;

    if (!guards_judge_input(t->guards))
        return 0;
    if (guards_user(t->guards, messages, &f, e))
        return -1;
    if (!f.bad)
        return 0;
    guard_note("the question is refused", &f);
    *out = (struct gen_result){ .finish = FINISH_FILTER, .stop_id = -1 };
    buf_init(&out->text, 1);
    return 1;
}

void filter_open(struct filter *f, struct talk *t, const json_t *messages,
                 void (*on_text)(void *arg, const char *p, size_t n), void *arg)
{
    *f = (struct filter){ .t = t, .messages = messages, .on_text = on_text, .arg = arg };
    hold_init(&f->hold);
}

volatile sig_atomic_t *filter_cancel(struct filter *f)
{
    return f->t->cancel ? f->t->cancel : &f->stop;
}

static void release(struct filter *f, size_t to)
{
    if (f->on_text && to > f->hold.judged)
        f->on_text(f->arg, f->hold.text.p + f->hold.judged, to - f->hold.judged);
    f->hold.judged = to;
}

static void judge(struct filter *f, bool last)
{
    size_t due;

    while (!f->failed && !f->found.bad && (due = hold_due(&f->hold, last)) > 0) {
        if (guards_turn(f->t->guards, f->messages, f->hold.text.p, due, &f->found, NULL, &f->err))
            f->failed = true;
        else if (!f->found.bad)
            release(f, due);
    }
    if (f->failed || f->found.bad)
        *filter_cancel(f) = 1;
}

void filter_text(struct filter *f, const char *p, size_t n)
{
    hold_add(&f->hold, p, n);
    if (guards_judge_output(f->t->guards))
        judge(f, false);
    else
        release(f, f->hold.text.len);
}

int filter_end(struct filter *f, struct gen_result *r, struct err *e)
{
    if (guards_judge_output(f->t->guards))
        judge(f, true);
    if (f->failed) {
        *e = f->err;
        return -1;
    }
    if (f->found.bad) {
        guard_note("the answer is cut", &f->found);
        r->finish = FINISH_FILTER;
        buf_clear(&r->text);
        buf_add(&r->text, f->hold.text.p, f->hold.judged);
    }
    return 0;
}

void filter_close(struct filter *f)
{
    hold_release(&f->hold);
}
