#include "cmd/opt.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/utf8.h"

enum { MAX_OPTS = 128 };

/* What one opt_parse left behind, found again by the address of its cfg. */
struct parsed {
    struct parsed *next;
    const void *cfg;
    const struct cmd *cmd;
    bool given[MAX_OPTS];
};

static struct parsed *all_parsed; /* main thread only */

bool opt_positional(const struct opt *o)
{
    return o->type == OPT_ARG || o->type == OPT_REST;
}

static bool is_list(const struct opt *o)
{
    return o->type == OPT_LIST || o->type == OPT_WORDS || o->type == OPT_REST;
}

void opt_flag(const struct opt *o, struct buf *out)
{
    buf_adds(out, "--");
    for (const char *s = o->name; *s; s++)
        buf_addc(out, *s == '_' ? '-' : *s);
}

void opt_env(const struct opt *o, struct buf *out)
{
    buf_adds(out, "PUNA_");
    for (const char *s = o->name; *s; s++)
        buf_addc(out, *s >= 'a' && *s <= 'z' ? (char)(*s - 'a' + 'A') : *s);
}

/* Optimal string alignment: a swap of neighbours counts one. */
static size_t edit_distance(const char *a, const char *b)
{
    enum { LONGEST = 48 };
    size_t row[3][LONGEST + 1];
    const size_t n = strlen(a), m = strlen(b);

    if (n > LONGEST || m > LONGEST)
        return SIZE_MAX;
    for (size_t j = 0; j <= m; j++)
        row[0][j] = j;
    for (size_t i = 1; i <= n; i++) {
        size_t *cur = row[i % 3], *prev = row[(i - 1) % 3], *prev2 = row[(i + 1) % 3];

        cur[0] = i;
        for (size_t j = 1; j <= m; j++) {
            size_t d = prev[j - 1] + (a[i - 1] != b[j - 1]);

            if (prev[j] + 1 < d)
                d = prev[j] + 1;
            if (cur[j - 1] + 1 < d)
                d = cur[j - 1] + 1;
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] &&
                prev2[j - 2] + 1 < d)
                d = prev2[j - 2] + 1;
            cur[j] = d;
        }
    }
    return row[n % 3][m];
}

const char *opt_nearest(const char *word, const char *const *cand, size_t n)
{
    const size_t len = strlen(word);
    const char *best = NULL;
    size_t best_d = len / 3 + 1; /* further away is another word, not a slip */

    for (size_t i = 0; i < n; i++) {
        size_t d = edit_distance(word, cand[i]);

        if (len >= 3 && !strncmp(word, cand[i], len))
            d = 1; /* a beginning is near whatever follows */
        if (d < best_d || (d == best_d && !best)) {
            best_d = d;
            best = cand[i];
        }
    }
    return best;
}

/* ---- finding an option by what was typed ---- */

static bool same_name(const char *typed, size_t n, const char *name, size_t m)
{
    if (n != m)
        return false;
    for (size_t i = 0; i < n; i++) {
        const char a = typed[i] == '_' ? '-' : typed[i], b = name[i] == '_' ? '-' : name[i];

        if (a != b)
            return false;
    }
    return true;
}

static bool has_alias(const struct opt *o, const char *typed, size_t n)
{
    const char *s = o->alias;

    while (s && *s) {
        const char *end = strchrnul(s, ',');

        if (same_name(typed, n, s, (size_t)(end - s)))
            return true;
        s = *end ? end + 1 : end;
    }
    return false;
}

/* typed[0..n) with its dashes. *negated: it was --no-NAME of a bool. */
static const struct opt *find_opt(const struct cmd *cmd, const char *typed, size_t n, bool *negated)
{
    const bool is_long = n > 2 && !strncmp(typed, "--", 2);

    *negated = false;
    for (const struct opt *o = cmd->opts; o->name; o++) {
        if (opt_positional(o))
            continue;
        if (is_long && same_name(typed + 2, n - 2, o->name, strlen(o->name)))
            return o;
        if (has_alias(o, typed, n))
            return o;
        if (o->type == OPT_BOOL && n > 5 && same_name(typed, 5, "--no-", 5) &&
            same_name(typed + 5, n - 5, o->name, strlen(o->name))) {
            *negated = true;
            return o;
        }
    }
    return NULL;
}

