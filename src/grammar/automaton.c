#include "grammar/automaton.h"

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/utf8.h"

enum { NEST_MAX = 2048 }; /* of expressions; parsers stop long before */

struct maker {
    const struct exprs *x;
    struct node *node;
    size_t n, cap;
    uint32_t *start; /* of each rule, then of repeated parts */
    size_t n_starts, cap_starts;
    int depth;
    bool full;
};

static uint32_t add(struct maker *m, struct node node)
{
    if (m->n == NODES_MAX) {
        m->full = true;
        return 0;
    }
    if (m->n == m->cap) {
        m->cap = m->cap ? 2 * m->cap : 256;
        m->node = xrealloc(m->node, m->cap * sizeof(*m->node));
    }
    m->node[m->n] = node;
    return (uint32_t)m->n++;
}

static uint32_t take(struct maker *m, uint8_t lo, uint8_t hi, uint32_t next)
{
    return add(m, (struct node){ .kind = NODE_BYTE, .lo = lo, .hi = hi, .next = next });
}

static uint32_t fork_to(struct maker *m, uint32_t a, uint32_t b)
{
    return add(m, (struct node){ .kind = NODE_FORK, .next = a, .other = b });
}

/* `other` is a rule's number until all rules have been made. */
static uint32_t call(struct maker *m, uint32_t rule, uint32_t next)
{
    return add(m, (struct node){ .kind = NODE_CALL, .next = next, .other = rule });
}

/* ---- characters as UTF-8 ---- */

/* Characters lo..hi, as an alternative to *all (SIZE_MAX: the first). */
static void take_chars(struct maker *m, int32_t lo, int32_t hi, uint32_t next, size_t *all)
{
    static const int32_t last[] = { 0x7F, 0x7FF, 0xFFFF };
    char a[4], b[4];

    for (size_t i = 0; i < ARRAY_LEN(last); i++)
        if (lo <= last[i] && hi > last[i]) {
            take_chars(m, lo, last[i], next, all);
            take_chars(m, last[i] + 1, hi, next, all);
            return;
        }
    /* until all bytes but the first differing one run over their whole range */
    for (int bits = 6; bits <= 18 && hi > 0x7F; bits += 6) {
        const int32_t mask = (1 << bits) - 1;

        if ((lo & ~mask) == (hi & ~mask))
            break;
        if (lo & mask) {
            take_chars(m, lo, lo | mask, next, all);
            take_chars(m, (lo | mask) + 1, hi, next, all);
            return;
        }
        if ((hi & mask) != mask) {
            take_chars(m, lo, (hi & ~mask) - 1, next, all);
            take_chars(m, hi & ~mask, hi, next, all);
            return;
        }
    }
    const size_t n = utf8_put(a, lo);
    uint32_t at = next;

    utf8_put(b, hi);
    for (size_t i = n; i-- > 0;)
        at = take(m, (uint8_t)a[i], (uint8_t)b[i], at);
    *all = *all == SIZE_MAX ? at : fork_to(m, at, (uint32_t)*all);
}

static uint32_t make_chars(struct maker *m, const struct expr *e, uint32_t next)
{
    size_t all = SIZE_MAX;

    for (uint32_t i = 0; i < e->b; i++)
        take_chars(m, m->x->range[e->a + i].lo, m->x->range[e->a + i].hi, next, &all);
    return (uint32_t)all;
}

/* ---- expressions ---- */

static uint32_t make(struct maker *m, uint32_t id, uint32_t next);

static uint32_t new_start(struct maker *m)
{
    if (m->n_starts == m->cap_starts) {
        m->cap_starts = m->cap_starts ? 2 * m->cap_starts : 64;
        m->start = xrealloc(m->start, m->cap_starts * sizeof(*m->start));
    }
    m->start[m->n_starts] = 0;
    return (uint32_t)m->n_starts++;
}

