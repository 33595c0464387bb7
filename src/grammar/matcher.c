#include "grammar/matcher.h"

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

enum { NO_STEP = UINT32_MAX };

/* Where to go on when a rule has ended. A stack is a list of these, each list once: number 0 is the
 * empty one, and parents have lower numbers. */
struct frame {
    uint32_t node, parent, depth;
};

/* One way to read the text: about to take a byte at `node`, with the calls in `stack`. */
struct item {
    uint32_t node, stack;
};

struct state {
    size_t first; /* in item[] */
    uint32_t n;
    bool accepts;
    uint32_t *step; /* by class; NO_STEP = not known; NULL = none is; owned */
    uint64_t *mask; /* owned */
};

/* A hash index: slots hold numbers plus 1. */
struct index {
    uint32_t *slot;
    size_t mask;
};

struct states {
    struct automaton a;
    struct matcher *matchers;
    struct frame *frame;
    size_t n_frames, cap_frames;
    struct item *item;
    size_t n_items, cap_items;
    struct state *state; /* 0 = dead, 1 = the start */
    size_t n, cap;
    struct index by_frame, by_items;
    size_t room, used; /* bytes, near enough */
    size_t n_words;    /* of a mask */
    bool cut;          /* a limit was met */
    /* of one step */
    struct item *todo, *work;
    size_t n_todo, cap_todo, n_work, cap_work;
    struct index seen;
    uint32_t *touched; /* slots of seen in use */
    size_t n_touched, cap_touched;
};

static uint64_t mix(uint64_t x)
{
    x ^= x >> 31;
    x *= 0x9E3779B97F4A7C15u;
    x ^= x >> 29;
    return x * 0xBF58476D1CE4E5B9u;
}

static uint64_t hash_pair(uint32_t a, uint32_t b)
{
    return mix((uint64_t)a << 32 | b) >> 16;
}

static uint64_t hash_items(const struct item *p, size_t n, bool accepts)
{
    uint64_t h = accepts + 2 * n;

    for (size_t i = 0; i < n; i++)
        h = mix(h + ((uint64_t)p[i].node << 32 | p[i].stack));
    return h >> 16;
}

static void index_init(struct index *x, size_t n)
{
    size_t size = 64;

    while (size < 2 * n)
        size *= 2;
    x->slot = xcalloc(size, sizeof(*x->slot));
    x->mask = size - 1;
}

static void index_put(struct index *x, uint64_t hash, uint32_t number)
{
    size_t i = hash & x->mask;

    while (x->slot[i])
        i = (i + 1) & x->mask;
    x->slot[i] = number + 1;
}

/* ---- stacks ---- */

static void index_frames(struct states *s)
{
    free(s->by_frame.slot);
    index_init(&s->by_frame, 2 * s->n_frames);
    for (size_t i = 1; i < s->n_frames; i++)
        index_put(&s->by_frame, hash_pair(s->frame[i].node, s->frame[i].parent), (uint32_t)i);
}

/* The stack with one more call on it; 0 = too deep. */
static uint32_t push(struct states *s, uint32_t node, uint32_t parent)
{
    const uint64_t h = hash_pair(node, parent);
    const uint32_t depth = s->frame[parent].depth + 1;

    for (size_t i = h & s->by_frame.mask; s->by_frame.slot[i]; i = (i + 1) & s->by_frame.mask) {
        const uint32_t k = s->by_frame.slot[i] - 1;

        if (s->frame[k].node == node && s->frame[k].parent == parent)
            return k;
    }
    if (depth > STACK_DEPTH_MAX) {
        s->cut = true;
        return 0;
    }
    if (s->n_frames == s->cap_frames)
        s->frame = xrealloc(s->frame, (s->cap_frames *= 2) * sizeof(*s->frame));
    s->frame[s->n_frames] = (struct frame){ .node = node, .parent = parent, .depth = depth };
    s->used += sizeof(*s->frame) + 2 * sizeof(uint32_t);
    if (2 * ++s->n_frames > s->by_frame.mask)
        index_frames(s);
    else
        index_put(&s->by_frame, h, (uint32_t)s->n_frames - 1);
    return (uint32_t)s->n_frames - 1;
}

