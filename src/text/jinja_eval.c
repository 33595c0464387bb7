/* jinja_eval.c - runs the tree. */
#include <math.h>
#include <string.h>

#include "text/jinja_int.h"

static int eval(struct run *r, struct jv *out, const struct expr *x);
static int run_body(struct run *r, const struct stmt *x);

static struct jv *lookup(const struct run *r, const char *name)
{
    for (struct scope *s = r->scope; s; s = s->up) {
        struct jv *v = jdict_name(&s->vars, name);

        if (v)
            return v;
    }
    return NULL;
}

static struct jv key_of(const char *name)
{
    static const uint8_t none[256];

    return (struct jv){ .type = J_STR, .s = { name, none, strlen(name) } };
}

static int assign(struct run *r, const char *name, struct jv v)
{
    if (strlen(name) > 255)
        return jfail(r, "a name of more than 255 bytes");
    return jdict_set(r, &r->scope->vars, key_of(name), v);
}

/* a, b = v */
static int unpack(struct run *r, const char **names, size_t n, struct jv v)
{
    struct jv list;

    if (n == 1)
        return assign(r, names[0], v);
    if (jiterate(r, &list, v))
        return -1;
    if (list.list->n != n)
        return jfail(r, "%zu values for %zu names", list.list->n, n);
    for (size_t i = 0; i < n; i++)
        if (assign(r, names[i], list.list->v[i]))
            return -1;
    return 0;
}

/* Runs a body whose output becomes a value. */
static int capture(struct run *r, struct jv *out, const struct stmt *body)
{
    struct buf text, marks, *old_out = r->out, *old_marks = r->marks;
    struct scope *scope = pool_get(&r->pool, sizeof(*scope)), *old = r->scope;
    int rc;

    if (!scope)
        return jfail(r, "out of memory");
    scope->up = old;
    r->scope = scope;
    buf_init(&text, JINJA_MEMORY / 4);
    buf_init(&marks, JINJA_MEMORY / 4);
    r->out = &text;
    r->marks = &marks;
    rc = run_body(r, body);
    r->out = old_out;
    r->marks = old_marks;
    r->scope = old;
    if (rc == 0)
        rc = jstr(r, out, text.p, (const uint8_t *)marks.p, text.len);
    buf_release(&text);
    buf_release(&marks);
    return rc;
}

static int call_macro(struct run *r, struct jv *out, const struct jmacro *m, struct jv *args,
                      const char **keys, size_t n)
{
    const struct stmt *d = m->def;
    struct scope *scope = pool_get(&r->pool, sizeof(*scope)), *old = r->scope;
    const int line = r->line;
    bool given[16] = { false };
    int rc = 0;

    if (++r->depth > JINJA_DEPTH)
        return jfail(r, "macros call each other more than %d deep", JINJA_DEPTH);
    if (!scope)
        return jfail(r, "out of memory");
    scope->up = m->scope; /* a macro that is defined in this one may outlive the call */
    r->scope = scope;
    for (size_t i = 0; i < n && rc == 0; i++) {
        size_t at = i;

        if (keys[i])
            for (at = 0; at < d->n && strcmp(d->names[at], keys[i]) != 0; at++)
                ;
        if (at >= d->n && keys[i] && strcmp(keys[i], "caller") == 0)
            rc = assign(r, "caller", args[i]);
        else if (at >= d->n)
            rc = jfail(r, "macro %s: an argument too many", d->name);
        else
            rc = assign(r, d->names[at], args[i]);
        if (rc == 0 && at < d->n)
            given[at] = true;
    }
    struct jv none_left[2] = { { .type = J_NONE } };

    if (rc == 0) /* an argument too many is refused: there are never any */
        rc = jlist_new(r, &none_left[0]) || jdict_new(r, &none_left[1]) ? -1 : 0;
    none_left[0].tuple = true;
    if (rc == 0)
        rc = assign(r, "varargs", none_left[0]) || assign(r, "kwargs", none_left[1]) ? -1 : 0;
    for (size_t i = 0; i < d->n && rc == 0; i++) {
        struct jv v = { .type = J_UNDEF, .name = d->names[i] };

        if (given[i])
            continue;
        if (d->defaults[i])
            rc = eval(r, &v, d->defaults[i]);
        if (rc == 0)
            rc = assign(r, d->names[i], v);
    }
    if (rc == 0)
        rc = capture(r, out, d->body);
    r->scope = old;
    r->line = line;
    r->depth--;
    return rc;
}