static int unknown_opt(const struct cmd *cmd, const char *typed, size_t n, struct err *e)
{
    char *word = xmemdup0(typed, n);
    char *names = NULL;
    const char *cand[4 * MAX_OPTS], *near;
    size_t n_cand = 0;
    struct buf b;

    buf_init(&b, 1 << 16);
    for (char *s = word; *s; s++)
        if (*s == '_')
            *s = '-';
    for (const struct opt *o = cmd->opts; o->name; o++) {
        if (opt_positional(o))
            continue;
        opt_flag(o, &b);
        buf_addc(&b, ',');
        if (o->alias) {
            buf_adds(&b, o->alias);
            buf_addc(&b, ',');
        }
    }
    buf_adds(&b, "--help");
    names = buf_take(&b);
    for (char *s, *rest = names; (s = strsep(&rest, ",")) && n_cand < ARRAY_LEN(cand);)
        if (!strncmp(s, "--", 2))
            cand[n_cand++] = s;
    near = opt_nearest(word, cand, n_cand);
    if (near)
        err_set(e, ERR_USAGE, "unknown option '%.*s' of puna %s; did you mean %s?", (int)n, typed,
                cmd->name, near);
    else
        err_set(e, ERR_USAGE, "unknown option '%.*s' of puna %s; see puna %s --help", (int)n, typed,
                cmd->name, cmd->name);
    free(names);
    free(word);
    buf_release(&b);
    return -1;
}

/* ---- values ---- */

static bool is_choice(const char *arg, const char *val)
{
    const size_t n = strlen(val);

    for (const char *s = arg;;) {
        const char *end = strchrnul(s, '|');

        if ((size_t)(end - s) == n && !memcmp(s, val, n))
            return true;
        if (!*end)
            return false;
        s = end + 1;
    }
}

static int set_int(int64_t *out, const struct opt *o, const char *from, const char *val,
                   struct err *e)
{
    char *end;
    long long v;

    errno = 0;
    v = strtoll(val, &end, 10);
    if (end == val || *end || val[0] == ' ')
        return err_set(e, ERR_USAGE, "%s: '%.100s' is not a whole number", from, val);
    if (errno == ERANGE)
        return err_set(e, ERR_USAGE, "%s: %.100s is too large", from, val);
    if ((o->min < o->max) && ((double)v < o->min || (double)v > o->max))
        return err_set(e, ERR_USAGE, "%s: %lld is not within %.0f..%.0f", from, v, o->min, o->max);
    *out = v;
    return 0;
}

static int set_num(double *out, const struct opt *o, const char *from, const char *val,
                   struct err *e)
{
    char *end;
    double v;

    v = strtod(val, &end);
    if (end == val || *end || val[0] == ' ' || strpbrk(val, "xX"))
        return err_set(e, ERR_USAGE, "%s: '%.100s' is not a number", from, val);
    if (!isfinite(v))
        return err_set(e, ERR_USAGE, "%s: '%.100s' is not a finite number", from, val);
    if ((o->min < o->max) && (v < o->min || v > o->max))
        return err_set(e, ERR_USAGE, "%s: %g is not within %g..%g", from, v, o->min, o->max);
    *out = v;
    return 0;
}

static int set_bool(bool *out, const char *from, const char *val, struct err *e)
{
    static const char *const yes[] = { "1", "true", "yes", "on" }, *const no[] = { "0", "false",
                                                                                   "no", "off",
                                                                                   "" };

    for (size_t i = 0; i < ARRAY_LEN(yes); i++)
        if (!strcmp(val, yes[i])) {
            *out = true;
            return 0;
        }
    for (size_t i = 0; i < ARRAY_LEN(no); i++)
        if (!strcmp(val, no[i])) {
            *out = false;
            return 0;
        }
    return err_set(e, ERR_USAGE, "%s: '%.100s' is neither true nor false", from, val);
}

static void list_add(struct opt_list *l, const char *val)
{
    l->p = xrealloc(l->p, (l->n + 1) * sizeof(*l->p));
    l->p[l->n++] = val;
}

/* `from` names the source in messages: "--seed", "PUNA_SEED". */
static int set_value(void *cfg, const struct opt *o, const char *from, const char *val,
                     struct err *e)
{
    void *field = (char *)cfg + o->offset;