/* ---- one step ---- */

static void work_clear(struct states *s)
{
    for (size_t i = 0; i < s->n_touched; i++)
        s->seen.slot[s->touched[i]] = 0;
    s->n_touched = s->n_todo = s->n_work = 0;
}

/* To be looked at, unless it has been. seen holds places in work[] (plus 1). */
static void want(struct states *s, uint32_t node, uint32_t stack)
{
    size_t i;

    if (!s->a.node[node].ends)
        return;
    for (i = hash_pair(node, stack) & s->seen.mask; s->seen.slot[i]; i = (i + 1) & s->seen.mask) {
        const struct item *w = &s->work[s->seen.slot[i] - 1];

        if (w->node == node && w->stack == stack)
            return;
    }
    if (s->n_work > STATE_WIDTH_MAX)
        return;
    if (s->n_work == s->cap_work)
        s->work = xrealloc(s->work, (s->cap_work *= 2) * sizeof(*s->work));
    if (s->n_todo == s->cap_todo)
        s->todo = xrealloc(s->todo, (s->cap_todo *= 2) * sizeof(*s->todo));
    if (s->n_touched == s->cap_touched)
        s->touched = xrealloc(s->touched, (s->cap_touched *= 2) * sizeof(*s->touched));
    s->work[s->n_work++] = s->todo[s->n_todo++] = (struct item){ node, stack };
    s->seen.slot[i] = (uint32_t)s->n_work;
    s->touched[s->n_touched++] = (uint32_t)i;
}

/* Follows all that needs no byte. True = the text may end. */
static bool close_work(struct states *s)
{
    bool accepts = false;

    while (s->n_todo) {
        const struct item it = s->todo[--s->n_todo];
        const struct node *a = &s->a.node[it.node];
        uint32_t stack;

        switch (a->kind) {
        case NODE_END:
            if (it.stack == 0)
                accepts = true;
            else
                want(s, s->frame[it.stack].node, s->frame[it.stack].parent);
            break;
        case NODE_FORK:
            want(s, a->next, it.stack);
            want(s, a->other, it.stack);
            break;
        case NODE_CALL:
            if (!a->ends)
                break;
            stack = a->next == 0 ? it.stack : push(s, a->next, it.stack);
            if (stack || a->next == 0)
                want(s, a->other, stack);
            break;
        default:
            break;
        }
    }
    return accepts;
}

static int by_node(const void *a, const void *b)
{
    const struct item *x = a, *y = b;

    if (x->node != y->node)
        return x->node < y->node ? -1 : 1;
    return (x->stack > y->stack) - (x->stack < y->stack);
}

static void index_states(struct states *s)
{
    free(s->by_items.slot);
    index_init(&s->by_items, 2 * s->n);
    for (size_t i = 1; i < s->n; i++)
        index_put(&s->by_items,
                  hash_items(s->item + s->state[i].first, s->state[i].n, s->state[i].accepts),
                  (uint32_t)i);
}