/* What is one node: cheaper to repeat than to call. */
static bool is_small(const struct exprs *x, const struct expr *e)
{
    return e->kind == X_BYTES || e->kind == X_RULE || (e->kind == X_TEXT && e->b == 1) ||
           (e->kind == X_CHARS && e->b == 1 && x->range[e->a].hi <= 0x7F);
}

/* Repeated parts become rules, so nested counts add up and do not multiply. */
static uint32_t make_repeat(struct maker *m, const struct expr *e, uint32_t next)
{
    const int32_t copies = e->max > e->min ? e->max : e->min + (e->max < 0 && e->min == 0);
    const bool small = is_small(m->x, &m->x->expr[e->a]) || copies <= 1;
    uint32_t rule = 0, at = next;

    if (!small) {
        rule = new_start(m);
        const uint32_t start = make(m, e->a, 0);

        m->start[rule] = start;
    }
    if (e->max < 0) {
        const uint32_t loop = fork_to(m, next, next);

        at = small ? make(m, e->a, loop) : call(m, rule, loop);
        if (!m->full)
            m->node[loop].next = at;
        if (e->min == 0)
            at = loop;
    }
    for (int32_t i = e->max < 0 ? 1 : e->min; i < e->max && !m->full; i++)
        at = fork_to(m, small ? make(m, e->a, at) : call(m, rule, at), next);
    for (int32_t i = e->max < 0 && e->min > 0; i < e->min && !m->full; i++)
        at = small ? make(m, e->a, at) : call(m, rule, at);
    return at;
}

/* The node from which text that matches leads to `next`. */
static uint32_t make(struct maker *m, uint32_t id, uint32_t next)
{
    const struct exprs *x = m->x;
    const struct expr *e = &x->expr[id];
    uint32_t at = next;

    if (m->full || ++m->depth > NEST_MAX) {
        m->full = true;
        return 0;
    }
    for (; e->kind == X_SEQ; e = &x->expr[e->a])
        next = make(m, e->b, next);
    switch (e->kind) {
    case X_NONE: /* a loop without a way out: found not to end */
        at = fork_to(m, 0, 0);
        if (!m->full)
            m->node[at].next = m->node[at].other = at;
        break;
    case X_EMPTY:
        at = next;
        break;
    case X_BYTES:
        at = take(m, (uint8_t)e->a, (uint8_t)e->b, next);
        break;
    case X_CHARS:
        at = make_chars(m, e, next);
        break;
    case X_TEXT:
        at = next;
        for (size_t i = e->b; i-- > 0;) {
            const uint8_t c = (uint8_t)x->text.p[e->a + i];

            at = take(m, c, c, at);
        }
        break;
    case X_ALT: {
        const struct expr *left = &x->expr[e->a];
        uint32_t first = e->a;

        at = make(m, e->b, next);
        for (; left->kind == X_ALT; left = &x->expr[left->a]) {
            at = fork_to(m, make(m, left->b, next), at);
            first = left->a;
        }
        at = fork_to(m, make(m, first, next), at);
        break;
    }
    case X_REPEAT:
        at = make_repeat(m, e, next);
        break;
    case X_RULE:
        at = call(m, e->a, next);
        break;
    default:
        BUG("expression of kind %d", (int)e->kind);
    }
    m->depth--;
    return at;
}

/* ---- checks ---- */

struct graph {
    const struct node *node;
    size_t n;
    uint32_t *first, *from; /* the nodes that depend on i: from[first[i]..first[i + 1]) */
};

static void graph_init(struct graph *g, const struct node *node, size_t n)
{
    *g = (struct graph){ .node = node, .n = n };
    g->first = xcalloc(n + 2, sizeof(*g->first));
    g->from = xcalloc(2 * n, sizeof(*g->from));
    for (size_t i = 1; i < n; i++) {
        g->first[node[i].next + 2]++;
        if (node[i].kind != NODE_BYTE)
            g->first[node[i].other + 2]++;
    }
    for (size_t i = 2; i < n + 2; i++)
        g->first[i] += g->first[i - 1];
    for (size_t i = 1; i < n; i++) {
        g->from[g->first[node[i].next + 1]++] = (uint32_t)i;
        if (node[i].kind != NODE_BYTE)
            g->from[g->first[node[i].other + 1]++] = (uint32_t)i;
    }
}