static int eval_args(struct run *r, struct jv **out, const struct expr *x)
{
    struct jv *v = pool_get(&r->pool, (x->n + 1) * sizeof(*v));

    if (!v)
        return jfail(r, "out of memory");
    for (size_t i = 0; i < x->n; i++)
        if (eval(r, &v[i], x->args[i]))
            return -1;
    *out = v;
    return 0;
}

static int call(struct run *r, struct jv *out, const struct expr *x)
{
    struct jv self, fn, *args;

    if (x->a->kind == E_ATTR) {
        if (eval(r, &self, x->a->a) || eval_args(r, &args, x))
            return -1;
        r->line = x->line;
        return jmethod(r, out, self, x->a->name, args, x->keys, x->n);
    }
    if (eval(r, &fn, x->a) || eval_args(r, &args, x))
        return -1;
    r->line = x->line;
    if (fn.type == J_MACRO)
        return call_macro(r, out, fn.macro, args, x->keys, x->n);
    if (fn.type == J_FUNC)
        return jfunction(r, out, fn.name, args, x->keys, x->n);
    if (fn.type == J_UNDEF)
        return jfail(r, "%s is not defined", fn.name ? fn.name : "what is called");
    return jfail(r, "%s cannot be called", jtype_name(fn));
}

static bool is_int(struct jv v)
{
    return v.type == J_INT || v.type == J_BOOL;
}

static bool is_number(struct jv v)
{
    return is_int(v) || v.type == J_FLOAT;
}

static int64_t whole(struct jv v)
{
    return v.type == J_INT ? v.i : v.on;
}

static double real(struct jv v)
{
    return v.type == J_FLOAT ? v.f : (double)whole(v);
}

static int concat(struct run *r, struct jv *out, struct jv a, struct jv b)
{
    const size_t n = a.s.n + b.s.n;
    char *p = pool_get(&r->pool, n + 1);
    uint8_t *m = p ? pool_get(&r->pool, n + 1) : NULL;

    if (!m)
        return jfail(r, "more than %zu bytes of values", JINJA_MEMORY);
    memcpy(p, a.s.p, a.s.n);
    memcpy(p + a.s.n, b.s.p, b.s.n);
    memcpy(m, a.s.m, a.s.n);
    memcpy(m + a.s.n, b.s.m, b.s.n);
    *out = (struct jv){ .type = J_STR, .s = { p, m, n } };
    return 0;
}

static int integers(struct run *r, struct jv *out, const char *op, int64_t a, int64_t b)
{
    int64_t v = 0;
    bool over = false;

    if (op[0] == '+') {
        over = __builtin_add_overflow(a, b, &v);
    } else if (op[0] == '-') {
        over = __builtin_sub_overflow(a, b, &v);
    } else if (op[0] == '*') {
        over = __builtin_mul_overflow(a, b, &v);
    } else if (b == 0) {
        return jfail(r, "division by zero");
    } else if (b == -1) {
        over = op[0] == '/' && __builtin_sub_overflow(0, a, &v);
    } else {
        /* Python rounds down */
        const int64_t q = a / b - (a % b != 0 && (a < 0) != (b < 0));

        v = op[0] == '/' ? q : a - q * b;
    }
    *out = (struct jv){ .type = J_INT, .i = v };
    return over ? jfail(r, "a number beyond 64 bits") : 0;
}

static int arithmetic(struct run *r, struct jv *out, const char *op, struct jv a, struct jv b)
{
    const double x = real(a), y = real(b);

    *out = (struct jv){ .type = J_FLOAT };
    if (strcmp(op, "**") == 0) {
        out->f = pow(x, y);
        if (is_int(a) && is_int(b) && y >= 0 && fabs(out->f) < 9e15)
            *out = (struct jv){ .type = J_INT, .i = (int64_t)out->f };
        return 0;
    }
    if (strcmp(op, "/") != 0 && is_int(a) && is_int(b))
        return integers(r, out, op, whole(a), whole(b));
    if ((op[0] == '/' || op[0] == '%') && y == 0)
        return jfail(r, "division by zero");
    out->f = op[0] == '+'   ? x + y
             : op[0] == '-' ? x - y
             : op[0] == '*' ? x * y
             : op[0] == '%' ? x - floor(x / y) * y
             : op[1]        ? floor(x / y)
                            : x / y;
    return 0;
}