/* The number of the state that work[] is. */
static uint32_t settle(struct states *s, bool accepts)
{
    size_t n = 0;
    uint64_t h;

    if (s->n_work > STATE_WIDTH_MAX) {
        s->cut = true;
        return STATE_DEAD;
    }
    for (size_t i = 0; i < s->n_work; i++)
        if (s->a.node[s->work[i].node].kind == NODE_BYTE)
            s->work[n++] = s->work[i];
    if (n == 0 && !accepts)
        return STATE_DEAD;
    qsort(s->work, n, sizeof(*s->work), by_node);
    h = hash_items(s->work, n, accepts);
    for (size_t i = h & s->by_items.mask; s->by_items.slot[i]; i = (i + 1) & s->by_items.mask) {
        const uint32_t k = s->by_items.slot[i] - 1;
        const struct state *t = &s->state[k];

        if (t->n == n && t->accepts == accepts &&
            memcmp(s->item + t->first, s->work, n * sizeof(*s->work)) == 0)
            return k;
    }
    if (s->n == s->cap)
        s->state = xrealloc(s->state, (s->cap *= 2) * sizeof(*s->state));
    while (s->n_items + n > s->cap_items)
        s->item = xrealloc(s->item, (s->cap_items *= 2) * sizeof(*s->item));
    if (n)
        memcpy(s->item + s->n_items, s->work, n * sizeof(*s->work));
    s->state[s->n] = (struct state){ .first = s->n_items, .n = (uint32_t)n, .accepts = accepts };
    s->n_items += n;
    s->used += sizeof(*s->state) + n * sizeof(*s->item) + 2 * sizeof(uint32_t);
    if (2 * ++s->n > s->by_items.mask)
        index_states(s);
    else
        index_put(&s->by_items, h, (uint32_t)s->n - 1);
    return (uint32_t)s->n - 1;
}

static uint32_t compute(struct states *s, uint32_t from, uint8_t byte)
{
    const struct state t = s->state[from];
    uint32_t to;

    for (size_t i = t.first; i < t.first + t.n; i++) {
        const struct node *a = &s->a.node[s->item[i].node];

        if (byte >= a->lo && byte <= a->hi)
            want(s, a->next, s->item[i].stack);
    }
    const bool accepts = close_work(s);

    to = settle(s, accepts);
    work_clear(s);
    return to;
}

uint32_t states_step(struct states *s, uint32_t from, uint8_t byte)
{
    const size_t class = s->a.class_of[byte];

    if (from == STATE_DEAD)
        return STATE_DEAD;
    if (!s->state[from].step) {
        s->state[from].step = xmalloc(s->a.n_classes * sizeof(uint32_t));
        memset(s->state[from].step, 0xFF, s->a.n_classes * sizeof(uint32_t));
        s->used += s->a.n_classes * sizeof(uint32_t);
    }
    if (s->state[from].step[class] == NO_STEP) {
        const uint32_t to = compute(s, from, byte);

        s->state[from].step[class] = to;
    }
    return s->state[from].step[class];
}

bool states_accepts(const struct states *s, uint32_t state)
{
    return s->state[state].accepts;
}

bool states_cut(const struct states *s)
{
    return s->cut;
}

size_t states_width(const struct states *s, uint32_t state)
{
    return s->state[state].n;
}

bool states_final(const struct states *s, uint32_t state)
{
    return s->state[state].n == 0;
}

int states_forced(struct states *s, uint32_t state)
{
    const struct state *t = &s->state[state];
    int byte = -1;

    if (t->accepts || t->n == 0)
        return -1;
    for (size_t i = t->first; i < t->first + t->n; i++) {
        const struct node *a = &s->a.node[s->item[i].node];

        if (a->lo != a->hi || (byte >= 0 && byte != a->lo))
            return -1;
        byte = a->lo;
    }
    return byte;
}

/* ---- opening, masks, trimming ---- */

struct states *states_new(struct automaton *a, size_t room)
{
    struct states *s = xcalloc(1, sizeof(*s));

    s->a = *a;
    *a = (struct automaton){ 0 };
    s->room = room;
    s->cap_frames = s->cap_items = s->cap = s->cap_todo = s->cap_work = s->cap_touched = 64;
    s->frame = xcalloc(s->cap_frames, sizeof(*s->frame));
    s->item = xcalloc(s->cap_items, sizeof(*s->item));
    s->state = xcalloc(s->cap, sizeof(*s->state));
    s->todo = xcalloc(s->cap_todo, sizeof(*s->todo));
    s->work = xcalloc(s->cap_work, sizeof(*s->work));
    s->touched = xcalloc(s->cap_touched, sizeof(*s->touched));
    index_init(&s->seen, STATE_WIDTH_MAX);
    s->n_frames = s->n = 1; /* the empty stack, the dead state */
    index_frames(s);
    index_states(s);
    want(s, s->a.start, 0);
    const bool accepts = close_work(s);