static void graph_release(struct graph *g)
{
    free(g->first);
    free(g->from);
}

/* Marks the nodes from which some text leads to the end of their rule; without bytes, the empty
 * text. */
static void solve(const struct graph *g, bool bytes, bool *yes)
{
    uint32_t *todo = xmalloc((g->n + 1) * sizeof(*todo));
    size_t n = 0;

    memset(yes, 0, g->n * sizeof(*yes));
    yes[0] = true;
    todo[n++] = 0;
    while (n) {
        const uint32_t i = todo[--n];

        for (uint32_t k = g->first[i]; k < g->first[i + 1]; k++) {
            const uint32_t at = g->from[k];
            const struct node *a = &g->node[at];
            const bool now = a->kind == NODE_BYTE   ? bytes && yes[a->next]
                             : a->kind == NODE_FORK ? yes[a->next] || yes[a->other]
                                                    : yes[a->next] && yes[a->other];

            if (!yes[at] && now) {
                yes[at] = true;
                todo[n++] = at;
            }
        }
    }
    free(todo);
}

/* Which rules a rule may call before it has taken a byte: to[first[r]..first[r + 1]). */
struct calls {
    uint32_t *first, *to;
};

static void calls_init(struct calls *c, const struct maker *m, const bool *empty)
{
    uint32_t *todo = xmalloc((m->n + 1) * sizeof(*todo));
    uint32_t *rule_at = xcalloc(m->n, sizeof(*rule_at));
    bool *seen = xcalloc(m->n, sizeof(*seen));
    uint32_t n = 0;

    c->first = xcalloc(m->n_starts + 1, sizeof(*c->first));
    c->to = xmalloc(m->n * sizeof(*c->to));
    for (size_t r = 0; r < m->n_starts; r++)
        rule_at[m->start[r]] = (uint32_t)r;
    seen[0] = true; /* an end; and what is empty calls nothing */
    for (size_t r = 0; r < m->n_starts; r++) {
        size_t left = 0;

        todo[left++] = m->start[r];
        while (left) {
            const uint32_t i = todo[--left];
            const struct node *a = &m->node[i];

            if (seen[i])
                continue;
            seen[i] = true;
            if (a->kind == NODE_CALL && a->other)
                c->to[n++] = rule_at[a->other];
            if (a->kind == NODE_FORK && !seen[a->other])
                todo[left++] = a->other;
            if ((a->kind == NODE_FORK || (a->kind == NODE_CALL && empty[a->other])) &&
                !seen[a->next])
                todo[left++] = a->next;
        }
        c->first[r + 1] = n;
    }
    free(todo);
    free(rule_at);
    free(seen);
}

static void calls_release(struct calls *c)
{
    free(c->first);
    free(c->to);
}

/* A rule that comes to itself along such calls (one with a name, if there is one on the way), or
 * SIZE_MAX: depth first, the way kept by hand. */