static int repeat(struct run *r, struct jv *out, struct jv s, int64_t n)
{
    if (n < 0)
        n = 0;
    if (s.s.n && (size_t)n > JINJA_MEMORY / s.s.n / 4)
        return jfail(r, "a text of more than %zu bytes", JINJA_MEMORY / 4);
    const size_t len = s.s.n * (size_t)n;
    char *p = pool_get(&r->pool, len + 1);
    uint8_t *m = p ? pool_get(&r->pool, len + 1) : NULL;

    if (!m)
        return jfail(r, "more than %zu bytes of values", JINJA_MEMORY);
    for (size_t i = 0; s.s.n && i < (size_t)n; i++) {
        memcpy(p + i * s.s.n, s.s.p, s.s.n);
        memcpy(m + i * s.s.n, s.s.m, s.s.n);
    }
    *out = (struct jv){ .type = J_STR, .s = { p, m, len } };
    return 0;
}

static int repeat_list(struct run *r, struct jv *out, struct jv list, int64_t n)
{
    if (jlist_new(r, out))
        return -1;
    out->tuple = list.tuple;
    for (int64_t i = 0; list.list->n && i < n; i++)
        for (size_t k = 0; k < list.list->n; k++)
            if (jstep(r) || jlist_add(r, out->list, list.list->v[k]))
                return -1;
    return 0;
}

static int binary(struct run *r, struct jv *out, const char *op, struct jv a, struct jv b)
{
    if (op[0] == '~') {
        if (jprint(r, &a, a, false) || jprint(r, &b, b, false))
            return -1;
        return concat(r, out, a, b);
    }
    if (is_number(a) && is_number(b))
        return arithmetic(r, out, op, a, b);
    if (op[0] == '+' && a.type == J_STR && b.type == J_STR)
        return concat(r, out, a, b);
    if (op[0] == '+' && a.type == J_LIST && b.type == J_LIST && a.tuple == b.tuple) {
        if (jlist_new(r, out))
            return -1;
        out->tuple = a.tuple;
        for (size_t i = 0; i < a.list->n + b.list->n; i++) {
            const struct jv v = i < a.list->n ? a.list->v[i] : b.list->v[i - a.list->n];

            if (jstep(r) || jlist_add(r, out->list, v))
                return -1;
        }
        return 0;
    }
    if (strcmp(op, "*") == 0 && a.type == J_STR && is_int(b))
        return repeat(r, out, a, whole(b));
    if (strcmp(op, "*") == 0 && b.type == J_STR && is_int(a))
        return repeat(r, out, b, whole(a));
    if (strcmp(op, "*") == 0 && a.type == J_LIST && is_int(b))
        return repeat_list(r, out, a, whole(b));
    if (strcmp(op, "*") == 0 && b.type == J_LIST && is_int(a))
        return repeat_list(r, out, b, whole(a));
    if (op[0] == '%' && a.type == J_STR && (b.type != J_DICT || !b.mutable)) {
        const bool many = b.type == J_LIST && b.tuple;

        return jformat(r, out, a, many ? b.list->v : &b, many ? b.list->n : 1);
    }
    if (a.type == J_UNDEF || b.type == J_UNDEF) {
        const char *name = a.type == J_UNDEF ? a.name : b.name;

        return jfail(r, "%s is not defined", name ? name : "a value");
    }
    return jfail(r, "%s and %s have no %s", jtype_name(a), jtype_name(b), op);
}

int jplus(struct run *r, struct jv *out, struct jv a, struct jv b)
{
    return binary(r, out, "+", a, b);
}

static int compare(struct run *r, struct jv *out, const char *op, struct jv a, struct jv b)
{
    bool yes;
    int c;

    if (strcmp(op, "==") == 0 || strcmp(op, "!=") == 0) {
        yes = jequal(a, b) == (op[0] == '=');
    } else if (strcmp(op, "in") == 0 || strcmp(op, "not in") == 0) {
        if (jcontains(r, &yes, b, a))
            return -1;
        yes = yes == (op[0] == 'i');
    } else {
        if (jcompare(r, a, b, &c))
            return -1;
        yes = op[0] == '<' ? c < 0 || (c == 0 && op[1]) : c > 0 || (c == 0 && op[1]);
    }
    *out = (struct jv){ .type = J_BOOL, .on = yes };
    return 0;
}

