/* Any bytes as a grammar of every notation: reading, compiling and following it stays within
 * bounds, and what the automaton takes is what its states say again after they were forgotten. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "grammar/matcher.h"
#include "grammar/read.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int read_as(struct exprs *x, int how, const char *s, size_t n, struct err *e)
{
    json_t *v;
    int rc;

    if (how == 0)
        return read_regex(x, s, n, e);
    if (how == 1)
        return read_gbnf(x, s, n, e);
    if (json_parse(&v, s, n, "fuzz", e))
        return -1;
    rc = how == 2 ? read_schema(x, v, e) : how == 3 ? read_tools(x, v, e) : read_choice(x, v, e);
    json_decref(v);
    return rc;
}

/* A walk along bytes that match, the data choosing among them. */
static void follow(struct automaton *a, const uint8_t *data, size_t size)
{
    struct states *s = states_new(a, 0); /* forgets all the time */
    struct matcher m;

    matcher_begin(&m, s);
    for (size_t i = 0; i < 64; i++) {
        const uint8_t first = size ? data[i % size] : 0;
        const int forced = states_forced(s, m.state);
        uint32_t to = STATE_DEAD;
        int b = 0;

        for (; b < 256 && to == STATE_DEAD; b++)
            to = states_step(s, m.state, (uint8_t)(first + b));
        if (to == STATE_DEAD) {
            if (forced >= 0 && !states_cut(s))
                __builtin_trap();
            break;
        }
        if (forced >= 0 && (uint8_t)(first + b - 1) != forced)
            __builtin_trap();
        m.state = to;
        states_trim(s);
        if (m.state == STATE_DEAD)
            __builtin_trap();
    }
    matcher_end(&m);
    states_free(s);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size > 1 << 12)
        return 0;
    for (int how = 0; how < 5; how++) {
        struct automaton a;
        struct exprs x;
        struct err e = { 0 };

        exprs_init(&x);
        if (read_as(&x, how, (const char *)data, size, &e) == 0 && automaton_new(&a, &x, &e) == 0)
            follow(&a, data, size);
        else if (!e.msg[0])
            __builtin_trap();
        exprs_release(&x);
    }
    return 0;
}