    settle(s, accepts);
    work_clear(s);
    return s;
}

void states_free(struct states *s)
{
    if (!s)
        return;
    BUG_ON(s->matchers);
    for (size_t i = 0; i < s->n; i++) {
        free(s->state[i].step);
        free(s->state[i].mask);
    }
    automaton_release(&s->a);
    free(s->frame);
    free(s->item);
    free(s->state);
    free(s->by_frame.slot);
    free(s->by_items.slot);
    free(s->seen.slot);
    free(s->todo);
    free(s->work);
    free(s->touched);
    free(s);
}

void matcher_begin(struct matcher *m, struct states *s)
{
    *m = (struct matcher){ .state = s->n > 1 ? 1 : STATE_DEAD,
                           .next = s->matchers,
                           .link = &s->matchers };
    if (m->next)
        m->next->link = &m->next;
    s->matchers = m;
}

void matcher_end(struct matcher *m)
{
    if (!m->link)
        return;
    *m->link = m->next;
    if (m->next)
        m->next->link = m->link;
    *m = (struct matcher){ 0 };
}

bool states_has_mask(const struct states *s, uint32_t state)
{
    return s->state[state].mask != NULL;
}

uint64_t *states_mask(struct states *s, uint32_t state, size_t n, bool *found)
{
    struct state *t = &s->state[state];

    *found = t->mask != NULL;
    if (!t->mask) {
        t->mask = xcalloc(n, sizeof(*t->mask));
        s->n_words = n;
        s->used += n * sizeof(*t->mask);
    }
    return t->mask;
}

/* Numbers of what stays, in order; 0 = goes. */
static uint32_t *keep_frames(struct states *s, const uint32_t *new_state)
{
    uint32_t *new = xcalloc(s->n_frames, sizeof(*new));
    size_t n = 1;

    for (size_t i = 1; i < s->n; i++)
        for (size_t k = 0; new_state[i] && k < s->state[i].n; k++)
            for (uint32_t f = s->item[s->state[i].first + k].stack; f && !new[f];
                 f = s->frame[f].parent)
                new[f] = 1;
    for (size_t i = 1; i < s->n_frames; i++) {
        if (!new[i])
            continue;
        new[i] = (uint32_t)n;
        s->frame[n] = s->frame[i];
        s->frame[n++].parent = new[s->frame[i].parent];
    }
    s->n_frames = n;
    return new;
}

void states_trim(struct states *s)
{
    uint32_t *new, *new_frame;
    size_t n = 1, n_items = 0;

    if (s->used <= s->room)
        return;
    new = xcalloc(s->n, sizeof(*new));
    new[1] = 1;
    for (const struct matcher *m = s->matchers; m; m = m->next)
        new[m->state] = 1;
    new[STATE_DEAD] = 0;
    new_frame = keep_frames(s, new);
    for (size_t i = 1; i < s->n; i++) {
        struct state t = s->state[i];

        free(t.step);
        t.step = NULL;
        if (!new[i]) {
            free(t.mask);
            continue;
        }
        new[i] = (uint32_t)n;
        for (size_t k = 0; k < t.n; k++) {
            const struct item it = s->item[t.first + k];

            s->item[n_items + k] = (struct item){ it.node, new_frame[it.stack] };
        }
        t.first = n_items;
        n_items += t.n;
        s->state[n++] = t;
    }
    s->n = n;
    s->n_items = n_items;
    for (struct matcher *m = s->matchers; m; m = m->next)
        m->state = new[m->state];
    index_frames(s);
    index_states(s);
    s->used = s->n_frames * sizeof(*s->frame) + n * sizeof(*s->state) + n_items * sizeof(*s->item);
    for (size_t i = 1; i < n; i++)
        s->used += s->state[i].mask ? s->n_words * sizeof(uint64_t) : 0;
    if (s->used > s->room / 2)
        s->room = 2 * s->used; /* what is in use now does not shrink by trying again */
    free(new);
    free(new_frame);
}