    if (!utf8_valid(val, strlen(val)))
        return err_set(e, ERR_USAGE, "%s: the value is not valid UTF-8", from);
    if (o->arg && strchr(o->arg, '|') && !is_choice(o->arg, val))
        return err_set(e, ERR_USAGE, "%s: '%.100s' is none of %s", from, val, o->arg);
    switch (o->type) {
    case OPT_BOOL:
        return set_bool(field, from, val, e);
    case OPT_INT:
        return set_int(field, o, from, val, e);
    case OPT_NUM:
        return set_num(field, o, from, val, e);
    case OPT_STR:
    case OPT_ARG:
        *(const char **)field = val;
        return 0;
    case OPT_LIST:
    case OPT_WORDS:
    case OPT_REST:
        list_add(field, val);
        return 0;
    }
    BUG("option type %d", (int)o->type);
}

/* ---- the record of a parse ---- */

static struct parsed *parsed_of(const void *cfg)
{
    struct parsed *p = all_parsed;

    while (p && p->cfg != cfg)
        p = p->next;
    return p;
}

bool opt_given(const void *cfg, const char *name)
{
    const struct parsed *p = parsed_of(cfg);

    BUG_ON(!p);
    for (size_t i = 0; p->cmd->opts[i].name; i++)
        if (!strcmp(p->cmd->opts[i].name, name))
            return p->given[i];
    BUG("puna %s has no option %s", p->cmd->name, name);
}

void opt_release(const void *cfg)
{
    for (struct parsed **at = &all_parsed; *at; at = &(*at)->next) {
        struct parsed *p = *at;

        if (p->cfg != cfg)
            continue;
        for (const struct opt *o = p->cmd->opts; o->name; o++)
            if (is_list(o))
                free(((const struct opt_list *)(const void *)((const char *)cfg + o->offset))->p);
        *at = p->next;
        free(p);
        return;
    }
}

static struct parsed *parsed_new(const void *cfg, const struct cmd *cmd)
{
    struct parsed *p = xcalloc(1, sizeof(*p));
    size_t n = 0;

    BUG_ON(parsed_of(cfg));
    while (cmd->opts[n].name)
        n++;
    BUG_ON(n > MAX_OPTS);
    p->cfg = cfg;
    p->cmd = cmd;
    p->next = all_parsed;
    all_parsed = p;
    return p;
}

/* ---- parsing ---- */

static int set_defaults(void *cfg, const struct cmd *cmd, struct err *e)
{
    for (const struct opt *o = cmd->opts; o->name; o++)
        if (o->def && !is_list(o) && set_value(cfg, o, o->name, o->def, e))
            return -1;
    return 0;
}

static int set_from_env(void *cfg, struct parsed *p, struct err *e)
{
    struct buf name;
    int rc = -1;

    buf_init(&name, 256);
    for (size_t i = 0; p->cmd->opts[i].name; i++) {
        const struct opt *o = &p->cmd->opts[i];
        const char *val;

        if (opt_positional(o) || p->given[i])
            continue;
        buf_clear(&name);
        opt_env(o, &name);
        val = getenv(name.p);
        if (!val)
            continue;
        if (set_value(cfg, o, name.p, val, e))
            goto done;
        p->given[i] = true;
    }
    rc = 0;
done:
    buf_release(&name);
    return rc;
}

static int add_positional(void *cfg, struct parsed *p, const char *val, struct err *e)
{
    for (size_t i = 0; p->cmd->opts[i].name; i++) {
        const struct opt *o = &p->cmd->opts[i];

        if (!opt_positional(o) || (o->type == OPT_ARG && p->given[i]))
            continue;
        p->given[i] = true;
        return set_value(cfg, o, o->arg ? o->arg : o->name, val, e);
    }
    return err_set(e, ERR_USAGE, "unexpected argument '%.200s'; usage: puna %s %s", val,
                   p->cmd->name, p->cmd->usage);
}

static int check_positionals(const struct parsed *p, struct err *e)
{
    for (size_t i = 0; p->cmd->opts[i].name; i++) {
        const struct opt *o = &p->cmd->opts[i];

        if (o->type == OPT_ARG && !o->def && !p->given[i])
            return err_set(e, ERR_USAGE, "%s is missing; usage: puna %s %s",
                           o->arg ? o->arg : o->name, p->cmd->name, p->cmd->usage);
    }
    return 0;
}