static size_t find_recursion(const struct calls *c, const struct maker *m)
{
    uint8_t *seen = xcalloc(m->n_starts, 1); /* 1 = on the way, 2 = done */
    uint32_t *way = xmalloc(m->n_starts * sizeof(*way));
    uint32_t *at = xmalloc(m->n_starts * sizeof(*at));
    size_t found = SIZE_MAX;

    for (size_t r = 0; r < m->n_starts && found == SIZE_MAX; r++) {
        size_t n = 0;

        if (!seen[r]) {
            seen[r] = 1;
            at[n] = c->first[r];
            way[n++] = (uint32_t)r;
        }
        while (n && found == SIZE_MAX) {
            const uint32_t i = way[n - 1];

            if (at[n - 1] == c->first[i + 1]) {
                seen[i] = 2;
                n--;
                continue;
            }
            const uint32_t to = c->to[at[n - 1]++];

            if (seen[to] == 1) {
                found = to;
                for (size_t k = n; k-- > 0 && way[k] != to;)
                    if (way[k] < m->x->n_rules && m->x->rule[way[k]].name)
                        found = way[k];
            } else if (seen[to] == 0) {
                seen[to] = 1;
                at[n] = c->first[to];
                way[n++] = to;
            }
        }
    }
    free(seen);
    free(way);
    free(at);
    return found;
}

static const char *name_of(const struct maker *m, size_t rule)
{
    return rule < m->x->n_rules ? m->x->rule[rule].name : NULL;
}

static int check_rules(const struct maker *m, const bool *ends, const bool *empty, struct err *e)
{
    struct calls c;
    size_t bad;

    for (size_t r = 0; r < m->n_starts; r++)
        if (name_of(m, r) && !ends[m->start[r]])
            return err_set(e, ERR_USAGE, "rule '%.40s' has no end: no text matches it",
                           name_of(m, r));
    if (!ends[m->start[0]])
        return err_set(e, ERR_USAGE, "no text matches it");
    calls_init(&c, m, empty);
    bad = find_recursion(&c, m);
    calls_release(&c);
    if (bad != SIZE_MAX)
        return err_set(e, ERR_USAGE,
                       "rule '%.40s' can call itself before it takes a byte (left recursion): "
                       "write it as a repetition",
                       name_of(m, bad) ? name_of(m, bad) : "(unnamed)");
    return 0;
}

static void find_classes(struct automaton *a)
{
    bool cut[257] = { true };

    for (size_t i = 1; i < a->n; i++)
        if (a->node[i].kind == NODE_BYTE)
            cut[a->node[i].lo] = cut[a->node[i].hi + 1] = true;
    for (size_t c = 0; c < 256; c++) {
        if (cut[c])
            a->a_byte[a->n_classes++] = (uint8_t)c;
        a->class_of[c] = (uint8_t)(a->n_classes - 1);
    }
}

int automaton_new(struct automaton *out, const struct exprs *x, struct err *e)
{
    struct maker m = { .x = x, .full = x->full };
    int rc = -1;

    BUG_ON(x->n_rules == 0 && !x->full);
    add(&m, (struct node){ .kind = NODE_END });
    for (size_t i = 0; i < x->n_rules; i++)
        new_start(&m);
    for (size_t i = 0; i < x->n_rules && !m.full; i++) {
        const uint32_t at = make(&m, x->rule[i].body, 0);

        m.start[i] = at;
    }
    if (m.full) {
        err_set(e, ERR_USAGE, "it is too large: more than %d states or %d parts", NODES_MAX,
                EXPR_MAX);
        goto done;
    }
    for (size_t i = 1; i < m.n; i++)
        if (m.node[i].kind == NODE_CALL)
            m.node[i].other = m.start[m.node[i].other];

    struct graph g;
    bool *ends = xmalloc(m.n), *empty = xmalloc(m.n);

    graph_init(&g, m.node, m.n);
    solve(&g, true, ends);
    solve(&g, false, empty);
    rc = check_rules(&m, ends, empty, e);
    if (rc == 0) {
        for (size_t i = 0; i < m.n; i++)
            m.node[i].ends = ends[i];
        *out = (struct automaton){ .node = m.node, .n = m.n, .start = m.start[0] };
        find_classes(out);
        m.node = NULL;
    }
    graph_release(&g);
    free(ends);
    free(empty);
done:
    free(m.node);
    free(m.start);
    return rc;
}

void automaton_release(struct automaton *a)
{
    free(a->node);
    *a = (struct automaton){ 0 };
}