static int negate(struct run *r, struct jv *out, const struct expr *x)
{
    if (eval(r, out, x->a))
        return -1;
    if (!is_number(*out))
        return jfail(r, "%s is no number", jtype_name(*out));
    if (x->kind == E_POS)
        return 0;
    if (out->type == J_FLOAT)
        out->f = -out->f;
    else
        return integers(r, out, "-", 0, whole(*out));
    return 0;
}

static int collect(struct run *r, struct jv *out, const struct expr *x)
{
    if (x->kind == E_DICT) {
        if (jdict_new(r, out))
            return -1;
        for (size_t i = 0; i + 1 < x->n; i += 2) {
            struct jv k, v;

            if (eval(r, &k, x->args[i]) || eval(r, &v, x->args[i + 1]) ||
                jdict_set(r, out->dict, k, v))
                return -1;
        }
        return 0;
    }
    if (jlist_new(r, out))
        return -1;
    out->tuple = x->kind == E_TUPLE;
    for (size_t i = 0; i < x->n; i++) {
        struct jv v;

        if (eval(r, &v, x->args[i]) || jlist_add(r, out->list, v))
            return -1;
    }
    return 0;
}

static int eval_name(struct run *r, struct jv *out, const char *name)
{
    const struct jv *v = lookup(r, name);

    *out = v                       ? *v
           : jfunction_known(name) ? (struct jv){ .type = J_FUNC, .name = name }
                                   : (struct jv){ .type = J_UNDEF, .name = name };
    return 0;
}

static int eval_slice(struct run *r, struct jv *out, const struct expr *x)
{
    struct jv a, part[3] = { { .type = J_NONE }, { .type = J_NONE }, { .type = J_NONE } };
    const struct expr *of[] = { x->b, x->c, x->d };

    if (eval(r, &a, x->a))
        return -1;
    for (size_t i = 0; i < 3; i++)
        if (of[i] && eval(r, &part[i], of[i]))
            return -1;
    /* jinja2 folds constants, and then knows no error */
    if ((x->a->kind == E_LIT || x->a->kind == E_DICT) && a.type != J_LIST && a.type != J_STR) {
        *out = (struct jv){ .type = J_UNDEF };
        return 0;
    }
    return jslice(r, out, a, part[0], part[1], part[2]);
}

static int eval_call_like(struct run *r, struct jv *out, const struct expr *x)
{
    struct jv a, *args;

    if (x->kind == E_CALL)
        return call(r, out, x);
    if (eval(r, &a, x->a) || eval_args(r, &args, x))
        return -1;
    r->line = x->line;
    if (x->kind == E_FILTER)
        return jfilter(r, out, x->name, a, args, x->keys, x->n);
    *out = (struct jv){ .type = J_BOOL };
    return jtest(r, &out->on, x->name, a, args, x->n);
}

static int eval_one(struct run *r, struct jv *out, const struct expr *x)
{
    struct jv a, b;

    switch (x->kind) {
    case E_LIT:
        *out = x->value;
        return 0;
    case E_NAME:
        return eval_name(r, out, x->name);
    case E_ATTR:
        return eval(r, &a, x->a) ? -1 : jattr(r, out, a, x->name);
    case E_ITEM:
        return eval(r, &a, x->a) || eval(r, &b, x->b) ? -1 : jitem(r, out, a, b);
    case E_SLICE:
        return eval_slice(r, out, x);
    case E_CALL:
    case E_FILTER:
    case E_TEST:
        return eval_call_like(r, out, x);
    case E_NOT:
        if (eval(r, &a, x->a))
            return -1;
        *out = (struct jv){ .type = J_BOOL, .on = !jtrue(a) };
        return 0;
    case E_NEG:
    case E_POS:
        return negate(r, out, x);
    case E_BIN:
        return eval(r, &a, x->a) || eval(r, &b, x->b) ? -1 : binary(r, out, x->name, a, b);
    case E_COMPARE:
        return eval(r, &a, x->a) || eval(r, &b, x->b) ? -1 : compare(r, out, x->name, a, b);
    case E_AND:
    case E_OR:
        if (eval(r, out, x->a))
            return -1;
        return jtrue(*out) == (x->kind == E_AND) ? eval(r, out, x->b) : 0;
    case E_IF:
        if (eval(r, &a, x->a))
            return -1;
        if (jtrue(a))
            return eval(r, out, x->b);
        *out = (struct jv){ .type = J_UNDEF };
        return x->c ? eval(r, out, x->c) : 0;
    default:
        return collect(r, out, x);
    }
}