/* One option at argv[i]. Returns how many arguments it took, -1 on error. */
static int parse_one(void *cfg, struct parsed *p, int i, int argc, char **argv, struct err *e)
{
    const char *s = argv[i], *eq = strchr(s, '='), *val = eq ? eq + 1 : NULL;
    const size_t n = eq ? (size_t)(eq - s) : strlen(s);
    bool negated, ignored;
    char from[80];
    int used = 1;
    const struct opt *o = find_opt(p->cmd, s, n, &negated);

    if (!o && s[1] >= 'A' && s[2] >= '0' && s[2] <= '9') { /* -t4 */
        o = find_opt(p->cmd, s, 2, &negated);
        if (o && o->type != OPT_BOOL)
            val = s + 2;
        else
            o = NULL;
    }
    if (!o)
        return unknown_opt(p->cmd, s, n, e);
    snprintf(from, sizeof(from), "%.*s", val && !eq ? 2 : (int)n, s);
    p->given[o - p->cmd->opts] = true;
    if (o->type == OPT_BOOL) {
        if (val && negated)
            return err_set(e, ERR_USAGE, "%s takes no value", from);
        if (set_value(cfg, o, from, val ? val : negated ? "false" : "true", e))
            return -1;
        return 1;
    }
    if (!val) {
        if (i + 1 >= argc)
            return err_set(e, ERR_USAGE, "%s needs a value (%s)", from, o->arg ? o->arg : "VALUE");
        val = argv[i + 1];
        if (val[0] == '-' && find_opt(p->cmd, val, strcspn(val, "="), &ignored))
            return err_set(e, ERR_USAGE, "%s needs a value; write %s=%s if that is what you mean",
                           from, from, val);
        used = 2;
    }
    if (set_value(cfg, o, from, val, e))
        return -1;
    for (; o->type == OPT_WORDS && i + used < argc && argv[i + used][0] != '-'; used++)
        if (set_value(cfg, o, from, argv[i + used], e))
            return -1;
    return used;
}

int opt_parse(void *cfg, const struct cmd *cmd, int argc, char **argv, struct err *e)
{
    struct parsed *p = parsed_new(cfg, cmd);
    bool options = true;

    for (int i = 0; i < argc; i++)
        if (!utf8_valid(argv[i], strlen(argv[i])))
            return err_set(e, ERR_USAGE, "argument %d is not valid UTF-8", i + 1);
    if (set_defaults(cfg, cmd, e))
        BUG("puna %s: default of an option: %s", cmd->name, e ? e->msg : "");
    for (int i = 0; i < argc;) {
        const char *s = argv[i];
        int used = 1;

        if (options && !strcmp(s, "--")) {
            options = false;
        } else if (options && (!strcmp(s, "--help") || !strcmp(s, "-h"))) {
            opt_help(cmd, false, stdout);
            return 1;
        } else if (options && s[0] == '-' && s[1]) {
            used = parse_one(cfg, p, i, argc, argv, e);
        } else if (add_positional(cfg, p, s, e)) {
            used = -1;
        }
        if (used < 0)
            return -1;
        i += used;
    }
    if (set_from_env(cfg, p, e))
        return -1;
    return check_positionals(p, e);
}

int opt_set(void *cfg, const char *name, const char *value, struct err *e)
{
    struct parsed *p = parsed_of(cfg);
    bool negated;
    char *typed = xasprintf("--%s", name);
    int rc = -1;

    BUG_ON(!p);
    const struct opt *o = find_opt(p->cmd, typed, strlen(typed), &negated);

    if (!o || negated)
        unknown_opt(p->cmd, typed, strlen(typed), e);
    else if (!set_value(cfg, o, typed + 2, value, e))
        rc = 0;
    if (rc == 0)
        p->given[o - p->cmd->opts] = true;
    free(typed);
    return rc;
}

const char *opt_canonical(const struct cmd *cmd, const char *name)
{
    bool negated;
    char *typed = xasprintf("--%s", name);
    const struct opt *o = find_opt(cmd, typed, strlen(typed), &negated);

    free(typed);
    return o && !negated ? o->name : NULL;
}