static int eval(struct run *r, struct jv *out, const struct expr *x)
{
    int rc;

    if (x->line)
        r->line = x->line;
    if (jstep(r))
        return -1;
    /* the parser's depth bounds nesting, but not a chain of filters or operators */
    if (++r->depth > JINJA_DEPTH * 20)
        return jfail(r, "an expression that is too long");
    rc = eval_one(r, out, x);
    r->depth--;
    return rc;
}

/* ---- statements ---- */

static int emit(struct run *r, struct jv v)
{
    if (v.type == J_UNDEF)
        return 0;
    if (jprint(r, &v, v, false))
        return -1;
    buf_add(r->out, v.s.p, v.s.n);
    buf_add(r->marks, v.s.m, v.s.n);
    return r->out->full ? jfail(r, "more than %zu bytes of output", r->out->max) : 0;
}

static int set_loop(struct run *r, const struct jlist *l, size_t i, struct jv changed, int depth)
{
    const struct {
        const char *name;
        int64_t v;
    } numbers[] = {
        { "index", (int64_t)i + 1 },
        { "index0", (int64_t)i },
        { "revindex", (int64_t)(l->n - i) },
        { "revindex0", (int64_t)(l->n - i - 1) },
        { "length", (int64_t)l->n },
        { "depth", depth },
        { "depth0", depth - 1 },
    };
    struct jv loop;

    if (jdict_new(r, &loop))
        return -1;
    for (size_t k = 0; k < ARRAY_LEN(numbers); k++)
        if (jdict_set(r, loop.dict, key_of(numbers[k].name),
                      (struct jv){ .type = J_INT, .i = numbers[k].v }))
            return -1;
    if (jdict_set(r, loop.dict, key_of("first"), (struct jv){ .type = J_BOOL, .on = i == 0 }) ||
        jdict_set(r, loop.dict, key_of("last"), (struct jv){ .type = J_BOOL, .on = i + 1 == l->n }))
        return -1;
    if (jdict_set(r, loop.dict, key_of("cycle"),
                  (struct jv){ .type = J_FUNC, .name = "loop.cycle" }))
        return -1;
    if (jdict_set(r, loop.dict, key_of("changed"),
                  (struct jv){ .type = J_FUNC, .name = "loop.changed" }) ||
        jdict_set(r, loop.dict, key_of(" changed"), changed))
        return -1;
    if (i > 0 && jdict_set(r, loop.dict, key_of("previtem"), l->v[i - 1]))
        return -1;
    if (i + 1 < l->n && jdict_set(r, loop.dict, key_of("nextitem"), l->v[i + 1]))
        return -1;
    return assign(r, "loop", loop);
}

/* The elements that the loop's `if` lets through. */
static int loop_items(struct run *r, struct jv *out, const struct stmt *x)
{
    struct jv all, yes;

    if (eval(r, &all, x->e) || jiterate(r, &all, all))
        return -1;
    if (!x->cond) {
        *out = all;
        return 0;
    }
    if (jlist_new(r, out))
        return -1;
    for (size_t i = 0; i < all.list->n; i++) {
        if (jstep(r) || unpack(r, x->names, x->n, all.list->v[i]) || eval(r, &yes, x->cond))
            return -1;
        if (jtrue(yes) && jlist_add(r, out->list, all.list->v[i]))
            return -1;
    }
    return 0;
}

static int run_for(struct run *r, const struct stmt *x)
{
    struct scope *scope, *old = r->scope;
    bool ended = false;
    struct jv items, changed; /* changed: what loop.changed saw last, over all rounds */
    int rc;

    if (!(scope = pool_get(&r->pool, sizeof(*scope))))
        return jfail(r, "out of memory");
    scope->up = old;
    r->scope = scope;
    rc = loop_items(r, &items, x) || jlist_new(r, &changed) ? -1 : 0;
    for (size_t i = 0; rc == 0 && i < items.list->n && r->flow != 1; i++) {
        /* each round has its own variables */
        if (!(scope = pool_get(&r->pool, sizeof(*scope)))) {
            rc = jfail(r, "out of memory");
            break;
        }
        scope->up = old;
        r->scope = scope;
        r->line = x->line;
        if (jstep(r) || set_loop(r, items.list, i, changed, 1) ||
            unpack(r, x->names, x->n, items.list->v[i]) || run_body(r, x->body))
            rc = -1;
        ended |= r->flow == 0;
        if (r->flow == 2)
            r->flow = 0;
    }
    r->flow = 0;
    r->scope = old;
    if (rc == 0 && !ended) /* jinja2's `else`: no round came to its end */
        rc = run_body(r, x->other);
    return rc;
}

static int run_set(struct run *r, const struct stmt *x)
{
    struct jv v, *ns;

    if (x->e ? eval(r, &v, x->e) : capture(r, &v, x->body))
        return -1;
    if (!x->attr)
        return unpack(r, x->names, x->n, v);
    ns = lookup(r, x->names[0]);
    if (!ns || ns->type != J_DICT || !ns->mutable)
        return jfail(r, "%s is not a namespace", x->names[0]);
    if (strlen(x->attr) > 255)
        return jfail(r, "a name of more than 255 bytes");
    return jdict_set(r, ns->dict, key_of(x->attr), v);
}

/* Values are those outside of it. */
static int run_with(struct run *r, const struct stmt *x)
{
    struct scope *old = r->scope, *scope = pool_get(&r->pool, sizeof(*scope));
    struct jv v;
    int rc = 0;

    if (!scope)
        return jfail(r, "out of memory");
    scope->up = old;
    for (size_t i = 0; i < x->n && rc == 0; i++) {
        rc = eval(r, &v, x->defaults[i]);
        r->scope = scope;
        if (rc == 0)
            rc = assign(r, x->names[i], v);
        r->scope = old;
    }
    r->scope = scope;
    if (rc == 0)
        rc = run_body(r, x->body);
    r->scope = old;
    return rc;
}

static int run_stmt(struct run *r, const struct stmt *x)
{
    struct jmacro *m;
    struct jv v;

    switch (x->kind) {
    case S_TEXT:
        return emit(r, x->text);
    case S_PRINT:
        return eval(r, &v, x->e) ? -1 : emit(r, v);
    case S_IF:
        if (eval(r, &v, x->e))
            return -1;
        return run_body(r, jtrue(v) ? x->body : x->other);
    case S_FOR:
        return run_for(r, x);
    case S_SET:
        return run_set(r, x);
    case S_WITH:
        return run_with(r, x);
    case S_MACRO:
        if (!(m = pool_get(&r->pool, sizeof(*m))))
            return jfail(r, "out of memory");
        *m = (struct jmacro){ x, r->scope };
        return assign(r, x->name, (struct jv){ .type = J_MACRO, .macro = m });
    default:
        r->flow = x->kind == S_BREAK ? 1 : 2;
        return 0;
    }
}

static int run_body(struct run *r, const struct stmt *x)
{
    for (; x && !r->flow; x = x->next) {
        r->line = x->line;
        if (jstep(r) || run_stmt(r, x))
            return -1;
    }
    return 0;
}

int jinja_render(const struct jinja *t, const struct jinja_vars *vars, struct buf *text,
                 struct buf *marks, struct err *e)
{
    struct scope top = { 0 };
    struct run r = {
        .out = text, .marks = marks, .scope = &top, .line = 1, .now = vars->now, .e = e
    };
    int rc = 0;

    for (size_t i = 0; i < vars->n && rc == 0; i++) {
        struct jv v;

        rc = jlit(&r, &v, vars->values[i], strlen(vars->values[i]), 0) ||
                     assign(&r, vars->names[i], v)
                 ? -1
                 : 0;
    }
    if (rc == 0 && !json_is_object(vars->request))
        rc = err_set(e, ERR_USAGE, "request: not an object");
    if (rc == 0) {
        struct jv request;

        rc = jfrom_json(&r, &request, vars->request);
        for (size_t i = 0; rc == 0 && i < request.dict->n; i++)
            rc = jdict_set(&r, &top.vars, request.dict->k[i], request.dict->v[i]);
    }
    if (rc == 0)
        rc = run_body(&r, t->body);
    pool_release(&r.pool);
    return rc;
}
